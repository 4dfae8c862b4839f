//! The command: what is asked, in which order.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::access::{Tried, findings as access_findings};
use super::credentials::{self, ServerClock};
use super::finding::{Area, Finding, Severity};
use super::permissions::Audience;
use super::policy::{KeyPattern, Subject};
use super::probes::{Place, probe};
use super::program::{self, Program};
use super::render::Report;
use super::settings::{self, Setup};
use super::signals::{self, Job};
use super::{bucket, place, table};
use crate::backend::{InitRecord, Surroundings};
use crate::ci;
use crate::command::Flavour;
use crate::commands::output::to_json;
use crate::commands::{Failure, State, Target, TargetError, block_on, print};
use crate::exit;
use crate::lock::StoreError;
use crate::run::describe;

/// The options of `tfguard doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The state.
    #[command(flatten)]
    pub target: Target,

    /// How the findings look
    #[arg(long, env = "TFGUARD_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub format: Format,

    /// Exit with 1 where something is as bad as this
    #[arg(long, env = "TFGUARD_FAIL_ON", value_name = "SEVERITY", default_value = "problem")]
    pub fail_on: Severity,

    /// Look only at this machine and at the settings: ask AWS nothing
    #[arg(long, env = "TFGUARD_OFFLINE")]
    pub offline: bool,

    /// Print the least-privilege IAM policy for this state and do nothing else; for the pipelines that run Terraform, or
    /// for the people who look after its locks
    #[arg(
        long,
        env = "TFGUARD_IAM_POLICY",
        value_name = "ROLE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "pipeline"
    )]
    pub iam_policy: Option<Audience>,

    /// The AWS account of table and key, for the policy [default: any]
    #[arg(long, env = "TFGUARD_ACCOUNT", value_name = "ID", requires = "iam_policy")]
    pub account: Option<String>,

    /// For the policy: all states of the bucket, for those who look after all of them
    #[arg(long, env = "TFGUARD_ALL_STATES", requires = "iam_policy")]
    pub all_states: bool,

    /// For the policy: holders of locks are not recorded (--no-annotate)
    #[arg(long, env = "TFGUARD_NO_ANNOTATE")]
    pub no_annotate: bool,

    /// For the policy: one KMS key encrypts the objects though the backend block names none (ID, ARN or alias)
    #[arg(long, env = "TFGUARD_KMS_KEY", value_name = "KEY")]
    pub kms_key: Option<String>,

    /// For the policy: this KMS key of your own encrypts the lock table (ID, ARN or alias)
    #[arg(long, env = "TFGUARD_TABLE_KMS_KEY", value_name = "KEY")]
    pub table_kms_key: Option<String>,
}

/// How findings look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: docs/doctor.md has the fields.
    Json,
}

/// Looks; gives tfguard's exit code.
///
/// # Errors
/// When what was found cannot be written, or no policy can be made because no state is known.
pub fn run(args: &Args) -> Result<u8, Failure> {
    block_on(async {
        match args.iam_policy {
            Some(audience) => print_policy(args, audience).await,
            None => examine(args).await,
        }
    })
}

async fn print_policy(args: &Args, audience: Audience) -> Result<u8, Failure> {
    let state = args.target.state().await?;
    let set = state.dir.clone().and_then(|dir| record(dir, std::env::vars_os().collect())).map(|record| record.set);
    let policy = subject(args, &state, &set.unwrap_or_default()).policy(audience);
    let text = serde_json::to_string_pretty(&policy).map_err(|error| Failure::Output(error.into()))?;
    print(&format!("{text}\n"))?;
    Ok(0)
}

fn record(dir: PathBuf, env: HashMap<OsString, OsString>) -> Option<InitRecord> {
    InitRecord::read(&Surroundings { dir: std::path::absolute(&dir).unwrap_or(dir), env })
}

