//! The half of a lock that is an object beside the state.
//!
//! The object is read, its content compared with the claim, and then deleted with `If-Match` on the ETag of that very
//! object. AWS keeps this condition since September 2025; other stores may ignore it and delete whatever is there. So
//! before the first delete at an endpoint that is not AWS's own, the store is examined (see [`LockfileStore::examine`]),
//! never with the lock itself.

use crate::aws::{SseCustomerKey, StoreError, classify};
use crate::model::{
    Content, FoundLock, HeldLock, Holder, LOCKFILE_SUFFIX, Leased, LockClaim, LockTrace, Recorded, Sighting,
    UnconditionalDelete, lockfile_key,
};

pub(crate) mod examination;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::delete_object::{DeleteObjectError, DeleteObjectOutput};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::head_object::{HeadObjectError, HeadObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ServerSideEncryption, Tag, Tagging};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;
use md5::Digest as _;
use sha2::Sha256;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::store::lockfile::examination::Conditions;
use crate::store::own::Stranger;
use crate::store::{Claimed, NotClaimed, tags};

/// A lock has some 300 bytes; what is much longer is none.
const LARGEST: usize = 64 * 1024;
/// A look at the tags never takes longer: a store may not know them.
const LONGEST_LOOK_AT_TAGS: Duration = Duration::from_secs(3);
/// The algorithm of a customer's key.
pub(super) const SSE_C: &str = "AES256";
/// How long it may take to come.
const LONGEST: Duration = Duration::from_secs(20);

/// A lockfile.
#[derive(Debug, Clone)]
pub struct LockfileStore {
    /// Doesn't retry where locks are deleted.
    pub(crate) client: Client,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) customer_key: Option<SseCustomerKey>,
    /// How Terraform has the store encrypt what it puts there, and with which KMS key.
    pub(crate) encryption: Option<(ServerSideEncryption, Option<String>)>,
    pub(crate) unconditional: UnconditionalDelete,
    /// Whether the store keeps the condition of a delete, once that is known.
    pub(crate) conditions: Arc<OnceCell<Conditions>>,
}

/// An object that was read.
pub(super) struct Object {
    pub(super) bytes: Vec<u8>,
    pub(super) etag: Option<String>,
    is_page: bool,
    written: Option<Timestamp>,
    version: Option<String>,
}

/// A lockfile that was read.
pub(super) struct Body {
    pub(super) found: FoundLock,
    /// In base64.
    sha256: String,
    pub(super) etag: Option<String>,
    written: Option<Timestamp>,
    /// In a versioned bucket.
    version: Option<String>,
}

/// What is in the place of a lockfile that is known by its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traced {
    /// The very object that was traced.
    Same(FoundLock),
    Other(FoundLock),
    Nothing,
}

