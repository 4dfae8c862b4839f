//! `--fix-digest`: the one writer of digests.

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;

use crate::support::{Action, Answer, Aws, Gate, Kind, LockInfo, Match, Project, Tools};
use crate::verify::bed::{Bed, kinds, md5, state};
use crate::verify::{SOON, TFGUARD};

const FIX: [&str; 2] = ["--fix-digest", "--yes"];

/// Our requests that write something.
fn writes(bed: &Bed) -> Vec<String> {
    let read = |request: &crate::support::Seen| request.method == "GET" || request.operation() == Some("GetItem");
    bed.proxy.seen().iter().filter(|request| !read(request)).map(|request| request.text()).collect()
}

/// Terraform refuses to work with a wrong digest, and works again once it is put right.
#[test]
fn a_real_terraform_works_again() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().init(&Tools::get().any_terraform());
    project.apply();
    let (aws, table) = (project.aws(), project.table_name());
    let right = aws.digest(table, &project.lock_id()).unwrap();
    let wrong = md5(b"an earlier state");
    let mut item = aws.item(table, &format!("{}-md5", project.lock_id())).unwrap();
    item.insert("Digest".to_owned(), AttributeValue::S(wrong.clone()));
    aws.put_item(table, item);
    let plan = || project.terraform(["plan", "-input=false", "-no-color", "-lock=false"]).run();
    assert!(plan().expect_code(1).err().contains("does not have the expected content"));

    let verify = |options: &[&str]| project.command(TFGUARD).arg("verify").args(options).run();
    let exit = verify(&["--fix-digest", "--dry-run"]).expect_code(121);
    assert!(exit.out().contains(&format!("now: {wrong}")), "{exit}");
    assert!(exit.out().contains(&format!("to be written: {right}")), "{exit}");
    // Nobody is there to be asked.
    let exit = verify(&["--fix-digest"]).expect_code(121);
    assert!(exit.out().contains("give --yes"), "{exit}");
    assert_eq!(aws.digest(table, &project.lock_id()).as_ref(), Some(&wrong), "shown is not written");

    verify(&FIX).expect_code(0);
    assert_eq!(aws.digest(table, &project.lock_id()), Some(right));
    plan().expect_code(0);
    let exit = verify(&FIX).expect_code(0);
    assert!(exit.out().contains("The digest fits, nothing was written"), "{exit}");
    project.terraform(["apply", "-input=false", "-auto-approve", "-no-color"]).run().expect_code(0);
}

#[test]
fn a_person_is_asked_on_a_terminal() {
    let bed = Bed::new();
    bed.put(state(5));
    for (answer, code, digest) in [("no\n", 121, None), ("yes\n", 0, Some(md5(state(5).as_bytes())))] {
        let mut run = bed.verify(&["--fix-digest"]).pty().start();
        run.wait_for_stdout("Only `yes` will be accepted", SOON);
        run.write(answer.as_bytes());
        run.wait(SOON).expect_code(code);
        assert_eq!(bed.digest(), digest);
    }
    // Where all else is JSON, the question has to show it.
    bed.put_digest(&md5(b"other"));
    let mut run = bed.verify(&["--fix-digest", "--format", "json"]).pty().start();
    run.wait_for_stdout("Only `yes` will be accepted", SOON);
    run.write(b"no\n");
    let exit = run.wait(SOON).expect_code(121);
    let out = exit.out();
    let (shown, _) = out.split_once("Only `yes`").unwrap();
    assert!(shown.contains(&md5(state(5).as_bytes())) && shown.contains(&md5(b"other")), "{exit}");
}

#[test]
fn each_kind_of_old_digest_is_replaced_under_its_own_condition() {
    for (old, condition) in
        [(None, "attribute_not_exists(Digest)"), (Some(""), "Digest = :old"), (Some("no md5"), "Digest = :old")]
    {
        let bed = Bed::new();
        bed.put(state(5));
        if let Some(old) = old {
            bed.put_digest(old);
        }
        let (code, said) = bed.json(&FIX);
        assert_eq!((code, &said["fix"]["outcome"]), (0, &json!("written")), "{old:?}");
        assert_eq!(bed.digest(), Some(md5(state(5).as_bytes())));
        let writes = writes(&bed);
        assert_eq!(writes.len(), 1, "{writes:?}");
        assert!(writes[0].contains(condition), "{writes:?}");
    }
}

#[test]
fn a_digest_that_changes_between_look_and_write_stays() {
    for old in [None, Some("no md5")] {
        let bed = Bed::new();
        bed.put(state(5));
        if let Some(old) = old {
            bed.put_digest(old);
        }
        let gate = Gate::new();
        bed.proxy.rule(Match::dynamodb("PutItem"), [gate.hold(), Action::Forward]);
        let run = bed.verify(&FIX).start();
        gate.wait_for(1, SOON);
        let others = md5(b"of another state");
        bed.put_digest(&others);
        gate.release();
        let exit = run.wait(SOON).expect_code(121);
        assert!(exit.out().contains("have changed meanwhile"), "{exit}");
        assert_eq!(bed.digest(), Some(others));
    }
}

