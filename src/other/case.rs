//! A child that died over a lock which nobody logged.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::command::{Command, moves_state};
use super::contested::Contested;
use super::evidence::{Evidence, Verdict};
use super::locking::{Locking, is_id};
use super::probe::{self, Look};
use super::refusal::Holder;
use super::terraform::Terraform;
use crate::backend::{self, Backend, Surroundings};
use crate::cli::{self, OnDeath};
use crate::command::product;
use crate::lock::LockInfo;
use crate::report::{OtherLock, OtherOutcome};

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
    /// It may have, and tfguard leaves it alone; this is to be said.
    LeftAlone(String),
    /// It moved a state away from a backend of this type.
    Move(String),
    /// It may have.
    Lock(Box<Case>),
}

/// A child that may have left such a lock.
#[derive(Debug)]
pub struct Case {
    backend: String,
    command: Command,
    terraform: Terraform,
    place: BTreeMap<String, String>,
    workspace: String,
}

/// What the supervisor knows of the child.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    /// When it was started, or earlier.
    pub started: Timestamp,
    /// When it was dead.
    pub ended: Timestamp,
    /// When it logged something that it does only once it has its lock.
    pub passed: Option<Timestamp>,
    /// A Terraform that lives on this machine may hold the lock.
    pub contested: bool,
}

/// Whether a child that was refused a lock may itself have it.
#[derive(Debug)]
pub enum RefusedItself {
    /// It cannot.
    No,
    /// It may, and so may another; this is to be said.
    Perhaps(String),
    /// All that is known says so.
    Likely(Box<OtherLock>),
}

/// What may be done.
#[derive(Debug, Clone, Copy)]
pub struct Permission {
    /// What it takes to believe that a lock is the child's.
    pub evidence: cli::Evidence,
    /// What becomes of the lock of a dead child.
    pub on_death: OnDeath,
}

impl Suspicion {
    /// What a command that ran with `env` in `dir` may have left when it died. `is_terraform`: it was seen to be a
    /// Terraform, whatever its name.
    #[must_use]
    pub fn of(dir: &Path, command: &[OsString], env: &HashMap<OsString, OsString>, is_terraform: bool) -> Self {
        let arguments = command.get(1..).unwrap_or_default();
        let surroundings = Surroundings::of_command(dir, arguments, env.clone());
        if moves_state(command, env) {
            return Self::of_move(&surroundings);
        }
        // An apply of a plan file has the backend of the plan.
        let (planned, found) = backend::read_backend_of(arguments, &surroundings);
        // What S3 locks is logged. What cannot be read is said where it is needed.
        let Ok(Backend::Other { kind: backend, place }) = found else { return Self::None };
        // Without the one address there is no lock; without the other Terraform gives none back, not even that of a look.
        let is_set = |address: &str| place.get(address).is_some_and(|address| !address.is_empty());
        if backend == "http" && !["lock_address", "unlock_address"].into_iter().all(is_set) {
            return Self::None;
        }
        let program = command.first().map(Path::new).and_then(Path::file_name);
        let is_terraform = is_terraform || command.first().is_some_and(|program| product(program).is_some());
        let read = || Command::read(command, env);
        let left_alone = |why: &str| {
            Self::LeftAlone(format!(
                "{} died, and the backend is `{backend}`: {why}",
                program.map_or("the command".into(), |program| program.to_string_lossy())
            ))
        };
        match Locking::of(&backend) {
            Locking::DiesWithHolder => Self::None,
            // After a supervisor that was killed the arguments are not known: they are not kept, for they may hold secrets.
            _ if is_terraform && !arguments.is_empty() && read().is_none() => Self::None,
            Locking::Deliberate => left_alone(
                "its workspace may still be locked, on purpose if the state could not be uploaded; look at the run there \
                 and unlock the workspace when it is settled",
            ),
            Locking::Unknown => {
                left_alone("tfguard does not know how that locks; see whether `terraform plan` is refused the lock")
            }
            Locking::Stays if !is_terraform => left_alone(
                "tfguard looks for a lock there only if it runs Terraform itself; see whether `terraform plan` is refused the lock",
            ),
            // A second Terraform asks on the backend of the directory.
            Locking::Stays if planned.is_some() && !is_recorded(&backend, &place, &surroundings) => left_alone(
                "the plan file that was applied has another backend than its directory; see whether a second apply of \
                 it is refused the lock",
            ),
            Locking::Stays if arguments.is_empty() => left_alone(
                "tfguard does not know any more what was run; see whether `terraform plan` is refused the lock",
            ),
            Locking::Stays => match read() {
                Some(command_read) => Self::Lock(Box::new(Case {
                    command: command_read,
                    terraform: Terraform::of(dir, command, env),
                    workspace: backend::workspace(&surroundings),
                    backend,
                    place,
                })),
                None => Self::None,
            },
        }
    }
}

