//! What Terraform writes into a lock.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::model::claim::LockClaim;

/// The ID of a lock of the S3 backend: 32 lowercase hexadecimal digits, grouped 8-4-4-4-12.
///
/// It is shaped like a UUID but is none (its version digit is random), so no UUID parser is used. The shape is
/// checked, because the ID becomes part of a condition and of a command that people are told to run.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LockId(String);

/// The text is no [`LockId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no lock ID: one has 32 lowercase hexadecimal digits, grouped 8-4-4-4-12 by hyphens")]
pub struct InvalidLockId(String);

impl LockId {
    /// An ID that no lock has.
    pub(crate) fn none() -> Self {
        Self("00000000-0000-0000-0000-000000000000".to_owned())
    }

    /// The ID as Terraform writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LockId {
    type Err = InvalidLockId;

    fn from_str(text: &str) -> Result<Self, InvalidLockId> {
        let bytes = text.as_bytes();
        let shaped = bytes.len() == 36
            && bytes.iter().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        if shaped {
            Ok(Self(text.to_owned()))
        } else {
            // Shortened, because hostile log text ends here.
            Err(InvalidLockId(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for LockId {
    type Error = InvalidLockId;

    fn try_from(text: String) -> Result<Self, InvalidLockId> {
        text.parse()
    }
}

impl From<LockId> for String {
    fn from(id: LockId) -> Self {
        id.0
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Terraform's `LockInfo`: the JSON in the `Info` attribute of a DynamoDB item and in the body of a lockfile.
///
/// Fields and their order are those of `internal/states/statemgr/locker.go` (Terraform 0.12 to 1.15, OpenTofu alike).
/// Unknown fields are ignored and missing ones are empty, but for the ID, without which it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LockInfo {
    /// The lock's ID. Not a `LockId`, because other tools write locks too.
    #[serde(rename = "ID")]
    pub id: String,
    /// What the holder is doing, for instance `OperationTypeApply` or `state-mv`.
    #[serde(default)]
    pub operation: String,
    /// Free text; Terraform leaves it empty on the S3 backend.
    #[serde(default)]
    pub info: String,
    /// `user@host` of the holder; the user may be empty.
    #[serde(default)]
    pub who: String,
    /// The version of the Terraform or OpenTofu that took the lock.
    #[serde(default)]
    pub version: String,
    /// When the holder *began* to ask for the lock, by its own clock: RFC 3339, up to nine fractional digits, UTC.
    #[serde(default)]
    pub created: String,
    /// `<bucket>/<state key>`.
    #[serde(default)]
    pub path: String,
}

impl LockInfo {
    /// Parses the JSON of a lock.
    ///
    /// # Errors
    /// When it is no JSON object with a string `ID` and strings in the other known fields.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Whether this is the lock that is claimed: ID, `Who` and `Operation` are all equal.
    pub fn is_of(&self, claim: &LockClaim) -> bool {
        self.id == claim.id.as_str() && self.who == claim.who && self.operation == claim.operation
    }
}

/// A lock as it was found in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundLock {
    /// A lock with a holder.
    Held(LockInfo),
    /// Something that is no lock by Terraform's format, yet blocks everybody as one: its text, shortened. Empty for a
    /// lockfile without a byte and for an item without `Info`.
    Malformed(String),
}

impl FoundLock {
    pub(crate) const SHOWN: usize = 1024;

    /// Reads the JSON of a lock; what is none is kept as text.
    pub fn read(bytes: &[u8]) -> Self {
        match LockInfo::parse(bytes) {
            Ok(info) => Self::Held(info),
            Err(_) => {
                let shown = &bytes[..bytes.len().min(Self::SHOWN)];
                Self::Malformed(String::from_utf8_lossy(shown).into_owned())
            }
        }
    }

    /// Whether this is the lock that is claimed.
    pub fn is_of(&self, claim: &LockClaim) -> bool {
        matches!(self, Self::Held(info) if info.is_of(claim))
    }
}

/// How far the clock may have been set between two looks at it, by a time service for instance.
pub const CLOCK_SLACK: SignedDuration = SignedDuration::from_mins(2);

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = r#"{"ID":"4bb7d84c-f09d-7909-0219-02f6e8d9eeb4","Operation":"OperationTypeApply","Info":"","Who":"root@vm","Version":"1.11.4","Created":"2026-11-20T04:11:21.810982632Z","Path":"tfstate/ddb/terraform.tfstate"}"#;

    #[test]
    fn a_lock_survives_parsing_and_writing_byte_for_byte() {
        let info = LockInfo::parse(REAL.as_bytes()).unwrap();
        assert_eq!(info.who, "root@vm");
        assert_eq!(serde_json::to_string(&info).unwrap(), REAL);
    }

    #[test]
    fn unknown_and_missing_fields_are_tolerated_but_not_a_missing_id() {
        let info = LockInfo::parse(br#"{"ID":"x","Lease":{"n":1},"Who":"a@b"}"#).unwrap();
        assert_eq!((info.id.as_str(), info.who.as_str(), info.created.as_str()), ("x", "a@b", ""));
        assert!(LockInfo::parse(br#"{"Who":"a@b"}"#).is_err());
    }

    #[test]
    fn what_is_no_lock_is_kept_as_text() {
        for text in ["", "null", "[]", "{\"ID\":7}", "<Error>", &REAL[..REAL.len() - 1]] {
            assert_eq!(FoundLock::read(text.as_bytes()), FoundLock::Malformed(text.to_owned()));
        }
        let FoundLock::Malformed(shown) = FoundLock::read(&[0xff; 100_000]) else { panic!() };
        assert_eq!(shown.chars().count(), FoundLock::SHOWN);
    }

    #[test]
    fn only_the_exact_shape_is_an_id() {
        let good = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";
        assert_eq!(good.parse::<LockId>().unwrap().to_string(), good);
        for bad in [
            "",
            "4bb7d84cf09d7909021902f6e8d9eeb4",
            "4BB7D84C-f09d-7909-0219-02f6e8d9eeb4",
            "4bb7d84c-f09d-7909-0219-02f6e8d9eeb",
            "4bb7d84c-f09d-7909-0219-02f6e8d9eeb44",
            "4bb7d84c-f09d-7909-0219-02f6e8d9ee\"4",
            "4bb7d84c-f09d-7909-0219-02f6e8d9ee\u{e4}",
            "4bb7d84-cf09d-7909-0219-02f6e8d9eeb4",
        ] {
            assert!(bad.parse::<LockId>().is_err(), "{bad}");
            assert!(serde_json::from_value::<LockId>(bad.into()).is_err(), "{bad}");
        }
    }
}
