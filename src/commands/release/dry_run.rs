//! `tfguard release --dry-run`: what would be done about a session, in words.

use tokio::time::Instant;

use crate::commands::release::CleanupStep;
use crate::commands::release::tell::locks_that_may_be_left;
use crate::model::World;
use crate::session::{Adoptable, Journal, SessionDir};

impl CleanupStep<'_> {
    /// Says what would be done about a session of this job. Changes nothing.
    pub(super) async fn say_what_would_be_done(&self, session: &SessionDir, journal: &Journal) {
        let name = session.path().display();
        // Only a claim that somebody has says that the session is supervised: one that cannot be asked may be anybody's.
        if session.is_claimed() != Some(false) {
            if !self.is_of_this_job(journal) {
                tracing::debug!("{name} is alive and may be somebody else's");
            } else if journal.world == World::here() {
                tracing::info!("{name}: would ask the run to stop, wait for it, and show the rest of its output");
            } else {
                tracing::info!("{name}: is supervised from another container, and nothing would be done");
            }
            return;
        }
        if self.goes_on_elsewhere(session, journal) {
            return;
        }
        let next = match (journal.account.ended, Adoptable::look(session, journal, Instant::now()).await) {
            (Some(_), _) => "would look at what is left of the run, which has ended",
            (None, Adoptable::Yes) => {
                "its tfguard is dead: would interrupt what is alive of it, unless that was done, wait, kill after the grace"
            }
            (None, Adoptable::NothingStarted) => "nothing was started in it: would remove it",
            (None, Adoptable::Held | Adoptable::Unknowable) => {
                tracing::info!("{name}: something of it lives in another container, or may, and nothing would be done");
                return;
            }
        };
        tracing::info!("{name}: {next}");
        let on_death = self.job(session, journal).locks.on_death;
        let left = locks_that_may_be_left(session, &journal.account).into_iter();
        for claim in left.map(|(lock, _)| lock.claim).filter(|claim| !on_death.keeps(&claim.operation)) {
            tracing::info!(
                "lock {} of {}: would delete it conditionally, if it is still there once everything of the run is dead",
                claim.id,
                claim.lock_id()
            );
        }
    }
}
