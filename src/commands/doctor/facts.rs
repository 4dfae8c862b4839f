//! What the checks judge, gathered once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::ci::Chain;
use crate::commands::doctor::aws::{Bucket, Identity, Table, is_absent};
use crate::commands::doctor::permissions::Subject;
use crate::commands::target::{State, TargetError};
use crate::model::{Provider, Term};
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
    /// The bucket.
    pub bucket: Option<Bucket>,
    /// The lock table.
    pub table: Option<Table>,
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
    #[must_use]
    pub fn of_machine(state: Result<Subject, TargetError>) -> Self {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let provider = model::Run::detect(env).map(|run| run.provider);
        let says_no = |value: String| ["0", "f", "false", "n", "no", "off"].contains(&&*value.to_lowercase());
        let cleanup_step = env("TFGUARD_CLEANUP_STEP").is_some_and(|value| !says_no(value));
        let (chain, now) = (Chain::look(), Timestamp::now());
        let age = || ci::job_age("BUILDKITE_JOB_ID", &env("BUILDKITE_JOB_ID")?);
        Self {
            provider,
            cleanup_step,
            grace: ci::grace(&ci::Surroundings::here(&env, cleanup_step)),
            reader: chain.reader_of_stdout(),
            chain,
            session: Session::look(provider),
            programs: ["terraform", "tofu"].into_iter().filter_map(program).collect(),
            state,
            now,
            left: ci::time_left(env, now, age).map(|limit| limit.left),
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
        if let Some(error) = bucket.refused_credentials() {
            identity.who = Err(error.clone());
            return;
        }
        let silent = bucket.region.as_ref().is_err_and(|error| error.is_silence());
        self.bucket = Some(bucket);
        if let Some(table) = state.backend.table().filter(|_| !silent) {
            self.table = Some(Table::look(&state.clients.dynamodb(), table, &state.lock_id()).await);
        }
    }

    /// The lock table, if it is there and answers.
    #[must_use]
    pub fn table(&self) -> Option<&Table> {
        let absent = |table: &&Table| table.described.as_ref().is_err_and(is_absent);
        self.table.as_ref().filter(|table| !absent(table))
    }

    /// The bucket, if it is there and answers.
    #[must_use]
    pub fn bucket(&self) -> Option<&Bucket> {
        let absent = |bucket: &&Bucket| bucket.region.as_ref().is_err_and(is_absent);
        self.bucket.as_ref().filter(|bucket| !absent(bucket))
    }
}

impl Session {
    /// Makes a session directory and removes it again.
    fn look(provider: Option<Provider>) -> Result<Self, DirectoryError> {
        let session = SessionDir::create(|name| std::env::var_os(name))?;
        let place = session.path().parent().unwrap_or(session.path()).to_owned();
        session.remove();
        let shared = match provider {
            Some(Provider::GithubActions) => Some("RUNNER_TEMP"),
            Some(Provider::Gitlab) => Some("CI_PROJECT_DIR"),
            Some(Provider::Jenkins) => Some("WORKSPACE_TMP"),
            Some(Provider::Azure) => Some("AGENT_TEMPDIRECTORY"),
            Some(Provider::Buildkite) => Some("BUILDKITE_BUILD_CHECKOUT_PATH"),
            Some(Provider::Circleci | Provider::Other) | None => None,
        };
        // The session's path has no links in it.
        let directory = |name| Path::new(&std::env::var_os(name)?).canonicalize().ok();
        let is_below = |name| directory(name).is_some_and(|dir| place.starts_with(dir));
        Ok(Self { shared: shared.map(|name| (name, is_below(name))), place })
    }
}

fn program(name: &str) -> Option<(String, bool)> {
    let env = std::env::vars_os().collect();
    let path = terraform::real_program(OsStr::new(name), &env).ok()?;
    let behind = terraform::behind_wrapper(path.as_os_str(), &env);
    Some((format!("{name} is {}", behind.as_ref().unwrap_or(&path).display()), behind.is_some()))
}
