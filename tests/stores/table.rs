//! The half in a table, and what is true of both.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tfguard::lock::{Deletion, FoundLock, LockClaim, LockStore, Released, StoreError, UnconditionalDelete};

use crate::bed::{Bed, OWN, found};
use crate::support::{Action, Answer, Gate, LockInfo as Planted, Match};

#[test]
fn the_own_item_is_deleted_by_one_conditional_request() {
    let bed = Bed::new();
    let digest = HashMap::from([
        ("LockID".to_owned(), AttributeValue::S(format!("{}-md5", bed.path()))),
        ("Digest".to_owned(), AttributeValue::S("d41d8cd98f00b204e9800998ecf8427e".to_owned())),
    ]);
    bed.aws.put_item(&bed.table, digest.clone());
    bed.aws.plant_lock(&bed.table, &bed.own());

    assert_eq!(bed.release(&bed.table_store()), Released::Deleted);
    assert_eq!(bed.aws.items(&bed.table), vec![digest]);
    let [request] = &bed.proxy.seen()[..] else { panic!("{:?}", bed.proxy.seen()) };
    assert_eq!(request.operation(), Some("DeleteItem"));
    assert!(request.text().contains("ConditionExpression") && request.text().contains(OWN), "{}", request.text());
    assert_eq!(bed.release(&bed.table_store()), Released::AlreadyGone);
}

#[test]
fn the_holder_of_a_foreign_item_is_named_by_the_same_request() {
    let bed = Bed::new();
    bed.aws.plant_lock(&bed.table, &bed.foreign());
    let before = bed.aws.items(&bed.table);
    assert_eq!(bed.release(&bed.table_store()), Released::NotOurs(found(&bed.foreign())));
    assert_eq!(bed.aws.items(&bed.table), before);
    assert_eq!(bed.proxy.seen().len(), 1);
}

