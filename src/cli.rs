//! The command line as it is typed.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::commands::Task;
use crate::exit;
use crate::lock::LockClaim;

/// Runs Terraform in CI so that a cancelled job does not leave its state lock behind.
#[derive(Debug, Parser)]
#[command(name = "tfguard", version, after_help = exit::TABLE)]
#[command(
    override_usage = "tfguard [OPTIONS] -- <COMMAND> [ARGS]...\n       tfguard release [--wait <DURATION>]\n       tfguard <locks|inspect|unlock|verify|doctor> [OPTIONS]\n       tfguard shim --dir <DIR>"
)]
#[command(subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub struct Cli {
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

    /// How tfguard's own messages look
    #[arg(long, global = true, env = "TFGUARD_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Say more
    #[arg(short, long, global = true, env = "TFGUARD_VERBOSE", action = ArgAction::SetTrue, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Say only what needs somebody to act
    #[arg(short, long, global = true, env = "TFGUARD_QUIET", action = ArgAction::SetTrue)]
    pub quiet: bool,

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

    /// What to do instead of running a command.
    #[command(subcommand)]
    pub instead: Option<Action>,
}

/// What tfguard does besides running a command.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Cleanup step: finish what a dead or dying run of this CI job left; silent when there is nothing to do
    Release {
        /// How long to wait for a Terraform that is still alive; half a minute of it is kept for the kill and the release
        #[arg(long, env = "TFGUARD_WAIT", value_name = "DURATION", value_parser = duration, default_value = "4m")]
        wait: Duration,

        /// Only say what would be done
        #[arg(long, env = "TFGUARD_DRY_RUN")]
        dry_run: bool,
    },
    /// What a person runs by hand.
    #[command(flatten)]
    Task(Box<Task>),
    /// Make links named terraform and tofu, to be put early on PATH, so that pipelines need no change
    Shim {
        /// The directory for the links
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

impl Cli {
    /// Reads the command line and the environment. An empty variable is no choice, since pipelines pass unset inputs on
    /// as empty texts, and a flag's variable is one that may say no (`0`, `false`, `no`, `off`).
    ///
    /// # Errors
    /// What is wrong with them, or the help or version that was asked for.
    pub fn parse_all() -> Result<Self, clap::Error> {
        Self::parse(std::env::args_os())
    }

    /// The command line of tfguard where it was called by the name of a program that it guards: that program with all
    /// arguments, and no option but those of the environment.
    ///
    /// # Errors
    /// What is wrong with the environment.
    pub fn of_shim(program: OsString) -> Result<Self, clap::Error> {
        let typed = std::env::args_os().skip(1);
        Self::parse(["tfguard".into(), "--".into(), program].into_iter().chain(typed))
    }

    fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        let typed = without_environment(Self::command()).ignore_errors(true).try_get_matches_from(&words).ok();
        let matches = heed(Self::command(), typed.as_ref()).try_get_matches_from(&words)?;
        if let Some((name, _)) = matches.subcommand().filter(|(name, _)| *name != "release") {
            let typed = |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
            let command = Self::command();
            let of_a_run = command.get_arguments().filter(|arg| !arg.is_global_set()).find(typed);
            if let Some(option) = of_a_run.and_then(Arg::get_long) {
                let words =
                    format!("--{option} before `{name}` is an option of a run; write those of `{name}` behind it");
                return Err(Self::command().error(ErrorKind::ArgumentConflict, words));
            }
        }
        let cli = Self::from_arg_matches(&matches)?;
        Ok(Self { words: words.into_iter().skip(1).collect(), inherited: inherited(&matches), ..cli })
    }
}

/// Options that are the outermost guard's alone: the guards below it write no reports of their own, keep no deadline of
/// their own, and decide by their own descriptors whether they sit at a terminal.
pub const OUTERMOST: [&str; 6] =
    ["TFGUARD_REPORT", "TFGUARD_DOTENV", "TFGUARD_DEADLINE", "TFGUARD_CI_MESSAGES", "TFGUARD_ATTACH", "TFGUARD_DETACH"];

/// The typed options of a run as the variables that say the same.
fn inherited(matches: &ArgMatches) -> Vec<(OsString, OsString)> {
    let command = Cli::command();
    let typed = command.get_arguments().filter_map(|arg| {
        let id = arg.get_id().as_str();
        let name = arg.get_env().filter(|name| !OUTERMOST.iter().any(|own| name == own))?;
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            return None;
        }
        let value = match arg.get_action() {
            ArgAction::SetTrue => OsString::from("true"),
            _ => matches.get_raw(id)?.next()?.to_owned(),
        };
        Some((name.to_owned(), value))
    });
    typed.collect()
}

