//! A child that died over a lock which nobody logged.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::aws::Surroundings;
use crate::model::{Environment, Intent, LockInfo, MIGRATION, OnDeath, OtherLock, OtherOutcome, product};
use crate::observe::item::ItemTerms;
use crate::observe::{Migration, PrintedHolder, item};
use crate::store::contested::Contested;
use crate::store::probe;
use crate::store::probe::{Look, Terraform};
use crate::terraform::{Backend, INIT, Purpose};
use crate::{model, terraform};

/// How long a second Terraform may take to be refused: it reads the configuration and makes a few requests.
const LOOK_LIMIT: Duration = Duration::from_secs(45);
/// How long an unlock may take.
const UNLOCK_LIMIT: Duration = Duration::from_secs(45);
/// How long Terraform may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(20);
/// How often an unlock is tried, each time after another look.
const UNLOCK_ATTEMPTS: u32 = 3;
/// A request for the lock that was on its way when the child died may arrive this much later.
const LANDS_WITHIN: Duration = Duration::from_secs(3);

/// Whether a child that died may have left a lock that it did not log.
#[derive(Debug)]
pub enum Suspicion {
    /// It has not.
    None,
    /// It may have, and tfguard does not look; this is to be said.
    LeftAlone(Box<OtherLock>),
    /// It may have.
    Lock(Box<Case>),
}

/// A child that may have left such a lock.
#[derive(Debug)]
pub struct Case {
    backend: String,
    operations: Vec<String>,
    waits: bool,
    terraform: Terraform,
    place: BTreeMap<String, String>,
    workspace: String,
}

/// Whether a child that was refused a lock may itself have it.
#[derive(Debug)]
pub enum RefusedItself {
    /// It cannot.
    No,
    /// It may have it, and so may another run, for this reason.
    Perhaps(String),
    /// All that is known says that it has it.
    Likely(Box<OtherLock>),
}

/// What may be done.
#[derive(Debug, Clone, Copy)]
pub struct Permission {
    /// What it takes to believe that a lock is the child's.
    pub evidence: model::Evidence,
    /// What becomes of the lock of a dead child.
    pub on_death: OnDeath,
}

/// Looks whether another process that lives may hold a lock with this `Operation`.
pub type Rival = fn(&Contested, &str) -> bool;

