//! The digest in the table.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;

use crate::support::{Action, Gate, LockInfo, Match};
use crate::verify::SOON;
use crate::verify::bed::{Bed, kinds, md5, state};

#[test]
fn a_digest_that_does_not_fit_needs_a_look_and_its_version_is_named() {
    let bed = Bed::versioned();
    let old = bed.write(state(4)).unwrap();
    // Whoever wrote this one died before the digest.
    bed.put(state(5));
    let (code, said) = bed.json(&[]);
    assert_eq!((code, kinds(&said)), (121, vec!["digest-differs"]));
    let finding = json!({
        "kind": "digest-differs", "stored": md5(state(4).as_bytes()), "actual": md5(state(5).as_bytes()), "of": old,
    });
    assert_eq!(said["findings"][0], finding);
    let looks = bed.proxy.seen_matching(&Match::dynamodb("GetItem").body("-md5")).len();
    assert!(looks > 1, "it looked {looks} times before it said so");
    let exit = bed.verify(&[]).run().expect_code(121);
    assert!(exit.out().contains("does not have the expected content"), "{exit}");
    assert!(exit.out().contains("--fix-digest"), "{exit}");
    assert_eq!(bed.digest(), Some(md5(state(4).as_bytes())), "nothing was written");
    assert!(!exit.out().contains("See where the digest comes from"), "{exit}");
    // A digest of a state that never was here.
    bed.put_digest(&md5(b"elsewhere"));
    let exit = bed.verify(&[]).run().expect_code(121);
    assert!(exit.out().contains("See where the digest comes from"), "{exit}");
}

/// As Terraform: none and a malformed one are passed over, another case of the letters is the same.
#[test]
fn a_digest_that_terraform_passes_over_is_no_trouble() {
    let bed = Bed::new();
    bed.put(state(5));
    let is = |is: &str| {
        let (code, said) = bed.json(&[]);
        assert_eq!((code, &said["verdict"], &said["digest"]["is"]), (0, &json!("whole"), &json!(is)));
    };
    is("absent");
    for malformed in ["", "abc", &"g".repeat(32)] {
        bed.put_digest(malformed);
        is("malformed");
    }
    let key = ("LockID".to_owned(), AttributeValue::S(format!("{}-md5", bed.lock_id())));
    bed.aws.put_item(&bed.table, [key].into());
    is("malformed");
    bed.put_digest(&md5(state(5).as_bytes()).to_uppercase());
    is("md5");
}

/// By flags alone nobody knows whether the state has a table, so it is not said that it has none.
#[test]
fn where_no_table_is_named_no_digest_is_judged() {
    let bed = Bed::new();
    bed.put_digest(&md5(b"other"));
    bed.put(state(5));
    let url = bed.proxy.url();
    let verify = |more: &[&str]| {
        crate::support::Run::new(crate::TFGUARD, &bed.guard)
            .current_dir(bed.dir.path())
            .envs(crate::support::Aws::ENV)
            .args(["verify", "--bucket", &bed.bucket, "--key", crate::verify::bed::KEY, "--region", "us-east-1"])
            .args(["--s3-endpoint", url, "--path-style"])
            .args(more)
            .run()
    };
    let exit = verify(&[]).expect_code(0);
    assert!(exit.out().contains("digest: not looked at, since no lock table is named"), "{exit}");
    let exit = verify(&["--fix-digest", "--yes"]).expect_code(121);
    assert!(exit.out().contains("give --table"), "{exit}");
}

#[test]
fn a_writer_at_work_is_not_taken_for_a_dead_one() {
    let bed = Bed::new();
    bed.write(state(4));
    bed.put(state(5));
    bed.aws.plant_lock(&bed.table, &LockInfo::foreign(&bed.lock_id()));
    let (code, said) = bed.json(&[]);
    assert_eq!((code, &said["verdict"]), (0, &json!("being-written")));
    let exit = bed.verify(&[]).run().expect_code(0);
    assert!(exit.out().contains("being written just now, by runner@build-7f9c4"), "{exit}");

    // By a lockfile, too. Nobody said that there is one, so it may be hidden.
    bed.aws.delete_item(&bed.table, &bed.lock_id());
    bed.aws.plant_lockfile(&LockInfo::foreign(&bed.lock_id()));
    let (code, said) = bed.json(&[]);
    assert_eq!((code, &said["verdict"]), (0, &json!("being-written")));
    // What is in the object is true whoever holds the lock.
    bed.put("{");
    let (code, said) = bed.json(&[]);
    assert_eq!((code, kinds(&said)), (121, vec!["broken"]));
}

/// Between the first look and the second the writer writes the digest and goes.
#[test]
fn a_digest_that_comes_a_little_later_fits() {
    let bed = Bed::new();
    bed.write(state(4));
    bed.put(state(5));
    let gate = Gate::new();
    bed.proxy.rule(Match::dynamodb("GetItem").body("-md5").nth(2), [gate.hold(), Action::Forward]);
    let run = bed.verify(&["--format", "json"]).start();
    gate.wait_for(1, SOON);
    bed.put_digest(&md5(state(5).as_bytes()));
    gate.release();
    let exit = run.wait(SOON).expect_code(0);
    assert!(exit.out().contains(r#""verdict":"whole""#), "{exit}");
}

/// Guards against a false alarm where one look takes as long as state and digest may be at odds, because the state is
/// large or the way slow: a writer came and went in its midst.
#[test]
fn one_slow_look_is_not_enough_to_say_that_the_digest_does_not_fit() {
    let bed = Bed::new();
    bed.write(state(4));
    let gate = Gate::new();
    let slow = Action::Delay(Duration::from_secs(10));
    bed.proxy.rule(Match::dynamodb("GetItem").body("-md5").nth(1), [gate.hold(), slow]);
    let run = bed.verify(&["--format", "json"]).start();
    // The state is read, its digest is not.
    gate.wait_for(1, SOON);
    bed.write(state(5));
    gate.release();
    let exit = run.wait(SOON).expect_code(0);
    assert!(exit.out().contains(r#""verdict":"whole""#), "{exit}");
}
