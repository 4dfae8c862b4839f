//! Locks as Terraform writes them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::{Deserialize, Serialize};

/// Terraform's lock in its own field order (terraform: internal/states/statemgr/locker.go).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LockInfo {
    #[serde(rename = "ID")]
    pub id: String,
    pub operation: String,
    pub info: String,
    pub who: String,
    pub version: String,
    pub created: String,
    pub path: String,
}

impl LockInfo {
    /// The lock of somebody else's apply. `path` is the lock's `bucket/key`. The lock of each path has another ID, so
    /// that tests that run side by side do not take it for theirs.
    pub fn foreign(path: &str) -> Self {
        let mut hash = DefaultHasher::new();
        path.hash(&mut hash);
        Self {
            id: format!("5f0c1b8e-93a7-2d64-1e0f-{:012x}", hash.finish() >> 16),
            operation: "OperationTypeApply".to_owned(),
            info: String::new(),
            who: "runner@build-7f9c4".to_owned(),
            version: "1.11.4".to_owned(),
            created: "2026-03-04T05:06:07.890123456Z".to_owned(),
            path: path.to_owned(),
        }
    }

    /// As Terraform writes it.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("strings can be written as JSON")
    }
}
