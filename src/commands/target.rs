//! Which state a command is about, and how it is reached: by working directory, or by flags alone.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ValueHint;

use crate::aws::{AwsClients, BackendError, GivenSettings, S3Backend, Surroundings};
use crate::model::{Environment, LockPlace};
use crate::terraform::{Backend, Flavour, InitRecord, caches_of, read_backend, workspace};
use crate::text;

/// The flags that name one state.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Target {
    /// Take the state of this directory [default: .]
    ///
    /// The working directory is initialised: `terraform init` has run there.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "State")]
    pub chdir: Option<PathBuf>,

    /// Take the state of this workspace
    ///
    /// Without it, the workspace is the one that Terraform would take there.
    #[arg(long, value_name = "NAME", conflicts_with = "bucket", help_heading = "State")]
    pub workspace: Option<String>,

    /// Its place and how it is reached, where flags say that.
    #[command(flatten)]
    pub given: GivenSettings,
}

fn list(directories: &[PathBuf]) -> String {
    directories.iter().map(text::quote).collect::<Vec<_>>().join(", ")
}

/// One state, and how to reach it.
#[derive(Debug, Clone)]
pub struct State {
    /// The settings.
    pub backend: S3Backend,
    /// The state's key in its bucket, with the workspace's prefix.
    pub key: String,
    /// The workspace. None where flags name the state.
    pub workspace: Option<String>,
    /// The working directory. None where flags name the state.
    pub dir: Option<PathBuf>,
    /// Clients for it. No request has been sent yet.
    pub clients: AwsClients,
}

/// One half of a state's lock: where it would live, and what was seen there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalfOf<Seen> {
    pub place: LockPlace,
    pub seen: Seen,
    /// Whether Terraform is set up to lock there, as far as it is known. Elsewhere a lock can lie that was taken with other
    /// settings, and often nobody may look.
    pub expected: bool,
}

/// Why it is not known what a command is about. Each text says what to do instead.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The working directory's backend cannot be read.
    #[error("{0}\nhint: {BY_FLAGS}")]
    Backend(BackendError),
    /// What the flags say cannot be used.
    #[error("{0}")]
    Flags(BackendError),
    /// There is no region.
    #[error(
        "no AWS region: neither --region nor AWS_REGION nor the AWS configuration names one\nhint: Add `--region \
         <REGION>`"
    )]
    NoRegion,
    /// The directory is not initialised.
    #[error(
        "{dir} is not initialised with a backend\nhint: Run `terraform init` there, or name another directory with \
         --chdir. \
         {BY_FLAGS}"
    )]
    NotInitialised { dir: PathBuf },
    /// A unit of Terragrunt, which was initialised in its cache.
    #[error(
        "{dir} is a Terragrunt unit that {} in its cache\nhint: Name one of {} with --chdir. {BY_FLAGS}",
        if caches.is_empty() { "is not initialised" } else { "is initialised several times" },
        if caches.is_empty() { "its directories, once `terragrunt init` has run,".to_owned() } else { list(caches) }
    )]
    Unit { dir: PathBuf, caches: Vec<PathBuf> },
    /// The state is a local file.
    #[error(
        "{dir} has local state, whose lock ends with the process that holds it: none can be left\n\
         hint: Name another directory with --chdir"
    )]
    Local { dir: PathBuf },
    /// The state is not in S3.
    #[error(
        "{dir} has its state in a backend of type {kind}, which this command cannot read\n\
         hint: If Terraform says that it is locked, and once you are sure that no Terraform of this state runs, {}",
        text::run_in(Some(dir), "terraform force-unlock <LOCK_ID>")
    )]
    Other { dir: PathBuf, kind: String },
}

const BY_FLAGS: &str =
    "Or name the state without its directory: --bucket, --key and --region, and --table if it locks in one";

impl From<BackendError> for TargetError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Unusable { setting: "region", .. } => Self::NoRegion,
            error => Self::Flags(error),
        }
    }
}

impl Target {
    /// The state that is meant, in tfguard's own environment.
    ///
    /// # Errors
    /// When it cannot be told, with what to do instead.
    pub async fn state(&self) -> Result<State, TargetError> {
        self.state_in(Path::new("."), Environment::own()).await
    }

