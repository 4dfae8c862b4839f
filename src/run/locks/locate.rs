//! Finds where each lock lives, while Terraform lives: the backend to which it belongs, and the places of its halves.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::aws::{AwsClients, BackendError, S3Backend, Surroundings};
use crate::model::{ChildRecord, LockClaim, LockPlace, ProcessId, Settings, StartingBackend};
use crate::observe::Asked;
use crate::run::job::Job;
use crate::run::terraforms::{Terraform, Terraforms};
use crate::session::Tree;
use crate::terraform;
use crate::terraform::Backend;

/// Between two looks at every process of the machine.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The guarded command, as far as it tells where a lock lives.
#[derive(Debug, Clone, Copy)]
pub struct Started<'a> {
    pub job: &'a Job,
    /// Which stores its requests for locks went to, as far as its log tells.
    pub asked: &'a [Asked],
    /// Its process, and the log of its session, by which the Terraforms that it started are known.
    pub child: Option<(ChildRecord, &'a File)>,
    /// That is a Terraform itself and not a program that starts some.
    pub is_terraform: bool,
}

impl<'a> Started<'a> {
    /// A command that is dead, with everything of its session.
    pub fn dead(job: &'a Job) -> Self {
        Self { job, asked: &[], child: None, is_terraform: false }
    }

    fn child(&self) -> Option<ProcessId> {
        self.child.map(|(child, _)| child.id)
    }

    fn look(&self) -> Tree {
        self.child.map(|(child, log)| Tree::look(Some(&child), log)).unwrap_or_default()
    }
}

/// The backends of the locks seen so far. Holds credentials, in memory only.
#[derive(Default)]
pub struct Locator {
    /// What the command's directory was configured for when it started.
    pub start: StartingBackend,
    /// Those that were seen in its session.
    pub(crate) terraforms: Terraforms,
    /// When every process of the machine was looked at last.
    looked: Option<Instant>,
    backends: HashMap<LockClaim, Result<Box<S3Backend>, String>>,
    /// The locks of states that are being moved elsewhere.
    moved: Vec<LockClaim>,
}

impl Locator {
    /// For the locks of a command that started with this.
    pub fn new(start: StartingBackend) -> Self {
        Self { start, ..Self::default() }
    }

    /// Whether a lock may be of the state that the command started with.
    pub fn may_start_with(&self, claim: &LockClaim) -> bool {
        self.start.is_replaced || self.start.state.as_ref() == Some(&claim.lock_id())
    }

    /// Remembers a lock of a state that is being moved elsewhere, if it is one. What stores that state is not where it is
    /// moved to.
    pub fn note_moved(&mut self, claim: &LockClaim) {
        if claim.is_migration_source() && !self.moved.contains(claim) {
            self.moved.push(claim.clone());
        }
    }

