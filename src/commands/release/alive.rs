//! A session whose supervisor lives: it is asked to stop, and its end is awaited.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::commands::release::CleanupStep;
use crate::commands::release::found::{Found, REMOVAL_LOOKS};
use crate::commands::release::tell::{all_locks, may_be_left};
use crate::exit;
use crate::model::{LockAccount, LockOutcome, ProcessId, World};
use crate::run::{Failure, requests, spools};
use crate::session::{Journal, POLL_INTERVAL, SessionDir, is_of_this_kernel};
use crate::text::describe;

/// Longer than a cleanup step next to this one takes from its claim to its name in the journal.
const ANOTHER_STEP: Duration = Duration::from_secs(5);

impl CleanupStep<'_> {
    /// Asks for the stop of a run of this job that is supervised. Of all runs before the end of one is awaited: a CI does not
    /// give each of them its whole grace.
    pub(super) fn ask(&self, found: &mut Found) {
        let Ok(journal) = Journal::read(&found.session) else { return };
        let ours = journal.account.ci == self.plan.ci && is_of_this_kernel(&journal) && journal.world == World::here();
        // A copy's supervisor is the original's.
        let ours = ours && !found.is_copy(&journal) && found.session.is_claimed() != Some(false);
        let Some(supervisor) = journal.supervisor.filter(|supervisor| ours && supervisor.is_alive()) else { return };
        // Looked at before: nobody may see what its front passes on from here on.
        if self.is_of_this_job(&journal) {
            let spools = spools(&found.session);
            found.attended = found.session.attend();
            if supervisor.signal(requests::RELEASE) {
                (found.asked, found.spools) = (Some(supervisor), Some(spools));
            }
        }
    }

    /// The supervisor lives, and does the work.
    pub(super) async fn await_supervisor(
        &mut self,
        found: &mut Found,
        journal: &Journal,
    ) -> Result<Option<u8>, Failure> {
        let (session, until) = (found.session.clone(), self.until);
        if !self.is_of_this_job(journal) {
            let dies =
                async |supervisor: ProcessId| timeout(REMOVAL_LOOKS * POLL_INTERVAL, supervisor.gone()).await.is_ok();
            return match journal.supervisor {
                // It had been killed, and still held its claim for a moment.
                Some(supervisor) if Instant::now() < until && dies(supervisor).await => {
                    sleep(POLL_INTERVAL).await;
                    Ok(None)
                }
                _ => {
                    tracing::debug!("{} is alive and may be somebody else's", session.path().display());
                    Ok(Some(0))
                }
            };
        }
        if journal.world != World::here() {
            // Who holds it may be another cleanup step, next to this one, that is about to write itself down.
            let patience = Instant::now() + ANOTHER_STEP;
            while Instant::now() < patience {
                sleep(POLL_INTERVAL).await;
                let Some(journal) = found.journal(false).await? else { return Ok(Some(0)) };
                if journal.world == World::here() || session.claim().is_ok_and(|claim| claim.is_some()) {
                    return Ok(None);
                }
            }
            return Ok(Some(self.cannot_reach(&session)));
        }
        let Some(supervisor) = journal.supervisor.filter(|supervisor| supervisor.is_alive()) else {
            // It died just now, or has not written itself down yet.
            if Instant::now() < until {
                sleep(POLL_INTERVAL).await;
                return Ok(None);
            }
            let why = "is in the hands of a process that doesn't identify itself, so it is left to that process";
            self.cannot_know(&session, journal, why);
            return Ok(Some(exit::LOCK_LEFT));
        };
        let output = found.relay(self.asked.imports)?;
        if found.asked != Some(supervisor) {
            found.attended = session.attend();
            if !supervisor.signal(requests::RELEASE) {
                tracing::debug!("the supervisor is ending just now");
            }
        }
        if timeout_at(until, supervisor.gone()).await.is_err() {
            found.attended = None;
            self.say_that_it_waits_no_longer(&session, &journal.account.program, supervisor);
            output.finish(&mut self.requests).await;
            return Ok(Some(exit::LOCK_LEFT));
        }
        let Some(Journal { mut account, .. }) = found.journal(false).await? else {
            // The front of the run lives too and has told what happened.
            output.finish(&mut self.requests).await;
            return Ok(Some(0));
        };
        if account.ended.is_none() || account.lock_left() {
            // It was killed meanwhile, or could not release: with the credentials of this step it may be possible.
            output.finish(&mut self.requests).await;
            return Ok(None);
        }
        self.conclude(found, &mut account, output).await;
        Ok(Some(account.needs_somebody().unwrap_or(0)))
    }

    /// The supervisor goes on, and this step does not see its end.
    fn say_that_it_waits_no_longer(&self, session: &SessionDir, program: &str, supervisor: ProcessId) {
        let account = Journal::read(session).map(|journal| journal.account).unwrap_or_default();
        let said = |(lock, _): (LockAccount, _)| {
            let stays = match &lock.outcome {
                Some(LockOutcome::Kept) => ", which stays, as --on-death says",
                _ if may_be_left(&lock) => "",
                _ => return None,
            };
            Some(format!(" (lock {} of {}{stays})", lock.claim.id, lock.claim.lock_id()))
        };
        let left: String = all_locks(session, &account).into_iter().filter_map(said).collect();
        let heard = if account.requests.is_empty() && account.ending.is_none() {
            format!(
                "whether its supervisor, process {}, heard the request to stop it cannot be seen: it may be suspended \
                 (`kill -CONT {0}` lets it go on)",
                supervisor.pid
            )
        } else {
            "tfguard ends it and releases its lock".to_owned()
        };
        self.warn(&format!(
            "{program} is not accounted for after {}{left}, and this step no longer waits: {heard}. Run `tfguard release` \
             again to hear what came of it",
            describe(self.asked.wait)
        ));
    }
}
