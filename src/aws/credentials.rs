//! Credentials in the order in which Terraform's AWS library looks for them.
//!
//! The order is that of aws-sdk-go-base (`getCredentialsProvider`) and of the AWS SDK for Go beneath it
//! (`resolveCredentialChain`): keys in the backend block; a web identity there; a profile named there; keys in the
//! environment; a web identity in the environment; then the profile, SSO, container and instance sources, which the
//! Rust SDK's own chain tries in the same order. Roles in the block are assumed on top. The SDK reads the environment of
//! [`Surroundings`](crate::aws::Surroundings), not of this process, with two exceptions: a profile's `credential_process` is run with the
//! environment of this process, and the system's certificates are looked for by it.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use aws_config::identity::IdentityCache;
use aws_config::profile::ProfileSet;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::credential_fn::provide_credentials_fn;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_credential_types::{Credentials, provider};
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_sdk_sts::types::PolicyDescriptorType;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::os_shim_internal::Env;

use crate::aws::attributes::{Role, WebIdentity, set};
use crate::aws::paths::{check, read};
use crate::aws::s3::{BackendError, Kept, NOT_SENDABLE, S3Backend, sendable};
use crate::aws::{http, profile};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// For all steps together: SSO, then a role, then another. Shorter than an attempt of a release, whose error would not
/// say that it was the credentials.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(6);
/// The same for the source, so that kept ones can be given in its place.
const SOURCE_TIMEOUT: Duration = Duration::from_millis(5500);
/// The name of a role's session, where the settings give none. Terraform takes the time in nanoseconds.
pub(crate) const SESSION_NAME: &str = "tfguard";
/// How many seconds the session of a role lasts, where the settings do not say: the shortest that STS gives.
const ROLE_SECONDS: u16 = 900;

const KEY_ID: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"];
const SECRET: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"];

/// The SDK's configuration for the backend's region, with the credentials Terraform would use. Nothing is fetched yet.
pub(crate) async fn sdk_config(backend: &S3Backend) -> Result<SdkConfig, BackendError> {
    let env = Env::from(environment(backend));
    let (files, profiles) = profile::read(backend, &env).await?;
    check_tokens(backend, &profiles)?;
    let http = http::http_client(backend, profiles.get("ca_bundle"))?;
    let mut config = load(backend, env, http, files).await;
    match base(backend, &config)? {
        Some(base) => config = config.into_builder().credentials_provider(base).build(),
        None => profile::check(backend, &profiles)?,
    }
    if let Some(source) = config.credentials_provider() {
        config = config.into_builder().credentials_provider(checked(source)).build();
    }
    for role in backend.attributes.roles() {
        let assumed = assume(backend, &role, &config).await?;
        config = config
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(assumed))
            // Cached are the credentials of the step before.
            .identity_cache(identity_cache())
            .build();
    }
    let Some(source) = config.credentials_provider() else { return Ok(config) };
    let builder = config.into_builder().credentials_provider(keeping(source, backend.kept.clone()));
    Ok(builder.identity_cache(identity_cache()).build())
}

