//! The journal: what a process that comes later needs to finish the session. Written before the step that depends on
//! it, replaced atomically. It outlives every process; it is not synced to disk, because after a loss of power there
//! is no Terraform that it could be wrong about, and a slow disk must not delay the interrupt (P6).

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{
    Account, ChildRecord, Intent, LeaseNote, LockClaim, LockPlace, OnDeath, ProcessId, StartingBackend, World,
};
use crate::session::directory::{SessionDir, SessionFile};
use crate::session::place::DirectoryError;
use crate::session::process::{monotonic_millis, nodename};

/// The version of the journal's format that this tfguard writes and reads.
const SCHEMA: u32 = 1;

/// The journal of a session. Holds no secrets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    schema: u32,
    /// Where its process IDs mean something.
    pub world: World,
    /// The node name, as the locks of its Terraforms have it. A container has one of its own.
    pub nodename: Option<String>,
    /// The inode number of the log, by which it is told from a copy of it that nobody holds. Its file system has other
    /// numbers in another container.
    pub log: Option<u64>,
    /// The CI's runner, where it tells one.
    pub runner: Option<String>,
    /// The process the CI started.
    pub front: Option<ProcessId>,
    /// The process that decides.
    pub supervisor: Option<ProcessId>,
    pub child: Option<ChildRecord>,
    /// When the run began, in milliseconds of the kernel's monotonic clock, which nobody can set.
    pub began: Option<u64>,
    /// What the command may lock without a word in its log.
    pub intent: Option<Intent>,
    /// What becomes of a lock that is left, as the run was told.
    pub on_death: Option<OnDeath>,
    /// The backend of the command's directory when it started.
    #[serde(default)]
    pub backend: StartingBackend,
    /// Who was interrupted. Set before the signal is sent, so that nobody sends a second one.
    pub interrupted: Vec<ProcessId>,
    /// When that was, or when it was seen that somebody else had done it, in milliseconds of the kernel's monotonic clock: the
    /// grace counts from there.
    #[serde(default)]
    pub stopping_since: Option<u64>,
    /// When what is still alive will be killed, in milliseconds of the kernel's monotonic clock. Set once a stop is
    /// requested, for the guards inside this one.
    pub kill_at: Option<u64>,
    /// The length of the leases that its locks have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Duration>,
    /// Those leases. Written before each beat.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<LeaseNote>,
    /// What happened so far.
    pub account: Account,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot {doing} the journal {path}: {error}; {hint}", hint = hint(doing))]
    Io { doing: &'static str, path: String, error: io::Error },
    /// There is none, and a Terraform has been at work.
    #[error(
        "the journal {path} is missing, but a Terraform ran or runs in its session, so its lock may be left; look for that \
         Terraform (it holds terraform.log beside it open), and remove the directory once it does not run any more"
    )]
    Missing { path: String },
    /// It is no journal.
    #[error(
        "the journal {path} cannot be understood ({error}); look at it and remove its directory once no Terraform of it runs"
    )]
    Malformed { path: String, error: serde_json::Error },
    /// Another tfguard wrote it.
    #[error(
        "the journal {path} has format {found}, this tfguard knows format {SCHEMA}; use the version of tfguard that wrote it"
    )]
    UnknownVersion { path: String, found: u64 },
}

impl Journal {
    /// A new journal.
    pub fn new(account: Account) -> Self {
        Self {
            schema: SCHEMA,
            world: World::here(),
            nodename: nodename(),
            began: Some(monotonic_millis()),
            account,
            ..Self::default()
        }
    }

    /// Reads the journal of a session.
    pub fn read(session: &SessionDir) -> Result<Self, JournalError> {
        let name = || path_of(session);
        let text = session.read_journal().map_err(|error| JournalError::Io { doing: "read", path: name(), error })?;
        let malformed = |error| JournalError::Malformed { path: name(), error };
        // Many spaces keep its room on the disk, and to skip them one by one takes longer than to read it.
        let end = memchr::memrchr(b'}', &text).map_or(text.len(), |last| last + 1);
        let value: serde_json::Value = serde_json::from_slice(&text[..end]).map_err(malformed)?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(found) if found != u64::from(SCHEMA) => Err(JournalError::UnknownVersion { path: name(), found }),
            _ => serde_json::from_value(value).map_err(malformed),
        }
    }

    /// Whether the run was on this runner, as far as both are known.
    pub fn may_be_of_runner(&self, runner: Option<&str>) -> bool {
        self.runner.as_deref().zip(runner).is_none_or(|(own, other)| own == other)
    }

    /// Where a lock was lost although its lease was kept: nothing is sent there about it any more.
    pub fn lost_places(&self, claim: &LockClaim) -> Vec<LockPlace> {
        let lost = self.leases.iter().filter(|lease| lease.lost && lease.lock.may_be(claim));
        lost.map(|lease| lease.place.clone()).collect()
    }

    /// Makes the log of a session, to be done before this journal is written.
    pub fn create_log(&mut self, session: &SessionDir) -> Result<(), DirectoryError> {
        let path = session.log();
        let log = session.create_log()?.metadata();
        let log = log.map_err(|error| DirectoryError::Io { doing: "read", path, error })?;
        self.log = Some(log.ino());
        Ok(())
    }

    /// Opens the log of a session for reading: the very file that its Terraforms write. Who looks whether they live, by
    /// who holds it, finds nobody at a copy.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none; another kind where it is not that file.
    pub fn open_log(&self, session: &SessionDir) -> io::Result<File> {
        let log = session.open_file(SessionFile::Log)?;
        match self.log {
            Some(own) if log.metadata()?.ino() != own => {
                Err(io::Error::other("it is not the file that the run's Terraform writes, but a copy of it"))
            }
            _ => Ok(log),
        }
    }

    /// Writes the journal of a session, in one step.
    pub fn write(&self, session: &SessionDir) -> Result<(), JournalError> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        let written = text.and_then(|text| session.replace_journal(text));
        written.map_err(|error| JournalError::Io { doing: "write", path: path_of(session), error })
    }
}

fn hint(doing: &str) -> &'static str {
    match doing {
        "write" => "free some space or set TFGUARD_DIR to a writable directory",
        _ => "a lock of its run may be left, so look with `tfguard inspect` in the run's working directory",
    }
}

fn path_of(session: &SessionDir) -> String {
    session.path_of(SessionFile::Journal).display().to_string()
}
