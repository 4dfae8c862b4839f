//! The S3 backend's settings.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use aws_credential_types::Credentials;
use aws_sdk_s3::types::ServerSideEncryption;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::HeaderValue;
use md5::Md5;
use sha2::{Digest as _, Sha256};

use crate::aws::attributes::{Attributes, Endpoints, set};
use crate::aws::paths;
use crate::aws::paths::Surroundings;
use crate::model::{LockClaim, LockKinds, LockPlace, bucket_and_key, lockfile_key};
use crate::text::without_user;

/// The last credentials that a backend's source gave, in memory only.
pub(crate) type Kept = Arc<Mutex<Option<Credentials>>>;

const DEFAULT_WORKSPACE_KEY_PREFIX: &str = "env:";

/// The S3 backend's settings, merged with the environment as Terraform merges them (`Configure` in its S3 backend).
///
/// Holds secrets; Debug shows none of them.
#[derive(Clone)]
pub struct S3Backend {
    pub(crate) attributes: Attributes,
    pub(crate) surroundings: Surroundings,
    region: String,
    /// Endpoints that Terraform itself sets, which win over all that the SDK finds.
    pub(crate) endpoints: Endpoints,
    pub(crate) customer_key: Option<SseCustomerKey>,
    /// Its credentials are the environment's, and Terraform had perhaps others.
    pub(crate) is_by_environment: bool,
    /// A digest of each setting that was recorded for Terraform, by its name.
    pub(crate) digests: BTreeMap<String, String>,
    /// What its source of credentials gave last. Clones share it.
    pub(crate) kept: Kept,
}

impl S3Backend {
    /// The backend of a lock whose places are known, when the directory that is configured for it is gone or is not what it
    /// was: reached with what the environment tells.
    ///
    /// # Errors
    /// When the environment cannot be followed.
    pub fn of_places(
        claim: &LockClaim,
        places: &[LockPlace],
        path_style: bool,
        surroundings: Surroundings,
    ) -> Result<Self, BackendError> {
        let mut attributes = Attributes {
            bucket: Some(claim.bucket.clone()),
            key: Some(claim.state_key.clone()),
            // Who has the key in the environment uses it.
            encrypt: Some(true),
            use_path_style: Some(path_style),
            ..Attributes::default()
        };
        let mut endpoints = Endpoints::default();
        for place in places {
            match place {
                LockPlace::Lockfile { region, endpoint, .. } => {
                    attributes.use_lockfile = Some(true);
                    (attributes.region, endpoints.s3) = (Some(region.clone()), endpoint.clone());
                }
                LockPlace::DynamoDb { table, region, endpoint, .. } => {
                    attributes.dynamodb_table = Some(table.clone());
                    (attributes.region, endpoints.dynamodb) = (Some(region.clone()), endpoint.clone());
                }
            }
        }
        attributes.endpoints = vec![endpoints];
        let backend = Self { is_by_environment: true, ..Self::new(attributes, surroundings)? };
        // Where the places name no endpoint, one of the environment's must not lead to another store.
        let found = backend.places(claim)?;
        match places.iter().find(|place| !found.contains(place)) {
            Some(place) => Err(BackendError::Elsewhere(place.to_string())),
            None => Ok(backend),
        }
    }

    /// The same place, reached with what the environment tells alone.
    pub fn with_credentials_of_environment(&self) -> Self {
        let Attributes { bucket, key, workspace_key_prefix, region, dynamodb_table, lock_table, .. } = &self.attributes;
        let attributes = Attributes {
            bucket: bucket.clone(),
            key: key.clone(),
            workspace_key_prefix: workspace_key_prefix.clone(),
            region: region.clone(),
            dynamodb_table: dynamodb_table.clone(),
            lock_table: lock_table.clone(),
            use_lockfile: self.attributes.use_lockfile,
            use_path_style: Some(self.uses_path_style()),
            ..Attributes::default()
        };
        Self { attributes, is_by_environment: true, kept: Kept::default(), ..self.clone() }
    }

