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

/// How long a place that does not answer is asked, and how long it is left alone between two requests at most.
const BUDGET: Duration = Duration::from_secs(20);
const AFTER_A_FAILURE: Duration = Duration::from_secs(3);

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

/// Looks until what `is_there` is there, or until a look shows that it is not when the time to `watch` has passed. Where there
/// is no answer, asks again. Pauses `every` time.
///
/// # Errors
/// Why there was no answer.
pub async fn look_for<T, L: Future<Output = Result<T, Unseen>>>(
    (watch, every): (Duration, Duration),
    look: impl Fn() -> L,
    is_there: impl Fn(&T) -> bool,
) -> Result<T, String> {
    let start = Instant::now();
    let mut failing = None;
    loop {
        let asked = Instant::now();
        let looked = look().await;
        let is_over = match &looked {
            Ok(found) => {
                failing = None;
                is_there(found) || asked - start >= watch
            }
            Err(unseen) => !unseen.again || failing.get_or_insert(asked).elapsed() >= BUDGET,
        };
        if is_over {
            return looked.map_err(|unseen| unseen.why);
        }
        sleep(if failing.is_some() { every.min(AFTER_A_FAILURE) } else { every }).await;
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
    /// Reads what is in the place of the lockfile and compares.
    ///
    /// # Errors
    /// Why it could not be found out.
    pub async fn look(trace: &LockTrace, store: &Store) -> Result<Self, Unseen> {
        let for_good = |why| Unseen { why, again: false };
        let Store::Lockfile(store) = store else { return Err(for_good("its place is not a lockfile".to_owned())) };
        let there = within(LONGEST_ATTEMPT, store.compare(trace)).await?;
        Self::of(trace, there).map_err(for_good)
    }

    fn of(trace: &LockTrace, there: Traced) -> Result<Self, String> {
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
    /// Finds out which lock a traced lockfile is, once its Terraform is dead. Errors: why it could not be found out.
    async fn identify(&self, left: &Left<TraceEntry>) -> Result<Identified, String> {
        let trace = &left.entry.trace;
        let (clients, places) = self.reach(&trace.without_id()).await?;
        let place = places.first().ok_or("it has no place")?;
        let store = clients.open(place, UnconditionalDelete::Refuse);
        let watch = if left.may_still_appear { APPEARS_WITHIN } else { Duration::ZERO };
        let is_there = |identified: &_| matches!(identified, Identified::Own(_));
        look_for((watch, LOOK_EVERY), || Identified::look(trace, &store), is_there).await
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a lock that is said to be taken away because the first look was slow and no other one followed.
    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_looked_for_once_more_however_slow_the_first_look_was() {
        for (slow, (watch, every), expected) in [(0, (2, 2), 2), (5, (2, 2), 2), (0, (19 * 30, 30), 20), (3, (0, 2), 1)]
        {
            let looks = std::cell::Cell::new(0);
            let look = async || {
                looks.set(looks.get() + 1);
                sleep(Duration::from_secs(slow)).await;
                Ok(false)
            };
            let times = (Duration::from_secs(watch), Duration::from_secs(every));
            assert_eq!(look_for(times, look, |found| *found).await, Ok(false));
            assert_eq!(looks.get(), expected, "{slow} s each, {times:?}");
        }
    }

    /// Guards against a holder that is never written down because one of many requests failed.
    #[tokio::test(start_paused = true)]
    async fn one_request_that_fails_does_not_end_it() {
        let looks = std::cell::Cell::new(0);
        let look = async || {
            looks.set(looks.get() + 1);
            match looks.get() {
                2 => Err(Unseen { why: "no answer".to_owned(), again: true }),
                look => Ok(look == 3),
            }
        };
        let times = (Duration::from_secs(570), Duration::from_secs(30));
        assert_eq!(look_for(times, look, |found| *found).await, Ok(true));
    }

    /// Guards against a cleanup step that waits for a store that is gone.
    #[tokio::test(start_paused = true)]
    async fn a_place_that_does_not_answer_is_given_up() {
        let start = Instant::now();
        for (again, longest) in [(false, Duration::ZERO), (true, 2 * BUDGET)] {
            let look = async || Err::<(), _>(Unseen { why: "no answer".to_owned(), again });
            assert!(look_for((Duration::ZERO, LOOK_EVERY), look, |()| true).await.is_err());
            assert!(start.elapsed() <= longest, "{again}");
        }
    }
}
