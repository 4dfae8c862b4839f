//! The account of a run: every fact that people, the report and a later process need. Holds no secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::exit;
use crate::model::ci;
use crate::model::holder::Holder;
use crate::model::lock::{Entry, FoundLock, Grade, LockClaim, LockInfo, LockPlace, Stage, TraceEntry};
use crate::model::process::{Product, product};
use crate::model::state::StateAccount;
use crate::model::unsaved::Unsaved;
use crate::model::verdict::Liveness;

/// What happened in a run. The journal holds it while the run goes on, `--report` writes it at the end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub tfguard: String,
    /// The session's name.
    pub session: String,
    /// When tfguard began.
    pub started: Timestamp,
    /// When everything was accounted for.
    pub ended: Option<Timestamp>,
    pub ci: Option<ci::Run>,
    /// How long Terraform may take to end once it is interrupted, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<ci::Term>,
    /// After which time the run stops by itself, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<ci::Term>,
    /// The file name of the command that was run. Its arguments may hold secrets.
    pub program: String,
    /// Whether it is what stands behind a setup action's wrapper, whose exit code tfguard's is then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wrapped: bool,
    /// The directory that it was started in.
    #[serde(with = "crate::paths")]
    pub directory: PathBuf,
    /// How the child ended.
    pub ending: Option<Ending>,
    /// Who asked for a stop, in order.
    pub requests: Vec<Requested>,
    /// The one interrupt.
    pub interrupt: Option<Interrupt>,
    /// When SIGKILL was sent.
    pub killed: Option<Timestamp>,
    /// What Terraform was doing last.
    pub phase: Phase,
    /// Processes of the session that were alive at the end although they had to go.
    pub survivors: Vec<String>,
    /// Every lock the child was seen to ask for.
    pub locks: Vec<LockAccount>,
    /// Every lockfile the child was seen to ask for whose ID its log does not tell, and that did not turn out to be one
    /// of the locks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<TraceAccount>,
    /// The lock of a state whose backend does not log locks, looked for after an unclean death.
    #[serde(default)]
    pub other_locks: Vec<OtherLock>,
    /// The states that the child died over, looked at afterwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<StateAccount>,
    /// What the child did to resources and did not come to save.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsaved: Vec<Unsaved>,
    /// The lock that the child was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedLock>,
    /// What went wrong for tfguard without stopping it.
    pub troubles: Vec<String>,
    /// The accounts of the guards below this one, of a Terraform each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub terraforms: Vec<Account>,
}

/// A request to stop and its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Requested {
    pub at: Timestamp,
    #[serde(flatten)]
    pub request: StopRequest,
}

/// The interrupt that Terraform received.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interrupt {
    /// When it was sent, or seen to have been.
    pub at: Timestamp,
    /// Who sent it.
    pub by: InterruptedBy,
}

/// Who interrupted Terraform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterruptedBy {
    Tfguard,
    /// Somebody else did, so tfguard did not.
    SomebodyElse,
}

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Ending {
    /// By itself.
    Exited { code: u8, at: Timestamp },
    /// Terraform crashed: by a panic of its own, or of Go's runtime, which no signal tells of.
    Crashed { code: u8, at: Timestamp },
    /// Of a signal.
    Died { signal: i32, at: Timestamp },
    /// It ended, but nobody was left to whom the system tells how: its supervisor was killed.
    Unknown { at: Timestamp },
    /// It was sent SIGKILL and has not gone.
    StillAlive,
}

impl Ending {
    /// Not by itself, so that what it held may be left and requests may be on their way.
    pub fn is_unclean(self) -> bool {
        !matches!(self, Self::Exited { .. })
    }

    /// When it was.
    pub fn at(self) -> Option<Timestamp> {
        match self {
            Self::Exited { at, .. } | Self::Crashed { at, .. } | Self::Died { at, .. } | Self::Unknown { at } => {
                Some(at)
            }
            Self::StillAlive => None,
        }
    }

    /// The exit code that says it, 125 where nobody knows.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited { code, .. } | Self::Crashed { code, .. } => code,
            Self::Died { signal, .. } => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::Unknown { .. } => exit::TFGUARD_FAILED,
            Self::StillAlive => 128 + 9,
        }
    }
}

