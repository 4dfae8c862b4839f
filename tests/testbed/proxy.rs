//! The fault proxy, raw and between Terraform and moto.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::Signal;

use crate::support::{Action, Answer, Aws, FaultProxy, Gate, Kind, Match};
use crate::testbed::{APPLY, SOON, project, terraform};

/// A request on its way outlives the Terraform that sent it.
#[test]
fn a_held_lock_request_lands_after_the_death_of_its_sender() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).table().endpoint(proxy.url()).init(&terraform());
    let gate = Gate::new();
    proxy.rule(Match::dynamodb("PutItem").body("attribute_not_exists").nth(1), [gate.hold()]);
    let run = project.terraform(APPLY).start();
    gate.wait_for(1, SOON);
    run.signal(Signal::SIGKILL);
    run.wait(SOON).expect_signal(Signal::SIGKILL);
    assert!(project.lock().is_none());
    gate.release();
    let put = proxy.wait_for(|seen| seen.operation() == Some("PutItem") && seen.finished, SOON);
    assert_eq!(put.done, ["held", "forwarded: 200"]);
    let lock = project.lock().expect("the request was on its way");
    assert!(put.text().contains(lock["ID"].as_str().expect("an ID")));
}

/// The answer is lost, the retry is refused by the very lock it took, and Terraform leaves it.
#[test]
fn a_lost_answer_makes_terraform_lock_itself_out() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).table().endpoint(proxy.url()).init(&terraform());
    proxy.rule(Match::dynamodb("PutItem").nth(1), [Action::Forward, Action::Close]);
    let exit = project.terraform(APPLY).run().expect_code(1);
    let lock = project.lock().expect("nobody removed it");
    assert!(exit.err().contains(lock["ID"].as_str().expect("an ID")), "{exit}");
    let puts = proxy.seen_matching(&Match::dynamodb("PutItem"));
    assert_eq!(puts[0].done, ["forwarded: 200", "closed"]);
    assert_eq!(puts[1].done, ["forwarded: 400"]);
}

#[test]
fn terraform_assumes_a_role() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let role = r#"assume_role = { role_arn = "arn:aws:iam::123456789012:role/deploy" }"#;
    let project = project(Kind::Quick).table().endpoint(proxy.url()).backend(role).init(&terraform());
    project.apply();
    proxy.wait_for(|seen| seen.text().contains("Action=AssumeRole") && seen.finished, SOON);
}

#[test]
fn the_proxy_does_what_its_rules_say() {
    let aws = Aws::shared();
    let proxy = FaultProxy::start(aws.url());
    let (dynamodb, s3) = (Aws::dynamodb_at(proxy.url()), Aws::s3_at(proxy.url()));
    let (table, bucket) = (aws.unique("locks"), aws.unique("states"));
    aws.create_table(&table);
    aws.create_bucket(&bucket, false);
    let get = || {
        let key = AttributeValue::S("x".to_owned());
        aws.block_on(dynamodb.get_item().table_name(&table).key("LockID", key).send()).map_err(Box::new)
    };
    let last = || proxy.seen().pop().expect("a request").done;

    get().expect("forwarded");
    assert_eq!(last(), ["forwarded: 200"]);

    proxy.rule(Match::dynamodb("DeleteItem"), [Action::Close]);
    let kind = "ProvisionedThroughputExceededException";
    proxy.rule(Match::dynamodb("GetItem").occurrences(2..=3), [Answer::dynamodb(kind, "slow down").into()]);
    get().expect("the first is not meant");
    for _ in 2..=3 {
        let error = get().expect_err("throttled").into_service_error();
        assert!(error.is_provisioned_throughput_exceeded_exception(), "{error:?}");
        assert_eq!(last(), ["answered: 400"]);
    }
    get().expect("the fourth is not meant");

    proxy.clear_rules();
    proxy.rule(Match::any(), [Action::Close]);
    assert!(get().is_err());
    assert_eq!(last(), ["closed"]);

    proxy.clear_rules();
    proxy.rule(Match::any(), [Answer::new(200, "<html>").into()]);
    assert!(get().is_err());

    proxy.clear_rules();
    proxy.rule(Match::any(), [Action::Delay(Duration::from_millis(1)), Action::Forward, Action::Forward]);
    get().expect("the second answer");
    assert_eq!(last(), ["delayed by 1ms", "forwarded: 200", "forwarded: 200"]);

    proxy.clear_rules();
    let etag = aws.put_object(&bucket, "key", b"old".to_vec());
    aws.put_object(&bucket, "key", b"new".to_vec());
    let delete =
        || aws.block_on(s3.delete_object().bucket(&bucket).key("key").if_match(&etag).send()).map_err(Box::new);
    let code = |error: Box<aws_sdk_s3::error::SdkError<_>>| error.raw_response().map(|answer| answer.status().as_u16());
    assert_eq!(delete().map_err(code).expect_err("another object"), Some(412));
    proxy.rule(Match::http("DELETE", "/key").nth(1), [Answer::s3(403, "AccessDenied", "no").into()]);
    assert_eq!(delete().map_err(code).expect_err("denied"), Some(403));
    proxy.rule(Match::http("DELETE", "/key").nth(1), [Action::Strip("if-match")]);
    delete().expect("a store that ignores conditions");
    assert_eq!(last(), ["if-match stripped", "forwarded: 204"]);
    assert_eq!(aws.object(&bucket, "key"), None);
}
