//! The account in a few lines for a tired person: how it ended, what became of the lock, what to do next.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use crate::model::{
    Account, Ending, FoundLock, Grade, Half, HalfOutcome, LockAccount, LockClaim, LockInfo, LockKinds, LockOutcome,
    LockPlace, OtherLock, Phase, RefusedLock, Settings, Stage, StateAccount, TraceAccount,
};
use crate::report::finding::{Finding, Outcome};
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
            || self.ending.is_some_and(|ending| !matches!(ending, Ending::Exited { .. }))
            || self.lock_left()
            || !self.survivors.is_empty()
            || self.locks.iter().any(|lock| !matches!(lock.outcome, Some(LockOutcome::Unlocked | LockOutcome::Gone)))
            || self.locks.iter().any(LockAccount::has_no_lock_in_its_place)
            || self.traces.iter().any(|trace| trace.outcome == Some(LockOutcome::TakenAway))
            || self.other_locks.iter().any(OtherLock::is_noteworthy)
            || self.state_needs_a_look()
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
        let calls_for_action = self.lock_left() || self.state_needs_a_look();
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

impl Settings {
    /// The command that removes a lock there, or without an ID what is no lock in its place, and where to run it.
    pub(crate) fn unlock(&self, id: Option<&str>) -> String {
        let Self { directory, flags, anywhere, .. } = self;
        // The directory may be gone where somebody reads this.
        if !anywhere.is_empty() {
            return format!("run: {}", text::unlock(id, anywhere));
        }
        // The flags name the whole place.
        if terraform::unit_of(directory).is_some() {
            return format!("run: {}", text::unlock(id, flags));
        }
        text::run_in(Some(directory), &text::unlock(id, flags))
    }
}

impl LockAccount {
    /// The one command that removes it, or without an ID what is no lock in its place, and where to run it: `otherwise`,
    /// if it is not known where its settings are.
    pub(crate) fn unlock(&self, id: Option<&str>, otherwise: Option<&Path>) -> String {
        // Its directory is set up for another backend.
        if self.settings.is_none() && self.claim.is_migration_destination() {
            return self.unlock_without_directory(id);
        }
        match &self.settings {
            Some(settings) => settings.unlock(id),
            None => text::run_in(otherwise, &text::unlock(id, &[])),
        }
    }

    fn unlock_without_directory(&self, id: Option<&str>) -> String {
        let LockClaim { bucket, state_key, kinds, .. } = &self.claim;
        let table = if *kinds == LockKinds::Lockfile { &[][..] } else { &["--table", "TABLE"] };
        let flags = [&["--bucket", bucket, "--key", state_key, "--region", "REGION"], table].concat();
        let command = text::unlock(id, &flags.into_iter().map(str::to_owned).collect::<Vec<_>>());
        format!("run, with the region, table and endpoints of the backend that the state was moved to: {command}")
    }

    /// Whether what blocks the state is no lock, and so has no ID by which Terraform could name it.
    fn has_no_lock_in_its_place(&self) -> bool {
        let is_none = |half: &Half| matches!(half.outcome, HalfOutcome::NotOurs { holder: FoundLock::Malformed(_) });
        self.halves.iter().any(is_none)
    }

    /// Whether its lockfile is in a store that is not AWS's own.
    fn is_at_another_store(&self) -> bool {
        self.places.iter().any(|place| matches!(place, LockPlace::Lockfile { endpoint: Some(_), .. }))
    }

