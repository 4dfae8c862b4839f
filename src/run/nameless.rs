//! Locks whose ID the child's log does not tell: lockfiles known by checksum or ETag, and locks that nothing logs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::aws::{AwsClients, BackendError, PlanFlaw, S3Backend, Surroundings};
use crate::model::{
    Baseline, Entry, FoundLock, Grade, Intent, LockAccount, LockClaim, LockInfo, LockOutcome, LockPlace, LockTrace,
    MIGRATION, Product, Settings, Stage, TraceAccount, TraceEntry,
};
use crate::observe::item::{ItemTerms, Misfit};
use crate::observe::{Believed, Left, item};
use crate::run::job::{Job, expectations, trouble};
use crate::run::locate::{Locator, Started};
use crate::run::terraforms::has_rival;
use crate::session::Journal;
use crate::store::LockStore as _;
use crate::store::{Contested, Store, Traced, UnconditionalDelete};
use crate::terraform::{Backend, INIT, Purpose};
use crate::{model, terraform};

/// How long an upload may take to land after the death of the process that sent it, as in [`crate::store::release`].
const LANDS_WITHIN: Duration = Duration::from_secs(8);
/// How long the place is asked in all.
const BUDGET: Duration = Duration::from_secs(20);
/// One request never takes longer.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Job {
    /// What the command may lock, as far as its arguments and its directory tell. `logs`: it was made to log; `debug`: its
    /// environment asks for DEBUG.
    pub(crate) fn intent(&self, logs: bool, debug: bool) -> Intent {
        let surroundings = self.surroundings();
        let arguments = self.command.get(1..).unwrap_or_default();
        let named = self.command.first().is_some_and(|program| model::product(program).is_some());
        let purpose = named.then(|| Purpose::read(&self.command, &self.env));
        let read = purpose.clone().flatten();
        let workspace = read.as_ref().and_then(|purpose| purpose.workspace.clone());
        let workspace = workspace.unwrap_or_else(|| terraform::workspace(&surroundings));
        let operations = |purpose: Purpose| {
            let init = (purpose.makes && workspace != "default").then_some(INIT);
            let moves = if purpose.may_move { &MIGRATION[..] } else { &[] };
            purpose.operations.iter().chain(moves).copied().chain(init).map(str::to_owned).collect()
        };
        let mut intent = Intent {
            operations: purpose.map(|purpose| purpose.map(operations).unwrap_or_default()),
            plan_file: terraform::plan_file(arguments, &surroundings),
            workspace,
            waits: read.as_ref().is_some_and(|purpose| purpose.waits),
            moves: read.is_some_and(|purpose| purpose.moves),
            logs,
            debug,
            places: Vec::new(),
            baseline: Baseline::Unknown,
            directory: surroundings.dir,
        };
        intent.places = State::of(&intent, &self.env).ok().flatten().map(|state| state.places).unwrap_or_default();
        intent
    }

    /// Which records in the child's log are believed.
    pub(crate) fn believed(&self, intent: Option<&Intent>) -> Believed {
        let state = intent.and_then(|intent| State::of(intent, &self.env).ok().flatten());
        let states = state.map(|state| (state.backend.bucket().to_owned(), state.key)).into_iter().collect();
        let named = self.command.first().and_then(|program| model::product(program));
        Believed { records: named != Some(Product::OpenTofu), requests: true, states }
    }
}

/// A state in S3 on which a command works, by its arguments and its directory.
pub struct State {
    pub backend: Box<S3Backend>,
    pub key: String,
    /// Where its lock is, the object first.
    pub places: Vec<LockPlace>,
    /// The settings are those of its directory, because its plan file does not tell them, for this reason.
    guessed: Option<String>,
}

impl State {
    /// The state that a command works on.
    fn of(intent: &Intent, env: &HashMap<OsString, OsString>) -> Result<Option<Self>, BackendError> {
        let surroundings = Surroundings { dir: intent.directory.clone(), env: env.clone() };
        Self::at(&surroundings, intent.plan_file.as_deref(), &intent.workspace)
    }

