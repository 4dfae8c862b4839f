//! `tfguard release --dry-run`: what would be done about a session, in words.

use crate::commands::release::{CleanupStep, may_be_left};
use crate::model::World;
use crate::session::{Journal, SessionDir, is_log_held};

impl CleanupStep<'_> {
    /// Says what would be done about a session of this job. Changes nothing.
    pub(super) fn say_what_would_be_done(&self, session: &SessionDir, journal: &Journal) {
        let name = session.path().display();
        let here = journal.world == World::here();
        let program = &journal.account.program;
        // Only a claim that somebody has says that the session is supervised: one that cannot be asked may be anybody's.
        if session.is_claimed() != Some(false) {
            if !self.is_of_this_job(journal) {
                tracing::debug!("{name} is alive and may be somebody else's");
            } else if here {
                tracing::info!(
                    "{name}: would ask the run to stop, wait for it, and show the rest of {program}'s output"
                );
            } else {
                tracing::info!("{name}: is supervised from another container, and nothing would be done");
            }
            return;
        }
        if self.goes_on_elsewhere(session, journal) {
            return;
        }
        let next = match (journal.account.ended, here) {
            (Some(_), _) => "would look at what is left of the run, which has ended",
            (None, true) if journal.child.is_some_and(|child| child.id.is_alive()) => {
                "its tfguard is dead: would interrupt what is alive of it, unless that was done, wait, kill after the grace"
            }
            (None, true) => "nothing of the run seems to be alive: would make sure",
            (None, false) if matches!(journal.open_log(session).map(|log| is_log_held(&log)), Ok(Some(false))) => {
                "its container is gone, with everything in it"
            }
            (None, false) => {
                "whether anything of it lives in another container cannot be known, and nothing would be done"
            }
        };
        tracing::info!("{name}: {next}");
        for lock in &journal.account.locks {
            if may_be_left(lock) && !self.on_death(journal).keeps(&lock.claim) {
                tracing::info!(
                    "lock {} of {}: would delete it conditionally, if it is still there once everything of the run \
                     is dead",
                    lock.claim.id,
                    lock.claim.lock_id()
                );
            }
        }
    }
}