/// What a policy for this state is about: the state in every workspace, where a directory tells how its keys are made.
/// `set`: the names of the backend's attributes that are set.
fn subject(args: &Args, state: &State, set: &[String]) -> Subject {
    let mut state_keys = vec![KeyPattern::one(&state.key)];
    if args.all_states {
        state_keys = vec![KeyPattern::any()];
    } else if state.workspace.is_some() {
        state_keys = vec![
            KeyPattern::one(&state.backend.state_key("default")),
            KeyPattern::any_workspace(|workspace| state.backend.state_key(workspace)),
        ];
    }
    Subject {
        bucket: state.bucket().to_owned(),
        state_keys,
        table: state.backend.table().map(str::to_owned),
        lockfile: uses_lockfile(state),
        annotate: !args.no_annotate,
        // Without `encrypt` Terraform does not use it.
        kms_key: args.kms_key.clone().or_else(|| {
            let key = state.backend.kms_key().filter(|_| is_set(set, "encrypt"));
            key.map(str::to_owned)
        }),
        table_kms_key: args.table_kms_key.clone(),
        set: set.to_vec(),
        foreign_store: !state.clients.is_s3_of_aws(),
        region: state.backend.region().to_owned(),
        account: args.account.clone(),
    }
}

fn is_set(set: &[String], name: &str) -> bool {
    set.iter().any(|set| set == name)
}

/// By flags alone, a state without a table can only have a lockfile.
fn uses_lockfile(state: &State) -> bool {
    state.backend.uses_lockfile() || (state.dir.is_none() && state.backend.table().is_none())
}

async fn examine(args: &Args) -> Result<u8, Failure> {
    let env: HashMap<OsString, OsString> = std::env::vars_os().collect();
    let chain = signals::look();
    let variable = |name: &str| env.get(OsStr::new(name)).and_then(|value| value.to_str()).map(str::to_owned);
    let job = Job::detect(variable);
    let mut findings = signals::findings(job, &chain);
    findings.push(grace(&variable, job.cleanup_step));
    findings.extend(place::findings(&place::look(), job.provider));
    findings.extend(settings::environment(&env));

    let dir = args.target.chdir.clone().unwrap_or_else(|| ".".into());
    let record = record(dir.clone(), env.clone());
    let opentofu = Flavour::decide(OsStr::new("terraform"), &env, record.as_ref()) == Flavour::OpenTofu;
    let program = program::find(&env, opentofu, &dir).await;
    findings.push(settings::program(program.as_ref()));

    let (mut state_of, mut tried) = (None, Vec::new());
    match args.target.state().await {
        Ok(state) => {
            state_of = Some(state.lock_id());
            // Where flags name the state, the directory is about another one.
            let set = record.filter(|_| state.dir.is_some()).map(|record| record.set).unwrap_or_default();
            let (found, permissions) = examine_state(args, &state, &set, program.as_ref(), &env).await;
            findings.extend(found);
            tried = permissions;
        }
        Err(error) => findings.push(no_state(&error)),
    }
    let report = Report::new(state_of, findings, tried, chain);
    match args.format {
        Format::Text => print(&report.text(Severity::Ok))?,
        Format::Json => {
            print(&format!("{}\n", to_json(&report).map_err(Failure::Output)?))?;
        }
    }
    Ok(if report.worst >= args.fail_on { exit::DOCTOR_FOUND } else { 0 })
}

/// What a run would give Terraform after its interrupt, where nobody chooses a time.
fn grace(env: &dyn Fn(&str) -> Option<String>, cleanup_step: bool) -> Finding {
    let term = ci::grace(&ci::Surroundings::here(env, cleanup_step));
    let seen = format!("an apply has {} to end after its interrupt: {}", describe(term.duration), term.why);
    Finding::ok(Area::Signals, "grace", seen)
}

/// A doctor that finds no state still has told of the rest.
fn no_state(error: &TargetError) -> Finding {
    const ID: &str = "state";
    match error {
        TargetError::Local { .. } | TargetError::Other { .. } => {
            Finding::note(Area::Settings, ID, error.to_string()).why("table, bucket and permissions were not looked at")
        }
        TargetError::NotInitialised { .. } => Finding::warning(Area::Settings, ID, error.to_string())
            .why("table, bucket and permissions were not looked at"),
        _ => Finding::problem(Area::Settings, ID, error.to_string())
            .why("table, bucket and permissions were not looked at"),
    }
}

