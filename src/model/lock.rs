//! A lock: what Terraform writes into it, where it lives, and what the child's log says of it.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use jiff::SignedDuration;
use regex_lite::Regex;
use serde::{Deserialize, Serialize};

/// The ID of a lock of the S3 backend: 32 lowercase hexadecimal digits, grouped 8-4-4-4-12.
///
/// It is shaped like a UUID but is none (its version digit is random), so no UUID parser is used. The shape is
/// checked, because the ID becomes part of a condition and of a command that people are told to run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct LockId(String);

/// The text is no [`LockId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a lock ID: one has 32 lowercase hexadecimal digits, grouped 8-4-4-4-12 by hyphens")]
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
        static SHAPE: LazyLock<Regex> =
            LazyLock::new(|| Regex::new("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$").expect("a pattern"));
        if SHAPE.is_match(text) {
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

impl fmt::Display for LockId {
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
    /// When it isn't a JSON object with a string `ID` and strings in the other known fields.
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

/// A lock that the child said it takes, as its log records tell it.
///
/// ID, holder, operation and place are checked against the lock in the store before anything is deleted: a claim that is
/// mistaken or forged in any of them deletes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockClaim {
    pub id: LockId,
    /// What the child took it for, for instance `OperationTypeApply`.
    pub operation: String,
    /// `user@host`, as Terraform writes it.
    pub who: String,
    /// Terraform's version.
    pub version: String,
    /// The bucket of the state.
    pub bucket: String,
    /// The key of the state in its bucket, with the workspace's prefix.
    pub state_key: String,
    /// Which halves of the lock were asked for.
    pub kinds: LockKinds,
}

impl LockClaim {
    /// Whether it is of a state that is being moved elsewhere.
    pub fn is_migration_source(&self) -> bool {
        self.operation == MIGRATION[0]
    }

    /// Whether it is of a place to which a state is being moved.
    pub fn is_migration_destination(&self) -> bool {
        self.operation == MIGRATION[1]
    }

    /// The claim to a lock that was found and is known to be the one that is meant: the lock of this state. Which halves it
    /// has does not stand in it.
    ///
    /// # Errors
    /// When the lock has no ID that Terraform gives.
    pub fn of_found(info: LockInfo, bucket: &str, state_key: &str) -> Result<Self, InvalidLockId> {
        Ok(Self {
            id: info.id.parse()?,
            operation: info.operation,
            who: info.who,
            version: info.version,
            bucket: bucket.to_owned(),
            state_key: state_key.to_owned(),
            kinds: LockKinds::Unstated,
        })
    }

    /// The partition key of the lock's item: `<bucket>/<state key>`, which is also `Path` in [`crate::model::lock::LockInfo`].
    pub fn lock_id(&self) -> String {
        format!("{}/{}", self.bucket, self.state_key)
    }
}

/// The bucket and the state key in the path of a lock. The ARN of an access point, which can stand for a bucket, has a slash of
/// its own, or several (S3 on Outposts).
pub fn bucket_and_key(path: &str) -> Option<(&str, &str)> {
    static POINT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("^arn:[^/]+:(?:outpost/[^/]+/)?accesspoint/").expect("a pattern"));
    let name = POINT.find(path).map_or(0, |point| point.end());
    let slash = name + path[name..].find('/')?;
    Some((&path[..slash], &path[slash + 1..]))
}

/// A lockfile that is held to be the child's own, known by its content's checksum or its ETag and not by its ID.
///
/// It deletes nothing by itself: the object is read, and if it is this one, its ID makes a [`LockClaim`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockTrace {
    /// The bucket of the state.
    pub bucket: String,
    /// The key of the state in its bucket, with the workspace's prefix.
    pub state_key: String,
    /// The SHA-256 of the object, in base64, where the log tells it.
    pub sha256: Option<String>,
    /// The ETag that the store gave the object, quotes included, once it did.
    pub etag: Option<String>,
}

impl LockTrace {
    /// Whether both are the same upload: the same object with the same checksum.
    pub fn is_of(&self, other: &Self) -> bool {
        (&self.bucket, &self.state_key, &self.sha256) == (&other.bucket, &other.state_key, &other.sha256)
    }

    /// A claim to this lockfile by which its place can be looked up. It has an ID that no lock has, so it deletes nothing.
    pub fn without_id(&self) -> LockClaim {
        LockClaim {
            id: LockId::none(),
            operation: String::new(),
            who: String::new(),
            version: String::new(),
            bucket: self.bucket.clone(),
            state_key: self.state_key.clone(),
            kinds: LockKinds::Lockfile,
        }
    }

    /// The claim to this lockfile, once the object with its content is known to be this lock.
    ///
    /// # Errors
    /// When the lock has no ID that Terraform gives.
    pub fn claim(&self, info: LockInfo) -> Result<LockClaim, InvalidLockId> {
        // Of the halves only this one is sure: OpenTofu up to 1.10 logs nothing of the table half, which has the same ID.
        LockClaim::of_found(info, &self.bucket, &self.state_key)
    }

    /// The lock's path: `<bucket>/<state key>`.
    pub fn lock_id(&self) -> String {
        format!("{}/{}", self.bucket, self.state_key)
    }
}

/// A lock of the child, by what its log tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    Lock(LockClaim),
    /// A lockfile that the log tells of without its ID.
    Trace(LockTrace),
}

