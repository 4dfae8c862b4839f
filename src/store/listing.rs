//! All locks of a table or below a prefix of a bucket, a page at a time.
//!
//! Reading only, and eventually consistent: what is decided by it is looked at again.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::head_object::HeadObjectError;

use crate::aws::{StoreError, understand};
use crate::model::{LOCKFILE_SUFFIX, Sighting};
use crate::store::dynamodb::{ATTRIBUTES, DIGEST_SUFFIX};

/// The items of a lock table that are locks, or block like one.
#[derive(Debug)]
pub struct TablePages {
    client: aws_sdk_dynamodb::Client,
    table: String,
    next: Next<HashMap<String, AttributeValue>>,
}

/// The lockfiles below a prefix of a bucket.
#[derive(Debug)]
pub struct BucketPages {
    client: aws_sdk_s3::Client,
    bucket: String,
    prefix: String,
    next: Next<String>,
}

/// Where the next page begins.
#[derive(Debug)]
enum Next<T> {
    Start,
    After(T),
    Nowhere,
}

impl<T> Next<T> {
    fn new(after: Option<T>) -> Self {
        after.map_or(Self::Nowhere, Self::After)
    }
}

/// A page of a listing.
#[derive(Debug)]
pub struct Page<T> {
    /// How many items or objects of any kind were gone through for it.
    pub scanned: usize,
    /// The locks among them.
    pub found: Vec<T>,
}

impl TablePages {
    /// From the beginning of a table.
    pub(crate) fn new(client: aws_sdk_dynamodb::Client, table: String) -> Self {
        Self { client, table, next: Next::Start }
    }

    /// The next page: keys of items and what is in them. None after the last one.
    ///
    /// # Errors
    /// When the table could not be asked.
    pub async fn next(&mut self) -> Result<Option<Page<(String, Sighting)>>, StoreError> {
        let start = match &self.next {
            Next::Nowhere => return Ok(None),
            Next::Start => None,
            Next::After(key) => Some(key.clone()),
        };
        let request = self.client.scan().table_name(&self.table).projection_expression(ATTRIBUTES);
        let answer = request.set_exclusive_start_key(start).send().await;
        let answer = answer.map_err(|error| understand("dynamodb:Scan", error))?;
        let found = answer.items().iter().filter_map(lock_in).collect();
        let scanned = usize::try_from(answer.scanned_count()).unwrap_or_default();
        self.next = Next::new(answer.last_evaluated_key.filter(|key| !key.is_empty()));
        Ok(Some(Page { scanned, found }))
    }
}

/// A lock of a table's item, and its key. An item with the suffix of digests is one, unless it has `Info`: then it is
/// the lock of a state whose key ends like that.
fn lock_in(item: &HashMap<String, AttributeValue>) -> Option<(String, Sighting)> {
    let key = item.get("LockID")?.as_s().ok()?;
    let is_digest = key.ends_with(DIGEST_SUFFIX) && !item.contains_key("Info");
    (!is_digest).then(|| (key.clone(), Sighting::of_item(item)))
}

impl BucketPages {
    /// From the beginning of what is below a prefix, which may be empty.
    pub(crate) fn new(client: aws_sdk_s3::Client, bucket: String, prefix: String) -> Self {
        Self { client, bucket, prefix, next: Next::Start }
    }

    /// The next page: keys of states that have a lockfile. None after the last one.
    ///
    /// # Errors
    /// When the bucket could not be asked.
    pub async fn next(&mut self) -> Result<Option<Page<String>>, StoreError> {
        let token = match &self.next {
            Next::Nowhere => return Ok(None),
            Next::Start => None,
            Next::After(token) => Some(token.clone()),
        };
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix);
        let answer = request.set_continuation_token(token).send().await;
        let answer = answer.map_err(|error| understand("s3:ListBucket", error))?;
        let keys = answer.contents().iter().filter_map(|object| object.key()?.strip_suffix(LOCKFILE_SUFFIX));
        let found = keys.map(str::to_owned).collect();
        let scanned = answer.contents().len();
        self.next = Next::new(answer.next_continuation_token.filter(|_| answer.is_truncated == Some(true)));
        Ok(Some(Page { scanned, found }))
    }
}

/// Whether there is an object of this key.
///
/// # Errors
/// When the bucket could not be asked. S3 denies the question about a missing object to those who may not list the
/// bucket.
pub(crate) async fn object_exists(
    client: &aws_sdk_s3::Client,
    bucket: &str,
    key: &str,
    customer_key: Option<&crate::aws::SseCustomerKey>,
) -> Result<bool, StoreError> {
    let mut request = client.head_object().bucket(bucket).key(key);
    if let Some(key) = customer_key {
        request =
            request.sse_customer_algorithm("AES256").sse_customer_key(key.base64()).sse_customer_key_md5(key.md5());
    }
    match request.send().await {
        Ok(_) => Ok(true),
        Err(SdkError::ServiceError(answer)) if matches!(answer.err(), HeadObjectError::NotFound(_)) => Ok(false),
        Err(error) => Err(understand("s3:GetObject", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_no_locks_and_a_lock_is_none_by_its_name() {
        let item = |key: &str, info: Option<&str>| {
            let text = |name: &str, value: &str| (name.to_owned(), AttributeValue::S(value.to_owned()));
            [text("LockID", key)].into_iter().chain(info.map(|info| text("Info", info))).collect()
        };
        assert!(lock_in(&item("b/k-md5", None)).is_none());
        assert!(lock_in(&item("b/k-md5", Some("{}"))).is_some());
        assert!(lock_in(&item("b/k", None)).is_some());
        assert!(lock_in(&HashMap::from([("LockID".to_owned(), AttributeValue::N("7".to_owned()))])).is_none());
    }
}
