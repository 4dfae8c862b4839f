//! What a user can say about a guarded run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::model::{CiMessages, Evidence, OnDeath, WithoutConditions};
use crate::text::{Setting, duration};

/// How to run and guard a command.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Time between the interrupt and the kill while Terraform may be changing something; at most 10 s of it while it
    /// only plans
    #[arg(long, env = "TFGUARD_GRACE", value_name = "DURATION|auto", default_value = "auto")]
    pub grace: Setting,

    /// A later step of this job runs `tfguard release`: `--grace auto` may be as long as that step waits
    #[arg(long, env = "TFGUARD_CLEANUP_STEP")]
    pub cleanup_step: bool,

    /// Stop gracefully after this time, before the CI's own time-out does it less gracefully
    #[arg(long, env = "TFGUARD_DEADLINE", value_name = "DURATION|auto")]
    pub deadline: Option<Setting>,

    /// What to do with a lock of its own that a dead Terraform left
    #[arg(long, env = "TFGUARD_ON_DEATH", value_name = "POLICY", default_value = "release")]
    pub on_death: OnDeath,

    /// What to do with a lockfile of its own in a store that does not keep the condition of a conditional delete
    #[arg(long, env = "TFGUARD_WITHOUT_CONDITIONS", value_name = "POLICY", default_value = "refuse")]
    pub without_conditions: WithoutConditions,

    /// Run Terraform on this terminal (default when stdin and stdout are one and no CI is around)
    #[arg(long, env = "TFGUARD_ATTACH", conflicts_with = "detach")]
    pub attach: bool,

    /// Run Terraform away from this process, out of reach of the CI's signals (default otherwise)
    #[arg(long, env = "TFGUARD_DETACH")]
    pub detach: bool,

    /// Do not stop when a process that waits for tfguard ends: the one that started it, or in a CI one above that
    #[arg(long, env = "TFGUARD_OUTLIVE_PARENT")]
    pub outlive_parent: bool,

    /// What tells that a lock is this run's own: Terraform's and OpenTofu's log, or, where that says nothing of a lock
    /// (OpenTofu 1.6 to 1.10 with a table, backends other than S3, see docs/backends.md), the lock itself
    #[arg(long, env = "TFGUARD_EVIDENCE", value_name = "EVIDENCE", default_value = "logged")]
    pub evidence: Evidence,

    /// Do not write who holds it beside a lock that is held for more than ten seconds (an attribute of the item, tags of
    /// the lockfile)
    #[arg(long, env = "TFGUARD_NO_ANNOTATE")]
    pub no_annotate: bool,

    /// Refuse to run a command that says `-lock=false`, also in TF_CLI_ARGS
    #[arg(long, env = "TFGUARD_FORBID_LOCK_FALSE")]
    pub forbid_lock_false: bool,

    /// Give Terraform this -lock-timeout, unless it has one
    #[arg(long, env = "TFGUARD_LOCK_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub lock_timeout: Option<Duration>,

    /// Stop gracefully this long before the backend's AWS credentials end, where that can be known
    #[arg(long, env = "TFGUARD_BEFORE_EXPIRY", value_name = "DURATION", value_parser = duration)]
    pub before_expiry: Option<Duration>,

    /// Write what happened to this file, as JSON
    #[arg(long, env = "TFGUARD_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Whether to speak the language of the CI: annotations, step outputs, summaries
    #[arg(long, env = "TFGUARD_CI_MESSAGES", value_name = "WHEN", default_value = "auto")]
    pub ci_messages: CiMessages,

    /// Write outcome and lock IDs to this file, as variables (GitLab's artifacts:reports:dotenv)
    #[arg(long, env = "TFGUARD_DOTENV", value_name = "FILE")]
    pub dotenv: Option<PathBuf>,

    /// How the front starts the supervisor: the session that it made.
    #[arg(long, hide = true, value_name = "SESSION")]
    pub supervise: Option<PathBuf>,

    /// The command to run and guard
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// All of this as words, for the supervisor, which reads them again.
    #[arg(skip)]
    pub words: Vec<OsString>,

    /// What the guards of Terraforms that the command starts are told, as variables: the options that were typed.
    #[arg(skip)]
    pub inherited: Vec<(OsString, OsString)>,

    /// Whether the user wants to know more.
    #[arg(skip)]
    pub verbose: bool,

    /// Whether the user wants to know only what needs somebody to act.
    #[arg(skip)]
    pub quiet: bool,
}

/// Options that are the outermost guard's alone: the guards below it write no reports of their own, keep no deadline of
/// their own, and decide by their own descriptors whether they sit at a terminal.
pub const OUTERMOST: [&str; 6] =
    ["TFGUARD_REPORT", "TFGUARD_DOTENV", "TFGUARD_DEADLINE", "TFGUARD_CI_MESSAGES", "TFGUARD_ATTACH", "TFGUARD_DETACH"];
