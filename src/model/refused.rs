//! The account of a lock that somebody else has, which is why Terraform did not get it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::holder::Holder;
use crate::model::lock::LockInfo;
use crate::model::verdict::Liveness;

/// The lock that Terraform was refused, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedLock {
    /// The lock's ID.
    pub id: String,
    /// The lock as its holder wrote it, as far as it could be seen.
    pub lock: Option<LockInfo>,
    /// The run that holds it, by the record beside the lock or a journal on this machine.
    pub holder: Option<Holder>,
    /// Whether that lives.
    #[serde(flatten)]
    pub verdict: Liveness,
    /// Nothing was in the lock's place any more when it was looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub free: bool,
    /// When all this was found out.
    pub at: Timestamp,
    /// The next step.
    pub next: String,
}