    /// A command of tfguard's about this state, as a person types it in the same directory.
    pub fn command(&self, state: &State, words: &[&str]) -> String {
        let mut all: Vec<OsString> = ["tfguard"].iter().chain(words).map(OsString::from).collect();
        let surroundings = self.surroundings(state);
        if let (Some(_), Some(Surroundings { dir, .. })) = (&self.chdir, &surroundings) {
            all.extend(["--chdir".into(), dir.into()]);
        }
        let must_name = |name: &&String| surroundings.as_ref().is_some_and(|surroundings| surroundings.must_name(name));
        if let Some(name) = state.workspace.as_ref().filter(must_name) {
            all.extend(["--workspace".into(), name.into()]);
        }
        all.extend(self.given.flags().into_iter().map(OsString::from));
        let before = surroundings.and_then(|surroundings| surroundings.data_dir_assignment());
        before.into_iter().chain([text::join(all)]).collect::<Vec<_>>().join(" ")
    }

    /// The beginning of a command line by which a person runs Terraform on this state in the same directory. None if no
    /// directory is named that is set up for it.
    pub fn terraform(&self, state: &State, program: &str) -> Option<String> {
        let surroundings = self.surroundings(state)?;
        let Ok(Backend::S3(backend)) = read_backend(&surroundings) else { return None };
        let place = |backend: &S3Backend| backend.file_place(&state.key);
        let workspace = backend.workspace_of(&state.key).filter(|_| place(&backend) == place(&state.backend))?;
        Some(surroundings.terraform(program, workspace, self.chdir.is_some()))
    }

    /// The directory that is looked into. Where flags name the state, one that is named too.
    pub fn dir(&self, state: &State) -> Option<PathBuf> {
        let named = || self.chdir.as_ref().map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
        state.dir.clone().or_else(named)
    }

    fn surroundings(&self, state: &State) -> Option<Surroundings> {
        Some(Surroundings { dir: self.dir(state)?, env: Environment::own() })
    }

    async fn state_in(&self, here: &Path, env: Environment) -> Result<State, TargetError> {
        let given = &self.given;
        if let Some(key) = given.key.clone() {
            let backend =
                given.backend(Surroundings { dir: here.to_owned(), env }).map_err(|error| given.named(error))?;
            let clients = AwsClients::connect(&backend).await.map_err(|error| given.named(error))?;
            return Ok(State { backend, key, workspace: None, dir: None, clients });
        }
        let dir = self.chdir.as_ref().map_or_else(|| here.to_owned(), |dir| here.join(dir));
        State::of_directory(&dir, env, self.workspace.as_deref(), given).await
    }
}

impl State {
    /// What `init` recorded in its directory, if that is known.
    pub fn record(&self) -> Option<InitRecord> {
        InitRecord::of(&Surroundings { dir: self.dir.clone()?, env: Environment::own() })
    }