impl Suspicion {
    /// The old backend is the recorded one, until all is over.
    fn of_move(surroundings: &Surroundings) -> Self {
        Self::Move(match backend::read_backend(surroundings) {
            Ok(Backend::S3(_)) => "s3".to_owned(),
            Ok(Backend::Other { kind, .. }) => kind,
            Ok(Backend::None | Backend::Local) | Err(_) => "local".to_owned(),
        })
    }
}

/// What is to be said of a command that died while it moved a state away from a backend of type `from`, if it may have
/// left locks that nobody logged. Those in S3 are logged: that of the state that is moved, then that of its new place.
#[must_use]
pub fn left_by_move(from: &str, source_is_logged: bool, destination_is_logged: bool) -> Option<String> {
    let source = from != "s3" && Locking::of(from) != Locking::DiesWithHolder;
    let destination = !destination_is_logged && (from != "s3" || source_is_logged);
    let source = source.then(|| format!("on the backend `{from}`"));
    let places: Vec<_> =
        source.into_iter().chain(destination.then(|| "on the one that it was moved to".to_owned())).collect();
    (!places.is_empty()).then(|| {
        format!(
            "the command died while it moved a state, and may have left a lock of it {}: see whether `terraform plan` is \
             refused it there",
            places.join(" and ")
        )
    })
}

/// Whether the directory itself was initialised with this backend.
fn is_recorded(backend: &str, place: &BTreeMap<String, String>, surroundings: &Surroundings) -> bool {
    let recorded = backend::read_backend(surroundings);
    matches!(recorded, Ok(Backend::Other { kind, place: recorded }) if kind == backend && recorded == *place)
}

impl Case {
    /// The lock, to compare.
    #[must_use]
    pub fn contested(&self) -> Contested {
        Contested::Other { kind: self.backend.clone(), place: self.place.clone(), workspace: self.workspace.clone() }
    }

    /// What to say of the lock where nobody may look, because a process of the child may live.
    #[must_use]
    pub fn not_looked(&self, why: String) -> OtherLock {
        self.account(None, OtherOutcome::Left { why })
    }

    /// Looks who has the lock, and releases it if it is the child's and that is permitted. To be called when every
    /// process of the child is dead.
    pub async fn look_after(&self, death: Death, permission: Permission) -> OtherLock {
        let version = match self.terraform.version(VERSION_LIMIT).await {
            Ok(version) => version,
            Err(why) => return self.unclear(why),
        };
        let evidence = self.evidence(version, death);
        let lock = self.settle(&evidence, permission).await;
        if lock.outcome != OtherOutcome::Free || evidence.passed.is_some() {
            return lock;
        }
        tokio::time::sleep(LANDS_WITHIN).await;
        self.settle(&evidence, permission).await
    }

