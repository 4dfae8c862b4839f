//! A lock that is held to be the child's own.

use serde::{Deserialize, Serialize};

use crate::model::lock::{InvalidLockId, LockId, LockInfo};

/// A lock that the child said it takes, as its log records tell it.
///
/// ID, holder, operation and place are checked against the lock in the store before anything is deleted: a claim that is
/// mistaken or forged in any of them deletes nothing.
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
    /// Whether it is of a state that is being moved elsewhere.
    pub fn is_migration_source(&self) -> bool {
        self.operation == MIGRATION[0]
    }

    /// Whether it is of a place to which a state is being moved.
    pub fn is_migration_destination(&self) -> bool {
        self.operation == MIGRATION[1]
    }

    /// The claim to a lock that was found and is known to be the one that is meant: the lock of this state. Which halves it
    /// has does not stand in it.
    ///
    /// # Errors
    /// When the lock has no ID that Terraform gives.
    pub fn of_found(info: LockInfo, bucket: &str, state_key: &str) -> Result<Self, InvalidLockId> {
        Ok(Self {
            id: info.id.parse()?,
            operation: info.operation,
            who: info.who,
            version: info.version,
            bucket: bucket.to_owned(),
            state_key: state_key.to_owned(),
            kinds: LockKinds::Unstated,
        })
    }

    /// The partition key of the lock's item: `<bucket>/<state key>`, which is also `Path` in [`crate::model::lock::LockInfo`].
    pub fn lock_id(&self) -> String {
        format!("{}/{}", self.bucket, self.state_key)
    }
}

/// A lockfile that is held to be the child's own, known by its content's checksum or its ETag and not by its ID.
///
/// It deletes nothing by itself: the object is read, and if it is this one, its ID makes a [`LockClaim`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockTrace {
    /// The bucket of the state.
    pub bucket: String,
    /// The key of the state in its bucket, with the workspace's prefix.
    pub state_key: String,
    /// The SHA-256 of the object, in base64, where the log tells it.
    pub sha256: Option<String>,
    /// The ETag that the store gave the object, quotes included, once it did.
    pub etag: Option<String>,
}

impl LockTrace {
    /// Whether both are the same upload: the same object with the same checksum.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        (&self.bucket, &self.state_key, &self.sha256) == (&other.bucket, &other.state_key, &other.sha256)
    }

    /// A claim to this lockfile by which its place can be looked up. It has an ID that no lock has, so it deletes nothing.
    #[must_use]
    pub fn without_id(&self) -> LockClaim {
        LockClaim {
            id: LockId::none(),
            operation: String::new(),
            who: String::new(),
            version: String::new(),
            bucket: self.bucket.clone(),
            state_key: self.state_key.clone(),
            kinds: LockKinds::Lockfile,
        }
    }

    /// The claim to this lockfile, once the object with its content is known to be this lock.
    ///
    /// # Errors
    /// When the lock has no ID that Terraform gives.
    pub fn claim(&self, info: LockInfo) -> Result<LockClaim, InvalidLockId> {
        // Of the halves only this one is sure: OpenTofu up to 1.10 logs nothing of the table half, which has the same ID.
        LockClaim::of_found(info, &self.bucket, &self.state_key)
    }

    /// The lock's path: `<bucket>/<state key>`.
    #[must_use]
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

/// The `Operation`s of the locks under which `init` moves a state from one backend to another.
pub const MIGRATION: [&str; 2] = ["migration source state", "migration destination state"];
