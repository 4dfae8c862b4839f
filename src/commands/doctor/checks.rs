//! The table of checks: one row for each, in the order in which they are told. docs/doctor.md has the same rows.

use std::time::Duration;

use serde::Serialize;

use crate::aws::StoreError;
use crate::ci::LONG_ENOUGH;
use crate::commands::doctor::checks::Answer::{Right, Unknown, Wrong};
use crate::commands::doctor::checks::Area::{Bucket, Credentials, Session, Settings, Signals, Table, Terraform};
use crate::commands::doctor::checks::Severity::{Note, Problem, Warning};
use crate::commands::doctor::facts::Facts;
use crate::commands::target::TargetError::{Local, Other};
use crate::model::Provider;
use crate::text::{describe, in_a_line};

/// A run of Terraform, and the release after it, can take longer than that.
const SHORT_LIFE: Duration = Duration::from_secs(15 * 60);

/// All checks but those of permissions, which have a table of their own.
pub const CHECKS: &[Check] = &[
    Check {
        id: "exec",
        area: Signals,
        right: "nothing keeps a cancel from tfguard that `exec` would replace: {}",
        wrong: "the CI started another program, which waits for tfguard and passes no signal on: {}",
        severity: Warning,
        remedy: "write `exec tfguard -- terraform …` as the last and only command of the step, without a pipe",
        answer: |facts| Answer::of(!facts.chain.lacks_exec(facts.provider), facts.chain.shown()),
    },
    Check {
        id: "node",
        area: Signals,
        right: "no Node program of the CI's that dies of a signal stands above tfguard",
        wrong: "a Node program of the CI's stands above tfguard: a JavaScript action, and Azure's AzureCLI@2, die of a signal. tfguard stops then, and nobody reads what it says",
        severity: Warning,
        remedy: "start tfguard from a script step (`run:`, `bash:`), and get credentials in a step before it; a later step with `tfguard release` says what happened",
        answer: |facts| Answer::of(facts.provider.is_none() || !facts.chain.has_deaf_node(), ""),
    },
    Check {
        id: "pipe",
        area: Signals,
        right: "no command of the script reads stdout by a pipe",
        wrong: "{} reads stdout by a pipe: a shell stays around it in spite of `exec`, its exit code is that of the last command, and where a cancel ends that one, too, what is said then is said by `tfguard release` alone",
        severity: Warning,
        remedy: "write no pipe behind tfguard; --report has what happened as a file",
        answer: |facts| Answer::of(facts.reader.is_none(), facts.reader.as_deref().unwrap_or_default()),
    },
    Check {
        id: "grace",
        area: Signals,
        right: "an apply has {}",
        wrong: "an apply has only {}",
        severity: Warning,
        remedy: "run `tfguard release` in a step that always runs (`if: always()`, `after_script`, `post`), and set TFGUARD_CLEANUP_STEP=true for the job; on Buildkite start the agent with cancel-grace-period=300, too",
        answer: |facts| {
            // A hook of Buildkite's has no time of its own.
            let step = facts.cleanup_step && facts.provider != Some(Provider::Buildkite);
            let enough = facts.provider.is_none() || step || facts.grace.duration >= LONG_ENOUGH;
            let time = describe(facts.grace.duration);
            Answer::of(enough, format!("{time} to end after its interrupt: {}", facts.grace.why))
        },
    },
    Check {
        id: "session-place",
        area: Session,
        right: "sessions go to {}",
        wrong: "tfguard cannot make a session, and so doesn't start the command (exit code 125): {}",
        severity: Problem,
        remedy: "set TFGUARD_DIR to a directory that this user alone can write",
        answer: |facts| match &facts.session {
            Ok(session) => Answer::of(true, session.place.display().to_string()),
            Err(error) => Answer::of(false, in_a_line(&error.to_string())),
        },
    },
    Check {
        id: "session-shared",
        area: Session,
        right: "sessions are below {}, which all steps of the job see",
        wrong: "sessions are not below {}: a cleanup step in another container of the job may not see them",
        severity: Note,
        remedy: "let that variable name a directory that can be written, or set TFGUARD_DIR to one that all steps of the job see",
        answer: |facts| facts.session.as_ref().ok()?.shared.and_then(|(variable, below)| Answer::of(below, variable)),
    },
    Check {
        id: "program",
        area: Terraform,
        right: "{}",
        wrong: "behind a setup action's Node wrapper, {}: for what can lock tfguard runs the program itself, and sets the step's outputs as the wrapper does",
        severity: Note,
        remedy: "if no step reads those outputs, set `terraform_wrapper: false` in setup-terraform, `tofu_wrapper: false` in setup-opentofu",
        answer: |facts| {
            // Of the directory's own, where it tells.
            let own = facts.state.as_ref().ok().and_then(|state| state.program);
            let is_own = |program: &&(String, bool)| own.is_none_or(|own| program.0.starts_with(&format!("{own} ")));
            let of = |wrapped| {
                let own = facts.programs.iter().filter(is_own);
                own.filter(move |program| program.1 == wrapped).map(|program| program.0.as_str())
            };
            let [found, wrapped] = [false, true].map(|wrapped| of(wrapped).collect::<Vec<_>>().join(", "));
            if wrapped.is_empty() { (!found.is_empty()).then_some(Right(found)) } else { Some(Wrong(wrapped)) }
        },
    },
    Check {
        id: "state",
        area: Settings,
        right: "the state is {}",
        wrong: "table, bucket and permissions were not looked at: {}",
        severity: Problem,
        remedy: "run it where `terraform init` succeeds, or name the state by --bucket, --key and --region",
        answer: |facts| match &facts.state {
            Ok(state) => Answer::of(true, format!("s3://{}/{} in {}", state.bucket, state.key, state.region)),
            Err(error @ (Local { .. } | Other { .. })) => Some(Unknown(in_a_line(&error.to_string()))),
            Err(error) => Answer::of(false, in_a_line(&error.to_string())),
        },
    },
    Check {
        id: "locking",
        area: Settings,
        right: "Terraform locks the state {}",
        wrong: "Terraform takes no lock: the backend has neither use_lockfile nor dynamodb_table, so two runs at once overwrite each other's state",
        severity: Problem,
        remedy: "set {} init -reconfigure`",
        answer: |facts| {
            let state = facts.state.as_ref().ok()?;
            let halves = [(state.lockfile, "by a lockfile"), (state.table.is_some(), "in a DynamoDB table")];
            let halves: Vec<_> = halves.iter().filter(|half| half.0).map(|half| half.1).collect();
            if !halves.is_empty() {
                return Some(Right(halves.join(" and ")));
            }
            let setting = match state.knows_lockfiles {
                Some(true) => "`use_lockfile = true`",
                // Before 1.10 there are none.
                Some(false) => "dynamodb_table",
                None => "`use_lockfile = true` (Terraform and OpenTofu from 1.10 on), or dynamodb_table",
            };
            Some(Wrong(format!("{setting}, and run `{}", state.program.unwrap_or("terraform"))))
        },
    },
    Check {
        id: "credentials",
        area: Credentials,
        right: "AWS is asked as {}",
        wrong: "neither Terraform nor the release of its lock can ask AWS: {}",
        severity: Problem,
        remedy: "give this step the credentials that Terraform has; those of an earlier step may have ended",
        answer: |facts| match &facts.identity.as_ref()?.who {
            Ok(who) => Answer::of(true, who),
            Err(error) => Answer::of(false, error.to_string()),
        },
    },
    Check {
        id: "expiry",
        area: Credentials,
        right: "they end at {}",
        wrong: "they may end before the job, and then neither the state can be saved nor the lock released: at {}",
        severity: Warning,
        remedy: "make them last longer than the job, or give --before-expiry, so that Terraform is stopped in time to save its state and unlock",
        answer: |facts| {
            let end = facts.identity.as_ref()?.end?;
            let valid = Duration::try_from(end.duration_since(facts.now)).unwrap_or_default();
            let whole = Duration::from_secs(valid.as_secs());
            Answer::of(valid >= facts.left.unwrap_or(SHORT_LIFE), format!("{end:.0}, in {}", describe(whole)))
        },
    },
    Check {
        id: "table",
        area: Table,
        right: "its key is the string LockID; it is encrypted with {}",
        wrong: "Terraform cannot take its lock here: {}",
        severity: Problem,
        remedy: "make a table with the partition key LockID of type S (string) and no sort key, or set dynamodb_table, region and credentials right",
        answer: |facts| match facts.table.as_ref()?.as_ref().map(|table| &table.described) {
            Ok(Ok(table)) if table.keys == "LockID HASH S" => Answer::of(true, table.encryption),
            Ok(Ok(table)) => Answer::of(false, format!("its key is not the string LockID alone: {}", table.keys)),
            Ok(Err(error)) => Some(Unknown(error.to_string())),
            Err(error) => Answer::of(false, error.to_string()),
        },
    },
    Check {
        id: "ttl",
        area: Table,
        right: "items do not expire (TTL)",
        wrong: "items expire by the attribute {}: where anything writes it, DynamoDB removes the lock of a living Terraform",
        severity: Warning,
        remedy: "turn TTL off on the lock table; `--lease` and `--reclaim` free the lock of a machine that is gone",
        answer: |facts| {
            Answer::told(&facts.table()?.expires_by, |by| Answer::of(by.is_none(), by.as_deref().unwrap_or_default()))
        },
    },
    Check {
        id: "recovery",
        area: Table,
        right: "point-in-time recovery is on",
        wrong: "point-in-time recovery is off: a table that is deleted by mistake is lost, with the digests of all states",
        severity: Note,
        remedy: "turn it on; digests can also be written again by `tfguard verify --fix-digest`",
        answer: |facts| Answer::told(&facts.table()?.recovery, |on| Answer::of(*on, "")),
    },
    Check {
        id: "conditions",
        area: Table,
        right: "a delete whose condition cannot hold is refused",
        wrong: "a delete whose condition cannot hold was carried out: neither Terraform's locks nor tfguard's deletes can be trusted there",
        severity: Problem,
        remedy: "use DynamoDB itself, or another kind of lock",
        answer: |facts| Answer::of(*facts.table()?.keeps_conditions.as_ref().ok()?, ""),
    },
    Check {
        id: "bucket",
        area: Bucket,
        right: "it is there",
        wrong: "Terraform can neither read nor write its state: {}",
        severity: Problem,
        remedy: "create the bucket, or set bucket, region and endpoint right in the backend block",
        answer: |facts| match facts.bucket.as_ref()?.as_ref().map(|bucket| &bucket.region) {
            Ok(Ok(Some(region))) if *region != facts.state.as_ref().ok()?.region => {
                Answer::of(false, format!("it is in the region {region}, not in that of the backend"))
            }
            Ok(Ok(_)) => Answer::of(true, ""),
            Ok(Err(error)) => Some(Unknown(error.to_string())),
            Err(error) => Answer::of(false, error.to_string()),
        },
    },
    Check {
        id: "versioning",
        area: Bucket,
        right: "it keeps versions: a damaged state can be taken back",
        wrong: "it keeps no versions: a state that is damaged or overwritten is lost",
        severity: Warning,
        remedy: "turn versioning on",
        answer: |facts| Answer::told(&facts.bucket()?.versioning, |on| Answer::of(*on, "")),
    },
    Check {
        id: "encryption",
        area: Bucket,
        right: "it encrypts objects with {}",
        wrong: "it has no encryption of its own: AWS encrypts every object all the same, other stores may not",
        severity: Note,
        remedy: "give the bucket a default encryption",
        answer: |facts| {
            Answer::told(&facts.bucket()?.encryption, |by| Answer::of(by.is_some(), by.as_deref().unwrap_or_default()))
        },
    },
];

