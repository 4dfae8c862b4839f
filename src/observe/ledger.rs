//! The locks of this session, and which of them are left when the child has ended.

use crate::model::{Entry, Grade, LockClaim, LockKinds, Stage};
use crate::observe::locks::{LockEvent, LoggedPlace, Refusal, Refused};

/// Most locks that one session's log can tell of: more than any script takes past its guards. What makes up more is noise, or
/// wants to fill the memory and the journal.
pub(crate) const MOST: usize = 1000;

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The child *was Terraform itself* and ended with status 0. The status of a script says nothing about the
    /// Terraforms it ran, so for anything but Terraform this is false.
    pub exited_zero: bool,
    /// A Terraform may have ended with a request still on its way: the child died of a signal, or gave up after a
    /// second interrupt ([`crate::observe::interrupt::Interrupts::twice`]), or is no Terraform itself, so that nobody saw how its
    /// Terraforms ended.
    pub by_signal_or_kill: bool,
    /// The child died, or nobody knows how it ended: then the log's last word need not be Terraform's.
    pub unclean: bool,
}

/// A lock, or a lockfile without a known ID, that is left to account for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left<E> {
    /// The lock and how far it had come.
    pub entry: E,
    /// The request that takes it may still be on its way, so one look that finds nothing proves nothing.
    pub may_still_appear: bool,
    /// A request that releases it may still be on its way.
    pub unlock_in_flight: bool,
}

impl<E> Left<E> {
    /// What was left so long ago that no request is on its way any more.
    pub(crate) fn long_ago(entry: E) -> Self {
        Self { entry, may_still_appear: false, unlock_in_flight: false }
    }

    /// What had come so far when its child ended so.
    pub(crate) fn new(entry: E, stage: Stage, ending: Ending) -> Self {
        Self {
            entry,
            may_still_appear: stage == Stage::Attempted && ending.by_signal_or_kill,
            unlock_in_flight: stage == Stage::Unlocking && ending.by_signal_or_kill,
        }
    }
}

/// The set of locks that this session's child took.
///
/// An unlock of a lock that was never taken here leaves no trace: `force-unlock` names somebody else's.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    /// The locks, in the order they were taken.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Enters an event that was judged to be the child's own. Returns the lock if that changed anything about it.
    ///
    /// # Errors
    /// When there is no room for another lock.
    pub fn enter(&mut self, event: &LockEvent, grade: Grade) -> Result<Option<&Entry>, Refused> {
        match event {
            LockEvent::Take { claim, done } => {
                self.take(claim, if *done { Stage::Held } else { Stage::Attempted }, grade)
            }
            LockEvent::Release { place, done } => {
                let entry = self.entries.iter_mut().find(|entry| place.is_of(&entry.claim));
                Ok(entry.and_then(|entry| entry.step(if *done { Stage::Unlocked } else { Stage::Unlocking })))
            }
        }
    }

    /// How far a lock has come; None if it is not in the set.
    pub fn stage(&self, place: &LoggedPlace) -> Option<Stage> {
        self.entries.iter().find(|entry| place.is_of(&entry.claim)).map(|entry| entry.stage)
    }

    fn take(&mut self, claim: &LockClaim, stage: Stage, grade: Grade) -> Result<Option<&Entry>, Refused> {
        let place = LoggedPlace::of(claim);
        let Some(at) = self.entries.iter().position(|entry| place.is_of(&entry.claim)) else {
            check_room(self.entries.len())?;
            self.entries.push(Entry { claim: claim.clone(), stage, grade });
            return Ok(self.entries.last());
        };
        let entry = &mut self.entries[at];
        entry.grade = entry.grade.max(grade);
        // A repeated attempt does not undo what is known to be held.
        let next = match (entry.stage, stage) {
            (Stage::Held, _) => Stage::Held,
            _ => stage,
        };
        Ok(entry.step(next))
    }

    /// The locks that are to be looked after, in the order they were taken, once the child is dead and its log was read to the
    /// end.
    pub fn left(&self, ending: Ending) -> Vec<Left<Entry>> {
        let left = self.entries.iter().filter(|entry| !entry.is_released(ending));
        left.map(|entry| Left::new(entry.clone(), entry.stage, ending)).collect()
    }
}

/// Whether there is room for one more, beside so many locks.
///
/// # Errors
/// When there is none.
pub(crate) fn check_room(locks: usize) -> Result<(), Refused> {
    if locks < MOST { Ok(()) } else { Err(Refused::of(None, Refusal::TooMany(MOST))) }
}

/// How a lock comes along.
impl Entry {
    pub(crate) fn step(&mut self, stage: Stage) -> Option<&Self> {
        let changed = self.stage != stage;
        self.stage = stage;
        changed.then_some(self)
    }

