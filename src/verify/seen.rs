//! What was seen of a state: facts, without any judgement.

use std::path::PathBuf;

use jiff::Timestamp;
use md5::{Digest as _, Md5};
use serde::{Serialize, Serializer};

use super::{Content, Flaw};
use crate::lock::FoundLock;

/// What was seen of one state at one time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    /// The object. None if there is none.
    pub object: Option<StateObject>,
    /// What the lock table says of it.
    pub digest: StoredDigest,
    /// The lock that is there, of somebody who is not known to be dead.
    pub lock: Option<FoundLock>,
    /// What Terraform left in its directory because it could not upload it.
    pub errored: Option<Errored>,
    /// Earlier versions of the object, where something is wrong with it.
    pub versions: Versions,
}

/// A state as it was read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StateObject {
    /// Its MD5 in hexadecimal: what Terraform notes as its digest.
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

    /// One that is larger than [`Self::LARGEST`]. Its MD5 is not known.
    #[must_use]
    pub fn too_large() -> Self {
        Self {
            size: Self::LARGEST,
            content: Err(Flaw::TooLarge { limit: Self::LARGEST }),
            md5: String::new(),
            ..Self::of(&[])
        }
    }

    /// A state of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { md5: md5(bytes), size: bytes.len(), modified: None, version: None, content: Content::read(bytes) }
    }
}

/// `errored.tfstate`: what Terraform writes into its working directory when it cannot upload a state
/// (`backupStateForError` in `internal/backend/local/backend_apply.go`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Errored {
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    #[serde(flatten)]
    pub state: StateObject,
}

/// What the lock table says of the object: item `<bucket>/<key>-md5`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", content = "md5", rename_all = "kebab-case")]
pub enum StoredDigest {
    /// Terraform keeps no digest, since it has no table.
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
    #[must_use]
    pub fn read(text: Option<&str>) -> Self {
        match text {
            Some(text) if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Self::Md5(text.to_ascii_lowercase())
            }
            _ => Self::Malformed,
        }
    }

    /// The MD5, if it has one.
    #[must_use]
    pub fn md5(&self) -> Option<&str> {
        match self {
            Self::Md5(md5) => Some(md5),
            _ => None,
        }
    }
}

/// The versions of the object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "are", content = "found", rename_all = "kebab-case")]
pub enum Versions {
    /// Nobody asked, since nothing is wrong.
    NotAsked,
    /// The bucket keeps none.
    NotKept,
    /// They could not be listed: why.
    Unknown(String),
    /// The newest ones, newest first, the present one among them.
    Listed(Vec<Version>),
}

/// A version of the object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version {
    /// Its ID.
    pub id: String,
    /// When it was written.
    pub modified: Option<Timestamp>,
    /// It is the present one.
    pub latest: bool,
    /// Its ETag without quotes: its MD5, where it is encrypted with no key but S3's own and was uploaded in one part.
    pub etag: Option<String>,
    /// Its MD5, if it was read.
    pub md5: Option<String>,
    /// What it says, if it was read.
    #[serde(serialize_with = "perhaps_either")]
    pub content: Option<Result<Content, Flaw>>,
}

impl Version {
    /// It is known to have this digest.
    #[must_use]
    pub fn has_digest(&self, digest: &str) -> bool {
        [&self.etag, &self.md5].into_iter().any(|md5| md5.as_deref() == Some(digest))
    }

    /// It is whole, has nothing against it and could be the present one again.
    #[must_use]
    pub fn is_way_back(&self, lineage: Option<&str>, serial: Option<u64>) -> bool {
        let Some(Ok(content)) = &self.content else { return false };
        !self.latest
            && content.is_known()
            && lineage.is_none_or(|lineage| content.lineage() == Some(lineage))
            && serial.is_none_or(|serial| content.serial >= Some(serial))
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

/// An MD5 as Terraform writes it into the table.
#[must_use]
pub fn md5(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Md5::digest(bytes).iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `{"format": …}` of a whole state, `{"flaw": …}` of another.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Either<'a> {
    Flaw(&'a Flaw),
    #[serde(untagged)]
    Whole(&'a Content),
}

fn either<S: Serializer>(content: &Result<Content, Flaw>, serializer: S) -> Result<S::Ok, S::Error> {
    match content {
        Ok(content) => Either::Whole(content),
        Err(flaw) => Either::Flaw(flaw),
    }
    .serialize(serializer)
}

fn perhaps_either<S: Serializer>(content: &Option<Result<Content, Flaw>>, serializer: S) -> Result<S::Ok, S::Error> {
    match content {
        Some(content) => either(content, serializer),
        None => serializer.serialize_none(),
    }
}
