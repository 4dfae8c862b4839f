//! The state's object and its digest, reachable.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use jiff::Timestamp;

use crate::aws::{AwsClients, SseCustomerKey, StoreError, classify};
use crate::state::seen::{StateObject, StoredDigest};
use crate::store::{DIGEST_SUFFIX, TableStore, is_done, read_body, unreadable};

/// The versions that are listed: one page. The present one comes first.
const LISTED: i32 = 100;
/// How long the largest state may take to come.
const LONGEST: Duration = Duration::from_secs(300);

/// The object that is the state.
#[derive(Debug)]
pub struct StateStore {
    client: aws_sdk_s3::Client,
    bucket: String,
    key: String,
    customer_key: Option<SseCustomerKey>,
}

impl StateStore {
    /// The object of a state. `key`: with the workspace's prefix.
    pub fn new(clients: &AwsClients, key: &str) -> Self {
        let backend = &clients.backend;
        Self {
            client: clients.s3(),
            bucket: backend.bucket().to_owned(),
            key: key.to_owned(),
            customer_key: backend.customer_key.clone(),
        }
    }

    /// Reads the state, or a version of it.
    ///
    /// # Errors
    /// When S3 could not be asked, or its answer broke off.
    pub async fn read(&self, version: Option<&str>) -> Result<Option<StateObject>, StoreError> {
        let [algorithm, key, md5] = SseCustomerKey::parameters(self.customer_key.as_ref());
        let request =
            self.client.get_object().bucket(&self.bucket).key(&self.key).set_version_id(version.map(str::to_owned));
        let request = request.set_sse_customer_algorithm(algorithm).set_sse_customer_key(key);
        let action = if version.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
        match request.set_sse_customer_key_md5(md5).send().await {
            Ok(answer) => {
                let modified = answer.last_modified().and_then(|time| Timestamp::from_second(time.secs()).ok());
                let version = answer.version_id().filter(|id| *id != "null").map(str::to_owned);
                let bytes = read_body(answer.body, StateObject::LARGEST, LONGEST).await?;
                Ok(Some(StateObject { modified, version, ..StateObject::of(&bytes) }))
            }
            Err(error) if matches!(error.code(), Some("NoSuchKey" | "NoSuchVersion")) => Ok(None),
            Err(error) => Err(unreadable(classify(action, error))),
        }
    }

    /// The IDs of its earlier versions, the newest ones first. None where the bucket keeps none.
    ///
    /// # Errors
    /// When S3 could not be asked.
    pub(crate) async fn earlier_versions(&self) -> Result<Vec<String>, StoreError> {
        // Other keys that begin so come after it.
        let request = self.client.list_object_versions().bucket(&self.bucket).prefix(&self.key).max_keys(LISTED);
        let answer = request.send().await.map_err(|error| classify("s3:ListBucketVersions", error))?;
        let earlier = answer.versions().iter().filter(|version| {
            version.key() == Some(&self.key)
                && version.is_latest() != Some(true)
                && version.version_id() != Some("null")
        });
        Ok(earlier.filter_map(|version| version.version_id().map(str::to_owned)).collect())
    }
}

/// The item that holds the digest. The only thing in tfguard that writes it.
#[derive(Debug)]
pub struct DigestStore(TableStore);

/// The item as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct DigestItem {
    /// What it says to Terraform.
    pub digest: StoredDigest,
    /// Its attribute `Digest`, whatever that is.
    attribute: Option<AttributeValue>,
}

impl DigestStore {
    /// The digest of a state. None without a table.
    pub fn new(clients: &AwsClients, key: &str) -> Option<Self> {
        Some(Self(TableStore {
            client: clients.dynamodb(),
            table: clients.backend.table()?.to_owned(),
            lock_id: format!("{}/{key}{DIGEST_SUFFIX}", clients.backend.bucket()),
        }))
    }

    /// Reads the digest, consistently.
    ///
    /// # Errors
    /// When DynamoDB could not be asked.
    pub async fn read(&self) -> Result<DigestItem, StoreError> {
        let Some(item) = self.0.get("LockID, Digest").await? else {
            return Ok(DigestItem { digest: StoredDigest::Absent, attribute: None });
        };
        let attribute = item.get("Digest").cloned();
        let text = attribute.as_ref().and_then(|value| value.as_s().ok()).map(String::as_str);
        Ok(DigestItem { digest: StoredDigest::read(text), attribute })
    }

    /// Writes a digest in place of the one that was read, if that is still there; whether it was.
    ///
    /// # Errors
    /// When DynamoDB could not be asked, or its answer is not known.
    pub async fn replace(&self, old: &DigestItem, md5: &str) -> Result<bool, StoreError> {
        // As Terraform does: an item of these two attributes.
        let request = self
            .0
            .client
            .put_item()
            .table_name(&self.0.table)
            .item("LockID", self.0.key())
            .item("Digest", AttributeValue::S(md5.to_owned()));
        // Where a key ends as digests' do, the lock of that state is in the same place.
        let request = match &old.attribute {
            None => request.condition_expression("attribute_not_exists(Digest) AND attribute_not_exists(Info)"),
            Some(attribute) => request
                .condition_expression("Digest = :old AND attribute_not_exists(Info)")
                .expression_attribute_values(":old", attribute.clone()),
        };
        // If it was not: by a repetition of this very request, whose answer was lost, or by somebody else's.
        Ok(is_done("dynamodb:PutItem", request.send().await)? || self.read().await?.digest.md5() == Some(md5))
    }
}