impl Suspicion {
    /// What a command that ran with `env` in `dir` may have left when it died. `is_terraform`: it was seen to be a
    /// Terraform, whatever its name. `intent`: what was known of it when it started, where its arguments are lost.
    pub fn of(
        dir: &Path,
        command: &[OsString],
        env: &Environment,
        is_terraform: bool,
        intent: Option<&Intent>,
    ) -> Self {
        let arguments = command.get(1..).unwrap_or_default();
        let intent = intent.filter(|_| arguments.is_empty());
        let started_in = intent.map_or(dir, |intent| &intent.directory);
        let surroundings = Surroundings::of_command(started_in, arguments, env.clone());
        // An apply of a plan file has the backend of the plan.
        let (planned, found) = match intent.and_then(|intent| intent.plan_file.as_deref()) {
            Some(plan) => (Some(plan.to_owned()), terraform::read_planned_backend(plan, &surroundings)),
            None => terraform::read_backend_of(arguments, &surroundings),
        };
        // The locks of S3 are looked for where they are. What cannot be read is said where it is needed.
        let Ok(Backend::Other { kind: backend, place }) = found else { return Self::None };
        // Without the one address there is no lock; without the other Terraform gives none back, not even that of a look.
        let is_set = |address: &str| place.get(address).is_some_and(|address| !address.is_empty());
        if backend == "http" && !["lock_address", "unlock_address"].into_iter().all(is_set) {
            return Self::None;
        }
        let is_terraform = is_terraform || command.first().is_some_and(|program| product(program).is_some());
        let purpose = Purpose::read(command, env).filter(|purpose| !purpose.operations.is_empty());
        let takes_none = match intent {
            Some(intent) => {
                let none = |operation: &String| operation == INIT || MIGRATION.contains(&operation.as_str());
                intent.operations.as_ref().is_some_and(|all| all.iter().all(none))
            }
            None => is_terraform && !arguments.is_empty() && purpose.is_none(),
        };
        let named = purpose.as_ref().and_then(|purpose| purpose.workspace.clone());
        let workspace = named.clone().unwrap_or_else(|| terraform::workspace(&surroundings));
        let left_alone = |why: &str| {
            let outcome = OtherOutcome::Unknown { why: why.to_owned(), unclean: true };
            let program = Terraform::of(dir, command, env).name();
            let (backend, terraform) = (backend.clone(), Some(surroundings.terraform(&program, &workspace, true)));
            Self::LeftAlone(Box::new(OtherLock { backend, holder: None, outcome, command: None, terraform }))
        };
        match Locking::of(&backend) {
            Locking::DiesWithHolder => Self::None,
            _ if takes_none => Self::None,
            Locking::Deliberate => left_alone(
                "its workspace may still be locked, on purpose if the state could not be uploaded; look at the run there \
                 and unlock the workspace when it is settled",
            ),
            Locking::Unknown => left_alone("tfguard does not know how this backend locks"),
            Locking::Stays if !is_terraform => {
                left_alone("tfguard looks for a lock there only if it runs Terraform itself")
            }
            // A second Terraform asks on the backend of the directory.
            Locking::Stays if planned.is_some() && !is_recorded(&backend, &place, &surroundings) => left_alone(
                "the plan file that was applied has another backend than its directory, so only a second apply of it \
                 would ask for its lock",
            ),
            Locking::Stays => match purpose {
                // A look would make a workspace that is not there.
                Some(_) if named.is_some() => {
                    left_alone("its lock would be another workspace's, where tfguard does not look")
                }
                Some(Purpose { operations, makes, waits, .. }) => Self::Lock(Box::new(Case {
                    operations: operations.iter().copied().chain(makes.then_some(INIT)).map(str::to_owned).collect(),
                    waits,
                    terraform: Terraform::of(dir, command, env),
                    workspace,
                    backend,
                    place,
                })),
                // After everything was killed the arguments are not known: they are not kept, for they may hold secrets.
                None => left_alone("tfguard does not know any more what was run, so it does not look"),
            },
        }
    }
}

/// What is to be said of a command that died while it moved a state, if it may have left locks that nobody logged and that
/// are not looked for. The lock of the state that is moved comes before that of its new place. `is_logged`: the command
/// logs each lock that it takes in S3.
pub fn left_by_move(
    Migration { from, to }: &Migration,
    is_logged: bool,
    source_is_logged: bool,
    destination_is_logged: bool,
) -> Option<String> {
    let stays = |backend: &str| backend != "s3" && Locking::of(backend) != Locking::DiesWithHolder;
    let reached = from != "s3" || source_is_logged || !is_logged;
    let destination = match to.as_deref() {
        Some("s3") => !is_logged,
        Some(to) => reached && stays(to),
        None => reached,
    };
    let source = stays(from).then(|| format!("on the backend `{from}`"));
    let destination = (destination && !destination_is_logged).then(|| "on the one that it was moved to".to_owned());
    let places: Vec<_> = source.into_iter().chain(destination).collect();
    (!places.is_empty()).then(|| {
        format!("the command died while it moved a state, and may have left a lock of it {}", places.join(" and "))
    })
}

/// Whether the directory itself was initialised with this backend.
fn is_recorded(backend: &str, place: &BTreeMap<String, String>, surroundings: &Surroundings) -> bool {
    let recorded = terraform::read_backend(surroundings);
    matches!(recorded, Ok(Backend::Other { kind, place: recorded }) if kind == backend && recorded == *place)
}

impl Case {
    /// The lock, to compare.
    pub fn contested(&self) -> Contested {
        Contested::Other { kind: self.backend.clone(), place: self.place.clone(), workspace: self.workspace.clone() }
    }

    /// What to say of the lock where nobody may look, because a process of the child may live.
    pub fn not_looked(&self, why: String) -> OtherLock {
        self.account(None, OtherOutcome::Left { why })
    }

