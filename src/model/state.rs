//! A state that a Terraform died over, and what can be wrong with one.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    pub fn needs_a_look(&self) -> bool {
        !self.findings.is_empty()
    }

    /// Whether both are about the same state.
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

/// Why some bytes are no state. Shows nothing of them, since a state can hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Flaw {
    /// No bytes at all.
    #[error("it is empty (0 bytes)")]
    Empty,
    /// The JSON ends in the midst of a value.
    #[error("it is cut off after {bytes} bytes")]
    CutOff { bytes: usize },
    /// Not JSON.
    #[error("it isn't JSON (line {line}, column {column})")]
    NoJson { line: usize, column: usize },
    /// JSON, but not what Terraform writes.
    #[error("it is JSON, but not a state: {reason}")]
    NoState { reason: String },
    /// Of another format version: of Terraform before 0.12, or newer than this tfguard.
    #[error("it has format version {version}, this tfguard knows version 4")]
    OtherVersion { version: u64 },
    /// Larger than any state tfguard is made for.
    #[error("it is larger than {limit} bytes, too large to be read")]
    TooLarge { limit: usize },
    /// A file that could not be read.
    #[error("it cannot be read: {why}")]
    Unreadable { why: String },
}

impl Flaw {
    /// It says nothing against the state: tfguard cannot judge it.
    pub fn is_beyond_us(&self) -> bool {
        matches!(self, Self::OtherVersion { .. } | Self::TooLarge { .. } | Self::Unreadable { .. })
    }
}

/// All in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateVerdict {
    /// Everything fits; or there is no state yet.
    Whole,
    /// State and digest differ, and somebody holds the lock: they are writing it just now.
    BeingWritten,
    /// Somebody has to look.
    NeedsALook,
    /// Its format is not version 4, or it is too large.
    Unknown,
}

/// Something about a state that needs a look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StateFinding {
    /// There is no state, but one is expected.
    Missing,
    /// There is no state, but a digest of one.
    MissingButDigest { stored: String },
    /// The object has no bytes.
    Empty,
    /// The object is not a whole state.
    Broken { flaw: Flaw },
    /// It is another state than expected.
    OtherLineage {
        expected: String,
        /// The lineage that it has; empty if none.
        found: String,
    },
    /// It is older than what was there before.
    OlderSerial { expected: u64, found: u64 },
    /// The table has the digest of another state.
    DigestDiffers {
        stored: String,
        actual: String,
        /// The earlier version of the object that has the digest in the table.
        of: Option<String>,
    },
    /// There is a state that Terraform could not upload.
    Errored {
        #[serde(with = "crate::paths")]
        path: PathBuf,
        relation: Relation,
        serial: Option<u64>,
        modified: Option<Timestamp>,
    },
}

/// How `errored.tfstate` stands to the state that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// It comes after it, and nothing was written since.
    Newer,
    /// Somebody has written the state since.
    Overtaken,
    /// It is of another state.
    Foreign,
    /// It is not whole.
    NotWhole,
    /// One of the two cannot be read or judged.
    NothingToCompare,
}

impl fmt::Display for StateFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => {
                f.write_str("there is no state, but one is expected: the next apply would create everything anew")
            }
            Self::MissingButDigest { stored } => write!(
                f,
                "there is no state, but the table has the digest of one ({stored}): it was removed, and Terraform \
                 refuses to go on"
            ),
            Self::Empty => f.write_str(
                "the state is empty (0 bytes), which Terraform takes for a missing one: the next apply would create \
                 everything anew",
            ),
            Self::Broken { flaw } => write!(
                f,
                "the state is not whole: {flaw}. A dying Terraform does not leave that, since S3 takes an upload as a \
                 whole or not at all: something else wrote it"
            ),
            Self::OtherLineage { expected, found } => write!(
                f,
                "another state is in its place: lineage {}, expected {expected}",
                if found.is_empty() { "none" } else { found }
            ),
            Self::OlderSerial { expected, found } => {
                write!(f, "the state is older than the one that was there before: serial {found}, before {expected}")
            }
            Self::DigestDiffers { of, .. } => {
                f.write_str(
                    "it is not the state whose digest is in the table, so that every Terraform fails with \"state data in \
                     S3 does not have the expected content\"",
                )?;
                match of {
                    Some(of) => write!(f, ": whoever wrote it after version {of} ended before writing its digest"),
                    None => Ok(()),
                }
            }
            Self::Errored { path, relation, serial, modified } => {
                let serial = serial.map(|serial| format!(", serial {serial}")).unwrap_or_default();
                let written = modified.map(|modified| format!(", written {modified:.0}")).unwrap_or_default();
                write!(f, "{}{serial}{written}, is a state that Terraform could not upload", path.display())?;
                f.write_str(match relation {
                    Relation::Newer => ". It is newer than the one that is there: what Terraform did last is only in this file",
                    Relation::Overtaken => {
                        ". Somebody has written the state since: a push would undo that, and Terraform does not always \
                         refuse it"
                    }
                    Relation::Foreign => ". It is of another lineage: of another workspace, or of a first apply while somebody else wrote the first state",
                    Relation::NotWhole => ", and it is not whole",
                    Relation::NothingToCompare => ". It cannot be compared with the one that is there",
                })
            }
        }
    }
}
