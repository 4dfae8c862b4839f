//! The observer's side of a lease: one machine for each half of a lock.
//!
//! Call order: as of the run's machine; [`Observer::handle_time`] at once, then whenever the time of
//! [`Observer::next_time`] has come. One request is under way at a time.
//!
//! What it guarantees, whatever the events:
//! * it deletes, and fences, only a lock with a lease record that names that very lock (rule 6);
//! * only after [`super::Times::wait`] on its own clock, from an answered read to another, with the same version in each read
//!   between and none that failed, or with proof that the holder is dead (rules 6, 7);
//! * only under the condition on that lock and that version (rule 9).

use std::collections::VecDeque;
use std::time::Duration;

use super::{Answer, Lease, Moment, Sight};

/// From a request that failed to the next read.
const PAUSE: Duration = Duration::from_secs(5);

/// What happened in the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<I, V> {
    /// Answer to [`Action::Read`]: what is there. None: no lock.
    Read(Option<Sight<I, V>>),
    /// Answer to [`Action::Read`]: nobody knows what is there.
    ReadFailed,
    /// The lock that was read last has a holder that is proven dead: its processes are gone, and it ran on this machine.
    HolderDead,
    /// Answer to [`Action::Fence`] and [`Action::Delete`].
    Answered(Answer),
}

/// What the observer's side has to do now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action<I, V> {
    /// Read lock and lease, consistently, and answer with [`Event::Read`] or [`Event::ReadFailed`].
    Read,
    /// Write `version` into the lease's own object under the condition that its version is `seen`, and answer with
    /// [`Event::Answered`]. Only for a lockfile, which has no version itself.
    Fence { lock: I, seen: V, version: V },
    /// Delete the lock under the condition that it is the one that was read and, where one request can say so, that its
    /// lease has this version, and answer with [`Event::Answered`]. Once a lockfile is deleted, delete the lease's object
    /// under the condition on this version, which may fail.
    Delete { lock: I, version: V },
    /// The end. Nothing follows.
    Finish(Finish),
}

/// How the watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Finish {
    /// There is no lock, and this observer deleted none.
    Free,
    /// There is no lock, and it was this observer that deleted it, or may have been: its state is to be verified.
    Reclaimed,
    /// There is a lock without a lease, which only its holder or a person removes.
    Unleased,
}

/// A leased lock that is being watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Watch<I, V> {
    /// The lease as it was seen, of the lock that it names.
    pub lease: Lease<I, V>,
    /// When the first read that saw it was answered.
    pub since: Moment,
    /// The version by which this observer fenced it, or tried to.
    pub(super) fence: Option<V>,
    pub(super) dead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum State {
    Resting { until: Moment },
    Reading,
    Fencing,
    Deleting,
    Finished,
}

/// The machine. See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Observer<I, V> {
    /// How a lock is fenced before it is deleted: by a version of its own. None where the delete itself has the version as
    /// a condition.
    fence: Option<fn() -> V>,
    pub(super) watch: Option<Watch<I, V>>,
    /// A delete was sent that may have landed.
    pub(super) deleted: bool,
    pub(super) state: State,
    pub(super) actions: VecDeque<Action<I, V>>,
}

impl<I: Clone + PartialEq, V: Clone + PartialEq> Observer<I, V> {
    /// An observer of an item, whose delete has ID and version as its condition; with `fence`, which gives a version unlike any
    /// other, of a lockfile with its lease in an object of its own.
    pub fn new(fence: Option<fn() -> V>) -> Self {
        let state = State::Resting { until: Moment::ZERO };
        Self { fence, watch: None, deleted: false, state, actions: VecDeque::new() }
    }

    /// The next action, if there is one.
    pub fn poll_action(&mut self) -> Option<Action<I, V>> {
        self.actions.pop_front()
    }

    /// When [`Observer::handle_time`] wants to be called. It may have passed.
    pub fn next_time(&self) -> Option<Moment> {
        match self.state {
            State::Resting { until } => Some(until),
            _ => None,
        }
    }

    /// The leased lock that is being watched, and since when it has not been renewed.
    pub fn watch(&self) -> Option<&Watch<I, V>> {
        self.watch.as_ref()
    }

    /// Takes an event that happened `now`.
    pub fn handle(&mut self, event: Event<I, V>, now: Moment) {
        match (self.state, event) {
            (State::Reading, Event::Read(None)) => {
                self.finish(if self.deleted { Finish::Reclaimed } else { Finish::Free })
            }
            (State::Reading, Event::Read(Some(seen))) => match seen.own_lease() {
                None => self.finish(Finish::Unleased),
                Some(lease) => self.look(lease, now),
            },
            (State::Reading, Event::ReadFailed) => {
                self.watch = None;
                self.rest(now + PAUSE);
            }
            (State::Resting { .. }, Event::HolderDead) => {
                if let Some(watch) = &mut self.watch {
                    watch.dead = true;
                    self.reclaim();
                }
            }
            (State::Fencing, Event::Answered(Answer::Done)) => self.delete(),
            (State::Deleting, Event::Answered(Answer::Done)) => self.finish(Finish::Reclaimed),
            // What has become of it is settled by reading.
            (State::Fencing | State::Deleting, Event::Answered(answer)) => {
                self.deleted |= self.state == State::Deleting && answer != Answer::NotDone;
                self.rest(now + PAUSE);
            }
            _ => {}
        }
    }

    /// Tells the machine that the time is `now`.
    pub fn handle_time(&mut self, now: Moment) {
        if self.next_time().is_some_and(|time| time <= now) {
            self.read();
        }
    }

    /// There is a lock with a lease.
    fn look(&mut self, seen: &Lease<I, V>, now: Moment) {
        let times = seen.times;
        match self.watch.as_ref().filter(|watch| watch.lease.lock == seen.lock) {
            Some(watch) if watch.fence.as_ref() == Some(&seen.version) => self.delete(),
            Some(watch) if watch.lease == *seen => {
                let until = watch.since + times.wait;
                if watch.dead || until <= now { self.reclaim() } else { self.rest(until.min(now + times.beat)) }
            }
            _ => {
                self.watch = Some(Watch { lease: seen.clone(), since: now, fence: None, dead: false });
                self.rest(now + times.beat);
            }
        }
    }

    /// Its holder must be dead.
    fn reclaim(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        match self.fence {
            None => self.delete(),
            Some(fresh) => {
                let version = watch.fence.get_or_insert_with(fresh).clone();
                let Lease { lock, version: seen, .. } = watch.lease.clone();
                self.state = State::Fencing;
                self.actions.push_back(Action::Fence { lock, seen, version });
            }
        }
    }

    fn delete(&mut self) {
        let Some(watch) = &self.watch else { return };
        let version = watch.fence.as_ref().unwrap_or(&watch.lease.version).clone();
        self.state = State::Deleting;
        self.actions.push_back(Action::Delete { lock: watch.lease.lock.clone(), version });
    }

    fn read(&mut self) {
        self.state = State::Reading;
        self.actions.push_back(Action::Read);
    }

    fn rest(&mut self, until: Moment) {
        self.state = State::Resting { until };
    }

    fn finish(&mut self, finish: Finish) {
        self.state = State::Finished;
        self.actions.push_back(Action::Finish(finish));
    }
}
