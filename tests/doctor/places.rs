//! Tables, buckets, clocks and settings that are not as they should be.

use super::*;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};

/// What the doctor says of a state that flags name.
fn report_from(region: &str, url: &str, table: &str, bucket: &str) -> Value {
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    let run = Run::new(TFGUARD, &guard).current_dir(dir.path()).envs(Aws::ENV).env("TFGUARD_DIR", dir.path());
    let run = run.args(["doctor", "--format", "json", "--region", region, "--path-style"]);
    let run = run.args(["--s3-endpoint", url, "--dynamodb-endpoint", url]);
    json(&run.args(["--bucket", bucket, "--key", "prod.tfstate", "--table", table]).run())
}

fn report(url: &str, table: &str, bucket: &str) -> Value {
    report_from(Aws::REGION, url, table, bucket)
}

#[test]
fn an_ordinary_place_is_found_in_order() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().versioned().init(&terraform());
    let exit = doctor(&project).run().expect_code(0);
    let report = json(&exit);
    for id in
        ["table", "ttl", "conditions", "bucket", "versioning", "credentials", "program", "session-place", "granted"]
    {
        assert_eq!(severity(&report, id), Some("ok"), "{id}: {report}");
    }
    assert_eq!((severity(&report, "missing"), &report["schema"]), (None, &Value::from(1)));
    assert_eq!(report["state"], Value::from(project.lock_id()));
    let text = project.command(TFGUARD).arg("doctor").run().expect_code(0).out();
    assert!(text.contains("Table\n  ok ") && text.contains("0 problems"), "{text}");
    // Nothing of the credentials is shown.
    let secrets = Aws::ENV.map(|(_, value)| value);
    assert!(
        secrets.iter().all(|secret| !text.contains(&format!("{secret}\n")) && !exit.out().contains(secret)),
        "{text}"
    );
}

#[test]
fn tables_that_terraform_cannot_lock_in_are_problems() {
    let aws = Aws::shared();
    let bucket = aws.unique("doctor-states");
    aws.create_bucket(&bucket, true);
    let table = |keys: &[(&str, ScalarAttributeType, KeyType)]| {
        let name = aws.unique("doctor-locks");
        let mut create = aws.dynamodb().create_table().table_name(&name).billing_mode(BillingMode::PayPerRequest);
        for (key, kind, role) in keys {
            let attribute = AttributeDefinition::builder().attribute_name(*key).attribute_type(kind.clone());
            let element = KeySchemaElement::builder().attribute_name(*key).key_type(role.clone());
            create = create.attribute_definitions(attribute.build().unwrap()).key_schema(element.build().unwrap());
        }
        aws.block_on(create.send()).unwrap();
        name
    };
    use KeyType::{Hash, Range};
    use ScalarAttributeType::{N, S};
    for keys in [&[("LockId", S, Hash)][..], &[("LockID", N, Hash)], &[("LockID", S, Hash), ("Info", S, Range)]] {
        let report = report(aws.url(), &table(keys), &bucket);
        assert_eq!(severity(&report, "table"), Some("problem"), "{keys:?} {report}");
    }
    let missing = report(aws.url(), "no-such-table", &bucket);
    assert_eq!(severity(&missing, "table"), Some("problem"));
    assert_eq!(missing["worst"], "problem");

    let expiring = table(&[("LockID", S, Hash)]);
    let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name("ExpiresAt").build().unwrap();
    aws.block_on(aws.dynamodb().update_time_to_live().table_name(&expiring).time_to_live_specification(ttl).send())
        .unwrap();
    let report = report(aws.url(), &expiring, &bucket);
    assert_eq!((severity(&report, "table"), severity(&report, "ttl")), (Some("ok"), Some("warning")), "{report}");
    assert!(found(&report, "ttl").unwrap()["seen"].as_str().unwrap().contains("ExpiresAt"));
}

#[test]
fn buckets_without_versions_or_in_another_region_are_told() {
    let aws = Aws::shared();
    let (table, bucket) = (aws.unique("doctor-locks"), aws.unique("doctor-states"));
    aws.create_table(&table);
    aws.create_bucket(&bucket, false);
    assert_eq!(severity(&report(aws.url(), &table, &bucket), "versioning"), Some("warning"));
    assert_eq!(severity(&report(aws.url(), &table, "no-such-bucket"), "bucket"), Some("problem"));
    // As AWS does.
    let elsewhere = Server::start(|_| Reply::Answer {
        status: 301,
        headers: vec![("x-amz-bucket-region", "us-east-1".to_owned())],
        body: Vec::new(),
    });
    let elsewhere = report_from("eu-west-1", &elsewhere.url(), &table, &bucket);
    assert_eq!(severity(&elsewhere, "bucket"), Some("problem"), "{elsewhere}");
    assert!(found(&elsewhere, "bucket").unwrap()["seen"].as_str().unwrap().contains("us-east-1"));
    // A store that is not AWS's may call its region as it likes, and answer all the same.
    let own_name = report_from("eu-west-1", aws.url(), &table, &bucket);
    assert_eq!(severity(&own_name, "bucket"), Some("ok"), "{own_name}");
}

