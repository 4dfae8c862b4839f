//! Locks that nothing logs: what a command may lock, and whether what is there is its own by what it says itself.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::aws::{AwsClients, BackendError, S3Backend, Surroundings, within};
use crate::model::{
    Baseline, Entry, Environment, Evidence, FoundLock, Grade, Intent, LockAccount, LockClaim, LockInfo, LockPlace,
    MIGRATION, Product, Settings, Stage,
};
use crate::observe::item::{ItemTerms, Misfit};
use crate::observe::{Believed, item};
use crate::run::job::Job;
use crate::run::locks::traced::{Unseen, look_for};
use crate::run::terraforms::has_rival;
use crate::store::{APPEARS_WITHIN, Contested, LONGEST_ATTEMPT, LOOK_EVERY, UnconditionalDelete};
use crate::terraform;
use crate::terraform::{Backend, INIT, Purpose};

impl Job {
    /// What the command may lock, as far as its arguments and its directory tell. `logs`: it was made to log; `debug`: its
    /// environment asks for DEBUG.
    pub(crate) fn intent(&self, logs: bool, debug: bool) -> Intent {
        let surroundings = self.surroundings();
        let purpose = self.product().map(|_| Purpose::read(&self.command, &self.env));
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
            plan_file: terraform::plan_file(self.arguments(), &surroundings),
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
        Believed { records: self.product() != Some(Product::OpenTofu), requests: true, states }
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
    fn of(intent: &Intent, env: &Environment) -> Result<Option<Self>, BackendError> {
        let surroundings = Surroundings { dir: intent.directory.clone(), env: env.clone() };
        Self::at(&surroundings, intent.plan_file.as_deref(), &intent.workspace)
    }

    /// The state of a workspace; none if that is not in S3, or has no lock there.
    pub fn at(surroundings: &Surroundings, plan: Option<&Path>, workspace: &str) -> Result<Option<Self>, BackendError> {
        let (found, guessed) = terraform::read_likely_backend(plan, surroundings)?;
        let guessed = guessed.map(|error| error.to_string());
        let Backend::S3(backend) = found else { return Ok(None) };
        let key = backend.state_key(workspace);
        let places = backend.places_of_state(&format!("{}/{key}", backend.bucket())).unwrap_or_default();
        Ok((!places.is_empty()).then_some(Self { backend, key, places, guessed }))
    }

    /// What is at the places of its lock: the first that is there.
    async fn look(&self) -> Result<Option<FoundLock>, Unseen> {
        let clients = AwsClients::connect_trusting_no_checkout(&self.backend).await;
        let clients = clients.map_err(|error| Unseen { why: error.to_string(), again: false })?;
        let mut found = None;
        for place in &self.places {
            let store = clients.open(place, UnconditionalDelete::Refuse);
            let read = within(LONGEST_ATTEMPT, store.read()).await.map_err(Unseen::from);
            let read = read.map_err(|unseen| Unseen { why: format!("{place}: {}", unseen.why), ..unseen });
            found = found.or(read.inspect_err(|unseen| tracing::debug!("{}", unseen.why))?);
        }
        Ok(found)
    }
}

/// A lock in the table of the child's state that no log tells of.
#[derive(Debug)]
pub struct Unlogged {
    /// The lock, as it says itself.
    pub lock: LockAccount,
    /// Where its backend's settings are.
    pub settings: Settings,
    /// When its holder began to ask for it.
    pub created: String,
    /// Whether it fits the child in everything.
    pub fits: Result<(), Misfit>,
}

/// Looks what is there before the child takes its lock, beside it and never in its way. To be begun when the child was just
/// started. None where nobody wants to know.
pub fn look_beside_start(job: &Job, intent: Option<&Intent>) -> Option<impl Future<Output = Baseline> + use<>> {
    let intent = intent.filter(|_| job.locks.evidence == Evidence::Item)?;
    let state = State::of(intent, &job.env).ok()??;
    Some(async move {
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
}

/// Whether the state that a command works on may be one that is locked in S3.
pub fn may_lock(intent: &Intent, env: &Environment) -> bool {
    !intent.places.is_empty() || !matches!(State::of(intent, env), Ok(None))
}

/// Looks which lock is there now that the child is dead. None if there is none. `may_land`: the request that takes the
/// lock may still be on its way. `terms`: what is known of the child.
///
/// # Errors
/// Why that could not be seen.
pub async fn look_again(
    intent: &Intent,
    env: &Environment,
    terms: ItemTerms,
    may_land: bool,
) -> Result<Option<Unlogged>, String> {
    let elsewhere = "the directory has other settings now than when the command was started";
    let state = match State::of(intent, env).map_err(|error| error.to_string())? {
        Some(state) if intent.places.iter().all(|place| state.places.contains(place)) => state,
        None if intent.places.is_empty() => return Ok(None),
        _ => return Err(elsewhere.to_owned()),
    };
    let watch = if may_land { APPEARS_WITHIN } else { Duration::ZERO };
    let found = look_for((watch, LOOK_EVERY), || state.look(), Option::is_some).await?;
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
    let settings = Settings::of(&backend, &key, intent.directory.clone(), intent.plan_file.clone());
    let lock = LockAccount::new(&Entry { claim, stage: Stage::Attempted, grade: Grade::Item }, places, None);
    Ok(Some(Unlogged { lock, settings, created, fits }))
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