async fn examine_state(
    args: &Args,
    state: &State,
    set: &[String],
    program: Option<&Program>,
    env: &HashMap<OsString, OsString>,
) -> (Vec<Finding>, Vec<Tried>) {
    let table_name = state.backend.table();
    let lockfile = uses_lockfile(state);
    let setup = Setup { set, table: table_name.is_some(), lockfile, program };
    let mut findings = vec![named(state)];
    findings.extend(setup.findings());
    if args.offline {
        return (findings, Vec::new());
    }

    let now = Timestamp::now();
    let mut identity = credentials::look(&state.clients, env).await;
    let variable = |name: &str| env.get(OsStr::new(name)).and_then(|value| value.to_str()).map(str::to_owned);
    let age = || ci::job_age("BUILDKITE_JOB_ID", &variable("BUILDKITE_JOB_ID")?);
    let left = ci::time_left(variable, now, age).map(|limit| limit.left);
    let source = if args.target.access.profile.is_some() {
        "the profile that --profile names"
    } else {
        credentials::source(set, env)
    };
    if identity.end.is_err() {
        findings.extend(credentials::findings(&identity, source, left, now));
        return (findings, Vec::new());
    }

    let (dynamodb, s3) = (state.clients.dynamodb(), state.clients.s3());
    let clock = ServerClock::default();
    let bucket_facts = bucket::look(&s3, state.bucket(), &clock).await;
    if let Some(ahead) = clock.ahead() {
        findings.push(credentials::clock(ahead));
    }
    let refused = bucket_facts.refused_credentials();
    if let Some(error) = refused {
        identity.end = Err(error.clone());
    }
    findings.extend(credentials::findings(&identity, source, left, now));
    if refused.is_some() {
        return (findings, Vec::new());
    }
    if let Err(error) = &bucket_facts.region
        && error.is_silence()
    {
        findings.push(Finding::problem(Area::Bucket, "bucket", error.to_string()).why("nothing more was asked"));
        return (findings, Vec::new());
    }
    findings.extend(bucket::findings(&bucket_facts, state.bucket(), state.backend.region(), lockfile));
    let table_facts = match table_name {
        Some(table) => Some(table::look(&dynamodb, table).await),
        None => None,
    };
    if let (Some(facts), Some(table)) = (&table_facts, table_name) {
        findings.extend(table::findings(facts, table, state.backend.region()));
    }
    let silent = table_facts.as_ref().is_some_and(|facts| facts.described.as_ref().is_err_and(StoreError::is_silence));
    let place = Place {
        bucket: state.bucket(),
        key: &state.key,
        table: table_name.filter(|_| !silent),
        features: subject(args, state, set).features(),
        s3_of_aws: state.clients.is_s3_of_aws(),
        encrypts: is_set(set, "encrypt"),
        kms_key: state.backend.kms_key(),
        customer_key: state.backend.customer_key(),
    };
    let (answers, found) = probe(&place, &dynamodb, &s3, (table_facts.as_ref(), &bucket_facts)).await;
    findings.extend(found);
    let tried = answers.judge();
    findings.extend(access_findings(&tried));
    (findings, tried)
}

/// Which state it is, so that people see a wrong workspace.
fn named(state: &State) -> Finding {
    let mut seen = format!("state s3://{}/{} in {}", state.bucket(), state.key, state.backend.region());
    if let Some(workspace) = &state.workspace {
        seen += &format!(", workspace {workspace}");
    }
    if let Some(dir) = &state.dir {
        seen += &format!(", of {}", shown(dir));
    }
    Finding::ok(Area::Settings, "state", seen)
}

fn shown(dir: &Path) -> String {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned()).display().to_string()
}
