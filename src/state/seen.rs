//! What was seen of a state: facts, without any judgement.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::model::{Flaw, FoundLock};
use crate::state::content::{Content, md5};

/// What was seen of one state at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// The object. None if there is none.
    pub object: Option<StateObject>,
    /// What the lock table says of it.
    pub digest: StoredDigest,
    /// The lock that is there, where it matters.
    pub lock: Option<Held>,
    /// What Terraform left in its directory because it could not upload it.
    pub errored: Option<Errored>,
    /// Where something is wrong with the object, the newest earlier version that could be the present one again; where its
    /// digest is another's, the one that has it.
    pub earlier: Option<StateObject>,
    /// Why there is none.
    pub no_earlier: Option<String>,
}

/// A lock in its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Held {
    /// The lock, or what blocks like one.
    #[serde(flatten)]
    pub lock: FoundLock,
    /// Its holder is known to be dead.
    pub dead: bool,
}

impl Held {
    /// Somebody may be behind it.
    pub fn may_be_alive(&self) -> bool {
        matches!(self.lock, FoundLock::Held(_)) && !self.dead
    }
}

/// A state as it was read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StateObject {
    /// Its MD5 in hexadecimal: what Terraform notes as its digest. Empty where it was not read.
    pub md5: String,
    /// In bytes.
    pub size: usize,
    /// When it was written.
    pub modified: Option<Timestamp>,
    /// Its version, in a bucket that keeps versions.
    pub version: Option<String>,
    /// What it says.
    #[serde(serialize_with = "either")]
    pub content: Result<Content, Flaw>,
}

impl StateObject {
    /// In bytes. A state of that size has some hundred thousand resources.
    pub const LARGEST: usize = 256 * 1024 * 1024;

    /// One that was not read: one that is larger than [`Self::LARGEST`], for instance.
    pub fn unread(size: usize, flaw: Flaw) -> Self {
        Self { md5: String::new(), size, modified: None, version: None, content: Err(flaw) }
    }

    /// A state of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.len() > Self::LARGEST {
            return Self::unread(bytes.len(), Flaw::TooLarge { limit: Self::LARGEST });
        }
        Self { md5: md5(bytes), content: Content::read(bytes), ..Self::unread(bytes.len(), Flaw::Empty) }
    }
}

/// `errored.tfstate`: what Terraform writes into its working directory when it cannot upload a state
/// (`backupStateForError` in `internal/backend/local/backend_apply.go`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Errored {
    /// The file.
    #[serde(serialize_with = "crate::paths::serialize")]
    pub path: PathBuf,
    /// What is in it.
    #[serde(flatten)]
    pub state: StateObject,
}

/// What the lock table says of the object: item `<bucket>/<key>-md5`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "is", content = "md5", rename_all = "kebab-case")]
pub enum StoredDigest {
    /// No table is named.
    #[default]
    NotKept,
    /// There is no item. Terraform then does not compare.
    Absent,
    /// An MD5 in lowercase hexadecimal.
    Md5(String),
    /// An item without an MD5. Terraform passes over it.
    Malformed,
}

impl StoredDigest {
    /// What the attribute `Digest` of the item says to Terraform (`getMD5` in its S3 client).
    pub fn read(text: Option<&str>) -> Self {
        match text {
            Some(text) if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Self::Md5(text.to_ascii_lowercase())
            }
            _ => Self::Malformed,
        }
    }

    /// The MD5, if it has one.
    pub fn md5(&self) -> Option<&str> {
        match self {
            Self::Md5(md5) => Some(md5),
            _ => None,
        }
    }
}

/// What the state should be, as far as somebody knows: all `None` by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its lineage.
    pub lineage: Option<String>,
    /// A serial that it had, so that it has this one or a higher one now.
    pub serial: Option<u64>,
}

impl Expected {
    /// Whether a state is what it should be.
    pub fn is_met(&self, content: &Content) -> bool {
        self.lineage.as_ref().is_none_or(|lineage| content.lineage == *lineage)
            && self.serial.is_none_or(|serial| content.serial >= serial)
    }
}

/// `{"format": …}` of a whole state, `{"flaw": …}` of another.
fn either<S: Serializer>(content: &Result<Content, Flaw>, serializer: S) -> Result<S::Ok, S::Error> {
    match content {
        Ok(content) => content.serialize(serializer),
        Err(flaw) => serializer.collect_map([("flaw", flaw)]),
    }
}
