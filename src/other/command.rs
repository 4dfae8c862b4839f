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
        locks(command, env).then(|| Self { operations, waits: has(&["-lock-timeout"], command, env) })
    }
}

/// Whether it is an `init` that moves a state, under the locks of both backends
/// (`internal/command/meta_backend_migrate.go`).
#[must_use]
pub fn moves_state(command: &[OsString], env: &HashMap<OsString, OsString>) -> bool {
    subcommand(command).is_some_and(|name| name == "init")
        && has(&["-migrate-state", "-force-copy"], command, env)
        && locks(command, env)
}

fn locks(command: &[OsString], env: &HashMap<OsString, OsString>) -> bool {
    // Whatever its name is, it is one that reads its arguments as Terraform does.
    let named = [vec![OsString::from("terraform")], command[1..].to_vec()].concat();
    lock_disabled(&named, env).is_none()
}

/// Whether anything looks like one of these options, wherever it stands.
fn has(options: &[&str], command: &[OsString], env: &HashMap<OsString, OsString>) -> bool {
    let added = env.iter().filter(|(name, _)| is_arguments(name)).map(|(_, value)| value);
    command.iter().chain(added).any(|words| options.iter().any(|option| words.to_string_lossy().contains(option)))
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
    fn an_init_that_moves_a_state_is_told_from_one_that_does_not() {
        let moves = |arguments: &[&str], env: &[(&str, &str)]| {
            let command: Vec<OsString> = ["terraform"].iter().chain(arguments).map(OsString::from).collect();
            let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
            moves_state(&command, &env)
        };
        assert!(moves(&["init", "-migrate-state"], &[]) && moves(&["-chdir=x", "init", "--force-copy"], &[]));
        assert!(moves(&["init"], &[("TF_CLI_ARGS_init", "-migrate-state")]));
        assert!(!moves(&["init", "-reconfigure"], &[]) && !moves(&["apply", "-migrate-state"], &[]));
        assert!(!moves(&["init", "-migrate-state", "-lock=false"], &[]) && !moves(&[], &[]));
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
