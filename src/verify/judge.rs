//! From what was seen of a state to what is to be said of it. Pure.

use serde::{Deserialize, Serialize};

use super::finding::{Finding, Note, Relation};
use super::{Errored, Expected, Flaw, Format, Seen, StateObject, Version, Versions};
use crate::lock::FoundLock;

/// What is to be said of a state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// All in all.
    pub verdict: Verdict,
    /// What needs a look, what keeps the state from being used first.
    pub findings: Vec<Finding>,
    /// What is good to know and needs nobody.
    pub notes: Vec<Note>,
}

/// All in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything fits; or there is no state yet.
    Whole,
    /// State and digest differ, and somebody holds the lock: they are writing it just now.
    BeingWritten,
    /// Somebody has to look.
    NeedsALook,
    /// Its format is newer than this tfguard, or it is too large.
    Unknown,
}

/// Judges what was seen.
#[must_use]
pub fn judge(seen: &Seen, expected: &Expected) -> Judgement {
    let mut judging = Judging { seen, expected, findings: Vec::new(), notes: Vec::new(), being_written: false };
    let known = judging.content();
    if known {
        judging.digest();
        judging.errored();
    }
    let Judging { findings, notes, being_written, .. } = judging;
    let verdict = match (known, findings.is_empty(), being_written) {
        (false, ..) => Verdict::Unknown,
        (true, false, _) => Verdict::NeedsALook,
        (true, true, true) => Verdict::BeingWritten,
        (true, true, false) => Verdict::Whole,
    };
    Judgement { verdict, findings, notes }
}

/// Whether state and digest differ as far as Terraform looks at them. A writer that is at work is in between for a
/// moment, so this alone says nothing.
#[must_use]
pub fn is_at_odds(object: Option<&StateObject>, digest: Option<&str>) -> bool {
    // Terraform takes an empty object for none, and none has no MD5 that would fit.
    let md5 = object.filter(|object| object.size > 0).map(|object| object.md5.as_str());
    digest.is_some_and(|digest| Some(digest) != md5)
}

/// The newest version that could be the present one again.
#[must_use]
pub fn way_back<'a>(seen: &'a Seen, expected: &Expected) -> Option<&'a Version> {
    let Versions::Listed(versions) = &seen.versions else { return None };
    let (lineage, serial) = wanted(seen.object.as_ref(), expected);
    versions.iter().find(|version| version.is_way_back(lineage.as_deref(), serial))
}

/// Lineage and least serial of a version to go back to: what is expected, else what the present state has.
pub(super) fn wanted(object: Option<&StateObject>, expected: &Expected) -> (Option<String>, Option<u64>) {
    let present = object.and_then(|object| object.content.as_ref().ok()).and_then(|content| content.lineage());
    (expected.lineage.clone().or_else(|| present.map(str::to_owned)), expected.serial)
}

struct Judging<'a> {
    seen: &'a Seen,
    expected: &'a Expected,
    findings: Vec<Finding>,
    notes: Vec<Note>,
    being_written: bool,
}

