//! What the user decided.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::model::claim::LockClaim;

/// What to do with the lock of a child that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDeath {
    /// Release it.
    Release,
    /// Leave it for a person to look at.
    Keep,
    /// Leave it if an apply held it, release it if a plan did.
    KeepApply,
}

/// What to do with a lockfile in a store that does not keep conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WithoutConditions {
    /// Leave it, and say so.
    Refuse,
    /// Read it once more and delete it; a lock that takes its place in between is lost.
    SecondLook,
}

impl OnDeath {
    /// Whether such a lock stays.
    #[must_use]
    pub fn keeps(self, claim: &LockClaim) -> bool {
        self.keeps_operation(&claim.operation)
    }

    /// What satisfies both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Keep, _) | (_, Self::Keep) => Self::Keep,
            (Self::KeepApply, _) | (_, Self::KeepApply) => Self::KeepApply,
            (Self::Release, Self::Release) => Self::Release,
        }
    }

    /// Whether a lock that was taken for this operation stays.
    #[must_use]
    pub fn keeps_operation(self, operation: &str) -> bool {
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
