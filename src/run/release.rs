//! Releases what a dead child left: finds each lock's backend while Terraform lives, deletes by condition afterwards.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::terraforms::{Terraform, Terraforms};
use crate::backend::{self, AwsClients, Backend, BackendError, S3Backend, Surroundings};
use crate::command;
use crate::lock::{self, LockClaim, LockKinds, LockPlace, ReleaseTerms, Released, UnconditionalDelete};
use crate::observe::{Leftover, Stage};
use crate::report::{Half, LockOutcome, Settings};
use crate::session::{ProcessId, Tree};

/// How long the release of one half of a lock may take, retries and all.
pub(crate) const BUDGET: Duration = Duration::from_secs(45);

/// A Terraform that was killed may have a state upload on its way, which the lock does not fence. It is given
/// this time to land before a successor may take the lock. Shortens the window; nothing on this side can close it.
pub(crate) const IN_FLIGHT: Duration = Duration::from_secs(2);

/// The guarded command, as far as it tells where a lock lives.
#[derive(Debug, Clone, Copy)]
pub struct Started<'a> {
    /// What it is.
    pub command: &'a [OsString],
    /// The directory that it runs in.
    pub directory: &'a Path,
    /// Its environment.
    pub env: &'a HashMap<OsString, OsString>,
    /// Its process, if that is a Terraform itself and not a program that starts some.
    pub terraform: Option<ProcessId>,
}

/// Where a lock lives, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Located {
    /// The places of its halves; none if its backend was not found.
    pub places: Vec<LockPlace>,
    /// Where the backend's settings are.
    pub settings: Option<Settings>,
}

/// The backends of the locks seen so far. Holds credentials, in memory only.
#[derive(Debug, Default)]
pub struct Releaser {
    terraforms: Terraforms,
    backends: Vec<(LockClaim, Result<Box<S3Backend>, String>)>,
    /// The locks of states that are being moved elsewhere.
    moved: Vec<LockClaim>,
}

impl Releaser {
    /// Remembers the Terraforms that live, one of which has just started: it may be dead when its lock is read of.
    pub fn note(&mut self, tree: &Tree) {
        self.terraforms.note(tree, true);
    }

    /// Remembers a lock of a state that is being moved elsewhere, if it is one. What stores that state is not where it is
    /// moved to.
    pub fn note_moved(&mut self, claim: &LockClaim) {
        if claim.is_migration_source() && !self.moved.contains(claim) {
            self.moved.push(claim.clone());
        }
    }

    /// Finds the backend to which a lock belongs, and the places where its halves live. Once found, it stays;
    /// otherwise it is looked for again, because `init` may record it later. `look` tells which Terraforms are alive.
    ///
    /// `before`: what was found last, perhaps by a supervisor that is dead. Settings that lead to other places than
    /// those are not the settings that Terraform had.
    pub fn locate(
        &mut self,
        claim: &LockClaim,
        before: Located,
        started: Started,
        look: impl FnOnce() -> Tree,
    ) -> Located {
        self.note_moved(claim);
        let known = self.backends.iter().position(|(known, _)| known == claim);
        if let Some((_, Ok(_))) = known.map(|at| &self.backends[at]) {
            return before;
        }
        let found = self.find(claim, before.settings.as_ref(), started, look).and_then(|(backend, settings)| {
            // Two stores can have buckets of the same name.
            let stores = |moved: &LockClaim| backend.stores_state(&moved.bucket, &moved.state_key);
            if claim.is_migration_destination() && self.moved.iter().any(stores) {
                return Err(BackendError::NotRecorded);
            }
            let places = backend.places(claim)?;
            if let Some(place) = before.places.iter().find(|place| !places.contains(place)) {
                return Err(BackendError::Elsewhere { place: place.to_string() });
            }
            Ok((backend, Located { places, settings: Some(settings) }))
        });
        let (backend, located) = match found {
            Ok((backend, located)) => (Ok(backend), located),
            Err(error) => {
                let error = match error {
                    BackendError::ForeignState { .. } if claim.is_migration_destination() => BackendError::NotRecorded,
                    error => error,
                };
                tracing::debug!("lock {}: {error}", claim.id);
                let plan = match &error {
                    BackendError::PlanFile { path, .. } => Some(path.clone()),
                    _ => None,
                };
                // What its directory is set up for says nothing of it.
                let settings = plan.map(|path| Settings {
                    directory: path.parent().map(Path::to_owned).unwrap_or_default(),
                    plan_file: Some(path),
                    flags: ["--bucket", &claim.bucket, "--key", &claim.state_key].map(str::to_owned).into(),
                });
                (Err(error.to_string()), Located { settings: before.settings.or(settings), ..before })
            }
        };
        match known {
            Some(at) => self.backends[at].1 = backend,
            None => self.backends.push((claim.clone(), backend)),
        }
        located
    }