fn without_environment(command: Command) -> Command {
    command.mut_args(|arg| arg.env(Resettable::Reset)).mut_subcommands(without_environment)
}

/// `typed`: what the command line says. A variable that conflicts with it counts for nothing.
fn heed(command: Command, typed: Option<&ArgMatches>) -> Command {
    let is_typed = |arg: &Arg| {
        let from = typed.and_then(|typed| typed.value_source(arg.get_id().as_str()));
        from == Some(ValueSource::CommandLine)
    };
    let conflict = |one: &Arg, other: &Arg| command.get_arg_conflicts_with(one).contains(&other);
    let overruled: Vec<_> = command
        .get_arguments()
        .filter(|arg| !is_typed(arg))
        .filter(|arg| {
            command.get_arguments().any(|other| is_typed(other) && (conflict(arg, other) || conflict(other, arg)))
        })
        .map(|arg| arg.get_id().clone())
        .collect();
    let heed_own = |arg: Arg| {
        if overruled.contains(arg.get_id()) { arg.env(Resettable::Reset) } else { heed_environment(arg) }
    };
    command.mut_args(heed_own).mut_subcommands(|below| {
        let typed = typed.and_then(|typed| typed.subcommand_matches(below.get_name()));
        heed(below, typed)
    })
}

fn heed_environment(arg: Arg) -> Arg {
    let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
    let says_no = |value: &OsStr| {
        let value = value.to_string_lossy().to_lowercase();
        value.is_empty() || (is_flag && ["0", "f", "false", "n", "no", "off"].contains(&value.as_str()))
    };
    let unset = arg.get_env().and_then(std::env::var_os).is_some_and(|value| says_no(&value));
    let arg = if is_flag { arg.value_parser(FalseyValueParser::new()) } else { arg };
    if unset { arg.env(Resettable::Reset) } else { arg }
}

/// A duration, or what fits the place tfguard runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Chosen by tfguard.
    Auto,
    /// Chosen by the user.
    Fixed(Duration),
}

impl std::str::FromStr for Setting {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        duration(text).map(Self::Fixed)
    }
}

/// Reads a duration. jiff takes more (ISO 8601, fractions); what is promised is `90s`, `5m`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, DurationError> {
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| *duration <= LONGEST)
        .ok_or(DurationError)
}

/// A longer time than any CI gives, short enough that no sum of such times overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A text that is no duration.
#[derive(Debug, thiserror::Error)]
#[error("write a duration such as `90s`, `5m` or `1h30m` (a year at most), or `auto` where that is offered")]
pub struct DurationError;

/// What to do with the lock of a child that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDeath {
    /// Release it.
    Release,
    /// Leave it for a person to look at.
    Keep,
    /// Leave it if an apply held it, release it if a plan did.
    KeepApply,
}

/// What to do with a lockfile in a store that does not keep conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WithoutConditions {
    /// Leave it, and say so.
    Refuse,
    /// Read it once more and delete it; a lock that takes its place in between is lost.
    SecondLook,
}

impl OnDeath {
    /// Whether such a lock stays.
    #[must_use]
    pub fn keeps(self, claim: &LockClaim) -> bool {
        self.keeps_operation(&claim.operation)
    }

    /// What satisfies both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Keep, _) | (_, Self::Keep) => Self::Keep,
            (Self::KeepApply, _) | (_, Self::KeepApply) => Self::KeepApply,
            (Self::Release, Self::Release) => Self::Release,
        }
    }

    /// Whether a lock that was taken for this operation stays.
    #[must_use]
    pub fn keeps_operation(self, operation: &str) -> bool {
        match self {
            Self::Release => false,
            Self::Keep => true,
            Self::KeepApply => operation == "OperationTypeApply",
        }
    }
}

/// What is enough to take a lock for this run's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Evidence {
    /// The log names the lock, or shows the request that took it. A lock without such a record is only reported.
    Logged,
    /// Also the lock itself, if it was not there before and user, host, time, version and operation all fit. Not where
    /// the same user may work on the same state from another machine of the same name at the same time. Does nothing for
    /// the locks of `init` and of `workspace new` or `delete` on backends other than S3, nor for the place to which `init`
    /// moves a state
    Item,
}

/// Whether the CI's language is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CiMessages {
    /// Where the CI is known.
    Auto,
    /// Nowhere.
    Off,
}

/// How tfguard's own messages look on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines that begin with `tfguard: `.
    Text,
    /// A JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("0s", 0), ("2h", 7200)] {
            assert_eq!(text.parse::<Setting>().unwrap(), Setting::Fixed(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!("auto".parse::<Setting>().unwrap(), Setting::Auto);
        for text in ["", "5", "-5m", "5 parsecs", "1h30", "99999h", "AUTO", "m"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }
}