#[test]
fn a_service_that_does_not_keep_conditions_is_not_asked_to_write() {
    let aws = Aws::shared();
    let (table, bucket) = (aws.unique("doctor-locks"), aws.unique("doctor-states"));
    aws.create_table(&table);
    aws.create_bucket(&bucket, true);
    let proxy = FaultProxy::start(aws.url());
    let done = Answer::new(200, "{}");
    proxy.rule(Match::dynamodb("DeleteItem"), [Action::Answer(done)]);
    let report = report(proxy.url(), &table, &bucket);
    assert_eq!(severity(&report, "conditions"), Some("problem"), "{report}");
    assert!(proxy.seen().iter().all(|seen| !matches!(seen.operation(), Some("PutItem" | "UpdateItem"))));
}

/// What is asked may be asked beside a living pipeline: on the real names there is only reading.
#[test]
fn what_could_change_something_has_a_condition_and_a_name_that_nobody_uses() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = Project::new(Aws::shared(), Kind::Quick).table().lockfile().endpoint(proxy.url()).init(&terraform());
    let before = proxy.seen().len();
    doctor(&project).run().expect_code(0);
    let asked = proxy.seen().split_off(before);
    let mut written = 0;
    for seen in &asked {
        let is_unused =
            || seen.text().contains(".tfguard-doctor") || seen.path.contains(".tfstate.tflock.tfguard-doctor");
        match (seen.operation(), seen.method.as_str()) {
            (Some("GetItem" | "Scan" | "DescribeTable" | "DescribeTimeToLive" | "DescribeContinuousBackups"), _) => {}
            (Some("DeleteItem" | "PutItem" | "UpdateItem"), _) => {
                written += 1;
                let condition = "attribute_exists(LockID) AND attribute_not_exists(LockID)";
                assert!(seen.text().contains(condition) && is_unused(), "{}", seen.text());
            }
            (None, "GET" | "HEAD") | (None, "POST") => {}
            (None, "DELETE") => {
                written += 1;
                assert!(seen.headers.contains_key("if-match") && is_unused(), "{}", seen.path);
            }
            // Tags of what is not there.
            (None, "PUT") => assert!(seen.path.contains("?tagging") && is_unused(), "{}", seen.path),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(written, 4, "all were tried");
}

#[test]
fn without_a_state_the_rest_is_told_and_offline_nobody_is_asked() {
    let project = Project::new(Aws::shared(), Kind::Quick);
    let report = json(&doctor(&project).run().expect_code(1));
    assert_eq!(severity(&report, "state"), Some("problem"), "{report}");
    assert!(severity(&report, "exec").is_some() && severity(&report, "table").is_none());

    let proxy = FaultProxy::start(Aws::shared().url());
    let project = Project::new(Aws::shared(), Kind::Quick).table().endpoint(proxy.url()).init(&terraform());
    let before = proxy.seen().len();
    let report = json(&doctor(&project).arg("--offline").run().expect_code(0));
    assert_eq!((severity(&report, "locking"), severity(&report, "table")), (Some("ok"), None), "{report}");
    project.command(TFGUARD).args(["doctor", "--iam-policy"]).run().expect_code(0);
    assert_eq!(proxy.seen().len(), before, "nobody was asked");
}

#[test]
fn an_endpoint_where_nobody_answers_is_told_and_no_more_is_asked() {
    // The port of a connection: nobody listens there, and nobody else can be given it meanwhile.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let report = report(&format!("http://{}", connection.local_addr().unwrap()), "locks", "states");
    assert_eq!(severity(&report, "bucket"), Some("problem"), "{report}");
    assert!(severity(&report, "table").is_none() && report["permissions"] == serde_json::json!([]), "{report}");
}

/// Nobody waits for an answer to each of a dozen more questions.
#[test]
fn a_table_that_nobody_answers_for_is_told_and_asked_no_more() {
    let aws = Aws::shared();
    let bucket = aws.unique("doctor-states");
    aws.create_bucket(&bucket, true);
    let server = Server::start(|_| Reply::Close);
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    let run = Run::new(TFGUARD, &guard).current_dir(dir.path()).envs(Aws::ENV).env("TFGUARD_DIR", dir.path());
    let run = run.args(["doctor", "--format", "json", "--region", Aws::REGION, "--path-style", "--table", "locks"]);
    let run = run.args(["--bucket", &bucket, "--key", "k", "--s3-endpoint", aws.url()]);
    let report = json(&run.args(["--dynamodb-endpoint", &server.url()]).run().expect_code(1));
    assert_eq!((severity(&report, "table"), severity(&report, "bucket")), (Some("problem"), Some("ok")), "{report}");
    let asked: Vec<_> =
        server.requests().iter().map(|request| request.header("x-amz-target").unwrap().to_owned()).collect();
    assert!(!asked.is_empty() && asked.iter().all(|target| target.ends_with(".DescribeTable")), "{asked:?}");
}

#[test]
fn credentials_that_end_before_the_job_are_told() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().init(&terraform());
    let now = jiff::Timestamp::now();
    let of = |timeout: &str| {
        let run =
            doctor(&project).env("AWS_CREDENTIAL_EXPIRATION", (now + jiff::SignedDuration::from_hours(10)).to_string());
        let run = run.env("CI_JOB_STARTED_AT", now.to_string()).env("CI_JOB_TIMEOUT", timeout);
        severity(&json(&run.run()), "expiry").map(str::to_owned)
    };
    assert_eq!(of("86400").as_deref(), Some("warning"));
    assert_eq!(of("3600").as_deref(), Some("ok"));
}