    pub(crate) fn new(attributes: Attributes, surroundings: Surroundings) -> Result<Self, BackendError> {
        let backend = Self::without_state(attributes, surroundings)?;
        match [("bucket", backend.bucket()), ("key", backend.key())].iter().find(|(_, value)| value.is_empty()) {
            Some((setting, _)) => Err(BackendError::unusable(setting, "it is missing")),
            None => Ok(backend),
        }
    }

    /// The settings by which AWS is reached; bucket and key may be empty.
    pub(crate) fn without_state(attributes: Attributes, surroundings: Surroundings) -> Result<Self, BackendError> {
        let variable = |name| Some((name, surroundings.env.text(name)?));
        let (setting, region) = set(&attributes.region)
            .map(|region| ("region", region))
            .or_else(|| variable("AWS_REGION"))
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .ok_or(BackendError::unusable("region", "neither it nor AWS_REGION or AWS_DEFAULT_REGION is set"))?;
        let region = sendable(setting, region)?.to_owned();
        set(&attributes.sts_region).map(|region| sendable("sts_region", region)).transpose()?;
        let customer_key = set(&attributes.sse_customer_key).or_else(|| surroundings.env.text("AWS_SSE_CUSTOMER_KEY"));
        // With `encrypt = false` Terraform sends no key, and S3 refuses one for an object that has none.
        let flaw = "it, or AWS_SSE_CUSTOMER_KEY, is not 32 bytes in base64";
        let read = |text| SseCustomerKey::new(text).ok_or(BackendError::unusable("sse_customer_key", flaw));
        let customer_key = customer_key.filter(|_| attributes.encrypt == Some(true)).map(read).transpose()?;
        let endpoints = endpoints(&attributes, &surroundings);
        let (is_by_environment, digests, kept) = Default::default();
        Ok(Self { attributes, surroundings, region, endpoints, customer_key, is_by_environment, digests, kept })
    }

    /// A digest of the settings as they are recorded, without those of the environment.
    pub fn digest(&self) -> String {
        let settings = self.digests.iter().map(|(name, digest)| format!("{name}={digest}\n"));
        BASE64_STANDARD.encode(Sha256::digest(settings.collect::<String>()))
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        set(&self.attributes.bucket).unwrap_or_default()
    }

    /// The key of the state of the workspace `default`.
    fn key(&self) -> &str {
        set(&self.attributes.key).unwrap_or_default()
    }

    /// Whether the bucket is named by the ARN of a multi-region access point, which has no region.
    fn is_multi_region(&self) -> bool {
        self.bucket().starts_with("arn:") && self.bucket().split(':').nth(3) == Some("")
    }

    /// Whether the bucket is put into the path of URLs.
    pub fn uses_path_style(&self) -> bool {
        self.attributes.use_path_style.or(self.attributes.force_path_style).unwrap_or(false)
    }

    /// The region of bucket and table.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The lock table, if one is configured.
    pub fn table(&self) -> Option<&str> {
        set(&self.attributes.dynamodb_table).or_else(|| set(&self.attributes.lock_table))
    }

    /// Whether Terraform locks by an object beside the state.
    pub fn uses_lockfile(&self) -> bool {
        self.attributes.use_lockfile == Some(true)
    }

    /// The ID, ARN or alias of the KMS key with which Terraform encrypts the objects, if one is configured.
    pub fn kms_key(&self) -> Option<&str> {
        set(&self.attributes.kms_key_id)
    }