    /// Finds the backend to which a lock belongs, the places where its halves live, and where the backend's settings are.
    /// Once found, it stays; otherwise it is looked for again, because `init` may record it later.
    ///
    /// `places`, `settings`: what was found last, perhaps by a supervisor that is dead. Settings that lead to other places
    /// than those are not the settings that Terraform had.
    pub fn locate(
        &mut self,
        claim: &LockClaim,
        places: &mut Vec<LockPlace>,
        settings: &mut Option<Settings>,
        started: Started,
    ) {
        self.note_moved(claim);
        if let Some(Ok(_)) = self.backends.get(claim) {
            return;
        }
        let found = self.find(claim, places, settings.as_ref(), started).and_then(|(backend, found)| {
            // Two stores can have buckets of the same name.
            let stores = |moved: &LockClaim| backend.stores_state(&moved.bucket, &moved.state_key);
            if claim.is_migration_destination() && self.moved.iter().any(stores) {
                return Err(BackendError::NotRecorded);
            }
            let now = backend.places(claim)?;
            if let Some(place) = places.iter().find(|place| !now.contains(place)) {
                return Err(BackendError::Elsewhere(place.to_string()));
            }
            let changed = settings.as_ref().map(|before| before.changed(&found)).unwrap_or_default();
            if !changed.is_empty() {
                return Err(BackendError::Changed { directory: found.directory, settings: changed.join(", ") });
            }
            Ok((backend, now, found))
        });
        let backend = match found {
            Ok((backend, now, found)) => {
                (*places, *settings) = (now, Some(found));
                Ok(backend)
            }
            // Where it was when it was taken, with the credentials there are: nothing that lies in a directory now counts.
            Err(error) if !places.is_empty() && !matches!(error, BackendError::NotRecorded) => {
                use BackendError::{Changed, Elsewhere, Swapped};
                let said = format!(
                    "lock {}: {error}. It is looked for where it was taken, with the environment's credentials",
                    claim.id
                );
                match error {
                    Changed { .. } | Elsewhere { .. } | Swapped { .. } => tracing::warn!("{said}"),
                    _ => tracing::debug!("{said}"),
                }
                let dir = std::env::current_dir().unwrap_or_else(|_| "/".into());
                let surroundings = Surroundings { dir, env: started.job.env.clone() };
                let path_style = settings.as_ref().is_some_and(|settings| settings.path_style);
                let backend = S3Backend::of_places(claim, places, path_style, surroundings);
                backend.map(Box::new).map_err(|error| error.to_string())
            }
            Err(BackendError::ForeignState(_)) if claim.is_migration_destination() => {
                Err(BackendError::NotRecorded.to_string())
            }
            Err(error) => {
                if let (None, BackendError::PlanFile { path, .. }) = (&settings, &error) {
                    // What its directory is set up for says nothing of it.
                    *settings = Some(Settings::of_plan(path, claim, started.asked));
                }
                Err(error.to_string())
            }
        };
        if let Err(why) = &backend {
            tracing::debug!("lock {}: {why}", claim.id);
        }
        self.backends.insert(claim.clone(), backend);
    }

    /// The processes tell best, because a script may have gone elsewhere and changed the environment. Then the command.
    ///
    /// Whatever tells it: what a directory is configured for counts only if it was when its Terraform started. What runs
    /// below Terraform can write into the log, and exchange the settings.
    fn find(
        &mut self,
        claim: &LockClaim,
        places: &[LockPlace],
        settings: Option<&Settings>,
        started: Started,
    ) -> Result<Found, BackendError> {
        let job = started.job;
        let mut misses = Misses::default();
        let sure = Sure { asked: started.asked, places };
        // The usual case, without looking at every process of the machine.
        if started.is_terraform
            && let Some(terraform) = started.child().and_then(|id| Terraform::read(id, false))
            && let Some(found) =
                misses.note(checked(claim, &[&self.start], backend_of_process(claim, &terraform, sure)))
        {
            return Ok(found);
        }
        let own = || {
            let Some(Settings { directory, plan_file, .. }) = settings else {
                let surroundings = job.surroundings();
                let plan_file = terraform::plan_file(job.arguments(), &surroundings);
                return checked(claim, &[&self.start], backend_in(claim, &surroundings, plan_file, sure));
            };
            let surroundings = Surroundings { dir: directory.clone(), env: job.env.clone() };
            let found = backend_in(claim, &surroundings, plan_file.clone(), sure);
            // Its places were found while Terraform lived, and are compared.
            if places.is_empty() { checked(claim, &[&self.start], found) } else { found }
        };
        if started.is_terraform
            && let Some(found) = misses.note(own())
        {
            return Ok(found);
        }
        // A log can tell of thousands of locks at once, and each look takes its time.
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            self.terraforms.note(&started.look(), false);
            self.looked = Some(Instant::now());
        }
        let of_process = |terraform: &Terraform| {
            // Known since before it started, which is better than since it was first seen.
            let start = match started.child() == Some(terraform.id) && !job.runs_guards() {
                true => vec![&self.start],
                false => terraform.started_with.iter().collect(),
            };
            checked(claim, &start, backend_of_process(claim, terraform, sure))
        };
        for terraform in self.terraforms.living() {
            if let Some(found) = misses.note(of_process(terraform)) {
                return Ok(found);
            }
        }
        for terraform in self.terraforms.dead() {
            // It may be the lock of one that applied a plan which cannot be read. What ran there before says nothing.
            if misses.in_a_plan() {
                break;
            }
            if let Some(found) = misses.note(of_process(terraform)) {
                return Ok(found);
            }
        }
        if !started.is_terraform
            && !misses.in_a_plan()
            && let Some(found) = misses.note(own())
        {
            return Ok(found);
        }
        Err(misses.0.unwrap_or_else(|| BackendError::ForeignState(claim.lock_id())))
    }

    /// The backend that was found for a lock.
    pub(crate) fn backend(&self, claim: &LockClaim) -> Result<&S3Backend, String> {
        match self.backends.get(claim) {
            Some(Ok(backend)) => Ok(backend),
            Some(Err(why)) => Err(why.clone()),
            None => Err("its backend was not looked up".to_owned()),
        }
    }

    /// Clients of the backend that was found for a lock, and the places of its halves.
    pub(crate) async fn reach(&self, claim: &LockClaim) -> Result<(AwsClients, Vec<LockPlace>), String> {
        let backend = self.backend(claim)?;
        let places = backend.places(claim).map_err(|error| error.to_string())?;
        let clients = AwsClients::connect_trusting_no_checkout(backend).await.map_err(|error| error.to_string())?;
        Ok((clients, places))
    }
}

