//! What is said of a command line that cannot be followed: what is wrong, and a line to paste.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command, CommandFactory as _};
use tracing::level_filters::LevelFilter;

use super::{Cli, is_typed, nearest, without_environment};
use crate::log::{self, LogFormat};
use crate::model::{Environment, product};
use crate::terraform::Purpose;
use crate::{ci, exit, text};

/// Why there is no command line to follow.
#[derive(Debug)]
pub enum Refusal {
    /// The help or version that was asked for, or the help because nothing was asked for.
    Help(clap::Error),
    /// A mistake.
    Mistake {
        /// What is wrong, and why.
        what: String,
        /// What to type instead.
        hint: String,
        /// tfguard's exit code.
        code: u8,
    },
}

/// What people type for a command of tfguard's, and what they mean.
const SYNONYMS: [(&str, &str); 10] = [
    ("help", "--help"),
    ("version", "--version"),
    ("list", "locks"),
    ("ls", "locks"),
    ("show", "inspect"),
    ("status", "inspect"),
    ("force-unlock", "unlock"),
    ("cleanup", "release"),
    ("check", "doctor"),
    ("completion", "completions"),
];

impl Refusal {
    /// Says it; gives tfguard's exit code.
    pub fn tell(self) -> u8 {
        match self {
            Self::Help(help) => {
                // Nobody is left to be told that the stream is gone.
                let _ = help.print();
                if help.use_stderr() { exit::USAGE } else { 0 }
            }
            Self::Mistake { what, hint, code } => {
                log::set_up(LogFormat::Text, LevelFilter::INFO, ci::colours_messages(std::io::stderr()));
                tracing::error!("{what}\nhint: {hint}");
                code
            }
        }
    }

    /// What is wrong with what was typed.
    pub(super) fn of_typed(error: clap::Error, words: &[OsString]) -> Self {
        use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand as NothingToDo, DisplayVersion};
        if matches!(error.kind(), DisplayHelp | DisplayVersion) || (error.kind() == NothingToDo && words.is_empty()) {
            return Self::Help(error);
        }
        let text = error.render().to_string();
        let lenient = without_environment(Cli::command()).ignore_errors(true);
        let line = std::iter::once("tfguard".into()).chain(words.iter().cloned());
        let matches = lenient.try_get_matches_from(line).ok();
        let command = matches.as_ref().and_then(ArgMatches::subcommand_name);
        let first = |kind| context(&error, kind).first().copied().unwrap_or_default();
        let wrong = first(ContextKind::InvalidArg);
        let (what, hint) = match (error.kind(), command) {
            (ErrorKind::UnknownArgument, None) if !wrong.starts_with('-') => return Self::of_word(words, wrong),
            (ErrorKind::MissingRequiredArgument | NothingToDo, None) => {
                let before = words.split(|word| word == "--").next().unwrap_or_default();
                ("no command to run is given".to_owned(), Some(paste(before, &["--", "terraform", "apply"], &[])))
            }
            (ErrorKind::UnknownArgument, _) => {
                let wrong = as_typed(words, wrong);
                let cli = Cli::command();
                let below = command.and_then(|command| cli.find_subcommand(command)).unwrap_or(&cli);
                let everywhere = cli.get_arguments().filter(|arg| arg.is_global_set());
                let names = below.get_arguments().chain(everywhere).filter_map(Arg::get_long);
                let near = nearest(wrong.trim_start_matches('-'), names).map(|near| format!("--{near}"));
                (format!("unexpected argument '{wrong}'"), near.and_then(|near| corrected(words, wrong, &near)))
            }
            (ErrorKind::InvalidValue, _) => {
                let value = first(ContextKind::InvalidValue);
                let near = nearest(value, context(&error, ContextKind::ValidValue).into_iter());
                (first_paragraph(&text), near.and_then(|near| corrected(words, value, near)))
            }
            _ => (first_paragraph(&text), None),
        };
        Self::Mistake { what, hint: hint.unwrap_or_else(|| help_of(command)), code: code(command) }
    }

    /// What is wrong with the variables that count beside what was typed.
    pub(super) fn of_variables(error: &clap::Error, typed: &ArgMatches) -> Self {
        let (name, below) = typed.subcommand().unzip();
        let mut cli = Cli::command();
        cli.build();
        let untyped = |command: &Command, typed: &ArgMatches| {
            let args = command.get_arguments().filter(|arg| !is_typed(arg, typed));
            args.filter_map(|arg| Some((arg.to_string(), arg.get_env()?.to_owned()))).collect::<Vec<_>>()
        };
        let mut variables = untyped(&cli, typed);
        variables.extend(name.and_then(|name| Some(untyped(cli.find_subcommand(name)?, below?))).unwrap_or_default());
        let what = if error.kind() == ErrorKind::InvalidUtf8 {
            let value = |name: &OsString| std::env::var_os(name).filter(|value| value.to_str().is_none());
            let names = variables.iter().map(|(_, name)| name).filter(|name| value(name).is_some());
            let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
            format!("the value of {} is not UTF-8", names.join(" or "))
        } else {
            let what = first_paragraph(&error.render().to_string()).replace("the argument", "the variable");
            variables.iter().fold(what, |what, (arg, name)| what.replace(arg, &name.to_string_lossy()))
        };
        Self::Mistake { what, hint: help_of(name), code: code(name) }
    }

    /// An option of a run before the name of a command.
    pub(super) fn of_misplaced(option: &str, name: &str) -> Self {
        let what = format!("--{option} before `{name}` is an option of a run; put those of `{name}` behind it");
        Self::Mistake { what, hint: help_of(Some(name)), code: exit::USAGE }
    }

    /// A word where `--` or a command of tfguard's has to be.
    fn of_word(words: &[OsString], word: &str) -> Self {
        let at = words.iter().position(|found| found == word).unwrap_or(0);
        // Several in quotes, such as "terraform apply", name no program.
        let apart: Vec<_> = word.split_whitespace().collect();
        if let [first, _, ..] = *apart {
            let apart: Vec<_> = apart.iter().map(OsString::from).collect();
            return Self::of_word(&[&words[..at], &apart, &words[at + 1..]].concat(), first);
        }
        let (before, rest) = (&words[..at], &words[at + 1..]);
        let cli = Cli::command();
        let names = cli.get_subcommands().map(Command::get_name);
        let meant = SYNONYMS.into_iter().find(|(typed, _)| *typed == word).map(|(_, meant)| meant);
        if let Some(meant) = meant.or_else(|| nearest(word, names)) {
            // `terraform force-unlock` has a -force, which is not --yes: tfguard looks first.
            let rest: Vec<_> = rest.iter().filter(|word| *word != "-force").cloned().collect();
            let topic = rest.first().and_then(|topic| topic.to_str()).filter(|_| meant == "--help");
            let hint = match topic.filter(|topic| cli.find_subcommand(topic).is_some()) {
                Some(topic) => help_of(Some(topic)),
                // What these need nobody typed.
                None if rest.is_empty() && matches!(meant, "unlock" | "completions") => help_of(Some(meant)),
                None => paste(before, &[meant], &rest),
            };
            return Self::Mistake { what: format!("there is no command `{word}`"), hint, code: exit::USAGE };
        }
        let line = [&["terraform".into()], &words[at..]].concat();
        let is_of_terraform = Purpose::read(&line, &Environment::default()).is_some();
        let behind: &[&str] = match word {
            "run" | "exec" => &["--"],
            _ if is_of_terraform => &["--", "terraform", word],
            _ => &["--", word],
        };
        let rest = rest.strip_prefix(&["--".into()]).unwrap_or(rest);
        let what = format!("unexpected argument '{word}': put `--` before the command to run");
        Self::Mistake { what, hint: paste(before, behind, rest), code: exit::TFGUARD_FAILED }
    }
}

