//! Tells `--version` what the binary was built from: `TFGUARD_BUILD`, the commit where it is known, and the target.

use std::env::var;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    let target = var("TARGET").expect("cargo sets it");
    // Only in a release: else each commit would rebuild what is being worked on.
    let commit = if var("PROFILE").is_ok_and(|profile| profile == "release") { commit() } else { None };
    let build = commit.map_or(target.clone(), |commit| format!("{commit}, {target}"));
    println!("cargo::rustc-env=TFGUARD_BUILD={build}");
}

/// Hash and date, as in `abc1234 2026-11-28`; the hash alone in the source that crates.io has.
fn commit() -> Option<String> {
    // Without a `.git` of its own, this is a copy of the source, perhaps below somebody else's repository.
    if Path::new(".git").exists() {
        println!("cargo::rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
        return git(&["log", "-1", "--format=%h %cs", "--abbrev=7"]);
    }
    let recorded = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    Some(recorded.split("\"sha1\": \"").nth(1)?.get(..7)?.to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
