//! AWS clients that talk to the backend as Terraform does.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_config::timeout::TimeoutConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_types::service_config::ServiceConfigKey;
use jiff::Timestamp;
use serde::Serialize;

use crate::aws::answer::{StoreError, classify, classify_credentials};
use crate::aws::credentials;
use crate::aws::s3::{BackendError, S3Backend};

/// How long one try of a question that a person waits for, and all of them may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(60);

/// When credentials end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialsEnd {
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
    pub(crate) backend: S3Backend,
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

    /// Whether S3 is where these settings say: not where they name another DynamoDB than AWS's and no S3.
    pub(crate) fn knows_s3(&self) -> bool {
        self.backend.s3_endpoint().is_some() || self.backend.dynamodb_endpoint().as_deref().is_none_or(is_aws)
    }

    /// Whether S3 is AWS's own, as far as settings and shared files tell.
    pub fn is_s3_of_aws(&self) -> bool {
        self.backend.s3_endpoint().or_else(|| self.s3_endpoint_of_sdk()).as_deref().is_none_or(is_aws)
    }

    /// A client of S3 for questions that a person waits for: they are asked three times at most, and are answered or
    /// given up within a minute. Not for the deletion of locks: see [`Self::open`].
    pub fn s3(&self) -> aws_sdk_s3::Client {
        let config = self.s3_config(self.backend.region(), self.backend.s3_endpoint().as_deref());
        aws_sdk_s3::Client::from_conf(config.timeout_config(timeouts()).build())
    }

    /// The same for DynamoDB.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let config = self.dynamodb_config(self.backend.region(), self.backend.dynamodb_endpoint().as_deref());
        aws_sdk_dynamodb::Client::from_conf(config.timeout_config(timeouts()).build())
    }

    /// The same for STS.
    pub fn sts(&self) -> aws_sdk_sts::Client {
        let config = aws_sdk_sts::config::Builder::from(&credentials::of_sts(&self.backend, &self.config));
        aws_sdk_sts::Client::from_conf(config.timeout_config(timeouts()).build())
    }

    /// When the credentials end, as far as their source tells. Fetches them.
    ///
    /// # Errors
    /// When no credentials can be had.
    pub async fn credentials_end(&self) -> Result<CredentialsEnd, StoreError> {
        let Some(credentials) = self.fetched().await? else { return Ok(CredentialsEnd::Untold) };
        Ok(match (credentials.expiry(), credentials.session_token()) {
            (Some(end), _) => CredentialsEnd::At(end),
            (None, None) => CredentialsEnd::Never,
            (None, Some(_)) => CredentialsEnd::Untold,
        })
    }

    /// The credentials, fetched. None where no source of them is set up.
    async fn fetched(&self) -> Result<Option<Credentials>, StoreError> {
        let Some(provider) = self.config.credentials_provider() else { return Ok(None) };
        provider.provide_credentials().await.map(Some).map_err(|error| classify_credentials(&error))
    }

    pub(crate) fn dynamodb_config(&self, region: &str, endpoint: Option<&str>) -> aws_sdk_dynamodb::config::Builder {
        let builder = aws_sdk_dynamodb::config::Builder::from(&self.config).region(Region::new(region.to_owned()));
        match endpoint {
            Some(endpoint) => builder.endpoint_url(endpoint).use_fips(false).use_dual_stack(false),
            None => builder,
        }
    }

    pub(crate) fn s3_config(&self, region: &str, endpoint: Option<&str>) -> aws_sdk_s3::config::Builder {
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
    pub(crate) fn s3_endpoint_of_sdk(&self) -> Option<String> {
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

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(TRY_TIMEOUT).operation_timeout(TIMEOUT).build()
}

/// Whether an endpoint is AWS's own S3 or DynamoDB, whose conditional deletes are known: a VPC endpoint, for instance. Hosts
/// of customers are below AWS's domains, too: load balancers, machines, API gateways, endpoint services.
pub(crate) fn is_aws(endpoint: &str) -> bool {
    const OF_A_REGION: [&str; 8] =
        ["s3", "s3-fips", "s3-accesspoint", "s3-accesspoint-fips", "dynamodb", "dynamodb-fips", "ddb", "ddb-fips"];
    // Of each partition, without and with IPv6 (the SDK's `partitions.json`).
    const DOMAINS: [&str; 14] = [
        ".amazonaws.com",
        ".api.aws",
        ".amazonaws.com.cn",
        ".api.amazonwebservices.com.cn",
        ".amazonaws.eu",
        ".api.amazonwebservices.eu",
        ".c2s.ic.gov",
        ".api.aws.ic.gov",
        ".sc2s.sgov.gov",
        ".api.aws.scloud",
        ".cloud.adc-e.uk",
        ".api.cloud-aws.adc-e.uk",
        ".csp.hci.ic.gov",
        ".api.aws.hci.ic.gov",
    ];
    let host = endpoint.parse::<::http::Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase));
    let name = host.as_deref().and_then(|host| DOMAINS.iter().find_map(|domain| host.strip_suffix(domain)));
    // Before a service can stand a bucket, an access point, an account, a VPC endpoint.
    let labels: Vec<&str> = name.unwrap_or_default().split('.').collect();
    match labels.strip_suffix(&["vpce"]).unwrap_or(&labels) {
        [.., "s3-accelerate", "dualstack"] | [.., "s3" | "s3-accelerate" | "s3-external-1"] => true,
        [.., service, "dualstack", region] | [.., service, region] if is_region(region) => {
            OF_A_REGION.contains(service) || service.starts_with("s3express-")
        }
        // The older form: `s3-eu-west-1`.
        [.., service] => ["s3-", "s3-fips-"].iter().any(|of| service.strip_prefix(of).is_some_and(is_region)),
        [] => false,
    }
}

