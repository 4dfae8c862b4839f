//! The lease beside a lock: its beats, and the requests that take a dead holder's lock away.

use std::time::Duration;

use tfguard::aws::StoreError;
use tfguard::model::{FoundLock, Lease, LeaseVersion, Leased};
use tfguard::store::{Claimed, Leasehold, NotClaimed, Store, UnconditionalDelete};

use crate::stores::bed::{Bed, CUSTOMER_KEY, OWN, found, holder};
use crate::support::{Action, Answer, LockInfo as Planted, Match};

const LEASE: &str = "a/k.tflock.lease";

fn lease_of(lock: &str) -> Lease {
    Lease::new(lock.parse().unwrap(), LeaseVersion::fresh(), Duration::from_secs(180))
}

fn fresh() -> Lease {
    lease_of(OWN)
}

impl Bed {
    /// The own lock in both places, and its two halves.
    fn locked(&self) -> [Store; 2] {
        self.aws.plant_lock(&self.table, &self.own());
        self.aws.plant_lockfile(&self.own());
        self.stores(UnconditionalDelete::Refuse)
    }

    fn held(&self, store: &Store) -> Result<Claimed<Leasehold>, StoreError> {
        self.aws.block_on(store.held_lease(&self.claim(), &holder()))
    }

    #[track_caller]
    fn own_lease(&self, store: &Store) -> Leasehold {
        self.held(store).unwrap().unwrap()
    }

    fn beat(&self, store: &Store, from: &Leasehold, lease: &Lease) -> Option<Leasehold> {
        let is_unchanged = self.aws.block_on(store.is_unchanged(from)).unwrap();
        is_unchanged.then(|| self.aws.block_on(store.beat(from, lease)).unwrap()).flatten()
    }

    /// As an observer does it: a lockfile is fenced first.
    fn reclaim(&self, store: &Store, dead: &Leasehold) -> Result<bool, StoreError> {
        if !matches!(store, Store::Lockfile(_)) || dead.leased.lease().is_none() {
            return self.aws.block_on(store.delete_leased(dead));
        }
        if !self.aws.block_on(store.is_unchanged(dead))? {
            return Ok(false);
        }
        match self.beat(store, dead, &fresh()) {
            Some(fence) => self.aws.block_on(store.delete_leased(&fence)),
            None => Ok(false),
        }
    }

    /// All that is stored of the lock, but for its lease.
    fn lock_itself(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let mut item = self.aws.item(&self.table, &self.path());
        item.as_mut().map(|item| item.remove("TfguardLease"));
        (item, self.aws.object(&self.bucket, "a/k.tflock"))
    }
}

#[test]
fn a_beat_changes_the_lease_and_nothing_else_and_only_from_the_version_that_was_read() {
    let bed = Bed::new();
    let stores = bed.locked();
    let before = bed.lock_itself();
    for store in &stores {
        let none = bed.own_lease(store);
        assert_eq!(none.leased, Leased::Nothing);
        let (one, two) = (fresh(), fresh());
        let first = bed.beat(store, &none, &one).unwrap();
        assert_eq!(bed.own_lease(store), first);
        assert_eq!(first.leased, Leased::Lease(one));
        let second = bed.beat(store, &first, &two).unwrap();
        assert_eq!(bed.own_lease(store), second);
        for stale in [&none, &first] {
            assert_eq!(bed.beat(store, stale, &fresh()), None);
        }
        assert_eq!(bed.own_lease(store), second, "a stale beat changed it");
    }
    assert_eq!(bed.lock_itself(), before);
    let writes = bed.proxy.seen_matching(&Match::dynamodb("UpdateItem"));
    assert!(writes.iter().all(|write| write.text().contains("\"ConditionExpression\":\"Info = :Info AND ")));
    for write in bed.proxy.seen_matching(&Match::http("PUT", "")) {
        assert!(write.path.contains(LEASE), "{write:?}");
        assert!(write.header("if-match").or(write.header("if-none-match")).is_some(), "{write:?}");
        assert_eq!(write.header("x-amz-server-side-encryption-customer-key"), Some(CUSTOMER_KEY));
    }
}

/// The state has changed hands: a beat that lands late neither touches the other lock nor makes an item that locks for ever.
#[test]
fn a_beat_never_lands_beside_another_lock_or_none() {
    let bed = Bed::new();
    let stores = bed.locked();
    let beaten = stores.each_ref().map(|store| bed.beat(store, &bed.own_lease(store), &fresh()).unwrap());
    bed.aws.plant_lock(&bed.table, &bed.foreign());
    bed.aws.plant_lockfile(&bed.foreign());
    let (before, lease) = (bed.lock_itself(), bed.aws.object(&bed.bucket, LEASE));
    for (store, from) in stores.iter().zip(&beaten) {
        assert_eq!(bed.beat(store, from, &fresh()), None);
        assert_eq!(bed.held(store).unwrap(), Err(NotClaimed::NotThere(Some(found(&bed.foreign())))));
        assert_eq!(bed.reclaim(store, from), Ok(false), "the other lock stays");
    }
    assert_eq!(bed.lock_itself(), before);
    assert_eq!(bed.aws.object(&bed.bucket, LEASE), lease);
    bed.aws.delete_item(&bed.table, &bed.path());
    bed.aws.delete_object(&bed.bucket, "a/k.tflock");
    for (store, from) in stores.iter().zip(&beaten) {
        assert_eq!(bed.beat(store, from, &fresh()), None);
        assert_eq!(bed.held(store).unwrap(), Err(NotClaimed::NotThere(None)));
    }
    assert!(bed.aws.items(&bed.table).is_empty());
    assert_eq!(bed.aws.keys(&bed.bucket, ""), [LEASE], "of a lock that is gone it means nothing");
}

