//! What the checks judge, gathered once.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeValue, PointInTimeRecoveryStatus, SseStatus, TableDescription, TimeToLiveStatus,
};
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::types::BucketVersioningStatus;
use jiff::Timestamp;

use crate::aws::{AwsClients, CredentialsEnd, StoreError, classify};
use crate::ci::Chain;
use crate::commands::doctor::permissions::{Subject, UNUSED};
use crate::commands::target::{State, TargetError};
use crate::model::{Environment, Provider, Term};
use crate::session::{DirectoryError, SessionDir};
use crate::{ci, model, terraform};

/// All that the checks know.
#[derive(Debug)]
pub struct Facts {
    /// The CI system.
    pub provider: Option<Provider>,
    /// A later step runs `tfguard release`, as TFGUARD_CLEANUP_STEP declares.
    pub cleanup_step: bool,
    /// What a run would give Terraform after its interrupt, where nobody chooses a time.
    pub grace: Term,
    /// The processes from this one up.
    pub chain: Chain,
    /// The name of a process that the script put behind tfguard in a pipe.
    pub reader: Option<String>,
    /// A session could be made and was removed again.
    pub session: Result<Session, DirectoryError>,
    /// What `terraform` and `tofu` on PATH are, and whether that is behind a setup action's Node wrapper.
    pub programs: Vec<(String, bool)>,
    /// The state that is looked at.
    pub state: Result<Subject, TargetError>,
    /// Now.
    pub now: Timestamp,
    /// What remains of the job's time, where the CI tells.
    pub left: Option<Duration>,
    /// Who asks AWS. None of these where AWS was not asked.
    pub identity: Option<Identity>,
    /// An error where it is not there, or nobody answers for it: then nothing more is asked of it.
    pub bucket: Option<Result<Bucket, StoreError>>,
    /// The same.
    pub table: Option<Result<Table, StoreError>>,
}

/// The place of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The directory in which sessions are made.
    pub place: PathBuf,
    /// The variable that names a directory which all steps of the CI's jobs see, and whether it is below that.
    pub shared: Option<(&'static str, bool)>,
}

impl Facts {
    /// Those of this machine, and of the state as far as its settings tell.
    pub fn of_machine(state: Result<Subject, TargetError>, cleanup_step: bool) -> Self {
        let env = Environment::own();
        let provider = model::Run::detect(&env).map(|run| run.provider);
        let (chain, now) = (Chain::look(true), Timestamp::now());
        let age = || ci::job_age("BUILDKITE_JOB_ID", env.text("BUILDKITE_JOB_ID")?);
        Self {
            provider,
            cleanup_step,
            grace: ci::grace(&ci::Surroundings::here(&env, cleanup_step)),
            reader: chain.reader_of_stdout(),
            chain,
            session: Session::look(provider, &env),
            programs: ["terraform", "tofu"].into_iter().filter_map(|name| program(name, &env)).collect(),
            state,
            now,
            left: ci::time_left(&env, now, age).map(|limit| limit.left),
            identity: None,
            bucket: None,
            table: None,
        }
    }

    /// Asks AWS for the rest, as long as it answers.
    pub async fn ask(&mut self, state: &State) {
        let identity = self.identity.insert(Identity::look(&state.clients).await);
        if identity.who.is_err() {
            return;
        }
        let bucket = Bucket::look(&state.clients.s3(), state.bucket()).await;
        if let Some(error) = bucket.as_ref().ok().and_then(Bucket::refused_credentials) {
            identity.who = Err(error.clone());
            return;
        }
        let silent = bucket.as_ref().is_err_and(StoreError::is_silence);
        self.bucket = Some(bucket);
        if let Some(table) = state.backend.table().filter(|_| !silent) {
            self.table = Some(Table::look(&state.clients.dynamodb(), table, &state.lock_id()).await);
        }
    }

    /// The lock table, if it is there and answers.
    pub fn table(&self) -> Option<&Table> {
        self.table.as_ref()?.as_ref().ok()
    }

    /// The bucket, if it is there and answers.
    pub fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()?.as_ref().ok()
    }
}

