//! What is in the object.

use serde_json::{Value, json};

use crate::support::{Action, Answer, LockInfo, Match};
use crate::verify::bed::{Bed, KEY, LINEAGE, json_of, kinds, md5, state, state_of};

#[test]
fn a_whole_state_is_whole_and_nothing_is_written() {
    let bed = Bed::versioned();
    let version = bed.write(state(5)).unwrap();
    let (code, said) = bed.json(&[]);
    assert_eq!(
        (code, &said["verdict"], &said["findings"], &said["steps"]),
        (0, &json!("whole"), &json!([]), &json!([]))
    );
    assert_eq!(said["object"]["content"]["serial"], 5);
    assert_eq!(said["object"]["content"]["lineage"], LINEAGE);
    assert_eq!(said["object"]["version"], version);
    assert_eq!(said["digest"], json!({"is": "md5", "md5": md5(state(5).as_bytes())}));

    let exit = bed.verify(&["--lineage", LINEAGE, "--serial", "5"]).run().expect_code(0);
    assert!(exit.out().contains("whole\n") && exit.out().contains("serial 5"), "{exit}");
    assert!(!exit.out().contains("hush"), "nothing of the state's values is shown: {exit}");
    for request in bed.proxy.seen() {
        let read = request.method == "GET" || request.operation() == Some("GetItem");
        assert!(read, "only reads: {request:#?}");
        assert!(request.operation().is_none() || request.text().contains(r#""ConsistentRead":true"#), "{request:#?}");
    }
}

#[test]
fn a_state_that_is_not_there_yet_is_no_trouble_and_a_lost_one_is() {
    let bed = Bed::new();
    let (code, said) = bed.json(&[]);
    assert_eq!((code, &said["verdict"], &said["object"]), (0, &json!("whole"), &Value::Null));
    let (code, said) = bed.json(&["--serial", "1"]);
    assert_eq!((code, kinds(&said)), (121, vec!["missing"]));

    bed.put_digest(&md5(b"it"));
    let exit = bed.verify(&[]).run().expect_code(121);
    assert!(exit.out().contains("Terraform refuses to go on"), "{exit}");
    // A digest that somebody else has written meanwhile stays.
    let step = bed.steps(&[]).remove(0);
    bed.put_digest(&md5(b"another"));
    assert!(bed.paste(&step).err().contains("ConditionalCheckFailed"));
    assert_eq!(bed.digest(), Some(md5(b"another")));
    let step = bed.steps(&[]).remove(0);
    bed.paste(&step).expect_code(0);
    assert_eq!(bed.digest(), None);
}

#[test]
fn what_is_no_whole_state_is_told_from_one_that_is() {
    let whole = state(5);
    for (body, kind, flaw) in [
        (String::new(), "empty", Value::Null),
        (whole[..whole.len() / 2].to_owned(), "broken", json!("cut-off")),
        (format!("{whole}{whole}"), "broken", json!("no-json")),
        ("<html>hush</html>".to_owned(), "broken", json!("no-json")),
        (whole.replace("\"serial\":5,", ""), "broken", json!("no-state")),
        (whole.replace("\"serial\":5", "\"serial\":\"hush\""), "broken", json!("no-state")),
        ("[]".to_owned(), "broken", json!("no-state")),
    ] {
        let bed = Bed::new();
        bed.write(body.clone());
        let exit = bed.verify(&["--format", "json"]).run();
        assert!(!exit.out().contains("hush"), "{exit}");
        let (code, said) = json_of(exit);
        assert_eq!((code, kinds(&said), &said["findings"][0]["flaw"]["kind"]), (121, vec![kind], &flaw), "{body}");
        assert!(said["steps"][0]["say"].as_str().unwrap().contains("let nobody run terraform"), "{said:#}");
    }
}

#[test]
fn the_version_to_go_back_to_is_the_newest_whole_one_of_the_right_lineage() {
    let bed = Bed::versioned();
    bed.write(state(3));
    let good = bed.write(state(4)).unwrap();
    let foreign = bed.write(state_of("another", 9)).unwrap();
    bed.put("{\"version\": 4, ");
    // An object whose key begins with this one's.
    bed.aws.put_object(&bed.bucket, &format!("{KEY}.backup"), state(8).into());

    let back = |options: &[&str]| {
        let (code, said) = bed.json(options);
        assert_eq!((code, kinds(&said)), (121, vec!["broken"]));
        let steps = said["steps"].to_string();
        steps.split_once("versionId=").map(|(_, rest)| rest.split(['\'', ' ']).next().unwrap().to_owned())
    };
    assert_eq!(back(&["--lineage", LINEAGE]).as_ref(), Some(&good));
    assert_eq!(back(&[]).as_ref(), Some(&foreign), "nobody said which lineage is right");
    assert_eq!(back(&["--lineage", LINEAGE, "--serial", "5"]), None);
    bed.proxy.rule(Match::http("GET", "versions"), [Action::from(Answer::s3(403, "AccessDenied", "no"))]);
    let exit = bed.verify(&[]).run().expect_code(121);
    assert!(exit.out().contains("Grant s3:ListBucketVersions"), "{exit}");

    // Done as shown, it is there again, and its digest can follow. Another key of this bucket is a workspace's.
    bed.proxy.clear_rules();
    bed.paste(&bed.steps(&["--lineage", LINEAGE])[0]).expect_code(0);
    let (code, said) = bed.json(&["--lineage", LINEAGE]);
    assert_eq!((code, kinds(&said)), (121, vec!["digest-differs"]));
    bed.paste(&bed.steps(&["--lineage", LINEAGE, "--serial", "4"])[0]).expect_code(0);
    bed.verify(&["--lineage", LINEAGE, "--serial", "4"]).run().expect_code(0);

    // One that was deleted.
    bed.aws.delete_object(&bed.bucket, KEY);
    bed.paste(&bed.steps(&["--lineage", LINEAGE])[0]).expect_code(0);
    bed.verify(&["--lineage", LINEAGE]).run().expect_code(0);

    let unversioned = Bed::new();
    unversioned.write("{");
    let exit = unversioned.verify(&[]).run().expect_code(121);
    assert!(exit.out().contains("the bucket keeps no versions"), "{exit}");
}

#[test]
fn another_lineage_and_an_older_serial_need_a_look() {
    let bed = Bed::versioned();
    let good = bed.write(state(7)).unwrap();
    bed.write(state(6));
    let (code, said) = bed.json(&["--serial", "7"]);
    assert_eq!((code, &said["findings"]), (121, &json!([{"kind": "older-serial", "expected": 7, "found": 6}])));
    assert!(said["steps"].to_string().contains(&good), "{said:#}");

    bed.write(state_of("another", 9));
    let (code, said) = bed.json(&["--lineage", LINEAGE, "--serial", "7"]);
    let finding = json!([{"kind": "other-lineage", "expected": LINEAGE, "found": "another"}]);
    assert_eq!((code, &said["findings"]), (121, &finding));
    assert!(said["steps"].to_string().contains(&good), "{said:#}");

    // Somebody else's text does not reach a terminal as it is, nor a CI that takes it for an order.
    bed.write(state_of("\u{1b}[2J##vso[task.setvariable variable=a]b", 9));
    for format in ["text", "json"] {
        let exit = bed.verify(&["--lineage", LINEAGE, "--format", format]).run().expect_code(121);
        assert!(!exit.out().contains('\u{1b}') && !exit.out().contains("##"), "{exit}");
    }
}

#[test]
fn formats_that_cannot_be_looked_into_are_said_to_be_so() {
    let bed = Bed::new();
    bed.write(r#"{"version":5,"serial":1,"lineage":7}"#);
    let exit = bed.verify(&["--lineage", LINEAGE]).run().expect_code(125);
    assert!(exit.out().contains("format version 5, this tfguard knows version 4"), "{exit}");
    bed.write(r#"{"version":3,"serial":1,"lineage":"l","modules":[]}"#);
    bed.verify(&[]).run().expect_code(125);
    let encrypted = json!({
        "serial": 5, "lineage": LINEAGE, "meta": {"key_provider.pbkdf2.k": "e30="}, "encrypted_data": "c2VjcmV0",
        "encryption_version": "v0",
    });
    bed.write(encrypted.to_string());
    let exit = bed.verify(&["--lineage", LINEAGE, "--serial", "5"]).run().expect_code(0);
    assert!(exit.out().contains("encrypted by OpenTofu"), "{exit}");
    let (code, said) = bed.json(&["--serial", "6"]);
    assert_eq!((code, kinds(&said)), (121, vec!["older-serial"]));
}

/// By its content, its lineage and serial, and its time. Named by flags alone, no directory is looked into.
#[test]
fn only_what_comes_after_the_state_is_to_be_pushed() {
    let bed = Bed::new();
    let mark = |lineage, serial| state_of(lineage, serial).replace("hush", "mark");
    let file = bed.dir.path().join("errored.tfstate");
    bed.write(state(6));
    let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for (left, is_earlier, relation) in [
        (mark(LINEAGE, 8), false, "newer"),
        // Terraform counts every upload that fails.
        (mark(LINEAGE, 8), true, "overtaken"),
        (mark(LINEAGE, 6), false, "overtaken"),
        (mark(LINEAGE, 5), false, "overtaken"),
        // Of a first apply: Terraform would refuse neither.
        (mark("", 0), false, "overtaken"),
        (mark("", 9), false, "overtaken"),
        (mark("another", 9), false, "foreign"),
        (mark(LINEAGE, 8)[..40].to_owned(), false, "not-whole"),
    ] {
        std::fs::write(&file, &left).unwrap();
        if is_earlier {
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(earlier).unwrap();
        }
        let (code, said) = bed.json(&["--chdir", "."]);
        assert_eq!((code, &said["findings"][0]["relation"]), (121, &json!(relation)), "{left}");
        assert_eq!(said["steps"][0]["say"].to_string().contains("state push"), relation == "newer", "{said:#}");
    }
    let (code, said) = bed.json(&[]);
    assert_eq!((code, &said["errored"]), (0, &Value::Null));
    for same in [state(5), state_of("", 0)] {
        std::fs::write(&file, same).unwrap();
        assert_eq!(bed.json(&["--chdir", "."]).0, 0);
    }
}

/// The lock keeps others out: it is not to go before the file is there, and nothing is written under a living one.
#[test]
fn nothing_is_to_be_pushed_under_somebody_elses_lock() {
    let bed = Bed::new();
    bed.write(state(6));
    std::fs::write(bed.dir.path().join("errored.tfstate"), state(8).replace("hush", "mark")).unwrap();
    bed.aws.plant_lock(&bed.table, &LockInfo::foreign(&bed.lock_id()));
    let (code, said) = bed.json(&["--chdir", "."]);
    let step = &said["steps"][0];
    assert_eq!((code, &said["findings"][0]["relation"]), (121, &json!("newer")));
    assert!(step["say"].as_str().unwrap().contains("runner@build-7f9c4"), "{said:#}");
    assert!(!step.to_string().contains("state push"), "{said:#}");
}

/// A customer's key, as for Terraform itself.
#[test]
fn a_state_under_a_customers_key_is_read_with_it() {
    let bed = Bed::new();
    bed.write(state(5));
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let exit = bed.verify(&["-v"]).env("AWS_SSE_CUSTOMER_KEY", key).run().expect_code(0);
    assert!(!exit.out().contains(key) && !exit.err().contains(key), "{exit}");
    let reads = bed.proxy.seen_matching(&Match::http("GET", "prod.tfstate?"));
    assert_eq!(reads[0].header("x-amz-server-side-encryption-customer-key"), Some(key));
}

/// Nothing is claimed of what could not be read.
#[test]
fn what_cannot_be_looked_at_is_no_finding() {
    for (matching, answer, says) in [
        (Match::http("GET", "prod.tfstate"), Answer::s3(403, "AccessDenied", "no"), "Grant s3:GetObject"),
        (Match::http("GET", "prod.tfstate"), Answer::s3(404, "NoSuchBucket", "no"), "no such bucket"),
        (Match::dynamodb("GetItem"), Answer::dynamodb("AccessDeniedException", "no"), "Grant dynamodb:GetItem"),
        (Match::dynamodb("GetItem"), Answer::dynamodb("ResourceNotFoundException", "no"), "no such DynamoDB table"),
        (Match::http("GET", "prod.tfstate"), Answer::s3(403, "ExpiredToken", "no"), "credentials have expired"),
    ] {
        let bed = Bed::new();
        bed.write(state(5));
        bed.proxy.rule(matching, [Action::from(answer)]);
        let exit = bed.verify(&[]).run().expect_code(125);
        assert!(exit.err().contains(says) && exit.err().contains(&bed.lock_id()), "{exit}");
    }
}