    /// Whether the lock that the child was refused may be its own: its request was done and the answer lost, so that
    /// the next attempt ran into what the first had got. `info`: as Terraform showed it. To be called when every process
    /// of the child is dead.
    ///
    /// Nothing is released on this: a refusal says that somebody has the lock, and of two runs that are as alike as
    /// `Evidence` can see and began at the same moment, the other may have it.
    #[must_use]
    pub fn refused(&self, info: &LockInfo, version: String, death: Death) -> RefusedItself {
        let fits = "all it says fits this run, which may have got it without hearing so";
        match self.evidence(version, death).judge(info) {
            Verdict::Foreign(_) => RefusedItself::No,
            Verdict::Unproven(why) => RefusedItself::Perhaps(format!("{fits}; but that is not sure: {why}")),
            Verdict::Own => {
                let why = format!(
                    "{fits}; a run that is like it and began at the same moment may have it, so tfguard leaves it"
                );
                RefusedItself::Likely(Box::new(self.account(Some(info.clone()), OtherOutcome::Left { why })))
            }
        }
    }

    fn evidence(&self, version: String, death: Death) -> Evidence {
        Evidence {
            command: self.command.clone(),
            who: who(),
            version,
            started: death.started,
            ended: death.ended,
            passed: death.passed,
            contested: death.contested,
        }
    }

    /// What is to be said of the lock that is there. `None`: it is the child's and to be released.
    fn left(&self, evidence: &Evidence, info: &LockInfo, permission: Permission) -> Option<OtherOutcome> {
        let left = |why: &str| Some(OtherOutcome::Left { why: why.to_owned() });
        let unsure = |why: &str| left(&format!("it may be this run's, but that is not sure: {why}"));
        let is_http = self.backend == "http";
        if info.operation == probe::OPERATION && (is_http || info.who == evidence.who) {
            return unsure(
                "its operation is that of tfguard's own look (untaint): the look may have left it, or the server shows the \
                 words of who asks in place of the holder's, as GitLab does",
            );
        }
        match evidence.judge(info) {
            Verdict::Foreign(why) => Some(OtherOutcome::Foreign { why }),
            Verdict::Unproven(why) => unsure(&why),
            Verdict::Own if !is_id(&self.backend, &info.id) => left("its ID has not the shape that this backend gives"),
            Verdict::Own
                if self.command.operations.iter().any(|operation| permission.on_death.keeps_operation(operation)) =>
            {
                Some(OtherOutcome::Kept)
            }
            Verdict::Own if is_http => left(
                "all it says fits this run, but the unlock of this backend does not say which lock it means, so tfguard \
                 sends none",
            ),
            Verdict::Own if permission.evidence == cli::Evidence::Logged => left(
                "all it says fits this run, but Terraform logs no lock of this backend, and without a log entry \
                 tfguard releases nothing unless told to: --evidence item",
            ),
            Verdict::Own => None,
        }
    }

    /// Has a second Terraform be refused the lock, and Terraform's own unlock, which is given the ID, release it.
    async fn settle(&self, evidence: &Evidence, permission: Permission) -> OtherLock {
        let mut failed: Option<(LockInfo, String)> = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let info = match (probe::look(&self.terraform, LOOK_LIMIT).await, failed) {
                (Look::Free, None) => return self.account(None, OtherOutcome::Free),
                (Look::Free, Some((info, _))) => return self.account(Some(info), OtherOutcome::Gone),
                (Look::Held(Holder::Known(found)), Some((info, _))) if found.id != info.id => {
                    return self.account(Some(info), OtherOutcome::Gone);
                }
                (Look::Held(Holder::Known(found)), _) => found,
                (_, Some((info, why))) => return self.account(Some(info), OtherOutcome::Left { why }),
                (Look::Held(Holder::IdOnly(id)), None) => {
                    let why = "it may be this run's, but that is not sure: Terraform before 1.15 and OpenTofu before 1.9 \
                               show only the ID of a lock of this backend";
                    let info = LockInfo { id, ..LockInfo::default() };
                    return self.account(Some(info), OtherOutcome::Left { why: why.to_owned() });
                }
                (Look::Unclear(why), None) => return self.unclear(why),
            };
            if let Some(outcome) = self.left(evidence, &info, permission) {
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

/// `user@host`, as Terraform writes it (`NewLockInfo` in `internal/states/statemgr/locker.go`).
fn who() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    // Without an entry in the user database Go asks the environment.
    let user = user.or_else(|| std::env::var("USER").ok()).unwrap_or_default();
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{user}@{}", host.to_string_lossy())
}
