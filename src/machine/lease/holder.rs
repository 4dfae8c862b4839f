//! The holder's side of a lease: one machine for each half of a lock.
//!
//! Call order: as of the run's machine. [`Holder::handle`] takes an answer, [`Holder::handle_time`] is to be called once the
//! time of [`Holder::next_time`] has come and whenever the process may have been suspended, before anything else; after
//! either, [`Holder::poll_action`] until it gives nothing. One request is under way at a time.
//!
//! What it guarantees, whatever the events:
//! * every beat has the version before it as its condition (rule 1);
//! * [`Action::Kill`] once [`Times::kill`] has passed since *before* the last beat that is known to have landed was sent,
//!   or since the first was, and nothing before it (rules 3, 4, 5);
//! * no beat once the lock is lost, killed for, or over (rule 2);
//! * [`Action::Stop`] at most once for each reason.

use std::collections::VecDeque;

use super::{Answer, Moment, Times};
use crate::model::{Beat, Known};

impl<V> Known<V> {
    /// The moment from which the deadlines count. None while there can be no lease in the store.
    fn since(&self) -> Option<Moment> {
        self.confirmed.as_ref().or(self.sent.first()).map(|beat| beat.at)
    }
}

/// What happened in the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<V> {
    /// Answer to [`Action::Beat`].
    Answered(Answer),
    /// Answer to [`Action::Read`]: whether this lock is there, and the version of its lease. Another lock, and the lease of
    /// another, count as none.
    Read { there: bool, version: Option<V> },
    /// Answer to [`Action::Read`]: nobody knows what is there.
    ReadFailed,
    /// Answer to [`Action::ReadLog`]: whether Terraform says that it is unlocking or has unlocked this lock, or has ended.
    LogRead { over: bool },
    /// The child has ended, or says that it has unlocked this lock.
    Ended,
}

/// What the holder's side has to do now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action<V> {
    /// Write [`Holder::known`] down, then write this version under the condition that the lock is there and its lease has
    /// the version `previous` (without: that it has none that names this lock), and answer with [`Event::Answered`].
    Beat { previous: Option<V>, version: V },
    /// Read lock and lease, consistently, and answer with [`Event::Read`] or [`Event::ReadFailed`].
    Read,
    /// The lock is not there, or not under this lease. Read Terraform's log to its end and answer with [`Event::LogRead`].
    ReadLog,
    /// Ask Terraform to stop, as for any other request to stop. The lock is `lost`: it is gone, or another's. Otherwise no
    /// beat was confirmed for too long, and beats go on.
    Stop { lost: bool },
    /// Send SIGKILL to the child's whole group, before anything else: before a SIGCONT, and before a log is read.
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum State {
    Resting,
    Beating,
    Reading,
    ReadingLog,
    /// The lock is never touched again. The child has until the kill.
    Lost,
    Over,
}

/// The machine. See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Holder<V> {
    pub(super) times: Times,
    fresh: fn() -> V,
    pub(super) known: Known<V>,
    pub(super) stopped: bool,
    pub(super) state: State,
    /// When the next beat is due.
    pub(super) beat_at: Moment,
    pub(super) actions: VecDeque<Action<V>>,
}

impl<V: Clone + PartialEq> Holder<V> {
    /// A holder of a lock that Terraform has just taken, with [`Known::default`], or one that takes over from a dead one of
    /// the same boot, with what that one wrote down. It wants to be called at once. `fresh` gives a version unlike any other.
    pub fn new(times: Times, known: Known<V>, fresh: fn() -> V) -> Self {
        Self {
            times,
            fresh,
            known,
            stopped: false,
            state: State::Resting,
            beat_at: Moment::ZERO,
            actions: VecDeque::new(),
        }
    }

    /// A holder that takes over a lock that was lost, of which the run knows. It only kills.
    pub fn lost(times: Times, known: Known<V>, fresh: fn() -> V) -> Self {
        Self { stopped: true, state: State::Lost, ..Self::new(times, known, fresh) }
    }

