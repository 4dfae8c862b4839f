//! The supervisor's decisions, as a state machine without I/O.
//!
//! It takes events and a time, and gives actions. It holds no clock, no process and no file, so every order of events
//! can be tried in a test. Call order: [`Machine::handle`] for each event, [`Machine::handle_time`] once the time of
//! [`Machine::next_time`] has come, and after either [`Machine::poll_action`] until it gives nothing.
//!
//! What it guarantees, whatever the events:
//! * at most one [`Action::Interrupt`], none before a stop was requested, none once the child was seen interrupted (P3);
//! * [`Action::Release`] only after the child has ended and a later inspection found nobody alive (P2);
//! * exactly one [`Action::Finish`], and nothing after it (P4).

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::{Phase, StopRequest};

/// A moment, as the time passed since the session began. Monotonic: a suspended machine does not eat the grace.
pub type Moment = Duration;

/// What happened in the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants the run to stop.
    StopRequested(StopRequest),
    /// Terraform said that it was interrupted, whoever did it.
    InterruptReported,
    /// Terraform's log says that it is doing something else now.
    PhaseChanged(Phase),
    /// A Terraform was seen that has had no interrupt.
    TerraformStarted,
    /// The child is gone.
    ChildEnded {
        /// By a signal, its own panic or tfguard's kill: what it held may be left, and others of its tree may live on.
        unclean: bool,
        /// Terraforms that it started live on, and are to have their time: it was a script that was killed, or that ended
        /// without waiting for them.
        orphans: bool,
    },
    /// Answer to [`Action::ReadLog`]: the log was read to its end.
    LogRead {
        /// Whether a lock is left to account for.
        locks_left: bool,
        /// Whether it is known that no Terraform is alive, whatever else is: the child was a script whose Terraform
        /// died, and what lives are that Terraform's orphans.
        orphaned: bool,
        /// Whether the child died of a signal: what is left of its group is nobody's any more, and may be about to become
        /// a Terraform.
        killed: bool,
    },
    /// Answer to [`Action::Inspect`].
    Inspected {
        /// Whether a process of the session is, or may be, alive.
        alive: bool,
        /// Whether a Terraform is.
        terraforms: bool,
    },
    /// The lease of a lock ends: whatever is alive is to be killed now, whatever grace it had.
    LeaseEnded,
    /// A process that is to be killed cannot be: it is another user's.
    OutOfReach,
    /// Answer to [`Action::Release`].
    ReleaseEnded,
}

/// What the supervisor has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write down that the interrupt is about to be sent, then send SIGINT to each Terraform, once.
    Interrupt,
    /// Somebody else interrupted Terraform: write that down, so that nobody does it a second time.
    NoteInterrupt,
    /// Send SIGINT to each Terraform that started after the interrupt, once.
    InterruptNewcomers,
    /// Send SIGKILL to everything of the session that is alive.
    Kill,
    /// Read the log to its end and answer with [`Event::LogRead`].
    ReadLog,
    /// Look whether a process of the session is alive and answer with [`Event::Inspected`].
    Inspect,
    /// Release what is left and answer with [`Event::ReleaseEnded`].
    Release,
    /// The end. Nothing follows.
    Finish(Finish),
}

/// How the session ended for its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Everything that had to be gone is gone.
    Gone,
    /// A process of the session may still be alive: locks that are left stay.
    Alive,
}

/// The times by which the machine goes.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// From the interrupt to the kill while Terraform may be changing something, and the CI has asked for the stop: what
    /// the CI leaves.
    pub grace: Duration,
    /// From the interrupt to the kill while only the job's cleanup step has asked, if that is longer.
    pub cleanup_grace: Duration,
    /// From the interrupt to the kill while only tfguard itself has asked, if that is longer: the CI waits for nothing yet.
    pub own_grace: Duration,
    /// From the interrupt to the kill while Terraform only plans: killing it then loses nothing but the lock.
    pub planning_grace: Duration,
    /// How long what was killed may take to go. Longer for a guard with guards below it, each of which releases then.
    pub patience: Duration,
    /// Ask for the stop at this moment.
    pub deadline: Option<Moment>,
}

