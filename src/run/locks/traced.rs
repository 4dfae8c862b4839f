//! Lockfiles whose ID the child's log does not tell, known by checksum or ETag: which lock each of them is.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::aws::{StoreError, within};
use crate::model::{
    Entry, FoundLock, Grade, LockAccount, LockClaim, LockOutcome, LockTrace, Stage, TraceAccount, TraceEntry,
};
use crate::observe::Left;
use crate::run::job::{expectations, trouble};
use crate::run::locks::locate::{Locator, Started};
use crate::session::Journal;
use crate::store::{APPEARS_WITHIN, LONGEST_ATTEMPT, LOOK_EVERY, Store, Traced, UnconditionalDelete};

/// How long a place is asked in all, where it does not answer.
const BUDGET: Duration = Duration::from_secs(20);

/// Why a look at the place of a lock failed.
pub struct Unseen {
    pub why: String,
    /// Another look may go better.
    pub again: bool,
}

impl From<StoreError> for Unseen {
    fn from(error: StoreError) -> Self {
        Self { why: error.in_a_line(), again: error.is_retryable() }
    }
}

/// Looks again and again, at most for this time until what `is_there` is there, and until there is an answer.
///
/// # Errors
/// Why there was none.
pub async fn look_for<T>(
    watch: Duration,
    look: impl AsyncFn() -> Result<T, Unseen>,
    is_there: impl Fn(&T) -> bool,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        let looked = look().await;
        let patience = match &looked {
            Ok(found) if !is_there(found) => watch,
            Err(Unseen { again: true, .. }) => BUDGET,
            Ok(_) | Err(_) => Duration::ZERO,
        };
        if start.elapsed() >= patience {
            return looked.map_err(|unseen| unseen.why);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What a traced lockfile turned out to be.
#[derive(Debug)]
pub enum Identified {
    /// This lock.
    Own(LockClaim),
    /// It is not there any more, and perhaps another one is.
    Gone(Option<FoundLock>),
}

impl Identified {
    /// What the lockfile is, by what is in its place.
    ///
    /// # Errors
    /// Why that does not tell.
    pub fn of(trace: &LockTrace, there: Traced) -> Result<Self, String> {
        match there {
            Traced::Same(FoundLock::Held(info)) if info.path == trace.lock_id() => {
                trace.claim(info).map(Self::Own).map_err(|error| error.to_string())
            }
            Traced::Same(_) => {
                Err(format!("the lockfile of {} is this run's and isn't a lock of that state", trace.lock_id()))
            }
            Traced::Other(found) if trace.sha256.is_none() && trace.etag.is_none() => {
                let there = match found {
                    FoundLock::Held(holder) => {
                        format!("the lock that is there (ID {} by {} since {})", holder.id, holder.who, holder.created)
                    }
                    _ => "what is there".to_owned(),
                };
                let lock = trace.lock_id();
                Err(format!(
                    "the log has neither checksum nor ETag of the lockfile of {lock}, so {there} may be it or not"
                ))
            }
            Traced::Other(found) => Ok(Self::Gone(Some(found))),
            Traced::Nothing => Ok(Self::Gone(None)),
        }
    }
}

impl Locator {
    /// Finds out which lock a traced lockfile is, once its Terraform is dead: reads the object and compares.
    ///
    /// # Errors
    /// Why it could not be found out.
    async fn identify(&self, left: &Left<TraceEntry>) -> Result<Identified, String> {
        let trace = &left.entry.trace;
        let (clients, places) = self.reach(&trace.without_id()).await?;
        let opened = places.first().map(|place| clients.open(place, UnconditionalDelete::Refuse));
        let Some(Store::Lockfile(store)) = opened else { return Err("its place is not a lockfile".to_owned()) };
        let watch = if left.may_still_appear { APPEARS_WITHIN } else { Duration::ZERO };
        let look = async || {
            let there = within(LONGEST_ATTEMPT, store.compare(trace)).await?;
            Identified::of(trace, there).map_err(|why| Unseen { why, again: false })
        };
        look_for(watch, look, |identified| matches!(identified, Identified::Own(_))).await
    }

    /// Finds out which locks the traced lockfiles are. Those become locks of the account like others, and are `left`.
    /// `is_first`: nobody tried to release them before.
    pub async fn identify_traces(
        &mut self,
        traces: Vec<Left<TraceEntry>>,
        left: &mut Vec<Left<Entry>>,
        started: Started<'_>,
        is_first: bool,
        journal: &mut Journal,
    ) {
        let expectations = expectations(journal);
        let account = &mut journal.account;
        for trace in traces {
            let Some(at) = account.traces.iter().position(|known| known.entry == trace.entry) else { continue };
            let known = &mut account.traces[at];
            let trace_claim = known.entry.trace.without_id();
            self.locate(&trace_claim, &mut known.places, &mut known.settings, started);
            let claim = match self.identify(&trace).await {
                Ok(Identified::Own(claim)) => claim,
                Ok(Identified::Gone(holder)) => {
                    known.outcome = Some(match trace.entry.stage {
                        Stage::Unlocked => LockOutcome::Unlocked,
                        Stage::Held if is_first => LockOutcome::TakenAway,
                        _ => LockOutcome::Gone,
                    });
                    known.holder = holder;
                    continue;
                }
                Err(why) => {
                    known.outcome = Some(LockOutcome::Left(why));
                    continue;
                }
            };
            if let Err(refused) = expectations.check_holder(&claim) {
                // It is there, and was left when it was looked at first: a second look that refuses it does not take it away.
                let refused = refused.to_string();
                known.outcome = Some(if is_first { LockOutcome::Gone } else { LockOutcome::Left(refused.clone()) });
                trouble(account, refused);
                continue;
            }
            // From here on it is a lock like others.
            let TraceAccount { places, settings, .. } = account.traces.remove(at);
            let same = |known: &LockClaim| known.id == claim.id && known.lock_id() == claim.lock_id();
            if let Some(other_half) = left.iter_mut().find(|leftover| same(&leftover.entry.claim)) {
                let known = std::mem::replace(&mut other_half.entry.claim, claim.clone());
                if let Some(lock) = account.lock_mut(&known) {
                    lock.claim = claim;
                }
                continue;
            }
            let entry = Entry { claim, stage: trace.entry.stage, grade: Grade::Request };
            account.locks.push(LockAccount::new(&entry, places, settings));
            left.push(Left { entry, may_still_appear: false, unlock_in_flight: trace.unlock_in_flight });
        }
    }
}
