//! Releases what a dead child left, each lock by a conditional delete.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::aws::{AwsClients, StoreError, within};
use crate::model::{Entry, Half, HalfOutcome, Holder, LockClaim, LockKinds, LockOutcome, LockPlace, Stage};
use crate::observe::Left;
use crate::run::job::Job;
use crate::run::locks::locate::{Locator, Started};
use crate::session::Journal;
use crate::store;
use crate::store::{RELEASE_BUDGET, ReleaseTerms, Released, Store, UnconditionalDelete};

/// The limit of a look whether something is there.
const LONGEST_LOOK: Duration = Duration::from_secs(8);

/// The part of a cleanup step's time that is kept to look at the state.
const TO_LOOK: Duration = Duration::from_secs(8);
/// The least time that the release of a half has.
const SHORTEST: Duration = Duration::from_secs(2);

/// A Terraform that was killed may have a state upload on its way, which the lock does not fence. It is given
/// this time to land, from the moment at which all of the run was seen to be gone, before a successor may take the lock.
/// Shortens the window; nothing on this side can close it.
pub(crate) const IN_FLIGHT: Duration = Duration::from_secs(2);

/// How a release is to go.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Terraform may have left requests on their way, or taken the lock without a word.
    pub unclean: bool,
    /// When an upload that it may have left on its way has had its time.
    pub uploaded: Instant,
    /// Terraform ended with success.
    pub exited_zero: bool,
    /// Terraform ended just now, and nobody tried to release its lock before.
    pub just_ended: bool,
}

impl Locator {
    /// Whether a lock is surely not there any more.
    pub async fn is_gone(&self, claim: &LockClaim) -> bool {
        let look = async {
            let (clients, places) = self.reach(claim).await.ok()?;
            for place in places {
                let found = clients.open(&place, UnconditionalDelete::Refuse).read().await.ok()?;
                if found.is_some_and(|found| found.is_of(claim)) || !sees_account_of(&clients, claim, &place).await {
                    return None;
                }
            }
            Some(())
        };
        tokio::time::timeout(RELEASE_BUDGET, look).await.is_ok_and(|gone| gone.is_some())
    }

    /// Releases locks whose Terraforms are dead, and writes down what became of each. All at once: each may take its time, and
    /// a CI does not give much.
    pub async fn settle(&mut self, left: &[Left<Entry>], started: Started<'_>, terms: Terms, journal: &mut Journal) {
        for leftover in left {
            if let Some(lock) = journal.account.lock_mut(&leftover.entry.claim) {
                self.locate(&lock.claim, &mut lock.places, &mut lock.settings, started);
            }
        }
        let released = left.iter().map(async |leftover| {
            let released = self.release(leftover, terms, started.job, journal).await;
            released.unwrap_or_else(|outcome| (outcome, Vec::new()))
        });
        let released = join_all(released).await;
        for (leftover, (outcome, halves)) in left.iter().zip(released) {
            if let Some(lock) = journal.account.lock_mut(&leftover.entry.claim) {
                (lock.outcome, lock.halves) = (Some(outcome), halves);
            }
        }
    }

