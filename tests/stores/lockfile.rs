//! The half beside the state.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sha2::{Digest as _, Sha256};
use tfguard::aws::StoreError;
use tfguard::model::{FoundLock, LockTrace};
use tfguard::store::{NotClaimed, ReleaseTerms, Released, Store, Traced, UnconditionalDelete, release};

use crate::stores::bed::{Bed, CUSTOMER_KEY, found};
use crate::support::{Action, Answer, Gate, Match};

#[test]
fn the_own_lockfile_is_deleted_on_its_etag_and_only_after_an_examination() {
    let bed = Bed::new();
    let etag = bed.aws.plant_lockfile(&bed.own());
    let store = bed.file_store(UnconditionalDelete::Refuse);
    assert_eq!(bed.release(&store), Released::Deleted);
    assert!(bed.aws.keys(&bed.bucket, "").is_empty());

    let seen = bed.proxy.seen();
    let writes: Vec<_> = seen.iter().filter(|request| request.method == "PUT" || request.method == "POST").collect();
    assert!(writes.iter().all(|write| write.path.contains("/a/k.tflock.tfguard-")), "{writes:?}");
    let deletes: Vec<_> = seen.iter().filter(|request| request.method == "DELETE").collect();
    let [probes @ .., last] = &deletes[..] else { panic!("{seen:?}") };
    assert!(last.path.contains("/a/k.tflock?") || last.path.ends_with("/a/k.tflock"), "{}", last.path);
    assert_eq!(last.header("if-match"), Some(etag.as_str()));
    assert!(!probes.is_empty());
    for probe in probes {
        assert!(probe.path.contains("/a/k.tflock.tfguard-"), "{probe:?}");
        assert!(probe.header("if-match").is_some(), "no delete is without a condition: {probe:?}");
    }

    // The examination is remembered.
    bed.aws.plant_lockfile(&bed.own());
    let before = bed.proxy.seen().len();
    assert_eq!(bed.delete_if(&store), Ok(Ok(())));
    assert_eq!(bed.proxy.seen().len(), before + 2);
    assert_eq!(bed.delete_if(&store), Ok(Err(NotClaimed::NotThere(None))));
}

/// What one attempt finds out of the store is known to the next.
#[test]
fn a_store_that_answers_slowly_is_examined_once() {
    let bed = Bed::new();
    bed.aws.plant_lockfile(&bed.own());
    let store = bed.file_store(UnconditionalDelete::Refuse);
    bed.proxy.rule(Match::any(), [Action::Delay(Duration::from_secs(1))]);
    // An attempt may take a quarter of it: less than all that is to be asked.
    let terms = ReleaseTerms { may_still_appear: false, unlock_in_flight: false, budget: Duration::from_secs(16) };
    let released = bed.aws.block_on(release(&store, &bed.claim(), None, &terms));
    // On a busy machine the time of the attempt may be over before its delete is answered.
    assert!(matches!(released, Released::Deleted | Released::AlreadyGone), "{released:?}");
    assert_eq!(bed.aws.keys(&bed.bucket, ""), Vec::<String>::new());
}

#[test]
fn a_lockfile_is_read_with_the_customers_key() {
    let bed = Bed::new();
    bed.aws.plant_lockfile(&bed.own());
    let _ = bed.aws.block_on(bed.file_store(UnconditionalDelete::Refuse).read());
    let request = &bed.proxy.seen()[0];
    assert_eq!(request.header("x-amz-server-side-encryption-customer-algorithm"), Some("AES256"));
    assert_eq!(request.header("x-amz-server-side-encryption-customer-key"), Some(CUSTOMER_KEY));
    assert_eq!(request.header("x-amz-server-side-encryption-customer-key-md5"), Some("tP/LI3N87DFaSk0aoqYgzg=="));
}

#[test]
fn a_lockfile_in_a_versioned_bucket_is_deleted() {
    let bed = Bed { bucket: "store-versioned".to_owned(), ..Bed::new() };
    bed.aws.create_bucket(&bed.bucket, true);
    bed.aws.plant_lockfile(&bed.own());
    let store = bed.file_store(UnconditionalDelete::Refuse);
    assert_eq!(bed.release(&store), Released::Deleted);
    assert!(!bed.has_lockfile());
    assert_eq!(bed.release(&store), Released::AlreadyGone);
}