    /// The next action, if there is one.
    pub fn poll_action(&mut self) -> Option<Action<V>> {
        self.actions.pop_front()
    }

    /// When [`Holder::handle_time`] wants to be called. It may have passed.
    pub fn next_time(&self) -> Option<Moment> {
        let beat = (self.state == State::Resting).then_some(self.beat_at);
        [beat, self.stop_at(), self.kill_at()].into_iter().flatten().min()
    }

    /// When the child will be killed if no further beat is confirmed.
    pub fn kill_at(&self) -> Option<Moment> {
        Some(self.known.since()? + self.times.kill).filter(|_| self.state != State::Over)
    }

    fn stop_at(&self) -> Option<Moment> {
        let wanted = !self.stopped && self.state != State::Over;
        Some(self.known.since()? + self.times.renew).filter(|_| wanted)
    }

    /// What to write down before a beat is sent.
    pub fn known(&self) -> &Known<V> {
        &self.known
    }

    /// Takes an event that happened `now`.
    pub fn handle(&mut self, event: Event<V>, now: Moment) {
        if matches!(event, Event::Ended) {
            self.end(None);
        }
        if self.kills(now) {
            return;
        }
        match (self.state, event) {
            (State::Beating, Event::Answered(Answer::Done)) => {
                let landed = self.known.sent.pop();
                self.confirm(landed);
            }
            (State::Beating, Event::Answered(Answer::NotDone)) => {
                if self.known.confirmed.is_none() {
                    self.known.sent.pop();
                }
                self.state = State::Resting;
            }
            (State::Beating, Event::Answered(Answer::Refused | Answer::Unknown)) => {
                self.state = State::Reading;
                self.actions.push_back(Action::Read);
            }
            (State::Reading, Event::Read { there, version }) => self.judge(there, version.as_ref()),
            (State::Reading, Event::ReadFailed) => self.state = State::Resting,
            (State::ReadingLog, Event::LogRead { over: true }) => self.end(None),
            (State::ReadingLog, Event::LogRead { over: false }) => {
                self.state = State::Lost;
                self.stop(true);
            }
            _ => {}
        }
    }

    /// Tells the machine that the time is `now`.
    pub fn handle_time(&mut self, now: Moment) {
        if self.kills(now) {
            return;
        }
        if self.stop_at().is_some_and(|at| at <= now) {
            self.stop(false);
        }
        if self.state == State::Resting && self.beat_at <= now {
            let previous = self.known.confirmed.as_ref().map(|beat| beat.version.clone());
            let version = (self.fresh)();
            self.known.sent.push(Beat { version: version.clone(), at: now });
            self.beat_at = now + self.times.beat;
            self.state = State::Beating;
            self.actions.push_back(Action::Beat { previous, version });
        }
    }

    /// What is there after a beat that may have landed or not.
    fn judge(&mut self, there: bool, version: Option<&V>) {
        let confirmed = self.known.confirmed.as_ref().map(|beat| &beat.version);
        if let Some(landed) = self.known.sent.iter().find(|beat| Some(&beat.version) == version).cloned() {
            self.confirm(Some(landed));
        } else if there && version == confirmed {
            self.state = State::Resting;
        } else {
            self.state = State::ReadingLog;
            self.actions.push_back(Action::ReadLog);
        }
    }

    /// A beat is in the store. Those sent with the same condition can land no more.
    fn confirm(&mut self, landed: Option<Beat<V>>) {
        self.known = Known { confirmed: landed, sent: Vec::new() };
        self.state = State::Resting;
    }

    fn stop(&mut self, lost: bool) {
        self.stopped = true;
        self.actions.push_back(Action::Stop { lost });
    }

    /// Whether it is time to kill, or was.
    fn kills(&mut self, now: Moment) -> bool {
        let kills = self.kill_at().is_some_and(|at| at <= now);
        if kills {
            self.end(Some(Action::Kill));
        }
        kills
    }

    fn end(&mut self, last: Option<Action<V>>) {
        self.state = State::Over;
        self.actions.clear();
        self.actions.extend(last);
    }
}
