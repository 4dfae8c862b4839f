//! Writes beside a lock of this run who holds it, for people and programs that find the lock later.
//!
//! Only once the lock has been held for a while, so that a quick plan makes no AWS call. Beside Terraform and never in
//! its way: best effort, bounded in time and tries, given up when the child ends. A request that is on its way then may
//! still land; what it meets is this run's lock, or the store's condition, or a reader who sees that it names another.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::aws::{AwsClients, S3Backend, within};
use crate::model::{FoundLock, Holder, LockClaim, LockPlace, LockTrace, Stage, Subject};
use crate::run::locks::traced::{Identified, look_for};
use crate::store::{Claimed, LONGEST_ATTEMPT, NotClaimed, Store, UnconditionalDelete};

/// How long a lock without a lease is held before its holder is written beside it.
const HELD_FOR: Duration = Duration::from_secs(10);
/// Terraform 1.6 to 1.9 do not say that they have the lock. Where it is not there, they may be waiting for it
/// (`-lock-timeout`): it is looked for so long, so often.
const LOOKS: (Duration, Duration) = (Duration::from_secs(19 * 30), Duration::from_secs(30));
/// As [`LOOKS`], for a lock that Terraform said it has. Where it is not there, Terraform may be releasing it just now.
const LOOKS_AT_A_HELD_ONE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(2));

/// The locks of this run beside which their holder is written, or was.
#[derive(Debug)]
pub struct Annotator {
    known: Vec<Known>,
    /// How long a lock is held before its holder is written beside it. None once everything was given up.
    held_for: Option<Duration>,
}

#[derive(Debug)]
struct Known {
    lock: Subject,
    /// When it has been held long enough.
    due: Instant,
    /// None once it is released, or nothing more is to be done.
    writing: Option<JoinHandle<()>>,
}

impl Annotator {
    /// With a lease, the holder is written at once: whoever waits for the end of the lease wants to know for whom.
    pub fn new(has_lease: bool) -> Self {
        Self { known: Vec::new(), held_for: Some(if has_lease { Duration::ZERO } else { HELD_FOR }) }
    }

    /// Notes how far a lock has come. `write` writes its holder beside it, once it has been held long enough; none if that
    /// cannot be done.
    pub fn note<W: Future<Output = ()> + Send + 'static>(
        &mut self,
        lock: &Subject,
        stage: Stage,
        write: impl FnOnce() -> Option<W>,
    ) {
        let at = self.known.iter().position(|known| known.lock.is(lock));
        if stage.is_over() {
            at.into_iter().for_each(|at| self.known[at].end());
            return;
        }
        let due = match (at.map(|at| &self.known[at]), self.held_for) {
            // By now it may have an ETag.
            (Some(known), _) if known.writing.is_some() && Instant::now() < known.due => known.due,
            (None, Some(held_for)) if stage == Stage::Held || lock.is_silent() => Instant::now() + held_for,
            _ => return,
        };
        let Some(write) = write() else { return };
        at.into_iter().for_each(|at| self.known.remove(at).end());
        let writing = tokio::spawn(async move {
            sleep_until(due).await;
            write.await;
        });
        self.known.push(Known { lock: lock.clone(), due, writing: Some(writing) });
    }

    /// Gives everything up, also what is noted later.
    pub fn stop(&mut self) {
        self.held_for = None;
        self.known.iter_mut().for_each(Known::end);
    }
}

impl Known {
    fn end(&mut self) {
        if let Some(writing) = self.writing.take() {
            writing.abort();
        }
    }
}

/// Writes the holder beside each half of a lock, and says with `-v` what came of it.
pub async fn write_holder(lock: Subject, backend: S3Backend, holder: Holder) {
    if let Err(why) = write_halves(&lock, &backend, holder).await {
        tracing::debug!("the holder is not recorded: {why}");
    }
}

async fn write_halves(lock: &Subject, backend: &S3Backend, holder: Holder) -> Result<(), String> {
    let clients = AwsClients::connect(backend).await.map_err(|error| error.to_string())?;
    let open = |place: &LockPlace| clients.open(place, UnconditionalDelete::Refuse);
    let claim = match lock {
        Subject::Lock(claim) => claim.clone(),
        Subject::Trace(trace) => identify(&open(&backend.file_place(&trace.state_key)), trace).await?,
    };
    let holder = holder.of_lock(claim.id.clone());
    for place in backend.places(&claim).map_err(|error| error.to_string())? {
        match annotate(&open(&place), &claim, &holder, lock.is_silent()).await {
            Ok(()) => tracing::debug!("lock {}: its holder is recorded beside {place}", claim.id),
            Err(why) => tracing::debug!("lock {}: its holder is not recorded beside {place}: {why}", claim.id),
        }
    }
    Ok(())
}