    /// The processes tell best, because a script may have gone elsewhere and changed the environment. Then the command.
    fn find(
        &mut self,
        claim: &LockClaim,
        settings: Option<&Settings>,
        started: Started,
        look: impl FnOnce() -> Tree,
    ) -> Result<Found, BackendError> {
        let mut misses = Misses::default();
        // The usual case, without looking at every process of the machine.
        if let Some(terraform) = started.terraform.and_then(|id| Terraform::read(id, false))
            && let Some(found) = misses.note(backend_of_process(claim, &terraform))
        {
            return Ok(found);
        }
        let own = || {
            if let Some(Settings { directory, plan_file, .. }) = settings {
                let surroundings = Surroundings { dir: directory.clone(), env: started.env.clone() };
                return Some(backend_in(claim, &surroundings, plan_file.clone()));
            }
            let args = started.command.get(1..).unwrap_or_default();
            let surroundings = Surroundings::of_command(started.directory, args, started.env.clone());
            Some(backend_of(claim, &surroundings, args))
        };
        if started.terraform.is_some()
            && let Some(found) = misses.note(own())
        {
            return Ok(found);
        }
        self.terraforms.note(&look(), false);
        for terraform in self.terraforms.living() {
            if let Some(found) = misses.note(backend_of_process(claim, terraform)) {
                return Ok(found);
            }
        }
        for terraform in self.terraforms.dead() {
            // It may be the lock of one that applied a plan which cannot be read. What ran there before says nothing.
            if misses.in_a_plan() {
                break;
            }
            if let Some(found) = misses.note(backend_of_process(claim, terraform)) {
                return Ok(found);
            }
        }
        if started.terraform.is_none()
            && !misses.in_a_plan()
            && let Some(found) = misses.note(own())
        {
            return Ok(found);
        }
        Err(misses.0.unwrap_or_else(|| BackendError::ForeignState { lock_id: claim.lock_id() }))
    }

    /// The backend that was found for a lock.
    pub(super) fn backend(&self, claim: &LockClaim) -> Result<&S3Backend, String> {
        match self.backends.iter().find(|(known, _)| known == claim) {
            Some((_, Ok(backend))) => Ok(backend),
            Some((_, Err(why))) => Err(why.clone()),
            None => Err("its backend was not looked up".to_owned()),
        }
    }

