//! The account of a lock that nobody logged.

use serde::{Deserialize, Serialize};

use crate::model::lock::LockInfo;

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
    #[serde(default)]
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
    Foreign {
        /// Why it cannot be the child's.
        why: String,
    },
    /// Left on purpose (`--on-death`).
    Kept,
    /// It may be there and the child's.
    Left {
        /// Why, and what to do.
        why: String,
    },
    /// Nobody could see whether the child left one.
    Unknown {
        /// Why, and what to do.
        why: String,
        /// The run did not simply succeed, so that there may be one.
        unclean: bool,
    },
}

impl OtherLock {
    /// A lock of which nobody knows whether it is there, nor where it would be, of a run that did not simply succeed.
    #[must_use]
    pub fn unknown(why: String) -> Self {
        let outcome = OtherOutcome::Unknown { why, unclean: true };
        Self { backend: "unknown".to_owned(), holder: None, outcome, command: None, terraform: None }
    }

    /// Whether somebody has to do something about it.
    #[must_use]
    pub fn is_left(&self) -> bool {
        matches!(self.outcome, OtherOutcome::Left { .. } | OtherOutcome::Unknown { unclean: true, .. })
    }

    /// Whether there is more to say than that all is well.
    pub(crate) fn is_noteworthy(&self) -> bool {
        self.outcome != OtherOutcome::Free
    }
}