/// Which lock the traced lockfile is.
async fn identify(store: &Store, trace: &LockTrace) -> Result<LockClaim, String> {
    let is_there = |identified: &_| matches!(identified, Identified::Own(_));
    match look_for(LOOKS_AT_A_HELD_ONE, || Identified::look(trace, store), is_there).await? {
        Identified::Own(claim) => Ok(claim),
        Identified::Gone(found) => {
            warn_of_loss(&trace.lock_id(), found);
            Err(format!("the lockfile of {} is not the one that was logged", trace.lock_id()))
        }
    }
}

/// `may_wait`: Terraform may not have the lock yet.
async fn annotate(store: &Store, claim: &LockClaim, holder: &Holder, may_wait: bool) -> Result<(), String> {
    let looks = if may_wait { LOOKS } else { LOOKS_AT_A_HELD_ONE };
    let is_there = |written: &Claimed<()>| !matches!(written, Err(NotClaimed::NotThere(_)));
    let write = || async { Ok(within(LONGEST_ATTEMPT, store.annotate(claim, holder)).await?) };
    match look_for(looks, write, is_there).await? {
        Ok(()) => Ok(()),
        Err(NotClaimed::NotOwn(stranger)) => Err(stranger.to_string()),
        Err(NotClaimed::NotThere(found)) => {
            if !may_wait {
                warn_of_loss(&claim.lock_id(), found);
            }
            Err("the lock is not there".to_owned())
        }
    }
}

/// Says at once that a lock is gone under which Terraform is at work. What became of it is in the account.
pub(crate) fn warn_of_loss(state: &str, found: Option<FoundLock>) {
    let now = match found {
        Some(FoundLock::Held(info)) => {
            format!("; {} by {} since {} has its place now", info.id, info.who, info.created)
        }
        Some(FoundLock::Malformed(_)) => "; what is in its place now isn't a lock".to_owned(),
        None => String::new(),
    };
    tracing::warn!(
        "the lock of {state} was taken away while Terraform is at work, so two may write{now}. Run `tfguard verify` when \
         both have ended"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::model::LockKinds;

    #[tokio::test(start_paused = true)]
    async fn a_holder_is_written_ten_seconds_after_its_lock_and_never_once_that_is_released_or_all_is_over() {
        use LockKinds::{Both, DynamoDb, Unstated};
        for (kinds, stages, due) in [
            (Both, &[Stage::Attempted][..], false),
            (Both, &[Stage::Attempted, Stage::Held], true),
            (DynamoDb, &[Stage::Held, Stage::Held], true),
            (DynamoDb, &[Stage::Held, Stage::Unlocking], false),
            (DynamoDb, &[Stage::Held, Stage::Unlocking, Stage::Unlocked, Stage::Held], false),
            (Unstated, &[Stage::Attempted], true),
            (Unstated, &[Stage::Attempted, Stage::Unlocking], false),
        ] {
            for stopped in [false, true] {
                let (mut annotator, written) = (Annotator::new(false), Arc::new(Mutex::new(Vec::new())));
                let began = Instant::now();
                let note = |annotator: &mut Annotator, key, stage| {
                    let written = written.clone();
                    let write = || Some(async move { written.lock().unwrap().push(began.elapsed()) });
                    annotator.note(&Subject::Lock(LockClaim::example(key, kinds)), stage, write);
                };
                stages.iter().for_each(|stage| note(&mut annotator, "k", *stage));
                if stopped {
                    annotator.stop();
                    // The end of the log is read when the child is dead.
                    note(&mut annotator, "k", Stage::Held);
                    note(&mut annotator, "other", Stage::Held);
                }
                tokio::time::sleep(2 * HELD_FOR).await;
                let expected = if due && !stopped { vec![HELD_FOR] } else { Vec::new() };
                assert_eq!(*written.lock().unwrap(), expected, "{kinds:?} {stages:?}");
            }
        }
    }
}