    /// The state of a workspace; none if that is not in S3, or has no lock there.
    pub fn at(surroundings: &Surroundings, plan: Option<&Path>, workspace: &str) -> Result<Option<Self>, BackendError> {
        let (found, guessed) = match plan.map(|plan| terraform::read_planned_backend(plan, surroundings)) {
            Some(Err(error @ BackendError::PlanFile { flaw: PlanFlaw::Encrypted, .. })) => {
                (terraform::read_backend(surroundings)?, Some(error.to_string()))
            }
            Some(planned) => (planned?, None),
            None => (terraform::read_backend(surroundings)?, None),
        };
        let Backend::S3(backend) = found else { return Ok(None) };
        let key = backend.state_key(workspace);
        let places = backend.places_of_state(&format!("{}/{key}", backend.bucket())).unwrap_or_default();
        Ok((!places.is_empty()).then_some(Self { backend, key, places, guessed }))
    }

    /// What is at the places of its lock: the first that is there.
    async fn look(&self) -> Result<Option<FoundLock>, Unseen> {
        let mut found = None;
        for place in &self.places {
            let look = async {
                let clients = AwsClients::connect_trusting_no_checkout(&self.backend)
                    .await
                    .map_err(|error| (error.to_string(), false))?;
                let read = clients.open(place, UnconditionalDelete::Refuse).read().await;
                read.map_err(|error| (error.in_a_line(), error.is_retryable()))
            };
            let looked = timeout(LONGEST_ATTEMPT, look).await.unwrap_or_else(|_| Err(("no answer".to_owned(), true)));
            let lock = looked.map_err(|(why, again)| Unseen { why: format!("{place}: {why}"), again });
            let lock = lock.inspect_err(|Unseen { why, .. }| tracing::debug!("{why}"))?;
            found = found.or(lock);
        }
        Ok(found)
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
    /// By what is there.
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
        let backend = self.backend(&trace.without_id())?;
        let clients = AwsClients::connect_trusting_no_checkout(backend).await.map_err(|error| error.to_string())?;
        let place = backend.file_place(&trace.state_key);
        let Store::Lockfile(store) = clients.open(&place, UnconditionalDelete::Refuse) else {
            return Err(format!("{place} is not a lockfile"));
        };
        let start = Instant::now();
        let watch = if left.may_still_appear { LANDS_WITHIN } else { Duration::ZERO };
        loop {
            let answer = timeout(LONGEST_ATTEMPT, store.compare(trace)).await;
            let over = start.elapsed() >= BUDGET;
            match answer {
                Ok(Ok(there)) => match Identified::of(trace, there)? {
                    Identified::Gone(_) if start.elapsed() < watch => {}
                    identified => return Ok(identified),
                },
                Ok(Err(error)) if over || !error.is_retryable() => return Err(error.in_a_line()),
                Err(_) if over => return Err(format!("{place}: no answer")),
                Ok(Err(_)) | Err(_) => {}
            }
            sleep(LOOK_EVERY).await;
        }
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
            self.locate_trace(known, started);
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

/// A lock in the table of the child's state that no log tells of.
#[derive(Debug)]
pub struct Unlogged {
    /// The lock, as it says itself.
    pub claim: LockClaim,
    /// Where it is.
    pub places: Vec<LockPlace>,
    /// Where its backend's settings are.
    pub settings: Settings,
    /// When its holder began to ask for it.
    pub created: String,
    /// Whether it fits the child in everything.
    pub fits: Result<(), Misfit>,
}

/// Looks for a lock that nothing logs.
#[derive(Debug, Default)]
pub struct Unlogging {
    /// The look that was begun with the child.
    baseline: Option<JoinHandle<Baseline>>,
}

impl Unlogging {
    /// Begins to look what is there before the child takes its lock, beside it and never in its way. To be called when
    /// the child was just started.
    pub fn begin(job: &Job, intent: Option<&Intent>) -> Self {
        let asked = job.evidence == crate::model::Evidence::Item;
        let state = intent.filter(|_| asked).and_then(|intent| State::of(intent, &job.env).ok().flatten());
        let baseline = state.map(|state| {
            tokio::spawn(async move {
                let found = state.look().await;
                let answered = Timestamp::now();
                let baseline = match found {
                    Ok(None) => Baseline::Absent,
                    Ok(Some(FoundLock::Held(info))) => Baseline::Present { id: info.id, answered },
                    _ => Baseline::Unknown,
                };
                tracing::debug!("looked at the state's lock beside the start of the command: {baseline:?}");
                baseline
            })
        });
        Self { baseline }
    }

    /// Whether a look was begun whose end nobody has seen.
    pub fn is_looking(&self) -> bool {
        self.baseline.is_some()
    }

    /// What the look brought that was begun with the child.
    pub async fn baseline(&mut self) -> Baseline {
        let Some(look) = &mut self.baseline else { return std::future::pending().await };
        let baseline = look.await.unwrap_or(Baseline::Unknown);
        self.baseline = None;
        baseline
    }
}

/// Whether the state that a command works on may be one that is locked in S3.
pub fn may_lock(intent: &Intent, env: &HashMap<OsString, OsString>) -> bool {
    !intent.places.is_empty() || !matches!(State::of(intent, env), Ok(None))
}

/// Looks which lock is there now that the child is dead. None if there is none. `may_land`: the request that takes the
/// lock may still be on its way. `terms`: what is known of the child.
///
/// # Errors
/// Why that could not be seen.
pub async fn look_again(
    intent: &Intent,
    env: &HashMap<OsString, OsString>,
    terms: ItemTerms,
    may_land: bool,
) -> Result<Option<Unlogged>, String> {
    let elsewhere = "the directory has other settings now than when the command was started";
    let state = match State::of(intent, env).map_err(|error| error.to_string())? {
        Some(state) if intent.places.iter().all(|place| state.places.contains(place)) => state,
        None if intent.places.is_empty() => return Ok(None),
        _ => return Err(elsewhere.to_owned()),
    };
    let start = Instant::now();
    let watch = if may_land { LANDS_WITHIN } else { Duration::ZERO };
    let found = loop {
        let looked = state.look().await;
        let patience = match &looked {
            Ok(None) => watch,
            Err(Unseen { again: true, .. }) => BUDGET,
            _ => Duration::ZERO,
        };
        if start.elapsed() >= patience {
            break looked.map_err(|unseen| unseen.why)?;
        }
        sleep(LOOK_EVERY).await;
    };
    let State { backend, key, places, guessed } = state;
    let info = match found {
        Some(FoundLock::Held(info)) => info,
        _ => return guessed.map_or(Ok(None), Err),
    };
    let contested = Contested::S3 { bucket: backend.bucket().to_owned(), key: key.clone() };
    let terms = ItemTerms {
        path: Some(format!("{}/{key}", backend.bucket())),
        operations: intent.operations.clone(),
        baseline: Some(intent.baseline.clone()),
        waits: intent.waits,
        contested: terms.passed.is_none() && has_rival(&contested, &info.operation),
        ..terms
    };
    let fits = item::judge(&info, &terms);
    let created = info.created.clone();
    let Ok(claim) = LockClaim::of_found(info, backend.bucket(), &key) else { return Ok(None) };
    let settings = Settings::of(&backend, &key, intent.directory.clone(), None, intent.plan_file.is_some());
    Ok(Some(Unlogged { places, settings, claim, created, fits }))
}

/// Who has the lock of the state that Terraform has there. None where that cannot be seen, or is not in S3.
pub(crate) async fn holder(surroundings: &Surroundings) -> Option<Option<LockInfo>> {
    let state = State::at(surroundings, None, &terraform::workspace(surroundings)).ok()??;
    match state.look().await.ok()? {
        None => Some(None),
        Some(FoundLock::Held(info)) => Some(Some(info)),
        Some(FoundLock::Malformed(_)) => None,
    }
}

/// A lock's place could not be looked at.
struct Unseen {
    why: String,
    /// Another look can go better.
    again: bool,
}
