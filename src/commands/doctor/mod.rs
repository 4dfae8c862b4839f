//! `tfguard doctor`: looks before anybody needs it. Facts are gathered first; each row of [`CHECKS`] judges them without
//! I/O. The permissions have a table of their own, [`PERMISSIONS`], from which the policy is printed, too.
//!
//! It changes nothing: a request that would write has a condition that cannot hold, or is about what is not there, and
//! names what nobody uses.

mod checks;
mod facts;
mod permissions;
mod probes;

use std::fmt::Write as _;

use serde::Serialize;

use crate::commands::doctor::facts::Facts;
use crate::commands::doctor::permissions::{Audience, Policy, Subject, literal};
use crate::commands::doctor::probes::{Tried, probe};
use crate::commands::target::{State, Target, TargetError};
use crate::commands::{Failure, Format, block_on, print, print_json};
use crate::exit;
use crate::model::LockPlace;
use crate::text::printable;

pub use checks::{Area, CHECKS, Check, Finding, Severity};
pub use permissions::{On, PERMISSIONS, Permission};

/// The version of the JSON format.
const SCHEMA: u32 = 1;

/// The options of `tfguard doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The state.
    #[command(flatten)]
    pub target: Target,

    /// Print text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Output")]
    pub format: Format,

    /// Exit with 1 at this or worse
    #[arg(long, value_name = "SEVERITY", default_value = "problem", help_heading = "Checks")]
    pub fail_on: Severity,

    /// Ask AWS nothing
    ///
    /// Look only at this machine and at the settings.
    #[arg(long, help_heading = "Checks")]
    pub offline: bool,

    /// A later step runs `tfguard release`: what the job's runs are told.
    #[arg(long, env = "TFGUARD_CLEANUP_STEP", hide = true)]
    pub cleanup_step: bool,

    /// Print the IAM policy for a pipeline or operator
    ///
    /// Print the least-privilege IAM policy for this state and do nothing else: for the pipelines that run Terraform, or for
    /// the people who look after its locks.
    #[arg(
        long,
        value_name = "ROLE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "pipeline",
        help_heading = "Policy"
    )]
    pub iam_policy: Option<Audience>,

    /// Write this AWS account into the policy
    ///
    /// The account is that of table and key. Without it the policy is for any.
    #[arg(long, value_name = "ID", requires = "iam_policy", help_heading = "Policy")]
    pub account: Option<String>,

    /// Let the policy allow all states of the bucket
    #[arg(long, requires = "iam_policy", help_heading = "Policy")]
    pub all_states: bool,

    /// Leave out what records holders
    ///
    /// For runs with --no-annotate. Their variable counts here, too.
    #[arg(long, env = "TFGUARD_NO_ANNOTATE", help_heading = "Policy")]
    pub no_annotate: bool,

    /// Count what leases need, too
    ///
    /// For runs with --lease or --reclaim, and for people who use `tfguard unlock --expired`.
    #[arg(long, help_heading = "Policy")]
    pub lease: bool,

    /// Let the policy allow this KMS key
    ///
    /// The key, an ID or ARN, encrypts the objects, though the backend block names none, or the lock table. Separate several
    /// with commas, or repeat the option.
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = kms_key, help_heading = "Policy")]
    pub kms_key: Vec<String>,
}

/// In the resource of a policy an alias is the alias, and not its key.
fn kms_key(text: &str) -> Result<String, &'static str> {
    let is_key = !text.is_empty() && !text.contains("alias/");
    is_key.then(|| text.to_owned()).ok_or("give the key's ID or ARN: `aws kms describe-key` tells them of an alias")
}