    /// Looks who has the lock, and releases it if it is the child's and that is permitted. To be called when every
    /// process of the child is dead. `terms`: what is known of the child. `rival`: whether another process that lives may
    /// hold a lock with this `Operation`.
    pub async fn look_after(&self, terms: ItemTerms, permission: Permission, rival: Rival) -> OtherLock {
        let version = match self.terraform.version(VERSION_LIMIT).await {
            Ok(version) => version,
            Err(why) => return self.unclear(why),
        };
        let terms = self.terms(ItemTerms { version: Some(version), ..terms });
        let lock = self.settle(&terms, permission, rival).await;
        if lock.outcome != OtherOutcome::Free || terms.passed.is_some() {
            return lock;
        }
        tokio::time::sleep(LANDS_WITHIN).await;
        self.settle(&terms, permission, rival).await
    }

    /// Whether the lock that the child was refused may be its own: its request was done and the answer lost, so that
    /// the next attempt ran into what the first had got. `info`: as Terraform showed it. To be called when every process
    /// of the child is dead.
    ///
    /// Nothing is released on this: a refusal says that somebody has the lock, and of two runs that are as alike as
    /// `Evidence` can see and began at the same moment, the other may have it.
    pub fn refused(&self, info: &LockInfo, terms: ItemTerms) -> RefusedItself {
        let fits = "all it says fits this run, which may have taken it without getting an answer";
        match item::judge(info, &self.terms(terms)) {
            Err(doubt) if doubt.is_doubt() => RefusedItself::Perhaps(format!("{fits}; but that is not sure: {doubt}")),
            Err(_) => RefusedItself::No,
            Ok(()) => {
                let why = format!(
                    "{fits}; a run that is like it and began at the same moment may have it, so tfguard leaves it"
                );
                RefusedItself::Likely(Box::new(self.account(Some(info.clone()), OtherOutcome::Left { why })))
            }
        }
    }

    fn terms(&self, terms: ItemTerms) -> ItemTerms {
        ItemTerms { path: None, operations: Some(self.operations.clone()), waits: self.waits, baseline: None, ..terms }
    }

    /// What is to be said of the lock that is there. `None`: it is the child's and to be released.
    fn left(&self, terms: &ItemTerms, info: &LockInfo, permission: Permission) -> Option<OtherOutcome> {
        let left = |why: &str| Some(OtherOutcome::Left { why: why.to_owned() });
        let unsure = |why: &str| left(&format!("it may be this run's, but that is not sure: {why}"));
        let is_http = self.backend == "http";
        if info.operation == probe::OPERATION && (is_http || terms.who.contains(&info.who)) {
            return unsure(
                "its operation is that of tfguard's own look (untaint): the look may have left it, or the server shows the \
                 words of who asks in place of the holder's, as GitLab does",
            );
        }
        match item::judge(info, terms) {
            Err(doubt) if doubt.is_doubt() => unsure(&doubt.to_string()),
            Err(misfit) => Some(OtherOutcome::Foreign { why: misfit.to_string() }),
            Ok(()) if !is_id(&self.backend, &info.id) => left("its ID has not the shape that this backend gives"),
            Ok(()) if self.operations.iter().any(|operation| permission.on_death.keeps(operation)) => {
                Some(OtherOutcome::Kept)
            }
            Ok(()) if is_http => left(
                "all it says fits this run, but the unlock of this backend does not say which lock it means, so tfguard \
                 sends none",
            ),
            Ok(()) if permission.evidence == model::Evidence::Logged => left(
                "all it says fits this run, but Terraform logs no lock of this backend, and without a log entry \
                 tfguard releases nothing unless told to: --evidence item",
            ),
            Ok(()) => None,
        }
    }

