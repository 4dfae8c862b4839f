//! Lockfiles that are known by their checksum and ETag only.
//!
//! OpenTofu never logs the ID of a lock that is an object, and aws-sdk-go-base leaves out the bodies of objects. What
//! the log has is the SHA-256 of what was uploaded and the ETag that the store gave it. Both name the content, and the
//! content has the lock's own random ID. So an object with that checksum or that ETag is the child's own lock.

use crate::model::{LockTrace, Stage, TraceEntry};
use crate::observe::ledger::{Ending, Left, check_room};
use crate::observe::locks::Refused;

/// A step in the life of a lockfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TraceEvent {
    /// About to be uploaded. `done`: uploaded.
    Take { trace: LockTrace, done: bool },
    /// The lockfile of this state is about to be deleted. `done`: deleted.
    Release { bucket: String, state_key: String, done: bool },
}

/// The lockfiles of this session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces {
    entries: Vec<TraceEntry>,
}

impl Traces {
    /// Enters an event; returns what it changed.
    ///
    /// # Errors
    /// When there is no room for another lockfile.
    pub(crate) fn enter(&mut self, event: &TraceEvent) -> Result<Vec<TraceEntry>, Refused> {
        match event {
            TraceEvent::Take { trace, done } => self.take(trace, if *done { Stage::Held } else { Stage::Attempted }),
            TraceEvent::Release { bucket, state_key, done } => Ok(self.release(bucket, state_key, *done)),
        }
    }

    fn take(&mut self, trace: &LockTrace, stage: Stage) -> Result<Vec<TraceEntry>, Refused> {
        let is_it = |entry: &TraceEntry| entry.trace.is_of(trace) && entry.stage != Stage::Unlocked;
        let Some(entry) = self.entries.iter_mut().find(|entry| is_it(entry)) else {
            check_room(self.entries.len())?;
            let entry = TraceEntry { trace: trace.clone(), stage };
            self.entries.push(entry.clone());
            return Ok(vec![entry]);
        };
        let before = entry.clone();
        // A repeated attempt does not undo what is known to be held.
        if entry.stage != Stage::Held {
            entry.stage = stage;
        }
        if trace.etag.is_some() {
            entry.trace.etag.clone_from(&trace.etag);
        }
        Ok(if *entry != before { vec![entry.clone()] } else { Vec::new() })
    }

    fn release(&mut self, bucket: &str, state_key: &str, done: bool) -> Vec<TraceEntry> {
        let here = |entry: &TraceEntry| entry.trace.bucket == bucket && entry.trace.state_key == state_key;
        let is_held = |entry: &TraceEntry| here(entry) && entry.stage == Stage::Held;
        let (from, stage) = match done {
            true => (Stage::Unlocking, Stage::Unlocked),
            false if self.entries.iter().any(is_held) => (Stage::Held, Stage::Unlocking),
            false => (Stage::Attempted, Stage::Unlocking),
        };
        let mut changed = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| here(entry) && entry.stage == from) {
            entry.stage = stage;
            changed.push(entry.clone());
        }
        changed
    }

    /// The lockfiles that were not seen deleted, once the child is dead and its log was read to the end.
    pub(crate) fn left(&self, ending: Ending) -> Vec<Left<TraceEntry>> {
        let left = self.entries.iter().filter(|entry| entry.stage != Stage::Unlocked || ending.unclean);
        left.map(|entry| Left::new(entry.clone(), entry.stage, ending)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Ending = Ending { exited_zero: false, by_signal_or_kill: true, unclean: false };

    fn trace(key: &str) -> LockTrace {
        LockTrace { bucket: "b".into(), state_key: key.into(), sha256: Some(key.into()), etag: None }
    }

    fn events(key: &str) -> [TraceEvent; 4] {
        [
            TraceEvent::Take { trace: trace(key), done: false },
            TraceEvent::Take { trace: LockTrace { etag: Some("etag".into()), ..trace(key) }, done: true },
            TraceEvent::Release { bucket: "b".into(), state_key: key.into(), done: false },
            TraceEvent::Release { bucket: "b".into(), state_key: key.into(), done: true },
        ]
    }

    fn next(stage: Option<Stage>, event: usize) -> Option<Stage> {
        use Stage::{Attempted, Held, Unlocked, Unlocking};
        match (stage, event) {
            (Some(Held), 0) => Some(Held),
            (_, 0) => Some(Attempted),
            (_, 1) => Some(Held),
            (Some(Attempted | Held), 2) => Some(Unlocking),
            // An answer without its request, or of another's: what is not known to be released is looked after.
            (Some(Unlocking), 3) => Some(Unlocked),
            (stage, _) => stage,
        }
    }

    /// Every order of events up to six.
    #[test]
    fn a_lockfile_counts_as_released_only_by_the_answer_to_its_release() {
        let events = events("k");
        for length in 0..=6u32 {
            for order in 0..4usize.pow(length) {
                let mut traces = Traces::default();
                let mut stage = None;
                for event in (0..length).map(|n| order / 4usize.pow(n) % 4) {
                    traces.enter(&events[event]).unwrap();
                    stage = next(stage, event);
                }
                let left = traces.left(KILLED);
                let expected: Vec<_> = stage.into_iter().filter(|stage| *stage != Stage::Unlocked).collect();
                assert_eq!(left.iter().map(|left| left.entry.stage).collect::<Vec<_>>(), expected);
                for left in left {
                    assert_eq!(left.may_still_appear, left.entry.stage == Stage::Attempted);
                    assert_eq!(left.unlock_in_flight, left.entry.stage == Stage::Unlocking);
                }
            }
        }
    }

    #[test]
    fn lockfiles_are_told_apart_by_place_and_content() {
        let mut traces = Traces::default();
        let refused = LockTrace { sha256: Some("another's".into()), ..trace("k") };
        for event in [&events("k")[1], &events("other")[1], &TraceEvent::Take { trace: refused.clone(), done: false }] {
            assert_eq!(traces.enter(event).unwrap().len(), 1);
        }
        // Of one place, the one that is held is the one that is released.
        traces.enter(&events("k")[2]).unwrap();
        traces.enter(&events("k")[3]).unwrap();
        let left: Vec<_> = traces.left(KILLED).into_iter().map(|left| left.entry.trace).collect();
        assert_eq!(left, [LockTrace { etag: Some("etag".into()), ..trace("other") }, refused]);
    }

    #[test]
    fn what_changes_nothing_is_no_news() {
        let mut traces = Traces::default();
        let news = [0, 0, 1, 0, 1, 2, 2, 3, 3].map(|event| traces.enter(&events("k")[event]).unwrap().len());
        assert_eq!(news, [1, 0, 1, 0, 0, 1, 0, 1, 0]);
    }
}