/// One lock of the child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockAccount {
    #[serde(flatten)]
    pub claim: LockClaim,
    /// How far Terraform was seen to come with it.
    pub stage: Stage,
    /// How sure it is that the lock is the child's own.
    pub grade: Grade,
    /// Where its halves live.
    pub places: Vec<LockPlace>,
    /// Where its backend's settings are.
    pub settings: Option<Settings>,
    /// What became of it. None while the child lives.
    pub outcome: Option<LockOutcome>,
    /// What became of each half, where tfguard went to look.
    pub halves: Vec<Half>,
}

impl LockAccount {
    /// The account of a lock that was just learned of.
    pub fn new(entry: &Entry, places: Vec<LockPlace>, settings: Option<Settings>) -> Self {
        Self {
            claim: entry.claim.clone(),
            stage: entry.stage,
            grade: entry.grade,
            places,
            settings,
            outcome: None,
            halves: Vec::new(),
        }
    }
}

/// A lockfile of the child whose ID nobody knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceAccount {
    #[serde(flatten)]
    pub entry: TraceEntry,
    /// Where it lives.
    pub places: Vec<LockPlace>,
    /// Where its backend's settings are.
    pub settings: Option<Settings>,
    /// What became of it. None while the child lives.
    pub outcome: Option<LockOutcome>,
    /// Whose lock is in its place now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<FoundLock>,
}

/// Where the settings of a lock's backend are, for who looks after it when its Terraform and its arguments are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The directory that its Terraform worked in.
    #[serde(with = "crate::paths")]
    pub directory: PathBuf,
    /// The plan file that it applied, which has the settings in place of the directory.
    #[serde(with = "crate::paths::option")]
    pub plan_file: Option<PathBuf>,
    /// The flags by which tfguard's commands find the state, typed in that directory in a plain shell.
    #[serde(default)]
    pub flags: Vec<String>,
    /// The same wherever they are typed. Empty where the backend block has credentials that no flag gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anywhere: Vec<String>,
    /// Whether the bucket is put into the path of URLs.
    #[serde(default)]
    pub path_style: bool,
    /// A digest of each setting of the backend: a release compares them. Not in the report.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, String>,
}

impl Settings {
    /// The settings that are not the same in `now` as they were when the lock was taken.
    pub fn changed(&self, now: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.digests.keys().chain(now.digests.keys()).collect();
        let differs = |name: &&&String| self.digests.get(**name) != now.digests.get(**name);
        // The tfguard that wrote the journal may not have known digests.
        names.iter().filter(|_| !self.digests.is_empty()).filter(differs).map(|name| (*name).clone()).collect()
    }
}

/// One half of a lock that tfguard looked after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Half {
    pub place: LockPlace,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: HalfOutcome,
}

/// What became of one half of a lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum HalfOutcome {
    Deleted,
    /// It was not there.
    AlreadyGone,
    /// Its table or bucket was not there any more.
    GoneWithStore {
        why: String,
    },
    /// Another lock is there, and stays.
    NotOurs {
        holder: FoundLock,
    },
    /// A lock of this ID is there, is another run's, and stays.
    NotOwn {
        why: String,
    },
    /// It may still be there.
    Left {
        why: String,
    },
}

/// What became of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "why", rename_all = "kebab-case")]
pub enum LockOutcome {
    /// Terraform released it.
    Unlocked,
    /// Terraform left it, tfguard deleted it.
    Released,
    /// It is not there: Terraform did not get it, or released it as it died.
    Gone,
    /// Terraform had it to its end and did not release it, and it is not there: somebody took it away meanwhile.
    TakenAway,
    /// The log tells of it, and it is not one that this run's Terraform left, for this reason.
    NotOwn(String),
    /// Left on purpose (`--on-death`).
    Kept,
    /// It may still be there, against tfguard's intention.
    Left(String),
}

impl LockOutcome {
    /// The outcome of a lock with these halves.
    pub fn of(halves: &[Half]) -> Self {
        let left = |half: &Half| match &half.outcome {
            HalfOutcome::Left { why } => Some(why.clone()),
            _ => None,
        };
        let not_own = |half: &Half| match &half.outcome {
            HalfOutcome::NotOwn { why } => Some(why.clone()),
            _ => None,
        };
        let mut reasons: Vec<_> = halves.iter().filter_map(left).collect();
        reasons.dedup();
        if !reasons.is_empty() {
            Self::Left(reasons.join("; "))
        } else if let Some(why) = halves.iter().find_map(not_own) {
            Self::NotOwn(why)
        } else if halves.iter().any(|half| half.outcome == HalfOutcome::Deleted) {
            Self::Released
        } else {
            Self::Gone
        }
    }
}

