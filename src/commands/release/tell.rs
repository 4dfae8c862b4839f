//! What `tfguard release` says: of runs that it finished, and why it cannot finish others.

use std::io::{self, Write as _};
use std::path::PathBuf;

use crate::commands::release::CleanupStep;
use crate::commands::release::found::Found;
use crate::exit;
use crate::model::{Account, LockAccount, LockOutcome, Stage};
use crate::report::ci::{Level, Message};
use crate::run::{InnerGuards, Output, clean_up, report};
use crate::session::{Journal, SessionDir};
use crate::state::imports;

impl CleanupStep<'_> {
    /// Says why nothing is done about a session, and which locks of it may be there.
    pub(super) fn cannot_know(&self, session: &SessionDir, journal: &Journal, why: &str) -> u8 {
        self.warn(&format!("{} {why}", session.path().display()));
        let left = locks_that_may_be_left(session, &journal.account);
        for (lock, directory) in &left {
            let id = &lock.claim.id;
            self.warn(&format!(
                "lock {id} of {}: once you are sure that no Terraform of that run is alive, {}",
                lock.claim.lock_id(),
                lock.unlock(Some(id.as_str()), Some(directory))
            ));
        }
        if left.is_empty() { journal.account.needs_somebody().unwrap_or(0) } else { exit::LOCK_LEFT }
    }

    pub(super) fn cannot_reach(&self, session: &SessionDir) -> u8 {
        self.warn(&format!(
            "{} is supervised from another container: run `tfguard release` in that one",
            session.path().display()
        ));
        exit::LOCK_LEFT
    }

    /// Passes on the rest of the output, gives the account of the run, and removes what nobody will want. Whether somebody
    /// heard it.
    pub(super) async fn conclude(&mut self, found: &Found, account: &mut Account, output: Output) -> bool {
        // Whoever supervised may have been asked for none.
        report(self.plan, account);
        let (summary, heard) = output.finish_with(self.plan, &found.session, account, &mut self.requests).await;
        self.summaries.push(summary);
        if self.asked.imports && account.lacks_resources() {
            self.unsaved.push((found.session.clone(), account.clone(), heard));
            account.forget_unsaved();
        } else {
            clean_up(&found.session, account, !heard);
        }
        heard
    }

    /// Prints the `import` blocks of all runs, or nobody could tell which of them are of one address. What was printed needs
    /// nobody any more. Whether that came about.
    pub(super) fn print_imports(&mut self) -> bool {
        let all: Vec<_> = self.unsaved.iter().flat_map(|(_, account, _)| account.all_unsaved()).collect();
        let printed = io::stdout().lock().write_all(imports(&all).as_bytes());
        if let Err(error) = &printed {
            tracing::error!("the import blocks cannot be written: {error}");
        }
        for (session, account, heard) in &mut self.unsaved {
            if printed.is_ok() {
                account.forget_unsaved();
            }
            clean_up(session, account, !*heard);
        }
        printed.is_ok()
    }

    /// Says why this step cannot finish a run.
    pub(super) fn warn(&self, text: &str) {
        tracing::warn!("{text}");
        let message = Message::new(Level::Warning, "A run is not finished", text);
        let command = self.plan.publisher.command(&message);
        if !command.is_empty() {
            // The run may be in the midst of a line.
            crate::log::raw(format!("\n{command}"));
        }
    }
}

/// The locks of a run, and of the guards below it, that may be there still against anybody's will; each with the directory that
/// its Terraform was started in.
pub(super) fn locks_that_may_be_left(session: &SessionDir, account: &Account) -> Vec<(LockAccount, PathBuf)> {
    let mut locks = all_locks(session, account);
    locks.retain(|(lock, _)| may_be_left(lock));
    locks
}

/// All of them.
pub(super) fn all_locks(session: &SessionDir, account: &Account) -> Vec<(LockAccount, PathBuf)> {
    let (below, _) = InnerGuards::of(session).accounts();
    let accounts = std::iter::once(account).chain(&below);
    let of = |account: &Account, lock: &LockAccount| (lock.clone(), account.directory.clone());
    accounts.flat_map(|account| account.locks.iter().map(move |lock| of(account, lock))).collect()
}

/// Whether a lock may be there still against anybody's will, as far as its account tells.
pub(super) fn may_be_left(lock: &LockAccount) -> bool {
    match &lock.outcome {
        None => lock.stage != Stage::Unlocked,
        Some(outcome) => matches!(outcome, LockOutcome::Left(_)),
    }
}
