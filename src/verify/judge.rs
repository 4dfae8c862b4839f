//! From what was seen of a state to what is to be said of it. Pure. Nothing of the state's resources is said.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Errored, Expected, Flaw, Held, Seen, StateObject};
use crate::lock::FoundLock;

/// What is to be said of a state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// All in all.
    pub verdict: StateVerdict,
    /// What needs a look, what keeps the state from being used first.
    pub findings: Vec<StateFinding>,
    /// What is good to know and needs nobody.
    pub notes: Vec<String>,
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

/// Judges what was seen.
#[must_use]
pub fn judge(seen: &Seen, expected: &Expected) -> Judgement {
    let mut judgement = Judgement { verdict: StateVerdict::Whole, findings: Vec::new(), notes: Vec::new() };
    let Judgement { verdict, findings, notes } = &mut judgement;
    match seen.object.as_ref().map(|object| &object.content) {
        None if *expected == Expected::default() => {}
        None => findings.push(StateFinding::Missing),
        Some(Err(Flaw::Empty)) => findings.push(StateFinding::Empty),
        Some(Err(flaw)) if flaw.is_beyond_us() => {
            *verdict = StateVerdict::Unknown;
            notes.push(format!("the state cannot be judged: {flaw}"));
            return judgement;
        }
        Some(Err(flaw)) => findings.push(StateFinding::Broken { flaw: flaw.clone() }),
        Some(Ok(content)) if expected.is_met(content) => {}
        Some(Ok(content)) => findings.push(match (&expected.lineage, expected.serial) {
            (lineage, Some(serial)) if lineage.as_ref().is_none_or(|lineage| *lineage == content.lineage) => {
                StateFinding::OlderSerial { expected: serial, found: content.serial }
            }
            (lineage, _) => {
                StateFinding::OtherLineage { expected: lineage.clone().unwrap_or_default(), found: content.lineage.clone() }
            }
        }),
    }
    if let Some(stored) = seen.digest.md5().filter(|stored| is_at_odds(seen.object.as_ref(), Some(stored))) {
        let stored = stored.to_owned();
        match (&seen.lock, &seen.object) {
            (Some(lock), _) if lock.may_be_alive() => {
                *verdict = StateVerdict::BeingWritten;
                notes.push(format!(
                    "state and digest differ: it is being written just now, by {lock}. Look again when that lock is gone; \
                     `tfguard inspect` tells whether anybody is behind it"
                ));
            }
            (_, None) if findings.is_empty() => findings.push(StateFinding::MissingButDigest { stored }),
            (_, Some(StateObject { content: Ok(_), md5: actual, .. })) => {
                let of = seen.earlier.as_ref().filter(|earlier| earlier.md5 == stored);
                let of = of.and_then(|earlier| earlier.version.clone());
                findings.push(StateFinding::DigestDiffers { stored, actual: actual.clone(), of });
            }
            // What is wrong with the state itself comes first; its digest follows from what becomes of it.
            _ => {}
        }
    }
    if let Some(errored) = &seen.errored {
        match relation(&errored.state, seen.object.as_ref()) {
            Some(relation) => findings.push(StateFinding::errored(errored, relation)),
            None => notes.push(format!(
                "{} has the content of the state that is there: it needs nobody, and can be moved away",
                errored.path.display()
            )),
        }
    }
    if !findings.is_empty() {
        *verdict = StateVerdict::NeedsALook;
    }
    judgement
}

/// Whether state and digest differ as far as Terraform looks at them. A writer that is at work is in between for a
/// moment, so this alone says nothing.
#[must_use]
pub fn is_at_odds(object: Option<&StateObject>, digest: Option<&str>) -> bool {
    // Terraform takes an empty object for none, and none has no MD5 that would fit.
    let md5 = object.filter(|object| object.size > 0).map(|object| object.md5.as_str());
    digest.is_some_and(|digest| Some(digest) != md5)
}

/// How what Terraform could not upload stands to what is there; None if both have the same content, since it was uploaded
/// after all, or pushed.
///
/// `terraform state push` refuses another lineage, a lower serial, and other content of the same serial
/// (`CheckValidImport` in `internal/states/statemgr/migrate.go`). Where one of the two has no lineage it refuses nothing.
#[must_use]
pub fn relation(errored: &StateObject, object: Option<&StateObject>) -> Option<Relation> {
    let left = match &errored.content {
        Ok(left) => left,
        Err(flaw) if flaw.is_beyond_us() => return Some(Relation::NothingToCompare),
        Err(_) => return Some(Relation::NotWhole),
    };
    let Some(object) = object.filter(|object| object.size > 0) else { return Some(Relation::Newer) };
    let Ok(there) = &object.content else { return Some(Relation::NothingToCompare) };
    // Terraform counts every upload that fails, so the serial alone does not tell who was later. S3's clock and that of
    // the file hardly differ by as much as it takes another run to begin and to write.
    let written_later = object.modified.zip(errored.modified).is_some_and(|(written, left)| written > left);
    if errored.md5 == object.md5 || (left.body.is_some() && left.body == there.body) {
        // Whatever lineage and serial: `state push` raises the serial, and where there is no state it makes a lineage.
        return None;
    }
    Some(match (left.lineage.as_str(), there.lineage.as_str()) {
        // Of a first apply, which could not even read that there was no state.
        ("", there) if !there.is_empty() => Relation::Overtaken,
        (left, there) if left != there && !there.is_empty() => Relation::Foreign,
        _ if left.serial > there.serial && !written_later => Relation::Newer,
        _ => Relation::Overtaken,
    })
}

/// Who has a lock.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lock {
            FoundLock::Held(info) => {
                write!(f, "{} ({}, lock {} since {})", info.who, info.operation, info.id, info.created)
            }
            FoundLock::Malformed(_) => f.write_str("something that isn't a lock"),
        }
    }
}

impl StateFinding {
    /// Of what Terraform could not upload.
    #[must_use]
    pub fn errored(errored: &Errored, relation: Relation) -> Self {
        let Errored { path, state } = errored;
        let serial = state.content.as_ref().ok().map(|content| content.serial);
        Self::Errored { path: path.clone(), relation, serial, modified: state.modified }
    }

    /// Whether the object itself is not as it should be, be its digest what it may.
    #[must_use]
    pub fn is_about_object(&self) -> bool {
        !matches!(self, Self::DigestDiffers { .. } | Self::Errored { .. })
    }
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

#[cfg(test)]
mod tests;
