//! The account in a few lines for a tired person: how it ended, what became of the lock, what to do next.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::model::{Account, Ending, LockAccount, LockOutcome, OtherLock, Phase, RefusedLock, Stage, StateAccount};
use crate::report::finding::{Finding, Outcome};
use crate::report::locks::in_its_place;
use crate::text::describe;
use crate::{terraform, text};

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
    pub(crate) fn is_noteworthy(&self) -> bool {
        !self.requests.is_empty()
            || self.ending.is_some_and(Ending::is_unclean)
            || self.needs_somebody().is_some()
            || !self.survivors.is_empty()
            || self.locks.iter().any(|lock| !matches!(lock.outcome, Some(LockOutcome::Unlocked | LockOutcome::Gone)))
            || self.locks.iter().any(LockAccount::has_no_lock_in_its_place)
            || self.traces.iter().any(|trace| trace.outcome == Some(LockOutcome::TakenAway))
            || self.other_locks.iter().any(OtherLock::is_noteworthy)
            || self.refused.is_some()
            || self.terraforms.iter().any(|terraform| terraform.is_noteworthy() || !terraform.troubles.is_empty())
    }

    /// The lines, each with whether it calls for action.
    fn lines(&self) -> Vec<(String, bool)> {
        let mut said = vec![(self.ending_line(), false)];
        for terraform in self.terraforms.iter().filter(|terraform| terraform.is_noteworthy()) {
            said.push((format!("in {}: {}", terraform.directory.display(), terraform.ending_line()), false));
        }
        if !self.survivors.is_empty() {
            said.push((format!("processes of this run are still alive: {}", self.survivors.join(", ")), true));
        }
        let troubles: BTreeSet<&String> = self.terraforms.iter().flat_map(|terraform| &terraform.troubles).collect();
        said.extend(troubles.into_iter().map(|trouble| (trouble.clone(), true)));
        let findings = self.findings();
        let calls_for_action = self.needs_somebody().is_some();
        let step = |next: String| (format!("next: {next}"), calls_for_action);
        let next = self.next(&findings).map(step);
        let mut steps = Vec::new();
        for Finding { outcome, line, details, next, .. } in findings {
            let lines = std::iter::once(line).chain(details);
            said.extend(lines.map(|line| (line, outcome >= Outcome::NeedsALook)));
            steps.extend(next.map(step));
        }
        said.extend(steps.into_iter().chain(next));
        said
    }

    /// What became of each lock, with the next step for each that needs somebody.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let sure = if self.survivors.is_empty() {
            format!("no {} of this run is alive", self.product().name())
        } else {
            "those processes have ended".to_owned()
        };
        // Of the lock that it was refused more is said below than that it does not have it.
        let said_below = |lock: &&LockAccount| {
            self.refused.is_some() && lock.stage == Stage::Attempted && lock.outcome == Some(LockOutcome::Gone)
        };
        let locks = self.locks.iter().filter(|lock| !said_below(lock)).map(|lock| lock.finding(self, &sure));
        let traces = self.traces.iter().filter_map(|trace| trace.finding(self, &sure));
        let others = self.other_locks.iter().map(OtherLock::finding);
        let states = self.states.iter().filter_map(StateAccount::finding);
        let unsaved = self.unsaved.iter().map(|unsaved| {
            let lock = self.locks.iter().find(|lock| Some(lock.claim.lock_id()) == unsaved.state);
            let verify = in_its_place(lock.and_then(|lock| lock.settings.as_ref()), "tfguard verify");
            unsaved.finding(&verify, self.product())
        });
        let refused = self.refused.iter().map(RefusedLock::finding);
        let below = self.terraforms.iter().flat_map(Self::findings);
        locks.chain(traces).chain(others).chain(states).chain(unsaved).chain(refused).chain(below).collect()
    }

    /// What to do next if no lock needs somebody.
    pub(crate) fn next(&self, findings: &[Finding]) -> Option<String> {
        if findings.iter().any(|finding| finding.next.is_some()) {
            return None;
        }
        let died = |account: &&Self| account.phase == Phase::Applying && account.ending.is_some_and(Ending::is_unclean);
        let died = std::iter::once(self).chain(&self.terraforms).find(died)?;
        let (command, place) = match terraform::unit_of(&died.directory) {
            Some(unit) => ("terragrunt", format!(" in {}", text::quote(unit))),
            None if std::ptr::eq(died, self) => (died.product().program(), String::new()),
            None => (died.product().program(), format!(" in {}", text::quote(&died.directory))),
        };
        Some(format!("run `{command} plan`{place}; what was being changed when it died may be missing from the state"))
    }

    pub(crate) fn ending_line(&self) -> String {
        let program = &self.program;
        let mut line = match self.ending {
            Some(Ending::Exited { code, .. }) => format!("{program} ended with exit code {code}"),
            Some(Ending::Crashed { code: 2, .. }) => {
                format!("{program} crashed (exit code 2, which is not \"changes present\" here)")
            }
            Some(Ending::Crashed { code, .. }) => format!("{program} crashed (exit code {code})"),
            Some(Ending::Died { signal: 9, .. }) if self.killed.is_some() => {
                format!("{program} did not end in time and was killed")
            }
            Some(Ending::Died { signal, .. }) => format!("{program} died of {}", signal_name(signal)),
            Some(Ending::Unknown { .. }) => {
                format!("{program} ended; its exit code is lost, because tfguard's supervisor was killed")
            }
            Some(Ending::StillAlive) => format!("{program} has not ended"),
            None => format!("whether {program} has ended is not known"),
        };
        // What a wrapper left was interrupted after its end.
        if let (Some(interrupt), Some(ended)) = (&self.interrupt, self.ending.and_then(Ending::at))
            && interrupt.at <= ended
        {
            let took = ended.duration_since(interrupt.at).try_into().unwrap_or_default();
            let _ = write!(line, ", {} after its interrupt", describe(took));
        }
        line
    }
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}
