//! Writes beside a lock of this run who holds it, for people and programs that find the lock later.
//!
//! Only once the lock has been held for a while, so that a quick plan makes no AWS call. Beside Terraform and never in
//! its way: best effort, bounded in time and tries, given up when the child ends. A request that is on its way then may
//! still land; what it meets is this run's lock, or the store's condition, or a reader who sees that it names another.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::aws::{AwsClients, S3Backend, StoreError};
use crate::model::{
    Entry, FoundLock, Holder, LockClaim, LockId, LockKinds, LockPlace, LockTrace, Stage, Subject, TraceEntry,
};
use crate::run::locate::Locator;
use crate::run::nameless::Identified;
use crate::store::{Annotation, Store, UnconditionalDelete};

/// How long a lock without a lease is held before its holder is written beside it.
const HELD_FOR: Duration = Duration::from_secs(10);
/// One request never takes longer; its place, with all that is asked, not three times as long.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(10);
/// How often a request is tried that may succeed a little later.
const TRIES: u32 = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(3);
/// Terraform 1.6 to 1.9 do not say that they have the lock. Where it is not there, they may be waiting for it
/// (`-lock-timeout`): this many looks, this far apart.
const LOOKS: (u32, Duration) = (20, Duration::from_secs(30));
/// The same of a lock that Terraform said it has. Where it is not there, Terraform may be releasing it just now, and log so.
const LOOKS_AT_A_HELD_ONE: (u32, Duration) = (2, Duration::from_secs(2));

/// The locks of this run whose holder is to be written, or was.
#[derive(Debug)]
pub struct Annotator {
    known: Vec<Known>,
    /// How long a lock is held before its holder is written beside it.
    held_for: Duration,
}

#[derive(Debug)]
struct Known {
    subject: Subject,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Until this moment it is not held long enough.
    Due(Instant),
    Begun(JoinHandle<()>),
    /// Released, or nothing more is to be done.
    Over,
}

impl Annotator {
    /// With a lease, whoever waits for its end wants to know for whom.
    pub fn new(has_lease: bool) -> Self {
        Self { known: Vec::new(), held_for: if has_lease { Duration::ZERO } else { HELD_FOR } }
    }

    /// Notes how far a lock has come.
    pub fn note_lock(&mut self, entry: &Entry) {
        let unstated = entry.claim.kinds == LockKinds::Unstated && entry.stage == Stage::Attempted;
        self.note(Subject::Lock(entry.claim.clone()), entry.stage, unstated);
    }

    /// Notes how far a lockfile has come whose ID the log does not tell.
    pub fn note_trace(&mut self, entry: &TraceEntry) {
        self.note(Subject::Trace(entry.trace.clone()), entry.stage, false);
    }

    fn note(&mut self, subject: Subject, stage: Stage, may_be_held: bool) {
        let known = self.known.iter_mut().find(|known| known.subject.is(&subject));
        match known {
            Some(known) if stage.is_over() => known.end(),
            Some(known) => {
                // By now it may have an ETag.
                known.subject = subject;
            }
            None if stage == Stage::Held || may_be_held => {
                self.known.push(Known { subject, state: State::Due(Instant::now() + self.held_for) });
            }
            None => {}
        }
    }

    /// When the next holder is to be written.
    pub fn next(&self) -> Option<Instant> {
        let due = self.known.iter().filter_map(|known| match known.state {
            State::Due(due) => Some(due),
            _ => None,
        });
        due.min()
    }

    /// Begins to write the holder beside each lock that has been held long enough.
    pub fn begin_due(&mut self, locator: &Locator, holder: impl Fn(LockId) -> Holder) {
        let now = Instant::now();
        for due in self.known.iter_mut().filter(|known| matches!(known.state, State::Due(due) if due <= now)) {
            let claim = due.subject.claim();
            due.state = match locator.backend(&claim) {
                Ok(backend) => {
                    State::Begun(tokio::spawn(write(due.subject.clone(), backend.clone(), holder(claim.id))))
                }
                Err(why) => {
                    tracing::debug!("the holder is not written beside the lock: {why}");
                    State::Over
                }
            };
        }
    }

    /// Gives everything up.
    pub fn stop(&mut self) {
        for known in &mut self.known {
            known.end();
        }
    }
}

