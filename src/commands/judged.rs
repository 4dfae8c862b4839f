//! A lock, seen and judged: what `locks`, `inspect` and `unlock` have in common.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::aws::StoreError;
use crate::commands::target::{HalfOf, State};
use crate::model::{Defect, Lease, Leased, Liveness, LockInfo, Recorded, Sighting};
use crate::session::{Judged, Machine};
use crate::text::{describe, in_a_line};

/// One half of a lock as it was seen.
pub type HalfSeen = HalfOf<Sighting>;
/// What was there when somebody looked, if it could be seen.
pub type HalfLook = HalfOf<Result<Option<Sighting>, StoreError>>;

/// A lock, or what blocks like one, as it was seen.
#[derive(Debug, Clone)]
pub struct SeenLock {
    /// The state that it locks: `<bucket>/<state key>`, by its place.
    pub state: String,
    /// Where a lock of one ID was seen; at least at one place.
    pub halves: Vec<HalfSeen>,
}

/// A lock and what it means.
#[derive(Debug, Clone)]
pub struct JudgedLock {
    pub lock: SeenLock,
    /// Its holder, and whether it lives.
    pub judged: Judged,
    /// When that was looked at.
    pub now: Timestamp,
    /// The age from which on a lock is stale by that alone, if there is one.
    pub older_than: Option<Duration>,
    /// Whether the state's object is there. None where nobody asked or could.
    pub state_exists: Option<bool>,
    /// What else is noteworthy, as clauses.
    pub notes: Vec<String>,
}

impl SeenLock {
    /// What was seen at its first place.
    pub fn first(&self) -> &HalfSeen {
        &self.halves[0]
    }

    /// What it says, or why it is no lock.
    pub fn held(&self) -> Result<&LockInfo, Defect> {
        self.first().seen.held()
    }

    /// What it says, if it is a lock.
    pub fn info(&self) -> Option<&LockInfo> {
        self.held().ok()
    }

    /// The lock's ID, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.first().seen.id()
    }

    /// The lease that stands beside it, if there is one.
    fn lease(&self) -> Option<&Lease> {
        self.halves.iter().find_map(|half| half.seen.leased.lease())
    }

    /// Judges it by what stands beside it and by what this machine knows.
    pub fn judge(self, machine: &Machine, now: Timestamp, older_than: Option<Duration>) -> JudgedLock {
        let judged = match self.held() {
            Ok(info) => {
                // The run may not have been allowed to write its record beside both halves.
                let rank = |recorded: &&Recorded| match recorded {
                    Recorded::Holder(_) => 2,
                    Recorded::Foreign(_) => 1,
                    Recorded::Nothing => 0,
                };
                let recorded = self.halves.iter().map(|half| &half.seen.recorded).max_by_key(rank);
                machine.judge(info, recorded.unwrap_or(&Recorded::Nothing))
            }
            Err(defect) => Judged { holder: None, verdict: Liveness::Unknown { why: defect.told().to_owned() } },
        };
        let other = self.info().filter(|info| !info.path.is_empty() && info.path != self.state);
        let notes = other.map(|info| format!("it says that it locks {}", info.path)).into_iter().collect();
        JudgedLock { lock: self, judged, now, older_than, state_exists: None, notes }
    }
}

impl JudgedLock {
    /// When its holder began to ask for it, by the holder's clock; where it does not say that, when it was written.
    pub fn since(&self) -> Option<Timestamp> {
        let created = self.lock.info().and_then(|info| info.created.parse().ok());
        created.or_else(|| self.lock.halves.iter().find_map(|half| half.seen.written))
    }

    /// How old it is. Clocks differ, so a lock of the future is as old as nothing.
    pub fn age(&self) -> Option<Duration> {
        self.since().map(|since| self.now.duration_since(since).try_into().unwrap_or_default())
    }

    /// The page of the CI run that holds it, if that is known.
    pub fn run_page(&self) -> Option<&str> {
        self.judged.holder.as_ref()?.ci.as_ref()?.url.as_deref()
    }

