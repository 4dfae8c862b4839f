//! Commands that take no lock, which need no guard.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::aws::Surroundings;
use crate::model::product;
use crate::terraform::args;
use crate::terraform::arguments::subcommand;

/// Commands that never look at a state (Terraform 1.6 to 1.15, OpenTofu alike).
const LOCAL: &[&str] = &["fmt", "get", "validate", "version"];

/// Commands that read a state without locking it, but for one case: see [`takes_no_lock`].
const READING: &[&str] = &[
    "graph",
    "output",
    "providers",
    "show",
    "state list",
    "state pull",
    "state show",
    "workspace list",
    "workspace show",
];

/// Whether a command surely takes no lock, so that it may run without a guard.
///
/// The S3 backend takes a hidden lock (`init`) for whatever reads the state of a workspace that has none yet, so reading
/// is lockless only in the workspace `default`, of which it takes none.
#[must_use]
pub fn takes_no_lock(command: &[OsString], cwd: &Path, env: &HashMap<OsString, OsString>) -> bool {
    let Some((program, arguments)) = command.split_first() else { return false };
    if product(program).is_none() {
        return false;
    }
    let is_help = |word: &OsString| {
        [OsStr::new("-help"), OsStr::new("--help"), OsStr::new("-h"), OsStr::new("-version"), OsStr::new("--version")]
            .contains(&word.as_os_str())
    };
    if arguments.iter().any(is_help) {
        return true;
    }
    let Some(name) = subcommand(command) else { return true };
    let reads = READING.contains(&name.as_str()) || name.split(' ').next() == Some("providers");
    let in_default = || args::workspace(&Surroundings::of_command(cwd, arguments, env.clone())) == "default";
    LOCAL.contains(&name.as_str()) || (reads && in_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lockless(line: &str, env: &[(&str, &str)]) -> bool {
        let command: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        takes_no_lock(&command, Path::new("/nonexistent"), &env)
    }

    #[test]
    fn only_what_surely_takes_no_lock_goes_without_a_guard() {
        for line in [
            "terraform version",
            "terraform fmt -check",
            "terraform -chdir=x validate",
            "tofu output -raw x",
            "terraform show tfplan",
            "terraform state list",
            "terraform state pull",
            "terraform providers lock",
            "terraform workspace list",
            "terraform",
            "terraform -help",
            "terraform apply -help",
            "/usr/bin/terraform-bin graph",
        ] {
            assert!(lockless(line, &[]), "{line}");
        }
        for line in [
            "terraform apply",
            "terraform plan",
            "terraform destroy",
            "terraform init",
            "terraform refresh",
            "terraform import a b",
            "terraform state rm a",
            "terraform state mv a b",
            "terraform state push x",
            "terraform workspace new x",
            "terraform workspace delete x",
            "terraform taint a",
            "terraform console",
            "terraform test",
            "terraform force-unlock x",
            "terraform login",
            "terraform made-up",
            "sh -c version",
            "terragrunt output",
        ] {
            assert!(!lockless(line, &[]), "{line}");
        }
    }

    /// `terraform output` in a new workspace takes the lock `init` for a moment.
    #[test]
    fn reading_in_another_workspace_is_guarded() {
        assert!(!lockless("terraform output", &[("TF_WORKSPACE", "staging")]));
        assert!(lockless("terraform output", &[("TF_WORKSPACE", "default")]));
        assert!(lockless("terraform fmt", &[("TF_WORKSPACE", "staging")]));
    }
}
