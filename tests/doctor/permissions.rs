//! Under an API that enforces IAM: the printed policy is enough, and each part of it is missed where it is missing.

use super::*;
use serde_json::json;
use std::collections::BTreeSet;

/// The policy that the doctor prints for a project.
fn policy(project: &Project, role: &str) -> Value {
    json(&project.command(TFGUARD).arg("doctor").arg(format!("--iam-policy={role}")).run().expect_code(0))
}

/// A project of which both halves of a lock are used.
fn project(iam: &Iam, kind: Kind) -> Project<'_> {
    iam.relax();
    Project::new(&iam.aws, kind).table().lockfile().init(&terraform())
}

/// The same with a state that somebody else has locked.
fn locked(iam: &Iam) -> (Project<'_>, LockInfo) {
    let project = project(iam, Kind::Quick);
    project.apply();
    let lock = LockInfo::foreign(&project.lock_id());
    iam.aws.plant_lock(project.table_name(), &lock);
    iam.aws.plant_lockfile(&lock);
    (project, lock)
}

/// A policy without one action of one statement.
fn without(policy: &Value, statement: usize, action: &str) -> Value {
    let mut policy = policy.clone();
    policy["Statement"][statement]["Action"].as_array_mut().unwrap().retain(|found| found != action);
    policy
}

/// The permissions that the doctor says are missing, as `action on`.
fn missing(iam: &Iam, project: &Project) -> BTreeSet<String> {
    let report = json(&doctor(project).envs(iam.env()).run());
    let tried = report["permissions"].as_array().unwrap();
    assert!(!tried.is_empty(), "{report}");
    let missing = tried.iter().filter(|tried| tried["access"] == "missing");
    let named = |tried: &Value| format!("{} {}", tried["action"].as_str().unwrap(), tried["on"].as_str().unwrap());
    missing.map(named).collect()
}

/// An apply under tfguard, asleep, whose Terraform is then killed; how tfguard ended.
fn killed(iam: &Iam, project: &Project) -> Exit {
    let run = asleep(iam, project);
    kill_terraform(project);
    run.wait(SOON)
}

/// A guarded apply with the user's credentials, already asleep.
fn asleep(iam: &Iam, project: &Project) -> Running {
    let run = project.tfguard(TFGUARD, ["-v"], APPLY).envs(iam.env()).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    run
}

fn kill_terraform(project: &Project) {
    kill(pid_of(&journal_of_child(&project.sessions()).1["child"]["id"]));
}

#[test]
fn with_exactly_the_printed_policy_terraform_works_its_holder_is_recorded_and_its_lock_released() {
    let iam = Iam::start();
    let quick = project(&iam, Kind::Quick);
    iam.enforce(&policy(&quick, "pipeline"));
    quick.tfguard(TFGUARD, [""; 0], APPLY).envs(iam.env()).run().expect_code(0);

    let sleeper = project(&iam, Kind::Sleep);
    iam.enforce(&policy(&sleeper, "pipeline"));
    let run = asleep(&iam, &sleeper);
    for half in ["recorded beside object s3://", "recorded beside item "] {
        run.wait_for_stderr(half, SOON);
    }
    kill_terraform(&sleeper);
    let exit = run.wait(SOON).expect_code(128 + 9);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert!(!exit.err().contains("denied"), "{exit}");
    iam.relax();
    assert_eq!((sleeper.lock(), sleeper.lock_in_bucket()), (None, None));
}

/// The people who look after locks can do all of that, and take no lock.
#[test]
fn with_the_operators_policy_their_commands_work_and_terraform_does_not() {
    let iam = Iam::start();
    let (project, lock) = locked(&iam);
    iam.enforce(&policy(&project, "operator"));
    let run = |args: &[&str]| project.command(TFGUARD).args(args).envs(iam.env()).run();
    let listed = json(&run(&["locks", "--format", "json"]).expect_code(0));
    assert!(listed.to_string().contains(&lock.id), "{listed}");
    let access =
        ["--region", Aws::REGION, "--s3-endpoint", iam.aws.url(), "--dynamodb-endpoint", iam.aws.url(), "--path-style"];
    let places = ["locks", "--format", "json", "--table", project.table_name(), "--bucket", project.bucket()];
    let listed = json(&run(&[&places[..], &access].concat()).expect_code(0));
    assert!(listed.to_string().contains(&lock.id), "{listed}");
    assert!(run(&["inspect"]).expect_code(0).out().contains(&lock.id));
    run(&["unlock", &lock.id, "--yes"]).expect_code(0);
    run(&["verify"]).expect_code(0);
    let plan = project.terraform(["plan", "-input=false", "-no-color"]).envs(iam.env()).run().expect_code(1);
    assert!(plan.err().contains("Error acquiring the state lock"), "{plan}");
    iam.relax();
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None));
}