/// Looks at the files that the SDK opens itself when it fetches credentials: it would wait for whoever writes into a FIFO, and
/// all of tfguard with it, and read a device without end.
fn check_tokens(backend: &S3Backend, profiles: &ProfileSet) -> Result<(), BackendError> {
    const CONTAINER: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
    const IDENTITY: &str = "web_identity_token_file";
    let container = backend.surroundings.env.text(CONTAINER).map(|path| (CONTAINER, path.into()));
    let identity = |name| Some((IDENTITY, profiles.get_profile(name)?.get(IDENTITY)?.into()));
    let cache = backend.surroundings.home().unwrap_or_default().join(".aws/sso/cache");
    let logins = std::fs::read_dir(cache).into_iter().flatten().flatten().map(|file| ("sso_session", file.path()));
    let logins = logins.filter(|(_, path)| path.extension().is_some_and(|end| end == "json"));
    let files = container.into_iter().chain(profiles.profiles().filter_map(identity)).chain(logins);
    for (setting, path) in files {
        match check(&path) {
            // What is not there or may not be read, the SDK tells.
            Err(error) if matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::FileTooLarge) => {
                return Err(BackendError::unusable(setting, format!("{}: {error}", path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A source of credentials. Where it gives none any more (a token that was removed, a service that does not answer), the
/// last ones are given as long as they are valid.
fn keeping(source: SharedCredentialsProvider, kept: Kept) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(provide_credentials_fn(move || {
        let (source, kept) = (source.clone(), kept.clone());
        async move {
            let fetched = tokio::time::timeout(SOURCE_TIMEOUT, source.provide_credentials()).await;
            let fetched = fetched.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(SOURCE_TIMEOUT)));
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            match (fetched, &*kept) {
                (Ok(credentials), _) => {
                    *kept = Some(credentials.clone());
                    Ok(credentials)
                }
                (Err(error), Some(last)) if last.expiry().is_none_or(|end| end > SystemTime::now()) => {
                    tracing::debug!("the last AWS credentials are used again: fetching new ones failed: {error}");
                    Ok(last.clone())
                }
                (Err(error), _) => Err(error),
            }
        }
    }))
}

/// What the SDK finds by itself in Terraform's environment and in the shared files.
async fn load(backend: &S3Backend, env: Env, http: SharedHttpClient, files: EnvConfigFiles) -> SdkConfig {
    let attributes = &backend.attributes;
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .env(env)
        .http_client(http)
        .profile_files(files)
        .region(Region::new(backend.region().to_owned()))
        // Three tries, whatever the environment says.
        .retry_config(RetryConfig::standard())
        .identity_cache(identity_cache())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build());
    if let Some(profile) = set(&attributes.profile) {
        loader = loader.profile_name(profile);
    }
    // For all but a yes of the block the SDK looks into the environment.
    if attributes.use_fips_endpoint == Some(true) {
        loader = loader.use_fips(true);
    }
    if attributes.use_dualstack_endpoint == Some(true) {
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
    // Those in the environment are asked in `base`, where their place in the order is.
    for name in KEY_ID.into_iter().chain(SECRET).chain(["SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE"]) {
        env.remove(name);
    }

    let metadata = set(&attributes.ec2_metadata_service_endpoint)
        .or_else(|| backend.surroundings.env.text("AWS_EC2_METADATA_SERVICE_ENDPOINT"))
        .or_else(|| backend.surroundings.env.text("AWS_METADATA_URL"));
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
fn keys(backend: &S3Backend) -> Result<Option<Credentials>, BackendError> {
    let variable = |name: &'static str| Some((name, backend.surroundings.env.text(name)?));
    let [id, secret] = [KEY_ID, SECRET].map(|names| names.into_iter().find_map(variable));
    let (Some((setting, id)), Some((_, secret))) = (id, secret) else { return Ok(None) };
    let token = variable("AWS_SESSION_TOKEN").map(|(_, token)| token.to_owned());
    Ok(Some(Credentials::new(sendable(setting, id)?, secret, token, None, "environment")))
}

/// Credentials of a source, if a request can be signed with them. What the SDK itself signs on the way to them, for the roles of a
/// profile, is not looked at.
fn checked(source: SharedCredentialsProvider) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(provide_credentials_fn(move || {
        let source = source.clone();
        async move {
            let credentials = source.provide_credentials().await?;
            sendable("access_key", credentials.access_key_id())
                .map_err(|_| CredentialsError::invalid_configuration(format!("the ID of the key: {NOT_SENDABLE}")))?;
            Ok(credentials)
        }
    }))
}

/// The first source, where it is not the SDK's own chain.
fn base(backend: &S3Backend, config: &SdkConfig) -> Result<Option<SharedCredentialsProvider>, BackendError> {
    let attributes = &backend.attributes;
    let (id, secret, token) = (set(&attributes.access_key), set(&attributes.secret_key), set(&attributes.token));
    if id.is_some() || secret.is_some() || token.is_some() {
        let missing = |setting| BackendError::unusable(setting, "only a part of a key is set");
        let id = id.ok_or(missing("access_key"))?;
        let secret = secret.ok_or(missing("secret_key"))?;
        let keys =
            Credentials::new(sendable("access_key", id)?, secret, token.map(str::to_owned), None, "backend block");
        return Ok(Some(SharedCredentialsProvider::new(keys)));
    }
    let variable = |name: &str| backend.surroundings.env.text(name);
    let identity = match attributes.assume_role_with_web_identity.first() {
        Some(block) => block.clone(),
        None if set(&attributes.profile).is_some() => return Ok(None),
        None => match keys(backend)? {
            Some(keys) => return Ok(Some(SharedCredentialsProvider::new(keys))),
            None if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_none() => return Ok(None),
            None => WebIdentity::default(),
        },
    };
    // What the block leaves out comes from the environment: OpenTofu does so, Terraform refuses such a block.
    let or = |own: &Option<String>, name: &str| set(own).or_else(|| variable(name)).map(str::to_owned);
    let (text, file) = (set(&identity.web_identity_token), set(&identity.web_identity_token_file));
    let text = text.or_else(|| variable("AWS_WEB_IDENTITY_TOKEN").filter(|_| file.is_none()));
    let token = match (text, file.or_else(|| variable("AWS_WEB_IDENTITY_TOKEN_FILE"))) {
        (Some(text), _) => Token::Text(text.to_owned()),
        (None, Some(file)) => Token::File(backend.path(file)),
        (None, None) => {
            let missing = "it has neither a token nor a token file";
            return Err(BackendError::unusable("assume_role_with_web_identity", missing));
        }
    };
    let identity = WebIdentity {
        role_arn: or(&identity.role_arn, "AWS_ROLE_ARN"),
        session_name: or(&identity.session_name, "AWS_ROLE_SESSION_NAME"),
        ..identity
    };
    let setting = "assume_role_with_web_identity";
    set(&identity.role_arn).ok_or(BackendError::unusable(setting, "it has no role_arn"))?;
    let seconds = seconds(setting, &identity.duration)?;
    let sts = aws_sdk_sts::Client::new(&of_sts(backend, config));
    let assume = move || assume_by_web(sts.clone(), identity.clone(), seconds, token.clone());
    Ok(Some(SharedCredentialsProvider::new(provide_credentials_fn(assume))))
}

/// Assumes a role by the credentials of `config`.
async fn assume(backend: &S3Backend, role: &Role, config: &SdkConfig) -> Result<AssumeRoleProvider, BackendError> {
    let not_sent =
        "tfguard cannot send it. Leave it out, or assume the role before Terraform starts and give both its keys";
    if set(&role.source_identity).is_some() {
        return Err(BackendError::unusable("assume_role.source_identity", not_sent));
    }
    if role.transitive_tag_keys.as_ref().is_some_and(|keys| !keys.is_empty()) {
        let is_flat = backend.attributes.assume_role.is_empty();
        let [flat, nested] = ["assume_role_transitive_tag_keys", "assume_role.transitive_tag_keys"];
        return Err(BackendError::unusable(if is_flat { flat } else { nested }, not_sent));
    }
    let arn = set(&role.role_arn).ok_or(BackendError::unusable("assume_role", "it has no role_arn"))?;
    let seconds = seconds("assume_role", &role.duration)?.unwrap_or(ROLE_SECONDS);
    let mut builder = AssumeRoleProvider::builder(arn)
        .configure(&of_sts(backend, config))
        .session_name(set(&role.session_name).unwrap_or(SESSION_NAME))
        .session_length(Duration::from_secs(seconds.into()));
    if let Some(id) = set(&role.external_id) {
        builder = builder.external_id(id);
    }
    if let Some(policy) = policy(&role.policy) {
        builder = builder.policy(policy);
    }
    if let Some(arns) = role.policy_arns.clone().filter(|arns| !arns.is_empty()) {
        builder = builder.policy_arns(arns);
    }
    if let Some(tags) = role.tags.clone().filter(|tags| !tags.is_empty()) {
        builder = builder.tags(tags);
    }
    Ok(builder.build().await)
}

/// The inline policy of a role.
pub(crate) fn policy(text: &Option<String>) -> Option<String> {
    set(text).map(|text| text.trim().to_owned())
}

/// How long the session of a role lasts.
pub(crate) fn seconds(setting: &'static str, duration: &Option<String>) -> Result<Option<u16>, BackendError> {
    let Some(text) = set(duration) else { return Ok(None) };
    let seconds = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| duration.as_secs().try_into().ok());
    let unusable = || BackendError::unusable(setting, format!("{text:?} is not a session's duration"));
    seconds.map(Some).ok_or_else(unusable)
}

/// What speaks to STS with the credentials of `config`.
pub(crate) fn of_sts(backend: &S3Backend, config: &SdkConfig) -> SdkConfig {
    let mut builder = config.to_builder();
    if let Some(region) = set(&backend.attributes.sts_region) {
        builder = builder.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = &backend.endpoints.sts {
        builder = builder.endpoint_url(endpoint).use_fips(false).use_dual_stack(false);
    }
    builder.build()
}

/// A web identity.
#[derive(Clone)]
enum Token {
    Text(String),
    /// Read anew each time, because it is replaced before it expires.
    File(PathBuf),
}

/// Assumes a role by a web identity. The SDK's own provider knows neither a token's text, nor a duration, nor an STS
/// endpoint that only the backend block names.
async fn assume_by_web(
    sts: aws_sdk_sts::Client,
    identity: WebIdentity,
    seconds: Option<u16>,
    token: Token,
) -> provider::Result {
    let token = match token {
        Token::Text(token) => token,
        Token::File(path) => {
            let text = read(&path).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
            let unusable = |error| format!("web identity token {}: {error}", path.display());
            text.map_err(|error| CredentialsError::invalid_configuration(unusable(error)))?
        }
    };
    let arns = identity.policy_arns.iter().flatten();
    let arns: Vec<_> = arns.map(|arn| PolicyDescriptorType::builder().arn(arn).build()).collect();
    let request = sts
        .assume_role_with_web_identity()
        .set_role_arn(identity.role_arn)
        .role_session_name(set(&identity.session_name).unwrap_or(SESSION_NAME))
        .web_identity_token(token)
        .set_duration_seconds(seconds.map(i32::from))
        .set_policy(policy(&identity.policy))
        .set_policy_arns((!arns.is_empty()).then_some(arns));
    let issued = request.send().await.map_err(CredentialsError::provider_error)?.credentials;
    let issued = issued.ok_or_else(|| CredentialsError::unhandled("STS answered without credentials"))?;
    let expires = SystemTime::try_from(issued.expiration).map_err(CredentialsError::unhandled)?;
    let token = Some(issued.session_token);
    Ok(Credentials::new(issued.access_key_id, issued.secret_access_key, token, Some(expires), "web identity"))
}
