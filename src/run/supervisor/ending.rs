//! What the supervisor does once the child is dead: reads the log to its end, releases, accounts for everything.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use memchr::memmem;
use tokio::time::Instant;

use crate::aws::Surroundings;
use crate::machine::{Event, Finish};
use crate::model::{Account, Ending, Entry, LockAccount, LockClaim, LockOutcome, OtherLock, Phase, Stage, Unsaved};
use crate::observe::{Left, Migration};
use crate::run::job::trouble;
use crate::run::release::{IN_FLIGHT, Terms};
use crate::run::states;
use crate::run::supervisor::Supervisor;
use crate::run::terraforms::has_rival;
use crate::session::{SessionFile, Survivor, Tree, is_log_held};
use crate::store::{Case, Permission, Suspicion, left_by_move};
use crate::terraform::Backend;
use crate::{files, observe, terraform};

/// So much of the end of the output is looked at for what Go's runtime says of a crash.
const LAST_WORDS: u64 = 64 * 1024;
/// How long what is left of the output is read for what it says of resources.
const LONGEST_READ: Duration = Duration::from_secs(5);

/// What the child may have left on a backend that logs no locks.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Where, how and with what environment the child of a dead supervisor runs, by the system's word.
    pub(crate) adopted: Option<(PathBuf, Vec<OsString>, HashMap<OsString, OsString>)>,
    /// What is looked after.
    suspect: Option<Box<Case>>,
    /// What is to be said of a lock that nobody looks for.
    unseen: Option<OtherLock>,
}