/// Gives a lock the lease of a run that is dead.
fn lease(project: &Project, lock: &LockInfo) {
    let lease = json!({ "schema": 1, "lock": lock.id, "version": "0".repeat(32), "length_ms": 15_000 }).to_string();
    let aws = project.aws();
    let mut item = aws.item(project.table_name(), &project.lock_id()).unwrap();
    item.insert("TfguardLease".to_owned(), aws_sdk_dynamodb::types::AttributeValue::S(lease.clone()));
    aws.put_item(project.table_name(), item);
    aws.put_object(project.bucket(), &format!("{}.tflock.lease", project.state_key()), lease.into_bytes());
}

#[test]
fn with_the_policies_of_leases_an_expired_lock_is_deleted() {
    let iam = Iam::start();
    let (project, lock) = locked(&iam);
    lease(&project, &lock);
    let print = |role: &str, more: &[&str]| {
        let print = project.command(TFGUARD).args(["doctor", &format!("--iam-policy={role}")]).args(more);
        json(&print.run().expect_code(0))
    };
    let [without, with] = [print("operator", &[]), print("operator", &["--lease"])];
    let pipeline = print("pipeline", &["--no-annotate", "--lease"]);
    let unlock = || project.command(TFGUARD).args(["unlock", &lock.id, "--expired"]).envs(iam.env()).run();
    iam.enforce(&without);
    let exit = unlock().expect_code(120);
    assert!(exit.err().contains("s3:PutObject was denied") || exit.err().contains("AccessDenied"), "{exit}");
    iam.enforce(&with);
    let exit = unlock().expect_code(0);
    iam.relax();
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{exit}");

    iam.aws.plant_lock(project.table_name(), &lock);
    iam.aws.plant_lockfile(&lock);
    lease(&project, &lock);
    iam.enforce(&pipeline);
    let exit = project.tfguard(TFGUARD, ["--reclaim", "--no-annotate"], APPLY).envs(iam.env()).run().expect_code(0);
    assert!(!exit.err().contains("Object was denied") && exit.err().contains("deleted at"), "{exit}");
    iam.relax();
    assert!(!iam.aws.keys(project.bucket(), "").iter().any(|key| key.contains(".tflock")), "{exit}");
}

/// Guards against a monitor of a whole bucket that may read one of its locks.
#[test]
fn with_the_operators_policy_of_all_states_all_locks_are_listed() {
    let iam = Iam::start();
    let (project, lock) = locked(&iam);
    let other = LockInfo::foreign(&format!("{}/elsewhere/other.tfstate", project.bucket()));
    iam.aws.plant_lockfile(&other);
    let print = |more: &[&str]| {
        json(&project.command(TFGUARD).args(["doctor", "--iam-policy=operator"]).args(more).run().expect_code(0))
    };
    let access = ["--region", Aws::REGION, "--s3-endpoint", iam.aws.url(), "--path-style"];
    let list = || {
        let run = project.command(TFGUARD).args(["locks", "--format", "json", "--bucket", project.bucket()]);
        run.args(access).envs(iam.env()).run()
    };
    let (one, all) = (print(&[]), print(&["--all-states"]));
    iam.enforce(&one);
    list().expect_code(125);
    iam.enforce(&all);
    let listed = list().expect_code(0).out();
    assert!(listed.contains(&lock.id) && listed.contains(&other.path), "{listed}");
    let items = all["Statement"].as_array().unwrap().iter().find(|found| found["Sid"] == "OperatorLockItems").unwrap();
    let keys = &items["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"];
    assert_eq!(*keys, json!([format!("{}/*", project.bucket())]));
}

