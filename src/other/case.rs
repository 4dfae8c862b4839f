//! A child that died over a lock which nobody logged.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::command::{Command, moves_state};
use super::contested::Contested;
use super::evidence::{Evidence, Shown, Verdict, shown};
use super::http::{Decision, LockServer, Settled, settle};
use super::kind::{Kind, Locking};
use super::probe::{self, Look};
use super::refusal::Holder;
use super::terraform::Terraform;
use crate::backend::{self, Backend, HttpBackend, Surroundings};
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
    /// It may have.
    Lock(Box<Case>),
}

/// A child that may have left such a lock.
#[derive(Debug)]
pub struct Case {
    kind: Kind,
    command: Command,
    terraform: Terraform,
    http: Option<HttpBackend>,
    place: BTreeMap<String, String>,
    workspace: String,
    gitlab_user: Option<String>,
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
            return Self::of_move(arguments, &surroundings);
        }
        // An apply of a plan file has the backend of the plan.
        let (planned, found) = backend::read_backend_of(arguments, &surroundings);
        let mut place = BTreeMap::new();
        let (name, http) = match found {
            Ok(Backend::Http(http)) if http.lock_address.is_none() || http.unlock_address.is_none() => {
                return Self::None;
            }
            Ok(Backend::Http(http)) => ("http".to_owned(), Some(*http)),
            Ok(Backend::Other { kind, place: told }) => {
                place = told;
                (kind, None)
            }
            // What S3 locks is logged. What cannot be read is said where it is needed.
            Ok(Backend::None | Backend::Local | Backend::S3(_)) | Err(_) => return Self::None,
        };
        let program = command.first().map(Path::new).and_then(Path::file_name);
        let is_terraform = is_terraform || command.first().is_some_and(|program| product(program).is_some());
        let read = || Command::read(command, env);
        let left_alone = |why: &str| {
            Self::LeftAlone(format!(
                "{} died, and the backend is `{name}`: {why}",
                program.map_or("the command".into(), |program| program.to_string_lossy())
            ))
        };
        match Locking::of(&name) {
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
            Locking::Stays(_) if !is_terraform => left_alone(
                "tfguard looks for a lock there only if it runs Terraform itself; see whether `terraform plan` is refused the lock",
            ),
            // A second Terraform asks on the backend of the directory.
            Locking::Stays(_) if planned.is_some() && http.is_none() && !is_recorded(&name, &surroundings) => {
                left_alone(
                    "the plan file that was applied has another backend than its directory; see whether a second apply of \
                 it is refused the lock",
                )
            }
            Locking::Stays(_) if arguments.is_empty() => left_alone(
                "tfguard does not know any more what was run; see whether `terraform plan` is refused the lock",
            ),
            Locking::Stays(kind) => match read() {
                Some(command_read) => Self::Lock(Box::new(Case {
                    kind,
                    command: command_read,
                    terraform: Terraform::of(dir, command, env),
                    http,
                    place,
                    workspace: backend::workspace(&surroundings),
                    gitlab_user: env
                        .get(OsStr::new("GITLAB_USER_LOGIN"))
                        .and_then(|user| user.to_str())
                        .filter(|user| !user.is_empty())
                        .map(str::to_owned),
                })),
                None => Self::None,
            },
        }
    }
}

impl Suspicion {
    /// What an `init` that moved a state may have left: the old backend is the recorded one, until all is over.
    fn of_move(arguments: &[OsString], surroundings: &Surroundings) -> Self {
        let backends = [backend::read_backend(surroundings), backend::read_configured_backend(arguments, surroundings)];
        let unlogged = backends.iter().filter_map(|found| match found {
            Ok(Backend::Http(_)) => Some("http"),
            Ok(Backend::Other { kind, .. }) if Locking::of(kind) != Locking::DiesWithHolder => Some(kind.as_str()),
            _ => None,
        });
        let unlogged: Vec<String> = unlogged.map(|kind| format!("`{kind}`")).collect();
        if unlogged.is_empty() {
            return Self::None;
        }
        Self::LeftAlone(format!(
            "the command died while it moved a state and may have left its lock on the backend {}: see whether `terraform \
             plan` is refused it there",
            unlogged.join(" and on ")
        ))
    }
}

/// Whether the directory itself was initialised with a backend of this type.
fn is_recorded(name: &str, surroundings: &Surroundings) -> bool {
    matches!(backend::read_backend(surroundings), Ok(Backend::Other { kind, .. }) if kind == name)
}

impl Case {
    /// The lock, to compare.
    #[must_use]
    pub fn contested(&self) -> Contested {
        match self.http.as_ref().and_then(|http| http.lock_address.clone()) {
            Some(address) => Contested::Http(address),
            None => Contested::Other {
                kind: self.kind.name().to_owned(),
                place: self.place.clone(),
                workspace: self.workspace.clone(),
            },
        }
    }

    /// What to say of the lock where nobody may look, because a process of the child may live.
    #[must_use]
    pub fn not_looked(&self, why: String) -> OtherLock {
        self.account(None, OtherOutcome::Left { why })
    }

    /// Looks who has the lock, and releases it if it is the child's and that is permitted. To be called when every
    /// process of the child is dead.
    pub async fn look_after(&self, death: Death, permission: Permission) -> Vec<OtherLock> {
        let version = match self.terraform.version(VERSION_LIMIT).await {
            Ok(version) => version,
            Err(why) => return vec![self.unclear(why)],
        };
        let evidence = self.evidence(version, death);
        let decide = |shown: &Shown| self.decide(&evidence, shown, permission);
        let locks = self.settle(&evidence.who, decide).await;
        if locks.iter().any(|lock| lock.outcome != OtherOutcome::Free) || evidence.passed.is_some() {
            return locks;
        }
        tokio::time::sleep(LANDS_WITHIN).await;
        self.settle(&evidence.who, decide).await
    }