impl LockfileStore {
    /// Reads the object and compares it with a trace, by the checksum of its content, else by its ETag.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    pub async fn compare(&self, trace: &LockTrace) -> Result<Traced, StoreError> {
        let Some(body) = self.get().await? else { return Ok(Traced::Nothing) };
        let same = match &trace.sha256 {
            Some(sha256) => *sha256 == body.sha256,
            None => trace.etag.is_some() && trace.etag == body.etag,
        };
        Ok(if same { Traced::Same(body.found) } else { Traced::Other(body.found) })
    }

    /// Nothing is sent about an object that cannot be the claimed lock.
    pub(super) fn check(&self, claim: &LockClaim) -> Result<(), StoreError> {
        if self.bucket == claim.bucket && self.key == lockfile_key(&claim.state_key) {
            return Ok(());
        }
        let detail = format!("it is {}{LOCKFILE_SUFFIX}, the object is {}/{}", claim.lock_id(), self.bucket, self.key);
        Err(StoreError::Misdirected(detail))
    }

    /// The tags of the object that is there now. They say themselves of which lock they are, so no version is named:
    /// that would need another permission.
    async fn tags(&self) -> Result<Vec<Tag>, StoreError> {
        let answer = self.client.get_object_tagging().bucket(&self.bucket).key(&self.key).send().await;
        Ok(answer.map_err(|error| classify("s3:GetObjectTagging", error))?.tag_set)
    }

    /// Reads the object, and the record of its holder, for a person to look at.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense. That the record cannot be read is none.
    pub async fn look(&self) -> Result<Option<Sighting>, StoreError> {
        let Some(body) = self.get().await? else { return Ok(None) };
        let recorded = self.recorded(&body).await;
        let leased = match &body.found {
            FoundLock::Held(info) => match self.lease(body.etag.as_deref(), &info.id).await {
                Ok(lease) => lease.leased,
                Err(error) => Leased::Foreign(format!("the lease beside the lockfile cannot be read: {error}")),
            },
            FoundLock::Malformed(_) => Leased::Nothing,
        };
        let content = Content::Object { etag: body.etag, sha256: body.sha256 };
        Ok(Some(Sighting { lock: body.found, recorded, leased, written: body.written, content }))
    }

    /// Deletes the object if it is still the very one that was seen, by its ETag.
    ///
    /// # Errors
    /// As of [`crate::store::LockStore::delete_if`].
    pub async fn delete_seen(&self, seen: &Sighting) -> Result<Claimed<()>, StoreError> {
        let Content::Object { etag, sha256 } = &seen.content else {
            return Err(StoreError::Misdirected("it was seen in a table".to_owned()));
        };
        let Some(body) = self.get().await? else { return Ok(Err(NotClaimed::NotThere(None))) };
        let is_seen = |body: &Body| body.etag == *etag && body.sha256 == *sha256;
        if !is_seen(&body) {
            return Ok(Err(NotClaimed::NotThere(Some(body.found))));
        }
        self.delete_body(&body, is_seen).await
    }

    /// The record beside the object that was read.
    async fn recorded(&self, body: &Body) -> Recorded {
        match &body.found {
            FoundLock::Malformed(_) => Recorded::Nothing,
            FoundLock::Held(info) => match self.tags().await {
                Ok(tags) => tags::decode(tags.iter().map(|tag| (tag.key(), tag.value())), &info.id),
                Err(error) => Recorded::Foreign(format!("the tags of the lockfile cannot be read: {error}")),
            },
        }
    }

    /// Judges the object that was read, with the tags that it has now. Many roles may not read them: then they say nothing.
    async fn check_own(&self, body: &Body, session: &Holder) -> Result<(), Stranger> {
        let tags = match timeout(LONGEST_LOOK_AT_TAGS, self.tags()).await {
            Ok(Ok(tags)) => tags,
            Ok(Err(error)) => {
                tracing::debug!("the record of a lock's holder cannot be read: {error}");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        check_own(body, session, &tags)
    }

    pub(super) async fn get(&self) -> Result<Option<Body>, StoreError> {
        let Some(Object { bytes, etag, is_page, written, version }) = self.get_object(&self.key, LARGEST).await? else {
            return Ok(None);
        };
        if is_page && is_web_page(&bytes) {
            return Err(StoreError::Nonsense("a web page: a proxy's, or one to sign in".to_owned()));
        }
        let sha256 = BASE64_STANDARD.encode(Sha256::digest(&bytes));
        Ok(Some(Body { found: FoundLock::read(&bytes), sha256, etag, written, version }))
    }

    /// Reads an object beside the state, of which `most` bytes are wanted.
    pub(super) async fn get_object(&self, key: &str, most: usize) -> Result<Option<Object>, StoreError> {
        let mut request = self.client.get_object().bucket(&self.bucket).key(key);
        if let Some(key) = &self.customer_key {
            request =
                request.sse_customer_algorithm(SSE_C).sse_customer_key(&key.base64).sse_customer_key_md5(&key.md5);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if matches!(error.as_service_error(), Some(GetObjectError::NoSuchKey(_))) => {
                return Ok(None);
            }
            Err(error) => return Err(unreadable(classify("s3:GetObject", error))),
        };
        let etag = answer.e_tag().map(str::to_owned);
        let written = answer.last_modified().and_then(|time| Timestamp::from_second(time.secs()).ok());
        let version = answer.version_id().map(str::to_owned);
        let is_page = answer.content_type().is_some_and(|kind| kind.starts_with("text/html"));
        let bytes = read_body(answer.body, most, LONGEST).await?;
        Ok(Some(Object { bytes, etag, is_page, written, version }))
    }

    pub(super) async fn delete(
        &self,
        key: &str,
        if_match: Option<&str>,
    ) -> Result<DeleteObjectOutput, SdkError<DeleteObjectError, HttpResponse>> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        request.set_if_match(if_match.map(str::to_owned)).send().await
    }

    /// Deletes an object that was just read, by its ETag. `is_it` tells whether another look shows the same.
    async fn delete_body(&self, body: &Body, is_it: impl Fn(&Body) -> bool) -> Result<Claimed<()>, StoreError> {
        let if_match = match self.conditions().await? {
            Conditions::Kept => {
                let Some(etag) = &body.etag else {
                    return Err(StoreError::NoConditions("the store gave no ETag to match".to_owned()));
                };
                Some(etag.as_str())
            }
            Conditions::NotKept(detail) if self.unconditional == UnconditionalDelete::Refuse => {
                return Err(StoreError::NoConditions(detail.clone()));
            }
            Conditions::NotKept(_) => match self.get().await? {
                Some(now) if is_it(&now) => None,
                other => return Ok(Err(NotClaimed::NotThere(other.map(|now| now.found)))),
            },
        };
        match outcome(self.delete(&self.key, if_match).await)? {
            Outcome::Done(_) => Ok(Ok(())),
            Outcome::Unsupported(detail) => Err(StoreError::NoConditions(detail)),
            Outcome::NoSuchKey => Ok(Err(NotClaimed::NotThere(None))),
            // Changed since it was read: by whom, tells another look.
            Outcome::ConditionFailed => match self.get().await? {
                Some(now) if is_it(&now) => {
                    Err(StoreError::Conflict("the lockfile was written anew meanwhile".to_owned()))
                }
                other => Ok(Err(NotClaimed::NotThere(other.map(|now| now.found)))),
            },
        }
    }

    /// As of [`crate::store::LockStore`].
    pub(crate) async fn delete_if(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
    ) -> Result<Claimed<()>, StoreError> {
        match self.claimed(claim, session).await? {
            Ok(body) => self.delete_body(&body, |body| body.found.is_of(claim)).await,
            Err(other) => Ok(Err(other)),
        }
    }

    /// Reads the object, if it is the claimed lock and can be the session's; what is there otherwise.
    pub(super) async fn claimed(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
    ) -> Result<Claimed<Body>, StoreError> {
        self.check(claim)?;
        let body = match self.get().await? {
            Some(body) if body.found.is_of(claim) => body,
            other => return Ok(Err(NotClaimed::NotThere(other.map(|body| body.found)))),
        };
        if let Some(session) = session
            && let Err(stranger) = self.check_own(&body, session).await
        {
            return Ok(Err(NotClaimed::NotOwn(stranger)));
        }
        Ok(Ok(body))
    }

    /// As of [`crate::store::LockStore`].
    pub(crate) async fn read(&self) -> Result<Option<FoundLock>, StoreError> {
        Ok(self.get().await?.map(|body| body.found))
    }

    /// As of [`crate::store::Store`]. The record is in the object's tags, which are no part of its content or its ETag. They
    /// name the lock: should they land late, on the object of another lock, nobody takes them for that one's.
    pub(crate) async fn annotate(&self, claim: &LockClaim, holder: &Holder) -> Result<Claimed<()>, StoreError> {
        let body = match self.claimed(claim, None).await? {
            Ok(body) => body,
            Err(other) => return Ok(Err(other)),
        };
        // Tags are replaced all at once, and OpenTofu's `lock_tags` are to stay.
        let mut set = self.tags().await?;
        if let Err(stranger) = check_own(&body, holder, &set) {
            return Ok(Err(NotClaimed::NotOwn(stranger)));
        }
        set.retain(|tag| !tag.key().starts_with(tags::PREFIX));
        let Some(record) = tags::encode(holder, tags::MOST.saturating_sub(set.len())) else {
            return Err(StoreError::Refused(format!("the lockfile has {} tags already", set.len())));
        };
        for (name, value) in record {
            let tag = Tag::builder().key(name).value(value).build();
            set.push(tag.map_err(|error| StoreError::Refused(error.to_string()))?);
        }
        let tagging = Tagging::builder().set_tag_set(Some(set)).build();
        let tagging = tagging.map_err(|error| StoreError::Refused(error.to_string()))?;
        let request = self.client.put_object_tagging().bucket(&self.bucket).key(&self.key);
        let action = if body.version.is_some() { "s3:PutObjectVersionTagging" } else { "s3:PutObjectTagging" };
        match request.set_version_id(body.version).tagging(tagging).send().await {
            Ok(_) => Ok(Ok(())),
            Err(error) if error.code() == Some("NoSuchKey") => Ok(Err(NotClaimed::NotThere(None))),
            Err(error) => Err(classify(action, error)),
        }
    }

    /// As of [`crate::store::Store`].
    pub(crate) async fn read_held(&self) -> Result<Option<HeldLock>, StoreError> {
        let Some(body) = self.get().await? else { return Ok(None) };
        let recorded = self.recorded(&body).await;
        Ok(Some(HeldLock { lock: body.found, recorded }))
    }
}

