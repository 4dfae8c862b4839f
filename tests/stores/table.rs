//! The half in a table, and what is true of both.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tfguard::aws::StoreError;
use tfguard::model::{FoundLock, Holder, LockClaim};
use tfguard::store::{NotClaimed, Released, Store, Stranger, UnconditionalDelete, release};

use crate::stores::bed::{Bed, OWN, TERMS, found, holder};
use crate::support::{Action, Answer, Gate, LockInfo as Planted, Match};

#[test]
fn the_own_item_is_looked_at_and_deleted_by_one_conditional_request() {
    let bed = Bed::new();
    let digest = HashMap::from([
        ("LockID".to_owned(), AttributeValue::S(format!("{}-md5", bed.path()))),
        ("Digest".to_owned(), AttributeValue::S("d41d8cd98f00b204e9800998ecf8427e".to_owned())),
    ]);
    bed.aws.put_item(&bed.table, digest.clone());
    bed.aws.plant_lock(&bed.table, &bed.own());

    assert_eq!(bed.release(&bed.table_store()), Released::Deleted);
    assert_eq!(bed.aws.items(&bed.table), vec![digest]);
    let [look, request] = &bed.proxy.seen()[..] else { panic!("{:?}", bed.proxy.seen()) };
    assert_eq!((look.operation(), request.operation()), (Some("GetItem"), Some("DeleteItem")));
    assert!(request.text().contains("ConditionExpression") && request.text().contains(OWN), "{}", request.text());
    assert_eq!(bed.release(&bed.table_store()), Released::AlreadyGone);
}

#[test]
fn a_foreign_item_is_only_looked_at() {
    let bed = Bed::new();
    bed.aws.plant_lock(&bed.table, &bed.foreign());
    let before = bed.aws.items(&bed.table);
    assert_eq!(bed.release(&bed.table_store()), Released::NotOurs(found(&bed.foreign())));
    assert_eq!(bed.aws.items(&bed.table), before);
    assert_eq!(bed.proxy.seen().len(), 1);
}

/// Whoever refuses need not show the item (dynalite doesn't), so what is there is read again.
#[test]
fn a_refusal_is_followed_by_a_look() {
    let refused = || Answer::dynamodb("ConditionalCheckFailedException", "The conditional request failed");
    let bed = Bed::new();
    bed.aws.plant_lock(&bed.table, &bed.own());
    bed.proxy.rule(Match::dynamodb("DeleteItem").nth(1), [refused().into()]);
    assert_eq!(bed.delete_if(&bed.table_store()), Ok(Ok(())));
    bed.aws.plant_lock(&bed.table, &bed.own());
    bed.proxy.rule(Match::dynamodb("DeleteItem"), [refused().into()]);
    assert!(matches!(bed.delete_if(&bed.table_store()), Err(StoreError::Conflict(_))));
    assert!(bed.is_locked());
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
    // As Go escapes it; with fewer escapes; with white space.
    let as_go = json.replace('<', r"\u003c").replace('>', r"\u003e").replace('&', r"\u0026");
    let spaced = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&json).unwrap()).unwrap();
    for info in [as_go, json, spaced] {
        let store = bed.table_store();
        let item = [("LockID", bed.path()), ("Info", info)];
        let item = item.map(|(name, value)| (name.to_owned(), AttributeValue::S(value)));
        bed.aws.put_item(&bed.table, item.into());
        assert_eq!(bed.aws.block_on(store.delete_if(&claim, None)), Ok(Ok(())));
        assert!(!bed.is_locked());
    }
}

