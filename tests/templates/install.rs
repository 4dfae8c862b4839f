//! The release as it is packaged, and what installs it.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{Exit, Guard, Reply, Run, Server, make_program};
use crate::templates::action::{Runner, sum};
use crate::templates::read::{template, text, yaml};
use crate::templates::tools::{skip, succeed};
use crate::templates::{SOON, TFGUARD};

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
        make_program(&stand_in, &format!("#!/bin/sh\nexec '{TFGUARD}' \"$@\"\n"));
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
    if downloaders().is_empty() {
        skip("neither curl nor wget is here, so nothing is tried of what installs tfguard by them");
    }
    !downloaders().is_empty()
}

fn downloaders() -> Vec<&'static str> {
    let there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    ["curl", "wget"].into_iter().filter(there).collect()
}

/// The first word of the `.sha256` file.
pub fn checksum() -> String {
    let text = String::from_utf8_lossy(&package().sha256).into_owned();
    text.split_whitespace().next().expect("a checksum").to_owned()
}

/// Runs `install.sh` on a machine that has only this to download with.
struct Installation {
    exit: Exit,
    dir: tempfile::TempDir,
}

impl Installation {
    fn run(downloader: &str, url: &str, sha256: &str) -> Self {
        let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
        let path = dir.path().join("path");
        std::fs::create_dir(&path).unwrap();
        let tools = ["sh", "mkdir", "mktemp", "rm", "mv", "sha256sum", "tar", "gzip", downloader];
        let there = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
        for tool in tools {
            let real = there.iter().map(|dir| dir.join(tool)).find(|file| file.exists()).expect(tool);
            std::os::unix::fs::symlink(real, path.join(tool)).unwrap();
        }
        let run = Run::new("sh", &guard).arg(template("install.sh")).env("PATH", &path);
        let run = run.env("TFGUARD_INSTALL_DIR", dir.path().join("some/where"));
        let exit = run.env("TFGUARD_INSTALL_URL", url).env("TFGUARD_INSTALL_SHA256", sha256).run();
        Self { exit, dir }
    }

    fn binary(&self) -> PathBuf {
        self.dir.path().join("some/where/tfguard")
    }

    /// What it left in its directory.
    fn files(&self) -> Vec<OsString> {
        let files = std::fs::read_dir(self.dir.path().join("some/where")).into_iter().flatten().flatten();
        files.map(|file| file.file_name()).collect()
    }
}

#[test]
fn the_script_installs_a_release_whose_checksum_is_right() {
    if !can_download() {
        return;
    }
    let server = serve(|_| None);
    for downloader in downloaders() {
        let url = format!("{}/{}", server.url(), package().name);
        let installation = Installation::run(downloader, &url, &checksum());
        let out = installation.exit.out();
        assert_eq!(out, format!("tfguard {}\n", env!("CARGO_PKG_VERSION")), "{}", installation.exit);
        assert_eq!(installation.exit.code, Some(0));
        assert_eq!(installation.files(), ["tfguard"]);
        assert!(Command::new(installation.binary()).arg("--version").output().unwrap().status.success());
    }
}

/// It says why (GNU's wget says nothing by itself), and leaves nothing.
#[test]
fn the_script_installs_nothing_else() {
    if !can_download() {
        return;
    }
    let server = serve(|file| (file == "garbage").then(|| content(b"no tarball")));
    let (right, missing) = (format!("{}/{}", server.url(), package().name), format!("{}/missing", server.url()));
    let garbage = format!("{}/garbage", server.url());
    for downloader in downloaders() {
        for (url, sha256, why) in [
            (&right, "0".repeat(64), format!("tfguard is not installed: {right} does not have the SHA-256 0000")),
            (&right, String::new(), "name the checksum".to_owned()),
            (&missing, checksum(), format!("tfguard is not installed: cannot download {missing}")),
            (&garbage, sum(b"no tarball"), "tar: ".to_owned()),
        ] {
            let installation = Installation::run(downloader, url, &sha256);
            let exit = &installation.exit;
            assert!(exit.code.is_some_and(|code| code != 0), "{downloader}: {exit}");
            assert!(exit.err().contains(&why), "{downloader}: {why}: {exit}");
            assert!(installation.files().is_empty(), "{downloader}: {exit}");
        }
    }
}

/// For root, tar gives a file to the user whose number it had where it was packed: somebody else on this machine, who could
/// then put another program in its place.
#[test]
fn what_is_installed_belongs_to_who_installed_it() {
    if !nix::unistd::geteuid().is_root() {
        return skip("not root, so it is not tried that root installs no file of somebody else's");
    }
    let dir = tempfile::tempdir().unwrap();
    let (Package { name, tarball, .. }, own) = (package(), dir.path().join("own.tar.gz"));
    std::fs::write(&own, tarball).unwrap();
    succeed(Command::new("tar").arg("-xzf").arg(&own).arg("-C").arg(dir.path()));
    let others = ["--owner=4711", "--group=4711", "-czf"];
    let folder = name.strip_suffix(".tar.gz").unwrap();
    succeed(Command::new("tar").args(others).arg(&own).arg("-C").arg(dir.path()).arg(folder));
    let tarball = std::fs::read(&own).unwrap();
    let sha256 = sum(&tarball);
    let server = serve(move |file| (!file.ends_with(".sha256")).then(|| content(&tarball)));

    let owner = |binary: PathBuf| std::fs::metadata(binary).expect("it is installed").uid();
    let runner = Runner::new();
    let exit = runner.main(&[("download-url", &server.url()), ("sha256", &sha256)]).start().wait(SOON).expect_code(0);
    assert_eq!(owner(runner.told().path[0].join("tfguard")), 0, "{exit}");
    for downloader in downloaders() {
        let installation = Installation::run(downloader, &format!("{}/{name}", server.url()), &sha256);
        assert_eq!(owner(installation.binary()), 0, "{}", installation.exit);
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
