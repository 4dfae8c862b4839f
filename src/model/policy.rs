//! What the user decided, and what the command was known to do when it started.

use std::path::PathBuf;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::lock::LockPlace;

/// What to do with the lock of a child that died. The greater of two satisfies both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDeath {
    /// Release it.
    Release = 0,
    /// Leave it for a person to look at.
    Keep = 2,
    /// Leave it if an apply held it, release it if a plan did.
    KeepApply = 1,
}

/// What to do with a lockfile in a store that does not keep conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum UnconditionalDelete {
    /// Leave it, and say so.
    #[default]
    Refuse,
    /// Read it once more and delete it; a lock that takes its place in between is lost.
    #[value(name = "second-look")]
    AfterSecondLook,
}

impl OnDeath {
    /// Whether a lock that was taken for this operation stays.
    pub fn keeps(self, operation: &str) -> bool {
        match self {
            Self::Release => false,
            Self::Keep => true,
            Self::KeepApply => operation == "OperationTypeApply",
        }
    }
}

/// What is enough to take a lock for this run's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Evidence {
    /// The log names the lock, or shows the request that took it. A lock without such a record is only reported.
    Logged,
    /// Also the lock itself, if it was not there before and user, host, time, version and operation all fit. Not where
    /// the same user may work on the same state from another machine of the same name at the same time. Does nothing for
    /// the locks of `init` and of `workspace new` or `delete` on backends other than S3, nor for the place to which `init`
    /// moves a state
    Item,
}

/// Whether the CI's language is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CiMessages {
    /// Where the CI is known.
    Auto,
    /// Nowhere.
    Off,
}

/// What a command may lock without a word in its log, as it was known when the command started. A process that takes a dead
/// supervisor's place has it from the journal. Holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The directory that the command works in, after `-chdir`.
    #[serde(with = "crate::paths")]
    pub directory: PathBuf,
    /// The plan file that it applies.
    #[serde(with = "crate::paths::option")]
    pub plan_file: Option<PathBuf>,
    /// The workspace whose state it locks.
    pub workspace: String,
    /// The `Operation`s of the locks that it takes; none if it takes none, nothing if nobody knows.
    pub operations: Option<Vec<String>>,
    /// It waits for a lock that is held (`-lock-timeout`) in place of ending.
    pub waits: bool,
    /// Its arguments say that it moves a state from one backend to another.
    pub moves: bool,
    /// tfguard could have it log.
    pub logs: bool,
    /// Its environment asks for DEBUG, without which Terraform before 1.6 logs no request.
    pub debug: bool,
    /// Where its lock would be by what its directory was initialised with.
    pub places: Vec<LockPlace>,
    /// What was there, once that was seen.
    pub baseline: Baseline,
}

/// What a look at the lock's place showed that was begun when the child was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// Nothing.
    Absent,
    /// A lock.
    Present {
        id: String,
        /// When the look was answered. The child may have been quicker.
        answered: Timestamp,
    },
    /// Nobody looked, or there was no answer before the child died.
    Unknown,
}

/// What the directory of a Terraform was configured for when it started. What is recorded there later may be there to lead
/// elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartingBackend {
    /// [`crate::aws::S3Backend::digest`] of it; none where it was not S3, or nothing.
    pub digest: Option<String>,
    /// The state of its workspace: `<bucket>/<state key>`.
    pub state: Option<String>,
    /// The Terraform configures the directory anew (`init`).
    pub is_replaced: bool,
}
