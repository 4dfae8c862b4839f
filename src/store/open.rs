//! The two kinds of store behind one type, how they are opened, and all locks of a table or bucket, a page at a time.

use std::collections::HashMap;
use std::sync::Arc;

use aws_config::retry::RetryConfig;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::stream;
use futures_util::stream::Stream;
use tokio::sync::OnceCell;

use crate::aws::{AwsClients, StoreError, classify, is_aws};
use crate::model::{FoundLock, Holder, LOCKFILE_SUFFIX, LockClaim, LockPlace, Sighting, UnconditionalDelete};
use crate::store::Claimed;
use crate::store::dynamodb::{ATTRIBUTES, DIGEST_SUFFIX, TableStore};
use crate::store::lockfile;
use crate::store::lockfile::LockfileStore;
use crate::store::lockfile::examination::Conditions;

/// What these clients open.
impl AwsClients {
    /// All locks of a table of this region, a page at a time: keys of items and what is in them. Eventually consistent:
    /// what is decided by it is looked at again.
    pub fn table_pages(&self, table: &str) -> impl Stream<Item = Result<Page<(String, Sighting)>, StoreError>> + use<> {
        let scan = self.dynamodb().scan().table_name(table).projection_expression(ATTRIBUTES);
        stream::unfold(scan.into_paginator().send(), async |mut pages| {
            let page = pages.next().await?.map_err(|error| classify("dynamodb:Scan", error)).map(|answer| Page {
                scanned: usize::try_from(answer.scanned_count()).unwrap_or_default(),
                found: answer.items().iter().filter_map(lock_in).collect(),
            });
            Some((page, pages))
        })
    }

    /// All lockfiles below a prefix, which may be empty, of a bucket of this region, a page at a time: keys of their states.
    pub fn bucket_pages(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> impl Stream<Item = Result<Page<String>, StoreError>> + use<> {
        let list = self.s3().list_objects_v2().bucket(bucket).prefix(prefix);
        stream::unfold(list.into_paginator().send(), async |mut pages| {
            let page = pages.next().await?.map_err(|error| classify("s3:ListBucket", error)).map(|answer| {
                let keys = answer.contents().iter().filter_map(|object| object.key()?.strip_suffix(LOCKFILE_SUFFIX));
                Page { scanned: answer.contents().len(), found: keys.map(str::to_owned).collect() }
            });
            Some((page, pages))
        })
    }

    /// Looks at one half of a lock of this region and endpoint. A table is read consistently.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    pub async fn look(&self, place: &LockPlace) -> Result<Option<Sighting>, StoreError> {
        match place {
            LockPlace::DynamoDb { table, lock_id, .. } => {
                let (client, table, lock_id) = (self.dynamodb(), table.clone(), lock_id.clone());
                TableStore { client, table, lock_id }.look().await
            }
            LockPlace::Lockfile { bucket, key, .. } => {
                LockfileStore::new(self.s3(), &self.backend, bucket, key).look().await
            }
        }
    }

    /// Whether a state's object is there.
    ///
    /// # Errors
    /// When the bucket could not be asked. S3 denies the question about a missing object to those who may not list
    /// the bucket.
    pub async fn state_exists(&self, bucket: &str, state_key: &str) -> Result<bool, StoreError> {
        Ok(lockfile::head(&self.s3(), bucket, state_key, self.backend.customer_key.as_ref()).await?.is_some())
    }