#[test]
fn a_claim_that_is_wrong_in_any_field_deletes_nothing() {
    let bed = Bed::new();
    let mut others = vec![bed.own(), bed.own(), bed.own()];
    others[0].id = "5bb7d84c-f09d-7909-0219-02f6e8d9eeb4".to_owned();
    others[1].who = "root@vm2".to_owned();
    others[2].operation = "OperationTypePlan".to_owned();
    // The claimed ID in a field that is none.
    others.push(Planted { info: format!(r#""ID":"{OWN}""#), ..bed.foreign() });
    let [file, table] = bed.stores(UnconditionalDelete::AfterSecondLook);
    for other in others {
        bed.aws.plant_lock(&bed.table, &other);
        bed.aws.plant_lockfile(&other);
        for store in [&file, &table] {
            assert_eq!(bed.release(store), Released::NotOurs(found(&other)));
        }
        assert!(bed.is_locked() && bed.has_lockfile(), "{other:?}");
    }
}

#[test]
fn names_that_json_escapes_are_understood() {
    let bed = Bed::new();
    let odd = r#"<CORP\build & "test">@höst"#;
    let claim = LockClaim { who: odd.to_owned(), ..bed.claim() };
    let json = Planted { who: odd.to_owned(), ..bed.own() }.json();
    // As Go escapes it; with fewer escapes; with white space: only the first is found by the parts of it.
    let as_go = json.replace('<', r"\u003c").replace('>', r"\u003e").replace('&', r"\u0026");
    let spaced = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&json).unwrap()).unwrap();
    for (info, requests) in [(as_go, 1), (json, 2), (spaced, 2)] {
        let store = bed.table_store();
        let seen = bed.proxy.seen().len();
        let item = [("LockID", bed.path()), ("Info", info)];
        let item = item.map(|(name, value)| (name.to_owned(), AttributeValue::S(value)));
        bed.aws.put_item(&bed.table, item.into());
        assert_eq!(bed.aws.block_on(store.delete_if(&claim)), Ok(Deletion::Deleted));
        assert!(!bed.is_locked());
        assert_eq!(bed.proxy.seen().len() - seen, requests);
    }
}

/// Between the first request, which shows the lock's text, and the second, which names it, the state changes hands.
#[test]
fn an_item_that_changes_hands_meanwhile_stays() {
    let bed = Bed::new();
    let own = serde_json::from_str::<serde_json::Value>(&bed.own().json()).unwrap();
    let spaced = serde_json::to_string_pretty(&own).unwrap();
    let item = [("LockID", bed.path()), ("Info", spaced)];
    let item = item.map(|(name, value)| (name.to_owned(), AttributeValue::S(value)));
    bed.aws.put_item(&bed.table, item.into());
    let gate = Gate::new();
    bed.proxy.rule(Match::dynamodb("DeleteItem").nth(2), [gate.hold()]);
    let released = bed.release_meanwhile(&bed.table_store(), || {
        gate.wait_for(1, Duration::from_secs(20));
        bed.aws.plant_lock(&bed.table, &bed.foreign());
        gate.release();
    });
    assert_eq!(released, Released::NotOurs(found(&bed.foreign())));
    assert!(bed.is_locked());
}

#[test]
fn what_is_no_lock_is_shown_and_left() {
    let bed = Bed::new();
    let [file, table] = bed.stores(UnconditionalDelete::AfterSecondLook);
    // A heartbeat after the unlock makes an item without `Info`; a full disk, a lockfile without a byte.
    let ghost = HashMap::from([("LockID".to_owned(), AttributeValue::S(bed.path()))]);
    bed.aws.put_item(&bed.table, ghost);
    bed.aws.put_object(&bed.bucket, "a/k.tflock", Vec::new());
    for store in [&file, &table] {
        assert_eq!(bed.release(store), Released::NotOurs(FoundLock::Malformed(String::new())));
        assert_eq!(bed.aws.block_on(store.read()), Ok(Some(FoundLock::Malformed(String::new()))));
    }
    bed.aws.put_object(&bed.bucket, "a/k.tflock", vec![b'x'; 1 << 20]);
    assert!(matches!(bed.release(&file), Released::NotOurs(FoundLock::Malformed(text)) if text.len() < 2000));
}

#[test]
fn a_digest_and_another_state_are_refused_without_a_request() {
    let bed = Bed::new();
    for store in bed.stores(UnconditionalDelete::AfterSecondLook) {
        let elsewhere = LockClaim { state_key: "a/k2".to_owned(), ..bed.claim() };
        let refused = bed.aws.block_on(store.delete_if(&elsewhere));
        assert!(matches!(refused, Err(StoreError::Misdirected { .. })), "{refused:?}");
    }
    assert!(bed.proxy.seen().is_empty());
}

#[test]
fn each_failure_of_the_service_is_told_apart() {
    let bed = Bed::new();
    let dynamodb = |kind: &str| Action::from(Answer::dynamodb(kind, "because"));
    type Check = fn(&StoreError) -> bool;
    let cases: [(Action, Check); 9] = [
        (dynamodb("AccessDeniedException"), |e| matches!(e, StoreError::Denied { action: "dynamodb:DeleteItem", .. })),
        (dynamodb("ExpiredTokenException"), |e| matches!(e, StoreError::CredentialsExpired { .. })),
        (dynamodb("UnrecognizedClientException"), |e| matches!(e, StoreError::CredentialsRejected { .. })),
        (dynamodb("ThrottlingException"), |e| matches!(e, StoreError::Throttled { .. })),
        (dynamodb("ProvisionedThroughputExceededException"), |e| matches!(e, StoreError::Throttled { .. })),
        (dynamodb("InternalServerError"), |e| matches!(e, StoreError::ServiceFailed { .. })),
        (dynamodb("ResourceNotFoundException"), |e| matches!(e, StoreError::NoSuchTable { .. })),
        (Action::Close, |e| matches!(e, StoreError::TimedOut { .. })),
        (Answer::new(502, "<html>bad gateway</html>").into(), |e| matches!(e, StoreError::ServiceFailed { .. })),
    ];
    let store = bed.table_store();
    for (action, is_expected) in cases {
        bed.proxy.clear_rules();
        bed.proxy.rule(Match::dynamodb("DeleteItem"), [action.clone()]);
        let error = bed.delete_if(&store).unwrap_err();
        assert!(is_expected(&error), "{action:?}: {error:?}");
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_no_deletion() {
    let bed = Bed::new();
    bed.aws.plant_lock(&bed.table, &bed.own());
    bed.proxy.rule(Match::any(), [Answer::new(200, "<html>Sign in to the guest network</html>").into()]);
    let error = bed.delete_if(&bed.table_store());
    assert!(matches!(error, Err(StoreError::Nonsense { .. })), "{error:?}");
    assert!(bed.is_locked());
}

#[test]
fn nobody_listening_and_no_table_are_told_apart() {
    let bed = Bed::new();
    let store = bed.table_store();
    let missing = Bed { table: "no-such-table".to_owned(), ..Bed::new() };
    let error = missing.delete_if(&missing.table_store()).unwrap_err();
    assert!(matches!(error, StoreError::NoSuchTable { .. }), "{error:?}");
    let Bed { aws, proxy, .. } = bed;
    drop(proxy);
    let error = aws.block_on(store.read()).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_release_survives_throttling_lost_answers_and_silence() {
    for actions in [
        vec![Answer::dynamodb("ThrottlingException", "slow down").into()],
        vec![Answer::dynamodb("InternalServerError", "oops").into()],
        vec![Action::Close],
        vec![Action::Hold(Gate::new())],
        // Carried out, and the answer lost.
        vec![Action::Forward, Action::Close],
        vec![Action::Forward, Action::Forward],
    ] {
        let bed = Bed::new();
        bed.aws.plant_lock(&bed.table, &bed.own());
        bed.proxy.rule(Match::dynamodb("DeleteItem").nth(1), actions.clone());
        let released = bed.release(&bed.table_store());
        assert!(matches!(released, Released::Deleted | Released::AlreadyGone), "{actions:?}: {released:?}");
        assert!(!bed.is_locked(), "{actions:?}");
    }
}

#[test]
fn a_delete_that_is_denied_is_settled_by_reading() {
    let bed = Bed::new();
    let denied = || [Answer::dynamodb("AccessDeniedException", "no").into()];
    bed.proxy.rule(Match::dynamodb("DeleteItem"), denied());
    assert_eq!(bed.release(&bed.table_store()), Released::AlreadyGone);
    bed.aws.plant_lock(&bed.table, &bed.own());
    let released = bed.release(&bed.table_store());
    assert!(matches!(released, Released::StillThere(StoreError::Denied { .. })), "{released:?}");
}