/// Guards against an object, a version or a delete marker for each time that a store is examined.
#[test]
fn an_examination_leaves_nothing_in_a_bucket_that_keeps_versions() {
    for (name, ignores) in [("store-examined", false), ("store-examined-and-ignoring", true)] {
        let bed = Bed { bucket: name.to_owned(), ..Bed::new() };
        bed.aws.create_bucket(&bed.bucket, true);
        if ignores {
            bed.proxy.rule(Match::http("DELETE", ""), [Action::Strip("if-match")]);
        }
        bed.aws.plant_lockfile(&bed.own());
        let released = bed.release(&bed.file_store(UnconditionalDelete::Refuse));
        assert_eq!(released == Released::Deleted, !ignores, "{released:?}");
        assert!(
            !bed.proxy.seen_matching(&Match::http("PUT", ".tfguard-")).is_empty(),
            "it was examined with an object"
        );
        let kept = bed.aws.s3().list_object_versions().bucket(&bed.bucket).send();
        let kept = bed.aws.block_on(kept).unwrap();
        let keys = kept.versions().iter().filter_map(|version| version.key());
        let keys: Vec<_> = keys.chain(kept.delete_markers().iter().filter_map(|marker| marker.key())).collect();
        assert!(keys.iter().all(|key| *key == "a/k.tflock"), "{keys:?}");
    }
}

/// A stand-in for versitygw, which answers a delete of nothing with success whatever its condition is.
#[test]
fn a_store_that_keeps_conditions_only_where_something_is_keeps_them() {
    let bed = Bed::new();
    bed.aws.plant_lockfile(&bed.own());
    bed.proxy.rule(Match::http("DELETE", ".tfguard-").nth(1), [Answer::new(204, "").into()]);
    assert_eq!(bed.release(&bed.file_store(UnconditionalDelete::Refuse)), Released::Deleted);
    assert!(bed.aws.keys(&bed.bucket, "").is_empty());
}