    /// Why it is stale, in a word each; empty if it is not.
    pub fn stale(&self) -> Vec<&'static str> {
        let dead = self.judged.verdict.is_dead().then_some("dead");
        let old = self.older_than.zip(self.age()).is_some_and(|(limit, age)| age > limit).then_some("old");
        [self.lock.held().err().map(Defect::word), dead, old].into_iter().flatten().collect()
    }

    /// All that is noteworthy, as clauses.
    pub fn noteworthy(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        let foreign = |half: &HalfSeen| match &half.seen.leased {
            Leased::Foreign(why) => Some(why.clone()),
            _ => None,
        };
        notes.extend(match self.lock.lease() {
            Some(lease) => Some(format!(
                "it has a lease of {}: `tfguard unlock {} --expired` watches whether its run renews it",
                describe(lease.length()),
                lease.lock
            )),
            None => self.lock.halves.iter().find_map(foreign),
        });
        if self.state_exists == Some(false) {
            let why = "it is a new state, or its bucket, key or workspace has changed since";
            notes.push(format!("there is no state object: {why}"));
        }
        let ignored = self.lock.halves.iter().filter(|half| !half.expected);
        notes.extend(
            ignored.map(|half| format!("Terraform isn't set up to lock there now and ignores it: {}", half.place)),
        );
        notes
    }

    /// The lock as JSON has it. Documented in `docs/operator.md`.
    pub fn view(&self) -> Value {
        let info = self.lock.info();
        json!({
            "state": self.lock.state,
            "id": self.lock.id(),
            "operation": info.map(|info| &info.operation),
            "who": info.map(|info| &info.who),
            "version": info.map(|info| &info.version),
            "created": info.map(|info| &info.created),
            "age_seconds": self.age().map(|age| age.as_secs()),
            "defect": self.lock.held().err(),
            "content": self.lock.first().seen.content(),
            "verdict": self.judged.verdict.word(),
            "why": self.judged.verdict.why(),
            "holder": self.judged.holder,
            "lease": self.lock.lease(),
            "stale": self.stale(),
            "state_exists": self.state_exists,
            "notes": self.noteworthy(),
            "places": self.lock.halves.iter().map(|half| &half.place).collect::<Vec<_>>(),
        })
    }
}

/// Brings the halves of the same locks together: by state and ID, and what has no ID by state and place.
#[derive(Debug, Default)]
pub struct Merged(BTreeMap<(String, String), Vec<HalfSeen>>);

impl Merged {
    /// Adds a half. One that is seen twice counts once.
    pub fn add(&mut self, state: String, half: HalfSeen) {
        if let Some(half) = self.absorb(&state, half) {
            self.0.insert(key(&state, &half), vec![half]);
        }
    }

    /// Adds a half of a lock that is known already; gives it back if it is none.
    pub fn absorb(&mut self, state: &str, half: HalfSeen) -> Option<HalfSeen> {
        let Some(halves) = self.0.get_mut(&key(state, &half)) else { return Some(half) };
        if halves.iter().all(|known| known.place != half.place) {
            halves.push(half);
        }
        None
    }

    /// The locks.
    pub fn into_locks(self) -> Vec<SeenLock> {
        self.0.into_iter().map(|((state, _), halves)| SeenLock { state, halves }).collect()
    }
}

fn key(state: &str, half: &HalfSeen) -> (String, String) {
    (state.to_owned(), half.seen.id().map_or_else(|| half.place.to_string(), str::to_owned))
}

/// Something that was not read.
#[derive(Debug, Clone)]
pub struct Unread {
    /// What, in words.
    pub what: String,
    /// Why; none where nobody asked.
    pub error: Option<StoreError>,
}

impl Unread {
    /// The same, with a hint on a line of its own.
    pub fn on_lines(&self) -> String {
        let why = self.error.as_ref().map(|error| format!(": {}", error.on_lines()));
        self.what.clone() + &why.unwrap_or_default()
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_a_line(&self.on_lines()))
    }
}

impl HalfLook {
    /// What was there, if something was.
    pub fn found(&self) -> Option<&Sighting> {
        self.seen.as_ref().ok()?.as_ref()
    }

    /// What could not be looked at, and why, where Terraform locks there.
    pub fn unread(&self) -> Option<Unread> {
        self.failure().filter(|_| self.expected)
    }

    fn failure(&self) -> Option<Unread> {
        let error = self.seen.as_ref().err()?.clone();
        Some(Unread { what: self.place.to_string(), error: Some(error) })
    }

    /// What was there, with its place.
    pub fn half(&self) -> Option<HalfSeen> {
        let seen = self.found()?.clone();
        Some(HalfSeen { place: self.place.clone(), seen, expected: self.expected })
    }
}

