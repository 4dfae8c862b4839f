//! The packages for pip and npm, installed by these; and the commands of docs/install.md.

use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::VERSION;
use crate::support::{Reply, Server, make_program};
use crate::templates::install::{can_download, content, package, serve};
use crate::templates::tools::{node, npm, python, run, skip, succeed};

/// The shell commands of docs/install.md below a heading.
fn commands(heading: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md")).unwrap();
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks: Vec<_> = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty(), "there are commands below {heading}");
    blocks.concat()
}

/// The commands of a heading, typed in an empty directory that is also home, with `bin` first on PATH.
fn typed(heading: &str, dir: &Path, change: impl FnOnce(String) -> String) -> Command {
    let there = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths([dir.join("bin")].into_iter().chain(std::env::split_paths(&there))).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-euc", &format!("cd '{}'\n{}", dir.display(), change(commands(heading)))]);
    shell.env("HOME", dir).env("PATH", path);
    shell
}

#[track_caller]
fn assert_is_tfguard(program: &Path) {
    assert_eq!(succeed(Command::new(program).arg("--version")), VERSION);
}

#[test]
fn pip_installs_the_wheel() {
    let dir = tempfile::tempdir().unwrap();
    let (name, _) = package().ending(".whl");
    package().file(name, dir.path());
    succeed(Command::new(python()).args(["-m", "venv"]).arg(dir.path().join("venv")));
    symlink("venv/bin", dir.path().join("bin")).unwrap();
    let install = |what: &str| {
        let mut typed = typed("pip", dir.path(), |commands| commands.replace("tfguard", what));
        typed.env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", dir.path()).env("PIP_CONFIG_FILE", "/dev/null");
        run(&mut typed)
    };
    let output = install("tfguard");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_is_tfguard(&dir.path().join("venv/bin/tfguard"));
    // pip compares what it unpacks with the wheel's own list only when it is asked for.
    let check = "import importlib.metadata as m; d = m.distribution('tfguard')
assert all(f.locate().is_file() for f in d.files) and len(d.files) >= 5, d.files
assert (d.version, d.metadata['License-Expression']) == ('VERSION', 'Apache-2.0'), d.metadata.items()";
    let check = check.replace("VERSION", env!("CARGO_PKG_VERSION"));
    succeed(Command::new(dir.path().join("venv/bin/python")).args(["-I", "-c", &check]));
    assert!(!install("tfguards").status.success(), "it can fail");
}

/// A registry of npm with this one package.
fn npm_registry() -> Server {
    let name = format!("tfguard-{}.tgz", env!("CARGO_PKG_VERSION"));
    Server::start(move |request| {
        let version = env!("CARGO_PKG_VERSION");
        let tarball = format!("http://{}/{name}", request.header("host").unwrap_or_default());
        let one = json!({ "name": "tfguard", "version": version, "bin": { "tfguard": "tfguard" }, "dist": { "tarball": tarball } });
        match &*request.target {
            "/tfguard" => Reply::json(
                200,
                &json!({ "name": "tfguard", "dist-tags": { "latest": version }, "versions": { version: one } }),
            ),
            target if target.ends_with(&name) => content(&package().files[&name]),
            _ => Reply::status(404),
        }
    })
}

#[test]
fn npm_installs_the_package() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    symlink(node(), bin.join("node")).unwrap();
    make_program(&bin.join("npm"), &format!("#!/bin/sh\nexec '{}' '{}' \"$@\"\n", node().display(), npm().display()));
    let registry = npm_registry();
    let mut install = typed("npm", dir.path(), |commands| commands);
    install.env("npm_config_registry", registry.url()).env("npm_config_prefix", dir.path().join("global"));
    install.env("npm_config_audit", "false").env("npm_config_update_notifier", "false");
    succeed(&mut install);
    assert_is_tfguard(&dir.path().join("global/bin/tfguard"));

    // The file itself, without a registry.
    let (name, _) = package().ending(&format!("tfguard-{}.tgz", env!("CARGO_PKG_VERSION")));
    let file = package().file(name, dir.path());
    let mut offline = Command::new(bin.join("npm"));
    offline
        .args(["install", "--offline", "--no-audit", "--no-fund", "--prefix"])
        .arg(dir.path().join("local"))
        .arg(file);
    succeed(offline.env("HOME", dir.path()).env("npm_config_update_notifier", "false"));
    assert_is_tfguard(&dir.path().join("local/node_modules/.bin/tfguard"));
}

