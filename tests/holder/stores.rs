//! The record in the real DynamoDB and S3 API: it touches nothing but itself, and only beside the claimed lock.

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::types::{BucketVersioningStatus, Tag, Tagging, VersioningConfiguration};
use tfguard::aws::StoreError;
use tfguard::model::{FoundLock, Holder, Recorded};
use tfguard::store::{Claimed, NotClaimed, Store, UnconditionalDelete};

use super::*;
use crate::stores::bed::{Bed, OWN, found};

fn holder(lock: &str) -> Holder {
    let text = serde_json::json!({
        "schema": 1, "lock": lock, "tfguard": "0.1.0", "started": "2026-03-04T05:06:00Z", "host": "runner-7",
        "ci": {"provider": "gitlab", "url": "https://gitlab.example.com/a/-/jobs/7", "job": "7"},
        "actor": "alice", "world": {"boot_id": "b", "pid_namespace": 1},
        "session": "/builds/a/tfguard/s",
    });
    serde_json::from_value(text).unwrap()
}

fn annotate(bed: &Bed, store: &Store) -> Result<Claimed<()>, StoreError> {
    bed.aws.block_on(store.annotate(&bed.claim(), &holder(OWN)))
}

/// The lock, and the record beside it.
fn read(bed: &Bed, store: &Store) -> Option<(FoundLock, Recorded)> {
    bed.aws.block_on(store.look()).unwrap().map(|seen| (seen.lock, seen.recorded))
}

fn recorded() -> Recorded {
    Recorded::Holder(Box::new(holder(OWN)))
}

fn stores(bed: &Bed) -> [(&'static str, Store); 2] {
    let [file, table] = bed.stores(UnconditionalDelete::Refuse);
    [("lockfile", file), ("table", table)]
}

fn tags(bed: &Bed) -> Vec<(String, String)> {
    let request = bed.aws.s3().get_object_tagging().bucket(&bed.bucket).key("a/k.tflock");
    let tags = bed.aws.block_on(request.send()).unwrap().tag_set;
    tags.into_iter().map(|tag| (tag.key, tag.value)).collect()
}

fn put_tags(bed: &Bed, tags: impl IntoIterator<Item = (String, String)>) {
    let tag = |(name, value)| Tag::builder().key(name).value(value).build().unwrap();
    let tagging = Tagging::builder().set_tag_set(Some(tags.into_iter().map(tag).collect())).build().unwrap();
    let request = bed.aws.s3().put_object_tagging().bucket(&bed.bucket).key("a/k.tflock").tagging(tagging);
    bed.aws.block_on(request.send()).unwrap();
}

#[test]
fn the_record_comes_back_and_changes_nothing_of_the_lock() {
    let bed = Bed::new();
    bed.aws.plant_lock(&bed.table, &bed.own());
    let etag = bed.aws.plant_lockfile(&bed.own());
    for (half, store) in stores(&bed) {
        assert_eq!(read(&bed, &store), Some((found(&bed.own()), Recorded::Nothing)), "{half}");
        for _ in 0..2 {
            assert_eq!(annotate(&bed, &store), Ok(Ok(())), "{half}");
        }
        assert_eq!(read(&bed, &store), Some((found(&bed.own()), recorded())), "{half}");
    }
    let item = bed.aws.item(&bed.table, &bed.path()).unwrap();
    assert_eq!(item["Info"], AttributeValue::S(bed.own().json()));
    assert_eq!(item.len(), 3, "{item:?}");
    let object = bed.aws.object(&bed.bucket, "a/k.tflock").unwrap();
    assert_eq!((object.body, object.etag), (bed.own().json().into_bytes(), etag));
    for (half, store) in stores(&bed) {
        assert!(matches!(bed.delete_if(&store), Ok(Ok(()))), "{half}");
    }
}

/// Also where the request lands late, after the unlock or on the next holder's lock.
#[test]
fn nothing_is_written_where_the_claimed_lock_is_not() {
    for plant in [false, true] {
        let bed = Bed::new();
        if plant {
            bed.aws.plant_lock(&bed.table, &bed.foreign());
            bed.aws.plant_lockfile(&bed.foreign());
        }
        let before = bed.aws.items(&bed.table);
        for (half, store) in stores(&bed) {
            assert_eq!(
                annotate(&bed, &store),
                Ok(Err(NotClaimed::NotThere(plant.then(|| found(&bed.foreign()))))),
                "{half}"
            );
            assert_eq!(read(&bed, &store).is_some(), plant, "{half}");
        }
        assert_eq!(bed.aws.items(&bed.table), before, "no ghost, no change");
        assert_eq!(bed.aws.keys(&bed.bucket, "").len(), usize::from(plant));
        if plant {
            assert_eq!(tags(&bed), []);
        }
    }
}

/// In a bucket without versions a late request hits whatever object is there.
#[test]
fn tags_that_land_on_the_next_lock_are_not_taken_for_its_own() {
    let bed = Bed::new();
    let gate = Gate::new();
    bed.proxy.rule(Match::http("PUT", "tagging"), [gate.hold()]);
    bed.aws.plant_lockfile(&bed.own());
    let [(_, store), _] = stores(&bed);
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(store.annotate(&bed.claim(), &holder(OWN)))
        });
        gate.wait_for(1, SOON);
        bed.aws.plant_lockfile(&bed.foreign());
        gate.release();
        late.join().unwrap()
    });
    assert_eq!(late, Ok(Ok(())));
    let (lock, recorded) = read(&bed, &store).unwrap();
    assert_eq!(lock, found(&bed.foreign()));
    assert!(matches!(&recorded, Recorded::Foreign(why) if why.contains(OWN)), "{recorded:?}");
}