/// Judges a lockfile with the tags that it has. Those of an earlier lock, which landed late, say nothing.
fn check_own(body: &Body, session: &Holder, tags: &[Tag]) -> Result<(), Stranger> {
    let lock = session.lock.as_str();
    let recorded = match tags.iter().any(|tag| tag.key() == tags::LOCK && tag.value() == lock) {
        true => tags::decode(tags.iter().map(|tag| (tag.key(), tag.value())), lock),
        false => Recorded::Nothing,
    };
    HeldLock { lock: body.found.clone(), recorded }.check_own(session)
}

/// What is said of an object without its content. None where there is no object.
pub(super) async fn head(
    client: &Client,
    bucket: &str,
    key: &str,
    customer_key: Option<&SseCustomerKey>,
) -> Result<Option<HeadObjectOutput>, StoreError> {
    let mut request = client.head_object().bucket(bucket).key(key);
    if let Some(key) = customer_key {
        request = request.sse_customer_algorithm(SSE_C).sse_customer_key(&key.base64).sse_customer_key_md5(&key.md5);
    }
    match request.send().await {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.as_service_error(), Some(HeadObjectError::NotFound(_))) => Ok(None),
        Err(error) => Err(classify("s3:GetObject", error)),
    }
}

/// Whether somebody else than a store answered.
fn is_web_page(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    ["<!doctype html", "<html"]
        .iter()
        .any(|page| start.get(..page.len()).is_some_and(|start| start.eq_ignore_ascii_case(page.as_bytes())))
}

