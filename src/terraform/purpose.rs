//! What a command takes locks for, as its arguments tell.

use std::collections::HashMap;
use std::ffi::OsString;

use crate::model::MIGRATION;
use crate::terraform::arguments::{Reading, is_false};

/// The `Operation` of the lock under which some backends make the state of a new workspace, before the lock for the work.
pub const INIT: &str = "init";

/// What a command takes locks for (the `Operation`s in `internal/command/*.go`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// The workspace whose state it locks, where its arguments name one. Else it is the selected one's.
    pub workspace: Option<String>,
    /// The `Operation` of the locks that it takes for its work; none with `-lock=false`.
    pub operations: &'static [&'static str],
    /// It makes a state that is not there, under a lock of its own ([`INIT`]), whatever `-lock` says.
    pub makes: bool,
    /// It waits for a lock that is held (`-lock-timeout`) in place of ending.
    pub waits: bool,
    /// It is an `init`, which moves a state if it is told to or somebody says yes, under the locks of both backends
    /// ([`MIGRATION`], `internal/command/meta_backend_migrate.go`).
    pub may_move: bool,
    /// It is told to.
    pub moves: bool,
}

impl Purpose {
    /// Reads a command line, program first, and the environment. `None`: it takes no lock.
    ///
    /// Whatever looks like `-lock-timeout` counts, wherever it stands: a lock that was still waited for is not the
    /// child's.
    #[must_use]
    pub fn read(command: &[OsString], env: &HashMap<OsString, OsString>) -> Option<Self> {
        let reading = Reading::of(command, env)?;
        let locks = reading.flag("lock").is_none_or(|(value, _)| !is_false(value));
        let (operations, makes): (&[&str], _) = match reading.subcommand.as_str() {
            "plan" | "query" => (&["OperationTypePlan"], true),
            "apply" | "destroy" => (&["OperationTypeApply"], true),
            "refresh" => (&["OperationTypeRefresh"], true),
            "import" | "console" => (&["OperationTypeInvalid"], true),
            "taint" => (&["taint"], true),
            "untaint" => (&["untaint"], true),
            "state mv" => (&["state-mv"], true),
            "state rm" => (&["state-rm"], true),
            "state push" => (&["state-push"], true),
            "state replace-provider" => (&["state-replace-provider"], true),
            "workspace new" => (&["workspace-new"], true),
            // Sic, from 0.15 on.
            "workspace delete" => (&["state-replace-provider", "workspace_delete"], false),
            "workspace select" => (&[], reading.is_on("or-create")),
            "init" | "graph" | "output" | "show" | "state list" | "state pull" | "state show" => (&[], true),
            name => (&[], name.split(' ').next() == Some("providers")),
        };
        let may_move = reading.subcommand == "init" && locks;
        let moves = may_move && ["migrate-state", "force-copy"].iter().any(|flag| reading.is_on(flag));
        let operations = if locks { operations } else { &[] };
        if operations.is_empty() && !makes {
            return None;
        }
        let names_it = reading.subcommand.starts_with("workspace ");
        Some(Self {
            workspace: reading.operand().filter(|_| names_it).map(str::to_owned),
            operations,
            makes,
            waits: reading.flag("lock-timeout").is_some(),
            may_move,
            moves,
        })
    }

    /// Whether a lock of this `Operation` can be its own.
    #[must_use]
    pub fn takes(&self, operation: &str) -> bool {
        self.operations.contains(&operation)
            || (self.makes && operation == INIT)
            || (self.may_move && MIGRATION.contains(&operation))
    }

    /// Whether it takes a lock for its work, or to make the state of a workspace. That of `default` the S3 backend makes
    /// without one.
    #[must_use]
    pub fn locks(&self, workspace: &str) -> bool {
        !self.operations.is_empty() || self.moves || workspace != "default"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, env: &[(&str, &str)]) -> Option<Purpose> {
        let command: Vec<OsString> = format!("terraform {line}").split(' ').map(OsString::from).collect();
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Purpose::read(&command, &env)
    }

    #[test]
    fn commands_and_their_operations() {
        for (line, operation, workspace, makes) in [
            ("-chdir=x apply -auto-approve", Some("OperationTypeApply"), None, true),
            ("destroy", Some("OperationTypeApply"), None, true),
            ("plan -lock=true", Some("OperationTypePlan"), None, true),
            ("state mv -lock=true a b", Some("state-mv"), None, true),
            ("workspace new -lock-timeout 5s -lock=true blue", Some("workspace-new"), Some("blue"), true),
            ("workspace new -- blue", Some("workspace-new"), Some("blue"), true),
            ("workspace delete -force blue", Some("state-replace-provider"), Some("blue"), false),
            ("workspace select -or-create blue", None, Some("blue"), true),
            ("plan -lock=false", None, None, true),
            ("output -json", None, None, true),
            ("init", None, None, true),
        ] {
            let purpose = read(line, &[]).unwrap_or_else(|| panic!("{line}"));
            let found = (purpose.operations.first().copied(), purpose.workspace.as_deref(), purpose.makes);
            assert_eq!(found, (operation, workspace, makes), "{line}");
            assert_eq!(purpose.locks("default"), operation.is_some(), "{line}");
            assert!(purpose.locks("blue") && !purpose.moves, "{line}");
        }
        for none in ["workspace select blue", "workspace delete -lock=false blue", "version", "-help", "force-unlock x"]
        {
            assert_eq!(read(none, &[]), None, "{none}");
        }
    }

    #[test]
    fn an_init_that_moves_a_state_is_told_from_one_that_does_not() {
        let moves = |line: &str, env: &[(&str, &str)]| read(line, env).is_some_and(|purpose| purpose.moves);
        assert!(moves("init -migrate-state", &[]) && moves("-chdir=x init --force-copy", &[]));
        assert!(moves("init", &[("TF_CLI_ARGS_init", "-migrate-state")]));
        assert!(!moves("init -reconfigure", &[]) && !moves("apply -migrate-state", &[]));
        assert!(!moves("init -migrate-state -lock=false", &[]) && !moves("init -migrate-state=false", &[]));
    }

    #[test]
    fn what_turns_the_lock_off_or_lets_it_wait_is_seen_wherever_it_is() {
        let works = |line: &str, env: &[(&str, &str)]| !read(line, env).unwrap().operations.is_empty();
        for off in ["-lock=false", "--lock=f", "-lock=0"] {
            assert!(!works(&format!("apply {off}"), &[]) && !works("apply", &[("TF_CLI_ARGS", off)]));
            assert!(!works("apply", &[("TF_CLI_ARGS_apply", &format!("-x=1 '{off}'"))]));
            assert!(works("apply", &[("TF_CLI", off), ("TF_CLI_ARGS_plan", off)]));
        }
        let waits = |line: &str, env: &[(&str, &str)]| read(line, env).unwrap().waits;
        assert!(waits("apply -lock-timeout=5m", &[]) && waits("apply -lock-timeout 5m", &[]));
        assert!(waits("apply", &[("TF_CLI_ARGS_apply", "-lock-timeout=5m")]));
        assert!(!waits("apply -lock=true", &[("TF_CLI_ARGS", "-no-color")]));
    }
}