    /// How Terraform has S3 encrypt what it puts there, and with which KMS key, where its own settings tell (`lockWithFile` in
    /// its S3 client). Not with a customer's key.
    pub(crate) fn encryption(&self) -> Option<(ServerSideEncryption, Option<String>)> {
        let is_told = self.digests.contains_key("encrypt") && self.attributes.encrypt == Some(true);
        if !is_told || self.customer_key.is_some() {
            return None;
        }
        Some(match self.kms_key() {
            Some(key) => (ServerSideEncryption::AwsKms, Some(key.to_owned())),
            None => (ServerSideEncryption::Aes256, None),
        })
    }

    /// The key of a workspace's state.
    pub fn state_key(&self, workspace: &str) -> String {
        if workspace == "default" {
            return self.key().to_owned();
        }
        let prefix = self.attributes.workspace_key_prefix.as_deref().unwrap_or(DEFAULT_WORKSPACE_KEY_PREFIX);
        paths::join(&[prefix, workspace, self.key()])
    }

    /// Whether a state belongs to this backend, in whichever workspace.
    pub fn stores_state(&self, bucket: &str, state_key: &str) -> bool {
        bucket == self.bucket() && self.workspace_of(state_key).is_some()
    }

    /// The workspace whose state has this key. None if none has.
    pub fn workspace_of<'a>(&self, state_key: &'a str) -> Option<&'a str> {
        if state_key == self.key() {
            return Some("default");
        }
        // A workspace's name has no slash, so it is one of the segments.
        state_key.split('/').find(|name| !matches!(*name, "" | "." | "..") && self.state_key(name) == state_key)
    }

    /// Where the claimed lock lives, the file half first, as Terraform unlocks.
    ///
    /// # Errors
    /// When the state is none of this backend's, the backend has no table for the lock's table half, or its file half
    /// is behind a multi-region access point.
    pub fn places(&self, claim: &LockClaim) -> Result<Vec<LockPlace>, BackendError> {
        if !self.stores_state(&claim.bucket, &claim.state_key) {
            return Err(BackendError::ForeignState(claim.lock_id()));
        }
        let (file, table) = match claim.kinds {
            LockKinds::Lockfile => (true, false),
            LockKinds::DynamoDb => (false, true),
            LockKinds::Both => (true, true),
            LockKinds::Unstated => (self.uses_lockfile(), self.table().is_some()),
        };
        let mut places = Vec::new();
        if file {
            if self.is_multi_region() {
                return Err(BackendError::unusable(
                    "bucket",
                    "it is a multi-region access point, whose requests (SigV4A) tfguard cannot sign. Name the bucket \
                     itself, or an access point of one region",
                ));
            }
            places.push(self.file_place(&claim.state_key));
        }
        if table {
            let place = self.table_place(&claim.state_key);
            places.push(place.ok_or(BackendError::NoSuchHalf("dynamodb_table"))?);
        }
        if places.is_empty() {
            return Err(BackendError::NoSuchHalf("dynamodb_table"));
        }
        Ok(places)
    }

    /// Where the lock of a state lives by what is configured, the file half first; none if the state is none of this
    /// backend's. `path`: `<bucket>/<state key>`.
    pub fn places_of_state(&self, path: &str) -> Option<Vec<LockPlace>> {
        let (_, state_key) = bucket_and_key(path).filter(|(bucket, key)| self.stores_state(bucket, key))?;
        let file = self.uses_lockfile().then(|| self.file_place(state_key));
        Some(file.into_iter().chain(self.table_place(state_key)).collect())
    }

    /// Where the file half of a state's lock lives, if it has one.
    pub fn file_place(&self, state_key: &str) -> LockPlace {
        self.lockfile(self.bucket(), state_key)
    }

    /// The lockfile of a state in a bucket of this region.
    pub fn lockfile(&self, bucket: &str, state_key: &str) -> LockPlace {
        LockPlace::Lockfile {
            bucket: bucket.to_owned(),
            key: lockfile_key(state_key),
            region: self.region.clone(),
            endpoint: self.s3_endpoint().map(without_user),
        }
    }

    /// Where the table half of a state's lock lives. None without a table.
    pub fn table_place(&self, state_key: &str) -> Option<LockPlace> {
        Some(self.item(self.table()?, format!("{}/{state_key}", self.bucket())))
    }

    /// The lock's item in a table of this region. `lock_id`: `<bucket>/<state key>`.
    pub fn item(&self, table: &str, lock_id: String) -> LockPlace {
        LockPlace::DynamoDb {
            table: table.to_owned(),
            lock_id,
            region: self.region.clone(),
            endpoint: self.dynamodb_endpoint().map(without_user),
        }
    }

    /// The endpoint of S3.
    pub fn s3_endpoint(&self) -> Option<String> {
        self.endpoint(self.endpoints.s3.as_deref())
    }

    /// The endpoint of DynamoDB.
    pub fn dynamodb_endpoint(&self) -> Option<String> {
        self.endpoint(self.endpoints.dynamodb.as_deref())
    }

    /// The endpoint as far as attributes and environment tell it; a shared configuration file can still name another.
    fn endpoint(&self, own: Option<&str>) -> Option<String> {
        let ignored = self.surroundings.env.text("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") == Some("true");
        let general = self.surroundings.env.text("AWS_ENDPOINT_URL").filter(|_| !ignored);
        own.or(general).map(str::to_owned)
    }

    /// A path of a setting: variables and `~` are expanded, and it is relative to Terraform's working directory.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.surroundings.dir.join(paths::expand(path, &self.surroundings.env))
    }
}

