//! The account in a few lines for a tired person: how it ended, what became of the lock, what to do next.

use std::ffi::OsStr;
use std::fmt::Write as _;

use crate::command::{self, Product};
use crate::lock::FoundLock;
use crate::observe::{Grade, Phase, Stage};
use crate::run::describe;

use super::account::{Account, Ending, HalfOutcome, LockAccount, LockOutcome, TraceAccount};
use super::{OtherLock, RefusedLock, StateAccount};

impl Account {
    /// Says it. An ordinary run is passed over in silence.
    pub fn say(&self) {
        let noteworthy = self.is_noteworthy();
        for (line, warning) in self.lines() {
            match (warning, noteworthy) {
                (true, _) => tracing::warn!("{line}"),
                (false, true) => tracing::info!("{line}"),
                (false, false) => tracing::debug!("{line}"),
            }
        }
    }

    /// Somebody asked for a stop, the child died, or a lock was left.
    fn is_noteworthy(&self) -> bool {
        !self.requests.is_empty()
            || self.ending.is_some_and(|ending| !matches!(ending, Ending::Exited { .. }))
            || self.lock_left()
            || self.locks.iter().any(|lock| !matches!(lock.outcome, Some(LockOutcome::Unlocked | LockOutcome::Gone)))
            || self.other_locks.iter().any(OtherLock::is_noteworthy)
            || self.state_needs_a_look()
            || self.refused.is_some()
    }

    /// The lines, each with whether it calls for action.
    fn lines(&self) -> Vec<(String, bool)> {
        let mut lines = vec![(self.ending_line(), false)];
        // Of the lock that it was refused more is said below than that it does not have it.
        let said_below = |lock: &&LockAccount| {
            self.refused.is_some() && lock.stage == Stage::Attempted && lock.outcome == Some(LockOutcome::Gone)
        };
        let locks = self.locks.iter().filter(|lock| !said_below(lock));
        lines.extend(locks.map(|lock| lock.line(self.product())));
        lines.extend(self.traces.iter().filter_map(TraceAccount::line));
        lines.extend(self.other_locks.iter().map(OtherLock::line));
        lines.extend(self.states.iter().filter_map(StateAccount::line).map(|line| (line, true)));
        lines.extend(self.refused.iter().flat_map(RefusedLock::lines).map(|line| (line, false)));
        let calls_for_action = self.lock_left() || self.state_needs_a_look();
        lines.extend(self.next_lines().into_iter().map(|line| (line, calls_for_action)));
        lines
    }

    fn ending_line(&self) -> String {
        let program = &self.program;
        let mut line = match self.ending {
            Some(Ending::Exited { code, .. }) => format!("{program} ended with exit code {code}"),
            Some(Ending::Died { signal: 9, .. }) if self.killed.is_some() => {
                format!("{program} did not end in time and was killed")
            }
            Some(Ending::Died { signal, .. }) => format!("{program} died of {}", signal_name(signal)),
            Some(Ending::Unknown { .. }) => {
                format!("{program} ended; its exit code is lost, because tfguard's supervisor was killed")
            }
            Some(Ending::StillAlive) | None => format!("{program} was killed and has not gone"),
        };
        if let (Some(interrupt), Some(ended)) = (&self.interrupt, self.ending.and_then(Ending::at)) {
            let took = ended.duration_since(interrupt.at).try_into().unwrap_or_default();
            let _ = write!(line, ", {} after its interrupt", describe(took));
        }
        line
    }