/// A backend that was found, if it is one of those with which its Terraform may have started, or the lock is one that `init`
/// takes in the backend that it is about to record.
fn checked(
    claim: &LockClaim,
    start: &[&StartingBackend],
    found: Result<Found, BackendError>,
) -> Result<Found, BackendError> {
    let (backend, settings) = found?;
    let fits = |start: &&StartingBackend| {
        start.digest == Some(backend.digest()) || (start.is_replaced && !claim.is_migration_source())
    };
    if start.iter().any(fits) { Ok((backend, settings)) } else { Err(BackendError::Swapped(settings.directory)) }
}

/// A backend and where its settings are.
type Found = (Box<S3Backend>, Settings);

/// Why no backend fitted up to now: the reason that says most.
#[derive(Default)]
struct Misses(Option<BackendError>);

impl Misses {
    fn note(&mut self, found: Result<Found, BackendError>) -> Option<Found> {
        match found {
            Ok(found) => return Some(found),
            Err(BackendError::ForeignState(_)) => {}
            Err(error @ (BackendError::PlanFile { .. } | BackendError::Swapped(_))) => self.0 = Some(error),
            Err(error) => _ = self.0.get_or_insert(error),
        }
        None
    }

    fn in_a_plan(&self) -> bool {
        matches!(self.0, Some(BackendError::PlanFile { .. }))
    }
}

/// What is known for sure of the place of a lock.
#[derive(Clone, Copy)]
struct Sure<'a> {
    /// By the requests that asked for locks.
    asked: &'a [Asked],
    /// By an earlier look.
    places: &'a [LockPlace],
}

impl Sure<'_> {
    /// Whether a backend puts a lock there. The claim may be of one half, and the requests of both. Of both halves the object
    /// comes first, and OpenTofu 1.10 does not log the request for the other one.
    fn is_of(self, backend: &S3Backend, claim: &LockClaim) -> bool {
        let Ok(places) = backend.places(claim) else { return false };
        let asked: Vec<_> = self.asked.iter().filter(|asked| asked.lock_id == claim.lock_id()).collect();
        if asked.is_empty() {
            return !places.is_empty() && places == self.places;
        }
        let all = backend.places_of_state(&claim.lock_id()).unwrap_or_default();
        places.first().is_some_and(|place| asked.iter().any(|asked| went_to(asked, place)))
            && asked.iter().all(|asked| all.iter().any(|place| went_to(asked, place)))
    }
}

/// Whether a request for a lock went to this place.
fn went_to(asked: &Asked, place: &LockPlace) -> bool {
    let (LockPlace::DynamoDb { region, endpoint, .. } | LockPlace::Lockfile { region, endpoint, .. }) = place;
    let is_table = match place {
        LockPlace::DynamoDb { table, .. } => asked.table.as_ref() == Some(table),
        LockPlace::Lockfile { .. } => asked.table.is_none(),
    };
    let host = match endpoint.as_deref().and_then(|endpoint| endpoint.split_once("://")) {
        Some((_, address)) => address.split('/').next().unwrap_or_default(),
        None => "amazonaws.com",
    };
    let below = asked.host.strip_suffix(host);
    is_table && asked.region == *region && below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
}

