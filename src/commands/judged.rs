//! A lock, seen and judged: what `locks`, `inspect` and `unlock` have in common.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::aws::StoreError;
use crate::commands::target::{HalfPlace, State};
use crate::model::{Defect, FoundLock, Holder, Lease, Leased, Liveness, LockInfo, LockPlace, Recorded, Sighting};
use crate::session::{Judged, Machine};
use crate::text::describe;

/// One half of a lock as it was seen.
#[derive(Debug, Clone)]
pub struct HalfSeen {
    pub place: LockPlace,
    pub seen: Sighting,
    /// Whether Terraform is set up to lock there, as far as it is known.
    pub expected: bool,
}

/// A lock, or what blocks like one, as it was seen.
#[derive(Debug, Clone)]
pub struct SeenLock {
    /// The state that it locks: `<bucket>/<state key>`, by its place.
    pub state: String,
    /// Where it was seen.
    pub first: HalfSeen,
    /// Where a lock of the same ID was seen, too: its other half.
    pub others: Vec<HalfSeen>,
}

/// A lock and what it means.
#[derive(Debug, Clone)]
pub struct JudgedLock {
    pub lock: SeenLock,
    /// Its holder, and whether it lives.
    pub judged: Judged,
    /// Whether the state's object is there. None where nobody asked or could.
    pub state_exists: Option<bool>,
    /// What else is noteworthy, as clauses.
    pub notes: Vec<String>,
}

impl SeenLock {
    /// Its halves.
    pub fn halves(&self) -> impl Iterator<Item = &HalfSeen> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The lock's ID, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.first.seen.id()
    }

    /// What it says, if it is a lock.
    pub fn info(&self) -> Option<&LockInfo> {
        match &self.first.seen.lock {
            FoundLock::Held(info) if self.id().is_some() => Some(info),
            _ => None,
        }
    }

    /// Why it is no lock, if it is none.
    pub fn defect(&self) -> Option<Defect> {
        self.first.seen.defect()
    }

    /// Judges it by what stands beside it and by what this machine knows.
    pub fn judge(self, machine: &Machine) -> JudgedLock {
        let judged = match self.info() {
            Some(info) => {
                // The run may not have been allowed to write its record beside both halves.
                let rank = |recorded: &&Recorded| match recorded {
                    Recorded::Holder(_) => 2,
                    Recorded::Foreign(_) => 1,
                    Recorded::Nothing => 0,
                };
                let recorded = self.halves().map(|half| &half.seen.recorded).max_by_key(rank);
                machine.judge(info, recorded.unwrap_or(&Recorded::Nothing))
            }
            None => {
                let why = self.defect().map_or("it has no ID", Defect::told).to_owned();
                Judged { holder: None, verdict: Liveness::Unknown { why } }
            }
        };
        let other = self.info().filter(|info| !info.path.is_empty() && info.path != self.state);
        let notes = other.map(|info| format!("it says that it locks {}", info.path)).into_iter().collect();
        JudgedLock { lock: self, judged, state_exists: None, notes }
    }
}

impl JudgedLock {
    /// When its holder began to ask for it, by the holder's clock; where it does not say that, when it was written.
    pub fn since(&self) -> Option<Timestamp> {
        let created = self.lock.info().and_then(|info| info.created.parse().ok());
        created.or_else(|| self.lock.halves().find_map(|half| half.seen.written))
    }

    /// How old it is. Clocks differ, so a lock of the future is as old as nothing.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.since().map(|since| now.duration_since(since).try_into().unwrap_or_default())
    }

    /// Why it is stale, in a word each; empty if it is not. `older_than`: the age from which on a lock is stale by that
    /// alone.
    pub fn stale(&self, older_than: Option<Duration>, now: Timestamp) -> Vec<&'static str> {
        let dead = self.judged.verdict.is_dead().then_some("dead");
        let old = older_than.zip(self.age(now)).is_some_and(|(limit, age)| age > limit).then_some("old");
        [self.lock.defect().map(Defect::word), dead, old].into_iter().flatten().collect()
    }

    /// All that is noteworthy, as clauses.
    pub fn noteworthy(&self) -> Vec<String> {
        let missing = "there is no state object: it is a new state, or its bucket, key or workspace has changed since";
        let missing = (self.state_exists == Some(false)).then(|| missing.to_owned());
        let lease = self.lock.halves().find_map(|half| half.seen.leased.lease()).map(|lease| {
            format!(
                "it has a lease of {}: `tfguard unlock {} --expired` watches whether its run renews it",
                describe(lease.length()),
                lease.lock
            )
        });
        let foreign = self.lock.halves().find_map(|half| match &half.seen.leased {
            Leased::Foreign(why) => Some(why.clone()),
            _ => None,
        });
        let lease = lease.or(foreign);
        let elsewhere = self
            .lock
            .halves()
            .filter(|half| !half.expected)
            .map(|half| format!("Terraform isn't set up to lock there now and ignores it: {}", half.place));
        self.notes.iter().cloned().chain(lease).chain(missing).chain(elsewhere).collect()
    }

    /// The lock as JSON has it.
    pub fn view(&self, older_than: Option<Duration>, now: Timestamp) -> View<'_> {
        let info = self.lock.info();
        let of = |field: fn(&LockInfo) -> &String| info.map(|info| field(info).as_str());
        View {
            state: &self.lock.state,
            id: self.lock.id(),
            operation: of(|info| &info.operation),
            who: of(|info| &info.who),
            version: of(|info| &info.version),
            created: of(|info| &info.created),
            age_seconds: self.age(now).map(|age| age.as_secs()),
            defect: self.lock.defect(),
            content: self.lock.first.seen.content(),
            verdict: &self.judged.verdict,
            holder: self.judged.holder.as_ref(),
            lease: self.lock.halves().find_map(|half| half.seen.leased.lease()),
            stale: self.stale(older_than, now),
            state_exists: self.state_exists,
            notes: self.noteworthy(),
            places: self.lock.halves().map(|half| &half.place).collect(),
        }
    }
}

