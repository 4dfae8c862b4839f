//! The command line as it is typed.

mod mistake;
mod variables;

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

pub use self::mistake::Refusal;
use crate::commands::{Failure, Task, print, release};
use crate::exit;
use crate::log::LogFormat;
use crate::run::{OUTER, RunOptions, Supervise};

/// The version, and in brackets what it was built from and for.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TFGUARD_BUILD"), ")");

/// Run Terraform in CI so that a cancelled job leaves no state lock behind
#[derive(Debug, Parser)]
#[command(name = "tfguard", version = VERSION)]
#[command(after_help = "Example: tfguard -- terraform apply -auto-approve", after_long_help = after_long_help())]
#[command(
    override_usage = "tfguard [OPTIONS] -- <COMMAND> [ARGS]...\n       tfguard <release|locks|inspect|unlock|verify|doctor|shim> [OPTIONS]"
)]
#[command(arg_required_else_help = true, subcommand_negates_reqs = true)]
#[command(disable_help_subcommand = true, disable_help_flag = true, disable_version_flag = true)]
pub struct Cli {
    /// How to run and guard a command.
    #[command(flatten)]
    pub run: RunOptions,

    /// What is said, and how.
    #[command(flatten)]
    pub output: OutputOptions,

    /// What to do instead of running a command.
    #[command(subcommand)]
    pub action: Option<Action>,

    /// What the environment has that looks like a setting and is none.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

/// What tfguard says, and how.
#[derive(Debug, Args)]
pub struct OutputOptions {
    /// Print tfguard's own messages so
    #[arg(
        long,
        global = true,
        env = "TFGUARD_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        hide_short_help = true,
        help_heading = "Output"
    )]
    pub log_format: LogFormat,

    /// Say more
    #[arg(short, long, global = true, env = "TFGUARD_VERBOSE", conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: bool,

    /// Say only what needs somebody to act
    #[arg(short, long, global = true, env = "TFGUARD_QUIET", help_heading = "Output")]
    pub quiet: bool,

    /// Print this help; --help prints all of it
    #[arg(short, long, global = true, action = ArgAction::Help, help_heading = "Output")]
    pub help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Output")]
    pub version: Option<bool>,
}

/// What tfguard does besides running a command.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Finish what a dead or dying run of this job left (cleanup step)
    ///
    /// Finish what dead or dying runs of this CI job left: wait for a Terraform that is still alive, interrupt and kill it
    /// if its tfguard is dead, and release its lock. Run it in a step of the same job that always runs. It says nothing
    /// where there is nothing to do.
    #[command(after_help = "Example: tfguard release --wait 4m")]
    Release(release::Args),
    /// What a person runs by hand.
    #[command(flatten)]
    Task(Box<Task>),
    /// Print the completions for a shell
    #[command(after_help = "Example: tfguard completions bash > /etc/bash_completion.d/tfguard")]
    Completions {
        /// The shell: bash, elvish, fish, powershell or zsh
        #[arg(value_name = "SHELL", hide_possible_values = true)]
        shell: Shell,
    },
}

/// What stands below the long help.
fn after_long_help() -> String {
    let examples = "\
Examples:
  exec tfguard -- terraform apply -auto-approve      guard an apply in a CI step
  tfguard --cleanup-step --grace 5m -- make deploy   guard each Terraform that a script calls
  tfguard release                                    finish, in a later step of the same job
  tfguard locks --table my-locks                     list the locks of a table";
    format!("{examples}\n\n{}", exit::TABLE)
}

impl Cli {
    /// Reads the command line and the environment. An empty variable is no choice, since pipelines pass unset inputs on
    /// as empty texts, and a flag's variable is one that may say no (`0`, `false`, `no`, `off`).
    ///
    /// # Errors
    /// What is wrong with them, or the help or version that was asked for.
    pub fn parse_all() -> Result<Self, Refusal> {
        let mut words: Vec<_> = std::env::args_os().skip(1).collect();
        // So the front starts the supervisor. It is no option, so that no completion offers it.
        let is_supervisor = words.first().is_some_and(|word| word == "--supervise") && words.len() > 2;
        let supervise = is_supervisor.then(|| Supervise::read(&words.drain(..3).collect::<Vec<_>>()));
        Self::parse(words, supervise)
    }