impl fmt::Debug for S3Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Backend")
            .field("bucket", &self.attributes.bucket)
            .field("key", &self.attributes.key)
            .field("region", &self.region)
            .field("table", &self.table())
            .field("use_lockfile", &self.attributes.use_lockfile)
            .finish_non_exhaustive()
    }
}

/// Which endpoint Terraform sets for each service: the nested attribute, the legacy one, then two variables. (Those
/// that the SDK finds by itself, as `AWS_ENDPOINT_URL`, come after.)
fn endpoints(attributes: &Attributes, surroundings: &Surroundings) -> Endpoints {
    let nested = attributes.endpoints.first().cloned().unwrap_or_default();
    let pick = |nested: Option<String>, legacy: &Option<String>, variables: &[&str]| {
        let variable = || variables.iter().find_map(|name| surroundings.env.text(name));
        let url = set(&nested).or_else(|| set(legacy)).or_else(variable)?;
        Some(if url.contains("://") { url.to_owned() } else { format!("https://{url}") })
    };
    let Attributes { dynamodb_endpoint, endpoint, sts_endpoint, .. } = attributes;
    Endpoints {
        dynamodb: pick(nested.dynamodb, dynamodb_endpoint, &["AWS_ENDPOINT_URL_DYNAMODB", "AWS_DYNAMODB_ENDPOINT"]),
        s3: pick(nested.s3, endpoint, &["AWS_ENDPOINT_URL_S3", "AWS_S3_ENDPOINT"]),
        sso: pick(nested.sso, &None, &["AWS_ENDPOINT_URL_SSO"]),
        sts: pick(nested.sts, sts_endpoint, &["AWS_ENDPOINT_URL_STS", "AWS_STS_ENDPOINT"]),
    }
}

/// What is part of a request's header, as a region and the ID of a key are. The AWS SDK panics at what cannot be in one.
pub(crate) fn sendable<'a>(setting: &'static str, text: &'a str) -> Result<&'a str, BackendError> {
    HeaderValue::from_str(text).map(|_| text).map_err(|_| BackendError::unusable(setting, NOT_SENDABLE))
}

/// What is wrong with what is not [`sendable`]. It is not shown: it can be a secret in a wrong place.
pub(crate) const NOT_SENDABLE: &str = "it has a line break or another character that cannot be sent. Take that away";