impl Account {
    /// What ran, as far as the command tells.
    pub fn product(&self) -> Product {
        product(OsStr::new(&self.program)).unwrap_or(Product::Terraform)
    }

    /// Whether the command ended by itself and with success.
    pub fn has_succeeded(&self) -> bool {
        matches!(self.ending, Some(Ending::Exited { code: 0, .. }))
    }

    /// Whether the command did not end by itself, as far as is known.
    pub fn has_died(&self) -> bool {
        self.ending.is_none_or(Ending::is_unclean)
    }

    /// Whether what a script ran died of a signal: a shell tells of that by an exit code of more than 128.
    pub fn tells_of_signal(&self) -> bool {
        matches!(self.ending, Some(Ending::Exited { code: 129.., .. }))
    }

    /// tfguard's exit code for this run.
    pub fn exit_code(&self) -> u8 {
        let code = self.ending.map_or(exit::TFGUARD_FAILED, Ending::code);
        if let Some(code) = self.needs_somebody() {
            code
        } else if self.was_stopped_by_tfguard() {
            exit::DEADLINE
        } else if self.wrapped && matches!(self.ending, Some(Ending::Exited { .. })) {
            u8::from(!matches!(code, 0 | 2))
        } else {
            code
        }
    }

    /// The exit code that says that somebody has to act, if so: a lock is left, or a state needs a look.
    pub fn needs_somebody(&self) -> Option<u8> {
        let lock_left = self.lock_left().then_some(exit::LOCK_LEFT);
        lock_left.or_else(|| self.state_needs_a_look().then_some(exit::STATE_NEEDS_A_LOOK))
    }

    /// Whether tfguard itself stopped the run before it was done. What runs Terraforms may make a success of that, as
    /// Terragrunt does; a Terraform that succeeded was done.
    fn was_stopped_by_tfguard(&self) -> bool {
        use StopRequest::{CredentialsEnd, Deadline, LeaseNotRenewed};
        let own = |first: &Requested| matches!(first.request, Deadline | CredentialsEnd { .. } | LeaseNotRenewed);
        let runs_terraforms = product(OsStr::new(&self.program)).is_none();
        (self.requests.first().is_some_and(own) && (runs_terraforms || !self.has_succeeded()))
            || self.terraforms.iter().any(Self::was_stopped_by_tfguard)
    }
}

/// The file of `--report`. Its format is documented in `docs/report.md`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub schema: u32,
    pub exit_code: u8,
    /// Whether somebody has to do something about a lock.
    pub lock_left: bool,
    /// What happened.
    #[serde(flatten)]
    pub account: Account,
}

impl Account {
    /// The account as the report has it: what is told of locks and states is in one place, whichever Terraform it is of.
    pub fn report(&self) -> Report {
        let mut account = self.clone();
        account.gather();
        let locks = account.locks.iter_mut().map(|lock| &mut lock.settings);
        let traces = account.traces.iter_mut().map(|trace| &mut trace.settings);
        locks.chain(traces).flatten().for_each(|settings| settings.digests.clear());
        Report { schema: 1, exit_code: self.exit_code(), lock_left: self.lock_left(), account }
    }

    /// What is told of a lock.
    pub fn lock_mut(&mut self, claim: &LockClaim) -> Option<&mut LockAccount> {
        self.locks.iter_mut().find(|lock| lock.claim == *claim)
    }

    /// Takes what the guards below this one told of locks and states.
    fn gather(&mut self) {
        for terraform in &mut self.terraforms {
            terraform.gather();
            self.locks.append(&mut terraform.locks);
            self.traces.append(&mut terraform.traces);
            self.other_locks.append(&mut terraform.other_locks);
            self.states.append(&mut terraform.states);
            self.unsaved.append(&mut terraform.unsaved);
            if self.refused.is_none() {
                self.refused = terraform.refused.take();
            }
        }
    }

