//! AWS clients that talk to the backend as Terraform does.

use std::time::SystemTime;

use aws_config::retry::RetryConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_types::service_config::ServiceConfigKey;

use crate::lock::{
    Deletion, FoundLock, LockClaim, LockPlace, LockStore, LockfileStore, StoreError, TableStore, UnconditionalDelete,
    no_credentials,
};

use super::{BackendError, S3Backend, credentials, http};

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
                let mut builder = aws_sdk_dynamodb::config::Builder::from(&self.config)
                    .region(Region::new(region.clone()))
                    // The release decides when to ask again.
                    .retry_config(RetryConfig::disabled());
                if let Some(endpoint) = endpoint {
                    builder = builder.endpoint_url(endpoint).use_fips(false).use_dual_stack(false);
                }
                let client = aws_sdk_dynamodb::Client::from_conf(builder.build());
                Store::Table(TableStore::new(client, table.clone(), lock_id.clone(), place.clone()))
            }
            LockPlace::Lockfile { bucket, key, region, endpoint } => {
                let attributes = &self.backend.attributes;
                let mut builder = aws_sdk_s3::config::Builder::from(&self.config)
                    .region(Region::new(region.clone()))
                    .retry_config(RetryConfig::disabled())
                    // Stores that are not AWS's often do not know checksums in trailers.
                    .request_checksum_calculation(aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired)
                    .force_path_style(attributes.use_path_style.or(attributes.force_path_style).unwrap_or(false));
                if let Some(endpoint) = endpoint {
                    builder = builder.endpoint_url(endpoint).use_fips(false).use_dual_stack(false);
                }
                let client = aws_sdk_s3::Client::from_conf(builder.build());
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

    /// The S3 endpoint that the SDK finds in the environment and the shared files, if any.
    fn s3_endpoint_of_sdk(&self) -> Option<String> {
        let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        let found = self.config.service_config().zip(key.ok()).and_then(|(config, key)| config.load_config(key));
        found.or_else(|| self.config.endpoint_url().map(str::to_owned))
    }
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