/// Whether a text has the form of a region's name, of two words or more and a number.
fn is_region(text: &str) -> bool {
    text.rsplit_once('-').is_some_and(|(words, number)| {
        let are_words = words.contains('-') && words.bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase());
        are_words && number.parse::<u8>().is_ok()
    })
}

/// The question is a courtesy: nobody waits longer for its answer.
const LONGEST: Duration = Duration::from_secs(8);

/// As whom AWS is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// The ID of the access key, shortened.
    pub key_id: Option<String>,
    /// When the credentials end, where that is known.
    pub expires: Option<Timestamp>,
    /// Account and ARN by STS; none where it was not asked.
    #[serde(flatten)]
    pub identity: Option<Identity>,
    /// Why something of this is not known.
    pub trouble: Option<String>,
}

/// Who STS says the caller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    pub account: String,
    /// The user or the session of a role.
    pub arn: String,
}

impl AwsClients {
    /// As whom AWS is asked. STS is asked only where the endpoints are AWS's, or it has one of its own.
    pub async fn caller(&self) -> Caller {
        let mut caller = Caller { key_id: None, expires: None, identity: None, trouble: None };
        match self.fetched().await {
            Ok(Some(credentials)) => {
                caller.key_id = Some(shortened(credentials.access_key_id()));
                caller.expires = credentials.expiry().and_then(|time| Timestamp::try_from(time).ok());
            }
            unknown => {
                let why = unknown.err().map(|error| error.to_string());
                caller.trouble = why.or_else(|| Some("there are no credentials".to_owned()));
                return caller;
            }
        }
        let elsewhere =
            [self.backend.s3_endpoint(), self.backend.dynamodb_endpoint()].iter().flatten().any(|url| !is_aws(url));
        if elsewhere && self.backend.endpoints.sts.is_none() {
            return caller;
        }
        match tokio::time::timeout(LONGEST, self.identity()).await {
            Ok(Ok(identity)) => caller.identity = Some(identity),
            Ok(Err(error)) => caller.trouble = Some(error.to_string()),
            Err(_) => caller.trouble = Some("STS does not answer".to_owned()),
        }
        caller
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        let answer = self.sts().get_caller_identity().send().await;
        let answer = answer.map_err(|error| classify("sts:GetCallerIdentity", error))?;
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        Ok(Identity { account: text(answer.account()), arn: text(answer.arn()) })
    }
}

