//! The variables of the environment that stand for options.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{is_typed, nearest};
use crate::run::{OUTER, OUTERMOST};
use crate::terraform::REAL_PROGRAM;
use crate::text::yes_or_no;

/// The beginning of each variable's name.
const PREFIX: &str = "TFGUARD_";
/// As people write it, too.
const MISSPELT_PREFIX: &str = "TF_GUARD_";

/// The variables that stand for no option.
const OTHERS: [&str; 3] = ["TFGUARD_DIR", OUTER, REAL_PROGRAM];

/// Whether a variable is set that is an option's, or looks so. Where none is, what is typed is all that counts.
pub(super) fn are_set(mut env: impl Iterator<Item = (OsString, OsString)>) -> bool {
    let begins = |name: &str, with: &str| name.get(..with.len()).is_some_and(|it| it.eq_ignore_ascii_case(with));
    let is_one =
        |name: &str| !OTHERS.contains(&name) && [PREFIX, MISSPELT_PREFIX].iter().any(|prefix| begins(name, prefix));
    env.any(|(name, _)| name.to_str().is_some_and(is_one))
}

/// The typed options of a run as the variables that say the same.
pub(super) fn inherited(command: &Command, matches: &ArgMatches) -> Vec<(OsString, OsString)> {
    let typed = command.get_arguments().filter(|arg| is_typed(arg, matches)).filter_map(|arg| {
        let name = arg.get_env().filter(|name| !OUTERMOST.iter().any(|own| name == own))?;
        let value = match arg.get_action() {
            ArgAction::SetTrue => OsString::from("true"),
            _ => matches.get_raw(arg.get_id().as_str())?.next()?.to_owned(),
        };
        Some((name.to_owned(), value))
    });
    typed.collect()
}

/// The command with the variables that count beside what is `typed`: none that conflicts with it, and none of a run's beside
/// a command that is no part of a run.
pub(super) fn with_variables(command: Command, typed: &ArgMatches) -> Command {
    let of_a_run = typed.subcommand_name().is_none_or(|name| name == "release");
    let conflict = |one: &Arg, other: &Arg| command.get_arg_conflicts_with(one).contains(&other);
    let others: Vec<_> = command.get_arguments().filter(|other| is_typed(other, typed)).collect();
    let overruled = command.get_arguments().filter(|arg| {
        let mut others = others.iter();
        (!of_a_run && !arg.is_global_set()) || others.any(|other| conflict(arg, other) || conflict(other, arg))
    });
    let overruled: Vec<_> = overruled.map(|arg| arg.get_id().clone()).collect();
    let own = |arg: Arg| {
        if overruled.contains(arg.get_id()) { arg.env(Resettable::Reset) } else { with_variable(arg) }
    };
    command.mut_args(own).mut_subcommands(|below| below.mut_args(with_variable))
}

fn with_variable(arg: Arg) -> Arg {
    let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
    let says_no = |value: &OsStr| value.is_empty() || (is_flag && yes_or_no(&value.to_string_lossy()) == Ok(false));
    let unset = arg.get_env().and_then(std::env::var_os).is_some_and(|value| says_no(&value));
    let arg = if is_flag { arg.value_parser(yes_or_no) } else { arg };
    if unset { arg.env(Resettable::Reset) } else { arg }
}

/// A warning for each variable that looks like a misspelt one of tfguard's, or like that of an option which has none.
pub(super) fn misspelt(
    cli: &Command,
    env: impl Iterator<Item = (OsString, OsString)>,
    typed: &ArgMatches,
) -> Vec<String> {
    let all = cli.get_arguments().chain(cli.get_subcommands().flat_map(Command::get_arguments));
    let known: Vec<_> = all.filter_map(|arg| arg.get_env()?.to_str()).chain(OTHERS).collect();
    // tfguard alone sets the one that is left out.
    let suffixes = || known.iter().filter(|name| **name != OUTER).filter_map(|name| name.strip_prefix(PREFIX));
    let doubt = |name: &str| {
        if known.contains(&name) {
            return None;
        }
        let upper = name.to_uppercase();
        let rest = upper.strip_prefix(PREFIX).or_else(|| upper.strip_prefix(MISSPELT_PREFIX))?;
        if let Some(near) = nearest(rest, suffixes()) {
            return Some(format!("{name} is not a variable of tfguard's\nhint: rename it to {PREFIX}{near}"));
        }
        let (command, typed) = typed.subcommand()?;
        let mut options = cli.find_subcommand(command)?.get_arguments();
        let flag = options.find(|arg| variable(arg).as_deref() == Some(rest) && !is_typed(arg, typed))?.get_long()?;
        Some(format!("{name} is not read, --{flag} has no variable\nhint: tfguard {command} --{flag}"))
    };
    env.filter(|(_, value)| !value.is_empty()).filter_map(|(name, _)| doubt(name.to_str()?)).collect()
}