    /// Releases a lock whose Terraform is dead. `unclean`: it may have left requests on their way, or taken the lock
    /// without a word.
    pub async fn release(
        &self,
        leftover: &Leftover,
        unclean: bool,
        unconditional: UnconditionalDelete,
    ) -> (LockOutcome, Vec<Half>) {
        let claim = &leftover.entry.claim;
        let backend = match self.backend(claim) {
            Ok(backend) => backend,
            Err(why) => return (LockOutcome::Left(why), Vec::new()),
        };
        let (places, clients) = match (backend.places(claim), AwsClients::connect(backend).await) {
            (Ok(places), Ok(clients)) => (places, clients),
            (Err(error), _) | (_, Err(error)) => return (LockOutcome::Left(error.to_string()), Vec::new()),
        };
        if unclean {
            tokio::time::sleep(IN_FLIGHT).await;
        }
        let terms = ReleaseTerms {
            may_still_appear: leftover.may_still_appear,
            unlock_in_flight: leftover.unlock_in_flight,
            budget: BUDGET,
        };
        // It said before it asked for the lock, would have said that it has it, and ended on its own without. (1.6 to 1.9
        // never say that they have it.)
        let mut was_refused =
            leftover.entry.stage == Stage::Attempted && claim.kinds != LockKinds::Unstated && !unclean;
        let mut halves = Vec::new();
        for place in places {
            tracing::debug!("lock {}: looking at {place}", claim.id);
            let store = clients.open(&place, unconditional);
            let released = lock::release(&store, claim, &terms).await;
            was_refused &= match &released {
                // A lock can be taken and its taker hear nothing of it, so only one who is refused as well is believed.
                Released::Failed(error) => error.is_refusal(),
                Released::StillThere(_) => false,
                Released::Deleted | Released::AlreadyGone | Released::NotOurs(_) => true,
            };
            halves.push(Half { place, outcome: released.into() });
        }
        let outcome = match LockOutcome::of(&halves) {
            LockOutcome::Left(why) if was_refused => LockOutcome::NotTaken(why),
            // 1.6 to 1.9 say that they begin to unlock, and no more.
            LockOutcome::Gone if leftover.entry.stage == Stage::Unlocking => LockOutcome::Unlocked,
            outcome => outcome,
        };
        (outcome, halves)
    }
}

/// A backend and where its settings are.
type Found = (Box<S3Backend>, Settings);

/// Why no backend fitted up to now: the reason that says most.
#[derive(Default)]
struct Misses(Option<BackendError>);

impl Misses {
    fn note(&mut self, found: Option<Result<Found, BackendError>>) -> Option<Found> {
        match found? {
            Ok(found) => return Some(found),
            Err(BackendError::ForeignState { .. }) => {}
            Err(error @ BackendError::PlanFile { .. }) => self.0 = Some(error),
            Err(error) => _ = self.0.get_or_insert(error),
        }
        None
    }

    fn in_a_plan(&self) -> bool {
        matches!(self.0, Some(BackendError::PlanFile { .. }))
    }
}

fn backend_of_process(claim: &LockClaim, terraform: &Terraform) -> Option<Result<Found, BackendError>> {
    let found = terraform.surroundings().map(|surroundings| backend_of(claim, &surroundings, terraform.args()));
    found.reduce(|first, second| if first.is_ok() { first } else { second })
}

/// The backend of a Terraform that runs there with these arguments, if it has the lock's state.
fn backend_of(claim: &LockClaim, surroundings: &Surroundings, args: &[OsString]) -> Result<Found, BackendError> {
    backend_in(claim, surroundings, backend::plan_file(args, surroundings))
}

/// The same, where the arguments may be unknown.
///
/// An `apply` of a plan file does not look at what its directory is configured for, so that is not looked at here
/// either.
fn backend_in(
    claim: &LockClaim,
    surroundings: &Surroundings,
    plan_file: Option<PathBuf>,
) -> Result<Found, BackendError> {
    let fitting = |backend| match backend {
        Backend::S3(backend) if backend.stores_state(&claim.bucket, &claim.state_key) => Ok(backend),
        _ => Err(BackendError::ForeignState { lock_id: claim.lock_id() }),
    };
    let found = |backend: Box<S3Backend>, plan_file: Option<PathBuf>| {
        // Terragrunt's cache may be gone when somebody needs it.
        let whole = plan_file.is_some() || command::unit_of(&surroundings.dir).is_some();
        let flags = backend.flags_of(&claim.state_key, whole);
        (backend, Settings { directory: surroundings.dir.clone(), plan_file, flags })
    };
    if let Some(plan) = plan_file {
        return Ok(found(fitting(backend::read_planned_backend(&plan, surroundings)?)?, Some(plan)));
    }
    Ok(found(fitting(backend::read_backend(surroundings)?)?, None))
}
