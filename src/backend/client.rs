//! AWS clients that talk to the backend as Terraform does.

use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_types::service_config::ServiceConfigKey;

use crate::lock::{
    Deletion, FoundLock, LockClaim, LockPlace, LockStore, LockfileStore, StoreError, TableStore, UnconditionalDelete,
    no_credentials,
};

use super::attributes::Attributes;
use super::{BackendError, GivenSettings, S3Backend, Surroundings, credentials, http};

/// How often a question is asked at most that a person waits for, where the service is busy or does not answer.
const TRIES: u32 = 3;
/// How long one try and all of them may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(25);

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
        let config = credentials::sdk_config(backend, http::http_client(backend)?).await?;
        Ok(Self { backend: backend.clone(), config })
    }

    /// The same for a table or a bucket as a whole, with settings given by hand and the environment.
    ///
    /// # Errors
    /// When a setting cannot be followed, or there is no region.
    pub async fn connect_given(given: &GivenSettings, surroundings: Surroundings) -> Result<Self, BackendError> {
        Self::connect(&S3Backend::without_state(given.over(Attributes::default()), surroundings)?).await
    }

    /// The region of these clients.
    pub fn region(&self) -> &str {
        self.backend.region()
    }

    /// A place of a whole table's or bucket's kind has this endpoint: that of S3, as far as settings tell.
    pub fn s3_endpoint(&self) -> Option<String> {
        self.backend.s3_endpoint()
    }

    /// The same for DynamoDB.
    pub fn dynamodb_endpoint(&self) -> Option<String> {
        self.backend.dynamodb_endpoint()
    }

    /// A client of S3 for questions that a person waits for: they are asked three times at most, and are answered or
    /// given up within half a minute. Not for the deletion of locks: see [`Self::open`].
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
        let config = credentials::sts_config(&self.backend, &self.config);
        aws_sdk_sts::Client::from_conf(config.retry_config(retries()).timeout_config(timeouts()).build())
    }

    /// When the credentials end, if their source tells; `None` where they do not end or nobody knows. Fetches them.
    ///
    /// # Errors
    /// When no credentials can be had.
    pub async fn credentials_expire(&self) -> Result<Option<SystemTime>, StoreError> {
        let Some(provider) = self.config.credentials_provider() else {
            return Ok(None);
        };
        match provider.provide_credentials().await {
            Ok(credentials) => Ok(credentials.expiry()),
            Err(error) => Err(no_credentials(&error)),
        }
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
        let attributes = &self.backend.attributes;
        let builder = aws_sdk_s3::config::Builder::from(&self.config)
            .region(Region::new(region.to_owned()))
            // Stores that are not AWS's often do not know checksums in trailers.
            .request_checksum_calculation(aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired)
            .force_path_style(attributes.use_path_style.or(attributes.force_path_style).unwrap_or(false));
        match endpoint {
            Some(endpoint) => builder.endpoint_url(endpoint).use_fips(false).use_dual_stack(false),
            None => builder,
        }
    }

    /// The S3 endpoint that the SDK finds in the environment and the shared files, if any.
    fn s3_endpoint_of_sdk(&self) -> Option<String> {
        let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        let found = self.config.service_config().zip(key.ok()).and_then(|(config, key)| config.load_config(key));
        found.or_else(|| self.config.endpoint_url().map(str::to_owned))
    }
}

fn retries() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(TRIES)
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(TRY_TIMEOUT).operation_timeout(TIMEOUT).build()
}

/// Whether an endpoint is AWS's own, whose conditional deletes are known: a VPC endpoint, for instance.
fn is_aws(endpoint: &str) -> bool {
    let host = endpoint.parse::<::http::Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase));
    host.is_some_and(|host| {
        [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|suffix| host.ends_with(suffix))
    })
}

/// One half of a lock, opened.
#[derive(Debug, Clone)]
pub enum Store {
    /// In a table.
    Table(TableStore),
    /// Beside the state.
    Lockfile(LockfileStore),
}

impl LockStore for Store {
    fn place(&self) -> &LockPlace {
        match self {
            Self::Table(store) => store.place(),
            Self::Lockfile(store) => store.place(),
        }
    }

    async fn delete_if(&self, claim: &LockClaim) -> Result<Deletion, StoreError> {
        match self {
            Self::Table(store) => store.delete_if(claim).await,
            Self::Lockfile(store) => store.delete_if(claim).await,
        }
    }

    async fn read(&self) -> Result<Option<FoundLock>, StoreError> {
        match self {
            Self::Table(store) => store.read().await,
            Self::Lockfile(store) => store.read().await,
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