    /// The program that people run in its directory, as far as what `init` recorded there tells.
    pub fn program(&self) -> Option<&'static str> {
        match Flavour::decide("".as_ref(), Some(&self.record()?)) {
            Flavour::OpenTofu => Some("tofu"),
            Flavour::Terraform | Flavour::OldTerraform => Some("terraform"),
            Flavour::Unknown => None,
        }
    }

    /// The state of a working directory, with settings that come over those of its backend.
    ///
    /// # Errors
    /// When it has none in S3, or its settings cannot be followed.
    pub async fn of_directory(
        dir: &Path,
        env: Environment,
        named: Option<&str>,
        given: &GivenSettings,
    ) -> Result<Self, TargetError> {
        let mut dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let mut surroundings = Surroundings { dir: dir.clone(), env };
        if matches!(read_backend(&surroundings), Ok(Backend::None))
            && let Some(caches) = caches_of(&dir)
        {
            let [cache] = caches.as_slice() else { return Err(TargetError::Unit { dir, caches }) };
            dir.clone_from(cache);
            surroundings.dir.clone_from(cache);
        }
        let backend = match read_backend(&surroundings).map_err(TargetError::Backend)? {
            Backend::S3(backend) => given.over_backend(&backend).map_err(|error| given.named(error))?,
            Backend::None => return Err(TargetError::NotInitialised { dir }),
            Backend::Local => return Err(TargetError::Local { dir }),
            Backend::Other { kind, .. } => return Err(TargetError::Other { dir, kind }),
        };
        let workspace = named.map_or_else(|| workspace(&surroundings), str::to_owned);
        let clients = AwsClients::connect(&backend).await.map_err(|error| given.named(error))?;
        let key = backend.state_key(&workspace);
        Ok(Self { backend, key, workspace: Some(workspace), dir: Some(dir), clients })
    }

    /// The bucket of the state.
    pub fn bucket(&self) -> &str {
        self.backend.bucket()
    }

    /// `<bucket>/<state key>`: the key of the lock's item, and `Path` in the lock.
    pub fn lock_id(&self) -> String {
        format!("{}/{}", self.bucket(), self.key)
    }

    /// Where the halves of its lock would live, the file half first, as Terraform unlocks.
    pub fn halves(&self) -> Vec<HalfOf<()>> {
        let table = self.backend.table_place(&self.key);
        // By flags alone, a state without a table can only have a lockfile.
        let expected = self.backend.uses_lockfile() || (self.dir.is_none() && table.is_none());
        let file = HalfOf { place: self.backend.file_place(&self.key), seen: (), expected };
        [file].into_iter().chain(table.map(|place| HalfOf { place, seen: (), expected: true })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::Access;

    fn state(target: &Target, record: Option<&str>) -> Result<State, TargetError> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(record) = record {
            std::fs::create_dir(dir.path().join(".terraform")).unwrap();
            std::fs::write(dir.path().join(".terraform/terraform.tfstate"), record).unwrap();
        }
        let env = [("TF_WORKSPACE", "blue")].into_iter().collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(target.state_in(dir.path(), env))
    }

    fn record(kind: &str) -> String {
        format!(
            r#"{{"version":3,"backend":{{"type":"{kind}","hash":1,"config":{{"bucket":"b","key":"k","region":"r","dynamodb_table":"t"}}}}}}"#
        )
    }

    fn by_flags() -> Target {
        let access = Access { region: Some("r".to_owned()), ..Access::default() };
        let given =
            GivenSettings { bucket: Some("b".to_owned()), key: Some("k".to_owned()), access, ..Default::default() };
        Target { given, ..Target::default() }
    }

    fn expected(state: &State) -> Vec<bool> {
        state.halves().iter().map(|half| half.expected).collect()
    }

    #[test]
    fn a_directory_tells_its_state_in_the_workspace_of_terraform_or_another() {
        let record = record("s3");
        let found = state(&Target::default(), Some(&record)).unwrap();
        assert_eq!(found.lock_id(), "b/env:/blue/k");
        assert_eq!(expected(&found), [false, true], "a lockfile can be there and need not");
        let default = Target { workspace: Some("default".to_owned()), ..Target::default() };
        assert_eq!(state(&default, Some(&record)).unwrap().lock_id(), "b/k");
        let mut other = Target::default();
        other.given.table = Some("u".to_owned());
        assert_eq!(state(&other, Some(&record)).unwrap().backend.table(), Some("u"));
    }

    #[test]
    fn flags_alone_are_enough_also_where_the_directory_is_broken() {
        for broken in [None, Some("{"), Some("{\"version\":9}")] {
            let found = state(&by_flags(), broken).unwrap();
            assert_eq!((found.lock_id().as_str(), found.dir.is_none()), ("b/k", true));
            assert_eq!(expected(&found), [true]);
        }
        let mut with_table = by_flags();
        with_table.given.table = Some("t".to_owned());
        assert_eq!(expected(&state(&with_table, None).unwrap()), [false, true]);
    }

    #[test]
    fn each_error_says_what_to_do_instead() {
        let local = r#"{"version":3,"backend":{"type":"local","config":{},"hash":1}}"#;
        let gcs = r#"{"version":3,"backend":{"type":"gcs","config":{},"hash":1}}"#;
        let mut without_region = by_flags();
        without_region.given.access.region = None;
        for (target, record, says) in [
            (Target::default(), None, "--chdir"),
            (Target::default(), Some("{"), "--bucket, --key and --region"),
            (Target::default(), Some(local), "local state"),
            (Target::default(), Some(gcs), "once you are sure that no Terraform of this state runs, run in "),
            (without_region, None, "--region"),
        ] {
            let error = state(&target, record).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