#[cfg(test)]
mod tests;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    #[value(skip)]
    Ok,
    /// Good to know, or it could not be looked at.
    #[value(skip)]
    Note,
    /// Locks may be left behind, or something will be missing when it is needed.
    Warning,
    /// Terraform or the release of its locks will not work.
    Problem,
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// What stands between the CI and tfguard, and how much time a cancel leaves.
    Signals,
    /// The place of tfguard's sessions.
    Session,
    /// The program that would run.
    Terraform,
    /// Which state it is, and how it is locked.
    Settings,
    /// Who asks AWS.
    Credentials,
    Table,
    /// The bucket of state and lockfile.
    Bucket,
    /// What the credentials may do.
    Permissions,
}

/// What the facts answer to a check, with what stands for `{}` in its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is as it should be.
    Right(String),
    /// It is not.
    Wrong(String),
    /// It could not be looked at, for this reason.
    Unknown(String),
}

impl Answer {
    /// Of what is right or wrong, with its detail.
    pub fn of(right: bool, detail: impl Into<String>) -> Option<Self> {
        Some(if right { Self::Right(detail.into()) } else { Self::Wrong(detail.into()) })
    }

    /// Of what a service told; what it refused to tell is unknown.
    pub fn told<T>(told: &Result<T, StoreError>, judge: impl FnOnce(&T) -> Option<Self>) -> Option<Self> {
        told.as_ref().map_or_else(|error| Some(Self::Unknown(error.in_a_line())), judge)
    }
}

