//! As whom AWS is asked. Holds no secret.

use std::time::Duration;

use aws_credential_types::provider::ProvideCredentials as _;
use jiff::Timestamp;
use serde::Serialize;

use crate::aws::answer::{StoreError, no_credentials, understand};
use crate::aws::client::{AwsClients, is_aws};

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
    /// The account's number.
    pub account: String,
    /// The user or the session of a role.
    pub arn: String,
}

impl AwsClients {
    /// As whom AWS is asked. STS is asked only where the endpoints are AWS's, or it has one of its own.
    pub async fn caller(&self) -> Caller {
        let mut caller = Caller { key_id: None, expires: None, identity: None, trouble: None };
        let Some(provider) = self.credentials() else {
            caller.trouble = Some("there are no credentials".to_owned());
            return caller;
        };
        match provider.provide_credentials().await {
            Ok(credentials) => {
                caller.key_id = Some(shortened(credentials.access_key_id()));
                caller.expires = credentials.expiry().and_then(|time| Timestamp::try_from(time).ok());
            }
            Err(error) => {
                caller.trouble = Some(no_credentials(&error).to_string());
                return caller;
            }
        }
        let elsewhere = [self.s3_endpoint(), self.dynamodb_endpoint()].iter().flatten().any(|url| !is_aws(url));
        if elsewhere && !self.has_sts_endpoint() {
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
        let answer = answer.map_err(|error| understand("sts:GetCallerIdentity", error))?;
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
    fn an_id_is_shortened() {
        assert_eq!(shortened("AKIATESTBEDTESTBED00"), "AKIA…ED00");
        assert_eq!(shortened("short"), "…");
        assert_eq!(shortened(""), "…");
    }
}