    /// Whether a lock is left against tfguard's intention.
    pub fn lock_left(&self) -> bool {
        self.logged_lock_left()
            || self.other_locks.iter().any(OtherLock::is_left)
            || self.terraforms.iter().any(|terraform| terraform.ended.is_none() || terraform.lock_left())
    }

    fn logged_lock_left(&self) -> bool {
        let locks = self.locks.iter().map(|lock| &lock.outcome);
        let mut outcomes = locks.chain(self.traces.iter().map(|trace| &trace.outcome));
        outcomes.any(|outcome| matches!(outcome, Some(LockOutcome::Left(_))))
    }

    /// Whether a later `tfguard release` can do something that this process could not: a lock that is known is left, or
    /// something of the run may still be alive.
    pub fn can_be_tried_again(&self) -> bool {
        !self.survivors.is_empty()
            || self.logged_lock_left()
            || self.terraforms.iter().any(|terraform| terraform.ended.is_none() || terraform.can_be_tried_again())
    }

    /// What it and the Terraforms below it did and did not save.
    pub fn all_unsaved(&self) -> Box<dyn Iterator<Item = &Unsaved> + '_> {
        Box::new(self.unsaved.iter().chain(self.terraforms.iter().flat_map(Self::all_unsaved)))
    }

    /// Somebody has what is needed to save it.
    pub(crate) fn forget_unsaved(&mut self) {
        self.unsaved.clear();
        self.terraforms.iter_mut().for_each(Self::forget_unsaved);
    }

    /// Whether a state lacks resources that exist, or may.
    #[must_use]
    pub fn lacks_resources(&self) -> bool {
        self.all_unsaved().any(Unsaved::needs_a_look)
    }

    /// Whether a state needs a look.
    pub fn state_needs_a_look(&self) -> bool {
        self.states.iter().any(StateAccount::needs_a_look)
            || self.lacks_resources()
            || self.requests.iter().any(|asked| asked.request == StopRequest::LockLost)
            || self.terraforms.iter().any(Self::state_needs_a_look)
    }
}

/// The lock of a state whose backend does not log its locks, looked for because the child died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherLock {
    /// The backend's type, for instance `gcs`.
    pub backend: String,
    /// Who was seen to have the lock, if somebody was.
    pub holder: Option<LockInfo>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: OtherOutcome,
    /// What a person can run to release it, in whichever directory.
    pub command: Option<String>,
    /// The beginning of a command line by which a person runs Terraform there.
    pub terraform: Option<String>,
}

/// What became of such a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum OtherOutcome {
    /// Nobody had it.
    Free,
    /// It was the child's by all that it said (evidence of grade `item`), and tfguard released it.
    Released,
    /// It was the child's and is not there any more, although no unlock was seen to succeed.
    Gone,
    /// It is somebody else's, and stays.
    Foreign { why: String },
    /// Left on purpose (`--on-death`).
    Kept,
    /// It may be there and the child's.
    Left { why: String },
    /// Nobody could see whether the child left one.
    Unknown {
        why: String,
        /// The run did not simply succeed, so that there may be one.
        unclean: bool,
    },
}

impl OtherLock {
    /// A lock of which nobody knows whether it is there, nor where it would be, of a run that did not simply succeed.
    pub fn unknown(why: String) -> Self {
        let outcome = OtherOutcome::Unknown { why, unclean: true };
        Self { backend: "unknown".to_owned(), holder: None, outcome, command: None, terraform: None }
    }

    /// Whether somebody has to do something about it.
    pub fn is_left(&self) -> bool {
        matches!(self.outcome, OtherOutcome::Left { .. } | OtherOutcome::Unknown { unclean: true, .. })
    }

    /// Whether there is more to say than that all is well.
    pub(crate) fn is_noteworthy(&self) -> bool {
        self.outcome != OtherOutcome::Free
    }
}

/// The lock that Terraform was refused, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedLock {
    pub id: String,
    /// The lock as its holder wrote it, as far as it could be seen.
    pub lock: Option<LockInfo>,
    /// The run that holds it, by the record beside the lock or a journal on this machine.
    pub holder: Option<Holder>,
    /// Whether that lives.
    #[serde(flatten)]
    pub verdict: Liveness,
    /// Nothing was in the lock's place any more when it was looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub free: bool,
    /// When all this was found out.
    pub at: Timestamp,
    /// The next step.
    pub next: String,
}

