//! What a user can say about a guarded run.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use crate::model::{CiMessages, Evidence, OnDeath, UnconditionalDelete};
use crate::text::{Setting, duration};

/// How to run and guard a command.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    #[command(flatten)]
    pub stopping: StoppingOptions,
    #[command(flatten)]
    pub locks: LockOptions,
    #[command(flatten)]
    pub ci: CiOptions,

    /// Write what happened as JSON
    #[arg(long, env = "TFGUARD_REPORT", value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,

    /// How the front starts the supervisor.
    #[arg(skip)]
    pub supervise: Option<Supervise>,

    /// The command to run and guard
    #[arg(
        last = true,
        required = true,
        value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments,
        hide_short_help = true,
        // Not the last one of those above.
        help_heading = None::<&str>
    )]
    pub command: Vec<OsString>,

    /// All of this as it was typed, without the program, for the supervisor, which reads it again.
    #[arg(skip)]
    pub command_line: Vec<OsString>,

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

/// When and how a run is stopped.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stopping")]
pub struct StoppingOptions {
    /// Wait this long before the kill
    ///
    /// The time from the interrupt to the kill, while Terraform may be changing something. While it only plans, it has 10
    /// seconds at most. `auto` is as long as this CI leaves.
    #[arg(long, env = "TFGUARD_GRACE", value_name = "DURATION", default_value = "auto")]
    pub grace: Setting,

    /// Stop gracefully after this time
    ///
    /// Interrupt Terraform after this time, before the CI's own time limit ends it less gracefully. `auto`: the job's time
    /// limit less the grace and a minute, on GitLab and Buildkite; elsewhere there is no deadline.
    #[arg(long, env = "TFGUARD_DEADLINE", value_name = "DURATION")]
    pub deadline: Option<Setting>,

    /// Stop this long before the credentials end
    ///
    /// Stop gracefully this long before the backend's AWS credentials end, so that Terraform can still save its state and
    /// unlock it. A warning says so where nobody knows when they end.
    #[arg(
        long,
        env = "TFGUARD_BEFORE_EXPIRY",
        value_name = "DURATION",
        value_parser = duration,
        hide_short_help = true
    )]
    pub before_expiry: Option<Duration>,

    /// Run Terraform on this terminal
    ///
    /// Ctrl-C then goes to Terraform, as without tfguard. The default where stdin and stdout are a terminal and no CI is
    /// around.
    #[arg(long, env = "TFGUARD_ATTACH", conflicts_with = "detach")]
    pub attach: bool,

    /// Run Terraform out of the CI's reach
    ///
    /// No signal to tfguard, its group or its tree reaches Terraform then. The default where --attach is not.
    #[arg(long, env = "TFGUARD_DETACH")]
    pub detach: bool,

    /// Go on when the process that waits for tfguard ends
    ///
    /// Without it the end of the process that started tfguard, or in a CI of one above it that waits, is a request to stop.
    #[arg(long, env = "TFGUARD_OUTLIVE_PARENT", hide_short_help = true)]
    pub outlive_parent: bool,
}

/// What a run does about locks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Locks")]
pub struct LockOptions {
    /// Release or keep a left lock
    ///
    /// What to do with the run's own lock when Terraform died and left it.
    #[arg(long, env = "TFGUARD_ON_DEATH", value_name = "POLICY", default_value = "release")]
    pub on_death: OnDeath,

    /// Give Terraform this -lock-timeout
    ///
    /// Only on commands that take it, and unless they have one.
    #[arg(long, env = "TFGUARD_LOCK_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub lock_timeout: Option<Duration>,

    /// Keep a lease of this length on the lock
    ///
    /// Show beside the lock, every ninth of this time, that the run lives, so that `tfguard --reclaim` can prove later that
    /// it does not: 15 s to 24 h, 3m is a good start. Where that cannot be shown for half of it, Terraform is stopped, and
    /// killed before anybody may take its lock.
    #[arg(long, env = "TFGUARD_LEASE", value_name = "DURATION", value_parser = duration)]
    pub lease: Option<Duration>,