impl Session {
    /// Makes a session directory and removes it again.
    fn look(provider: Option<Provider>, env: &Environment) -> Result<Self, DirectoryError> {
        let session = SessionDir::create(env)?;
        let place = session.path().parent().unwrap_or(session.path()).to_owned();
        session.remove();
        let shared = provider.and_then(ci::directory_of);
        // The session's path has no links in it.
        let directory = |name| env.path(name)?.canonicalize().ok();
        let is_below = |name| directory(name).is_some_and(|dir| place.starts_with(dir));
        Ok(Self { shared: shared.map(|name| (name, is_below(name))), place })
    }
}

fn program(name: &str, env: &Environment) -> Option<(String, bool)> {
    let path = terraform::real_program(OsStr::new(name), env).ok()?;
    let behind = terraform::behind_wrapper(path.as_os_str(), env);
    Some((format!("{name} is {}", behind.as_ref().unwrap_or(&path).display()), behind.is_some()))
}

/// Nothing bounds a program that is to print credentials.
const LONGEST: Duration = Duration::from_secs(20);
/// No item meets it.
pub const IMPOSSIBLE: &str = "attribute_exists(LockID) AND attribute_not_exists(LockID)";

/// What a table or a bucket answered.
///
/// # Errors
/// When it is not there, or nobody answers for it.
fn answered<T>(answer: Result<T, StoreError>) -> Result<Result<T, StoreError>, StoreError> {
    match answer {
        Err(error @ (StoreError::NoSuchTable(_) | StoreError::NoSuchBucket(_))) => Err(error),
        Err(error) if error.is_silence() => Err(error),
        answer => Ok(answer),
    }
}

/// Whose the credentials are.
#[derive(Debug)]
pub struct Identity {
    /// Their ARN, or the shortened ID of the key where STS was not asked.
    pub who: Result<String, StoreError>,
    /// When they end: none where they do not, or nobody tells.
    pub end: Option<Timestamp>,
}

impl Identity {
    /// Fetches the credentials and asks whose they are, which needs no permission.
    async fn look(clients: &AwsClients) -> Self {
        let silence = |_| Err(StoreError::CredentialsMissing(format!("they did not come within {LONGEST:?}")));
        let end = match tokio::time::timeout(LONGEST, clients.credentials_end()).await.unwrap_or_else(silence) {
            Ok(CredentialsEnd::At(end)) => end.try_into().ok(),
            Ok(CredentialsEnd::Never | CredentialsEnd::Untold) => None,
            Err(error) => return Self { who: Err(error), end: None },
        };
        // What aws-vault and the AWS CLI's `export-credentials` set beside keys in the environment.
        let told = || std::env::var("AWS_CREDENTIAL_EXPIRATION").ok()?.parse().ok();
        let caller = clients.caller().await;
        let who = caller.identity.map(|identity| identity.arn).or(caller.key_id).unwrap_or_default();
        Self { who: Ok(who), end: end.or_else(told) }
    }
}

/// What could be learned of a bucket. An error is what the service answered.
#[derive(Debug)]
pub struct Bucket {
    /// The region that it says it is in where it does not let itself be reached. None where it does: stores that are not
    /// AWS's call their regions what they like, and take requests for others.
    pub region: Result<Option<String>, StoreError>,
    /// Whether it keeps versions.
    pub versioning: Result<bool, StoreError>,
    /// How it encrypts objects that do not say it themselves, if it does.
    pub encryption: Result<Option<String>, StoreError>,
}

impl Bucket {
    /// Asks for them.
    ///
    /// # Errors
    /// When it is not there, or nobody answers for it.
    async fn look(client: &aws_sdk_s3::Client, bucket: &str) -> Result<Self, StoreError> {
        let region = client.head_bucket().bucket(bucket).send().await.map(|_| None).or_else(|error| {
            let raw = error.raw_response();
            let missing = raw.is_some_and(|raw| raw.status().as_u16() == 404);
            // A bucket elsewhere answers with an error that says where it is.
            match raw.and_then(|raw| raw.headers().get("x-amz-bucket-region")) {
                Some(region) => Ok(Some(region.to_owned())),
                None if missing => Err(StoreError::NoSuchBucket("HTTP 404".to_owned())),
                None => Err(classify("s3:ListBucket", error)),
            }
        });
        let region = answered(region)?;
        let versioning = client.get_bucket_versioning().bucket(bucket).send().await;
        let encryption = match client.get_bucket_encryption().bucket(bucket).send().await {
            Ok(answer) => Ok(answer.server_side_encryption_configuration().and_then(|encryption| {
                let by_default = encryption.rules().first()?.apply_server_side_encryption_by_default()?;
                Some(by_default.sse_algorithm().to_string())
            })),
            Err(error) if error.code() == Some("ServerSideEncryptionConfigurationNotFoundError") => Ok(None),
            Err(error) => Err(classify("s3:GetEncryptionConfiguration", error)),
        };
        let versioning = versioning
            .map(|answer| answer.status() == Some(&BucketVersioningStatus::Enabled))
            .map_err(|error| classify("s3:GetBucketVersioning", error));
        Ok(Self { region, versioning, encryption })
    }