/// The key of server-side encryption with a customer's key (SSE-C).
#[derive(Clone, PartialEq, Eq)]
pub struct SseCustomerKey {
    /// As the headers of a request have it. Secret.
    pub(crate) base64: String,
    /// The MD5 of the key, in base64, for the header beside it.
    pub(crate) md5: String,
}

impl SseCustomerKey {
    /// The key as the backend block has it: 32 bytes in base64. `None` if it is not.
    pub fn new(base64: &str) -> Option<Self> {
        let key = BASE64_STANDARD.decode(base64).ok().filter(|key| key.len() == 32)?;
        Some(Self { base64: base64.to_owned(), md5: BASE64_STANDARD.encode(Md5::digest(key)) })
    }

    /// What a request for an object says of the key that the object has, if it has one: algorithm, key and the key's MD5.
    pub(crate) fn parameters(key: Option<&Self>) -> [Option<String>; 3] {
        let parameters = |key: &Self| ["AES256".to_owned(), key.base64.clone(), key.md5.clone()].map(Some);
        key.map(parameters).unwrap_or_default()
    }
}

impl fmt::Debug for SseCustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SseCustomerKey(…)")
    }
}

/// Why the backend of a directory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error(
        "cannot read the backend's settings in {path}: {source}. Run `terraform init` in that directory, as the user who runs tfguard"
    )]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file isn't JSON: it was cut off or overwritten. The reason shows none of its content.
    #[error("{path} is not what `terraform init` writes ({reason}). Run `terraform init` again")]
    Torn { path: PathBuf, reason: String },
    #[error("{path} has format version {version}; this tfguard knows version 3. Use a newer tfguard")]
    UnknownVersion { path: PathBuf, version: String },
    /// `init` moves a state to this backend and has not recorded its settings.
    #[error(
        "`terraform init` records a state's new backend only at its end, so the region, table and endpoints are not \
         known"
    )]
    NotRecorded,
    /// The plan file that is applied does not tell its backend, and no other place does.
    #[error("the backend, and so the place of the lock, is in the plan file {path}, and {flaw}")]
    PlanFile { path: PathBuf, flaw: PlanFlaw },
    /// The settings contradict themselves or lack something. `setting`: the attribute, environment variable or flag.
    #[error("{} cannot be used: {reason}", source_of(setting))]
    Unusable { setting: &'static str, reason: String },
    /// The claim names a state, `<bucket>/<state key>`, that this backend does not store.
    #[error("the lock is for {0}, which this backend does not store; tfguard does not know where its lock lives")]
    ForeignState(String),
    /// The settings that are there now are not those with which the lock was taken, in this place.
    #[error(
        "it was taken in {0}, but the directory's settings lead elsewhere; if a plan file was applied, only that file has \
         the settings"
    )]
    Elsewhere(String),
    /// The settings of this directory are not those that were there when the Terraform started.
    #[error(
        "{dir} has another backend now than when Terraform started, so the lock is looked for in neither",
        dir = .0.display()
    )]
    Swapped(PathBuf),
    /// The settings that are there now are not those with which the lock was taken, although they lead to it.
    #[error(
        "the backend's settings in {directory} have changed since the lock was taken ({settings}), so they are not used"
    )]
    Changed { directory: PathBuf, settings: String },
    /// A cleanup step does not follow a file of the checkout, which may have been changed since the run began.
    #[error(
        "{path} is in the checkout and says {property}: a cleanup step doesn't run a command or send a token \
         because of such a file"
    )]
    InCheckout { path: PathBuf, property: String },
    /// The claim names a half of a lock for which the backend lacks this setting.
    #[error(
        "Terraform took a lock for which the backend's settings have no {0}; was the directory initialised again since?"
    )]
    NoSuchHalf(&'static str),
}

impl BackendError {
    pub(crate) fn unusable(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::Unusable { setting, reason: reason.into() }
    }
}

