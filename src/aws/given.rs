//! Settings of the S3 backend that a person gives by hand.

use crate::aws::attributes::Attributes;
use crate::aws::paths::Surroundings;
use crate::aws::s3::{BackendError, S3Backend};
use crate::text::without_user;

/// What is given by hand; `None` where nothing is. Holds no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct GivenSettings {
    /// Take the state in this bucket
    ///
    /// With --key and --region, tfguard looks at no directory.
    #[arg(long, value_name = "BUCKET", requires = "key", help_heading = "State")]
    pub bucket: Option<String>,

    /// Take the state with this key
    ///
    /// The key has the workspace's prefix: it is the `Path` of the state's lock behind the first slash.
    #[arg(long, value_name = "KEY", requires = "bucket", help_heading = "State")]
    pub key: Option<String>,

    /// Look for its lock in this table
    ///
    /// The table's name or ARN replaces that of the backend block.
    #[arg(long, value_name = "TABLE", help_heading = "State")]
    pub table: Option<String>,

    /// How AWS is reached.
    #[command(flatten)]
    pub access: Access,
}

/// How AWS is reached, where the backend block or the environment does not say it, or says it wrongly.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Access {
    /// Ask in this region
    ///
    /// The region of bucket and table; else that of the backend block, else AWS_REGION.
    #[arg(long, value_name = "REGION", help_heading = "AWS")]
    pub region: Option<String>,

    /// Use the credentials of this profile
    ///
    /// The profile is one of the shared configuration. Its credentials replace those of the backend block.
    #[arg(long, value_name = "PROFILE", help_heading = "AWS")]
    pub profile: Option<String>,

    /// Ask S3 at this URL instead of AWS's
    #[arg(long, value_name = "URL", hide_short_help = true, help_heading = "AWS")]
    pub s3_endpoint: Option<String>,

    /// Ask DynamoDB at this URL instead of AWS's
    #[arg(long, value_name = "URL", hide_short_help = true, help_heading = "AWS")]
    pub dynamodb_endpoint: Option<String>,

    /// Put the bucket into the path of URLs, for stores that are not AWS's
    #[arg(long, hide_short_help = true, help_heading = "AWS")]
    pub path_style: bool,
}

impl GivenSettings {
    /// The place of a state.
    pub fn of(backend: &S3Backend, state_key: &str) -> Self {
        Self {
            bucket: Some(backend.bucket().to_owned()),
            key: Some(state_key.to_owned()),
            table: backend.table().map(str::to_owned),
            access: Access {
                region: Some(backend.region().to_owned()),
                s3_endpoint: backend.s3_endpoint().map(without_user),
                dynamodb_endpoint: backend.dynamodb_endpoint().map(without_user),
                profile: None,
                path_style: backend.uses_path_style(),
            },
        }
    }

    /// These settings, and for all else the environment, as Terraform has it.
    ///
    /// # Errors
    /// When bucket, key or region is missing, or a setting of the environment cannot be used.
    pub fn backend(&self, surroundings: Surroundings) -> Result<S3Backend, BackendError> {
        S3Backend::new(self.alone(), surroundings)
    }

    /// The same where there may be no state.
    pub(crate) fn alone(&self) -> Attributes {
        // Nobody says whether the objects are encrypted: who has the key in the environment uses it.
        self.over(Attributes { encrypt: Some(true), ..Attributes::default() })
    }

    /// These settings over those of a backend.
    ///
    /// # Errors
    /// When they do not go together.
    pub fn over_backend(&self, backend: &S3Backend) -> Result<S3Backend, BackendError> {
        if *self == Self::default() {
            return Ok(backend.clone());
        }
        S3Backend::new(self.over(backend.attributes.clone()), backend.surroundings.clone())
    }