    /// Has a second Terraform be refused the lock, and Terraform's own unlock, which is given the ID, release it.
    async fn settle(&self, terms: &ItemTerms, permission: Permission, rival: Rival) -> OtherLock {
        let mut failed: Option<(LockInfo, String)> = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let info = match (probe::look(&self.terraform, LOOK_LIMIT).await, failed) {
                (Look::Free, None) => return self.account(None, OtherOutcome::Free),
                (Look::Free, Some((info, _))) => return self.account(Some(info), OtherOutcome::Gone),
                (Look::Held(PrintedHolder { info: Some(found), .. }), Some((info, _))) if found.id != info.id => {
                    return self.account(Some(info), OtherOutcome::Gone);
                }
                (Look::Held(PrintedHolder { info: Some(found), .. }), _) => found,
                (_, Some((info, why))) => return self.account(Some(info), OtherOutcome::Left { why }),
                (Look::Held(PrintedHolder { id, info: None }), None) => {
                    let why = "it may be this run's, but that is not sure: Terraform before 1.15 and OpenTofu before 1.9 \
                               show only the ID of a lock of this backend";
                    let info = LockInfo { id, ..LockInfo::default() };
                    return self.account(Some(info), OtherOutcome::Left { why: why.to_owned() });
                }
                (Look::Unclear(why), None) => return self.unclear(why),
            };
            let contested = terms.passed.is_none() && rival(&self.contested(), &info.operation);
            let terms = ItemTerms { contested, ..terms.clone() };
            if let Some(outcome) = self.left(&terms, &info, permission) {
                return self.account(Some(info), outcome);
            }
            match probe::force_unlock(&self.terraform, &info.id, UNLOCK_LIMIT).await {
                Ok(()) => return self.account(Some(info), OtherOutcome::Released),
                Err(why) if attempt == UNLOCK_ATTEMPTS => return self.account(Some(info), OtherOutcome::Left { why }),
                Err(why) => failed = Some((info, why)),
            }
        }
    }

    fn unclear(&self, why: String) -> OtherLock {
        self.account(None, OtherOutcome::Unknown { why, unclean: true })
    }

    fn account(&self, holder: Option<LockInfo>, outcome: OtherOutcome) -> OtherLock {
        let terraform = self.terraform.typed();
        let command = holder
            .as_ref()
            .filter(|holder| is_id(&self.backend, &holder.id))
            .filter(|_| matches!(outcome, OtherOutcome::Left { .. } | OtherOutcome::Kept))
            .map(|holder| format!("{terraform} force-unlock {}", holder.id));
        OtherLock { backend: self.backend.clone(), holder, outcome, command, terraform: Some(terraform) }
    }
}

/// What a backend's lock does when its holder dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// It stays, and is not logged: somebody has to release it.
    Stays,
    /// It goes with the process or its connection (local, consul, pg), or there is none (inmem, and those that older
    /// Terraforms had).
    DiesWithHolder,
    /// The workspace stays locked, on purpose if the state could not be uploaded (`stateUploadErr` in
    /// `internal/backend/remote/backend_state.go`), and the server knows the run: it is left alone.
    Deliberate,
    /// Not known to this tfguard.
    Unknown,
}

impl Locking {
    /// Of a backend by its type, as a `backend` block names it.
    pub fn of(backend: &str) -> Self {
        match backend {
            "gcs" | "azurerm" | "http" | "kubernetes" | "oss" | "cos" | "oci" => Self::Stays,
            "local" | "consul" | "pg" | "inmem" | "artifactory" | "etcd" | "etcdv3" | "manta" | "swift" => {
                Self::DiesWithHolder
            }
            "remote" | "cloud" => Self::Deliberate,
            _ => Self::Unknown,
        }
    }
}

/// Whether a text can be the ID of a lock of this backend: the generation of an object on gcs, the MD5 of the lock's JSON
/// on cos, elsewhere Terraform's own (`internal/backend/remote-state/*/client.go`). The ID becomes part of a command.
pub fn is_id(backend: &str, id: &str) -> bool {
    match backend {
        "gcs" => (1..=19).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit()),
        "cos" => id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        _ => id.parse::<crate::model::LockId>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_its_way() {
        let stay = ["gcs", "azurerm", "http", "kubernetes", "oss", "cos", "oci"];
        assert_eq!(stay.map(Locking::of), [Locking::Stays; 7]);
        assert_eq!(["local", "consul", "pg"].map(Locking::of), [Locking::DiesWithHolder; 3]);
        assert_eq!(["remote", "cloud"].map(Locking::of), [Locking::Deliberate; 2]);
        assert_eq!(["state_store", "GCS", ""].map(Locking::of), [Locking::Unknown; 3]);
    }

    #[test]
    fn ids_have_the_shape_their_backend_gives_them() {
        let (uuid, md5) = ("4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "4bb7d84cf09d7909021902f6e8d9eeb4");
        assert!(is_id("gcs", "1732075882810982") && !is_id("gcs", uuid) && !is_id("gcs", ""));
        assert!(is_id("cos", md5) && !is_id("cos", uuid) && !is_id("cos", "1732075882810982"));
        assert!(is_id("kubernetes", uuid) && !is_id("kubernetes", md5) && !is_id("http", "-force"));
    }
}