impl Known {
    fn end(&mut self) {
        if let State::Begun(task) = std::mem::replace(&mut self.state, State::Over) {
            task.abort();
        }
    }
}

/// Writes the holder beside each half of a lock, and says with `-v` what came of it.
async fn write(subject: Subject, backend: S3Backend, holder: Holder) {
    if let Err(why) = write_halves(&subject, &backend, holder).await {
        tracing::debug!("the holder is not recorded: {why}");
    }
}

async fn write_halves(subject: &Subject, backend: &S3Backend, holder: Holder) -> Result<(), String> {
    let clients = AwsClients::connect(backend).await.map_err(|error| error.to_string())?;
    let open = |place: &LockPlace| clients.open(place, UnconditionalDelete::Refuse);
    let claim = match subject {
        Subject::Lock(claim) => claim.clone(),
        Subject::Trace(trace) => identify(&open(&backend.file_place(&trace.state_key)), trace).await?,
    };
    let holder = holder.of_lock(claim.id.clone());
    for place in backend.places(&claim).map_err(|error| error.to_string())? {
        match annotate(&open(&place), &claim, &holder).await {
            Ok(()) => tracing::debug!("lock {}: its holder is recorded beside {place}", claim.id),
            Err(why) => tracing::debug!("lock {}: its holder is not recorded beside {place}: {why}", claim.id),
        }
    }
    Ok(())
}

/// Which lock the traced lockfile is.
async fn identify(store: &Store, trace: &LockTrace) -> Result<LockClaim, String> {
    let Store::Lockfile(store) = store else { return Err("its place is not a lockfile".to_owned()) };
    let (looks, every) = LOOKS_AT_A_HELD_ONE;
    let mut look = 1;
    loop {
        let there = attempts(|| store.compare(trace)).await.map_err(|error| error.to_string())?;
        let found = match Identified::of(trace, there)? {
            Identified::Own(claim) => return Ok(claim),
            Identified::Gone(found) => found,
        };
        if look == looks {
            warn_of_loss(&trace.lock_id(), found);
            return Err(format!("the lockfile of {} is not the one that was logged", trace.lock_id()));
        }
        look += 1;
        sleep(every).await;
    }
}

async fn annotate(store: &Store, claim: &LockClaim, holder: &Holder) -> Result<(), String> {
    let waits = claim.kinds == LockKinds::Unstated;
    let (looks, every) = if waits { LOOKS } else { LOOKS_AT_A_HELD_ONE };
    let mut found = None;
    for look in 1..=looks {
        match attempts(|| store.annotate(claim, holder)).await {
            Ok(Annotation::Written) => return Ok(()),
            Ok(Annotation::NotOwn(stranger)) => return Err(stranger.to_string()),
            Ok(Annotation::NotThere(other)) => found = other,
            Err(error) => return Err(error.to_string()),
        }
        if look < looks {
            sleep(every).await;
        }
    }
    if !waits {
        warn_of_loss(&claim.lock_id(), found);
    }
    Err("the lock is not there".to_owned())
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

/// The same request until it is answered, for a bounded time.
async fn attempts<T, F>(request: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut tries = 1;
    loop {
        let answer = timeout(LONGEST_ATTEMPT, request()).await;
        let answer =
            answer.unwrap_or_else(|_| Err(StoreError::TimedOut(format!("waited {} s", LONGEST_ATTEMPT.as_secs()))));
        match answer {
            Err(error) if error.is_retryable() && tries < TRIES => {
                tries += 1;
                sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Grade;

    fn entry(kinds: LockKinds, stage: Stage) -> Entry {
        Entry { claim: LockClaim::example("k", kinds), stage, grade: Grade::Record }
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_is_due_ten_seconds_after_its_lock_and_never_once_that_is_released() {
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
            let mut annotator = Annotator::new(false);
            for stage in stages {
                annotator.note_lock(&entry(kinds, *stage));
            }
            let expected = due.then(|| Instant::now() + HELD_FOR);
            assert_eq!(annotator.next(), expected, "{kinds:?} {stages:?}");
            annotator.stop();
            assert_eq!(annotator.next(), None);
        }
    }
}
