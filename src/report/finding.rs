//! What became of one lock or state, in a sentence for people and a word for programs.

use std::fmt;

use serde::Serialize;

/// What became of a lock, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its ID, if it is known. Only in the line where the lock may be the run's or somebody else's: scripts are told
    /// this one. A stranger may have written it.
    pub id: Option<String>,
    /// Its state: `bucket/key`, or the backend where it is not in S3.
    pub state: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The same in one line.
    pub line: String,
    /// What else is known, a line for each thing.
    pub details: Vec<String>,
    /// What somebody has to do now.
    pub next: Option<String>,
}

impl Finding {
    /// What became of something that has no ID, where there is nothing to do.
    pub fn new(state: String, outcome: Outcome, line: String) -> Self {
        Self { id: None, state, outcome, line, details: Vec::new(), next: None }
    }
}

/// What became of a lock, from what troubles nobody to what somebody has to see to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is not there: nobody had it, or it was released as its holder died.
    Gone,
    /// Terraform released it.
    Unlocked,
    /// It is somebody else's, and stays.
    Foreign,
    /// Terraform left it, tfguard released it.
    Released,
    /// Left on purpose.
    Kept,
    /// Somebody took it away while Terraform was at work.
    TakenAway,
    /// No lock: the state needs a look.
    NeedsALook,
    /// Nobody could see whether it was left.
    Unknown,
    /// It may be there, against tfguard's intention.
    Left,
}

/// The word for programs: `needs-a-look`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What the holder of a lock does, in a word: Terraform's `OperationTypeApply`
/// (`internal/backend/backendrun/operationtype_string.go`) is `apply`.
pub fn operation(operation: &str) -> String {
    operation.strip_prefix("OperationType").map_or_else(|| operation.to_owned(), str::to_lowercase)
}
