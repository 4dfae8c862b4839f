//! From what was seen of a state to what is to be said of it. Pure. Nothing of the state's resources is said.

use std::fmt;

use serde::Serialize;

use crate::model::{Flaw, FoundLock, Relation, StateFinding, StateVerdict};
use crate::state::seen::{Errored, Expected, Held, Seen, StateObject};

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

/// Judges what was seen.
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
            (lineage, _) => StateFinding::OtherLineage {
                expected: lineage.clone().unwrap_or_default(),
                found: content.lineage.clone(),
            },
        }),
    }
    if let Some(stored) = seen.digest.md5().filter(|stored| is_at_odds(seen.object.as_ref(), Some(stored))) {
        let stored = stored.to_owned();
        match (&seen.lock, &seen.object) {
            (Some(lock), _) if lock.may_be_alive() => {
                *verdict = StateVerdict::BeingWritten;
                notes.push(format!(
                    "state and digest differ: it is being written just now, by {lock}. Look again when that lock is gone; \
                     `tfguard inspect` tells whether its holder is alive"
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
    /// A state that Terraform could not upload.
    pub fn errored(errored: &Errored, relation: Relation) -> Self {
        let Errored { path, state } = errored;
        let serial = state.content.as_ref().ok().map(|content| content.serial);
        Self::Errored { path: path.clone(), relation, serial, modified: state.modified }
    }
}

#[cfg(test)]
mod tests;