#[test]
fn credentials_that_cannot_be_had_end_the_questions() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().init(&terraform());
    let run = doctor(&project).env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let report = json(&run.run().expect_code(1));
    assert_eq!(severity(&report, "credentials"), Some("problem"), "{report}");
    assert_eq!(severity(&report, "table"), None);
}

/// Guards against "no problem" from services that take none of the requests: a refused HEAD has no body that says why.
#[test]
fn credentials_that_are_not_accepted_are_a_problem() {
    let iam = Iam::start();
    let project = Project::new(&iam.aws, Kind::Quick).lockfile().init(&terraform());
    let nothing = serde_json::json!([{ "Effect": "Deny", "Action": ["s3:*"], "Resource": "*" }]);
    iam.enforce(&serde_json::json!({ "Version": "2012-10-17", "Statement": nothing }));
    let exit = doctor(&project).run();
    let report = json(&exit);
    assert_eq!((exit.code, severity(&report, "credentials")), (Some(1), Some("problem")), "{report:#}");
}

/// Guards against the advice to grant what is granted already, where it is the KMS key that refuses.
#[test]
fn a_kms_key_that_refuses_is_what_has_to_be_granted() {
    let aws = Aws::shared();
    let (table, bucket) = (aws.unique("doctor-locks"), aws.unique("doctor-states"));
    aws.create_table(&table);
    aws.create_bucket(&bucket, true);
    let proxy = FaultProxy::start(aws.url());
    let refused = "KMS key access denied error: com.amazonaws.services.kms.model.AWSKMSException: you are not allowed";
    proxy.rule(Match::dynamodb("GetItem"), [Answer::dynamodb("AccessDeniedException", refused).into()]);
    let refused = "User: x is not authorized to perform: kms:Decrypt on resource: y";
    proxy.rule(Match::http("GET", "prod.tfstate?"), [Answer::s3(403, "AccessDenied", refused).into()]);
    let report = report(proxy.url(), &table, &bucket);
    let missing: Vec<_> =
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == "missing").collect();
    assert!(missing.len() >= 2, "{report}");
    for finding in missing {
        let fix = finding["fix"].as_str().unwrap();
        assert!(fix.starts_with("grant kms:Decrypt,") && fix.contains("--iam-policy --kms-key <KEY>`"), "{report}");
    }
}

/// Guards against an examination that never ends.
#[test]
fn credentials_that_never_come_are_not_waited_for() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().init(&terraform());
    let config = project.work().join("config");
    std::fs::write(&config, "[default]\ncredential_process = sleep 600\n").unwrap();
    let run = doctor(&project).env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let report = json(&run.env("AWS_CONFIG_FILE", config).run().expect_code(1));
    assert_eq!(severity(&report, "credentials"), Some("problem"), "{report}");
}