    fn finding(&self, account: &Account, sure: &str) -> Finding {
        let (claim, product) = (&self.claim, account.product().name());
        let id = claim.id.as_str();
        let mut line = format!("lock {} of {} ({}): ", claim.id, claim.lock_id(), claim.operation);
        let mut next = None;
        let is_its = |state: &&StateAccount| (&state.bucket, &state.state_key) == (&claim.bucket, &claim.state_key);
        let (outcome, what) = match &self.outcome {
            Some(LockOutcome::Unlocked) => (Outcome::Unlocked, format!("released by {product}")),
            Some(LockOutcome::Released) => (Outcome::Released, format!("left by {product}, deleted by tfguard")),
            // Of a lock that nobody was seen to have it cannot be said that it is not there any more.
            Some(LockOutcome::Gone) if self.stage == Stage::Attempted && self.grade != Grade::Item => {
                let marker = if self.is_at_another_store() {
                    ". If this happens again, the store refuses to create the lockfile though there is none: it may \
                     keep a delete marker"
                } else {
                    ""
                };
                (Outcome::Gone, format!("not there, and nothing shows that {product} got it{marker}"))
            }
            Some(LockOutcome::Gone) => (Outcome::Gone, "not there any more".to_owned()),
            Some(LockOutcome::TakenAway) => {
                next = Some(match account.states.iter().find(is_its) {
                    Some(state) => state.next.clone(),
                    None => in_its_place(self.settings.as_ref(), "tfguard verify"),
                });
                (Outcome::TakenAway, taken_away(product))
            }
            Some(LockOutcome::NotOwn(why)) => {
                next = Some(in_its_place(self.settings.as_ref(), "tfguard inspect"));
                (Outcome::Foreign, format!("not known to be this run's, so not touched: {why}"))
            }
            Some(LockOutcome::Kept) => {
                next = Some(format!("when you have looked at the state, {}", self.unlock(Some(id), None)));
                (Outcome::Kept, "left in place, as --on-death says".to_owned())
            }
            Some(LockOutcome::Left(why)) => {
                next = Some(format!("once you are sure that {sure}, {}", self.unlock(Some(id), None)));
                (Outcome::Left, format!("NOT released: {why}"))
            }
            None => (Outcome::Unknown, "not accounted for".to_owned()),
        };
        if outcome >= Outcome::Kept
            && outcome != Outcome::TakenAway
            && let Some(state) = account.states.iter().filter(is_its).find(|state| state.needs_its_lock())
        {
            next = Some(format!(
                "keep the lock until the state that Terraform could not upload is uploaded. How to do that, and \
                 then unlock: {}",
                state.next
            ));
        }
        line += &what;
        line += match self.grade {
            Grade::Record => "",
            Grade::Request => " (known by the request that took it)",
            Grade::Item => " (judged by the lock's own text: no log names it)",
        };
        for half in &self.halves {
            match &half.outcome {
                HalfOutcome::NotOurs { holder: FoundLock::Held(holder) } => {
                    let other = another(holder);
                    // Both halves may be of one lock.
                    if !line.ends_with(&other) {
                        line += &other;
                    }
                }
                HalfOutcome::NotOurs { holder: FoundLock::Malformed(_) } => {
                    let _ = write!(line, "; something that isn't a lock is at {} and was not touched", half.place);
                    let unlock =
                        || format!("if it is left from a lock that was not written whole, {}", self.unlock(None, None));
                    next.get_or_insert_with(unlock);
                }
                HalfOutcome::Left { .. } => {
                    let _ = write!(line, " [{}]", half.place);
                }
                HalfOutcome::GoneWithStore { why } => {
                    let _ = write!(line, "; its table or bucket is gone, too: {why}");
                }
                HalfOutcome::Deleted | HalfOutcome::AlreadyGone | HalfOutcome::NotOwn { .. } => {}
            }
        }
        Finding { id: Some(claim.id.to_string()), next, ..Finding::new(claim.lock_id(), outcome, line) }
    }
}

impl TraceAccount {
    /// Nothing is to be said of one whose lock is told of otherwise, or that the child never had.
    fn finding(&self, account: &Account, sure: &str) -> Option<Finding> {
        let state = self.entry.trace.lock_id();
        let told = |outcome, what: String| {
            let told = account.locks.iter().any(|lock| lock.claim.lock_id() == state);
            (!told).then(|| Finding::new(state.clone(), outcome, format!("lockfile of {state}: {what}")))
        };
        let why = match (&self.outcome, &self.holder) {
            (Some(LockOutcome::Left(why)), _) => why,
            (Some(LockOutcome::Unlocked), _) if self.entry.stage.is_over() => {
                return told(Outcome::Unlocked, format!("released by {}", account.product().name()));
            }
            (Some(LockOutcome::TakenAway), holder) => {
                let holder = match holder {
                    Some(FoundLock::Held(holder)) => another(holder),
                    _ => String::new(),
                };
                let finding = told(Outcome::TakenAway, taken_away(account.product().name()) + &holder)?;
                return Some(Finding { next: Some(in_its_place(self.settings.as_ref(), "tfguard verify")), ..finding });
            }
            (Some(LockOutcome::Gone), Some(FoundLock::Held(holder)))
                if self.entry.stage != Stage::Attempted || account.refused.is_none() =>
            {
                return told(Outcome::Gone, format!("not there any more{}", another(holder)));
            }
            _ => return None,
        };
        let next = format!(
            "{}; if it shows a lock, and you are sure that {sure}, run `tfguard unlock` with its ID",
            in_its_place(self.settings.as_ref(), "tfguard inspect")
        );
        let line = format!("lockfile of {state}: NOT released: {why}");
        Some(Finding { next: Some(next), ..Finding::new(state, Outcome::Left, line) })
    }
}

/// A command about a state, and where to run it.
fn in_its_place(settings: Option<&Settings>, command: &str) -> String {
    let flags = settings.iter().flat_map(|settings| settings.flags.iter().map(String::as_str));
    let directory = settings.map(|settings| settings.directory.as_path());
    text::run_in(directory, &text::join(command.split(' ').chain(flags)))
}

fn taken_away(product: &str) -> String {
    format!("taken away while {product} was at work, so two may have written")
}

fn another(holder: &LockInfo) -> String {
    let LockInfo { id, who, created, operation, .. } = holder;
    format!("; another one is there now, not touched: {id} by {who} since {created} ({operation})")
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}
