//! The account of a lock that somebody else has, which is why Terraform did not get it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Finding, Outcome};
use crate::commands::{printable, printable_whole};
use crate::holder::{Holder, Liveness};
use crate::lock::LockInfo;
use crate::run::describe;

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

impl RefusedLock {
    /// A stranger may have written the lock and the record.
    pub(super) fn finding(&self) -> Finding {
        let holder = self.holder.as_ref().map(|holder| printable(&format!("held by {holder}")));
        Finding {
            id: Some(self.id.clone()),
            state: self.lock.as_ref().map(|lock| lock.path.clone()).unwrap_or_default(),
            outcome: Outcome::Foreign,
            line: self.lock_line(),
            details: holder.into_iter().chain((!self.free).then(|| printable(&self.verdict.to_string()))).collect(),
            next: Some(printable_whole(&self.next)),
        }
    }

    fn lock_line(&self) -> String {
        let shown = |text: &str| printable(&text.chars().take(200).collect::<String>());
        let Some(lock) = &self.lock else {
            return format!("the state is locked: lock {}; who has it could not be seen", shown(&self.id));
        };
        let since = match lock.created.parse::<Timestamp>() {
            Ok(created) => {
                let age = self.at.duration_since(created).try_into().unwrap_or_default();
                format!("{} ({} ago)", created.strftime("%Y-%m-%d %H:%M:%S UTC"), describe_age(age))
            }
            Err(_) => shown(&lock.created),
        };
        format!(
            "the state {} {} locked by {} since {since} for {} (version {}): lock {}",
            shown(&lock.path),
            if self.free { "was" } else { "is" },
            shown(&lock.who),
            operation(&shown(&lock.operation)),
            shown(&lock.version),
            shown(&self.id)
        )
    }
}

/// What Terraform calls `OperationTypeApply` (`internal/backend/backendrun/operationtype_string.go`), in plain words.
fn operation(operation: &str) -> &str {
    match operation {
        "OperationTypePlan" => "a plan",
        "OperationTypeApply" => "an apply",
        "OperationTypeRefresh" => "a refresh",
        other => other,
    }
}

fn describe_age(age: Duration) -> String {
    match age.as_secs() / (24 * 3600) {
        0 | 1 => describe(Duration::from_secs(age.as_secs())),
        days => format!("{days} days"),
    }
}
