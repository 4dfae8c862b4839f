//! The two kinds of store behind one type, and how they are opened.

use aws_config::retry::RetryConfig;

use crate::aws::{AwsClients, StoreError, is_aws};
use crate::model::{FoundLock, HeldLock, Holder, LockClaim, LockPlace, Sighting, lockfile_key};
use crate::store::dynamodb::TableStore;
use crate::store::listing::object_exists;
use crate::store::lock_store::{Annotation, Deletion, HolderStore, LockStore};
use crate::store::lockfile::{LockfileStore, UnconditionalDelete};
use crate::store::{BucketPages, TablePages};
use crate::text::without_user;

/// What these clients open.
impl AwsClients {
    /// All locks of a table of this region.
    pub fn table_pages(&self, table: &str) -> TablePages {
        TablePages::new(self.dynamodb(), table.to_owned())
    }

    /// All lockfiles below a prefix of a bucket of this region.
    pub fn bucket_pages(&self, bucket: &str, prefix: &str) -> BucketPages {
        BucketPages::new(self.s3(), bucket.to_owned(), prefix.to_owned())
    }

    /// Opens many places of this region and endpoint, to be looked at only.
    pub fn reader(&self) -> Reader {
        Reader { clients: self.clone(), s3: self.s3(), dynamodb: self.dynamodb() }
    }

    /// Opens one half of a lock, in the region and at the endpoint that the place names. `unconditional` says what to
    /// do with a lockfile in a store that keeps no conditions.
    pub fn open(&self, place: &LockPlace, unconditional: UnconditionalDelete) -> Store {
        match place {
            LockPlace::DynamoDb { table, lock_id, region, endpoint } => {
                // The release decides when to ask again.
                let config = self.dynamodb_config(region, endpoint.as_deref()).retry_config(RetryConfig::disabled());
                let client = aws_sdk_dynamodb::Client::from_conf(config.build());
                Store::Table(TableStore::new(client, table.clone(), lock_id.clone(), place.clone()))
            }
            LockPlace::Lockfile { bucket, key, region, endpoint } => {
                let config = self.s3_config(region, endpoint.as_deref()).retry_config(RetryConfig::disabled());
                let client = aws_sdk_s3::Client::from_conf(config.build());
                Store::Lockfile(LockfileStore::new(
                    client,
                    (bucket.clone(), key.clone()),
                    place.clone(),
                    self.backend.customer_key.clone(),
                    unconditional,
                    endpoint.clone().or_else(|| self.s3_endpoint_of_sdk()).as_deref().is_none_or(is_aws),
                ))
            }
        }
    }
}

/// Looks at locks and states, many at a time.
#[derive(Debug, Clone)]
pub struct Reader {
    clients: AwsClients,
    s3: aws_sdk_s3::Client,
    dynamodb: aws_sdk_dynamodb::Client,
}

impl Reader {
    /// Where the table half of a state's lock lives. `lock_id`: `<bucket>/<state key>`.
    pub fn table_place(&self, table: &str, lock_id: &str) -> LockPlace {
        LockPlace::DynamoDb {
            table: table.to_owned(),
            lock_id: lock_id.to_owned(),
            region: self.clients.region().to_owned(),
            endpoint: self.clients.dynamodb_endpoint().map(without_user),
        }
    }

    /// Where the file half of a state's lock lives.
    pub fn file_place(&self, bucket: &str, state_key: &str) -> LockPlace {
        LockPlace::Lockfile {
            bucket: bucket.to_owned(),
            key: lockfile_key(state_key),
            region: self.clients.region().to_owned(),
            endpoint: self.clients.s3_endpoint().map(without_user),
        }
    }

    /// Looks at one half of a lock. A table is read consistently.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    pub async fn look(&self, place: &LockPlace) -> Result<Option<Sighting>, StoreError> {
        match place {
            LockPlace::DynamoDb { table, lock_id, .. } => {
                TableStore::new(self.dynamodb.clone(), table.clone(), lock_id.clone(), place.clone()).look().await
            }
            LockPlace::Lockfile { bucket, key, .. } => {
                let at = (bucket.clone(), key.clone());
                let customer_key = self.clients.backend.customer_key.clone();
                let refuse = UnconditionalDelete::Refuse;
                LockfileStore::new(self.s3.clone(), at, place.clone(), customer_key, refuse, false).look().await
            }
        }
    }

    /// Whether a state's object is there.
    ///
    /// # Errors
    /// When the bucket could not be asked. S3 denies the question about a missing object to those who may not list
    /// the bucket.
    pub async fn state_exists(&self, bucket: &str, state_key: &str) -> Result<bool, StoreError> {
        object_exists(&self.s3, bucket, state_key, self.clients.backend.customer_key.as_ref()).await
    }
}

/// One half of a lock, opened.
#[derive(Debug, Clone)]
pub enum Store {
    /// In a table.
    Table(TableStore),
    /// Beside the state.
    Lockfile(LockfileStore),
}

impl Store {
    /// Reads what is there, for a person to look at.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    pub async fn look(&self) -> Result<Option<Sighting>, StoreError> {
        match self {
            Self::Table(store) => store.look().await,
            Self::Lockfile(store) => store.look().await,
        }
    }

    /// Deletes what is there if it is still exactly what was seen, by the server's own judgement.
    ///
    /// # Errors
    /// As of [`LockStore::delete_if`].
    pub async fn delete_seen(&self, seen: &Sighting) -> Result<Deletion, StoreError> {
        match self {
            Self::Table(store) => store.delete_seen(seen).await,
            Self::Lockfile(store) => store.delete_seen(seen).await,
        }
    }
}

impl LockStore for Store {
    fn place(&self) -> &LockPlace {
        match self {
            Self::Table(store) => store.place(),
            Self::Lockfile(store) => store.place(),
        }
    }

    async fn delete_if(&self, claim: &LockClaim, session: Option<&Holder>) -> Result<Deletion, StoreError> {
        match self {
            Self::Table(store) => store.delete_if(claim, session).await,
            Self::Lockfile(store) => store.delete_if(claim, session).await,
        }
    }

    async fn read(&self) -> Result<Option<FoundLock>, StoreError> {
        match self {
            Self::Table(store) => store.read().await,
            Self::Lockfile(store) => store.read().await,
        }
    }
}

impl HolderStore for Store {
    async fn annotate(&self, claim: &LockClaim, holder: &Holder) -> Result<Annotation, StoreError> {
        match self {
            Self::Table(store) => store.annotate(claim, holder).await,
            Self::Lockfile(store) => store.annotate(claim, holder).await,
        }
    }

    async fn read_held(&self) -> Result<Option<HeldLock>, StoreError> {
        match self {
            Self::Table(store) => store.read_held().await,
            Self::Lockfile(store) => store.read_held().await,
        }
    }
}
