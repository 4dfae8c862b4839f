//! The one algorithm by which a lock is removed.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::aws::{StoreError, within};
use crate::model::{FoundLock, HalfOutcome, Holder, LockClaim, Sighting};
use crate::store::open::Store;
use crate::store::own::Stranger;
use crate::store::{Claimed, NotClaimed};

/// How long the release of one half of a lock may take, retries and all.
pub(crate) const RELEASE_BUDGET: Duration = Duration::from_secs(45);
/// How long a lock may appear after the death of the process that asked for it: a request in flight was seen to land
/// a second later, and a proxy or a busy network can hold it longer.
pub(crate) const APPEARS_WITHIN: Duration = Duration::from_secs(8);
/// How long the dead child's own delete may take to land.
const UNLOCK_LANDS_WITHIN: Duration = Duration::from_secs(4);
/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// One attempt never takes longer, so that a connection that hangs cannot eat the budget.
pub(crate) const LONGEST_ATTEMPT: Duration = Duration::from_secs(8);
/// Between a failure and the next attempt, doubled at each further failure up to the second value.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// What is known about the lock when its child is dead, and how long its release may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseTerms {
    /// The child asked for the lock, no success was seen, and it died uncleanly: its request may still land. The place
    /// is then watched for 8 seconds (less, if the budget is shorter), and cleared as often as need be.
    pub may_still_appear: bool,
    /// The child had begun its own, unconditional, delete when it died: that request may still land, and if the lock
    /// had changed hands by then, it would hit the successor's. So it is given up to 4 seconds to land first.
    pub unlock_in_flight: bool,
    /// The whole time the release may take. 30 seconds are plenty; below 12 the two waits above are cut short.
    pub budget: Duration,
}

/// How the release of one half of a lock ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    Deleted,
    /// It is not there: the child had unlocked, never got it, or a request of tfguard's that was never answered
    /// deleted it.
    AlreadyGone,
    /// The lock that is there is another one. It was not touched.
    NotOurs(FoundLock),
    /// The lock that is there has the claimed ID and is another run's. It was not touched.
    NotOwn(Stranger),
    /// It was seen there, and could not be deleted.
    StillThere(StoreError),
    /// It could not be deleted, and nobody can say whether it is there.
    Failed(StoreError),
}

/// Removes the claimed lock from the store, if it is there, within the budget.
///
/// To be called only when no process can use the lock any more. Every delete carries the store's own condition, so
/// repeating it is harmless; what is not known at the end is settled by reading.
/// `session`: as of [`Store::delete_if`].
pub async fn release(store: &Store, claim: &LockClaim, session: Option<&Holder>, terms: &ReleaseTerms) -> Released {
    let delete = async || store.delete_if(claim, session).await;
    settle(delete, async || store.read().await, |found| found.is_of(claim), terms).await
}

/// Removes exactly what was seen in the store, within a time: for what has no ID that a claim could name.
pub async fn release_seen(store: &Store, seen: &Sighting, budget: Duration) -> Released {
    let terms = ReleaseTerms { may_still_appear: false, unlock_in_flight: false, budget };
    let delete = async || store.delete_seen(seen).await;
    settle(delete, async || store.read().await, |found| *found == seen.lock, &terms).await
}

/// The algorithm: `delete` deletes under a condition, `read` reads what is there, `is_it` tells whether that is what is to
/// go.
async fn settle(
    delete: impl AsyncFn() -> Result<Claimed<()>, StoreError>,
    read: impl AsyncFn() -> Result<Option<FoundLock>, StoreError>,
    is_it: impl Fn(&FoundLock) -> bool,
    terms: &ReleaseTerms,
) -> Released {
    let start = Instant::now();
    // Room for the last look is kept free.
    let longest = LONGEST_ATTEMPT.min(terms.budget / 4);
    let until = start + (terms.budget - longest);
    if terms.unlock_in_flight {
        let unlock_lands = (start + UNLOCK_LANDS_WITHIN).min(start + terms.budget / 2);
        if let_unlock_land(&read, &is_it, longest, unlock_lands).await && !terms.may_still_appear {
            return Released::AlreadyGone;
        }
    }
    let watch_until = if terms.may_still_appear { (start + APPEARS_WITHIN).min(until) } else { start };

    let mut deleted = false;
    let mut backoff = BACKOFF.0;
    let error = loop {
        match bounded(longest, until, delete()).await {
            Ok(answer) => {
                deleted |= answer.is_ok();
                let now = Instant::now();
                if now >= watch_until {
                    return match answer {
                        _ if deleted => Released::Deleted,
                        Err(NotClaimed::NotThere(Some(found))) => Released::NotOurs(found),
                        Err(NotClaimed::NotOwn(stranger)) => Released::NotOwn(stranger),
                        Err(NotClaimed::NotThere(None)) | Ok(()) => Released::AlreadyGone,
                    };
                }
                backoff = BACKOFF.0;
                sleep(LOOK_EVERY.min(watch_until - now)).await;
            }
            Err(error) if error.is_retryable() && Instant::now() + backoff < until => {
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
            Err(error) => break error,
        }
    };
    // Also where deleting is denied: a lock that is gone needs nobody.
    tokio::time::sleep_until(watch_until).await;
    match bounded(longest, start + terms.budget, read()).await {
        Ok(None) if deleted => Released::Deleted,
        Ok(None) => Released::AlreadyGone,
        Ok(Some(found)) if !is_it(&found) => Released::NotOurs(found),
        Ok(Some(_)) => Released::StillThere(error),
        Err(_) => Released::Failed(error),
    }
}

/// Waits until the lock is no longer the one to go, or until the given time. Whether it is surely gone.
async fn let_unlock_land(
    read: impl AsyncFn() -> Result<Option<FoundLock>, StoreError>,
    is_it: impl Fn(&FoundLock) -> bool,
    longest: Duration,
    until: Instant,
) -> bool {
    loop {
        match bounded(longest, until, read()).await {
            Ok(None) => return true,
            Ok(Some(found)) if !is_it(&found) => return false,
            Ok(Some(_)) | Err(_) => {}
        }
        let now = Instant::now();
        if now >= until {
            return false;
        }
        sleep(LOOK_EVERY.min(until - now)).await;
    }
}

/// An attempt, bounded by a duration and by a point in time.
async fn bounded<T>(
    longest: Duration,
    until: Instant,
    attempt: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    within(longest.min(until.saturating_duration_since(Instant::now())), attempt).await
}

impl From<Released> for HalfOutcome {
    fn from(released: Released) -> Self {
        match released {
            Released::Deleted => Self::Deleted,
            Released::AlreadyGone => Self::AlreadyGone,
            Released::NotOurs(holder) => Self::NotOurs { holder },
            // What cannot be read tells nothing of whose it is.
            Released::NotOwn(stranger @ (Stranger::Untimed(_) | Stranger::Unreadable(_))) => {
                Self::Left { why: stranger.to_string() }
            }
            Released::NotOwn(stranger) => Self::NotOwn { why: stranger.to_string() },
            Released::StillThere(error) | Released::Failed(error) => Self::Left { why: error.in_a_line() },
        }
    }
}

#[cfg(test)]
mod tests;