    /// Opens one half of a lock, in the region and at the endpoint that the place names. `unconditional` says what to
    /// do with a lockfile in a store that keeps no conditions.
    pub fn open(&self, place: &LockPlace, unconditional: UnconditionalDelete) -> Store {
        match place {
            LockPlace::DynamoDb { table, lock_id, region, endpoint } => {
                // The release decides when to ask again.
                let config = self.dynamodb_config(region, endpoint.as_deref()).retry_config(RetryConfig::disabled());
                let client = aws_sdk_dynamodb::Client::from_conf(config.build());
                Store::Table(TableStore { client, table: table.clone(), lock_id: lock_id.clone() })
            }
            LockPlace::Lockfile { bucket, key, region, endpoint } => {
                let config = self.s3_config(region, endpoint.as_deref()).retry_config(RetryConfig::disabled());
                let client = aws_sdk_s3::Client::from_conf(config.build());
                // AWS's own conditional deletes need no examination.
                let trusted = endpoint.clone().or_else(|| self.s3_endpoint_of_sdk()).as_deref().is_none_or(is_aws);
                let conditions = Arc::new(OnceCell::new_with(trusted.then_some(Conditions::Kept)));
                Store::Lockfile(LockfileStore {
                    unconditional,
                    conditions,
                    ..LockfileStore::new(client, &self.backend, bucket, key)
                })
            }
        }
    }
}

/// One half of a lock, opened. Each call sends its request once and is bounded in time by the caller; dropping the future
/// gives the request up, though the server may still carry it out.
#[derive(Debug, Clone)]
pub enum Store {
    /// In a table.
    Table(TableStore),
    /// Beside the state.
    Lockfile(LockfileStore),
}

impl Store {
    /// Deletes the lock if, at that very moment and by the server's own judgement, it is the claimed one, and, where a
    /// session claims it, if the session's Terraform can have taken it. `session`: the record that it writes beside its
    /// locks; none where a person decides.
    ///
    /// # Errors
    /// When the store could not be asked, or its answer is not known.
    pub async fn delete_if(&self, claim: &LockClaim, session: Option<&Holder>) -> Result<Claimed<()>, StoreError> {
        match self {
            Self::Table(store) => store.delete_if(claim, session).await,
            Self::Lockfile(store) => store.delete_if(claim, session).await,
        }
    }

    /// Reads the lock, consistently.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    pub async fn read(&self) -> Result<Option<FoundLock>, StoreError> {
        match self {
            Self::Table(store) => store.read().await,
            Self::Lockfile(store) => store.read().await,
        }
    }

    /// Deletes what is there if it is still exactly what was seen, by the server's own judgement.
    ///
    /// # Errors
    /// As of [`Self::delete_if`].
    pub async fn delete_seen(&self, seen: &Sighting) -> Result<Claimed<()>, StoreError> {
        match self {
            Self::Table(store) => store.delete_seen(seen).await,
            Self::Lockfile(store) => store.delete_seen(seen).await,
        }
    }

    /// Writes the holder beside the lock, if the lock is the claimed one and the holder's own. Never changes the lock itself.
    ///
    /// It may land late: what it then meets is the claimed lock, or it does nothing that a reader would believe.
    ///
    /// # Errors
    /// When the store could not be asked, does not want it, or has no room for it.
    pub async fn annotate(&self, claim: &LockClaim, holder: &Holder) -> Result<Claimed<()>, StoreError> {
        match self {
            Self::Table(store) => store.annotate(claim, holder).await,
            Self::Lockfile(store) => store.annotate(claim, holder).await,
        }
    }

    /// Reads the lock, consistently, and what stands beside it. That this alone cannot be read is no error.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    pub async fn look(&self) -> Result<Option<Sighting>, StoreError> {
        match self {
            Self::Table(store) => store.look().await,
            Self::Lockfile(store) => store.look().await,
        }
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

/// A lock of a table's item, and its key. An item with the suffix of digests is one, unless it has `Info`: then it is
/// the lock of a state whose key ends like that.
fn lock_in(item: &HashMap<String, AttributeValue>) -> Option<(String, Sighting)> {
    let key = item.get("LockID")?.as_s().ok()?;
    let is_digest = key.ends_with(DIGEST_SUFFIX) && !item.contains_key("Info");
    (!is_digest).then(|| (key.clone(), Sighting::of_item(item)))
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
