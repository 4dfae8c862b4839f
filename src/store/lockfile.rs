//! The half of a lock that is an object beside the state.
//!
//! The object is read, its content compared with the claim, and then deleted with `If-Match` on the ETag of that very
//! object. AWS keeps this condition since September 2025; other stores may ignore it and delete whatever is there. So
//! before the first delete at an endpoint that is not AWS's own, the store is examined (see [`LockfileStore::examine`]),
//! never with the lock itself.

use crate::aws::{S3Backend, SseCustomerKey, StoreError, classify};
use crate::model::{
    Content, FoundLock, Holder, LOCKFILE_SUFFIX, Leased, LockClaim, LockTrace, Recorded, Sighting, UnconditionalDelete,
    lockfile_key,
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
use crate::store::own::{Stranger, check_own};
use crate::store::{Claimed, NotClaimed, tags};

/// A lock has some 300 bytes; what is much longer is none.
const LARGEST: usize = 64 * 1024;
/// A look at the tags never takes longer: a store may not know them.
const LONGEST_LOOK_AT_TAGS: Duration = Duration::from_secs(3);
/// How long an object may take to come.
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

/// A lockfile, or an object beside it, as it was read.
pub(super) struct Object {
    pub(super) bytes: Vec<u8>,
    pub(super) etag: Option<String>,
    written: Option<Timestamp>,
    /// In a versioned bucket.
    version: Option<String>,
}

impl Object {
    pub(super) fn lock(&self) -> FoundLock {
        FoundLock::read(&self.bytes)
    }

    /// The checksum of its content, in base64.
    fn sha256(&self) -> String {
        BASE64_STANDARD.encode(Sha256::digest(&self.bytes))
    }
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
    /// One that deletes only under a condition, of which it finds out first whether the store keeps it.
    pub(super) fn new(client: Client, backend: &S3Backend, bucket: &str, key: &str) -> Self {
        Self {
            client,
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            customer_key: backend.customer_key.clone(),
            encryption: backend.encryption(),
            unconditional: UnconditionalDelete::Refuse,
            conditions: Arc::default(),
        }
    }

    /// Reads the object and compares it with a trace, by the checksum of its content, else by its ETag.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    pub async fn compare(&self, trace: &LockTrace) -> Result<Traced, StoreError> {
        let Some(object) = self.get().await? else { return Ok(Traced::Nothing) };
        let same = match &trace.sha256 {
            Some(sha256) => *sha256 == object.sha256(),
            None => trace.etag.is_some() && trace.etag == object.etag,
        };
        Ok(if same { Traced::Same(object.lock()) } else { Traced::Other(object.lock()) })
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

    /// As of [`crate::store::Store`].
    pub(crate) async fn look(&self) -> Result<Option<Sighting>, StoreError> {
        let Some(object) = self.get().await? else { return Ok(None) };
        let lock = object.lock();
        let (mut recorded, mut leased) = (Recorded::Nothing, Leased::Nothing);
        if let FoundLock::Held(info) = &lock {
            recorded = match self.tags().await {
                Ok(tags) => tags::decode(tags.iter().map(|tag| (tag.key(), tag.value())), &info.id),
                Err(error) => Recorded::Foreign(format!("the tags of the lockfile cannot be read: {error}")),
            };
            leased = match self.lease(object.etag.as_deref(), &info.id).await {
                Ok(lease) => lease.leased,
                Err(error) => Leased::Foreign(format!("the lease beside the lockfile cannot be read: {error}")),
            };
        }
        let content = Content::Object { sha256: object.sha256(), etag: object.etag };
        Ok(Some(Sighting { lock, recorded, leased, written: object.written, content }))
    }

    /// As of [`crate::store::Store`]: deletes the object if it is still the very one that was seen, by its ETag.
    pub(crate) async fn delete_seen(&self, seen: &Sighting) -> Result<Claimed<()>, StoreError> {
        let Content::Object { etag, sha256 } = &seen.content else {
            return Err(StoreError::Misdirected("it was seen in a table".to_owned()));
        };
        let is_seen = |object: &Object| object.etag == *etag && object.sha256() == *sha256;
        match self.get().await? {
            Some(object) if is_seen(&object) => self.delete_object(&object, is_seen).await,
            other => Ok(Err(not_there(other))),
        }
    }

    /// Reads the lockfile.
    pub(super) async fn get(&self) -> Result<Option<Object>, StoreError> {
        self.get_object(&self.key, LARGEST).await
    }

    /// Reads the lockfile or an object beside it, of which `most` bytes are wanted.
    pub(super) async fn get_object(&self, key: &str, most: usize) -> Result<Option<Object>, StoreError> {
        let [algorithm, secret, md5] = SseCustomerKey::parameters(self.customer_key.as_ref());
        let request = self.client.get_object().bucket(&self.bucket).key(key).set_sse_customer_algorithm(algorithm);
        let answer = match request.set_sse_customer_key(secret).set_sse_customer_key_md5(md5).send().await {
            Ok(answer) => answer,
            Err(error) if matches!(error.as_service_error(), Some(GetObjectError::NoSuchKey(_))) => {
                return Ok(None);
            }
            Err(error) => return Err(unreadable(classify("s3:GetObject", error))),
        };
        let etag = answer.e_tag().map(str::to_owned);
        let written = answer.last_modified().and_then(|time| Timestamp::from_second(time.secs()).ok());
        let version = answer.version_id().map(str::to_owned);
        let may_be_page = answer.content_type().is_some_and(|kind| kind.starts_with("text/html"));
        let bytes = read_body(answer.body, most, LONGEST).await?;
        if may_be_page && is_web_page(&bytes) {
            return Err(StoreError::Nonsense("a web page: a proxy's, or one to sign in".to_owned()));
        }
        Ok(Some(Object { bytes, etag, written, version }))
    }

    pub(super) async fn delete(
        &self,
        key: &str,
        if_match: Option<&str>,
    ) -> Result<DeleteObjectOutput, SdkError<DeleteObjectError, HttpResponse>> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        request.set_if_match(if_match.map(str::to_owned)).send().await
    }

    /// Deletes the lockfile that was just read, by its ETag. `is_it` tells whether another look shows the same.
    async fn delete_object(&self, object: &Object, is_it: impl Fn(&Object) -> bool) -> Result<Claimed<()>, StoreError> {
        let if_match = match self.conditions().await? {
            Conditions::Kept => Some(object.etag.as_deref().ok_or_else(no_etag)?),
            Conditions::NotKept(detail) if self.unconditional == UnconditionalDelete::Refuse => {
                return Err(StoreError::NoConditions(detail.clone()));
            }
            Conditions::NotKept(_) => match self.get().await? {
                Some(now) if is_it(&now) => None,
                other => return Ok(Err(not_there(other))),
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
                other => Ok(Err(not_there(other))),
            },
        }
    }

    /// As of [`crate::store::Store`].
    pub(crate) async fn delete_if(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
    ) -> Result<Claimed<()>, StoreError> {
        match self.claimed(claim, session).await? {
            Ok(object) => self.delete_object(&object, |object| object.lock().is_of(claim)).await,
            Err(other) => Ok(Err(other)),
        }
    }

    /// Reads the object, if it is the claimed lock and can be the session's; what is there otherwise.
    pub(super) async fn claimed(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
    ) -> Result<Claimed<Object>, StoreError> {
        self.check(claim)?;
        let object = match self.get().await? {
            Some(object) if object.lock().is_of(claim) => object,
            other => return Ok(Err(not_there(other))),
        };
        let Some(session) = session else { return Ok(Ok(object)) };
        // Many roles may not read the tags: then they say nothing.
        let tags = match timeout(LONGEST_LOOK_AT_TAGS, self.tags()).await {
            Ok(tags) => {
                tags.inspect_err(|error| tracing::debug!("the record of a lock's holder cannot be read: {error}"))
            }
            Err(_) => Ok(Vec::new()),
        };
        Ok(check_tags(&object, session, &tags.unwrap_or_default()).map(|()| object).map_err(NotClaimed::NotOwn))
    }

    /// As of [`crate::store::Store`].
    pub(crate) async fn read(&self) -> Result<Option<FoundLock>, StoreError> {
        Ok(self.get().await?.map(|object| object.lock()))
    }

    /// As of [`crate::store::Store`]. The record is in the object's tags, which are no part of its content or its ETag. They
    /// name the lock: should they land late, on the object of another lock, nobody takes them for that one's.
    pub(crate) async fn annotate(&self, claim: &LockClaim, holder: &Holder) -> Result<Claimed<()>, StoreError> {
        let object = match self.claimed(claim, None).await? {
            Ok(object) => object,
            Err(other) => return Ok(Err(other)),
        };
        // Tags are replaced all at once, and OpenTofu's `lock_tags` are to stay.
        let mut set = self.tags().await?;
        if let Err(stranger) = check_tags(&object, holder, &set) {
            return Ok(Err(NotClaimed::NotOwn(stranger)));
        }
        set.retain(|tag| !tag.key().starts_with(tags::PREFIX));
        let Some(record) = tags::encode(holder, tags::MOST.saturating_sub(set.len())) else {
            return Err(StoreError::Refused(format!("the lockfile has {} tags already", set.len())));
        };
        let tag = |(name, value)| Tag::builder().key(name).value(value).build();
        let own = record.into_iter().map(tag).collect::<Result<Vec<_>, _>>();
        let tagging = own.and_then(|own| Tagging::builder().set_tag_set(Some([set, own].concat())).build());
        let tagging = tagging.map_err(|error| StoreError::Refused(error.to_string()))?;
        let request = self.client.put_object_tagging().bucket(&self.bucket).key(&self.key);
        let action = if object.version.is_some() { "s3:PutObjectVersionTagging" } else { "s3:PutObjectTagging" };
        match request.set_version_id(object.version).tagging(tagging).send().await {
            Ok(_) => Ok(Ok(())),
            Err(error) if error.code() == Some("NoSuchKey") => Ok(Err(NotClaimed::NotThere(None))),
            Err(error) => Err(classify(action, error)),
        }
    }
}

