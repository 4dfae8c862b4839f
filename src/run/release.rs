//! Releases what a dead child left, each lock by a conditional delete.

use std::ffi::OsString;
use std::time::Duration;

use futures_util::future::join_all;

use crate::aws::{AwsClients, StoreError};
use crate::model::{
    Entry, Evidence, Grade, Half, HalfOutcome, Holder, LockClaim, LockKinds, LockOutcome, LockPlace, Stage,
};
use crate::observe::Left;
use crate::run::job::Job;
use crate::run::lease::stays_leased;
use crate::run::locate::{Locator, Started};
use crate::run::states;
use crate::session::{Journal, goes_on, is_of_this_kernel, may_be_alive};
use crate::store;
use crate::store::LockStore as _;
use crate::store::{RELEASE_BUDGET, ReleaseTerms, Released, Store, UnconditionalDelete};

/// A look whether something is there never takes longer.
const LONGEST_LOOK: Duration = Duration::from_secs(8);

/// What is kept of a cleanup step's time to look at the state, and the least that a release has.
const TO_LOOK: Duration = Duration::from_secs(8);
const SHORTEST: Duration = Duration::from_secs(2);

/// A Terraform that was killed may have a state upload on its way, which the lock does not fence. It is given
/// this time to land, from the moment at which all of the run was seen to be gone, before a successor may take the lock.
/// Shortens the window; nothing on this side can close it.
pub(crate) const IN_FLIGHT: Duration = Duration::from_secs(2);

/// How a release is to go.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Terraform may have left requests on their way, or taken the lock without a word.
    pub unclean: bool,
    /// When an upload that it may have left on its way has had its time.
    pub uploaded: tokio::time::Instant,
    /// Terraform ended with success.
    pub exited_zero: bool,
    /// Terraform ended just now, and nobody tried to release its lock before.
    pub just_ended: bool,
    /// The run, whose cleanup step may have little time.
    pub job: &'a Job,
}