    /// Releases a lock whose Terraform is dead, but for the halves that it lost before.
    ///
    /// # Errors
    /// With what became of it, where no half was looked at.
    async fn release(
        &self,
        leftover: &Left<Entry>,
        terms: Terms,
        job: &Job,
        journal: &Journal,
    ) -> Result<(LockOutcome, Vec<Half>), LockOutcome> {
        let Entry { claim, stage, .. } = &leftover.entry;
        let lost = journal.lost_places(claim);
        let lock = journal.account.locks.iter().find(|lock| lock.claim == *claim);
        if !lost.is_empty() && lock.is_some_and(|lock| lock.places.iter().all(|place| lost.contains(place))) {
            return Err(LockOutcome::TakenAway);
        }
        if terms.exited_zero && !self.may_start_with(claim) {
            let why = "Terraform succeeded, so it left no lock of another state".to_owned();
            return Err(LockOutcome::NotOwn(why));
        }
        if job.locks.on_death.keeps(&claim.operation) {
            if *stage == Stage::Unlocked {
                return Err(LockOutcome::Unlocked);
            }
            // Until then its supervisor takes the lease away.
            if job.lease.is_some() && journal.account.ended.is_some() {
                tracing::warn!("{}", stays_leased(&claim.lock_id()));
            }
            return Err(LockOutcome::Kept);
        }
        let (clients, places) = self.reach(claim).await.map_err(LockOutcome::Left)?;
        let session = Holder::of_session(journal, job.session.path(), claim.id.clone());
        if terms.unclean {
            // Meanwhile the credentials are fetched and a connection is made, by a question whose answer may be another one then.
            if let Some(place) = places.first() {
                let store = clients.open(place, UnconditionalDelete::Refuse);
                let _ = tokio::time::timeout_at(terms.uploaded, store.read()).await;
            }
            tokio::time::sleep_until(terms.uploaded).await;
        }
        // It had the lock, and no request of its own that gives it back can have worked.
        let was_held = match stage {
            Stage::Held => true,
            Stage::Unlocking => claim.kinds != LockKinds::Unstated && !terms.unclean,
            Stage::Attempted | Stage::Unlocked => false,
        };
        let just_ended = terms.just_ended;
        let mut vanished = was_held && just_ended;
        let mut halves = Vec::new();
        let mut to_come = u32::try_from(places.len()).unwrap_or(u32::MAX);
        for place in places.into_iter().filter(|place| !lost.contains(place)) {
            tracing::debug!("lock {}: looking at {place}", claim.id);
            let store = clients.open(&place, job.locks.without_conditions);
            // Before any delete of tfguard's, which can be carried out without an answer.
            vanished = vanished && is_missing(&store, claim).await;
            let left = job.at_most(RELEASE_BUDGET * to_come, TO_LOOK);
            let terms = ReleaseTerms {
                may_still_appear: leftover.may_still_appear,
                unlock_in_flight: leftover.unlock_in_flight,
                budget: (left / to_come).max(SHORTEST),
            };
            to_come -= 1;
            let outcome = match store::release(&store, claim, Some(&session), &terms).await {
                Released::Failed(error) if is_without_store(&clients, claim, &error, just_ended).await => {
                    HalfOutcome::GoneWithStore { why: error.to_string() }
                }
                Released::AlreadyGone if !sees_account_of(&clients, claim, &place).await => HalfOutcome::Left {
                    why: "the credentials of this step's environment find neither this lock nor its state, so they may be of \
                          another account than Terraform's"
                        .to_owned(),
                },
                released => released.into(),
            };
            let is_gone = matches!(outcome, HalfOutcome::Deleted | HalfOutcome::AlreadyGone);
            if is_gone && job.lease.is_some() {
                // What is left of it means nothing.
                let _ = within(LONGEST_LOOK, store.end_lease(&claim.id)).await;
            }
            halves.push(Half { place, outcome });
        }
        let outcome = match LockOutcome::of(&halves) {
            LockOutcome::Gone | LockOutcome::Released if !lost.is_empty() => LockOutcome::TakenAway,
            LockOutcome::Gone if vanished => LockOutcome::TakenAway,
            // What is there now came after it. (1.6 to 1.9 say that they begin to unlock, and no more.)
            LockOutcome::Gone if *stage == Stage::Unlocked => return Err(LockOutcome::Unlocked),
            LockOutcome::Gone if *stage == Stage::Unlocking => LockOutcome::Unlocked,
            LockOutcome::Left(why) if *stage == Stage::Unlocked => LockOutcome::Left(format!(
                "{why}; Terraform logged that it released it, and then did not end by itself"
            )),
            outcome => outcome,
        };
        Ok((outcome, halves))
    }
}

/// Says of a lock that stays that its lease does, too.
pub(crate) fn stays_leased(state: &str) -> String {
    format!(
        "the lock of {state} is to stay, and its lease could not be taken away: a run with --reclaim elsewhere may delete \
         the lock once its lease has run out"
    )
}

/// Whether a half of a lock is surely not there.
async fn is_missing(store: &Store, claim: &LockClaim) -> bool {
    match within(LONGEST_LOOK, store.read()).await {
        Ok(found) => found.is_none_or(|found| !found.is_of(claim)),
        Err(error) => matches!(error, StoreError::NoSuchTable(_) | StoreError::NoSuchBucket(_)),
    }
}

/// Whether what is not in a table is surely not there: a table of that name can be another account's.
async fn sees_account_of(clients: &AwsClients, claim: &LockClaim, place: &LockPlace) -> bool {
    !clients.backend.is_by_environment
        || matches!(place, LockPlace::Lockfile { .. })
        || sees_state(clients, claim).await
}

async fn sees_state(clients: &AwsClients, claim: &LockClaim) -> bool {
    within(LONGEST_LOOK, clients.state_exists(&claim.bucket, &claim.state_key)).await == Ok(true)
}

/// Whether a half of a lock is gone with its table or bucket. A cleanup step may be of another account, which has no such
/// table, but then not the state either.
async fn is_without_store(clients: &AwsClients, claim: &LockClaim, error: &StoreError, same_account: bool) -> bool {
    match error {
        StoreError::NoSuchTable(_) if !same_account => sees_state(clients, claim).await,
        StoreError::NoSuchTable(_) => true,
        StoreError::NoSuchBucket(_) => same_account || clients.is_s3_of_aws(),
        _ => false,
    }
}
