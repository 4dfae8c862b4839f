//! What a Terraform command line says about the locks it takes.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use crate::command::{lock_disabled, subcommand};

/// A command that takes a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The `Operation` of the locks it takes for its work.
    pub operations: &'static [&'static str],
    /// It waits for a lock that is held (`-lock-timeout`) in place of ending.
    pub waits: bool,
}

/// The lock that some backends take to make the state of a new workspace, before the lock for the work.
pub const INIT: &str = "init";

impl Command {
    /// Reads a command line, program first, and the environment. `None`: it takes no lock for its work.
    ///
    /// Whatever looks like `-lock-timeout` counts, wherever it stands: a lock that was still waited for is not the
    /// child's.
    #[must_use]
    pub fn read(command: &[OsString], env: &HashMap<OsString, OsString>) -> Option<Self> {
        let operations: &[&str] = match subcommand(command)?.as_str() {
            "plan" | "query" => &["OperationTypePlan"],
            "apply" | "destroy" => &["OperationTypeApply"],
            "refresh" => &["OperationTypeRefresh"],
            "import" | "console" => &["OperationTypeInvalid"],
            "taint" => &["taint"],
            "untaint" => &["untaint"],
            "state mv" => &["state-mv"],
            "state rm" => &["state-rm"],
            "state push" => &["state-push"],
            "state replace-provider" => &["state-replace-provider"],
            "workspace new" => &["workspace-new"],
            "workspace delete" => &["state-replace-provider", "workspace_delete"],
            _ => return None,
        };
        // Whatever its name is, it is one that reads its arguments as Terraform does.
        let named = [vec![OsString::from("terraform")], command[1..].to_vec()].concat();
        if lock_disabled(&named, env).is_some() {
            return None;
        }
        let added = env.iter().filter(|(name, _)| is_arguments(name)).map(|(_, value)| value);
        let waits = command.iter().chain(added).any(|words| words.to_string_lossy().contains("-lock-timeout"));
        Some(Self { operations, waits })
    }
}

/// Whether a variable adds arguments to a command line: `TF_CLI_ARGS`, `TF_CLI_ARGS_apply`, ….
pub fn is_arguments(variable: &OsStr) -> bool {
    variable.as_encoded_bytes().starts_with(b"TF_CLI_ARGS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], env: &[(&str, &str)]) -> Option<Command> {
        let command: Vec<OsString> = ["terraform"].iter().chain(arguments).map(OsString::from).collect();
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Command::read(&command, &env)
    }

    #[test]
    fn commands_and_their_operations() {
        let operations = |arguments: &[&str]| read(arguments, &[]).map(|command| command.operations[0]);
        assert_eq!(operations(&["-chdir=x", "apply", "-auto-approve"]), Some("OperationTypeApply"));
        assert_eq!(operations(&["destroy"]), Some("OperationTypeApply"));
        assert_eq!(operations(&["plan", "-lock=true"]), Some("OperationTypePlan"));
        assert_eq!(operations(&["state", "mv", "-lock=true", "a", "b"]), Some("state-mv"));
        for none in [
            &["output"][..],
            &["state", "list"],
            &["init"],
            &["workspace", "select", "new"],
            &["version"],
            &["-help"],
            &[],
        ] {
            assert_eq!(operations(none), None, "{none:?}");
        }
    }

    #[test]
    fn what_turns_the_lock_off_or_lets_it_wait_is_seen_wherever_it_is() {
        for off in ["-lock=false", "--lock=f", "-lock=0"] {
            assert_eq!(read(&["apply", off], &[]), None);
            assert_eq!(read(&["apply"], &[("TF_CLI_ARGS", off)]), None);
            assert_eq!(read(&["apply"], &[("TF_CLI_ARGS_apply", &format!("-x=1 '{off}'"))]), None);
            assert!(read(&["apply"], &[("TF_CLI", off), ("TF_CLI_ARGS_plan", off)]).is_some());
        }
        let waits = |arguments: &[&str], env: &[(&str, &str)]| read(arguments, env).unwrap().waits;
        assert!(waits(&["apply", "-lock-timeout=5m"], &[]) && waits(&["apply", "-lock-timeout", "5m"], &[]));
        assert!(waits(&["apply"], &[("TF_CLI_ARGS_apply", "-lock-timeout=5m")]));
        assert!(!waits(&["apply", "-lock=true"], &[("TF_CLI_ARGS", "-no-color")]));
    }
}