/// Reads an object to its end, or until it is larger than `most` bytes, which then are followed by some more.
pub(crate) async fn read_body(mut body: ByteStream, most: usize, longest: Duration) -> Result<Vec<u8>, StoreError> {
    let read = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| format!("the object broke off: {error}"))?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() > most {
                break;
            }
        }
        Ok(bytes)
    };
    let read = tokio::time::timeout(longest, read).await;
    read.unwrap_or_else(|_| Err(format!("the object did not come within {longest:?}"))).map_err(StoreError::TimedOut)
}

/// S3 does not say of an object that it is missing to those who may not list the bucket.
pub(crate) fn unreadable(error: StoreError) -> StoreError {
    match error {
        StoreError::Denied { action, detail } => StoreError::Denied {
            action,
            detail: format!("{detail} (S3 says this of a missing object too, where s3:ListBucket is not granted)"),
        },
        other => other,
    }
}

/// What came of a delete that was answered.
pub(super) enum Outcome {
    /// It was carried out, with the version of the delete marker that it made, if it made one.
    Done(Option<String>),
    ConditionFailed,
    NoSuchKey,
    /// The store knows the condition and does not want it.
    Unsupported(String),
}

pub(super) fn outcome(
    answer: Result<DeleteObjectOutput, SdkError<DeleteObjectError, HttpResponse>>,
) -> Result<Outcome, StoreError> {
    let error = match answer {
        Ok(done) => return Ok(Outcome::Done(done.version_id.filter(|_| done.delete_marker == Some(true)))),
        Err(error) => error,
    };
    let status = error.raw_response().map(|raw| raw.status().as_u16());
    match (error.code().unwrap_or_default(), status) {
        ("PreconditionFailed", _) | (_, Some(412)) => Ok(Outcome::ConditionFailed),
        ("NoSuchBucket", _) => Err(classify("s3:DeleteObject", error)),
        ("NotImplemented", _) | (_, Some(501)) => Ok(Outcome::Unsupported("HTTP 501".to_owned())),
        ("NoSuchKey", _) | ("", Some(404)) => Ok(Outcome::NoSuchKey),
        _ => Err(classify("s3:DeleteObject", error)),
    }
}