fn backend_of_process(claim: &LockClaim, terraform: &Terraform, sure: Sure) -> Result<Found, BackendError> {
    let mut found = Err(BackendError::ForeignState(claim.lock_id()));
    for surroundings in terraform.surroundings() {
        let plan_file = || terraform::plan_file(terraform.args(), &surroundings);
        found = found.or_else(|_| backend_in(claim, &surroundings, plan_file(), sure));
    }
    found
}

/// The backend of a Terraform that runs there with this plan file, if it has the lock's state.
///
/// An `apply` of a plan file does not look at what its directory is configured for, so that is not looked at here
/// either; but where the plan is encrypted, and what is known of the lock's place is what the directory has.
fn backend_in(
    claim: &LockClaim,
    surroundings: &Surroundings,
    plan_file: Option<PathBuf>,
    sure: Sure,
) -> Result<Found, BackendError> {
    let (backend, guessed) = terraform::read_likely_backend(plan_file.as_deref(), surroundings)?;
    let fitting = match backend {
        Backend::S3(backend) if backend.stores_state(&claim.bucket, &claim.state_key) => Ok(backend),
        _ => Err(BackendError::ForeignState(claim.lock_id())),
    };
    let backend = match guessed {
        Some(error) => fitting.ok().filter(|backend| sure.is_of(backend, claim)).ok_or(error)?,
        None => fitting?,
    };
    let settings = Settings::of(&backend, &claim.state_key, surroundings.dir.clone(), plan_file);
    Ok((backend, settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Environment, LockKinds};

    /// OpenTofu asks for the halves of a lock one after the other. Whoever looks late sees both requests.
    #[test]
    fn a_half_is_where_the_directory_says_also_once_the_other_half_was_asked_for() {
        let both = LockClaim::example("k", LockKinds::Both);
        let there = |host: &str| Some(format!("http://{host}"));
        let places = [
            LockPlace::Lockfile {
                bucket: "b".to_owned(),
                key: "k.tflock".to_owned(),
                region: "r".to_owned(),
                endpoint: there("s3:1"),
            },
            LockPlace::DynamoDb {
                table: "t".to_owned(),
                lock_id: "b/k".to_owned(),
                region: "r".to_owned(),
                endpoint: there("db:1"),
            },
        ];
        let surroundings = Surroundings { dir: "/".into(), env: Environment::default() };
        let backend = S3Backend::of_places(&both, &places, true, surroundings).unwrap();
        let asked = |table: Option<&str>, host: &str| Asked {
            lock_id: "b/k".to_owned(),
            table: table.map(str::to_owned),
            region: "r".to_owned(),
            host: host.to_owned(),
        };
        let (file, item) = (asked(None, "s3:1"), asked(Some("t"), "db:1"));
        use LockKinds::{Both, DynamoDb, Lockfile, Unstated};
        for (kinds, asked, is_there) in [
            (Lockfile, vec![&file], true),
            (Lockfile, vec![&file, &item], true),
            (DynamoDb, vec![&file, &item], true),
            (Both, vec![&file, &item], true),
            (Both, vec![&file], true),
            (Unstated, vec![&file], true),
            // It is not known where this half went.
            (DynamoDb, vec![&file], false),
            (Both, vec![&item], false),
            // The other half went elsewhere.
            (Lockfile, vec![&file, &asked(Some("other"), "db:1")], false),
            (DynamoDb, vec![&asked(None, "elsewhere:1"), &item], false),
            (DynamoDb, vec![], false),
        ] {
            let asked: Vec<_> = asked.into_iter().cloned().collect();
            let sure = Sure { asked: &asked, places: &[] };
            assert_eq!(sure.is_of(&backend, &LockClaim { kinds, ..both.clone() }), is_there, "{kinds:?} {asked:?}");
        }
    }
}