impl Locator {
    /// Whether a lock is surely not there any more.
    pub async fn is_gone(&self, claim: &LockClaim) -> bool {
        let look = async {
            let backend = self.backend(claim).ok()?;
            let clients = AwsClients::connect_trusting_no_checkout(backend).await.ok()?;
            for place in backend.places(claim).ok()? {
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
    pub async fn settle(
        &mut self,
        left: &[Left<Entry>],
        started: Started<'_>,
        terms: Terms<'_>,
        journal: &mut Journal,
    ) {
        for leftover in left {
            if let Some(lock) = journal.account.lock_mut(&leftover.entry.claim) {
                self.locate_lock(lock, started);
            }
        }
        let record = |claim: &LockClaim| Holder::of_session(journal, terms.job.session.path(), claim.id.clone());
        let released = left.iter().map(async |leftover| {
            let claim = &leftover.entry.claim;
            let lost = journal.lost_places(claim);
            let lock = journal.account.locks.iter().find(|lock| lock.claim == *claim);
            if !lost.is_empty() && lock.is_some_and(|lock| lock.places.iter().all(|place| lost.contains(place))) {
                return (LockOutcome::TakenAway, Vec::new());
            }
            self.release(leftover, terms, &record(claim), &lost).await
        });
        let outcomes = join_all(released).await;
        for (leftover, (outcome, halves)) in left.iter().zip(outcomes) {
            if let Some(lock) = journal.account.lock_mut(&leftover.entry.claim) {
                (lock.outcome, lock.halves) = (Some(outcome), halves);
            }
        }
    }

    /// Releases a lock whose Terraform is dead, but for the halves that it `lost` before. `session`: the record that the session
    /// writes beside it.
    async fn release(
        &self,
        leftover: &Left<Entry>,
        terms: Terms<'_>,
        session: &Holder,
        lost: &[LockPlace],
    ) -> (LockOutcome, Vec<Half>) {
        let Entry { claim, stage, .. } = &leftover.entry;
        if terms.exited_zero && !self.may_start_with(claim) {
            let why = "Terraform succeeded, so it left no lock of another state".to_owned();
            return (LockOutcome::NotOwn(why), Vec::new());
        }
        if terms.job.on_death.keeps(claim) {
            let unlocked = *stage == Stage::Unlocked;
            if !unlocked && terms.job.lease.is_some() && !self.unlease(claim, session, lost).await {
                tracing::warn!("{}", stays_leased(&claim.lock_id()));
            }
            return (if unlocked { LockOutcome::Unlocked } else { LockOutcome::Kept }, Vec::new());
        }
        let backend = match self.backend(claim) {
            Ok(backend) => backend,
            Err(why) => return (LockOutcome::Left(why), Vec::new()),
        };
        let connected = AwsClients::connect_trusting_no_checkout(backend).await;
        let (places, clients) = match (backend.places(claim), connected) {
            (Ok(places), Ok(clients)) => (places, clients),
            (Err(error), _) | (_, Err(error)) => return (LockOutcome::Left(error.to_string()), Vec::new()),
        };
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
        let (just_ended, job) = (terms.just_ended, terms.job);
        let mut vanished = was_held && just_ended;
        let mut halves = Vec::new();
        let mut to_come = u32::try_from(places.len()).unwrap_or(u32::MAX);
        for place in places.into_iter().filter(|place| !lost.contains(place)) {
            tracing::debug!("lock {}: looking at {place}", claim.id);
            let store = clients.open(&place, job.unconditional);
            // Before any delete of tfguard's, which can be carried out without an answer.
            vanished = vanished && is_missing(&store, claim).await;
            let left = job.at_most(RELEASE_BUDGET * to_come, TO_LOOK);
            let terms = ReleaseTerms {
                may_still_appear: leftover.may_still_appear,
                unlock_in_flight: leftover.unlock_in_flight,
                budget: (left / to_come).max(SHORTEST),
            };
            to_come -= 1;
            let outcome = match store::release(&store, claim, Some(session), &terms).await {
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
                let _ = tokio::time::timeout(LONGEST_LOOK, store.end_lease(&claim.id)).await;
            }
            halves.push(Half { place, outcome });
        }
        match LockOutcome::of(&halves) {
            LockOutcome::Gone | LockOutcome::Released if !lost.is_empty() => (LockOutcome::TakenAway, halves),
            LockOutcome::Gone if vanished => (LockOutcome::TakenAway, halves),
            // What is there now came after it. (1.6 to 1.9 say that they begin to unlock, and no more.)
            LockOutcome::Gone if *stage == Stage::Unlocked => (LockOutcome::Unlocked, Vec::new()),
            LockOutcome::Gone if *stage == Stage::Unlocking => (LockOutcome::Unlocked, halves),
            LockOutcome::Left(why) if *stage == Stage::Unlocked => (
                LockOutcome::Left(format!(
                    "{why}; Terraform logged that it released it, and then did not end by itself"
                )),
                halves,
            ),
            outcome => (outcome, halves),
        }
    }
}

impl Locator {
    /// Takes the lease away from a lock that stays for a person, but for the halves that were `lost`. Whether it has none
    /// now.
    async fn unlease(&self, claim: &LockClaim, session: &Holder, lost: &[LockPlace]) -> bool {
        let removed = async {
            let backend = self.backend(claim).ok()?;
            let clients = AwsClients::connect_trusting_no_checkout(backend).await.ok()?;
            let places = backend.places(claim).ok()?.into_iter().filter(|place| !lost.contains(place));
            let removed = places.map(async |place| {
                let store = clients.open(&place, UnconditionalDelete::Refuse);
                store.unlease(claim, session).await
            });
            Some(join_all(removed).await.into_iter().all(|removed| removed == Ok(true)))
        };
        tokio::time::timeout(LONGEST_LOOK, removed).await == Ok(Some(true))
    }
}

/// Tries again to release the locks that are left, also those of the guards below, whose sessions are kept for it. Nothing
/// of the session itself is alive; of those below it that is seen here.
pub(crate) async fn release_again(job: &Job, journal: &mut Journal, until: tokio::time::Instant) {
    for inner in job.session.inner() {
        let Ok(mut below) = Journal::read(&inner) else { continue };
        let over = below.account.ended.is_some() && is_of_this_kernel(&below);
        if over && below.account.lock_left() && !goes_on(until, || may_be_alive(&inner, &below)).await {
            below.account.survivors.clear();
            Box::pin(release_again(&job.of_journal(&inner, &below), &mut below, until)).await;
        }
        let accounts = &mut journal.account.terraforms;
        if let Some(known) = accounts.iter_mut().find(|known| known.session == below.account.session) {
            *known = below.account;
        }
    }
    let command = [OsString::from(&journal.account.program)];
    let started = Started::dead(job, &command);
    let mut locator = Locator::new(journal.backend.clone());
    let is_left = |outcome: &Option<LockOutcome>| matches!(outcome, Some(LockOutcome::Left(_)));
    let traces = journal.account.traces.iter().filter(|trace| is_left(&trace.outcome)).map(|trace| Left {
        entry: trace.entry.clone(),
        may_still_appear: false,
        unlock_in_flight: false,
    });
    let traces = traces.collect();
    let mut left = Vec::new();
    for lock in &mut journal.account.locks {
        locator.note_moved(&lock.claim);
        if !is_left(&lock.outcome) || job.on_death.keeps(&lock.claim) {
            continue;
        }
        // What is known of a lock only by what it says itself was judged when its Terraform had just died. To judge it
        // again is a person's; whether it is still there is not.
        if lock.grade == Grade::Item && (lock.halves.is_empty() || job.evidence != Evidence::Item) {
            locator.locate_lock(lock, started);
            if locator.is_gone(&lock.claim).await {
                lock.outcome = Some(LockOutcome::Gone);
            }
            continue;
        }
        let entry = Entry { claim: lock.claim.clone(), stage: lock.stage, grade: lock.grade };
        left.push(Left { entry, may_still_appear: false, unlock_in_flight: false });
    }
    locator.identify_traces(traces, &mut left, started, false, journal).await;
    let uploaded = tokio::time::Instant::now() + IN_FLIGHT;
    let terms = Terms { unclean: true, uploaded, exited_zero: false, just_ended: false, job };
    locator.settle(&left, started, terms, journal).await;
    states::look(&mut journal.account, &locator, job, None, states::BUDGET).await;
    if let Err(error) = journal.write(&job.session) {
        tracing::warn!("{error}");
    }
}

/// Compares what a run had made, and its state lacked, once more with that state: somebody may have imported it.
pub(crate) async fn compare_again(job: &Job, journal: &mut Journal) {
    for inner in job.session.inner() {
        let Ok(mut below) = Journal::read(&inner) else { continue };
        let accounts = &mut journal.account.terraforms;
        if let Some(known) = accounts.iter_mut().find(|known| known.session == below.account.session)
            && known.lacks_resources()
        {
            Box::pin(compare_again(&job.of_journal(&inner, &below), &mut below)).await;
            *known = below.account;
        }
    }
    let Some(unsaved) = journal.account.unsaved.first().cloned() else { return };
    let command = [OsString::from(&journal.account.program)];
    let mut locator = Locator::new(journal.backend.clone());
    for lock in &mut journal.account.locks {
        locator.locate_lock(lock, Started::dead(job, &command));
    }
    states::look(&mut journal.account, &locator, job, Some(unsaved), states::BUDGET).await;
    if let Err(error) = journal.write(&job.session) {
        tracing::warn!("{error}");
    }
}

/// Whether a half of a lock is surely not there.
async fn is_missing(store: &Store, claim: &LockClaim) -> bool {
    match tokio::time::timeout(LONGEST_LOOK, store.read()).await {
        Ok(Ok(found)) => found.is_none_or(|found| !found.is_of(claim)),
        Ok(Err(StoreError::NoSuchTable(_) | StoreError::NoSuchBucket(_))) => true,
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Whether what is not in a table is surely not there: a table of that name can be another account's.
async fn sees_account_of(clients: &AwsClients, claim: &LockClaim, place: &LockPlace) -> bool {
    !clients.backend.is_by_environment
        || matches!(place, LockPlace::Lockfile { .. })
        || sees_state(clients, claim).await
}

async fn sees_state(clients: &AwsClients, claim: &LockClaim) -> bool {
    let reader = clients.reader();
    let state = reader.state_exists(&claim.bucket, &claim.state_key);
    tokio::time::timeout(LONGEST_LOOK, state).await.is_ok_and(|answer| answer == Ok(true))
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