    /// The product that ran, as far as the command tells.
    fn product(&self) -> &'static str {
        match command::product(OsStr::new(&self.program)) {
            Some(Product::OpenTofu) => "OpenTofu",
            _ => "Terraform",
        }
    }

    /// The command by which people run it.
    pub(crate) fn command(&self) -> &'static str {
        if self.product() == "OpenTofu" { "tofu" } else { "terraform" }
    }

    /// What to do next, one line for each lock that needs somebody.
    fn next_lines(&self) -> Vec<String> {
        let sure = if self.survivors.is_empty() {
            format!("no {} of this run is alive", self.product())
        } else {
            "those processes have ended".to_owned()
        };
        let with =
            |is: fn(&LockOutcome) -> bool| self.locks.iter().filter(move |lock| lock.outcome.as_ref().is_some_and(is));
        let mut lines: Vec<_> = with(|outcome| matches!(outcome, LockOutcome::Left(_)))
            .map(|lock| format!("next: once you are sure that {sure}, {}", self.unlock(lock)))
            .collect();
        let kept = with(|outcome| *outcome == LockOutcome::Kept);
        lines.extend(kept.map(|lock| format!("next: when you have looked at the state, {}", self.unlock(lock))));
        let traces = self.traces.iter().filter(|trace| matches!(trace.outcome, Some(LockOutcome::Left(_))));
        lines.extend(traces.map(|trace| {
            format!(
                "next: run `{0} plan` in its directory; if that is refused a lock of {1}, and you are sure that {sure}, \
                 run: {0} force-unlock <the ID it shows>",
                self.command(),
                trace.entry.trace.lock_id()
            )
        }));
        lines.extend(self.other_locks.iter().filter_map(OtherLock::next));
        lines.extend(self.states.iter().filter_map(StateAccount::next));
        if lines.is_empty() && self.phase == Phase::Applying && self.ending.is_some_and(Ending::is_unclean) {
            lines.push(format!(
                "next: run `{} plan`; what was being changed when it died may be missing from the state",
                self.command()
            ));
        }
        lines
    }

    /// The one command that removes a lock, and where to run it.
    fn unlock(&self, lock: &LockAccount) -> String {
        let place = match &lock.settings {
            Some(settings) => settings.directory.display().to_string(),
            None => "its directory".to_owned(),
        };
        format!("run in {place}: {} force-unlock {}", self.command(), lock.claim.id)
    }
}

impl LockAccount {
    fn line(&self, product: &str) -> (String, bool) {
        let claim = &self.claim;
        let mut line = format!("lock {} of {} ({}): ", claim.id, claim.lock_id(), claim.operation);
        let mut action = false;
        line += &match &self.outcome {
            Some(LockOutcome::Unlocked) => format!("released by {product}"),
            Some(LockOutcome::Released) => format!("left by {product}, deleted by tfguard"),
            Some(LockOutcome::Gone) => "not there any more".to_owned(),
            Some(LockOutcome::NotTaken(why)) => {
                format!("not taken, as far as {product} said; tfguard could not look: {why}")
            }
            Some(LockOutcome::Kept) => "left in place, as --on-death says".to_owned(),
            Some(LockOutcome::Left(why)) => {
                action = true;
                format!("NOT released: {why}")
            }
            None => "not looked after".to_owned(),
        };
        line += match self.grade {
            Grade::Record => "",
            Grade::Request => " (known by the request that took it)",
            Grade::Item => " (judged by what it says itself: no log names it)",
        };
        for half in &self.halves {
            match &half.outcome {
                HalfOutcome::NotOurs { holder: FoundLock::Held(holder) } => {
                    let _ = write!(
                        line,
                        "; another one is there now, not touched: {} by {} since {} ({})",
                        holder.id, holder.who, holder.created, holder.operation
                    );
                }
                HalfOutcome::NotOurs { holder: FoundLock::Malformed(_) } => {
                    let _ = write!(line, "; something that is no lock is at {}, not touched", half.place);
                }
                HalfOutcome::Left { .. } => {
                    let _ = write!(line, " [{}]", half.place);
                }
                HalfOutcome::Deleted | HalfOutcome::AlreadyGone => {}
            }
        }
        (line, action)
    }
}

impl TraceAccount {
    /// Nothing is to be said of one that the child released or never had.
    fn line(&self) -> Option<(String, bool)> {
        let Some(LockOutcome::Left(why)) = &self.outcome else { return None };
        Some((format!("lockfile of {}: NOT released: {why}", self.entry.trace.lock_id()), true))
    }
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}