impl Terms {
    /// The grace that a request leaves, counted from the request or from the interrupt, whichever is later.
    pub fn grace_for(&self, request: &StopRequest) -> Duration {
        match request {
            StopRequest::Signal { .. } | StopRequest::FrontDied | StopRequest::ParentDied => self.grace,
            StopRequest::Release => self.grace.max(self.cleanup_grace),
            StopRequest::Outer { left } => left.unwrap_or(self.grace),
            StopRequest::ChildDied
            | StopRequest::Deadline
            | StopRequest::CredentialsEnd { .. }
            | StopRequest::LeaseNotRenewed
            | StopRequest::LockLost => self.grace.max(self.own_grace),
        }
    }
}

/// How long the machine waits for Terraform's own "Interrupt received." before it interrupts. Terraform prints it
/// within milliseconds of the signal; a busy machine needs some more. 300 ms, less what a timer of tokio's is late: it counts
/// in whole milliseconds and rounds up.
pub const LOOK: Duration = Duration::from_millis(298);
/// As [`LOOK`], when everybody is being signalled, the supervisor too, so that it is nearly certain that Terraform was: it
/// may be that only the machine is slow. GitLab's docker executor goes from process to process, and Terraform's turn came
/// before ours (gitlab-runner, `executors/docker/docker.go`).
pub const LOOK_EVERYBODY: Duration = Duration::from_secs(5);
/// How often the machine looks whether a killed tree is gone.
const INSPECT_EVERY: Duration = Duration::from_millis(100);
/// How often it looks whether the Terraforms that outlive the child are still at work.
const LOOK_AFTER_ORPHANS_EVERY: Duration = Duration::from_millis(250);
/// How long processes may take to go after a SIGKILL, or on their own after an orderly end, before tfguard gives up
/// and leaves the lock. A provider gets 2 s from Terraform itself (go-plugin, `client.go`); a process stuck in the
/// kernel never goes.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// As [`PATIENCE`], for processes on whose end nothing depends. The kernel takes less for what it can kill.
const PATIENCE_WITH_LEFTOVERS: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// A stop was requested; waiting to see whether Terraform was interrupted already.
    Looking {
        since: Moment,
        everybody: bool,
    },
    /// Terraform was interrupted; it has its grace.
    Stopping {
        since: Moment,
    },
    /// SIGKILL was sent; the child's end is awaited, or that of its orphans.
    Killing {
        until: Moment,
    },
    /// The child ended; its log is being read.
    Reading {
        unclean: bool,
        /// Once more, because what was left was killed meanwhile.
        again: bool,
    },
    /// The child ended; what is left of its tree has to go.
    Clearing {
        until: Moment,
        again: Option<Moment>,
        kill: bool,
        then_release: bool,
    },
    Releasing,
    Finished,
}

/// Terraforms that outlive the child. The machine goes on for them as it would for the child.
#[derive(Debug, Clone, Copy)]
struct Orphans {
    /// How the child ended.
    unclean: bool,
    /// When to look again whether they live; none while a look is under way.
    again: Option<Moment>,
}

/// The machine. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Machine {
    terms: Terms,
    /// From the interrupt to the kill, by the most pressing request so far.
    grace: Duration,
    state: State,
    phase: Phase,
    /// Terraform said that it was interrupted.
    interrupted: bool,
    first_request: Option<StopRequest>,
    orphans: Option<Orphans>,
    actions: VecDeque<Action>,
}