/// The ends of an ID: enough to recognise it.
fn shortened(id: &str) -> String {
    let chars: Vec<char> = id.chars().collect();
    match chars.len() {
        12.. => chars[..4].iter().chain(&['…']).chain(&chars[chars.len() - 4..]).collect(),
        _ => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_aws_is_taken_for_aws() {
        for aws in [
            "s3.amazonaws.com",
            "bucket.s3.amazonaws.com",
            "s3.eu-west-1.amazonaws.com",
            "S3.EU-West-1.amazonaws.com",
            "my.bucket.s3.us-gov-west-1.amazonaws.com",
            "s3-eu-west-1.amazonaws.com",
            "bucket.s3-eu-west-1.amazonaws.com",
            "s3-external-1.amazonaws.com",
            "s3-fips.us-east-1.amazonaws.com",
            "s3-fips-us-gov-west-1.amazonaws.com",
            "s3.dualstack.eu-west-1.amazonaws.com",
            "bucket.s3-fips.dualstack.us-east-1.amazonaws.com",
            "bucket.s3-accelerate.amazonaws.com",
            "bucket.s3-accelerate.dualstack.amazonaws.com",
            "ap-123456789012.s3-accesspoint.eu-west-1.amazonaws.com",
            "ap-123456789012.s3-accesspoint-fips.dualstack.us-east-1.amazonaws.com",
            "bucket--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com",
            "bucket.vpce-0abc-xyz.s3.eu-west-1.vpce.amazonaws.com:443/x",
            "vpce-0abc-xyz-eu-west-1a.s3.eu-west-1.vpce.amazonaws.com",
            "vpce-0abc-xyz.dynamodb.eu-west-1.vpce.amazonaws.com",
            "s3.cn-north-1.amazonaws.com.cn",
            "dynamodb.cn-north-1.amazonaws.com.cn",
            "dynamodb.eusc-de-east-1.amazonaws.eu",
            "s3.us-iso-east-1.c2s.ic.gov",
            "dynamodb-fips.us-east-1.amazonaws.com",
            "123456789012.ddb.eu-west-1.amazonaws.com",
            "dynamodb.eu-west-1.api.aws",
            "123456789012.ddb.eu-west-1.api.aws",
        ] {
            assert!(is_aws(&format!("https://{aws}")), "{aws}");
        }
        for other in [
            "http://127.0.0.1:5000",
            "https://amazonaws.com.example.net",
            "https://s3.example.net/.amazonaws.com",
            "https://user.amazonaws.com@example.net",
            "https://notamazonaws.com",
            "https://nots3.amazonaws.com",
            "https://amazonaws.com",
            // Load balancers, old and new, machines, gateways, and the services of customers behind a VPC endpoint.
            "https://minio-1.eu-west-1.elb.amazonaws.com",
            "https://s3.eu-west-1.elb.amazonaws.com",
            "https://dualstack.s3-1.eu-west-1.elb.amazonaws.com",
            "https://s3-0abc.elb.eu-west-1.amazonaws.com",
            "https://ec2-1-2-3-4.compute-1.amazonaws.com",
            "https://ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",
            "https://ec2-1-2-3-4.cn-north-1.compute.amazonaws.com.cn",
            "https://abc.execute-api.eu-west-1.amazonaws.com",
            "https://abc-vpce-0abc.execute-api.eu-west-1.amazonaws.com",
            "https://vpce-0abc-xyz.execute-api.eu-west-1.vpce.amazonaws.com",
            "https://vpce-0abc-xyz.vpce-svc-0abc.eu-west-1.vpce.amazonaws.com",
            "https://vpce-svc-0abc.eu-west-1.vpce.amazonaws.com",
            "https://lambda-123456789012.s3-object-lambda.eu-west-1.amazonaws.com",
            "https://abc.execute-api.eu-west-1.api.aws",
            "no url",
        ] {
            assert!(!is_aws(other), "{other}");
        }
    }

    #[test]
    fn an_id_is_shortened() {
        assert_eq!(shortened("AKIATESTBEDTESTBED00"), "AKIA…ED00");
        assert_eq!(shortened("short"), "…");
        assert_eq!(shortened(""), "…");
    }
}
