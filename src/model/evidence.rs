//! What a log proved about a lock.

use serde::{Deserialize, Serialize};

use crate::model::claim::{LockClaim, LockTrace};

/// How far a lock has come in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The request that takes it was about to be sent. All that Terraform 1.6 to 1.9 tell.
    Attempted,
    /// It is taken.
    Held,
    /// The request that releases it was about to be sent.
    Unlocking,
    /// It is released.
    Unlocked,
}

impl Stage {
    /// Whether Terraform has done under this lock what it took it for.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Unlocking | Self::Unlocked)
    }
}

/// One lock of this session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What Terraform said about it.
    pub claim: LockClaim,
    /// How far it has come.
    pub stage: Stage,
    /// How sure it is that the lock is the child's own.
    pub grade: Grade,
}

/// A lockfile of this session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// By what it is known.
    #[serde(flatten)]
    pub trace: LockTrace,
    /// How far it has come.
    pub stage: Stage,
}

/// How sure it is that a lock is the child's own, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// The lock itself: it was not there before the child started, and all it says fits the child.
    Item,
    /// A DEBUG record of the very request that took the lock, or of its checksum.
    Request,
    /// An INFO record in which Terraform names the ID of the lock it takes.
    Record,
}
