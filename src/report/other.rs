//! The account of a lock that nobody logged.

use serde::{Deserialize, Serialize};

use super::{Finding, Outcome};
use crate::lock::LockInfo;

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
    pub(super) fn is_noteworthy(&self) -> bool {
        self.outcome != OtherOutcome::Free
    }

    pub(super) fn finding(&self) -> Finding {
        let mut line = match &self.holder {
            // A stranger may have written it.
            Some(holder) => {
                let [id, operation, who, created] = [&holder.id, &holder.operation, &holder.who, &holder.created]
                    .map(|text| text.chars().take(128).collect::<String>().escape_debug().to_string());
                // Only the ID was shown.
                let by =
                    if who.is_empty() { String::new() } else { format!(" ({operation}) by {who} since {created}") };
                format!("lock {id}{by}, backend {}: ", self.backend)
            }
            None => format!("lock of the state, backend {}: ", self.backend),
        };
        let (outcome, what) = match &self.outcome {
            OtherOutcome::Free => (Outcome::Gone, "nobody has it".to_owned()),
            OtherOutcome::Released => {
                (Outcome::Released, "left by this run by all that it says, released by tfguard".to_owned())
            }
            OtherOutcome::Gone => (Outcome::Gone, "not there any more".to_owned()),
            OtherOutcome::Foreign { why } => (Outcome::Foreign, format!("somebody else's, not touched: {why}")),
            OtherOutcome::Kept => (Outcome::Kept, "left in place, as --on-death says".to_owned()),
            OtherOutcome::Left { why } => (Outcome::Left, format!("NOT released: {why}")),
            OtherOutcome::Unknown { why, .. } => {
                (Outcome::Unknown, format!("NOT known whether this run left it: {why}"))
            }
        };
        line += &what;
        Finding {
            id: self.holder.as_ref().map(|holder| holder.id.clone()),
            state: format!("backend {}", self.backend),
            outcome,
            line,
            details: Vec::new(),
            next: self.next(),
        }
    }

    /// The next step, if there is one.
    fn next(&self) -> Option<String> {
        // The unlock of this backend names no lock (OpenTofu's does since 1.10).
        let opens_any = if self.backend == "http" { " (it opens whatever lock is there then)" } else { "" };
        let sure = "once you are sure that this is the lock of this run and that nothing of it is alive";
        match &self.command {
            Some(command) => Some(format!("{sure}, run: {command}{opens_any}")),
            None if self.is_left() => {
                let (terraform, place) = match &self.terraform {
                    Some(terraform) => (terraform.as_str(), ""),
                    None => ("terraform", " in its directory"),
                };
                Some(format!(
                    "run `{terraform} plan`{place}; if that is refused the lock, {sure}, run: {terraform} force-unlock \
                     <the ID it shows>{opens_any}"
                ))
            }
            None => None,
        }
    }
}
