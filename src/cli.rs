//! The command line as it is typed.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::builder::{FalseyValueParser, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands::Task;
use crate::exit;
use crate::log::LogFormat;
use crate::run::{OUTERMOST, RunOptions};
use crate::text::duration;

/// Runs Terraform in CI so that a cancelled job does not leave its state lock behind.
#[derive(Debug, Parser)]
#[command(name = "tfguard", version, after_help = exit::TABLE)]
#[command(
    override_usage = "tfguard [OPTIONS] -- <COMMAND> [ARGS]...\n       tfguard release [--wait <DURATION>]\n       tfguard <locks|inspect|unlock|verify|doctor> [OPTIONS]\n       tfguard shim --dir <DIR>"
)]
#[command(subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub struct Cli {
    /// How to run and guard a command.
    #[command(flatten)]
    pub run: RunOptions,

    /// How tfguard's own messages look
    #[arg(long, global = true, env = "TFGUARD_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Say more
    #[arg(short, long, global = true, env = "TFGUARD_VERBOSE", action = ArgAction::SetTrue, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Say only what needs somebody to act
    #[arg(short, long, global = true, env = "TFGUARD_QUIET", action = ArgAction::SetTrue)]
    pub quiet: bool,

    /// What to do instead of running a command.
    #[command(subcommand)]
    pub action: Option<Action>,
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
        let mut cli = Self::from_arg_matches(&matches)?;
        cli.run.words = words.into_iter().skip(1).collect();
        cli.run.inherited = inherited(&matches);
        (cli.run.verbose, cli.run.quiet) = (cli.verbose, cli.quiet);
        Ok(cli)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Setting;

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
