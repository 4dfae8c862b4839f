//! What can be wrong with a state, in words. None of them holds anything of the state's resources.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Flaw;
use crate::lock::LockInfo;

/// Something about a state that needs a look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Finding {
    /// There is no state, but one is expected.
    Missing,
    /// There is no state, but a digest of one.
    MissingButDigest {
        /// The digest.
        stored: String,
    },
    /// The object has no bytes.
    Empty,
    /// The object is no whole state.
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
    /// It comes after it by its serial, but the state was written after it: by somebody else. Terraform counts every
    /// failed upload, so the serial alone does not tell, and `terraform state push`, which looks at nothing else, would
    /// undo what they did.
    Overtaken,
    /// It is the very same: the upload was carried out after all.
    Same,
    /// Both have the same serial and differ: one of them is lost to the other.
    Forked,
    /// It comes before it: somebody has written the state since.
    Older,
    /// It is of another state.
    Foreign,
    /// It is not whole.
    NotWhole,
    /// The state that is there cannot be read, or one of the two not be judged.
    NothingToCompare,
}

/// Something that is good to know and needs nobody.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Note {
    /// There is no state yet.
    NoState,
    /// Somebody writes it just now.
    BeingWritten {
        /// Who.
        holder: LockInfo,
    },
    /// The format is newer than this tfguard.
    UnknownFormat {
        /// Its version.
        version: u64,
    },
    /// It is too large to be looked through.
    TooLarge {
        /// In bytes.
        limit: usize,
    },
    /// The format is older than Terraform 0.12.
    LegacyFormat {
        /// Its version.
        version: u64,
    },
    /// OpenTofu encrypted it.
    Encrypted,
    /// The table has no digest of it.
    NoDigest,
    /// The table's digest is no MD5.
    MalformedDigest,
    /// `errored.tfstate` is the state that is there.
    ErroredArrived {
        /// The file.
        #[serde(with = "crate::paths")]
        path: PathBuf,
    },
}

impl Finding {
    /// Whether the object itself is not as it should be, be its digest what it may.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        !matches!(self, Self::DigestDiffers { .. } | Self::Errored { .. })
    }
}

impl fmt::Display for Finding {
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
                "the state is empty (0 bytes). Terraform takes that for no state, and the next apply would create \
                 everything anew",
            ),
            Self::Broken { flaw } => write!(
                f,
                "the state is not whole: {flaw}. No dying Terraform leaves that, since an upload to S3 is carried out \
                 as a whole or not at all: something else wrote it"
            ),
            Self::OtherLineage { expected, found } => {
                let found = if found.is_empty() { "none" } else { found };
                write!(
                    f,
                    "another state is in its place: lineage {found}, expected {expected}. Somebody made a new one, pushed \
                     one with -force, or uses the same bucket and key for something else"
                )
            }
            Self::OlderSerial { expected, found } => {
                write!(f, "the state is older than the one that was there before: serial {found}, before {expected}")
            }
            Self::DigestDiffers { of, .. } => {
                f.write_str(
                    "it is not the state whose digest is in the table, so that every Terraform fails with \"state data in \
                     S3 does not have the expected content\". ",
                )?;
                match of {
                    Some(version) => write!(
                        f,
                        "The digest is that of the earlier version {version}: whoever wrote the present state ended \
                         before writing its digest"
                    ),
                    None => f.write_str("Most often, whoever wrote the state ended before writing its digest"),
                }
            }
            Self::Errored { path, relation, serial, modified } => {
                write!(f, "{}", path.display())?;
                match (serial, modified) {
                    (Some(serial), Some(modified)) => write!(f, " (serial {serial}, written {modified:.0})")?,
                    (Some(serial), None) => write!(f, " (serial {serial})")?,
                    (None, Some(modified)) => write!(f, " (written {modified:.0})")?,
                    (None, None) => {}
                }
                f.write_str(match relation {
                    Relation::Newer => " is a state that Terraform could not upload. It is newer than the one that is there: what it did last is only in this file",
                    Relation::Overtaken => {
                        " is a state that Terraform could not upload. By its serial it is newer than the one that is \
                         there, but that was written later, by somebody else: to push it would undo what they did"
                    }
                    Relation::Same => " is the state that is there",
                    Relation::Forked => " is a state that Terraform could not upload. The one that is there has the same serial and differs",
                    Relation::Older => " is a state that Terraform could not upload, and somebody has written the state since: what it did may be in neither of the two",
                    Relation::Foreign => " is a state that Terraform could not upload. It is of another lineage: of another workspace perhaps, or of another project",
                    Relation::NotWhole => " is a state that Terraform could not upload, and it is not whole",
                    Relation::NothingToCompare => " is a state that Terraform could not upload. It cannot be compared with the one that is there",
                })
            }
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoState => f.write_str("there is no state yet"),
            Self::BeingWritten { holder } => write!(
                f,
                "state and digest differ: the state is being written just now, by {} ({}, lock {} since {}). Look again \
                 when that lock is gone; should nobody be behind it any more, `tfguard inspect` tells",
                holder.who, holder.operation, holder.id, holder.created
            ),
            Self::UnknownFormat { version } => write!(
                f,
                "the state has format version {version}, this tfguard knows version 4: it cannot judge it. Use a newer \
                 tfguard"
            ),
            Self::TooLarge { limit } => {
                write!(f, "the state is larger than {limit} bytes: too large to be looked through")
            }
            Self::LegacyFormat { version } => write!(
                f,
                "the state has format version {version}, from before Terraform 0.12: only its JSON, lineage and serial \
                 were looked at"
            ),
            Self::Encrypted => {
                f.write_str("the state is encrypted by OpenTofu: only its digest, lineage and serial were looked at")
            }
            Self::NoDigest => f.write_str(
                "the table has no digest of the state. Terraform works without, and writes one with its next state",
            ),
            Self::MalformedDigest => f.write_str(
                "the table's digest of the state is no MD5. Terraform passes over it, and writes one with its next state",
            ),
            Self::ErroredArrived { path } => write!(
                f,
                "{} is the state that is there: its upload was carried out after all. Remove the file",
                path.display()
            ),
        }
    }
}