impl Supervisor<'_> {
    /// How a Terraform ended, by more than its exit code. 11 is its own after a panic (`internal/logging/panic.go`). 2 is that
    /// of Go's runtime, which ends it at a fatal error, SIGQUIT or SIGABRT, and also that of a plan with changes: it was a
    /// crash if the log shows a lock that was not given back, or if the runtime wrote what its goroutines were doing.
    pub(crate) fn judged(&mut self, ending: Ending) -> Ending {
        let Ending::Exited { code, at } = ending else { return ending };
        let crashed = match code {
            _ if self.inner.is_some() => false,
            2 => {
                let facts = self.log.observer.finish(Timestamp::now());
                self.learn(facts);
                let orderly = observe::Ending { exited_zero: true, by_signal_or_kill: false, unclean: false };
                !self.log.observer.left(orderly).is_empty()
                    || !self.log.observer.traces_left(orderly).is_empty()
                    || self.has_dumped_goroutines()
            }
            code => code == 11,
        };
        if crashed { Ending::Crashed { code, at } } else { ending }
    }

    fn has_dumped_goroutines(&self) -> bool {
        let begins = b"\ngoroutine ";
        let dumped = |text: Vec<u8>| {
            let mut places = memmem::find_iter(&text, begins);
            places.any(|at| text.get(at + begins.len()).is_some_and(u8::is_ascii_digit))
        };
        [SessionFile::Stdout, SessionFile::Stderr]
            .into_iter()
            .filter_map(|file| files::tail(&self.job.session.open_file(file).ok()?, LAST_WORDS).ok())
            .any(dumped)
    }

    pub(crate) fn log_ended(&mut self) {
        let again = std::mem::replace(&mut self.log.is_read, true);
        self.watch.close();
        self.read_log();
        let facts = self.log.observer.finish(Timestamp::now());
        self.learn(facts);
        self.follow_output_to_its_end();
        if !again {
            // Who has a guard of its own has accounted for itself.
            if self.inner.as_ref().is_none_or(|inner| inner.accounts().is_empty()) {
                self.suspect();
            }
            self.note_what_the_log_lacks();
        }
        let killed = matches!(self.journal.account.ending, Some(Ending::Died { .. } | Ending::Crashed { .. }));
        let locks_left = self.holds_locks() || self.may_be_unlogged() || self.others.suspect.is_some();
        self.handle(Event::LogRead { locks_left, orphaned: locks_left && self.is_orphaned(), killed });
    }

    /// Says that a lock may be left of which the log does not tell, where it cannot be relied on.
    fn note_what_the_log_lacks(&mut self) {
        let log = self.log.file();
        // By the next job's `git clean -ffdx`, for one: what starts after that cannot log, and its guard is past its link. A
        // Terraform that had it open by then writes on.
        if log.metadata().is_ok_and(|log| log.nlink() == 0) && !self.log.child_is_terraform {
            let what = "the session's directory was removed while the command ran (set TFGUARD_DIR to another place)";
            return self.note_unseen(what);
        }
        // What wrote nothing else to it has a guard, and so a log, of its own.
        let is_used = self.log.child_is_terraform || log.metadata().is_ok_and(|log| log.len() > 0);
        if let Some(why) = self.job.session.log_is_cut(log).filter(|_| is_used) {
            return self.note_unseen(why);
        }
        // Where the place of its lock is known, it is looked at.
        if self.lacks_version() && self.journal.intent.as_ref().is_none_or(|intent| intent.places.is_empty()) {
            self.note_unseen("Terraform's log lacks even its version, which it writes first");
        }
    }

    /// Whether a lock is held, as far as the log told up to now.
    pub(crate) fn holds_locks(&self) -> bool {
        !self.left().is_empty() || !self.traces_left().is_empty()
    }

    /// Whether a Terraform is alive; also one that cannot be seen from here.
    pub(crate) fn is_terraform_alive(&self, tree: &Tree) -> bool {
        tree.terraforms().next().is_some() || is_log_held(self.log.file()) == Some(true)
    }

    /// Decides whether to look after a lock that the child may have left on a backend which does not log locks.
    fn suspect(&mut self) {
        let is_terraform = self.log.child_is_terraform;
        if self.journal.account.has_succeeded() {
            return;
        }
        let migration = self.migration();
        let suspicion = match &migration {
            Some(_) => Suspicion::None,
            None => {
                let job = self.job;
                // After everything was killed its arguments are not known.
                let program = [OsString::from(&self.journal.account.program)];
                let command = if job.command.is_empty() { &program[..] } else { &job.command };
                let (directory, command, env) = match &self.others.adopted {
                    Some((directory, command, env)) => (directory, command.as_slice(), env),
                    None => (&job.directory, command, &job.env),
                };
                Suspicion::of(directory, command, env, is_terraform, self.journal.intent.as_ref())
            }
        };
        if matches!(suspicion, Suspicion::None) && migration.is_none() {
            return;
        }
        let signalled = self.journal.account.tells_of_signal() && !is_terraform;
        if !(self.journal.account.has_died() || signalled || self.gave_up()) {
            return;
        }
        match suspicion {
            Suspicion::None => {
                let entries = self.log.observer.ledger().entries();
                let logged = |is_it: fn(&LockClaim) -> bool| entries.iter().any(|entry| is_it(&entry.claim));
                let (from, to) = (logged(LockClaim::is_migration_source), logged(LockClaim::is_migration_destination));
                let left = migration.as_ref().and_then(|moved| left_by_move(moved, self.shows_locks(false), from, to));
                self.others.unseen = left.map(OtherLock::unknown);
            }
            Suspicion::LeftAlone(lock) => self.others.unseen = Some(*lock),
            Suspicion::Lock(case) => self.others.suspect = Some(case),
        }
    }

    /// Whether Terraform gave up after a second interrupt, which leaves its lock behind an exit code of its own.
    fn gave_up(&mut self) -> bool {
        if !self.printed.is_followed() {
            self.follow_output();
        }
        self.read_output();
        self.printed.twice
    }

    /// The state that the command moved: by its log, else by its arguments, and then nobody knows where to.
    fn migration(&self) -> Option<Migration> {
        let logged = self.log.observer.migration().cloned();
        let intent =
            self.journal.intent.as_ref().filter(|intent| intent.moves && self.log.observer.product().is_none());
        logged.or_else(|| {
            let surroundings = Surroundings { dir: intent?.directory.clone(), env: self.job.env.clone() };
            // The old backend is the recorded one, until all is over.
            let from = match terraform::read_backend(&surroundings) {
                Ok(Backend::S3(_)) => "s3".to_owned(),
                Ok(Backend::Other { kind, .. }) => kind,
                Ok(Backend::None | Backend::Local) | Err(_) => "local".to_owned(),
            };
            Some(Migration { from, to: None })
        })
    }

    async fn release_on_other_backends(&mut self, uploaded: Instant) {
        let Some(case) = &self.others.suspect else { return };
        let permission = Permission { evidence: self.job.evidence, on_death: self.job.on_death };
        tokio::time::sleep_until(uploaded).await;
        let lock = case.look_after(self.item_terms(), permission, has_rival).await;
        self.journal.account.other_locks.push(lock);
        self.write_journal();
    }

    /// A script ended, and no Terraform of it is alive: the orphans of one that died over its lock (a local command, a
    /// provider) are nobody's any more. Of an orderly Terraform's own end this is not said: what lives then may have been
    /// left on purpose.
    pub(crate) fn is_orphaned(&self) -> bool {
        let tree = self.look();
        !self.log.child_is_terraform && !tree.hidden && tree.terraforms().next().is_none()
    }

    /// A forced exit after two interrupts leaves requests on their way, and only the output tells of it. It is
    /// read only where it matters: it may be large.
    pub(crate) fn follow_output_to_its_end(&mut self) {
        if !self.printed.is_followed() && !self.journal.account.has_succeeded() && !self.left().is_empty() {
            self.follow_output();
        } else {
            self.read_output();
        }
    }

    pub(crate) fn observed_ending(&self) -> observe::Ending {
        let account = &self.journal.account;
        let own_end = self.log.child_is_terraform && !account.has_died();
        observe::Ending {
            exited_zero: own_end && account.has_succeeded(),
            by_signal_or_kill: !own_end || self.printed.twice,
            unclean: account.has_died() || (!self.log.child_is_terraform && account.tells_of_signal()),
        }
    }

    pub(crate) fn left(&self) -> Vec<Left<Entry>> {
        self.log.observer.left(self.observed_ending())
    }

    pub(crate) async fn release(&mut self) {
        self.leases.end();
        let uploaded = Instant::now() + IN_FLIGHT;
        // A beat that is under way would put a lease beside a lock that is gone.
        self.leases.settle(IN_FLIGHT).await;
        let ending = self.observed_ending();
        let (mut left, traces) = (self.left(), self.traces_left());
        // What a supervisor that is dead saw is looked at again.
        self.journal.account.other_locks.clear();
        let started = self.log.started(self.job, self.journal.child);
        self.locator.identify_traces(traces, &mut left, started, self.is_first, &mut self.journal).await;
        self.write_journal();
        if self.may_be_unlogged() {
            self.look_for_unlogged(&mut left).await;
        }
        let (unclean, exited_zero) = (ending.by_signal_or_kill, ending.exited_zero);
        let terms = Terms { unclean, uploaded, exited_zero, just_ended: self.is_first, job: self.job };
        self.locator.settle(&left, self.log.started(self.job, self.journal.child), terms, &mut self.journal).await;
        self.write_journal();
        self.release_on_other_backends(uploaded).await;
        self.handle(Event::ReleaseEnded);
    }

    /// Looks at the states that the child died over, and for what it had done that they do not tell. Its locks are released
    /// by then.
    pub(crate) async fn look_at_states(&mut self) {
        let account = &self.journal.account;
        let (unclean, failed) = (account.has_died(), !account.has_succeeded());
        let was_left = |lock: &LockAccount| {
            use LockOutcome::{Kept, Left, Released, TakenAway};
            matches!(lock.outcome, Some(Released | TakenAway | Kept | Left(_)))
        };
        // Of one without a guard of its own, in a script.
        let died = |lock: &LockAccount| lock.claim.operation == "OperationTypeApply" && was_left(lock);
        let is_due = match &self.inner {
            None => unclean || (failed && (account.interrupt.is_some() || self.somebody_stopped)),
            Some(_) => account.locks.iter().any(died),
        };
        let mut changed = Unsaved::default();
        // Nothing died, so nobody is to wait long.
        let is_quick = !unclean && !account.locks.iter().any(was_left);
        let begun = Instant::now();
        if is_due {
            let is_at_work = unclean && account.phase == Phase::Applying;
            let until = begun + self.job.at_most(LONGEST_READ, IN_FLIGHT);
            self.read_resources();
            while self.printed.resources_has_more() && Instant::now() < until {
                tokio::task::yield_now().await;
                self.read_resources();
            }
            let is_read = !self.printed.resources_has_more();
            let resources = &self.log.observer.resources;
            changed.version = self.log.observer.product().map(|(_, version)| version.to_owned());
            (changed.resources, changed.left_out) = (resources.to_be_saved(), resources.left_out());
            let unseen = match (self.printed.tells_resources(), resources.unprinted()) {
                (false, _) if self.printed.resources_failed() => {
                    Some("the end of its output, which can't be read".to_owned())
                }
                (false, _) if is_at_work || self.inner.is_some() => {
                    Some("what Terraform did to resources, since its output went past tfguard".to_owned())
                }
                (true, _) if !is_read => Some("the end of its output, which is too long".to_owned()),
                (true, many @ 1..) => Some(format!("what became of {many} resources of which only its log tells")),
                _ => None,
            };
            changed.unseen.extend(unseen);
        }
        let budget = if is_quick { LONGEST_READ.saturating_sub(begun.elapsed()) } else { states::BUDGET };
        states::look(&mut self.journal.account, &self.locator, self.job, Some(changed), budget).await;
        self.write_journal();
    }

    pub(crate) fn finish(mut self, finish: Finish) -> Account {
        if finish == Finish::Alive {
            let who = self.note_survivors(&self.look());
            for leftover in self.left().iter().filter(|leftover| leftover.entry.stage != Stage::Unlocked) {
                if let Some(lock) = self.journal.account.lock_mut(&leftover.entry.claim) {
                    lock.outcome = Some(LockOutcome::Left(format!("a process of this run may still be alive: {who}")));
                }
            }
            for trace in self.journal.account.traces.iter_mut().filter(|trace| trace.entry.stage != Stage::Unlocked) {
                trace.outcome = Some(LockOutcome::Left(format!("a process of this run may still be alive: {who}")));
            }
            let alive = format!("a process of this run may still be alive: {who}");
            let not_looked = self.others.suspect.as_ref().map(|case| case.not_looked(alive.clone()));
            self.journal.account.other_locks = not_looked.into_iter().collect();
            if self.may_be_unlogged() {
                self.note_unseen(&alive);
            }
        }
        let account = &mut self.journal.account;
        account.other_locks.extend(self.others.unseen.take());
        account.ending.get_or_insert(Ending::StillAlive);
        let mut any_lost = false;
        let known = self.log.observer.ledger().entries();
        for lock in account.locks.iter_mut().filter(|lock| lock.outcome.is_none()) {
            // A supervisor that is dead learned of it, and what it learned from is lost.
            let lost = lock.stage != Stage::Unlocked && !known.iter().any(|entry| entry.claim == lock.claim);
            any_lost |= lost;
            lock.outcome = Some(if lost {
                LockOutcome::Left(
                    "Terraform's log, which would tell whether it was released, cannot be read".to_owned(),
                )
            } else {
                LockOutcome::Unlocked
            });
        }
        for trace in &mut account.traces {
            trace.outcome.get_or_insert(LockOutcome::Unlocked);
        }
        // Without the log nobody can be told to be gone, now or later.
        if any_lost && self.journal.account.survivors.is_empty() {
            let tree = self.look();
            if !tree.is_gone() {
                self.note_survivors(&tree);
            }
        }
        self.gather();
        self.journal.account.ended = Some(Timestamp::now());
        self.write_journal();
        self.journal.account
    }

    /// Takes the accounts of the guards below. Of one that has not accounted for its Terraform, that is said; its session
    /// stays.
    fn gather(&mut self) {
        let Some(inner) = &self.inner else { return };
        let account = &mut self.journal.account;
        account.terraforms = inner.accounts();
        for below in account.terraforms.iter_mut().filter(|below| below.ended.is_none()) {
            let why =
                format!("the tfguard of {} in {} has not accounted for it", below.program, below.directory.display());
            account.survivors.push(format!("the tfguard of {}", below.program));
            let open = below.locks.iter_mut().filter(|lock| lock.outcome.is_none() && lock.stage != Stage::Unlocked);
            let mut any = false;
            for lock in open {
                lock.outcome = Some(LockOutcome::Left(why.clone()));
                any = true;
            }
            if !any {
                below.other_locks.push(OtherLock::unknown(why));
            }
        }
        bound(account, LONGEST_ACCOUNT);
        for (session, why) in inner.unreadable() {
            account.survivors.push(format!("the tfguard of session {session}"));
            account.other_locks.push(OtherLock::unknown(why));
        }
    }

    /// Writes down who may still be alive. Never nobody: a journal that ended without survivors says that everything of the
    /// run is gone.
    fn note_survivors(&mut self, tree: &Tree) -> String {
        let mut alive: Vec<_> = tree.survivors.iter().map(Survivor::to_string).collect();
        if alive.is_empty() {
            alive.push("one that cannot be seen from here".to_owned());
        }
        let who = alive.join(", ");
        self.journal.account.survivors = alive;
        who
    }
}