/// The exit code of a mistake. Where a run may be meant it is none of Terraform's: 2 is `plan -detailed-exitcode`'s for
/// changes.
fn code(command: Option<&str>) -> u8 {
    if command.is_some() { exit::USAGE } else { exit::TFGUARD_FAILED }
}

fn help_of(command: Option<&str>) -> String {
    command.map_or_else(|| "tfguard --help".to_owned(), |command| format!("tfguard {command} --help"))
}

fn context(error: &clap::Error, kind: ContextKind) -> Vec<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text],
        Some(ContextValue::Strings(texts)) => texts.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

/// What clap says, without its tips, usage and prefix.
fn first_paragraph(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    text.split("\n\n").next().unwrap_or(text).trim_end().to_owned()
}

/// An option that there is not, as it was typed. Of `-grace=5m`, as Terraform's flags are written, clap names but a letter.
fn as_typed<'a>(words: &'a [OsString], wrong: &'a str) -> &'a str {
    let letter = wrong.trim_start_matches('-');
    let mut own = words.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str()?.split('=').next());
    let is_it = |name: &str| !name.starts_with('-') && name.len() > 1 && name.contains(letter);
    own.find(|word| word.strip_prefix('-').is_some_and(is_it)).unwrap_or(wrong)
}

/// The line with one word, or what stands before or behind its `=`, put right.
fn corrected(words: &[OsString], wrong: &str, right: &str) -> Option<String> {
    let is_wrong = |word: &OsString| {
        let word = word.to_string_lossy();
        word == wrong || word.split_once('=').is_some_and(|(flag, value)| flag == wrong || value == wrong)
    };
    let at = words.iter().position(is_wrong)?;
    let mut words = words.to_vec();
    words[at] = words[at].to_string_lossy().replacen(wrong, right, 1).into();
    Some(paste(&words, &[], &[]))
}

/// A command line of tfguard's to paste: what was typed, with something put in. Arguments of the command to run that may be
/// secrets are left out (P7).
fn paste(before: &[OsString], between: &[&str], behind: &[OsString]) -> String {
    let between: Vec<_> = between.iter().map(OsString::from).collect();
    let words = [&["tfguard".into()], before, &between, behind].concat();
    let own = words.iter().position(|word| word == "--").map_or(words.len(), |dashes| dashes + 2);
    let is_known = words.get(own - 1).is_some_and(|program| product(program).is_some() || program == "terragrunt");
    let shown = words.iter().enumerate().map(|(at, word)| match word.to_str() {
        Some(word) if at < own => match word.split_once('=').filter(|_| word.starts_with("--")) {
            Some((flag, value)) => format!("{flag}={}", text::quote(text::without_user(value.to_owned()))),
            None => text::quote(text::without_user(word.to_owned())),
        },
        Some(word) if is_known && is_harmless(word) => word.to_owned(),
        _ if at < own => text::quote(word),
        _ => "...".to_owned(),
    });
    let mut shown: Vec<_> = shown.collect();
    shown.dedup_by(|one, other| one == "..." && other == "...");
    shown.join(" ")
}

/// Whether an argument of Terraform's cannot be a secret: those are values.
fn is_harmless(word: &str) -> bool {
    let (flag, value) = word.split_once('=').unwrap_or((word, "true"));
    text::quote(flag) == flag && ["true", "false"].contains(&value)
}