    /// Why the service did not take the credentials, whatever they may do, if that is so. A HEAD's answer cannot say it.
    fn refused_credentials(&self) -> Option<&StoreError> {
        let mut errors = self.region.as_ref().err().into_iter().chain(self.versioning.as_ref().err());
        errors.find(|error| matches!(error, StoreError::CredentialsRejected(_) | StoreError::CredentialsExpired(_)))
    }
}

/// What could be learned of a table. An error is what the service answered.
#[derive(Debug)]
pub struct Table {
    /// Its keys and its encryption.
    pub described: Result<Described, StoreError>,
    /// The attribute by which items expire, if they do.
    pub expires_by: Result<Option<String>, StoreError>,
    /// Whether it can be taken back to any second.
    pub recovery: Result<bool, StoreError>,
    /// Whether a delete was refused because its condition cannot hold.
    pub keeps_conditions: Result<bool, StoreError>,
}

/// What `DescribeTable` tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// Each key: name, kind (`HASH` or `RANGE`) and type (`S` is a string).
    pub keys: String,
    /// What it is encrypted with, in words.
    pub encryption: &'static str,
}

impl Table {
    /// Asks for them, and for the deletion of an item that nobody uses under a condition that cannot hold.
    ///
    /// # Errors
    /// When it is not there, or nobody answers for it.
    async fn look(client: &aws_sdk_dynamodb::Client, table: &str, lock_id: &str) -> Result<Self, StoreError> {
        let described = client.describe_table().table_name(table).send().await;
        let described = described.map(|answer| answer.table().map(Described::of).unwrap_or_default());
        let described = answered(described.map_err(|error| classify("dynamodb:DescribeTable", error)))?;
        let ttl = client.describe_time_to_live().table_name(table).send().await;
        let ttl = ttl.map(|answer| {
            let ttl = answer.time_to_live_description()?;
            let on = matches!(ttl.time_to_live_status(), Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling));
            on.then(|| ttl.attribute_name().unwrap_or_default().to_owned())
        });
        let backups = client.describe_continuous_backups().table_name(table).send().await;
        let recovery = backups.map(|answer| {
            let backups = answer.continuous_backups_description();
            let recovery = backups.and_then(|backups| backups.point_in_time_recovery_description());
            let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status());
            status == Some(&PointInTimeRecoveryStatus::Enabled)
        });
        let unused = AttributeValue::S(format!("{lock_id}{UNUSED}"));
        let delete = client.delete_item().table_name(table).key("LockID", unused).condition_expression(IMPOSSIBLE);
        Ok(Self {
            described,
            expires_by: ttl.map_err(|error| classify("dynamodb:DescribeTimeToLive", error)),
            recovery: recovery.map_err(|error| classify("dynamodb:DescribeContinuousBackups", error)),
            keeps_conditions: match delete.send().await {
                Ok(_) => Ok(false),
                Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(true),
                Err(error) => Err(classify("dynamodb:DeleteItem", error)),
            },
        })
    }
}

impl Described {
    fn of(table: &TableDescription) -> Self {
        let keys = table.key_schema().iter().map(|key| {
            let mut attributes = table.attribute_definitions().iter();
            let attribute = attributes.find(|attribute| attribute.attribute_name() == key.attribute_name());
            let kind = attribute.map_or("?", |attribute| attribute.attribute_type().as_str());
            format!("{} {} {kind}", key.attribute_name(), key.key_type().as_str())
        });
        let kms = table.sse_description().and_then(|sse| sse.status()) == Some(&SseStatus::Enabled);
        let encryption = if kms { "a key in KMS" } else { "a key of DynamoDB's own" };
        Self { keys: keys.collect::<Vec<_>>().join(", "), encryption }
    }
}