    /// The command line of tfguard where it was called by the name of a program that it guards: that program with all
    /// arguments, and no option but those of the environment.
    ///
    /// # Errors
    /// What is wrong with the environment.
    pub fn of_shim(program: OsString) -> Result<Self, Refusal> {
        let typed = std::env::args_os().skip(1);
        Self::parse(["--".into(), program].into_iter().chain(typed).collect(), None)
    }

    /// `words`: all but the program's name. What is typed is read first, without the environment: what is wrong there is
    /// not the fault of a variable. Only then come the variables.
    fn parse(words: Vec<OsString>, supervise: Option<Supervise>) -> Result<Self, Refusal> {
        let line = || std::iter::once("tfguard".into()).chain(words.iter().cloned());
        let typed = without_environment(Self::of_a_run()).try_get_matches_from(line());
        let typed = typed.or_else(|_| help_wanted(Self::command(), &words).try_get_matches_from(line()));
        let typed = typed.map_err(|error| Refusal::of_typed(error, &words))?;
        if let Some((name, _)) = typed.subcommand().filter(|(name, _)| *name != "release") {
            let run = Self::of_a_run();
            let typed = run.get_arguments().filter(|arg| !arg.is_global_set()).find(|arg| is_typed(arg, &typed));
            if let Some(option) = typed.and_then(Arg::get_long) {
                return Err(Refusal::of_misplaced(option, name));
            }
        }
        let are_set = variables::are_set(std::env::vars_os());
        let matches = if are_set {
            let command = if typed.subcommand_name().is_none() { Self::of_a_run() } else { Self::command() };
            let parsed = variables::with_variables(command, &typed).try_get_matches_from(line());
            &parsed.map_err(|error| Refusal::of_variables(&error, &typed))?
        } else {
            &typed
        };
        let mut cli = Self::from_arg_matches(matches).map_err(|error| Refusal::of_typed(error, &words))?;
        if words.first().is_some_and(|word| word != "--") {
            cli.run.inherited = variables::inherited(&Self::of_a_run(), matches);
        }
        // The guards below another one, and the supervisor, have the environment of one that has said it.
        if are_set && supervise.is_none() && std::env::var_os(OUTER).is_none() {
            cli.warnings = variables::misspelt(&Self::command(), std::env::vars_os(), &typed);
        }
        (cli.run.command_line, cli.run.supervise) = (words, supervise);
        (cli.run.verbose, cli.run.quiet) = (cli.output.verbose, cli.output.quiet);
        Ok(cli)
    }

    /// The command of a run, without subcommands: to make their options takes longer than all else about most command lines.
    fn of_a_run() -> Command {
        let command = Command::new("tfguard").version(VERSION).disable_help_flag(true).disable_version_flag(true);
        OutputOptions::augment_args(RunOptions::augment_args(command))
    }

    /// Prints the completions of a shell; gives tfguard's exit code.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn completions(shell: Shell) -> Result<u8, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Self::command(), "tfguard", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}

/// The command as it is typed, without variables. Only `--help` shows them, and what values an option has.
fn help_wanted(command: Command, words: &[OsString]) -> Command {
    if words.iter().take_while(|word| *word != "--").any(|word| word == "--help") {
        return without_values(command);
    }
    without_environment(command).hide_possible_values(true).mut_subcommand("completions", |below| below.hide(true))
}

/// What a variable holds may be a secret.
fn without_values(command: Command) -> Command {
    command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(without_values)
}

fn without_environment(command: Command) -> Command {
    command.mut_args(|arg| arg.env(Resettable::Reset)).mut_subcommands(without_environment)
}

fn is_typed(arg: &Arg, matches: &ArgMatches) -> bool {
    matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
}

/// The name that is likely meant by a misspelt one.
fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distances = names.map(|name| (strsim::osa_distance(typed, name), name));
    distances.filter(|(distance, name)| distance * 3 <= name.len()).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::text::Setting;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        // A run is read without the rest.
        let (run, all) = (Cli::of_a_run(), Cli::command());
        let ids = |command: &Command| command.get_arguments().map(|arg| arg.get_id().clone()).collect::<Vec<_>>();
        assert_eq!(ids(&run), ids(&all));
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