/// Guards against an answer without an end that fills the memory.
#[test]
fn an_object_without_an_end_is_read_to_a_limit() {
    let bed = Bed::new();
    bed.aws.put_object(&bed.bucket, "a/k.tflock", vec![b' '; 8 * 1024 * 1024]);
    let found = bed.aws.block_on(bed.file_store(UnconditionalDelete::Refuse).read()).unwrap();
    let Some(FoundLock::Malformed(text)) = found else { panic!("{found:?}") };
    assert!(text.len() < 1024 * 1024, "{}", text.len());
    let long = format!(r#"{{"Item":{{"LockID":{{"S":"{}"}}}}}}"#, "x".repeat(40 * 1024 * 1024));
    bed.proxy.rule(Match::dynamodb("GetItem"), [Answer::new(200, long).into()]);
    let read = bed.aws.block_on(bed.table_store().read());
    assert!(read.is_err(), "an answer is, too");
}

/// The state changes hands between the read and the delete: the successor's lock stays.
#[test]
fn a_lockfile_that_changes_hands_meanwhile_stays() {
    let bed = Bed::new();
    bed.aws.plant_lockfile(&bed.own());
    let store = bed.file_store(UnconditionalDelete::Refuse);
    let gate = Gate::new();
    bed.proxy.rule(Match::http("DELETE", "/a/k.tflock.tfguard-"), [Action::Forward]);
    bed.proxy.rule(Match::http("DELETE", "/a/k.tflock"), [gate.hold()]);
    let released = bed.release_meanwhile(&store, || {
        gate.wait_for(1, Duration::from_secs(20));
        bed.aws.plant_lockfile(&bed.foreign());
        gate.release();
    });
    assert_eq!(released, Released::NotOurs(found(&bed.foreign())));
    assert!(bed.has_lockfile());
}

/// A store that ignores `If-Match` on a delete is found out, and the lock is not what it is found out with.
#[test]
fn a_store_that_ignores_conditions_is_found_out_with_something_else() {
    let bed = Bed::new();
    bed.proxy.rule(Match::http("DELETE", ""), [Action::Strip("if-match")]);
    bed.aws.plant_lockfile(&bed.own());
    let released = bed.release(&bed.file_store(UnconditionalDelete::Refuse));
    assert!(matches!(released, Released::StillThere(StoreError::NoConditions(_))), "{released:?}");
    assert!(bed.has_lockfile());
    let deletes = bed.proxy.seen_matching(&Match::http("DELETE", ""));
    assert!(!deletes.is_empty());
    assert!(deletes.iter().all(|delete| delete.path.contains(".tfguard-")), "{deletes:?}");

    assert_eq!(bed.release(&bed.file_store(UnconditionalDelete::AfterSecondLook)), Released::Deleted);
    assert!(!bed.has_lockfile());
}

/// Guards against the advice to delete without a condition, where only a permission is missing. Nothing is known of the
/// store then, so nothing is deleted, whatever is allowed.
#[test]
fn where_the_examination_is_denied_the_lock_stays_and_the_permission_is_named() {
    // A store that asks for the permission to write only answers the first delete with 404.
    let missing = Answer::s3(404, "NoSuchKey", "none");
    for (method, action) in [("DELETE", "s3:DeleteObject"), ("PUT", "s3:PutObject")] {
        for unconditional in [UnconditionalDelete::Refuse, UnconditionalDelete::AfterSecondLook] {
            let bed = Bed::new();
            bed.aws.plant_lockfile(&bed.own());
            bed.proxy.rule(Match::http(method, ".tfguard-"), [Answer::s3(403, "AccessDenied", "no").into()]);
            bed.proxy.rule(Match::http("DELETE", ".tfguard-"), [missing.clone().into()]);
            let released = bed.release(&bed.file_store(unconditional));
            let Released::StillThere(error) = &released else { panic!("{action}: {released:?}") };
            assert!(matches!(error, StoreError::Denied { action: told, .. } if *told == action), "{error:?}");
            let told = error.to_string();
            assert!(told.contains("a/k.tflock.tfguard-") && !told.contains("second look"), "{told}");
            assert!(bed.has_lockfile());
            let deletes = bed.proxy.seen_matching(&Match::http("DELETE", ""));
            assert!(deletes.iter().all(|delete| delete.path.contains(".tfguard-")), "{deletes:?}");
        }
    }
}

#[test]
fn where_conditions_are_refused_or_senseless_the_lock_stays() {
    for (first, then) in [
        (Answer::s3(501, "NotImplemented", "no"), Answer::s3(501, "NotImplemented", "no")),
        // Complains about missing objects, and about the one made for the examination.
        (Answer::s3(404, "NoSuchKey", "no"), Answer::s3(404, "NoSuchKey", "no")),
        // The same, and ignores the condition, as Google's store does.
        (Answer::s3(404, "NoSuchKey", "no"), Answer::new(204, "")),
    ] {
        let bed = Bed::new();
        bed.aws.plant_lockfile(&bed.own());
        bed.proxy.rule(Match::http("DELETE", ".tfguard-").nth(1), [first.clone().into()]);
        bed.proxy.rule(Match::http("DELETE", ".tfguard-"), [then.into()]);
        let released = bed.release(&bed.file_store(UnconditionalDelete::Refuse));
        assert!(matches!(released, Released::StillThere(StoreError::NoConditions(_))), "{first:?}: {released:?}");
        assert!(bed.has_lockfile());
    }
}

#[test]
fn a_conflict_and_a_busy_store_are_tried_again() {
    for answer in [
        Answer::s3(409, "ConditionalRequestConflict", "again"),
        Answer::s3(503, "SlowDown", "again"),
        Answer::s3(500, "InternalError", "again"),
    ] {
        let bed = Bed::new();
        bed.aws.plant_lockfile(&bed.own());
        let store = bed.file_store(UnconditionalDelete::Refuse);
        bed.proxy.rule(Match::http("DELETE", ".tfguard-"), [Action::Forward]);
        bed.proxy.rule(Match::http("DELETE", "/a/k.tflock").nth(1), [answer.clone().into()]);
        assert_eq!(bed.release(&store), Released::Deleted, "{answer:?}");
        assert!(!bed.has_lockfile());
    }
}

#[test]
fn a_lockfile_is_recognised_by_its_content_and_else_by_its_etag() {
    let bed = Bed::new();
    let Store::Lockfile(store) = bed.file_store(UnconditionalDelete::Refuse) else { panic!() };
    let own = bed.own();
    let sha256 = Some(BASE64_STANDARD.encode(Sha256::digest(own.json())));
    let compare = |sha256: &Option<String>, etag: Option<&str>| {
        let trace = LockTrace {
            bucket: bed.bucket.clone(),
            state_key: "a/k".to_owned(),
            sha256: sha256.clone(),
            etag: etag.map(str::to_owned),
        };
        bed.aws.block_on(store.compare(&trace)).unwrap()
    };
    assert_eq!(compare(&sha256, None), Traced::Nothing);
    let etag = bed.aws.plant_lockfile(&own);
    assert_eq!(compare(&sha256, None), Traced::Same(found(&own)));
    assert_eq!(compare(&sha256, Some("\"another\"")), Traced::Same(found(&own)), "copied, say");
    assert_eq!(compare(&None, Some(&etag)), Traced::Same(found(&own)));
    assert_eq!(compare(&None, None), Traced::Other(found(&own)));
    bed.aws.plant_lockfile(&bed.foreign());
    for (sha256, etag) in [(&sha256, None), (&sha256, Some(etag.as_str())), (&None, Some(etag.as_str())), (&None, None)]
    {
        assert_eq!(compare(sha256, etag), Traced::Other(found(&bed.foreign())));
    }
    let same_etag = bed.aws.plant_lockfile(&bed.foreign());
    assert_eq!(compare(&sha256, Some(&same_etag)), Traced::Other(found(&bed.foreign())), "the content decides");
}