/// A lock as JSON has it. Documented in `docs/operator.md`.
#[derive(Debug, Serialize)]
pub struct View<'a> {
    state: &'a str,
    id: Option<&'a str>,
    operation: Option<&'a str>,
    who: Option<&'a str>,
    version: Option<&'a str>,
    created: Option<&'a str>,
    age_seconds: Option<u64>,
    defect: Option<Defect>,
    content: Option<String>,
    #[serde(flatten)]
    verdict: &'a Liveness,
    holder: Option<&'a Holder>,
    lease: Option<&'a Lease>,
    stale: Vec<&'static str>,
    state_exists: Option<bool>,
    notes: Vec<String>,
    places: Vec<&'a LockPlace>,
}

/// An age in two units at most: `3d 4h`, `12m 5s`.
pub fn age_in_words(age: Duration) -> String {
    let seconds = age.as_secs();
    let (first, second) = match seconds {
        0..60 => return format!("{seconds}s"),
        60..3600 => ((seconds / 60, "m"), (seconds % 60, "s")),
        3600..86400 => ((seconds / 3600, "h"), (seconds % 3600 / 60, "m")),
        _ => ((seconds / 86400, "d"), (seconds % 86400 / 3600, "h")),
    };
    let of = |(count, unit): (u64, &str)| format!("{count}{unit}");
    if second.0 == 0 { of(first) } else { format!("{} {}", of(first), of(second)) }
}

/// Brings the halves of the same locks together, by state and ID.
#[derive(Debug, Default)]
pub struct Merged {
    locks: Vec<SeenLock>,
    by_id: HashMap<(String, String), usize>,
    places: HashSet<LockPlace>,
}

impl Merged {
    /// Adds a half. A place that is seen twice counts once.
    pub fn add(&mut self, state: String, half: HalfSeen) {
        let Some(first) = self.absorb(&state, half) else { return };
        self.places.insert(first.place.clone());
        if let Some(id) = first.seen.id() {
            self.by_id.insert((state.clone(), id.to_owned()), self.locks.len());
        }
        self.locks.push(SeenLock { state, first, others: Vec::new() });
    }

    /// Adds a half of a lock that is known already; gives it back if it is none.
    pub fn absorb(&mut self, state: &str, half: HalfSeen) -> Option<HalfSeen> {
        if self.places.contains(&half.place) {
            return None;
        }
        let known = half.seen.id().and_then(|id| self.by_id.get(&(state.to_owned(), id.to_owned())));
        let Some(at) = known else { return Some(half) };
        self.places.insert(half.place.clone());
        self.locks[*at].others.push(half);
        None
    }

    /// The locks.
    pub fn into_locks(self) -> Vec<SeenLock> {
        self.locks
    }
}

/// Something that was not read.
#[derive(Debug, Clone)]
pub struct Unread {
    /// What, in words.
    pub what: String,
    /// Why; none where nobody asked.
    pub error: Option<StoreError>,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, ": {}", error.in_a_line()))
    }
}

/// What was seen at one half.
#[derive(Debug)]
pub struct HalfLook {
    /// Where was looked.
    pub at: HalfPlace,
    /// What was there.
    pub seen: Result<Option<Sighting>, StoreError>,
}

impl HalfLook {
    /// What was there, if something was.
    pub fn found(&self) -> Option<&Sighting> {
        self.seen.as_ref().ok()?.as_ref()
    }

    /// Why it could not be looked at, where Terraform locks there.
    pub fn failure(&self) -> Option<&StoreError> {
        self.seen.as_ref().err().filter(|_| self.at.expected)
    }

    /// The same with the place.
    pub fn unread(&self) -> Option<Unread> {
        Some(Unread { what: self.at.place.to_string(), error: Some(self.failure()?.clone()) })
    }

    /// What was there, with its place.
    pub fn half(&self) -> Option<HalfSeen> {
        let seen = self.found()?.clone();
        Some(HalfSeen { place: self.at.place.clone(), seen, expected: self.at.expected })
    }
}

