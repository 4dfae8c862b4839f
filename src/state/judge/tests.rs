use serde_json::json;

use super::*;
use crate::model::LockInfo;
use crate::state::content::md5;
use crate::state::seen::StoredDigest;

fn state(lineage: &str, serial: u64, mark: &str) -> StateObject {
    let state = json!({
        "version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": lineage,
        "outputs": {"mark": {"value": mark, "type": "string"}}, "resources": [],
    });
    StateObject::of(state.to_string().as_bytes())
}

fn encrypted(lineage: &str, serial: u64) -> StateObject {
    let state = json!({"serial": serial, "lineage": lineage, "encrypted_data": "eA==", "encryption_version": "v0"});
    StateObject::of(state.to_string().as_bytes())
}

fn held(dead: bool) -> Held {
    let info = LockInfo::parse(br#"{"ID":"4bb7d84c-f09d-7909-0219-02f6e8d9eeb4","Who":"ci@runner"}"#).unwrap();
    Held { lock: FoundLock::Held(info), dead }
}

/// A whole state with its digest.
fn whole() -> Seen {
    let object = state("l", 5, "");
    Seen { digest: StoredDigest::Md5(object.md5.clone()), object: Some(object), ..Seen::default() }
}

fn kinds(judgement: &Judgement) -> Vec<String> {
    let kind = |finding| serde_json::to_value(finding).unwrap()["kind"].as_str().unwrap().to_owned();
    judgement.findings.iter().map(kind).collect()
}

/// Every combination of what can be there.
#[test]
fn nothing_that_keeps_terraform_from_working_is_passed_over() {
    let objects = [
        None,
        Some(state("l", 5, "")),
        Some(StateObject::of(b"")),
        Some(StateObject::of(b"{\"version\": 4, ")),
        Some(encrypted("l", 5)),
        Some(StateObject::of(br#"{"version": 5, "serial": 1}"#)),
    ];
    let unknown = 5;
    let other = StoredDigest::Md5(md5(b"other"));
    let malformed = Held { lock: FoundLock::Malformed(String::new()), dead: false };
    for (number, object) in objects.iter().enumerate() {
        let own = object.as_ref().map(|object| StoredDigest::Md5(object.md5.clone()));
        let digests = [StoredDigest::NotKept, StoredDigest::Absent, StoredDigest::Malformed, other.clone()];
        for digest in digests.into_iter().chain(own) {
            for lock in [None, Some(held(false)), Some(held(true)), Some(malformed.clone())] {
                let may_write = lock.as_ref().is_some_and(Held::may_be_alive);
                let seen = Seen { object: object.clone(), digest: digest.clone(), lock, ..whole() };
                let judgement = judge(&seen, &Expected::default());
                let readable = object.as_ref().is_none_or(|object| object.content.is_ok());
                // By Terraform's own comparison, and an empty object that nothing contradicts.
                let usable = readable && !is_at_odds(object.as_ref(), digest.md5());
                let verdict = match (number == unknown, usable, may_write && readable) {
                    (true, ..) => StateVerdict::Unknown,
                    (_, true, _) => StateVerdict::Whole,
                    (_, false, true) => StateVerdict::BeingWritten,
                    (_, false, false) => StateVerdict::NeedsALook,
                };
                assert_eq!(judgement.verdict, verdict, "{seen:?}");
            }
        }
    }
}

#[test]
fn a_state_is_the_expected_one_or_needs_a_look() {
    for (lineage, serial, found) in [
        (None, None, vec![]),
        (Some("l"), Some(5), vec![]),
        (None, Some(4), vec![]),
        (None, Some(6), vec!["older-serial"]),
        (Some("l"), Some(6), vec!["older-serial"]),
        (Some("m"), None, vec!["other-lineage"]),
        // A serial of another lineage says nothing.
        (Some("m"), Some(6), vec!["other-lineage"]),
    ] {
        let expected = Expected { lineage: lineage.map(str::to_owned), serial };
        assert_eq!(kinds(&judge(&whole(), &expected)), found, "{expected:?}");
        let none = Seen { object: None, digest: StoredDigest::NotKept, ..whole() };
        let missing = lineage.is_some() || serial.is_some();
        assert_eq!(kinds(&judge(&none, &expected)), if missing { vec!["missing"] } else { vec![] }, "{expected:?}");
    }
}

/// What `terraform state push` does with each is in its `CheckValidImport`, and more than that is asked.
#[test]
fn only_what_comes_after_the_state_may_be_pushed() {
    use Relation::*;
    let there = state("l", 5, "");
    for (left, expected) in [
        (state("l", 6, "x"), Some(Newer)),
        (state("l", 5, "x"), Some(Overtaken)),
        (state("l", 4, "x"), Some(Overtaken)),
        // Pushed already, which raises the serial, or uploaded after all.
        (state("l", 4, ""), None),
        (state("l", 5, ""), None),
        (state("m", 1, ""), None),
        // Of a first apply. Terraform would refuse none of them.
        (state("", 0, "x"), Some(Overtaken)),
        (state("", 9, "x"), Some(Overtaken)),
        (state("", 0, ""), None),
        (encrypted("l", 6), Some(Newer)),
        (encrypted("l", 5), Some(Overtaken)),
        (state("m", 9, "x"), Some(Foreign)),
        (StateObject::of(b"{"), Some(NotWhole)),
        (StateObject::of(b""), Some(NotWhole)),
        (StateObject::of(br#"{"version": 5}"#), Some(NothingToCompare)),
        (StateObject::unread(0, Flaw::Unreadable { why: "denied".to_owned() }), Some(NothingToCompare)),
    ] {
        assert_eq!(relation(&left, Some(&there)), expected, "{left:?}");
        let errored = Some(Errored { path: "/w/errored.tfstate".into(), state: left });
        let judgement = judge(&Seen { errored, ..whole() }, &Expected::default());
        assert_eq!((judgement.findings.len(), judgement.notes.len()), if expected.is_some() { (1, 0) } else { (0, 1) });
    }
    let at = |second| Some(jiff::Timestamp::from_second(second).unwrap());
    for (written, left, expected) in [
        (at(9), at(10), Newer),
        (at(10), at(10), Newer),
        (at(11), at(10), Overtaken),
        (None, at(10), Newer),
        (at(11), None, Newer),
    ] {
        let there = StateObject { modified: written, ..there.clone() };
        assert_eq!(relation(&StateObject { modified: left, ..state("l", 8, "x") }, Some(&there)), Some(expected));
    }
    for left in [state("l", 6, ""), state("", 0, "")] {
        assert_eq!(relation(&left, None), Some(Newer));
        assert_eq!(relation(&left, Some(&StateObject::of(b""))), Some(Newer));
        assert_eq!(relation(&left, Some(&StateObject::of(b"{"))), Some(NothingToCompare));
    }
}

#[test]
fn a_digest_of_an_earlier_version_is_known_as_such() {
    let old = StateObject { version: Some("old".to_owned()), ..state("l", 4, "") };
    let seen = Seen { digest: StoredDigest::Md5(old.md5.clone()), earlier: Some(old), ..whole() };
    let judgement = judge(&seen, &Expected::default());
    assert!(matches!(&judgement.findings[..], [StateFinding::DigestDiffers { of: Some(of), .. }] if of == "old"));
}

/// The findings go into the journal and come back; what keeps the state from being read comes before what goes through it.
#[test]
fn findings_come_in_order_and_survive_the_journal() {
    let errored = Some(Errored { path: "/w/errored.tfstate".into(), state: state("l", 6, "x") });
    let seen = Seen { digest: StoredDigest::Md5(md5(b"other")), errored, ..whole() };
    let judgement = judge(&seen, &Expected { lineage: None, serial: Some(6) });
    assert_eq!(kinds(&judgement), ["older-serial", "digest-differs", "errored"]);
    for finding in judgement.findings {
        let text = serde_json::to_string(&finding).unwrap();
        assert_eq!(serde_json::from_str::<StateFinding>(&text).unwrap(), finding, "{text}");
    }
}
