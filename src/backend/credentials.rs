//! Credentials in the order in which Terraform's AWS library looks for them.
//!
//! The order is that of aws-sdk-go-base (`getCredentialsProvider`) and of the AWS SDK for Go beneath it
//! (`resolveCredentialChain`): keys in the backend block; a web identity there; a profile named there; keys in the
//! environment; a web identity in the environment; then the profile, SSO, container and instance sources, which the
//! Rust SDK's own chain tries in the same order. Roles in the block are assumed on top. The SDK reads the environment of
//! [`super::Surroundings`], not of this process, with one exception: a profile's `credential_process` is run with the
//! environment of this process.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::profile::ProfileSet;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::os_shim_internal::Env;

use crate::lock::told;

use super::attributes::{Role, WebIdentity};
use super::profile::SharedFiles;
use super::role::{Assume, RoleProvider, Token};
use super::s3::set;
use super::shared_file::alias;
use super::{BackendError, S3Backend, http, profile};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// For all steps together: SSO, then a role, then another. Shorter than an attempt of a release, whose error would not
/// say that it was the credentials.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(6);

const KEY_ID: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"];
const SECRET: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"];

/// The SDK's configuration for the backend's region, with the credentials Terraform would use. Nothing is fetched yet.
pub(super) async fn sdk_config(backend: &S3Backend) -> Result<SdkConfig, BackendError> {
    let env = Env::from(environment(backend));
    let files = profile::read(backend);
    let profiles = profile::load(backend, &env, &files).await?;
    let http = http::http_client(backend, profiles.get("ca_bundle"))?;
    let mut config = load(backend, env, http, &files).await;
    let (base, mut roles) = match on_environment(backend, &profiles) {
        Some((keys, roles)) => (Some(Base::Keys(keys)), roles),
        None => (base(backend, &config)?, Vec::new()),
    };
    let found = match base {
        Some(base) => Some(provider::SharedCredentialsProvider::new(base)),
        None => {
            profile_is_there(backend, &profiles, &files)?;
            let by_sdk = config.credentials_provider().filter(|_| !files.unread.is_empty());
            by_sdk.map(|by_sdk| provider::SharedCredentialsProvider::new(WithoutFiles(by_sdk, files.unread)))
        }
    };
    if let Some(found) = found {
        config = config.into_builder().credentials_provider(found).build();
    }
    roles.extend(backend.attributes.roles());
    for role in roles {
        let assumed = RoleProvider::new(sts(backend, &config), Assume::Role(role))?;
        config = config
            .into_builder()
            .credentials_provider(provider::SharedCredentialsProvider::new(assumed))
            // Cached are the credentials of the step before.
            .identity_cache(identity_cache())
            .build();
    }
    Ok(config)
}

/// What the SDK finds by itself in Terraform's environment and in the shared files.
async fn load(backend: &S3Backend, env: Env, http: SharedHttpClient, files: &SharedFiles) -> SdkConfig {
    let attributes = &backend.attributes;
    let variable = |name: &str| backend.surroundings.var(name);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .env(env)
        .http_client(http)
        .profile_files(files.contents.clone())
        .region(Region::new(backend.region().to_owned()))
        .retry_config(RetryConfig::standard())
        .identity_cache(identity_cache())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build());
    if let Some(profile) = profile::selected(backend) {
        loader = loader.profile_name(profile);
    }
    // Up to 1.14 Terraform took any text of the variables for yes, also "false". No store is out of reach for those who
    // are taken at their word: the same is behind both kinds of endpoints.
    let wanted = |name| {
        let no = |text: &str| ["0", "f", "false"].iter().any(|no| text.eq_ignore_ascii_case(no));
        variable(name).is_some_and(|text| !no(text))
    };
    if attributes.use_fips_endpoint.unwrap_or_else(|| wanted("AWS_USE_FIPS_ENDPOINT")) {
        loader = loader.use_fips(true);
    }
    if attributes.use_dualstack_endpoint.unwrap_or_else(|| wanted("AWS_USE_DUALSTACK_ENDPOINT")) {
        loader = loader.use_dual_stack(true);
    }
    loader.load().await
}

fn identity_cache() -> aws_sdk_sts::config::SharedIdentityCache {
    IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT).build()
}

