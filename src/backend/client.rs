//! AWS clients that talk to the backend as Terraform does.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_types::service_config::ServiceConfigKey;

use crate::holder::Holder;
use crate::lock::{
    Annotation, BucketPages, Deletion, FoundLock, HeldLock, HolderStore, LockClaim, LockPlace, LockStore,
    LockfileStore, Sighting, StoreError, TablePages, TableStore, UnconditionalDelete, lockfile_key, no_credentials,
    object_exists,
};
use crate::shell::without_user;

use super::{BackendError, GivenSettings, S3Backend, Surroundings, credentials};

/// How often a question is asked at most that a person waits for, where the service is busy or does not answer.
const TRIES: u32 = 3;
/// How long one try and all of them may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(60);

/// When credentials end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialsEnd {
    /// Then.
    At(SystemTime),
    /// Keys of a user, without a token.
    Never,
    /// They are of a session, and their source does not tell when it ends.
    Untold,
}

/// Clients for the services that hold locks, with the credentials, proxies and authorities Terraform would use.
///
/// Clones share connections and fetched credentials.
#[derive(Debug, Clone)]
pub struct AwsClients {
    backend: S3Backend,
    config: SdkConfig,
}

impl AwsClients {
    /// Makes the clients. No request is sent yet: credentials are fetched with the first one.
    ///
    /// # Errors
    /// When a setting cannot be followed.
    pub async fn connect(backend: &S3Backend) -> Result<Self, BackendError> {
        let config = credentials::sdk_config(backend).await?;
        Ok(Self { backend: backend.clone(), config })
    }

    /// The same for a table or a bucket as a whole, with settings given by hand and the environment.
    ///
    /// # Errors
    /// When a setting cannot be followed, or there is no region.
    pub async fn connect_given(given: &GivenSettings, surroundings: Surroundings) -> Result<Self, BackendError> {
        Self::connect(&S3Backend::without_state(given.alone(), surroundings)?).await
    }

    /// Clients for a cleanup step, which follows no file of the checkout: with the environment's credentials where such a file
    /// would have to be followed.
    ///
    /// # Errors
    /// When a setting cannot be followed.
    pub async fn connect_trusting_no_checkout(backend: &S3Backend) -> Result<Self, BackendError> {
        match Self::connect(backend).await {
            Err(error @ BackendError::InCheckout { .. }) => {
                tracing::warn!("{error}. The environment's credentials are used instead");
                Self::connect(&backend.with_credentials_of_environment()).await
            }
            connected => connected,
        }
    }

    /// Whether the credentials are the environment's, and Terraform had perhaps others.
    pub fn is_by_environment(&self) -> bool {
        self.backend.is_by_environment
    }

    /// The region of these clients.
    pub fn region(&self) -> &str {
        self.backend.region()
    }

    /// The endpoint of S3, as far as settings tell it.
    pub fn s3_endpoint(&self) -> Option<String> {
        self.backend.s3_endpoint()
    }

    /// The same for DynamoDB.
    pub fn dynamodb_endpoint(&self) -> Option<String> {
        self.backend.dynamodb_endpoint()
    }

    /// Whether S3 is where these settings say: not where they name another DynamoDB than AWS's and no S3.
    pub(crate) fn knows_s3(&self) -> bool {
        self.s3_endpoint().is_some() || self.dynamodb_endpoint().as_deref().is_none_or(is_aws)
    }

    /// Whether S3 is AWS's own, as far as settings and shared files tell.
    pub fn is_s3_of_aws(&self) -> bool {
        self.s3_endpoint().or_else(|| self.s3_endpoint_of_sdk()).as_deref().is_none_or(is_aws)
    }

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

    /// A client of S3 for questions that a person waits for: they are asked three times at most, and are answered or
    /// given up within a minute. Not for the deletion of locks: see [`Self::open`].
    pub fn s3(&self) -> aws_sdk_s3::Client {
        let config = self.s3_config(self.region(), self.s3_endpoint().as_deref());
        aws_sdk_s3::Client::from_conf(config.retry_config(retries()).timeout_config(timeouts()).build())
    }

