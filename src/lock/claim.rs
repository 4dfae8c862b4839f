//! A lock that is held to be the child's own.

use serde::{Deserialize, Serialize};

use super::LockId;

/// A lock that the child said it takes, as its log records tell it.
///
/// Every field is checked against the lock in the store before anything is deleted: a claim that is mistaken or forged
/// in any of them deletes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockClaim {
    /// The lock's ID.
    pub id: LockId,
    /// What the child took it for, for instance `OperationTypeApply`.
    pub operation: String,
    /// `user@host`, as Terraform writes it.
    pub who: String,
    /// Terraform's version.
    pub version: String,
    /// The bucket of the state.
    pub bucket: String,
    /// The key of the state in its bucket, with the workspace's prefix.
    pub state_key: String,
    /// Which halves of the lock were asked for.
    pub kinds: LockKinds,
}

impl LockClaim {
    /// The partition key of the lock's item: `<bucket>/<state key>`, which is also `Path` in [`super::LockInfo`].
    pub fn lock_id(&self) -> String {
        format!("{}/{}", self.bucket, self.state_key)
    }
}

/// Which halves of a lock Terraform says it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockKinds {
    /// An item in a DynamoDB table.
    #[serde(rename = "dynamodb")]
    DynamoDb,
    /// An object beside the state.
    Lockfile,
    /// Both, with the same ID, the object first.
    Both,
    /// The records do not say (Terraform 1.6 to 1.9, where there is only the table): the backend's settings decide.
    Unstated,
}