    pub(crate) fn is_released(&self, ending: Ending) -> bool {
        match self.stage {
            Stage::Unlocked => !ending.unclean,
            // Terraform 1.6 to 1.9 say nothing after the request; but a failed one makes them end with status 1
            // (since 0.14, hashicorp/terraform#25729).
            Stage::Unlocking => {
                self.claim.kinds == LockKinds::Unstated && ending.exited_zero && !ending.by_signal_or_kill
            }
            Stage::Attempted | Stage::Held => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(id: u8, kinds: LockKinds) -> LockClaim {
        LockClaim {
            id: format!("00000000-0000-0000-0000-0000000000{id:02x}").parse().unwrap(),
            operation: "OperationTypeApply".into(),
            who: "ci@runner".into(),
            version: "1.11.4".into(),
            bucket: "bucket".into(),
            state_key: "key".into(),
            kinds,
        }
    }

    fn events(claim: &LockClaim) -> [LockEvent; 4] {
        let place = LoggedPlace::of(claim);
        [
            LockEvent::Take { claim: claim.clone(), done: false },
            LockEvent::Take { claim: claim.clone(), done: true },
            LockEvent::Release { place: place.clone(), done: false },
            LockEvent::Release { place, done: true },
        ]
    }

    const ENDINGS: [Ending; 4] = [
        Ending { exited_zero: true, by_signal_or_kill: false, unclean: false },
        Ending { exited_zero: false, by_signal_or_kill: false, unclean: false },
        Ending { exited_zero: false, by_signal_or_kill: true, unclean: false },
        Ending { exited_zero: false, by_signal_or_kill: true, unclean: true },
    ];

    /// Every order of events up to six, of a lock that says when it is done and of one that does not.
    #[test]
    fn a_lock_counts_as_released_only_by_the_last_word_about_it() {
        for kinds in [LockKinds::DynamoDb, LockKinds::Unstated] {
            let events = events(&claim(1, kinds));
            for length in 0..=6u32 {
                for order in 0..4usize.pow(length) {
                    let order: Vec<_> = (0..length).map(|n| order / 4usize.pow(n) % 4).collect();
                    let mut ledger = Ledger::default();
                    for &event in &order {
                        let before = ledger.entries().first().map(|entry| entry.stage);
                        let changed = ledger.enter(&events[event], Grade::Record).unwrap().is_some();
                        assert_eq!(changed, before != ledger.entries().first().map(|entry| entry.stage));
                    }
                    let taken = order.iter().position(|event| *event < 2);
                    assert_eq!(ledger.entries().len(), usize::from(taken.is_some()));
                    for ending in ENDINGS {
                        check(&ledger.left(ending), taken.map(|at| &order[at..]), kinds, ending);
                    }
                }
            }
        }
    }

    fn check(left: &[Left<Entry>], order: Option<&[usize]>, kinds: LockKinds, ending: Ending) {
        let Some(order) = order else {
            return assert_eq!(left, []);
        };
        let last = *order.last().unwrap();
        let silent = kinds == LockKinds::Unstated && last == 2 && ending.exited_zero;
        if (last == 3 && !ending.unclean) || silent {
            return assert_eq!(left, []);
        }
        let [left] = left else { panic!("{order:?} {ending:?}: {left:?}") };
        assert_eq!(left.entry.stage.is_over(), last >= 2);
        assert_eq!(left.may_still_appear, ending.by_signal_or_kill && left.entry.stage == Stage::Attempted);
        assert_eq!(left.unlock_in_flight, ending.by_signal_or_kill && last == 2);
    }

    #[test]
    fn locks_are_told_apart_by_id_bucket_and_key() {
        let one = claim(1, LockKinds::Both);
        let others = [
            claim(2, LockKinds::Both),
            LockClaim { bucket: "other".into(), ..one.clone() },
            LockClaim { state_key: "other".into(), ..one.clone() },
        ];
        for other in others {
            let mut ledger = Ledger::default();
            ledger.enter(&LockEvent::Take { claim: one.clone(), done: true }, Grade::Record).unwrap();
            assert_eq!(
                ledger.enter(&LockEvent::Release { place: LoggedPlace::of(&other), done: true }, Grade::Record),
                Ok(None)
            );
            ledger.enter(&LockEvent::Take { claim: other.clone(), done: true }, Grade::Record).unwrap();
            ledger.enter(&LockEvent::Release { place: LoggedPlace::of(&one), done: true }, Grade::Record).unwrap();
            let left = ledger.left(ENDINGS[0]);
            assert_eq!(left.len(), 1);
            assert_eq!(left[0].entry.claim, other);
        }
    }

    #[test]
    fn a_repeated_attempt_is_the_same_lock_and_news_only_once() {
        let events = events(&claim(1, LockKinds::DynamoDb));
        let mut ledger = Ledger::default();
        let news = [0, 0, 0, 1, 0].map(|event| ledger.enter(&events[event], Grade::Record).unwrap().is_some());
        assert_eq!(news, [true, false, false, true, false]);
        assert_eq!(ledger.entries()[0].stage, Stage::Held);
    }
}