#[test]
fn another_runs_lock_has_no_lease_of_ours() {
    let bed = Bed::new();
    let [file, table] = bed.locked();
    let mut later = holder();
    later.started = "2026-03-04T05:09:00Z".parse().unwrap();
    for store in [&file, &table] {
        let held = bed.aws.block_on(store.held_lease(&bed.claim(), &later)).unwrap();
        assert!(matches!(held, Err(NotClaimed::NotOwn(_))), "{held:?}");
    }
}

/// A lockfile's lease outlives a holder that was killed, and the lock that a person removed then.
#[test]
fn the_lease_object_of_another_lock_is_taken_over_and_what_nobody_understands_is_seen() {
    let bed = Bed::new();
    let [file, table] = bed.locked();
    let dead = lease_of(&Planted::foreign("x").id);
    bed.aws.put_object(&bed.bucket, LEASE, dead.to_json().into_bytes());
    let left = bed.own_lease(&file);
    assert_eq!(left.leased, Leased::OfAnother(dead.lock));
    let own = bed.beat(&file, &left, &fresh()).unwrap();
    assert_eq!(bed.own_lease(&file), own);
    for strange in [fresh().to_json().replace("\"schema\":1", "\"schema\":2"), "x".repeat(100_000)] {
        bed.aws.put_object(&bed.bucket, LEASE, strange.clone().into_bytes());
        let mut item = bed.aws.item(&bed.table, &bed.path()).unwrap();
        item.insert("TfguardLease".to_owned(), aws_sdk_dynamodb::types::AttributeValue::S(strange));
        bed.aws.put_item(&bed.table, item);
        for store in [&file, &table] {
            let lease = bed.own_lease(store);
            assert!(matches!(lease.leased, Leased::Foreign(_)), "{lease:?}");
            assert!(matches!(bed.reclaim(store, &lease), Err(StoreError::Misdirected(_))));
        }
    }
    assert!(bed.is_locked() && bed.has_lockfile());
}

#[test]
fn a_lock_is_reclaimed_only_from_the_version_that_was_read() {
    let bed = Bed::new();
    for store in &bed.locked() {
        let none = bed.own_lease(store);
        assert!(matches!(bed.reclaim(store, &none), Err(StoreError::Misdirected(_))), "it has no lease");
        let first = bed.beat(store, &none, &fresh()).unwrap();
        let second = bed.beat(store, &first, &fresh()).unwrap();
        assert_eq!(bed.reclaim(store, &first), Ok(false), "its holder lives");
        assert_eq!(bed.own_lease(store), second);
        // As whoever comes next sees it.
        let seen = bed.aws.block_on(store.look()).unwrap().unwrap();
        let seen = bed.aws.block_on(store.lease_of(&seen)).unwrap();
        assert_eq!(seen, second);
        assert_eq!(bed.reclaim(store, &seen), Ok(true));
        assert_eq!(bed.held(store).unwrap(), Err(NotClaimed::NotThere(None)));
    }
    assert!(bed.aws.items(&bed.table).is_empty() && bed.aws.keys(&bed.bucket, "").is_empty());
}

/// Whoever reclaims a lockfile is killed between its steps: the holder is fenced, and the lock waits for the next.
#[test]
fn a_reclaim_that_breaks_off_has_fenced_the_holder() {
    let bed = Bed::new();
    let [file, _] = bed.locked();
    let held = bed.beat(&file, &bed.own_lease(&file), &fresh()).unwrap();
    bed.proxy.rule(Match::http("DELETE", "/a/k.tflock?"), [Answer::s3(503, "SlowDown", "x").into()]);
    assert!(bed.reclaim(&file, &held).is_err());
    assert_eq!(bed.beat(&file, &held, &fresh()), None);
    assert!(bed.has_lockfile());
    bed.proxy.clear_rules();
    let fence = bed.own_lease(&file);
    assert!(matches!(fence.leased, Leased::Lease(_)) && fence != held);
    assert_eq!(bed.reclaim(&file, &fence), Ok(true));
    assert!(bed.aws.keys(&bed.bucket, "").is_empty());
}

#[test]
fn what_is_left_of_a_lease_is_removed_if_it_is_of_that_lock() {
    let bed = Bed::new();
    let [file, table] = bed.locked();
    bed.beat(&file, &bed.own_lease(&file), &fresh()).unwrap();
    for (lock, stays) in [(Planted::foreign("x").id, true), (OWN.to_owned(), false), (OWN.to_owned(), false)] {
        bed.aws.block_on(file.end_lease(&lock.parse().unwrap())).unwrap();
        bed.aws.block_on(table.end_lease(&lock.parse().unwrap())).unwrap();
        assert_eq!(bed.aws.object(&bed.bucket, LEASE).is_some(), stays);
    }
    assert!(bed.is_locked() && bed.has_lockfile());
}

#[test]
fn a_store_that_ignores_the_conditions_of_writes_gives_no_lease() {
    let bed = Bed::new();
    let [file, _] = bed.locked();
    bed.proxy.rule(Match::http("PUT", LEASE), [Action::Strip("if-match")]);
    let none = bed.own_lease(&file);
    let examined = bed.aws.block_on(file.examine_writes(&none));
    assert_eq!(examined, Err(StoreError::UnconditionalWrites));
    assert_eq!(bed.aws.object(&bed.bucket, LEASE), None);
    assert_eq!(
        bed.aws.block_on(file.look()).unwrap().map(|held| held.lock),
        Some(FoundLock::read(bed.own().json().as_bytes()))
    );
}