/// Between the look, which shows the lock's text, and the delete, which names it, the state changes hands.
#[test]
fn an_item_that_changes_hands_meanwhile_stays() {
    let bed = Bed::new();
    let own = serde_json::from_str::<serde_json::Value>(&bed.own().json()).unwrap();
    let spaced = serde_json::to_string_pretty(&own).unwrap();
    let item = [("LockID", bed.path()), ("Info", spaced)];
    let item = item.map(|(name, value)| (name.to_owned(), AttributeValue::S(value)));
    bed.aws.put_item(&bed.table, item.into());
    let gate = Gate::new();
    bed.proxy.rule(Match::dynamodb("DeleteItem").nth(1), [gate.hold()]);
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
    // A heartbeat after the unlock makes an item without `Info`; a full disk, an empty lockfile.
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

/// A session of the record [`holder`], or another.
fn at(began: &str) -> Holder {
    let mut other = holder();
    other.started = began.parse().unwrap();
    other
}

/// Guards the lock of a living run that a forged line of the log names: by when it was created, and by the record beside it.
#[test]
fn a_lock_that_is_not_the_sessions_is_neither_deleted_nor_written_to() {
    let bed = Bed::new();
    let (own, other, later) = (holder(), at("2026-03-04T05:06:00.5Z"), at("2026-03-04T05:09:00Z"));
    let [file, table] = bed.stores(UnconditionalDelete::AfterSecondLook);
    let plant = || {
        bed.aws.plant_lock(&bed.table, &bed.own());
        bed.aws.plant_lockfile(&bed.own());
    };
    let delete = |store, session: &Holder| bed.aws.block_on(Store::delete_if(store, &bed.claim(), Some(session)));
    let annotate = |store, session: &Holder| bed.aws.block_on(Store::annotate(store, &bed.claim(), session));
    for store in [&file, &table] {
        plant();
        // Created before that session began.
        assert!(matches!(annotate(store, &later), Ok(Err(NotClaimed::NotOwn(Stranger::Older { .. })))));
        assert!(matches!(delete(store, &later), Ok(Err(NotClaimed::NotOwn(Stranger::Older { .. })))));
        assert_eq!(annotate(store, &own), Ok(Ok(())));
        assert!(matches!(annotate(store, &other), Ok(Err(NotClaimed::NotOwn(Stranger::HeldBy(_))))));
        assert!(matches!(delete(store, &other), Ok(Err(NotClaimed::NotOwn(Stranger::HeldBy(_))))));
        assert!(bed.is_locked() && bed.has_lockfile());
        assert_eq!(delete(store, &own), Ok(Ok(())));
        plant();
        assert_eq!(delete(store, &own), Ok(Ok(())), "without a record");
    }
}

/// The record is written between the look and the delete.
#[test]
fn a_record_that_appears_meanwhile_protects_the_item() {
    for (theirs, is_own) in [(holder(), true), (at("2026-03-04T05:06:00.5Z"), false)] {
        let bed = Bed::new();
        bed.aws.plant_lock(&bed.table, &bed.own());
        let (store, gate) = (bed.table_store(), Gate::new());
        bed.proxy.rule(Match::dynamodb("DeleteItem").nth(1), [gate.hold()]);
        let answer = std::thread::scope(|scope| {
            let answer = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(release(&store, &bed.claim(), Some(&holder()), &TERMS))
            });
            gate.wait_for(1, Duration::from_secs(20));
            assert_eq!(bed.aws.block_on(bed.table_store().annotate(&bed.claim(), &theirs)), Ok(Ok(())));
            gate.release();
            answer.join().unwrap()
        });
        assert_eq!(answer == Released::Deleted, is_own, "{answer:?}");
        assert_eq!(matches!(answer, Released::NotOwn(Stranger::HeldBy(_))), !is_own, "{answer:?}");
        assert_eq!(bed.is_locked(), !is_own);
    }
}