/// No account is longer that stands in a journal: it is read by whoever accounts for the session later, to a limit.
const LONGEST_ACCOUNT: usize = 8 * 1024 * 1024;

/// Leaves out of an account the Terraforms that need nobody, where there are so many that nobody could read it.
fn bound(account: &mut Account, longest: usize) {
    let is_too_long = |account: &Account| serde_json::to_vec_pretty(account).is_ok_and(|text| text.len() > longest);
    let many = account.terraforms.len();
    if is_too_long(account) {
        account.terraforms.retain(|below| below.ended.is_none() || below.lock_left() || below.state_needs_a_look());
        for below in &mut account.terraforms {
            below.locks.retain(|lock| matches!(lock.outcome, Some(LockOutcome::Left(_)) | None));
        }
    }
    if is_too_long(account) {
        account.terraforms.sort_by_key(|below| !below.lock_left());
    }
    while is_too_long(account) && account.terraforms.len() > 1 {
        account.terraforms.truncate(account.terraforms.len() / 2);
    }
    let left_out = many - account.terraforms.len();
    if left_out > 0 {
        let sessions = "the sessions of those that left a lock stay, below this one's";
        trouble(account, format!("the accounts of {left_out} of {many} Terraforms are left out: too long. {sessions}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a journal that nobody can read any more.
    #[test]
    fn an_account_of_very_many_terraforms_keeps_those_that_need_somebody() {
        let below = |number: usize| -> Account {
            let unknown = OtherLock::unknown("nobody could look".to_owned());
            serde_json::from_value(serde_json::json!({
                "tfguard": "0.1.0", "session": number.to_string(), "started": "2026-11-20T05:00:00Z",
                "ended": "2026-11-20T05:00:00Z", "ci": null, "program": "terraform", "directory": "/w", "ending": null,
                "requests": [], "interrupt": null, "killed": null, "phase": "unknown", "survivors": [], "locks": [],
                "troubles": ["x".repeat(1000)],
                "other_locks": number.is_multiple_of(10).then_some(unknown).into_iter().collect::<Vec<_>>(),
            }))
            .unwrap()
        };
        for (many, kept) in [(30, 30), (1000, 100), (4000, 200)] {
            let mut account = below(1);
            account.terraforms = (0..many).map(below).collect();
            bound(&mut account, 400_000);
            assert_eq!(account.terraforms.len(), kept);
            assert!(serde_json::to_vec_pretty(&account).unwrap().len() < 401_000);
            assert_eq!(account.troubles.len(), 1 + usize::from(kept < many), "{many}");
            assert!(account.lock_left());
        }
    }
}