/// Somebody wants the run to stop. Requests are counted, signals are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StopRequest {
    /// tfguard received a signal.
    Signal {
        /// The signal's name, such as `SIGTERM`.
        name: String,
        /// The sending process where the kernel tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_pid: Option<i32>,
        /// Whether the supervisor itself was hit, not only the front. Nobody knows its pid, so somebody is signalling
        /// every process there is (GitLab's docker executor does), Terraform among them.
        #[serde(default)]
        everybody: bool,
    },
    /// The front is gone: its control socket closed.
    FrontDied,
    /// A process that waited for tfguard is gone: its parent (`run: tfguard …` without `exec` on GitHub Actions), or one
    /// above that (the shell below the `su` of GitLab's shell executor).
    ParentDied,
    /// The cleanup step of the job, `tfguard release`, asks.
    Release,
    /// The guard around this one was asked to stop, and asks all guards below it.
    Outer {
        /// What is left until it kills; none where it could not say.
        left: Option<Duration>,
    },
    /// The child died over a lock, and a Terraform that it had started lives on (a script's).
    ChildDied,
    /// The time given by `--deadline` is over.
    Deadline,
    /// The backend's credentials are about to end (`--before-expiry`).
    CredentialsEnd { end: jiff::Timestamp },
    /// No beat of a lock's lease was confirmed for too long.
    LeaseNotRenewed,
    /// A lock with a lease was taken away.
    LockLost,
}

impl std::fmt::Display for StopRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal { name, from_pid: Some(pid), .. } => write!(f, "{name} from process {pid}"),
            Self::Signal { name, .. } => f.write_str(name),
            Self::FrontDied => f.write_str("the tfguard process of the CI step was killed"),
            Self::ParentDied => f.write_str("a process that waited for tfguard ended"),
            Self::Release => f.write_str("tfguard release"),
            Self::Outer { .. } => f.write_str("the tfguard around this one"),
            Self::ChildDied => f.write_str("the command died, and a Terraform that it had started is still at work"),
            Self::Deadline => f.write_str("--deadline reached"),
            Self::CredentialsEnd { end } => write!(f, "the AWS credentials end at {end:.0}"),
            Self::LeaseNotRenewed => f.write_str("the lease of its lock was not renewed in time"),
            Self::LockLost => f.write_str("its lock was taken away"),
        }
    }
}