    /// The same for DynamoDB.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let config = self.dynamodb_config(self.region(), self.dynamodb_endpoint().as_deref());
        aws_sdk_dynamodb::Client::from_conf(config.retry_config(retries()).timeout_config(timeouts()).build())
    }

    /// The same for STS.
    pub fn sts(&self) -> aws_sdk_sts::Client {
        let config = aws_sdk_sts::config::Builder::from(&credentials::of_sts(&self.backend, &self.config));
        aws_sdk_sts::Client::from_conf(config.retry_config(retries()).timeout_config(timeouts()).build())
    }

    /// When the credentials end, as far as their source tells. Fetches them.
    ///
    /// # Errors
    /// When no credentials can be had.
    pub async fn credentials_end(&self) -> Result<CredentialsEnd, StoreError> {
        let Some(provider) = self.credentials() else {
            return Ok(CredentialsEnd::Untold);
        };
        match provider.provide_credentials().await {
            Ok(credentials) => Ok(match (credentials.expiry(), credentials.session_token()) {
                (Some(end), _) => CredentialsEnd::At(end),
                (None, None) => CredentialsEnd::Never,
                (None, Some(_)) => CredentialsEnd::Untold,
            }),
            Err(error) => Err(no_credentials(&error)),
        }
    }

    /// Where the credentials come from.
    pub(super) fn credentials(&self) -> Option<SharedCredentialsProvider> {
        self.config.credentials_provider()
    }

    /// Whether settings name an endpoint of STS.
    pub(super) fn has_sts_endpoint(&self) -> bool {
        self.backend.endpoints.sts.is_some()
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

    fn dynamodb_config(&self, region: &str, endpoint: Option<&str>) -> aws_sdk_dynamodb::config::Builder {
        let builder = aws_sdk_dynamodb::config::Builder::from(&self.config).region(Region::new(region.to_owned()));
        match endpoint {
            Some(endpoint) => builder.endpoint_url(endpoint).use_fips(false).use_dual_stack(false),
            None => builder,
        }
    }

    fn s3_config(&self, region: &str, endpoint: Option<&str>) -> aws_sdk_s3::config::Builder {
        let builder = aws_sdk_s3::config::Builder::from(&self.config)
            .region(Region::new(region.to_owned()))
            // Stores that are not AWS's often do not know checksums in trailers.
            .request_checksum_calculation(aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired)
            .force_path_style(self.backend.uses_path_style());
        match (endpoint, self.s3_endpoint_of_sdk()) {
            (Some(endpoint), _) => builder.endpoint_url(as_directory(endpoint)).use_fips(false).use_dual_stack(false),
            (None, Some(endpoint)) => builder.endpoint_url(as_directory(&endpoint)),
            (None, None) => builder,
        }
    }

    /// The S3 endpoint that the SDK finds in the environment and the shared files, if any.
    fn s3_endpoint_of_sdk(&self) -> Option<String> {
        let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        let found = self.config.service_config().zip(key.ok()).and_then(|(config, key)| config.load_config(key));
        found.or_else(|| self.config.endpoint_url().map(str::to_owned))
    }
}

/// An endpoint as the SDK needs it: it puts a bucket right behind the path, with no slash between them, where the SDK
/// for Go puts one (`NormalizedPath` of an endpoint's rules ends with it).
fn as_directory(endpoint: &str) -> Cow<'_, str> {
    if endpoint.ends_with('/') { endpoint.into() } else { format!("{endpoint}/").into() }
}

fn retries() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(TRIES)
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(TRY_TIMEOUT).operation_timeout(TIMEOUT).build()
}

/// Whether an endpoint is AWS's own, whose conditional deletes are known: a VPC endpoint, for instance.
pub(super) fn is_aws(endpoint: &str) -> bool {
    let host = endpoint.parse::<::http::Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase));
    host.is_some_and(|host| {
        [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|suffix| host.ends_with(suffix))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_aws_is_taken_for_aws() {
        for aws in ["https://s3.eu-west-1.amazonaws.com", "https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com:443/x"]
        {
            assert!(is_aws(aws), "{aws}");
        }
        for other in [
            "http://127.0.0.1:5000",
            "https://amazonaws.com.example.net",
            "https://s3.example.net/.amazonaws.com",
            "https://user.amazonaws.com@example.net",
            "https://notamazonaws.com",
            "no url",
        ] {
            assert!(!is_aws(other), "{other}");
        }
    }
}