    /// The flags by which commands are given these settings, each name before its value.
    pub fn flags(&self) -> Vec<String> {
        let values = [
            ("--bucket", &self.bucket),
            ("--key", &self.key),
            ("--region", &self.access.region),
            ("--table", &self.table),
            ("--profile", &self.access.profile),
            ("--s3-endpoint", &self.access.s3_endpoint),
            ("--dynamodb-endpoint", &self.access.dynamodb_endpoint),
        ];
        let given = values.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value.clone()?]));
        given.flatten().chain(self.access.path_style.then(|| "--path-style".to_owned())).collect()
    }

    /// An error of a setting that was given by hand, by its flag.
    pub fn named(&self, error: BackendError) -> BackendError {
        let flags = [
            ("profile", "--profile", &self.access.profile),
            ("region", "--region", &self.access.region),
            ("dynamodb_table", "--table", &self.table),
            ("bucket", "--bucket", &self.bucket),
            ("key", "--key", &self.key),
        ];
        match error {
            BackendError::Unusable { setting, reason } => {
                let given = flags.into_iter().find(|(name, _, value)| *name == setting && value.is_some());
                BackendError::Unusable { setting: given.map_or(setting, |(_, flag, _)| flag), reason }
            }
            error => error,
        }
    }

    fn over(&self, attributes: Attributes) -> Attributes {
        let mut all = attributes;
        let or = |given: &Option<String>, before: Option<String>| given.clone().or(before);
        all.bucket = or(&self.bucket, all.bucket);
        all.key = or(&self.key, all.key);
        all.region = or(&self.access.region, all.region);
        all.dynamodb_table = or(&self.table, all.dynamodb_table);
        if self.access.path_style {
            all.use_path_style = Some(true);
        }
        let mut endpoints = all.endpoints.first().cloned().unwrap_or_default();
        endpoints.s3 = or(&self.access.s3_endpoint, endpoints.s3);
        endpoints.dynamodb = or(&self.access.dynamodb_endpoint, endpoints.dynamodb);
        all.endpoints = vec![endpoints];
        if self.access.profile.is_some() {
            all.profile = self.access.profile.clone();
            (all.access_key, all.secret_key, all.token) = (None, None, None);
            (all.assume_role, all.assume_role_with_web_identity, all.role_arn) = (vec![], vec![], None);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Environment;
    use crate::model::LockPlace;

    fn surroundings() -> Surroundings {
        Surroundings { dir: "/infra".into(), env: Environment::default() }
    }

    fn given(text: &[(&str, &str)]) -> GivenSettings {
        let of = |name: &str| text.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        GivenSettings {
            bucket: of("bucket"),
            key: of("key"),
            table: of("table"),
            access: Access {
                region: of("region"),
                s3_endpoint: of("s3"),
                dynamodb_endpoint: of("dynamodb"),
                profile: of("profile"),
                path_style: false,
            },
        }
    }

    #[test]
    fn they_are_complete_by_themselves() {
        let all = [("bucket", "b"), ("key", "k"), ("region", "r"), ("table", "t"), ("dynamodb", "http://d")];
        let backend = given(&all).backend(surroundings()).unwrap();
        assert_eq!((backend.bucket(), backend.region(), backend.table()), ("b", "r", Some("t")));
        let endpoint = Some("http://d".to_owned());
        assert!(
            matches!(backend.table_place("k"), Some(LockPlace::DynamoDb { endpoint: found, .. }) if found == endpoint)
        );
        for missing in ["bucket", "key", "region"] {
            let less: Vec<_> = all.iter().copied().filter(|(name, _)| *name != missing).collect();
            let error = given(&less).backend(surroundings()).unwrap_err();
            assert!(error.to_string().contains(missing), "{error}");
        }
    }

    #[test]
    fn they_come_over_a_block_and_a_profile_drops_its_credentials() {
        let block = r#"{"bucket":"b","key":"k","region":"r","dynamodb_table":"t","access_key":"a","secret_key":"s",
            "assume_role":{"role_arn":"x"},"role_arn":"y","endpoints":{"s3":"http://s3","dynamodb":"http://d"}}"#;
        let block = S3Backend::new(serde_json::from_str(block).unwrap(), surroundings()).unwrap();
        let same = given(&[]).over_backend(&block).unwrap();
        assert_eq!(same.attributes.access_key.as_deref(), Some("a"));
        let other = given(&[("table", "u"), ("profile", "p"), ("s3", "http://other")]).over_backend(&block).unwrap();
        assert_eq!((other.bucket(), other.table()), ("b", Some("u")));
        assert_eq!(other.endpoints.s3.as_deref(), Some("http://other"));
        assert_eq!(other.endpoints.dynamodb.as_deref(), Some("http://d"));
        assert_eq!(other.attributes.profile.as_deref(), Some("p"));
        assert!(other.attributes.access_key.is_none() && other.attributes.roles().is_empty());
    }
}