/// A setting by where it came from.
fn source_of(setting: &str) -> String {
    match setting {
        flag if flag.starts_with("--") => flag.to_owned(),
        variable if variable.starts_with(|char: char| char.is_ascii_uppercase()) => format!("the variable {variable}"),
        attribute => format!("the S3 backend's setting `{attribute}`"),
    }
}

/// Why a plan file does not tell its backend. Shows nothing of its content, which can hold keys.
#[derive(Debug, thiserror::Error)]
pub enum PlanFlaw {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// A pipe or a device.
    #[error("it is not a regular file, so only Terraform could read it")]
    NoFile,
    /// OpenTofu's encryption of plans is on.
    #[error("OpenTofu has encrypted it, and only OpenTofu has the key")]
    Encrypted,
    /// No plan, or that of a run in HCP Terraform.
    #[error("it is not a plan of this machine's Terraform or OpenTofu")]
    NoPlan,
    /// Cut off, overwritten, or forged.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Larger than any plan tfguard is made for.
    #[error("it is too large to be looked through")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(config: &str, env: &[(&str, &str)]) -> Result<S3Backend, BackendError> {
        let env = env.iter().copied().collect();
        S3Backend::new(serde_json::from_str(config).unwrap(), Surroundings { dir: "/infra".into(), env })
    }

    #[test]
    fn a_state_belongs_to_the_backend_in_any_workspace_and_nowhere_else() {
        for (prefix, of_blue) in [
            ("null", "env:/blue/a/k"),
            (r#""""#, "blue/a/k"),
            (r#""ws//x/""#, "ws/x/blue/a/k"),
            (r#""./ws/../v""#, "v/blue/a/k"),
        ] {
            let config = format!(r#"{{"bucket":"b","key":"a/k","region":"r","workspace_key_prefix":{prefix}}}"#);
            let backend = backend(&config, &[]).unwrap();
            assert_eq!(backend.state_key("blue"), of_blue);
            assert!(backend.stores_state("b", "a/k"));
            assert!(backend.stores_state("b", of_blue));
            for (bucket, key) in [("c", "a/k"), ("b", "k"), ("b", "env:/x/y/a/k"), ("b", "other/a/k/k"), ("b", "")] {
                assert!(!backend.stores_state(bucket, key), "{prefix} {bucket} {key}");
            }
        }
    }

    #[test]
    fn each_half_has_its_place_the_file_first() {
        let both = r#"{"bucket":"b","key":"k","region":"r","dynamodb_table":"t","use_lockfile":true,"endpoints":{"s3":"http://me:hush@s3","dynamodb":null}}"#;
        let backend_of_both = backend(both, &[("AWS_ENDPOINT_URL", "http://all")]).unwrap();
        let file = LockPlace::Lockfile {
            bucket: "b".to_owned(),
            key: "k.tflock".to_owned(),
            region: "r".to_owned(),
            endpoint: Some("http://s3".to_owned()),
        };
        let table = LockPlace::DynamoDb {
            table: "t".to_owned(),
            lock_id: "b/k".to_owned(),
            region: "r".to_owned(),
            endpoint: Some("http://all".to_owned()),
        };
        for (kinds, expected) in [
            (LockKinds::Both, vec![file.clone(), table.clone()]),
            (LockKinds::Unstated, vec![file.clone(), table.clone()]),
            (LockKinds::Lockfile, vec![file.clone()]),
            (LockKinds::DynamoDb, vec![table.clone()]),
        ] {
            assert_eq!(backend_of_both.places(&LockClaim::example("k", kinds)).unwrap(), expected);
        }
        let neither = backend(r#"{"bucket":"b","key":"k","region":"r"}"#, &[]).unwrap();
        for kinds in [LockKinds::Both, LockKinds::DynamoDb, LockKinds::Unstated] {
            assert!(matches!(neither.places(&LockClaim::example("k", kinds)), Err(BackendError::NoSuchHalf(_))));
        }
        // What Terraform says it locked counts, not a setting that may have changed since.
        assert_eq!(neither.places(&LockClaim::example("k", LockKinds::Lockfile)).unwrap().len(), 1);
        let foreign = neither.places(&LockClaim::example("other", LockKinds::Lockfile));
        assert!(matches!(foreign, Err(BackendError::ForeignState(_))));
    }

    #[test]
    fn endpoints_are_picked_in_terraforms_order() {
        let sources = [
            (r#""endpoints":{"dynamodb":"http://nested"}"#, None),
            (r#""dynamodb_endpoint":"http://legacy""#, None),
            ("", Some(("AWS_ENDPOINT_URL_DYNAMODB", "http://variable"))),
            ("", Some(("AWS_DYNAMODB_ENDPOINT", "old-variable"))),
        ];
        let expected = ["http://nested", "http://legacy", "http://variable", "https://old-variable"];
        for present in 1..16_u8 {
            let chosen: Vec<usize> = (0..4).filter(|bit| present & (1 << bit) != 0).collect();
            let config: String = chosen
                .iter()
                .map(|at| sources[*at].0)
                .filter(|text| !text.is_empty())
                .map(|text| format!(",{text}"))
                .collect();
            let env: Vec<_> = chosen.iter().filter_map(|at| sources[*at].1).collect();
            let backend = backend(&format!(r#"{{"bucket":"b","key":"k","region":"r"{config}}}"#), &env).unwrap();
            assert_eq!(backend.endpoints.dynamodb.as_deref(), Some(expected[chosen[0]]), "{present}");
        }
    }

    #[test]
    fn a_lockfile_behind_a_multi_region_access_point_has_no_place_and_its_table_half_has() {
        let places = |bucket: &str, kinds| {
            let config = format!(r#"{{"bucket":"{bucket}","key":"k","region":"r","dynamodb_table":"t"}}"#);
            backend(&config, &[])
                .unwrap()
                .places(&LockClaim { bucket: bucket.to_owned(), ..LockClaim::example("k", kinds) })
        };
        let (many, one) = ("arn:aws:s3::1:accesspoint/x.mrap", "arn:aws:s3:eu-west-1:1:accesspoint/x");
        for kinds in [LockKinds::Lockfile, LockKinds::Both] {
            assert!(matches!(places(many, kinds), Err(BackendError::Unusable { setting: "bucket", .. })), "{kinds:?}");
            assert!(places(one, kinds).is_ok(), "{kinds:?}");
        }
        assert_eq!(places(many, LockKinds::DynamoDb).unwrap().len(), 1);
    }

    #[test]
    fn the_region_comes_from_the_attribute_then_from_the_environment() {
        let variables = [("AWS_REGION", "two"), ("AWS_DEFAULT_REGION", "three")];
        let region = |attribute: &str, env: &[(&str, &str)]| {
            backend(&format!(r#"{{"bucket":"b","key":"k","region":{attribute}}}"#), env).map(|backend| backend.region)
        };
        assert_eq!(region(r#""one""#, &variables).unwrap(), "one");
        assert_eq!(region("null", &variables).unwrap(), "two");
        assert_eq!(region(r#""""#, &variables[1..]).unwrap(), "three");
        assert!(matches!(region("null", &[]), Err(BackendError::Unusable { setting: "region", .. })));
    }

    #[test]
    fn a_customer_key_is_32_bytes_in_base64_and_never_shown() {
        let text = BASE64_STANDARD.encode([7; 32]);
        let key = SseCustomerKey::new(&text).unwrap();
        assert_eq!(key.md5, "y4HAEFCYWuvAXWFTtA1Qpg==");
        assert!(!format!("{key:?}").contains(&text[..8]));
        for wrong in ["", "abc", &BASE64_STANDARD.encode([7; 31]), &text[1..]] {
            assert_eq!(SseCustomerKey::new(wrong), None);
        }
    }
}