    /// Refuse to run with -lock=false
    ///
    /// Refuse a command that says `-lock=false`, itself or in TF_CLI_ARGS.
    #[arg(long, env = "TFGUARD_FORBID_LOCK_FALSE")]
    pub forbid_lock_false: bool,

    /// Prove locks by this evidence
    ///
    /// What proves that a lock is this run's own. `item` is for what logs nothing of its locks: OpenTofu 1.6 to 1.10 with a
    /// table, and backends other than S3.
    #[arg(long, env = "TFGUARD_EVIDENCE", value_name = "EVIDENCE", default_value = "logged", hide_short_help = true)]
    pub evidence: Evidence,

    /// First wait out the lease of a dead run's lock
    ///
    /// Before the command starts: if its state is locked by a run with a lease, watch whether that run renews it. If it does not
    /// for the whole lease, delete its lock and look at the state.
    #[arg(long, env = "TFGUARD_RECLAIM")]
    pub reclaim: bool,

    /// Choose what to do in stores without conditions
    ///
    /// What to do with the run's own lockfile in a store that does not keep the condition of a conditional delete.
    #[arg(
        long,
        env = "TFGUARD_WITHOUT_CONDITIONS",
        value_name = "POLICY",
        default_value = "refuse",
        hide_short_help = true
    )]
    pub without_conditions: UnconditionalDelete,

    /// Do not record who holds the lock
    ///
    /// Without it tfguard writes who holds a lock beside one that is held for more than ten seconds: an attribute of the
    /// item, or tags of the lockfile.
    #[arg(long, env = "TFGUARD_NO_ANNOTATE", hide_short_help = true)]
    pub no_annotate: bool,
}

/// What a run has to do with its CI.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "CI")]
pub struct CiOptions {
    /// Expect `tfguard release` in a later step
    ///
    /// A later step of this job runs `tfguard release`, so `--grace auto` may be as long as that step waits.
    #[arg(long, env = "TFGUARD_CLEANUP_STEP")]
    pub cleanup_step: bool,

    /// Write annotations for the CI
    ///
    /// Tell the CI in its own language what became of the lock: annotations, step outputs, summaries.
    #[arg(long, env = "TFGUARD_CI_MESSAGES", value_name = "WHEN", default_value = "auto")]
    pub ci_messages: CiMessages,

    /// Write outcome and lock IDs as variables
    ///
    /// The file is for GitLab's `artifacts:reports:dotenv`, and for shells.
    #[arg(long, env = "TFGUARD_DOTENV", value_name = "FILE")]
    pub dotenv: Option<PathBuf>,
}

/// What the front hands to the supervisor: the words before those of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervise {
    /// The session that it made.
    pub session: PathBuf,
    /// The descriptors by which it watches the output.
    pub watches: Vec<RawFd>,
}

impl Supervise {
    /// `--supervise SESSION NUMBERS`.
    pub(crate) fn read(words: &[OsString]) -> Self {
        let session = words.get(1).map(PathBuf::from).unwrap_or_default();
        let numbers = words.get(2).and_then(|numbers| numbers.to_str()).unwrap_or_default();
        Self { session, watches: numbers.split(',').filter_map(|number| number.parse().ok()).collect() }
    }

    /// The words.
    pub(crate) fn words(&self) -> [OsString; 3] {
        let numbers: Vec<_> = self.watches.iter().map(RawFd::to_string).collect();
        ["--supervise".into(), self.session.clone().into(), numbers.join(",").into()]
    }
}

/// Options that are the outermost guard's alone: the guards below it write no reports of their own, keep no deadline of
/// their own, and decide by their own descriptors whether they sit at a terminal.
pub const OUTERMOST: [&str; 6] =
    ["TFGUARD_REPORT", "TFGUARD_DOTENV", "TFGUARD_DEADLINE", "TFGUARD_CI_MESSAGES", "TFGUARD_ATTACH", "TFGUARD_DETACH"];
