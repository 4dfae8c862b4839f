//! The release as it is packaged, and what installs it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::TFGUARD;
use crate::read::{template, text, yaml};
use crate::support::{Guard, Reply, Run, Server};
use crate::tools::{skip, succeed};

/// A release for this machine.
pub struct Package {
    /// The tarball's name.
    pub name: String,
    pub tarball: Vec<u8>,
    /// As `sha256sum` writes it.
    pub sha256: Vec<u8>,
}

/// Made by the project's own script, of a program that stands in for the binary under test, whose debug information
/// would take minutes to compress.
pub fn package() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let stand_in = dir.path().join("stand-in");
        std::fs::write(&stand_in, format!("#!/bin/sh\nexec '{TFGUARD}' \"$@\"\n")).unwrap();
        std::fs::set_permissions(&stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let out = dir.path().join("out");
        succeed(Command::new(".ci/package").args([&out, &stand_in]));
        let read = |end: &str| {
            let files = std::fs::read_dir(&out).unwrap().flatten();
            let path = files.map(|file| file.path()).find(|path| path.to_str().unwrap().ends_with(end)).expect(end);
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
        };
        let ((name, tarball), (_, sha256)) = (read(".tar.gz"), read(".sha256"));
        Package { name, tarball, sha256 }
    })
}

/// A server of that release in whatever directory; `instead` may answer something else.
pub fn serve(instead: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let Package { name, tarball, sha256 } = package();
    Server::start(move |request| {
        let file = request.target.rsplit('/').next().unwrap_or_default();
        instead(file).unwrap_or_else(|| match file {
            file if file == name => content(tarball),
            file if file.strip_suffix(".sha256") == Some(name) => content(sha256),
            _ => Reply::status(404),
        })
    })
}

/// The answer that has this in it.
pub fn content(bytes: &[u8]) -> Reply {
    Reply::Answer { status: 200, headers: Vec::new(), body: bytes.to_vec() }
}

/// Whether there is what `install.sh` downloads with; if not, that is said.
pub fn can_download() -> bool {
    let there = ["curl", "wget"].iter().any(|program| Command::new(program).arg("--version").output().is_ok());
    if !there {
        skip("neither curl nor wget is here, so nothing is tried of what installs tfguard by them");
    }
    there
}

/// The first word of the `.sha256` file.
pub fn checksum() -> String {
    let text = String::from_utf8_lossy(&package().sha256).into_owned();
    text.split_whitespace().next().expect("a checksum").to_owned()
}

/// Runs `install.sh`; also the directory that it is to fill.
fn install(url: &str, sha256: &str) -> (crate::support::Exit, tempfile::TempDir, PathBuf) {
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    let bin = dir.path().join("some/where");
    let run = Run::new("sh", &guard).arg(template("install.sh")).env("TFGUARD_INSTALL_DIR", &bin);
    let exit = run.env("TFGUARD_INSTALL_URL", url).env("TFGUARD_INSTALL_SHA256", sha256).run();
    (exit, dir, bin)
}

#[test]
fn the_script_installs_a_release_whose_checksum_is_right() {
    if !can_download() {
        return;
    }
    let server = serve(|_| None);
    let (exit, _dir, bin) = install(&format!("{}/{}", server.url(), package().name), &checksum());
    let exit = exit.expect_code(0);
    assert_eq!(exit.out(), format!("tfguard {}\n", env!("CARGO_PKG_VERSION")), "{exit}");
    let files: Vec<_> = std::fs::read_dir(&bin).unwrap().flatten().map(|file| file.file_name()).collect();
    assert_eq!(files, ["tfguard"]);
    assert!(Command::new(bin.join("tfguard")).arg("--version").output().unwrap().status.success());
}

#[test]
fn the_script_installs_nothing_else() {
    if !can_download() {
        return;
    }
    let server = serve(|_| None);
    let right = format!("{}/{}", server.url(), package().name);
    for (url, sha256, why) in [
        (right.as_str(), "0".repeat(64), "tfguard is not installed: "),
        (right.as_str(), String::new(), "name the checksum"),
        (&format!("{}/missing.tar.gz", server.url()), checksum(), "404"),
    ] {
        let (exit, _dir, bin) = install(url, &sha256);
        assert!(exit.code.is_some_and(|code| code != 0), "{exit}");
        assert!(exit.err().contains(why), "{why}: {exit}");
        assert!(!bin.join("tfguard").exists());
    }
}

/// An include brings no files with it, so the script stands in GitLab's template once more.
#[test]
fn the_gitlab_template_installs_as_the_script_does() {
    let template = yaml("gitlab/tfguard.yml");
    let block = template[".tfguard"]["before_script"][0].as_str().expect("the first command installs").to_owned();
    let script = text("install.sh");
    let (_, script) = script.split_once("set -eu\n").expect("the script stops at a failure");
    let indented: String = script.lines().map(|line| format!("  {line}\n")).collect();
    assert_eq!(block, format!("(\n  set -eu\n{indented})\n"));
}
