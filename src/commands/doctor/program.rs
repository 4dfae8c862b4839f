//! The Terraform or OpenTofu that would run here.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;

use crate::command::{self, Product};

/// A Terraform that does not answer within this time is taken for one that does not tell its version.
const LONGEST: Duration = Duration::from_secs(20);

/// A program as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The name by which it is called.
    pub name: &'static str,
    /// Where it really is.
    pub path: PathBuf,
    /// A link to tfguard stands before it on PATH.
    pub shim: bool,
    /// The Node wrapper of a setup action stands before it.
    pub node_wrapper: bool,
    /// What it says it is; none if it says nothing that can be understood.
    pub installed: Option<Installed>,
}

/// A product and its version, without what is before a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// Which product.
    pub product: Product,
    /// Major, minor and patch number.
    pub version: (u32, u32, u32),
}

/// Finds the program on PATH, OpenTofu first if that is what initialised the directory, and asks its version there: a
/// version manager decides by the directory.
pub async fn find(env: &HashMap<OsString, OsString>, opentofu: bool, dir: &Path) -> Option<Program> {
    let names = if opentofu { ["tofu", "terraform"] } else { ["terraform", "tofu"] };
    let (name, path) = names.into_iter().find_map(|name| {
        let path = command::real_program(OsStr::new(name), env).ok()?;
        Some((name, path))
    })?;
    let shim = command::on_path(OsStr::new(name), env).is_some_and(|first| first != path);
    let behind = command::behind_wrapper(path.as_os_str(), env);
    let node_wrapper = behind.is_some();
    let path = behind.unwrap_or(path);
    let installed = ask(&path, env, dir).await.map(|version| Installed { product: product(name), version });
    Some(Program { name, path, shim, node_wrapper, installed })
}

fn product(name: &str) -> Product {
    if name == "tofu" { Product::OpenTofu } else { Product::Terraform }
}

async fn ask(program: &Path, env: &HashMap<OsString, OsString>, dir: &Path) -> Option<(u32, u32, u32)> {
    #[derive(Deserialize)]
    struct Told {
        // OpenTofu calls it so too.
        terraform_version: String,
    }
    let mut command = tokio::process::Command::new(program);
    command.args(["version", "-json"]).env_clear().envs(env).env("CHECKPOINT_DISABLE", "1");
    // Of the command line, only what is typed here; and nothing is written to a log.
    let leave = ["TF_CLI_ARGS", "TF_LOG", "TF_TEMP_LOG_PATH"];
    for name in env.keys().filter(|name| leave.iter().any(|leave| name.to_string_lossy().starts_with(leave))) {
        command.env_remove(name);
    }
    command.current_dir(dir).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LONGEST, command.output()).await.ok()?.ok()?;
    parse(&serde_json::from_slice::<Told>(&output.stdout).ok()?.terraform_version)
}

/// Reads `1.11.4` and `1.12.0-beta1`.
fn parse(text: &str) -> Option<(u32, u32, u32)> {
    let release = text.trim_start_matches('v').split(['-', '+']).next()?;
    let mut numbers = release.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_and_without_what_is_before_a_release() {
        assert_eq!(parse("1.11.4"), Some((1, 11, 4)));
        assert_eq!(parse("v1.12.0-beta1"), Some((1, 12, 0)));
        for wrong in ["", "1", "1.2", "one.two.three"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
