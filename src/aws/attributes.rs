//! The attributes of an S3 backend block, as `init` records them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Every attribute that any Terraform from 1.0 to 1.17 or any OpenTofu knows and that matters for reaching a lock.
///
/// Attributes that are not set are recorded as `null`. What matters only while Terraform itself runs is left out:
/// `acl`, `max_retries`, `retry_mode`, the tags of objects, the `skip_…` checks,
/// `allowed_account_ids` and `forbidden_account_ids` (checked when Terraform took the lock).
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Attributes {
    pub bucket: Option<String>,
    pub key: Option<String>,
    pub workspace_key_prefix: Option<String>,
    pub region: Option<String>,
    pub dynamodb_table: Option<String>,
    /// The name of `dynamodb_table` in 0.12 and before.
    pub lock_table: Option<String>,
    pub use_lockfile: Option<bool>,
    /// Without it Terraform uses no key of its own for anything.
    pub encrypt: Option<bool>,
    pub sse_customer_key: Option<String>,
    /// Matters only for what a policy has to grant.
    pub kms_key_id: Option<String>,

    #[serde(deserialize_with = "nested")]
    pub endpoints: Vec<Endpoints>,
    pub endpoint: Option<String>,
    pub dynamodb_endpoint: Option<String>,
    pub sts_endpoint: Option<String>,
    pub sts_region: Option<String>,
    pub force_path_style: Option<bool>,
    pub use_path_style: Option<bool>,
    pub use_fips_endpoint: Option<bool>,
    pub use_dualstack_endpoint: Option<bool>,

    pub access_key: Option<String>,
    pub secret_key: Option<String>,
    pub token: Option<String>,
    pub profile: Option<String>,
    pub shared_credentials_file: Option<String>,
    pub shared_credentials_files: Option<Vec<String>>,
    pub shared_config_files: Option<Vec<String>>,
    pub skip_metadata_api_check: Option<bool>,
    pub ec2_metadata_service_endpoint: Option<String>,
    pub ec2_metadata_service_endpoint_mode: Option<String>,

    #[serde(deserialize_with = "nested")]
    pub assume_role: Vec<Role>,
    #[serde(deserialize_with = "nested")]
    pub assume_role_with_web_identity: Vec<WebIdentity>,
    // The flat form of a role: Terraform before 1.10, OpenTofu still.
    pub role_arn: Option<String>,
    pub session_name: Option<String>,
    pub external_id: Option<String>,
    pub assume_role_duration_seconds: Option<u64>,
    pub assume_role_policy: Option<String>,
    pub assume_role_policy_arns: Option<Vec<String>>,
    pub assume_role_tags: Option<BTreeMap<String, String>>,
    pub assume_role_transitive_tag_keys: Option<Vec<String>>,

    pub custom_ca_bundle: Option<String>,
    pub http_proxy: Option<String>,
    pub https_proxy: Option<String>,
    pub no_proxy: Option<String>,
    pub insecure: Option<bool>,
}

/// A nested attribute is recorded as an object; as a nested block it would be a list of such.
fn nested<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Nested<T> {
        Blocks(Vec<T>),
        Attribute(T),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Nested::Blocks(all)) => all,
        Some(Nested::Attribute(one)) => vec![one],
    })
}

/// An attribute that is set and not empty.
pub(crate) fn set(attribute: &Option<String>) -> Option<&str> {
    attribute.as_deref().filter(|value| !value.is_empty())
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Endpoints {
    pub dynamodb: Option<String>,
    pub s3: Option<String>,
    pub sso: Option<String>,
    pub sts: Option<String>,
}

/// `assume_role`.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Role {
    pub role_arn: Option<String>,
    /// As Go writes durations: `1h30m`.
    pub duration: Option<String>,
    pub external_id: Option<String>,
    pub policy: Option<String>,
    pub policy_arns: Option<Vec<String>>,
    pub session_name: Option<String>,
    pub source_identity: Option<String>,
    pub tags: Option<BTreeMap<String, String>>,
    pub transitive_tag_keys: Option<Vec<String>>,
}

/// `assume_role_with_web_identity`.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WebIdentity {
    pub role_arn: Option<String>,
    pub duration: Option<String>,
    pub policy: Option<String>,
    pub policy_arns: Option<Vec<String>>,
    pub session_name: Option<String>,
    pub web_identity_token: Option<String>,
    pub web_identity_token_file: Option<String>,
}

impl Attributes {
    /// The roles to assume one after the other. A block wins over the flat form, as in OpenTofu, which has both.
    pub fn roles(&self) -> Vec<Role> {
        let Some(arn) = set(&self.role_arn).filter(|_| self.assume_role.is_empty()) else {
            return self.assume_role.clone();
        };
        vec![Role {
            role_arn: Some(arn.to_owned()),
            duration: self.assume_role_duration_seconds.filter(|seconds| *seconds > 0).map(|s| format!("{s}s")),
            external_id: self.external_id.clone(),
            policy: self.assume_role_policy.clone(),
            policy_arns: self.assume_role_policy_arns.clone(),
            session_name: self.session_name.clone(),
            source_identity: None,
            tags: self.assume_role_tags.clone(),
            transitive_tag_keys: self.assume_role_transitive_tag_keys.clone(),
        }]
    }
}
