//! What a command may lock, as it was known when it started.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::place::LockPlace;

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
        /// Its ID.
        id: String,
        /// When the look was answered. The child may have been quicker.
        answered: Timestamp,
    },
    /// Nobody looked, or there was no answer before the child died.
    Unknown,
}