/// What would stand behind [`PREFIX`] in the name of an option's variable.
fn variable(arg: &Arg) -> Option<String> {
    Some(arg.get_long()?.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory as _;

    fn warnings(line: &[&str], variables: &[&str]) -> Vec<String> {
        let typed = Cli::command().try_get_matches_from(line).unwrap();
        misspelt(&Cli::command(), variables.iter().map(|name| ((*name).into(), "x".into())), &typed)
    }

    /// Guards against a variable that is neither heeded nor told of.
    #[test]
    fn a_variable_of_an_option_is_seen_however_it_is_written() {
        let is_set = |name: &str| {
            are_set([("PATH", "/bin"), (name, "")].map(|(name, value)| (name.into(), value.into())).into_iter())
        };
        let cli = Cli::command();
        let all = cli.get_arguments().chain(cli.get_subcommands().flat_map(Command::get_arguments));
        let names: Vec<_> = all.filter_map(|arg| arg.get_env()?.to_str()).collect();
        assert!(names.contains(&"TFGUARD_GRACE") && names.iter().all(|name| is_set(name)), "{names:?}");
        assert!(["TFGUARD_", "tfguard_grace", "TF_GUARD_GRACE"].into_iter().all(is_set));
        assert!(
            !["TFGUARD", "TFGUARD_DIR", "TFGUARD_SESSION", "TF_LOG", "\u{e4}\u{e4}\u{e4}\u{e4}"]
                .into_iter()
                .any(is_set)
        );
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_nearest() {
        let run = ["tfguard", "--", "terraform"];
        for (wrong, right) in [
            ("TFGUARD_GRCE", "TFGUARD_GRACE"),
            ("TFGUARD_CLEANUPSTEP", "TFGUARD_CLEANUP_STEP"),
            ("TF_GUARD_GRACE", "TFGUARD_GRACE"),
            ("tfguard_report", "TFGUARD_REPORT"),
            ("TFGUARD_DRI", "TFGUARD_DIR"),
            ("TFGUARD_WIAT", "TFGUARD_WAIT"),
        ] {
            let told = warnings(&run, &[wrong]);
            assert!(matches!(&told[..], [told] if told.contains(wrong) && told.ends_with(right)), "{told:?}");
        }
    }

    /// Variables of tfguard's own, of what it writes, of its templates and tests, and of other people.
    #[test]
    fn variables_that_are_right_or_of_somebody_else_are_not_told_of() {
        let cli = Cli::command();
        let all = cli.get_arguments().chain(cli.get_subcommands().flat_map(Command::get_arguments));
        let own = all.filter_map(|arg| arg.get_env()?.to_str()).chain(OTHERS);
        let others = ["RESULT_OUTCOME", "RESULT_LOCK_LEFT", "RESULT_LOCK_ID", "RESULT_LOCK_IDS", "INSTALL_URL"]
            .into_iter()
            .chain(["INSTALL_SHA256", "INSTALL_DIR", "TESTBED", "TEST_MATRIX", "TEST_PROVIDERS", "TEST_TOOLS"])
            .chain(["VERSION", "SHA256", "BUCKET", "TABLE", "YES"])
            .map(|name| format!("TFGUARD_{name}"));
        let names: Vec<_> = own.map(str::to_owned).chain(others).chain(["TF_LOG".into(), "PATH".into()]).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(warnings(&["tfguard", "--", "terraform"], &names), Vec::<String>::new());
    }

    /// Somebody who sets TFGUARD_DRY_RUN means it.
    #[test]
    fn a_variable_that_an_option_of_the_command_does_not_have_is_told_of() {
        let set = ["TFGUARD_DRY_RUN", "TFGUARD_YES"];
        assert_eq!(warnings(&["tfguard", "release"], &set).len(), 1);
        assert_eq!(warnings(&["tfguard", "release", "--dry-run"], &set), Vec::<String>::new());
        assert_eq!(warnings(&["tfguard", "unlock", "x", "--yes"], &set).len(), 1);
        assert_eq!(warnings(&["tfguard", "unlock", "x"], &["TFGUARD_REPORT"]), Vec::<String>::new());
    }
}