/// What Terraform is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing is known that makes a kill harmless.
    #[default]
    Unknown,
    /// Every Terraform of the session only reads and compares: killing it loses nothing.
    Planning,
    /// Resources or the state are being changed.
    Applying,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;
    use crate::model::ci;
    use crate::model::state::{StateFinding, StateVerdict};

    fn account() -> Account {
        let at = Timestamp::UNIX_EPOCH;
        let requests = [
            StopRequest::Signal { name: "SIGTERM".to_owned(), from_pid: Some(7), everybody: true },
            StopRequest::FrontDied,
            StopRequest::ParentDied,
            StopRequest::Release,
            StopRequest::Deadline,
            StopRequest::CredentialsEnd { end: at },
            StopRequest::LeaseNotRenewed,
        ];
        Account {
            tfguard: "0.1.0".to_owned(),
            session: "s".to_owned(),
            started: at,
            ended: Some(at),
            ci: None,
            grace: Some(ci::Term::new(std::time::Duration::from_secs(210), "because")),
            deadline: None,
            program: "terraform".to_owned(),
            wrapped: false,
            directory: PathBuf::from("/w"),
            ending: Some(Ending::Exited { code: 1, at }),
            requests: requests.map(|request| Requested { at, request }).to_vec(),
            interrupt: Some(Interrupt { at, by: InterruptedBy::Tfguard }),
            killed: Some(at),
            phase: Phase::Applying,
            survivors: vec!["terraform (7)".to_owned()],
            locks: Vec::new(),
            traces: Vec::new(),
            other_locks: Vec::new(),
            states: Vec::new(),
            unsaved: Vec::new(),
            refused: None,
            troubles: vec!["none".to_owned()],
            terraforms: Vec::new(),
        }
    }

    /// A state that needs a look, and one that could not be looked at.
    fn states() -> [StateAccount; 2] {
        let state = StateAccount {
            bucket: "b".to_owned(),
            state_key: "k".to_owned(),
            verdict: Some(StateVerdict::NeedsALook),
            why: None,
            serial: Some(5),
            lineage: Some("l".to_owned()),
            findings: vec![StateFinding::DigestDiffers { stored: "0".to_owned(), actual: "1".to_owned(), of: None }],
            next: "tfguard verify".to_owned(),
        };
        let unseen =
            StateAccount { verdict: None, why: Some("denied".to_owned()), findings: Vec::new(), ..state.clone() };
        [state, unseen]
    }

    /// One half that may be there blocks the state, whatever became of the other.
    #[test]
    fn a_lock_fared_as_the_half_that_fared_worst() {
        let left = || HalfOutcome::Left { why: "denied".to_owned() };
        let stranger = || HalfOutcome::NotOwn { why: "older".to_owned() };
        let others = || HalfOutcome::NotOurs { holder: FoundLock::read(b"other") };
        let outcome = |halves: &[HalfOutcome]| {
            let place = || LockPlace::Lockfile {
                bucket: "b".to_owned(),
                key: "k".to_owned(),
                region: "r".to_owned(),
                endpoint: None,
            };
            let halves = halves.iter().map(|outcome| Half { place: place(), outcome: outcome.clone() });
            LockOutcome::of(&halves.collect::<Vec<_>>())
        };
        for first in [HalfOutcome::Deleted, HalfOutcome::AlreadyGone, others(), stranger(), left()] {
            for second in [HalfOutcome::Deleted, HalfOutcome::AlreadyGone, others(), stranger(), left()] {
                let expected = if [&first, &second].contains(&&left()) {
                    LockOutcome::Left("denied".to_owned())
                } else if [&first, &second].contains(&&stranger()) {
                    LockOutcome::NotOwn("older".to_owned())
                } else if [&first, &second].contains(&&HalfOutcome::Deleted) {
                    LockOutcome::Released
                } else {
                    LockOutcome::Gone
                };
                assert_eq!(outcome(&[first.clone(), second.clone()]), expected, "{first:?} {second:?}");
            }
        }
    }

    /// A request whose field had the name of another once made the journal unreadable, and the end message with it.
    #[test]
    fn an_account_survives_the_journal_and_the_control_socket() {
        let account = Account { states: states().to_vec(), ..account() };
        let text = serde_json::to_string(&account).unwrap();
        assert_eq!(serde_json::from_str::<Account>(&text).unwrap(), account);
    }

    #[test]
    fn nothing_is_said_that_was_not_seen() {
        let mut account = account();
        let at = |second| Timestamp::from_second(second).unwrap();
        account.killed = None;
        account.interrupt = Some(Interrupt { at: at(10), by: InterruptedBy::Tfguard });
        account.ending = Some(Ending::Died { signal: 9, at: at(5) });
        assert_eq!(account.ending_line(), "terraform died of SIGKILL", "what it left was interrupted after its end");
        account.ending = Some(Ending::Died { signal: 9, at: at(12) });
        assert_eq!(account.ending_line(), "terraform died of SIGKILL, 2s after its interrupt");
        for (stage, says) in
            [(Stage::Attempted, "nothing shows that Terraform got it"), (Stage::Held, "not there any more")]
        {
            let claim = serde_json::json!({
                "id": "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "operation": "OperationTypeApply", "who": "a@b",
                "version": "1.11.4", "bucket": "b", "state_key": "k", "kinds": "both",
            });
            let entry = Entry { claim: serde_json::from_value(claim).unwrap(), stage, grade: Grade::Record };
            let lock = LockAccount { outcome: Some(LockOutcome::Gone), ..LockAccount::new(&entry, vec![], None) };
            account.locks = vec![lock];
            account.states.clear();
            let line = account.findings().remove(0).line;
            assert!(line.contains(says), "{line}");
        }
    }

    #[test]
    fn settings_that_changed_are_named() {
        let of = |settings: &[(&str, &str)]| Settings {
            directory: PathBuf::new(),
            plan_file: None,
            flags: Vec::new(),
            anywhere: Vec::new(),
            path_style: false,
            digests: settings.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect(),
        };
        let before = of(&[("bucket", "1"), ("profile", "2")]);
        assert_eq!(before.changed(&before), [""; 0]);
        assert_eq!(
            before.changed(&of(&[("bucket", "1"), ("endpoints", "3"), ("profile", "4")])),
            ["endpoints", "profile"]
        );
        assert_eq!(of(&[]).changed(&before), [""; 0], "the journal of a tfguard that knew none");
    }

    #[test]
    fn the_exit_code_tells_what_matters_most() {
        let with = |ending, first: StopRequest, outcome: Option<LockOutcome>| {
            let mut account = account();
            account.ending = Some(ending);
            account.requests[0].request = first;
            account.locks.extend(outcome.map(|outcome| {
                let claim = serde_json::json!({
                    "id": "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "operation": "OperationTypeApply", "who": "a@b",
                    "version": "1.11.4", "bucket": "b", "state_key": "k", "kinds": "both",
                });
                let claim = serde_json::from_value(claim).unwrap();
                let entry = Entry { claim, stage: Stage::Held, grade: Grade::Record };
                LockAccount { outcome: Some(outcome), ..LockAccount::new(&entry, vec![], None) }
            }));
            account
        };
        let code = |ending, first, outcome| with(ending, first, outcome).exit_code();
        let at = Timestamp::UNIX_EPOCH;
        let exited = |code| Ending::Exited { code, at };
        let killed = Ending::Died { signal: 9, at };
        let crashed = Ending::Crashed { code: 2, at };
        let left = || Some(LockOutcome::Left("denied".to_owned()));
        assert_eq!(code(exited(0), StopRequest::FrontDied, None), 0);
        assert_eq!(code(exited(2), StopRequest::FrontDied, Some(LockOutcome::Unlocked)), 2);
        assert_eq!(code(killed, StopRequest::FrontDied, Some(LockOutcome::Released)), 137);
        assert_eq!(code(crashed, StopRequest::FrontDied, Some(LockOutcome::Released)), 2);
        assert_eq!(code(killed, StopRequest::FrontDied, Some(LockOutcome::Kept)), 137);
        assert_eq!(code(exited(1), StopRequest::FrontDied, Some(LockOutcome::NotOwn("older".to_owned()))), 1);
        assert_eq!(code(exited(1), StopRequest::FrontDied, Some(LockOutcome::TakenAway)), 1);
        assert_eq!(code(exited(1), StopRequest::Deadline, None), exit::DEADLINE);
        assert_eq!(code(exited(0), StopRequest::Deadline, None), 0);
        assert_eq!(code(exited(1), StopRequest::LeaseNotRenewed, None), exit::DEADLINE);
        assert_eq!(code(exited(0), StopRequest::LockLost, None), exit::STATE_NEEDS_A_LOOK);
        assert_eq!(code(killed, StopRequest::Deadline, left()), exit::LOCK_LEFT);
        assert_eq!(code(exited(0), StopRequest::FrontDied, left()), exit::LOCK_LEFT);
        assert_eq!(code(Ending::Unknown { at }, StopRequest::FrontDied, None), exit::TFGUARD_FAILED);

        // The wrapper of a setup action makes one code of all errors, and none of changes in a plan.
        let wrapped =
            |ending, outcome| Account { wrapped: true, ..with(ending, StopRequest::FrontDied, outcome) }.exit_code();
        assert_eq!([0, 1, 2, 3, 120].map(|code| wrapped(exited(code), None)), [0, 1, 0, 1, 1]);
        assert_eq!([wrapped(exited(2), left()), wrapped(killed, None)], [exit::LOCK_LEFT, 137]);

        // A state that needs a look: only a lock that is left says more.
        let with_state = |ending, first, outcome| {
            let mut account = with(ending, first, outcome);
            account.states.extend(states());
            account.exit_code()
        };
        for first in [StopRequest::FrontDied, StopRequest::Deadline] {
            for ending in [exited(0), exited(1), killed, Ending::Unknown { at }, Ending::StillAlive] {
                let code = with_state(ending, first.clone(), Some(LockOutcome::Released));
                assert_eq!(code, exit::STATE_NEEDS_A_LOOK);
                assert_eq!(with_state(ending, first.clone(), left()), exit::LOCK_LEFT);
            }
        }
    }
}
