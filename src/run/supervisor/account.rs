//! The end of the account: what became of the child's states, what nobody could see, who is still alive, and what the guards
//! below tell.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::aws::Surroundings;
use crate::machine::Finish;
use crate::model::{Account, Ending, LockAccount, LockOutcome, OtherLock, OtherOutcome, Phase, Stage, Unsaved};
use crate::run::job::trouble;
use crate::run::locks::release::IN_FLIGHT;
use crate::run::locks::states;
use crate::run::supervisor::Supervisor;
use crate::session::{Survivor, Tree};

/// How long what is left of the output is read for what it says of resources.
const LONGEST_READ: Duration = Duration::from_secs(5);

impl Supervisor<'_> {
    /// Says that a lock may be left of which the log does not tell, where it cannot be relied on.
    pub(crate) fn note_what_the_log_lacks(&mut self) {
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

    /// Notes that nobody could see whether a lock is left. Of a Terraform that ended by itself that is no reason to look: it
    /// released its lock, or told why not.
    pub(crate) fn note_unseen(&mut self, why: &str) {
        let account = &self.journal.account;
        // An error after a request to stop can be a forced exit.
        let forced = matches!(account.ending, Some(Ending::Exited { code: 1.., .. })) && !account.requests.is_empty();
        if forced || account.has_died() {
            self.note_unknown(why.to_owned());
        } else {
            self.trouble(format!("tfguard could not see whether this run left a lock: {why}"));
        }
    }

    /// Notes that a lock may be left, so that somebody has to look.
    pub(crate) fn note_unknown(&mut self, why: String) {
        let lock = OtherLock {
            backend: "s3".to_owned(),
            holder: None,
            outcome: OtherOutcome::Unknown { why, unclean: true },
            command: None,
            terraform: self.journal.intent.as_ref().map(|intent| {
                let surroundings = Surroundings { dir: intent.directory.clone(), env: self.job.env.clone() };
                surroundings.terraform(self.journal.account.product().program(), &intent.workspace, true)
            }),
        };
        // A supervisor that is dead may have said the same.
        if !self.journal.account.other_locks.contains(&lock) {
            self.journal.account.other_locks.push(lock);
        }
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
        let is_due = match self.runs_guards {
            false => unclean || (failed && (account.interrupt.is_some() || self.somebody_stopped)),
            // Of one without a guard of its own, in a script.
            true => account.locks.iter().any(|lock| lock.claim.operation == "OperationTypeApply" && was_left(lock)),
        };
        // Nothing died, so nobody is to wait long.
        let is_quick = !unclean && !account.locks.iter().any(was_left);
        let begun = Instant::now();
        let changed = if is_due { self.unsaved().await } else { Unsaved::default() };
        let budget = if is_quick { LONGEST_READ.saturating_sub(begun.elapsed()) } else { states::BUDGET };
        states::look(&mut self.journal.account, &self.locator, self.job, Some(changed), budget).await;
        self.write_journal();
    }

    /// What the child did to resources, by its log and its output.
    async fn unsaved(&mut self) -> Unsaved {
        let until = Instant::now() + self.job.at_most(LONGEST_READ, IN_FLIGHT);
        self.read_resources();
        while self.printed.has_more && Instant::now() < until {
            tokio::task::yield_now().await;
            self.read_resources();
        }
        let account = &self.journal.account;
        let is_at_work = account.has_died() && account.phase == Phase::Applying;
        let resources = &self.log.observer.resources;
        let unseen = match (self.printed.tells_resources(), resources.unprinted()) {
            (false, _) if self.printed.has_failed => Some("the end of its output, which can't be read".to_owned()),
            (false, _) if is_at_work || self.runs_guards => {
                Some("what Terraform did to resources, since its output went past tfguard".to_owned())
            }
            (true, _) if self.printed.has_more => Some("the end of its output, which is too long".to_owned()),
            (true, many @ 1..) => Some(format!("what became of {many} resources of which only its log tells")),
            _ => None,
        };
        Unsaved {
            version: self.log.observer.product().map(|(_, version)| version.to_owned()),
            unseen: unseen.into_iter().collect(),
            resources: resources.to_be_saved(),
            left_out: resources.left_out(),
            ..Unsaved::default()
        }
    }

    pub(crate) fn finish(mut self, finish: Finish) -> Account {
        if finish == Finish::Alive {
            let alive = format!("a process of this run may still be alive: {}", self.note_survivors(&self.look()));
            let left = LockOutcome::Left(alive.clone());
            for leftover in self.left().iter().filter(|leftover| leftover.entry.stage != Stage::Unlocked) {
                if let Some(lock) = self.journal.account.lock_mut(&leftover.entry.claim) {
                    lock.outcome = Some(left.clone());
                }
            }
            for trace in self.journal.account.traces.iter_mut().filter(|trace| trace.entry.stage != Stage::Unlocked) {
                trace.outcome = Some(left.clone());
            }
            let not_looked = self.others.suspect.as_ref().map(|case| case.not_looked(alive.clone()));
            let account = &mut self.journal.account;
            // Where the log tells of a lock, it is that of who lives.
            let held = |stage: Stage| stage != Stage::Unlocked;
            if account.locks.iter().any(|lock| held(lock.stage))
                || account.traces.iter().any(|trace| held(trace.entry.stage))
            {
                account.other_locks.clear();
            }
            account.other_locks.extend(not_looked);
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
            lock.outcome = Some(match lost {
                true => LockOutcome::Left(
                    "Terraform's log, which would tell whether it was released, cannot be read".to_owned(),
                ),
                false => LockOutcome::Unlocked,
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
        if !self.runs_guards {
            return;
        }
        let account = &mut self.journal.account;
        // A supervisor before this one may have told of guards that have accounted for themselves since.
        account.survivors.retain(|who| !who.starts_with(GUARD));
        let (accounts, silent) = self.inner.accounts();
        account.terraforms = accounts;
        for below in account.terraforms.iter_mut().filter(|below| below.ended.is_none()) {
            let why =
                format!("the tfguard of {} in {} has not accounted for it", below.program, below.directory.display());
            account.survivors.push(format!("{GUARD}{}", below.program));
            let is_open = |lock: &&mut LockAccount| lock.outcome.is_none() && lock.stage != Stage::Unlocked;
            let open: Vec<_> = below.locks.iter_mut().filter(is_open).collect();
            if open.is_empty() {
                below.other_locks.push(OtherLock::unknown(why));
            } else {
                open.into_iter().for_each(|lock| lock.outcome = Some(LockOutcome::Left(why.clone())));
            }
        }
        bound(account, LONGEST_ACCOUNT);
        for (session, why) in silent {
            account.survivors.push(format!("{GUARD}session {session}"));
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

/// How guards below are called where they may still be alive.
const GUARD: &str = "the tfguard of ";
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