/// Looks; gives tfguard's exit code.
///
/// # Errors
/// When what was found cannot be written, or no policy can be made because no state is known.
pub fn run(args: &Args) -> Result<u8, Failure> {
    block_on(async {
        let state = args.target.state().await;
        if let Some(audience) = args.iam_policy {
            let state = state?;
            let (subject, keys) = (subject(args, &state), keys(args, &state));
            let policy = Policy { subject, keys, account: args.account.clone() };
            print(&format!("{:#}\n", policy.document(audience)))?;
            return Ok(0);
        }
        let report = examine(args, state).await;
        match args.format {
            Format::Text => print(&report.text())?,
            Format::Json => print_json(&report)?,
        }
        Ok(if report.worst >= args.fail_on { exit::DOCTOR_FOUND } else { 0 })
    })
}

fn subject(args: &Args, state: &State) -> Subject {
    let of_backend = state.backend.kms_key().map(str::to_owned);
    Subject {
        bucket: state.bucket().to_owned(),
        key: state.key.clone(),
        table: state.backend.table().map(str::to_owned),
        lockfile: state.halves().iter().any(|half| half.expected && matches!(half.place, LockPlace::Lockfile { .. })),
        foreign_store: !state.clients.is_s3_of_aws(),
        annotate: !args.no_annotate,
        lease: args.lease,
        kms_keys: of_backend.into_iter().chain(args.kms_key.clone()).collect(),
        region: state.backend.region().to_owned(),
        program: state.program(),
        knows_lockfiles: state.record().map(|record| record.has("use_lockfile")),
    }
}

/// The keys that a policy is for: of the state in every workspace, where a directory tells how they are made.
fn keys(args: &Args, state: &State) -> Vec<String> {
    // A name that no workspace has, so that its place is found.
    const ANY: &str = "\u{1}";
    match &state.workspace {
        _ if args.all_states => vec!["*".to_owned()],
        Some(_) => ["default", ANY].map(|name| literal(&state.backend.state_key(name)).replace(ANY, "*")).into(),
        None => vec![literal(&state.key)],
    }
}

async fn examine(args: &Args, state: Result<State, TargetError>) -> Report {
    let (state, subject) = match state {
        Ok(state) => (Some(state.clone()), Ok(subject(args, &state))),
        Err(error) => (None, Err(error)),
    };
    let mut facts = Facts::of_machine(subject, args.cleanup_step);
    let mut permissions = Vec::new();
    if let Some(state) = state.as_ref().filter(|_| !args.offline) {
        facts.ask(state).await;
        if let Ok(subject) = &facts.state {
            permissions = probe(state, subject, &facts).await;
        }
    }
    let mut findings: Vec<_> = CHECKS.iter().filter_map(|check| check.finding(&facts)).collect();
    findings.extend(probes::findings(&permissions));
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
    let state = state.map(|state| state.lock_id());
    Report { schema: SCHEMA, tfguard: env!("CARGO_PKG_VERSION"), state, worst, findings, permissions }
}

/// All that the doctor found.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    tfguard: &'static str,
    /// `<bucket>/<state key>`; none where no state in S3 was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    worst: Severity,
    findings: Vec<Finding>,
    permissions: Vec<Tried>,
}

/// Of each severity.
const MARKS: [&str; 4] = ["ok", "note", "WARNING", "PROBLEM"];

impl Report {
    /// For people.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut area = None;
        for finding in &self.findings {
            if area.replace(finding.area) != Some(finding.area) {
                let _ = writeln!(text, "{:?}", finding.area);
            }
            let _ = writeln!(text, "  {:8} {}", MARKS[finding.severity as usize], printable(&finding.seen));
            for (name, words) in [("why", &finding.why), ("fix", &finding.fix)] {
                if let Some(words) = words {
                    let _ = writeln!(text, "           {name}: {}", printable(words));
                }
            }
        }
        let counts = [(Severity::Problem, "problem"), (Severity::Warning, "warning"), (Severity::Note, "note")];
        let counts = counts.map(|(severity, name)| {
            let count = self.findings.iter().filter(|finding| finding.severity == severity).count();
            format!("{count} {name}{}", if count == 1 { "" } else { "s" })
        });
        let _ = writeln!(text, "{}", counts.join(", "));
        text
    }
}
