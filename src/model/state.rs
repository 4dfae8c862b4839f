//! A state that a Terraform died over.

use serde::{Deserialize, Serialize};

use crate::model::state_finding::{Relation, StateFinding, StateVerdict};

/// What was seen of a state whose Terraform died over it. Holds nothing of its resources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateAccount {
    /// Its bucket.
    pub bucket: String,
    /// Its key, with the workspace's prefix.
    pub state_key: String,
    /// All in all. None if it could not be looked at.
    pub verdict: Option<StateVerdict>,
    /// Why it could not be looked at.
    pub why: Option<String>,
    /// Its serial, as far as it was seen.
    pub serial: Option<u64>,
    /// Its lineage, as far as it was seen.
    pub lineage: Option<String>,
    /// What needs a look.
    pub findings: Vec<StateFinding>,
    /// The command that says what to do, and where to run it.
    pub next: String,
}

impl StateAccount {
    /// Whether somebody has to look at it.
    #[must_use]
    pub fn needs_a_look(&self) -> bool {
        !self.findings.is_empty()
    }

    /// Whether both are about the same state.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        (&self.bucket, &self.state_key) == (&other.bucket, &other.state_key)
    }

    /// Whether Terraform left something that may still have to be uploaded: its lock keeps others out until then.
    pub(crate) fn needs_its_lock(&self) -> bool {
        use Relation::{Newer, NothingToCompare};
        let waits = |finding: &StateFinding| {
            matches!(finding, StateFinding::Errored { relation: Newer | NothingToCompare, .. })
        };
        self.findings.iter().any(waits)
    }
}