/// A state whose key ends as digests' do has its lock where this state's digest would be.
#[test]
fn the_lock_of_another_state_is_never_replaced_by_a_digest() {
    let bed = Bed::new();
    bed.put(state(5));
    let lock = LockInfo::foreign(&format!("{}-md5", bed.lock_id()));
    let plants: [&dyn Fn(); 2] = [&|| bed.aws.plant_lock(&bed.table, &lock), &|| {
        bed.put_digest(&md5(b"other"));
        let mut item = bed.aws.item(&bed.table, &lock.path).unwrap();
        item.insert("Info".to_owned(), AttributeValue::S(lock.json()));
        bed.aws.put_item(&bed.table, item);
    }];
    for plant in plants {
        plant();
        let exit = bed.verify(&FIX).run().expect_code(121);
        assert!(exit.out().contains("Nothing was written"), "{exit}");
        assert_eq!(bed.aws.lock(&bed.table, &lock.path), Some(serde_json::to_value(&lock).unwrap()), "{exit}");
    }
}

/// Whatever changes after it was shown: nothing is written, not even asked for.
#[test]
fn what_changes_between_showing_and_writing_is_looked_at_again() {
    let changes: [&dyn Fn(&Bed); 4] = [
        &|bed| _ = bed.put(state(6)),
        &|bed| bed.put_digest(&md5(b"of another state")),
        &|bed| bed.aws.plant_lock(&bed.table, &LockInfo::foreign(&bed.lock_id())),
        &|bed| _ = bed.aws.plant_lockfile(&LockInfo::foreign(&bed.lock_id())),
    ];
    for (number, change) in changes.iter().enumerate() {
        let bed = Bed::new();
        bed.put(state(5));
        let gate = Gate::new();
        // What it shows was read by the first.
        bed.proxy.rule(Match::http("GET", "prod.tfstate?x-id").nth(2), [gate.hold(), Action::Forward]);
        let run = bed.verify(&FIX).start();
        gate.wait_for(1, SOON);
        change(&bed);
        let digest = bed.digest();
        gate.release();
        let exit = run.wait(SOON).expect_code(121);
        assert!(exit.out().contains("have changed meanwhile"), "{number}: {exit}");
        assert_eq!(bed.digest(), digest, "{number}");
        assert!(writes(&bed).is_empty(), "{number}");
    }
}

#[test]
fn no_digest_is_written_of_what_is_not_whole_or_may_be_being_written() {
    let wrong = md5(b"other");
    type Case<'a> = (&'a dyn Fn(&Bed), &'a [&'a str], &'a str);
    let cases: [Case; 6] = [
        (&|bed| _ = bed.put("{\"version\":"), &[], "not known to be whole"),
        (&|bed| _ = bed.put(""), &[], "not known to be whole"),
        (&|bed| _ = bed.put(r#"{"version":5}"#), &[], "format version 5"),
        (&|bed| _ = bed.put(state(5)), &["--lineage", "another"], "--lineage and --serial"),
        (
            &|bed| {
                bed.put(state(5));
                bed.aws.plant_lock(&bed.table, &LockInfo::foreign(&bed.lock_id()));
            },
            &[],
            "the state is locked by",
        ),
        (
            &|bed| {
                bed.put(state(5));
                bed.aws.put_object(&bed.bucket, &format!("{}.tflock", crate::verify::bed::KEY), Vec::new());
            },
            &[],
            "something that isn't a lock",
        ),
    ];
    for (prepare, options, says) in cases {
        let bed = Bed::new();
        bed.put_digest(&wrong);
        prepare(&bed);
        let exit = bed.verify(&FIX).args(options).run().expect_code(121);
        assert!(exit.out().contains(says), "{says}: {exit}");
        assert_eq!(bed.digest(), Some(wrong.clone()), "{says}");
        assert!(writes(&bed).is_empty(), "{says}");
    }
    // A lock that cannot be seen may be there.
    let bed = Bed::new();
    bed.put_digest("no md5");
    bed.put(state(5));
    let denied = Answer::dynamodb("AccessDeniedException", "no");
    bed.proxy.rule(Match::dynamodb("GetItem").body("Info"), [Action::from(denied)]);
    let exit = bed.verify(&FIX).run().expect_code(125);
    assert!(exit.err().contains("Grant dynamodb:GetItem"), "{exit}");
    assert!(writes(&bed).is_empty(), "{exit}");

    let bed = Bed::new();
    bed.put_digest(&wrong);
    let (code, said) = bed.json(&FIX);
    assert_eq!((code, &said["fix"]["outcome"]), (121, &json!("refused")));
    assert_eq!(kinds(&said), ["missing-but-digest"]);
}

#[test]
fn a_lost_answer_is_settled_and_a_refused_write_is_said() {
    let bed = Bed::new();
    bed.put(state(5));
    bed.proxy.rule(Match::dynamodb("PutItem").nth(1), [Action::Forward, Action::Close]);
    bed.verify(&FIX).run().expect_code(0);
    assert_eq!(bed.digest(), Some(md5(state(5).as_bytes())));

    // That it is written is said, whatever comes after it.
    let bed = Bed::new();
    bed.put(state(5));
    let denied = Answer::s3(403, "AccessDenied", "no");
    bed.proxy.rule(Match::http("GET", "prod.tfstate?x-id").nth(3), [Action::from(denied)]);
    let exit = bed.verify(&FIX).run().expect_code(125);
    assert!(exit.out().contains("is written in table"), "{exit}");
    assert_eq!(bed.digest(), Some(md5(state(5).as_bytes())));

    let bed = Bed::new();
    bed.put(state(5));
    bed.proxy.rule(Match::dynamodb("PutItem"), [Action::from(Answer::dynamodb("AccessDeniedException", "no"))]);
    let exit = bed.verify(&FIX).run().expect_code(125);
    assert!(exit.err().contains("Grant dynamodb:PutItem"), "{exit}");
    assert_eq!(bed.digest(), None);
}
