//! The record beside a lock by which others see that its holder lives: it has a new version at each beat.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};

use crate::model::holder::{SCHEMA, read_record};
use crate::model::lock::{LockId, LockPlace, Subject};

/// The attribute of a lock's item that holds its lease, JSON as text. Terraform reads `LockID` and `Info` only.
pub(crate) const LEASE_ATTRIBUTE: &str = "TfguardLease";
/// No record that tfguard wrote is longer (in bytes).
pub(crate) const LARGEST: usize = 1024;

/// A lease, as it stands beside its lock. Holds no secrets, and no time of anybody's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    schema: u32,
    /// The lock. A record beside another lock is not that lock's.
    pub lock: LockId,
    /// Another one at each beat.
    pub version: LeaseVersion,
    /// For so long after a beat nobody may take the lock for a dead one's.
    length_ms: u64,
}

/// What a beat writes: a random number that no other beat has. In JSON 32 lowercase hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseVersion(pub(crate) u128);

impl From<LeaseVersion> for String {
    fn from(version: LeaseVersion) -> Self {
        format!("{:032x}", version.0)
    }
}

impl TryFrom<String> for LeaseVersion {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number = u128::from_str_radix(&text, 16).ok().map(Self);
        number.filter(|version| String::from(*version) == text).ok_or("a version has 32 lowercase hexadecimal digits")
    }
}

impl Lease {
    /// The shortest length: below it a slow request, or a machine that is busy, ends the run.
    pub const SHORTEST: Duration = Duration::from_secs(15);
    /// The longest length: it is how long a dead run's lock stays.
    pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

    /// A lease of this length, which is between [`Self::SHORTEST`] and [`Self::LONGEST`].
    pub fn new(lock: LockId, version: LeaseVersion, length: Duration) -> Self {
        Self { schema: SCHEMA, lock, version, length_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Its length.
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.length_ms)
    }

    /// As it stands beside its lock.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What was found in the place of a lock's lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Leased {
    /// Nothing: a lock without a lease is never taken for a dead one's.
    #[default]
    Nothing,
    Lease(Lease),
    /// The lease of another lock, which was there before.
    OfAnother(LockId),
    /// A record that says nothing of this lock to this tfguard, for this reason.
    Foreign(String),
}

impl Leased {
    /// Reads the JSON of a record that was found beside the lock with this ID.
    pub fn read(bytes: &[u8], lock: &str) -> Self {
        match read_record::<Lease>("the lease", bytes, LARGEST) {
            Ok(lease) if !(Lease::SHORTEST..=Lease::LONGEST).contains(&lease.length()) => {
                Self::Foreign(format!("the lease is one of {} ms, which tfguard does not give", lease.length_ms))
            }
            Ok(lease) if lease.lock.as_str() != lock => Self::OfAnother(lease.lock),
            Ok(lease) => Self::Lease(lease),
            Err(why) => Self::Foreign(why),
        }
    }

    /// Reads the attribute of an item that is the lock with this ID.
    pub(crate) fn of_attribute(attribute: Option<&AttributeValue>, lock: &str) -> Self {
        match attribute {
            None => Self::Nothing,
            Some(AttributeValue::S(text)) => Self::read(text.as_bytes(), lock),
            Some(_) => Self::Foreign("the lease is not as tfguard writes it".to_owned()),
        }
    }

    /// The lease of the very lock beside which it was found.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Lease(lease) => Some(lease),
            Self::Nothing | Self::OfAnother(_) | Self::Foreign(_) => None,
        }
    }
}

/// What is written down of the lease of one half of a lock, for whoever takes a dead supervisor's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseNote {
    pub lock: Subject,
    pub place: LockPlace,
    /// What the lease is known to be.
    #[serde(flatten)]
    pub known: Known<LeaseVersion>,
    /// The lock was lost, and is not touched any more.
    pub lost: bool,
}

/// All that a holder knows of its lease: what whoever takes over from it needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Known<V> {
    /// The last beat that is known to have landed.
    pub confirmed: Option<Beat<V>>,
    /// Those sent since, oldest first. One of them may have landed, or may yet.
    pub sent: Vec<Beat<V>>,
}

impl<V> Default for Known<V> {
    fn default() -> Self {
        Self { confirmed: None, sent: Vec::new() }
    }
}

/// A beat that was, or is about to be, sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Beat<V> {
    pub version: V,
    /// A moment before it was sent: the time since this machine was booted.
    pub at: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";
    const TEXT: &str = r#"{"schema":1,"lock":"4bb7d84c-f09d-7909-0219-02f6e8d9eeb4","version":"0000000000000000000000000000abcd","length_ms":180000}"#;

    #[test]
    fn a_lease_is_read_as_it_was_written_and_only_beside_its_lock() {
        let lease = Lease::new(ID.parse().unwrap(), LeaseVersion(0xabcd), Duration::from_secs(180));
        assert_eq!(lease.to_json(), TEXT);
        assert_eq!(Leased::read(TEXT.as_bytes(), ID), Leased::Lease(lease));
        assert_eq!(Leased::read(TEXT.as_bytes(), &ID.replace('4', "5")), Leased::OfAnother(ID.parse().unwrap()));
    }

    /// By what nobody understands no lock is ever taken away, and no run believes that it has a lease.
    #[test]
    fn what_is_no_lease_of_this_tfguard_is_foreign() {
        for strange in [
            &TEXT.replace("\"schema\":1", "\"schema\":2"),
            &TEXT.replace("\"schema\":1", "\"schema\":\"1\""),
            &TEXT.replace("\"schema\":1,", ""),
            &TEXT.replace("\"schema\":1", "\"schema\":1,\"ends\":7"),
            &TEXT.replace("abcd", "ABCD"),
            &TEXT.replace("0000abcd", "abcd"),
            &TEXT.replace("0000abcd", "+000abcd"),
            &TEXT.replace("180000", "14999"),
            &TEXT.replace("180000", "86400001"),
            &TEXT.replace("180000", "-1"),
            &TEXT.replace("180000", "18446744073709551616"),
            &TEXT.replace(ID, "not an ID"),
            &TEXT[..TEXT.len() - 1],
            "",
            "null",
            &format!("{TEXT}{}", " ".repeat(LARGEST)),
        ] {
            assert!(matches!(Leased::read(strange.as_bytes(), ID), Leased::Foreign(_)), "{strange}");
        }
    }
}
