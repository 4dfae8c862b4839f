//! A role that is assumed by a web identity. The SDK's own provider knows neither a token's text, nor a duration, nor an
//! STS endpoint that only the backend block names.

use std::path::PathBuf;
use std::time::SystemTime;
use std::{fmt, io};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_sts::types::PolicyDescriptorType;

use crate::aws::attributes::WebIdentity;
use crate::aws::credentials::{SESSION_NAME, policy, seconds};
use crate::aws::error::BackendError;
use crate::aws::paths::read;
use crate::aws::s3::set;

/// A web identity.
pub(crate) enum Token {
    Text(String),
    /// Read anew each time, because it is replaced before it expires.
    File(PathBuf),
}

/// Assumes the role.
pub(crate) struct WebIdentityRole {
    sts: aws_sdk_sts::Client,
    arn: String,
    seconds: Option<u16>,
    identity: WebIdentity,
    token: Token,
}

impl fmt::Debug for WebIdentityRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebIdentityRole").field("arn", &self.arn).finish_non_exhaustive()
    }
}

impl WebIdentityRole {
    pub(crate) fn new(sts: aws_sdk_sts::Client, identity: WebIdentity, token: Token) -> Result<Self, BackendError> {
        let setting = "assume_role_with_web_identity";
        let missing = BackendError::Unusable { setting, reason: "it has no role_arn".to_owned() };
        let arn = set(&identity.role_arn).ok_or(missing)?.to_owned();
        Ok(Self { sts, arn, seconds: seconds(setting, &identity.duration)?, identity, token })
    }

    async fn assume(&self) -> provider::Result {
        let token = match &self.token {
            Token::Text(token) => token.clone(),
            Token::File(path) => {
                let text = read(path).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
                let unusable = |error| format!("web identity token {}: {error}", path.display());
                text.map_err(|error| CredentialsError::invalid_configuration(unusable(error)))?
            }
        };
        let arns = self.identity.policy_arns.iter().flatten();
        let arns: Vec<_> = arns.map(|arn| PolicyDescriptorType::builder().arn(arn).build()).collect();
        let request = self
            .sts
            .assume_role_with_web_identity()
            .role_arn(&self.arn)
            .role_session_name(set(&self.identity.session_name).unwrap_or(SESSION_NAME))
            .web_identity_token(token)
            .set_duration_seconds(self.seconds.map(i32::from))
            .set_policy(policy(&self.identity.policy))
            .set_policy_arns((!arns.is_empty()).then_some(arns));
        let issued = request.send().await.map_err(CredentialsError::provider_error)?.credentials;
        let issued = issued.ok_or_else(|| CredentialsError::unhandled("STS answered without credentials"))?;
        let expires = SystemTime::try_from(issued.expiration).map_err(CredentialsError::unhandled)?;
        let token = Some(issued.session_token);
        Ok(Credentials::new(issued.access_key_id, issued.secret_access_key, token, Some(expires), "web identity"))
    }
}

impl ProvideCredentials for WebIdentityRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}