impl Judging<'_> {
    /// Looks at the object itself. Says whether there is more to judge.
    fn content(&mut self) -> bool {
        let Some(object) = &self.seen.object else {
            if self.expected.lineage.is_some() || self.expected.serial.is_some() {
                self.findings.push(Finding::Missing);
            } else if self.seen.digest.md5().is_none() {
                self.notes.push(Note::NoState);
            }
            return true;
        };
        let content = match &object.content {
            Ok(content) => content,
            Err(Flaw::Empty) => {
                self.findings.push(Finding::Empty);
                return true;
            }
            Err(Flaw::TooLarge { limit }) => {
                self.notes.push(Note::TooLarge { limit: *limit });
                return false;
            }
            Err(flaw) => {
                self.findings.push(Finding::Broken { flaw: flaw.clone() });
                return true;
            }
        };
        match content.format {
            Format::Unknown(version) => {
                self.notes.push(Note::UnknownFormat { version });
                return false;
            }
            Format::Legacy(version) => self.notes.push(Note::LegacyFormat { version }),
            Format::Encrypted => self.notes.push(Note::Encrypted),
            Format::Current => {}
        }
        if let Some(expected) = &self.expected.lineage
            && content.lineage() != Some(expected)
        {
            self.findings.push(Finding::OtherLineage {
                expected: expected.clone(),
                found: content.lineage().unwrap_or_default().to_owned(),
            });
        } else if let Some(expected) = self.expected.serial
            && content.serial.unwrap_or_default() < expected
        {
            self.findings.push(Finding::OlderSerial { expected, found: content.serial.unwrap_or_default() });
        }
        true
    }

    fn digest(&mut self) {
        use super::StoredDigest::{Absent, Malformed, Md5, NotKept};
        let object = self.seen.object.as_ref();
        match &self.seen.digest {
            NotKept => {}
            Absent if object.is_some() => self.notes.push(Note::NoDigest),
            Absent => {}
            Malformed => self.notes.push(Note::MalformedDigest),
            Md5(stored) if !is_at_odds(object, Some(stored)) => {}
            Md5(stored) => {
                if let Some(FoundLock::Held(holder)) = &self.seen.lock {
                    self.being_written = true;
                    self.notes.push(Note::BeingWritten { holder: holder.clone() });
                    return;
                }
                match object {
                    // The lack of the object is said, be it expected or not.
                    None if self.findings.is_empty() => {
                        self.findings.push(Finding::MissingButDigest { stored: stored.clone() });
                    }
                    Some(StateObject { content: Ok(_), md5, .. }) => self.findings.push(Finding::DigestDiffers {
                        stored: stored.clone(),
                        actual: md5.clone(),
                        of: self.version_with(stored),
                    }),
                    // What is wrong with the state itself comes first; its digest follows from what becomes of it.
                    _ => {}
                }
            }
        }
    }

    /// The earlier version to which the digest belongs.
    fn version_with(&self, digest: &str) -> Option<String> {
        let Versions::Listed(versions) = &self.seen.versions else { return None };
        let found = versions.iter().find(|version| !version.latest && version.has_digest(digest));
        found.map(|version| version.id.clone())
    }

    fn errored(&mut self) {
        let Some(errored) = &self.seen.errored else { return };
        match relation(errored, self.seen.object.as_ref()) {
            Relation::Same => self.notes.push(Note::ErroredArrived { path: errored.path.clone() }),
            relation => self.findings.push(Finding::Errored {
                path: errored.path.clone(),
                relation,
                serial: errored.state.content.as_ref().ok().and_then(|content| content.serial),
                modified: errored.state.modified,
            }),
        }
    }
}

/// How what Terraform could not upload stands to what is there, by the rules of `terraform state push`
/// (`CheckValidImport` in `internal/states/statemgr/migrate.go`).
#[must_use]
pub fn relation(errored: &Errored, object: Option<&StateObject>) -> Relation {
    let left = match &errored.state.content {
        Ok(left) => left,
        Err(Flaw::TooLarge { .. }) => return Relation::NothingToCompare,
        Err(_) => return Relation::NotWhole,
    };
    let there = match object.map(|object| &object.content) {
        None | Some(Err(Flaw::Empty)) => return Relation::Newer,
        Some(Err(_)) => return Relation::NothingToCompare,
        Some(Ok(there)) => there,
    };
    if !left.is_known() {
        return Relation::NothingToCompare;
    }
    // One without lineage goes with any, as for Terraform.
    if let (Some(left), Some(there)) = (left.lineage(), there.lineage())
        && left != there
    {
        return Relation::Foreign;
    }
    match left.serial.cmp(&there.serial) {
        std::cmp::Ordering::Greater if is_later(object, errored) => Relation::Overtaken,
        std::cmp::Ordering::Greater => Relation::Newer,
        std::cmp::Ordering::Less => Relation::Older,
        std::cmp::Ordering::Equal if object.is_some_and(|object| object.md5 == errored.state.md5) => Relation::Same,
        std::cmp::Ordering::Equal => Relation::Forked,
    }
}

/// Whether the state was written after what could not be uploaded: by S3's clock and the file's, which may be this
/// machine's. They hardly differ by as much as it takes another run to begin and to write.
fn is_later(object: Option<&StateObject>, errored: &Errored) -> bool {
    let written = object.and_then(|object| object.modified);
    written.zip(errored.state.modified).is_some_and(|(written, left)| written > left)
}

#[cfg(test)]
mod tests;
