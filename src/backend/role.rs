//! Roles that are assumed through STS.

use std::path::PathBuf;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::types::{PolicyDescriptorType, Tag};

use crate::lock::told;

use super::BackendError;
use super::attributes::{Role, WebIdentity};
use super::s3::set;

/// The name of a role's session, where the settings give none. Terraform takes the time in nanoseconds.
const SESSION_NAME: &str = "tfguard";
/// How long the session of a role lasts, where the settings do not say: the default of the AWS SDK for Go.
const ROLE_SECONDS: i32 = 900;

/// A web identity.
pub(super) enum Token {
    Text(String),
    /// Read anew each time, because it is replaced before it expires.
    File(PathBuf),
}

/// How a role is assumed.
pub(super) enum Assume {
    Role(Role),
    WebIdentity(WebIdentity, Token),
}

/// Assumes a role.
pub(super) struct RoleProvider {
    sts: aws_sdk_sts::Client,
    arn: String,
    seconds: Option<i32>,
    assume: Assume,
}

impl std::fmt::Debug for RoleProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleProvider").field("arn", &self.arn).finish_non_exhaustive()
    }
}

impl RoleProvider {
    pub(super) fn new(sts: aws_sdk_sts::Client, assume: Assume) -> Result<Self, BackendError> {
        let (setting, arn, duration) = match &assume {
            Assume::Role(role) => ("assume_role", &role.role_arn, &role.duration),
            Assume::WebIdentity(web, _) => ("assume_role_with_web_identity", &web.role_arn, &web.duration),
        };
        let arn = set(arn).ok_or(BackendError::Unusable { setting, reason: "it has no role_arn".to_owned() })?;
        let seconds = match set(duration) {
            None => None,
            Some(text) => Some(
                text.parse::<jiff::SignedDuration>()
                    .ok()
                    .and_then(|duration| i32::try_from(duration.as_secs()).ok())
                    .ok_or(BackendError::Unusable { setting, reason: format!("{text:?} is no duration") })?,
            ),
        };
        Ok(Self { sts, arn: arn.to_owned(), seconds, assume })
    }

    async fn assume(&self) -> provider::Result {
        let policies = |arns: &Option<Vec<String>>| {
            let arns = arns.as_ref().filter(|arns| !arns.is_empty())?;
            Some(arns.iter().map(|arn| PolicyDescriptorType::builder().arn(arn).build()).collect())
        };
        let policy = |text: &Option<String>| set(text).map(|text| text.trim().to_owned());
        let session = |name: &Option<String>| set(name).unwrap_or(SESSION_NAME).to_owned();
        let credentials = match &self.assume {
            Assume::Role(role) => {
                let tags = role.tags.iter().flatten().map(|(key, value)| Tag::builder().key(key).value(value).build());
                let tags: Vec<Tag> = tags.collect::<Result<_, _>>().map_err(CredentialsError::invalid_configuration)?;
                let answer = self
                    .sts
                    .assume_role()
                    .role_arn(&self.arn)
                    .role_session_name(session(&role.session_name))
                    .duration_seconds(self.seconds.unwrap_or(ROLE_SECONDS))
                    .set_external_id(set(&role.external_id).map(str::to_owned))
                    .set_policy(policy(&role.policy))
                    .set_policy_arns(policies(&role.policy_arns))
                    .set_source_identity(set(&role.source_identity).map(str::to_owned))
                    .set_tags((!tags.is_empty()).then_some(tags))
                    .set_transitive_tag_keys(role.transitive_tag_keys.clone().filter(|keys| !keys.is_empty()))
                    .send()
                    .await;
                answer.map_err(|error| refused(&self.arn, &error))?.credentials
            }
            Assume::WebIdentity(web, token) => {
                let token = match token {
                    Token::Text(token) => token.clone(),
                    Token::File(path) => tokio::task::spawn_blocking({
                        let path = path.clone();
                        move || std::fs::read_to_string(path)
                    })
                    .await
                    .map_err(CredentialsError::unhandled)?
                    .map_err(|error| {
                        CredentialsError::invalid_configuration(format!(
                            "web identity token {}: {error}",
                            path.display()
                        ))
                    })?,
                };
                let answer = self
                    .sts
                    .assume_role_with_web_identity()
                    .role_arn(&self.arn)
                    .role_session_name(session(&web.session_name))
                    .web_identity_token(token)
                    .set_duration_seconds(self.seconds)
                    .set_policy(policy(&web.policy))
                    .set_policy_arns(policies(&web.policy_arns))
                    .send()
                    .await;
                answer.map_err(|error| refused(&self.arn, &error))?.credentials
            }
        };
        let issued = credentials.ok_or_else(|| CredentialsError::unhandled("STS answered without credentials"))?;
        let expires = SystemTime::try_from(*issued.expiration()).map_err(CredentialsError::unhandled)?;
        Ok(Credentials::new(
            issued.access_key_id(),
            issued.secret_access_key(),
            Some(issued.session_token().to_owned()),
            Some(expires),
            "assumed role",
        ))
    }
}

/// STS did not give the role. The SDK's own error would show the whole answer.
fn refused<E, R>(arn: &str, error: &SdkError<E, R>) -> CredentialsError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    let reason = match error.as_service_error() {
        Some(error) => {
            let code = error.code().unwrap_or("no error code");
            format!("{code}: {}", error.message().unwrap_or("no message"))
        }
        None => told(error),
    };
    CredentialsError::provider_error(format!("role {arn} could not be assumed: {reason}"))
}

impl ProvideCredentials for RoleProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}
