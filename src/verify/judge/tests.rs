use serde_json::json;

use super::*;
use crate::lock::LockInfo;
use crate::verify::{Site, Step, StoredDigest, md5, steps};

fn state(lineage: &str, serial: u64, mark: &str) -> StateObject {
    let state = json!({
        "version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": lineage,
        "outputs": {"mark": {"value": mark, "type": "string"}}, "resources": [],
    });
    StateObject::of(state.to_string().as_bytes())
}

fn holder() -> LockInfo {
    LockInfo::parse(br#"{"ID":"4bb7d84c-f09d-7909-0219-02f6e8d9eeb4","Who":"ci@runner"}"#).unwrap()
}

/// A whole state with its digest.
fn whole() -> Seen {
    let object = state("l", 5, "");
    let digest = StoredDigest::Md5(object.md5.clone());
    Seen { object: Some(object), digest, lock: None, errored: None, versions: Versions::NotAsked }
}

fn errored(state: StateObject) -> Errored {
    Errored { path: "/w/errored.tfstate".into(), state }
}

fn version(id: &str, state: &StateObject) -> Version {
    Version {
        id: id.to_owned(),
        modified: None,
        latest: id == "now",
        etag: None,
        md5: Some(state.md5.clone()),
        content: Some(state.content.clone()),
    }
}

fn site() -> Site {
    Site {
        bucket: "b".to_owned(),
        key: "a key".to_owned(),
        region: "r".to_owned(),
        s3_endpoint: None,
        table: Some("t".to_owned()),
        dynamodb_endpoint: None,
        program: "terraform",
        terraform: Some("terraform".to_owned()),
        verify: "tfguard verify".to_owned(),
    }
}

fn runs(step: &Step, what: &str) -> bool {
    step.run.as_ref().is_some_and(|command| command.contains(what))
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
        Some(StateObject::of(br#"{"version": 3, "serial": 5, "lineage": "l", "modules": []}"#)),
        Some(StateObject::of(
            br#"{"serial": 5, "lineage": "l", "encrypted_data": "eA==", "encryption_version": "v0"}"#,
        )),
        Some(StateObject::of(br#"{"version": 5, "serial": 1}"#)),
    ];
    let unknown = 6;
    let other = StoredDigest::Md5(md5(b"other"));
    let locks = [None, Some(FoundLock::Held(holder())), Some(FoundLock::Malformed(String::new()))];
    for (number, object) in objects.iter().enumerate() {
        let own = object.as_ref().map(|object| StoredDigest::Md5(object.md5.clone()));
        let digests = [StoredDigest::NotKept, StoredDigest::Absent, StoredDigest::Malformed, other.clone()];
        for digest in digests.into_iter().chain(own) {
            for lock in &locks {
                let seen = Seen { object: object.clone(), digest: digest.clone(), lock: lock.clone(), ..whole() };
                let judgement = judge(&seen, &Expected::default());
                let readable = object.as_ref().is_none_or(|object| object.content.is_ok());
                // By Terraform's own comparison, and an empty object that nothing contradicts.
                let usable = readable && !is_at_odds(object.as_ref(), digest.md5());
                let held = matches!(lock, Some(FoundLock::Held(_)));
                let verdict = match (number == unknown, usable, held && readable) {
                    (true, ..) => Verdict::Unknown,
                    (_, true, _) => Verdict::Whole,
                    (_, false, true) => Verdict::BeingWritten,
                    (_, false, false) => Verdict::NeedsALook,
                };
                assert_eq!(judgement.verdict, verdict, "{seen:?}");
                let steps = steps(&seen, &judgement, &Expected::default(), &site());
                assert_eq!(steps.is_empty(), verdict != Verdict::NeedsALook, "{seen:?}");
                // The digest is let be written only of a state that is whole.
                let may_write = steps.iter().any(|step| runs(step, "--fix-digest"));
                assert!(!may_write || (readable && object.is_some()), "{seen:?}");
            }
        }
    }
}

#[test]
fn a_state_is_the_expected_one_or_needs_a_look() {
    let cases = [
        (None, None, vec![]),
        (Some("l"), Some(5), vec![]),
        (None, Some(4), vec![]),
        (None, Some(6), vec!["older-serial"]),
        (Some("m"), None, vec!["other-lineage"]),
        // A serial of another lineage says nothing.
        (Some("m"), Some(6), vec!["other-lineage"]),
    ];
    for (lineage, serial, found) in cases {
        let expected = Expected { lineage: lineage.map(str::to_owned), serial };
        assert_eq!(kinds(&judge(&whole(), &expected)), found, "{expected:?}");
        let none = Seen { object: None, digest: StoredDigest::NotKept, ..whole() };
        let missing = lineage.is_some() || serial.is_some();
        assert_eq!(kinds(&judge(&none, &expected)), if missing { vec!["missing"] } else { vec![] }, "{expected:?}");
    }
}

/// What `terraform state push` does with each is in its `CheckValidImport`.
#[test]
fn what_could_not_be_uploaded_is_compared_as_terraform_does() {
    use Relation::*;
    let there = state("l", 5, "");
    for (left, expected) in [
        (state("l", 6, "x"), Newer),
        (state("l", 5, ""), Same),
        (state("l", 5, "x"), Forked),
        (state("l", 4, "x"), Older),
        (state("m", 9, "x"), Foreign),
        (state("", 6, "x"), Newer),
        (StateObject::of(b"{"), NotWhole),
        (StateObject::of(b""), NotWhole),
        (StateObject::of(br#"{"version": 5}"#), NothingToCompare),
    ] {
        assert_eq!(relation(&errored(left.clone()), Some(&there)), expected, "{left:?}");
        let seen = Seen { errored: Some(errored(left)), ..whole() };
        let judgement = judge(&seen, &Expected::default());
        assert_eq!(judgement.findings.is_empty(), expected == Same, "{judgement:?}");
        let steps = steps(&seen, &judgement, &Expected::default(), &site());
        let pushes = steps.iter().any(|step| runs(step, "terraform state push /w/errored.tfstate"));
        assert_eq!(pushes, matches!(expected, Newer | Forked), "no other goes through");
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
        let left = errored(StateObject { modified: left, ..state("l", 8, "x") });
        assert_eq!(relation(&left, Some(&there)), expected);
        let seen = Seen { errored: Some(left), ..whole() };
        let seen = Seen { object: Some(StateObject { modified: written, ..seen.object.clone().unwrap() }), ..seen };
        let steps = steps(&seen, &judge(&seen, &Expected::default()), &Expected::default(), &site());
        assert_eq!(steps.iter().any(|step| runs(step, "state push")), expected == Newer, "{steps:#?}");
    }
    let left = errored(state("l", 6, ""));
    assert_eq!(relation(&left, None), Newer);
    assert_eq!(relation(&left, Some(&StateObject::of(b""))), Newer);
    assert_eq!(relation(&left, Some(&StateObject::of(b"{"))), NothingToCompare);
}

#[test]
fn the_way_back_is_the_newest_version_that_is_whole_and_of_the_right_lineage() {
    let broken = StateObject::of(b"{\"version\": 4");
    let versions = Versions::Listed(vec![
        version("now", &broken),
        version("broken", &broken),
        version("foreign", &state("m", 9, "")),
        version("newest", &state("l", 4, "")),
        version("older", &state("l", 3, "")),
    ]);
    let seen = |object| Seen { object, versions: versions.clone(), ..whole() };
    let back = |seen: &Seen, expected: &Expected| way_back(seen, expected).map(|version| version.id.clone());
    let lineage = |lineage: &str| Expected { lineage: Some(lineage.to_owned()), serial: None };
    assert_eq!(back(&seen(Some(broken.clone())), &lineage("l")).as_deref(), Some("newest"));
    assert_eq!(back(&seen(Some(broken.clone())), &lineage("n")), None);
    assert_eq!(back(&seen(Some(broken.clone())), &Expected::default()).as_deref(), Some("foreign"));
    assert_eq!(back(&seen(Some(state("l", 1, ""))), &Expected::default()).as_deref(), Some("newest"));
    let enough = Expected { serial: Some(5), ..lineage("l") };
    assert_eq!(back(&seen(Some(broken.clone())), &enough), None);

    let seen = Seen { digest: StoredDigest::NotKept, ..seen(Some(broken)) };
    let all = steps(&seen, &judge(&seen, &lineage("l")), &lineage("l"), &site());
    assert!(all.iter().any(|step| runs(step, "--copy-source 'b/a%20key?versionId=newest'")), "{all:#?}");
}

#[test]
fn a_digest_of_an_earlier_version_is_known_as_such() {
    let old = state("l", 4, "");
    let present = state("l", 5, "");
    let versions = Versions::Listed(vec![version("now", &present), version("old", &old)]);
    let seen = Seen { digest: StoredDigest::Md5(old.md5), versions, ..whole() };
    let judgement = judge(&seen, &Expected::default());
    assert!(matches!(&judgement.findings[..], [Finding::DigestDiffers { of: Some(of), .. }] if of == "old"));
}

/// What keeps the state from being read at all comes before what goes through the state.
#[test]
fn the_steps_come_in_the_order_in_which_they_work() {
    let expected = Expected { lineage: None, serial: Some(6) };
    let seen = Seen { digest: StoredDigest::Md5(md5(b"other")), errored: Some(errored(state("l", 6, ""))), ..whole() };
    let judgement = judge(&seen, &expected);
    assert_eq!(kinds(&judgement), ["older-serial", "digest-differs", "errored"]);
    let steps = steps(&seen, &judgement, &expected, &site());
    let at =
        |what: &str| steps.iter().position(|step| runs(step, what)).unwrap_or_else(|| panic!("{what}: {steps:#?}"));
    assert!(at("get-object") < at("--fix-digest") && at("--fix-digest") < at("state push"), "{steps:#?}");
    assert_eq!(at("terraform plan"), steps.len() - 1);
}

/// The findings go into the journal and come back.
#[test]
fn findings_survive_the_journal() {
    let seen = Seen { errored: Some(errored(state("l", 6, ""))), object: Some(StateObject::of(b"{")), ..whole() };
    for finding in judge(&seen, &Expected::default()).findings {
        let text = serde_json::to_string(&finding).unwrap();
        assert_eq!(serde_json::from_str::<Finding>(&text).unwrap(), finding, "{text}");
    }
}