/// One thing that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name, for programs: it stays the same from version to version.
    pub id: &'static str,
    pub area: Area,
    /// What is asked: the sentence if it is so.
    pub right: &'static str,
    /// The sentence if it is not, and why that matters.
    pub wrong: &'static str,
    /// How bad it is then.
    pub severity: Severity,
    /// What to do then.
    pub remedy: &'static str,
    /// What the facts answer; none where the question does not arise.
    pub answer: fn(&Facts) -> Option<Answer>,
}

/// What is told of one thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check.
    pub id: &'static str,
    pub area: Area,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub seen: String,
    /// Why it matters, or cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    /// What is to be told.
    pub fn finding(&self, facts: &Facts) -> Option<Finding> {
        let (severity, seen, why, fix) = match (self.answer)(facts)? {
            Answer::Right(detail) => (Severity::Ok, self.right.replace("{}", &detail), None, None),
            Answer::Wrong(detail) => {
                (self.severity, self.wrong.replace("{}", &detail), None, Some(self.remedy.replace("{}", &detail)))
            }
            Answer::Unknown(why) => {
                (Severity::Note, format!("cannot be told: {}", self.right.replace("{}", "…")), Some(why), None)
            }
        };
        Some(Finding { id: self.id, area: self.area, severity, seen, why, fix })
    }
}