/// What is there in place of the lockfile that is meant.
fn not_there(found: Option<Object>) -> NotClaimed {
    NotClaimed::NotThere(found.map(|object| object.lock()))
}

pub(super) fn no_etag() -> StoreError {
    StoreError::NoConditions("the store gave no ETag to match".to_owned())
}

/// Judges a lockfile with the tags that it has. Those of an earlier lock, which landed late, say nothing.
fn check_tags(object: &Object, session: &Holder, tags: &[Tag]) -> Result<(), Stranger> {
    let lock = session.lock.as_str();
    let recorded = match tags.iter().any(|tag| tag.key() == tags::LOCK && tag.value() == lock) {
        true => tags::decode(tags.iter().map(|tag| (tag.key(), tag.value())), lock),
        false => Recorded::Nothing,
    };
    check_own(&object.lock(), &recorded, session)
}

/// What is said of an object without its content. None where there is no object.
pub(super) async fn head(
    client: &Client,
    bucket: &str,
    key: &str,
    customer_key: Option<&SseCustomerKey>,
) -> Result<Option<HeadObjectOutput>, StoreError> {
    let [algorithm, secret, md5] = SseCustomerKey::parameters(customer_key);
    let request = client.head_object().bucket(bucket).key(key).set_sse_customer_algorithm(algorithm);
    match request.set_sse_customer_key(secret).set_sse_customer_key_md5(md5).send().await {
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

/// Reads an object to its end, or of one that is larger than `most` bytes those and the next one, in whichever pieces it comes.
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
        bytes.truncate(most + 1);
        Ok(bytes)
    };
    let read = timeout(longest, read).await;
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

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    /// What is too large is told from another by the checksum of what was read of it.
    #[tokio::test]
    async fn of_what_is_too_large_the_same_is_read_in_whichever_pieces_it_comes() {
        for (sizes, expected) in [
            (vec![7, 9, 40], 21),
            (vec![20, 36], 21),
            (vec![21, 35], 21),
            (vec![56], 21),
            (vec![7, 13], 20),
            (vec![7], 7),
            (vec![], 0),
        ] {
            let pieces = sizes.iter().map(|size| Ok::<_, std::io::Error>(Frame::data(vec![b'x'; *size].into())));
            let body = StreamBody::new(stream::iter(pieces.collect::<Vec<_>>()));
            let read = read_body(ByteStream::new(SdkBody::from_body_1_x(body)), 20, LONGEST).await.unwrap();
            assert_eq!(read.len(), expected, "{sizes:?}");
        }
    }
}