impl Machine {
    /// A machine for a child that was just started (or taken over).
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            grace: terms.grace,
            state: State::Running,
            phase: Phase::Unknown,
            interrupted: false,
            first_request: None,
            orphans: None,
            actions: VecDeque::new(),
        }
    }

    /// The machine of a supervisor that takes over from a dead one, which had already sent the interrupt.
    pub fn already_interrupted(mut self) -> Self {
        self.interrupted = true;
        self
    }

    /// The next action, if there is one.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Machine::handle_time`] wants to be called.
    pub fn next_time(&self) -> Option<Moment> {
        let again = self.orphans.and_then(|orphans| orphans.again);
        self.time_of_state().into_iter().chain(again).min()
    }

    fn time_of_state(&self) -> Option<Moment> {
        match self.state {
            State::Running => self.terms.deadline,
            State::Looking { since, everybody: false } => Some(since + LOOK),
            State::Looking { since, everybody: true } => Some(since + LOOK_EVERYBODY),
            State::Killing { until } => Some(until),
            State::Stopping { since } => Some(since + self.grace()),
            State::Clearing { until, again, .. } => Some(again.map_or(until, |again| again.min(until))),
            State::Reading { .. } | State::Releasing | State::Finished => None,
        }
    }

    /// Whether it waits to see whether Terraform was interrupted already.
    #[must_use]
    pub fn is_looking(&self) -> bool {
        matches!(self.state, State::Looking { .. })
    }

    /// Whether the time of whoever was interrupted is over, and it is being killed.
    pub fn is_killing(&self) -> bool {
        matches!(self.state, State::Killing { .. })
    }

    /// When what is alive then will be killed, once a stop was requested. A later request can bring it forward.
    pub fn kill_at(&self) -> Option<Moment> {
        match self.state {
            State::Looking { .. } => Some(self.time_of_state()? + self.grace()),
            State::Stopping { since } => Some(since + self.grace()),
            _ => None,
        }
    }

    /// When to say next how long whoever was interrupted still has, if it was said last at `said`: 15 and 30 seconds after
    /// the interrupt, then every 30 seconds for five minutes, then every minute. None after the time of the kill.
    pub fn next_reminder(&self, said: Moment) -> Option<Moment> {
        let State::Stopping { since } = self.state else { return None };
        let at = match said.saturating_sub(since).as_secs() {
            0..15 => 15,
            passed @ 15..300 => passed / 30 * 30 + 30,
            passed => passed / 60 * 60 + 60,
        };
        Some(since + Duration::from_secs(at)).filter(|at| self.kill_at().is_some_and(|kill| *at < kill))
    }

    /// The request that began the stop, if any did.
    pub fn first_request(&self) -> Option<&StopRequest> {
        self.first_request.as_ref()
    }

    /// The grace that holds in the phase Terraform is in.
    pub fn grace(&self) -> Duration {
        match self.phase {
            Phase::Planning => self.terms.planning_grace.min(self.grace),
            Phase::Unknown | Phase::Applying => self.grace,
        }
    }

    /// Takes an event that happened `now`.
    pub fn handle(&mut self, event: Event, now: Moment) {
        match event {
            Event::StopRequested(request) => self.stop(request, now),
            Event::InterruptReported => {
                self.interrupted = true;
                if let State::Looking { .. } = self.state {
                    self.already_stopping(now);
                }
            }
            Event::PhaseChanged(phase) => self.phase = phase,
            Event::TerraformStarted => {
                if let State::Stopping { .. } = self.state {
                    self.actions.push_back(Action::InterruptNewcomers);
                }
            }
            Event::ChildEnded { unclean, orphans } => self.child_ended(unclean, orphans, now),
            Event::LogRead { locks_left, orphaned, killed } => {
                if let State::Reading { unclean, again } = self.state {
                    let kill = self.first_request.is_some() || killed || ((unclean || orphaned) && locks_left);
                    self.log_read(locks_left, kill && !again, now);
                }
            }
            Event::Inspected { terraforms, .. } if self.orphans.is_some() => self.looked_after_orphans(terraforms, now),
            Event::Inspected { alive, terraforms } => self.inspected(alive, terraforms, now),
            Event::LeaseEnded => match self.state {
                State::Running | State::Looking { .. } | State::Stopping { .. } => {
                    self.actions.push_back(Action::Kill);
                    self.state = State::Killing { until: now + self.terms.patience };
                }
                State::Clearing { until, kill: false, then_release, .. } => self.clear(until, true, then_release),
                _ => {}
            },
            Event::OutOfReach => {
                if let State::Killing { until } = &mut self.state {
                    *until = (*until).min(now + PATIENCE_WITH_LEFTOVERS);
                }
            }
            Event::ReleaseEnded => {
                if self.state == State::Releasing {
                    self.finish(Finish::Gone);
                }
            }
        }
    }

    /// Tells the machine that the time is `now`.
    pub fn handle_time(&mut self, now: Moment) {
        if let Some(orphans) = &mut self.orphans
            && orphans.again.take_if(|again| *again <= now).is_some()
        {
            self.actions.push_back(Action::Inspect);
        }
        if self.time_of_state().is_none_or(|time| now < time) {
            return;
        }
        match self.state {
            State::Running => self.stop(StopRequest::Deadline, now),
            State::Looking { .. } => {
                self.actions.push_back(Action::Interrupt);
                self.state = State::Stopping { since: now };
            }
            State::Stopping { .. } => {
                self.actions.push_back(Action::Kill);
                self.state = State::Killing { until: now + self.terms.patience };
            }
            State::Killing { .. } => {
                self.orphans = None;
                self.finish(Finish::Alive);
            }
            State::Clearing { until, .. } if now >= until => self.finish(Finish::Alive),
            State::Clearing { until, kill, then_release, .. } => {
                self.clear(until, kill, then_release);
            }
            State::Reading { .. } | State::Releasing | State::Finished => {}
        }
    }

    fn stop(&mut self, request: StopRequest, now: Moment) {
        let everybody = matches!(request, StopRequest::Signal { everybody: true, .. });
        let leaves = self.terms.grace_for(&request);
        self.grace = match self.state {
            State::Running => leaves,
            State::Looking { .. } => self.grace.min(leaves),
            State::Stopping { since } => self.grace.min(now.saturating_sub(since) + leaves),
            _ => self.grace,
        };
        self.first_request.get_or_insert(request);
        match self.state {
            State::Running if self.interrupted => self.already_stopping(now),
            State::Running => self.state = State::Looking { since: now, everybody },
            // The front had its turn before the supervisor.
            State::Looking { since, .. } if everybody => self.state = State::Looking { since, everybody },
            State::Clearing { until, kill: false, then_release, .. } => self.clear(until, true, then_release),
            _ => {}
        }
    }

    fn already_stopping(&mut self, now: Moment) {
        self.actions.push_back(Action::NoteInterrupt);
        self.state = State::Stopping { since: now };
    }

    fn child_ended(&mut self, unclean: bool, orphans: bool, now: Moment) {
        use State::{Killing, Looking, Running, Stopping};
        let is_awaited = matches!(self.state, Running | Looking { .. } | Stopping { .. } | Killing { .. });
        if !is_awaited || self.orphans.is_some() {
            return;
        }
        if orphans {
            self.orphans = Some(Orphans { unclean, again: Some(now + LOOK_AFTER_ORPHANS_EVERY) });
        } else {
            self.read_log(unclean);
        }
    }

    fn looked_after_orphans(&mut self, alive: bool, now: Moment) {
        if let Some(orphans) = &mut self.orphans {
            orphans.again = Some(now + LOOK_AFTER_ORPHANS_EVERY);
        }
        if let Some(orphans) = self.orphans.take_if(|_| !alive) {
            self.read_log(orphans.unclean);
        }
    }

    fn read_log(&mut self, unclean: bool) {
        self.state = State::Reading { unclean: unclean || self.is_killing(), again: false };
        self.actions.push_back(Action::ReadLog);
    }

    /// What outlives a run that was told to stop, a child that was killed, or a Terraform that died over its lock, is a
    /// leftover. What outlives an orderly end is the user's business (a daemon that a provisioner started): it is left
    /// alone.
    fn log_read(&mut self, locks_left: bool, kill: bool, now: Moment) {
        if kill || locks_left {
            self.clear(now + self.terms.patience, kill, locks_left);
        } else {
            self.finish(Finish::Gone);
        }
    }

    fn clear(&mut self, until: Moment, kill: bool, then_release: bool) {
        if kill {
            self.actions.push_back(Action::Kill);
        }
        self.actions.push_back(Action::Inspect);
        self.state = State::Clearing { until, again: None, kill, then_release };
    }

    fn inspected(&mut self, alive: bool, terraforms: bool, now: Moment) {
        let State::Clearing { until, kill, then_release, .. } = self.state else { return };
        if alive {
            // What is no Terraform takes no lock any more: where none is left, nothing depends on its end.
            let until = if then_release || terraforms { until } else { until.min(now + PATIENCE_WITH_LEFTOVERS) };
            self.state = State::Clearing { until, again: Some(now + INSPECT_EVERY), kill, then_release };
        } else if then_release {
            self.actions.push_back(Action::Release);
            self.state = State::Releasing;
        } else if kill {
            // One of them may have taken a lock in its last moment.
            self.actions.push_back(Action::ReadLog);
            self.state = State::Reading { unclean: true, again: true };
        } else {
            self.finish(Finish::Gone);
        }
    }

    fn finish(&mut self, how: Finish) {
        self.actions.push_back(Action::Finish(how));
        self.state = State::Finished;
    }
}

#[cfg(test)]
mod tests;