impl State {
    /// Looks at both halves of the lock, a table consistently.
    pub async fn look_at_lock(&self) -> Vec<HalfLook> {
        let reader = self.clients.reader();
        let looks = self.halves().into_iter().map(|at| {
            let reader = &reader;
            async move {
                let seen = reader.look(&at.place).await;
                if let Err(error) = &seen {
                    tracing::debug!("{}: {error}", at.place);
                }
                HalfLook { at, seen }
            }
        });
        futures_util::future::join_all(looks).await
    }

    /// Where else a lock of it may be, of which flags alone do not tell whether Terraform locks there.
    pub fn doubts(&self, looks: &[HalfLook]) -> Vec<Unread> {
        if self.dir.is_some() {
            return Vec::new();
        }
        let unread = looks.iter().filter(|look| !look.at.expected);
        let unread = unread.filter_map(|look| {
            Some(Unread { what: look.at.place.to_string(), error: Some(look.seen.as_ref().err()?.clone()) })
        });
        let what = "a DynamoDB table: none was named. If the state locks in one, give --table".to_owned();
        let table = self.backend.table().is_none().then_some(Unread { what, error: None });
        unread.chain(table).collect()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use proptest::prelude::*;

    use super::*;

    fn lock(info: Option<&str>) -> JudgedLock {
        let item = info.map(|info| ("Info".to_owned(), AttributeValue::S(info.to_owned())));
        let first = half(0, Sighting::of_item(&item.into_iter().collect()));
        let verdict = Liveness::Unknown { why: String::new() };
        JudgedLock {
            lock: SeenLock { state: "b/k".to_owned(), first, others: Vec::new() },
            judged: Judged { holder: None, verdict },
            state_exists: None,
            notes: Vec::new(),
        }
    }

    fn half(table: u8, seen: Sighting) -> HalfSeen {
        let (region, endpoint) = ("r".to_owned(), None);
        let place = LockPlace::DynamoDb { table: table.to_string(), lock_id: "b/k".to_owned(), region, endpoint };
        HalfSeen { place, seen, expected: true }
    }

    #[test]
    fn ages_are_told_in_two_units_at_most() {
        for (seconds, told) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (725, "12m 5s"), (3600, "1h"), (7265, "2h 1m"), (277_200, "3d 5h")]
        {
            assert_eq!(age_in_words(Duration::from_secs(seconds)), told);
        }
    }

    #[test]
    fn a_lock_is_stale_by_proof_by_what_it_is_or_by_an_age_that_was_asked_for() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let hour = Some(Duration::from_secs(3600));
        let at = |created: &str| lock(Some(&format!(r#"{{"ID":"x","Created":"{created}"}}"#)));
        assert_eq!(at("2026-11-20T08:00:00Z").stale(None, now), [""; 0]);
        assert_eq!(at("2026-11-20T08:00:00Z").stale(hour, now), ["old"]);
        assert_eq!(at("2026-11-20T09:00:00Z").stale(hour, now), [""; 0], "not older than an hour");
        assert_eq!(at("2026-11-21T10:00:00Z").stale(hour, now), [""; 0], "clocks differ");
        assert_eq!(at("yesterday").stale(hour, now), [""; 0], "what tells no time has no age");
        let mut dead = at("2026-11-20T08:00:00Z");
        dead.judged.verdict = Liveness::Dead { why: String::new() };
        assert_eq!(dead.stale(hour, now), ["dead", "old"]);
        assert_eq!(dead.stale(None, now), ["dead"]);
        assert_eq!(lock(None).stale(hour, now), ["ghost"]);
        assert_eq!(lock(Some("{")).stale(None, now), ["malformed"]);
    }

    proptest! {
        /// In whatever order halves come: each place counts once, and what has one state and one ID is one lock.
        #[test]
        fn halves_come_together(halves in proptest::collection::vec((0..4_u8, 0..3_u8, 0..3_u8), 0..20)) {
            let mut merged = Merged::default();
            for (table, state, id) in &halves {
                let info = match id {
                    0 => "{".to_owned(),
                    id => format!(r#"{{"ID":"{id}"}}"#),
                };
                let seen = lock(Some(&info)).lock.first.seen;
                merged.add(format!("b/{state}"), half(*table, seen));
            }
            let locks = merged.into_locks();
            let mut places: Vec<_> = locks.iter().flat_map(SeenLock::halves).map(|half| half.place.to_string()).collect();
            places.sort_unstable();
            let mut expected: Vec<_> = halves.iter().map(|(table, ..)| half(*table, lock(None).lock.first.seen).place.to_string()).collect();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(places, expected);
            let mut keys = HashSet::new();
            for lock in &locks {
                prop_assert!(lock.halves().all(|half| half.seen.id() == lock.id()));
                prop_assert!(lock.id().is_none_or(|id| keys.insert((lock.state.clone(), id.to_owned()))));
            }
        }
    }
}