impl Subject {
    /// Whether both are the same lock, however much was known of it.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lock(lock), Self::Lock(other)) => lock == other,
            (Self::Trace(trace), Self::Trace(other)) => trace.is_of(other),
            _ => false,
        }
    }

    /// Whether both may be the same lock, of which the log tells twice: with DEBUG, a lockfile by its record and by its upload.
    pub fn may_be_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lock(lock), Self::Trace(trace)) | (Self::Trace(trace), Self::Lock(lock)) => {
                trace.lock_id() == lock.lock_id()
            }
            _ => self.is(other),
        }
    }

    /// Whether the log tells only that it was asked for: Terraform 1.6 to 1.9.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Lock(claim) if claim.kinds == LockKinds::Unstated)
    }

    /// Whether it may be the claimed lock.
    pub fn may_be(&self, claim: &LockClaim) -> bool {
        match self {
            Self::Lock(lock) => lock == claim,
            Self::Trace(trace) => trace.lock_id() == claim.lock_id(),
        }
    }

    /// A claim by which its place can be looked up.
    pub fn claim(&self) -> LockClaim {
        match self {
            Self::Lock(claim) => claim.clone(),
            Self::Trace(trace) => trace.without_id(),
        }
    }
}

/// Which halves of a lock Terraform says it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockKinds {
    /// An item in a DynamoDB table.
    #[serde(rename = "dynamodb")]
    DynamoDb,
    /// An object beside the state.
    Lockfile,
    /// Both, with the same ID, the object first.
    Both,
    /// The records do not say (Terraform 1.6 to 1.9, where there is only the table): the backend's settings decide.
    Unstated,
}

/// The `Operation`s of the locks under which `init` moves a state from one backend to another.
pub const MIGRATION: [&str; 2] = ["migration source state", "migration destination state"];

/// How far a lock has come in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The request that takes it was about to be sent. All that Terraform 1.6 to 1.9 tell.
    Attempted,
    /// It is taken.
    Held,
    /// The request that releases it was about to be sent.
    Unlocking,
    /// It is released.
    Unlocked,
}

impl Stage {
    /// Whether Terraform has done under this lock what it took it for.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Unlocking | Self::Unlocked)
    }
}

/// One lock of this session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What Terraform said about it.
    pub claim: LockClaim,
    /// How far it has come.
    pub stage: Stage,
    /// How sure it is that the lock is the child's own.
    pub grade: Grade,
}

/// A lockfile of this session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// By what it is known.
    #[serde(flatten)]
    pub trace: LockTrace,
    /// How far it has come.
    pub stage: Stage,
}

/// How sure it is that a lock is the child's own, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// The lock itself: it was not there before the child started, and all it says fits the child.
    Item,
    /// A DEBUG record of the very request that took the lock, or of its checksum.
    Request,
    /// An INFO record in which Terraform names the ID of the lock it takes.
    Record,
}

/// Where one half of a lock lives. Holds no secret, so it may go into the journal, messages and reports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LockPlace {
    /// An item in a DynamoDB table.
    #[serde(rename = "dynamodb")]
    DynamoDb {
        table: String,
        /// The partition key `LockID` of the item: `<bucket>/<state key>`.
        lock_id: String,
        region: String,
        /// The endpoint, where it is not that of AWS for the region.
        endpoint: Option<String>,
    },
    /// An object beside the state.
    Lockfile {
        bucket: String,
        /// The object's key: `<state key>.tflock`.
        key: String,
        region: String,
        /// The endpoint, where it is not that of AWS for the region.
        endpoint: Option<String>,
    },
}

impl fmt::Display for LockPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, region) = match self {
            Self::DynamoDb { table, lock_id, region, endpoint } => {
                write!(f, "item {lock_id} of DynamoDB table {table}")?;
                (endpoint, region)
            }
            Self::Lockfile { bucket, key, region, endpoint } => {
                write!(f, "object s3://{bucket}/{key}")?;
                (endpoint, region)
            }
        };
        match endpoint {
            Some(endpoint) => write!(f, " ({region}, {endpoint})"),
            None => write!(f, " ({region})"),
        }
    }
}

/// Terraform's suffix of a lockfile: `lockFileSuffix` in its S3 client.
pub(crate) const LOCKFILE_SUFFIX: &str = ".tflock";
/// What tfguard puts behind a lockfile's key for the object that holds its lease.
pub(crate) const LEASE_SUFFIX: &str = ".lease";

/// The key of the lockfile beside a state.
pub(crate) fn lockfile_key(state_key: &str) -> String {
    format!("{state_key}{LOCKFILE_SUFFIX}")
}

#[cfg(test)]
impl LockClaim {
    /// A lock for tests, in the bucket `b`.
    pub(crate) fn example(state_key: &str, kinds: LockKinds) -> Self {
        Self {
            id: "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4".parse().unwrap(),
            operation: "OperationTypeApply".to_owned(),
            who: "root@vm".to_owned(),
            version: "1.11.4".to_owned(),
            bucket: "b".to_owned(),
            state_key: state_key.to_owned(),
            kinds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = r#"{"ID":"4bb7d84c-f09d-7909-0219-02f6e8d9eeb4","Operation":"OperationTypeApply","Info":"","Who":"root@vm","Version":"1.11.4","Created":"2026-11-20T04:11:21.810982632Z","Path":"tfstate/ddb/terraform.tfstate"}"#;

    #[test]
    fn a_bucket_can_be_the_arn_of_an_access_point() {
        let point = "arn:aws:s3:eu-west-1:1:accesspoint/x";
        let outpost = "arn:aws:s3-outposts:eu-west-1:1:outpost/op-1/accesspoint/x";
        for bucket in ["b", point, outpost, "arn:aws:s3:eu-west-1:1:accesspoint:x"] {
            for key in ["k", "env:/w/k", "accesspoint/k"] {
                assert_eq!(bucket_and_key(&format!("{bucket}/{key}")), Some((bucket, key)));
            }
            assert_eq!(bucket_and_key(bucket), None);
        }
    }

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