    /// Whether the lock that the child was refused may be its own: its request was done and the answer lost, so that
    /// the next attempt ran into what the first had got. `info`: as Terraform showed it. To be called when every process
    /// of the child is dead.
    ///
    /// Nothing is released on this: a refusal says that somebody has the lock, and of two runs that are as alike as
    /// [`Evidence`] can see and began at the same moment, the other may have it.
    #[must_use]
    pub fn refused(&self, info: &LockInfo, version: String, death: Death) -> RefusedItself {
        let fits = "all it says fits this run, which may have got it without hearing so";
        match self.evidence(version, death).judge(&Shown::Whole(info.clone())) {
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
            gitlab_user: self.gitlab_user.clone(),
        }
    }

    /// What is to be done about the lock that is there.
    fn decide(&self, evidence: &Evidence, shown: &Shown, permission: Permission) -> Decision {
        let left = |why: &str| Decision::Leave(OtherOutcome::Left { why: why.to_owned() });
        match evidence.judge(shown) {
            Verdict::Foreign(why) => Decision::Leave(OtherOutcome::Foreign { why }),
            Verdict::Unproven(why) => left(&format!("it may be this run's, but that is not sure: {why}")),
            Verdict::Own if !self.kind.is_id(&shown.info().id) => {
                left("its ID has not the shape that this backend gives")
            }
            Verdict::Own
                if self.command.operations.iter().any(|operation| permission.on_death.keeps_operation(operation)) =>
            {
                Decision::Leave(OtherOutcome::Kept)
            }
            Verdict::Own if permission.evidence == cli::Evidence::Logged => left(
                "all it says fits this run, but Terraform logs no lock of this backend, and without a log entry \
                 tfguard releases nothing unless told to: --evidence item",
            ),
            Verdict::Own => Decision::Release,
        }
    }

    async fn settle(&self, who: &str, decide: impl Fn(&Shown) -> Decision) -> Vec<OtherLock> {
        let settled = match self.http.as_ref().map(LockServer::new) {
            None => self.settle_by_terraform(decide).await,
            Some(Ok(None)) => Settled::Free,
            Some(Ok(Some(server))) => settle(&server, who, decide).await,
            Some(Err(error)) => Settled::Unclear(error.to_string()),
        };
        vec![match settled {
            Settled::Free => self.account(None, OtherOutcome::Free),
            Settled::Released(info) => self.account(Some(info), OtherOutcome::Released),
            Settled::Gone(info) => self.account(Some(info), OtherOutcome::Gone),
            Settled::Held(info, outcome) => self.account(Some(info), outcome),
            Settled::Failed(info, why) => self.account(Some(info), OtherOutcome::Left { why }),
            Settled::Unclear(why) => self.unclear(why),
            Settled::Stuck { gone, own, why } => {
                let gone = gone.map(|info| self.account(Some(info), OtherOutcome::Gone));
                let why = format!(
                    "it is tfguard's own, got for asking who has the lock (nobody had), and could not be given back: {why}"
                );
                return gone.into_iter().chain([self.account(Some(own), OtherOutcome::Left { why })]).collect();
            }
        }]
    }

    /// By a second Terraform that is refused the lock, and Terraform's own unlock, which is given the ID. Every backend
    /// but http compares it.
    async fn settle_by_terraform(&self, decide: impl Fn(&Shown) -> Decision) -> Settled {
        let mut failed: Option<(LockInfo, String)> = None;
        for attempt in 1..=UNLOCK_ATTEMPTS {
            let info = match (probe::look(&self.terraform, LOOK_LIMIT).await, failed) {
                (Look::Free, None) => return Settled::Free,
                (Look::Free, Some((info, _))) => return Settled::Gone(info),
                (Look::Held(Holder::Known(found)), Some((info, _))) if found.id != info.id => {
                    return Settled::Gone(info);
                }
                (Look::Held(Holder::Known(found)), _) => found,
                (_, Some((info, why))) => return Settled::Failed(info, why),
                (Look::Held(Holder::IdOnly(id)), None) => {
                    return Settled::Unclear(format!(
                        "Terraform shows no more of the lock than its ID, {}",
                        shown(&id)
                    ));
                }
                (Look::Unclear(why), None) => return Settled::Unclear(why),
            };
            let whole = Shown::Whole(info);
            if let Decision::Leave(outcome) = decide(&whole) {
                return Settled::Held(whole.into_info(), outcome);
            }
            let info = whole.into_info();
            match probe::force_unlock(&self.terraform, &info.id, UNLOCK_LIMIT).await {
                Ok(()) => return Settled::Released(info),
                Err(why) if attempt == UNLOCK_ATTEMPTS => return Settled::Failed(info, why),
                Err(why) => failed = Some((info, why)),
            }
        }
        Settled::Free
    }

    fn unclear(&self, why: String) -> OtherLock {
        self.account(
            None,
            OtherOutcome::Left { why: format!("tfguard could not see whether this run left a lock: {why}") },
        )
    }

    fn account(&self, holder: Option<LockInfo>, outcome: OtherOutcome) -> OtherLock {
        let terraform = self.terraform.typed();
        let command = holder
            .as_ref()
            .filter(|holder| self.kind.is_id(&holder.id))
            .filter(|_| matches!(outcome, OtherOutcome::Left { .. } | OtherOutcome::Kept))
            .map(|holder| format!("{terraform} force-unlock {}", holder.id));
        OtherLock { backend: self.kind.name().to_owned(), holder, outcome, command, terraform: Some(terraform) }
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