/// Terraform's environment, with the backend's attributes in those variables that say the same to the SDK.
fn environment(backend: &S3Backend) -> HashMap<String, String> {
    let attributes = &backend.attributes;
    let mut env: HashMap<String, String> = backend
        .surroundings
        .env
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned())))
        .collect();
    // An empty variable is an unset one, for Go.
    env.retain(|name, value| !(name.starts_with("AWS_") && value.is_empty()));
    // The other name of it that the SDK for Go knows.
    if let Some(profile) = env.get("AWS_DEFAULT_PROFILE").cloned() {
        env.entry("AWS_PROFILE".to_owned()).or_insert(profile);
    }
    if let Some(profile) = env.get_mut("AWS_PROFILE") {
        *profile = alias(profile).into_owned();
    }
    // What is relative is so to Terraform's directory.
    if let Some(home) = backend.surroundings.home() {
        env.insert("HOME".to_owned(), home.display().to_string());
    }
    if let Some(token) = env.get_mut("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        *token = backend.surroundings.dir.join(&*token).display().to_string();
    }
    // A profile that the block names wins over keys in the environment.
    let keys = keys(backend).filter(|_| set(&attributes.profile).is_none());
    for name in KEY_ID.into_iter().chain(SECRET).chain(["SECRET_ACCESS_KEY"]) {
        env.remove(name);
    }
    match keys {
        Some((id, secret)) => {
            env.insert(KEY_ID[0].to_owned(), id.to_owned());
            env.insert(SECRET[0].to_owned(), secret.to_owned());
        }
        None => {
            env.remove("AWS_SESSION_TOKEN");
        }
    }
    // Those in the environment are asked before the profile, in `base`.
    env.remove("AWS_WEB_IDENTITY_TOKEN_FILE");

    let metadata = set(&attributes.ec2_metadata_service_endpoint)
        .or_else(|| backend.surroundings.var("AWS_EC2_METADATA_SERVICE_ENDPOINT"))
        .or_else(|| backend.surroundings.var("AWS_METADATA_URL"));
    let settings = [
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", set(&attributes.ec2_metadata_service_endpoint_mode)),
        (
            "AWS_EC2_METADATA_DISABLED",
            attributes.skip_metadata_api_check.map(|skip| if skip { "true" } else { "false" }),
        ),
        ("AWS_ENDPOINT_URL_STS", backend.endpoints.sts.as_deref()),
        ("AWS_ENDPOINT_URL_SSO", backend.endpoints.sso.as_deref()),
    ];
    for (name, value) in settings {
        if let Some(value) = value {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    env
}

/// The keys in the environment. Half a key is none.
fn keys(backend: &S3Backend) -> Option<(&str, &str)> {
    let either = |names: [&str; 2]| names.into_iter().find_map(|name| backend.surroundings.var(name));
    either(KEY_ID).zip(either(SECRET))
}

/// The keys in the environment and the roles to assume by them, where a profile that the block names says so.
fn on_environment(backend: &S3Backend, profiles: &ProfileSet) -> Option<(Credentials, Vec<Role>)> {
    let attributes = &backend.attributes;
    let in_block = [&attributes.access_key, &attributes.secret_key, &attributes.token];
    if in_block.into_iter().any(|part| set(part).is_some()) || web_identity(backend).is_some() {
        return None;
    }
    set(&attributes.profile)?;
    let roles = profile::roles_on_environment(profiles)?;
    let (id, secret) = keys(backend)?;
    let token = backend.surroundings.var("AWS_SESSION_TOKEN").map(str::to_owned);
    Some((Credentials::new(id, secret, token, None, "environment"), roles))
}

/// Where a profile is named and nothing comes before it, no other credentials will do: the SDK would pass over one that
/// is not there, and take those of the machine.
fn profile_is_there(backend: &S3Backend, profiles: &ProfileSet, files: &SharedFiles) -> Result<(), BackendError> {
    let variable = |name| backend.surroundings.var(name).filter(|_| keys(backend).is_none());
    let named = set(&backend.attributes.profile)
        .or_else(|| variable("AWS_PROFILE"))
        .or_else(|| variable("AWS_DEFAULT_PROFILE"));
    let Some(name) = named.filter(|_| profiles.get_profile(profiles.selected_profile()).is_none()) else {
        return Ok(());
    };
    let unread: String = files.unread.iter().map(|file| format!("; {file}")).collect();
    let reason = format!("the profile {name:?} of it or of AWS_PROFILE is in none of the shared files{unread}");
    Err(BackendError::Unusable { setting: "profile", reason })
}

/// The web identity in the block.
fn web_identity(backend: &S3Backend) -> Option<&WebIdentity> {
    backend.attributes.assume_role_with_web_identity.as_ref()?.as_slice().first()
}

/// The first source, where it is not the SDK's own chain.
fn base(backend: &S3Backend, config: &SdkConfig) -> Result<Option<Base>, BackendError> {
    let attributes = &backend.attributes;
    let (id, secret, token) = (set(&attributes.access_key), set(&attributes.secret_key), set(&attributes.token));
    if id.is_some() || secret.is_some() || token.is_some() {
        let missing = |setting| BackendError::Unusable { setting, reason: "only a part of a key is set".to_owned() };
        let id = id.ok_or(missing("access_key"))?;
        let secret = secret.ok_or(missing("secret_key"))?;
        let token = token.map(str::to_owned);
        return Ok(Some(Base::Keys(Credentials::new(id, secret, token, None, "backend block"))));
    }
    let variable = |name: &str| backend.surroundings.var(name);
    let identity = match web_identity(backend) {
        Some(block) => block.clone(),
        None if set(&attributes.profile).is_some() || keys(backend).is_some() => return Ok(None),
        None if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_none() => return Ok(None),
        None => WebIdentity::default(),
    };
    // What the block leaves out comes from the environment: OpenTofu does so, Terraform refuses such a block.
    let or = |own: &Option<String>, name: &str| set(own).or_else(|| variable(name)).map(str::to_owned);
    let token = match set(&identity.web_identity_token) {
        Some(token) => Token::Text(token.to_owned()),
        None => match (set(&identity.web_identity_token_file), variable("AWS_WEB_IDENTITY_TOKEN")) {
            (None, Some(token)) => Token::Text(token.to_owned()),
            (file, _) => {
                let file = file.or_else(|| variable("AWS_WEB_IDENTITY_TOKEN_FILE"));
                Token::File(backend.path(file.ok_or(BackendError::Unusable {
                    setting: "assume_role_with_web_identity",
                    reason: "it has neither a token nor a token file".to_owned(),
                })?))
            }
        },
    };
    let identity = WebIdentity {
        role_arn: or(&identity.role_arn, "AWS_ROLE_ARN"),
        session_name: or(&identity.session_name, "AWS_ROLE_SESSION_NAME"),
        ..identity
    };
    let provider = RoleProvider::new(sts(backend, config), Assume::WebIdentity(identity, token))?;
    Ok(Some(Base::WebIdentity(Box::new(provider))))
}

/// A client of STS with the credentials of `config`.
fn sts(backend: &S3Backend, config: &SdkConfig) -> aws_sdk_sts::Client {
    aws_sdk_sts::Client::from_conf(sts_config(backend, config).build())
}

/// What such a client is made of.
pub(super) fn sts_config(backend: &S3Backend, config: &SdkConfig) -> aws_sdk_sts::config::Builder {
    let mut builder = aws_sdk_sts::config::Builder::from(config);
    if let Some(region) = set(&backend.attributes.sts_region) {
        builder = builder.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = &backend.endpoints.sts {
        builder = builder.endpoint_url(endpoint).use_fips(false).use_dual_stack(false);
    }
    builder
}

/// What the SDK finds although these files could not be read.
#[derive(Debug)]
struct WithoutFiles(provider::SharedCredentialsProvider, Vec<String>);

impl ProvideCredentials for WithoutFiles {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let found = self.0.provide_credentials().await;
            found.map_err(|error| {
                let unread = self.1.join("; ");
                CredentialsError::not_loaded(format!("{}; a shared file cannot be read: {unread}", told(&error)))
            })
        })
    }
}

#[derive(Debug)]
enum Base {
    Keys(Credentials),
    WebIdentity(Box<RoleProvider>),
}

impl ProvideCredentials for Base {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        match self {
            Self::Keys(credentials) => future::ProvideCredentials::ready(Ok(credentials.clone())),
            Self::WebIdentity(provider) => provider.provide_credentials(),
        }
    }
}