impl State {
    /// Looks at both halves of the lock, a table consistently.
    pub async fn look_at_lock(&self) -> Vec<HalfLook> {
        let looks = self.halves().into_iter().map(async |HalfOf { place, expected, .. }| {
            let seen = self.clients.look(&place).await;
            if let Err(error) = &seen {
                tracing::debug!("{place}: {error}");
            }
            HalfLook { place, seen, expected }
        });
        futures_util::future::join_all(looks).await
    }

    /// Where else a lock of it may be, of which flags alone do not tell whether Terraform locks there.
    pub fn doubts(&self, looks: &[HalfLook]) -> Vec<Unread> {
        if self.dir.is_some() {
            return Vec::new();
        }
        let unread = looks.iter().filter(|look| !look.expected).filter_map(HalfLook::failure);
        let what = "a DynamoDB table: none was named. If the state locks in one, give --table".to_owned();
        let table = self.backend.table().is_none().then_some(Unread { what, error: None });
        unread.chain(table).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use aws_sdk_dynamodb::types::AttributeValue;
    use proptest::prelude::*;

    use super::*;
    use crate::model::LockPlace;

    fn lock(info: Option<&str>) -> JudgedLock {
        let item = info.map(|info| ("Info".to_owned(), AttributeValue::S(info.to_owned())));
        let first = half(0, Sighting::of_item(&item.into_iter().collect()));
        let verdict = Liveness::Unknown { why: String::new() };
        JudgedLock {
            lock: SeenLock { state: "b/k".to_owned(), halves: vec![first] },
            judged: Judged { holder: None, verdict },
            now: "2026-11-20T10:00:00Z".parse().unwrap(),
            older_than: None,
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
    fn a_lock_is_stale_by_proof_by_what_it_is_or_by_an_age_that_was_asked_for() {
        let hour = Some(Duration::from_secs(3600));
        let stale = |info: Option<&str>, older_than| JudgedLock { older_than, ..lock(info) }.stale();
        let at = |created: &str, older_than| stale(Some(&format!(r#"{{"ID":"x","Created":"{created}"}}"#)), older_than);
        assert_eq!(at("2026-11-20T08:00:00Z", None), [""; 0]);
        assert_eq!(at("2026-11-20T08:00:00Z", hour), ["old"]);
        assert_eq!(at("2026-11-20T09:00:00Z", hour), [""; 0], "not older than an hour");
        assert_eq!(at("2026-11-21T10:00:00Z", hour), [""; 0], "clocks differ");
        assert_eq!(at("yesterday", hour), [""; 0], "what tells no time has no age");
        assert_eq!(stale(None, hour), ["ghost"]);
        assert_eq!(stale(Some("{"), None), ["malformed"]);
        let mut dead = lock(Some(r#"{"ID":"x","Created":"2026-11-20T08:00:00Z"}"#));
        dead.judged.verdict = Liveness::Dead { why: String::new() };
        assert_eq!(dead.stale(), ["dead"]);
        dead.older_than = hour;
        assert_eq!(dead.stale(), ["dead", "old"]);
    }

    proptest! {
        /// In whatever order halves come: each counts once, and what has one state and one ID is one lock.
        #[test]
        fn halves_come_together(halves in proptest::collection::vec((0..4_u8, 0..3_u8, 0..3_u8), 0..20)) {
            let mut merged = Merged::default();
            for (table, state, id) in &halves {
                let info = match id {
                    0 => "{".to_owned(),
                    id => format!(r#"{{"ID":"{id}"}}"#),
                };
                let seen = lock(Some(&info)).lock.first().seen.clone();
                merged.add(format!("b/{state}"), half(*table, seen));
            }
            let locks = merged.into_locks();
            let seen: Vec<_> = locks.iter().flat_map(|lock| lock.halves.iter().map(|half| (&lock.state, half))).collect();
            let seen = seen.iter().map(|(state, half)| (state.as_str(), half.seen.id(), half.place.to_string()));
            let distinct: HashSet<_> = seen.clone().collect();
            prop_assert_eq!(distinct.len(), seen.len());
            prop_assert_eq!(distinct.len(), halves.iter().collect::<HashSet<_>>().len());
            let mut keys = HashSet::new();
            for lock in &locks {
                prop_assert!(lock.halves.iter().all(|half| half.seen.id() == lock.id()));
                prop_assert!(lock.id().is_none_or(|id| keys.insert((lock.state.clone(), id.to_owned()))));
            }
        }
    }
}