/// Whatever lies in the place of a lock, by whatever name: it is deleted or written to only if its `Info` is the very one
/// that is claimed or was seen, and never if it has a digest where digests lie. What blocks and has no `Info` is deleted
/// when that was seen, but not where it could be a digest.
#[test]
fn nothing_is_touched_but_the_very_lock() {
    let bed = Bed::new();
    let text = |text: &str| AttributeValue::S(text.to_owned());
    for key in ["a/k", "a/k-md5", "a/k-md5-md5"] {
        let claim = LockClaim { state_key: key.to_owned(), ..bed.claim() };
        let own = Planted { path: claim.lock_id(), ..bed.own() }.json();
        let spaced: serde_json::Value = serde_json::from_str(&own).unwrap();
        let foreign = Planted { path: claim.lock_id(), ..bed.foreign() };
        let hidden = Planted { info: format!(r#""ID":"{OWN}""#), ..foreign.clone() };
        let infos = [
            None,
            Some(text("")),
            Some(AttributeValue::N("7".to_owned())),
            Some(text(&own)),
            Some(text(&serde_json::to_string_pretty(&spaced).unwrap())),
            Some(text(&foreign.json())),
            Some(text(&hidden.json())),
        ];
        let store = bed.table_store_of(&claim);
        let mut items = Vec::new();
        for (number, info) in infos.iter().enumerate() {
            for digest in [false, true] {
                let mut item = HashMap::from([("LockID".to_owned(), text(&claim.lock_id()))]);
                item.extend(info.clone().map(|info| ("Info".to_owned(), info)));
                item.extend(digest.then(|| ("Digest".to_owned(), text("d41d8cd98f00b204e9800998ecf8427e"))));
                items.push((number, digest, item));
            }
        }
        let left = || bed.aws.item(&bed.table, &claim.lock_id());
        for (number, digest, item) in &items {
            let is_digest = *digest && key.ends_with("-md5");
            bed.aws.put_item(&bed.table, item.clone());
            let annotated = bed.aws.block_on(store.annotate(&claim, &holder()));
            let is_noted = matches!(number, 3 | 4) && !is_digest;
            assert_eq!(annotated == Ok(Ok(())), is_noted, "{item:?}");
            assert_eq!(left().as_ref() == Some(item), !is_noted, "{item:?}");

            bed.aws.put_item(&bed.table, item.clone());
            let deleted = bed.aws.block_on(store.delete_if(&claim, None));
            let is_deleted = matches!(number, 3 | 4) && !is_digest;
            assert_eq!(deleted == Ok(Ok(())), is_deleted, "{item:?}: {deleted:?}");
            assert_eq!(left().as_ref(), (!is_deleted).then_some(item));

            // Something was seen, and something lies there when the delete arrives.
            for (seen_number, _, seen_item) in &items {
                bed.aws.put_item(&bed.table, seen_item.clone());
                let seen = bed.aws.block_on(store.look()).unwrap().unwrap();
                bed.aws.put_item(&bed.table, item.clone());
                let deleted = bed.aws.block_on(store.delete_seen(&seen));
                let is_seen = number == seen_number && !is_digest && (*number != 0 || key == "a/k");
                assert_eq!(deleted == Ok(Ok(())), is_seen, "{seen_item:?}, {item:?}: {deleted:?}");
                assert_eq!(left().as_ref(), (!is_seen).then_some(item));
            }
        }
        bed.aws.delete_item(&bed.table, &claim.lock_id());
    }
}

#[test]
fn another_state_is_refused_without_a_request() {
    let bed = Bed::new();
    for store in bed.stores(UnconditionalDelete::AfterSecondLook) {
        let elsewhere = LockClaim { state_key: "a/k2".to_owned(), ..bed.claim() };
        let refused = bed.aws.block_on(store.delete_if(&elsewhere, None));
        assert!(matches!(refused, Err(StoreError::Misdirected(_))), "{refused:?}");
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
        (dynamodb("ExpiredTokenException"), |e| matches!(e, StoreError::CredentialsExpired(_))),
        (dynamodb("UnrecognizedClientException"), |e| matches!(e, StoreError::CredentialsRejected(_))),
        (dynamodb("ThrottlingException"), |e| matches!(e, StoreError::Throttled(_))),
        (dynamodb("ProvisionedThroughputExceededException"), |e| matches!(e, StoreError::Throttled(_))),
        (dynamodb("InternalServerError"), |e| matches!(e, StoreError::ServiceFailed(_))),
        (dynamodb("ResourceNotFoundException"), |e| matches!(e, StoreError::NoSuchTable(_))),
        (Action::Close, |e| matches!(e, StoreError::TimedOut(_))),
        (Answer::new(502, "<html>bad gateway</html>").into(), |e| matches!(e, StoreError::ServiceFailed(_))),
    ];
    let store = bed.table_store();
    bed.aws.plant_lock(&bed.table, &bed.own());
    for (action, is_expected) in cases {
        bed.proxy.clear_rules();
        bed.proxy.rule(Match::dynamodb("DeleteItem"), [action.clone()]);
        let error = bed.delete_if(&store).unwrap_err();
        assert!(is_expected(&error), "{action:?}: {error:?}");
    }
}

/// Guards against advice to grant what was not denied, and against words that do not fit the request.
#[test]
fn a_failure_is_told_by_what_was_asked_and_refused() {
    let bed = Bed::new();
    let store = bed.table_store();
    bed.aws.plant_lock(&bed.table, &bed.own());
    let by_key = "User: x is not authorized to perform: kms:Decrypt\n on resource: y.";
    bed.proxy.rule(Match::dynamodb("DeleteItem"), [Answer::dynamodb("AccessDeniedException", by_key).into()]);
    let told = bed.delete_if(&store).unwrap_err().in_a_line();
    assert!(told.contains("on resource: y. Grant kms:Decrypt on this KMS key"), "{told}");
    bed.proxy.clear_rules();
    bed.proxy.rule(Match::dynamodb("DeleteItem"), [Action::Close]);
    let deleted = bed.delete_if(&store).unwrap_err().to_string();
    bed.proxy.rule(Match::dynamodb("GetItem"), [Action::Close]);
    let read = bed.aws.block_on(store.read()).unwrap_err().to_string();
    assert!(
        deleted.contains("Whether the request was carried out") && !read.contains("carried out"),
        "{deleted} {read}"
    );
}

#[test]
fn an_answer_that_makes_no_sense_is_no_deletion() {
    let bed = Bed::new();
    bed.aws.plant_lock(&bed.table, &bed.own());
    bed.proxy.rule(Match::any(), [Answer::new(200, "<html>Sign in to the guest network</html>").into()]);
    let error = bed.delete_if(&bed.table_store());
    assert!(matches!(error, Err(StoreError::Nonsense(_))), "{error:?}");
    assert!(bed.is_locked());
}

#[test]
fn nobody_listening_and_no_table_are_told_apart() {
    let bed = Bed::new();
    let store = bed.table_store();
    let missing = Bed { table: "no-such-table".to_owned(), ..Bed::new() };
    let error = missing.delete_if(&missing.table_store()).unwrap_err();
    assert!(matches!(error, StoreError::NoSuchTable(_)), "{error:?}");
    let Bed { aws, proxy, .. } = bed;
    drop(proxy);
    let error = aws.block_on(store.read()).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
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
