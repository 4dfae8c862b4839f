//! What can be wrong with a state.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Why some bytes are no state. Shows nothing of them, since a state can hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Flaw {
    /// No bytes at all.
    #[error("it is empty (0 bytes)")]
    Empty,
    /// The JSON ends in the midst of a value.
    #[error("it is cut off after {bytes} bytes")]
    CutOff {
        /// Its length.
        bytes: usize,
    },
    /// Not JSON.
    #[error("it isn't JSON (line {line}, column {column})")]
    NoJson {
        /// Where it ceases to be.
        line: usize,
        /// Where it ceases to be.
        column: usize,
    },
    /// JSON, but not what Terraform writes.
    #[error("it is JSON, but not a state: {reason}")]
    NoState {
        /// What is missing or has an unexpected type.
        reason: String,
    },
    /// Of another format version: of Terraform before 0.12, or newer than this tfguard.
    #[error("it has format version {version}, this tfguard knows version 4")]
    OtherVersion {
        /// Its version.
        version: u64,
    },
    /// Larger than any state tfguard is made for.
    #[error("it is larger than {limit} bytes, too large to be read")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// A file that could not be read.
    #[error("it cannot be read: {why}")]
    Unreadable {
        /// Why.
        why: String,
    },
}

impl Flaw {
    /// It says nothing against the state: tfguard cannot judge it.
    #[must_use]
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
    MissingButDigest {
        /// The digest.
        stored: String,
    },
    /// The object has no bytes.
    Empty,
    /// The object is not a whole state.
    Broken {
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// It is another state than expected.
    OtherLineage {
        /// The lineage that was expected.
        expected: String,
        /// The lineage that it has; empty if none.
        found: String,
    },
    /// It is older than what was there before.
    OlderSerial {
        /// The serial that was there before.
        expected: u64,
        /// The serial that it has.
        found: u64,
    },
    /// The table has the digest of another state.
    DigestDiffers {
        /// The digest in the table.
        stored: String,
        /// The digest of the state.
        actual: String,
        /// The earlier version of the object that has the digest in the table.
        of: Option<String>,
    },
    /// There is a state that Terraform could not upload.
    Errored {
        /// The file.
        #[serde(with = "crate::paths")]
        path: PathBuf,
        /// How it stands to the state.
        relation: Relation,
        /// Its serial, if it is whole.
        serial: Option<u64>,
        /// When it was written.
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
                "the state is empty (0 bytes), which Terraform takes for none: the next apply would create everything anew",
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