#[test]
fn each_permission_that_a_pipeline_lacks_is_told_and_no_other() {
    let iam = Iam::start();
    let project = project(&iam, Kind::Quick);
    project.apply();
    let all = policy(&project, "pipeline");
    iam.enforce(&all);
    assert_eq!(missing(&iam, &project), BTreeSet::new());
    // Tried by nothing harmless.
    let untold = ["s3:PutObject state", "s3:PutObject lockfile", "s3:PutObjectVersionTagging lockfile"];
    for (number, statement) in all["Statement"].as_array().unwrap().iter().enumerate() {
        let on = match statement["Sid"].as_str().unwrap() {
            "PipelineBucket" => "bucket",
            "PipelineState" => "state",
            "PipelineLockfile" => "lockfile",
            "PipelineLockItems" => "items",
            other => panic!("{other}"),
        };
        for action in statement["Action"].as_array().unwrap() {
            let action = action.as_str().unwrap();
            iam.enforce(&without(&all, number, action));
            let mut expected = BTreeSet::from([format!("{action} {on}")]);
            expected.retain(|lacking| !untold.contains(&lacking.as_str()));
            assert_eq!(missing(&iam, &project), expected, "without {action} on {on}");
        }
    }
}

#[test]
fn without_what_the_release_needs_the_lock_stays_and_it_is_said_what_to_grant() {
    let iam = Iam::start();
    for (sid, action) in [("PipelineLockItems", "dynamodb:DeleteItem"), ("PipelineLockfile", "s3:DeleteObject")] {
        let project = project(&iam, Kind::Sleep);
        let whole = policy(&project, "pipeline");
        let statement = whole["Statement"].as_array().unwrap().iter().position(|found| found["Sid"] == sid).unwrap();
        iam.enforce(&without(&whole, statement, action));
        let exit = killed(&iam, &project).expect_code(120);
        assert!(exit.err().contains(&format!("{action} was denied")) || exit.err().contains("AccessDenied"), "{exit}");
        let report = json(&doctor(&project).envs(iam.env()).run().expect_code(1));
        let fix = format!("grant {action};");
        let findings = report["findings"].as_array().unwrap();
        let told = findings.iter().find(|found| found["fix"].as_str().is_some_and(|words| words.starts_with(&fix)));
        assert_eq!(told.unwrap()["severity"], "problem", "{report}");
    }
}

/// Guards against the claim that a permission is missing which a policy grants for the real names alone: HashiCorp's does.
#[test]
fn a_policy_that_names_single_objects_is_understood() {
    let iam = Iam::start();
    let project = project(&iam, Kind::Quick);
    let mut policy = policy(&project, "pipeline");
    for statement in policy["Statement"].as_array_mut().unwrap() {
        if statement["Sid"] == "PipelineLockfile" {
            let keys = statement["Resource"].as_array_mut().unwrap();
            keys.iter_mut().for_each(|key| *key = Value::from(key.as_str().unwrap().trim_end_matches('*')));
        }
    }
    iam.enforce(&policy);
    let report = json(&doctor(&project).envs(iam.env()).run().expect_code(0));
    let tried = report["permissions"].as_array().unwrap();
    let of = |action: &str| tried.iter().find(|tried| tried["action"] == action).unwrap();
    assert_eq!(of("s3:DeleteObject")["access"], "unknown", "{report}");
    assert!(of("s3:DeleteObject")["why"].as_str().unwrap().contains("<key>.tflock*"), "{report}");
}

/// Guards against an examination that itself changes something.
#[test]
fn it_writes_nothing_and_deletes_nothing() {
    let iam = Iam::start();
    let (project, _) = locked(&iam);
    let all = || {
        let mut items: Vec<_> = iam.aws.items(project.table_name()).iter().map(|item| format!("{item:?}")).collect();
        items.sort();
        let keys = iam.aws.keys(project.bucket(), "");
        let objects: Vec<_> = keys.iter().map(|key| iam.aws.object(project.bucket(), key)).collect();
        (items.len(), keys, objects)
    };
    let before = all();
    doctor(&project).run();
    assert_eq!(all(), before);
}