#[test]
fn in_a_versioned_bucket_the_tags_hit_the_object_that_was_read() {
    let bed = Bed::new();
    let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let request = bed.aws.s3().put_bucket_versioning().bucket(&bed.bucket).versioning_configuration(on);
    bed.aws.block_on(request.send()).unwrap();
    let gate = Gate::new();
    bed.proxy.rule(Match::http("PUT", "tagging"), [gate.hold()]);
    bed.aws.plant_lockfile(&bed.own());
    let [(_, store), _] = stores(&bed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let _ = runtime.unwrap().block_on(store.annotate(&bed.claim(), &holder(OWN))).unwrap();
        });
        gate.wait_for(1, SOON);
        bed.aws.delete_object(&bed.bucket, "a/k.tflock");
        bed.aws.plant_lockfile(&bed.foreign());
        gate.release();
    });
    assert_eq!(read(&bed, &store), Some((found(&bed.foreign()), Recorded::Nothing)));
}

/// OpenTofu's `lock_tags`.
#[test]
fn tags_of_others_stay() {
    let bed = Bed::new();
    let [(_, store), _] = stores(&bed);
    for (others, room) in [(1, true), (8, true), (9, false)] {
        bed.aws.plant_lockfile(&bed.own());
        let own: Vec<_> = (0..others).map(|n| (format!("team-{n}"), "infra".to_owned())).collect();
        put_tags(&bed, own.clone());
        let written = annotate(&bed, &store);
        assert_eq!(written == Ok(Ok(())), room, "{written:?}");
        assert!(own.iter().all(|tag| tags(&bed).contains(tag)), "{:?}", tags(&bed));
        assert_eq!(read(&bed, &store).unwrap().1.holder().is_some(), room);
        assert!(tags(&bed).len() <= 10);
    }
}

/// A store that knows no tags may take a question for one about the object, and so the answer for a new lockfile.
#[test]
fn in_a_store_that_knows_no_tags_nothing_is_written() {
    let bed = Bed::new();
    bed.aws.plant_lockfile(&bed.own());
    let [(_, store), _] = stores(&bed);
    for body in [bed.own().json(), String::new()] {
        bed.proxy.clear_rules();
        bed.proxy.rule(Match::http("GET", "tagging"), [Action::Answer(Answer::new(200, body.clone()))]);
        let written = annotate(&bed, &store);
        assert!(matches!(written, Err(StoreError::Nonsense(_))), "{body}: {written:?}");
        assert!(bed.proxy.seen_matching(&Match::http("PUT", "")).is_empty(), "{body}");
    }
}

#[test]
fn a_record_that_cannot_be_used_does_not_hide_the_lock() {
    let bed = Bed::new();
    bed.aws.plant_lock(&bed.table, &bed.own());
    bed.aws.plant_lockfile(&bed.own());
    let strange = [
        AttributeValue::N("7".to_owned()),
        AttributeValue::S("{".to_owned()),
        AttributeValue::S("{\"schema\": 2}".to_owned()),
        AttributeValue::S(serde_json::to_string(&holder(&OWN.replace('4', "5"))).unwrap()),
    ];
    for value in strange {
        let mut item = bed.aws.item(&bed.table, &bed.path()).unwrap();
        item.insert(ATTRIBUTE.to_owned(), value);
        bed.aws.put_item(&bed.table, item);
        let (lock, recorded) = read(&bed, &bed.table_store()).unwrap();
        assert!(lock == found(&bed.own()) && matches!(recorded, Recorded::Foreign(_)), "{recorded:?}");
    }
    for (name, value) in [("tfguard:lock", OWN), ("tfguard:record", "2 0.9.0 later"), ("tfguard:record", "1 =")] {
        put_tags(&bed, [(name.to_owned(), value.to_owned())]);
        let (lock, recorded) = read(&bed, &bed.file_store(UnconditionalDelete::Refuse)).unwrap();
        assert!(lock == found(&bed.own()) && matches!(recorded, Recorded::Foreign(_)), "{recorded:?}");
    }
    // Read with permissions that do not reach the tags.
    bed.proxy.rule(Match::http("GET", "tagging"), [Action::Answer(Answer::s3(403, "AccessDenied", "no"))]);
    let file = bed.file_store(UnconditionalDelete::Refuse);
    let (lock, recorded) = read(&bed, &file).unwrap();
    assert_eq!(lock, found(&bed.own()));
    assert!(matches!(&recorded, Recorded::Foreign(why) if why.contains("s3:GetObjectTagging")), "{recorded:?}");
    assert!(matches!(annotate(&bed, &file), Err(StoreError::Denied { action: "s3:GetObjectTagging", .. })));
}