#[test]
fn the_script_is_fetched_and_run_as_the_document_says() {
    if !can_download() {
        return;
    }
    let (server, dir) = (serve(|_| None), tempfile::tempdir().unwrap());
    let mut install =
        typed("Script", dir.path(), |commands| commands.replace("https://github.com/OWNER/tfguard", &server.url()));
    succeed(install.env("TFGUARD_INSTALL_REPOSITORY", server.url()));
    assert_is_tfguard(&dir.path().join(".local/bin/tfguard"));
}

#[test]
fn a_release_is_verified_as_the_document_says() {
    let dir = tempfile::tempdir().unwrap();
    let tarball = &package().name;
    for name in ["SHA256SUMS", tarball] {
        package().file(name, dir.path());
    }
    // The attestation is at GitHub.
    let local =
        |commands: String| commands.lines().filter(|line| !line.starts_with("gh ")).collect::<Vec<_>>().join("\n");
    succeed(&mut typed("Verify a release", dir.path(), local));
    fs::write(dir.path().join(tarball), "").unwrap();
    assert!(!run(&mut typed("Verify a release", dir.path(), local)).status.success(), "it can fail");
}

/// Nothing is there but the binary, `/dev/null` and `/proc`. A build for the tests needs its C library besides.
#[test]
fn a_released_binary_runs_in_an_empty_root() {
    let Some(binary) = std::env::var_os("TFGUARD_TEST_STATIC") else {
        return skip("TFGUARD_TEST_STATIC names no static binary, so none is run in an empty root");
    };
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::copy(binary, root.join("tfguard")).unwrap();
    for made in ["dev", "proc", "tmp"] {
        fs::create_dir(root.join(made)).unwrap();
    }
    fs::write(root.join("dev/null"), "").unwrap();
    let guarded = format!(
        "mount --bind /dev/null '{0}/dev/null' && mount -t proc proc '{0}/proc' && exec chroot '{0}' \"$@\"",
        root.display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-euc", &guarded, "sh"]);
    let output = run(unshare.args(["/tfguard", "--", "/tfguard", "--version"]));
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains(&format!("{ARCH}-unknown-linux-musl)")), "{out}{err}");
}

/// `--version` has the commit in a checkout and in the source that crates.io has, and is without in any other copy.
#[test]
fn the_build_script_finds_the_commit() {
    // What the user's own git does, such as signing, is no part of it.
    const OWN_GIT: [(&str, &str); 2] = [("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")];
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("build");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    succeed(Command::new(rustc).args(["--edition=2024", "src/build.rs", "-o"]).arg(&script));
    let build = |profile: &str| {
        let mut build = Command::new(&script);
        build.current_dir(dir.path()).env("TARGET", "a-target").env("PROFILE", profile).envs(OWN_GIT);
        let out = String::from_utf8(build.output().unwrap().stdout).unwrap();
        let line = out.lines().find_map(|line| line.strip_prefix("cargo::rustc-env=TFGUARD_BUILD="));
        line.expect("it tells").to_owned()
    };
    assert_eq!(build("release"), "a-target");
    let recorded = "{\n  \"git\": {\n    \"sha1\": \"0123456789abcdef0123456789abcdef01234567\"\n  }\n}\n";
    fs::write(dir.path().join(".cargo_vcs_info.json"), recorded).unwrap();
    assert_eq!(build("release"), "0123456, a-target");
    assert_eq!(build("debug"), "a-target");
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
        let mut git = Command::new("git");
        git.arg("-C").arg(dir.path()).args(identity).args(arguments).envs(OWN_GIT);
        succeed(git.env("GIT_COMMITTER_DATE", "2026-11-28T12:00:00Z"))
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message=a"]);
    let commit = git(&["rev-parse", "--short=7", "HEAD"]);
    assert_eq!(build("release"), format!("{} 2026-11-28, a-target", commit.trim()));
}
