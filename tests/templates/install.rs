//! The release as it is packaged, and what installs it.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::VERSION;
use crate::support::{Exit, Guard, Reply, Run, Server, make_program};
use crate::templates::action::{Runner, sum};
use crate::templates::read::parse;
use crate::templates::tools::{python, skip, succeed};
use crate::templates::{SOON, TFGUARD};

/// A release, as the project's own script makes it.
pub struct Package {
    /// The tarball's name, for this machine.
    pub name: String,
    /// Each file, by its name.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Package {
    pub fn tarball(&self) -> &[u8] {
        &self.files[&self.name]
    }

    /// The file whose name ends so.
    pub fn ending(&self, end: &str) -> (&str, &[u8]) {
        let (name, content) = self.files.iter().find(|(name, _)| name.ends_with(end)).expect(end);
        (name, content)
    }

    /// A file in a place of its own.
    pub fn file(&self, name: &str, dir: &Path) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, &self.files[name]).expect("a file can be written");
        path
    }
}

/// The commit of a release in tests.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Of a program that stands in for the binary under test, whose debug information would take long to compress.
pub fn package() -> &'static Package {
    static PACKAGE: LazyLock<Package> = LazyLock::new(make_package);
    &PACKAGE
}

fn make_package() -> Package {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let stand_in = dir.path().join("stand-in");
    make_program(&stand_in, &format!("#!/bin/sh\nexec '{TFGUARD}' \"$@\"\n"));
    let out = dir.path().join("out");
    let binary = format!("{ARCH}={}", stand_in.display());
    let names = ["--repository=https://github.invalid/owner/tfguard", &format!("--commit={COMMIT}")];
    succeed(Command::new(".ci/package").arg(&out).arg(binary).args(names));
    let files = std::fs::read_dir(&out).unwrap().map(|file| {
        let file = file.unwrap();
        (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
    });
    Package { name: format!("tfguard-{}-linux-{ARCH}.tar.gz", env!("CARGO_PKG_VERSION")), files: files.collect() }
}

/// A YAML file of that release.
pub fn released(name: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    parse("yaml", &package().file(name, dir.path()))
}

/// A server of that release in whatever directory; `instead` may answer something else.
pub fn serve(instead: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static) -> Server {
    Server::start(move |request| {
        let file = request.target.rsplit('/').next().unwrap_or_default();
        let released = || package().files.get(file).map(|bytes| content(bytes));
        instead(file).or_else(released).unwrap_or_else(|| Reply::status(404))
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

/// Runs the release's `install.sh` on a machine that has only this to download with.
struct Installation {
    exit: Exit,
    dir: tempfile::TempDir,
}

impl Installation {
    fn run(downloader: &str, variables: &[(&str, &str)]) -> Self {
        let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
        let path = dir.path().join("path");
        std::fs::create_dir(&path).unwrap();
        let tools = ["sh", "mkdir", "mktemp", "rm", "mv", "sed", "sha256sum", "tar", "gzip", "uname", downloader];
        let there = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
        for tool in tools {
            let real = there.iter().map(|dir| dir.join(tool)).find(|file| file.exists()).expect(tool);
            std::os::unix::fs::symlink(real, path.join(tool)).unwrap();
        }
        let script = package().file("install.sh", dir.path());
        let run = Run::new("sh", &guard).arg(script).env("PATH", &path).envs(variables.iter().copied());
        let exit = run.env("TFGUARD_INSTALL_DIR", dir.path().join("some/where")).run();
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

/// Only the tarball is asked for: its checksum is in the script.
#[test]
fn the_script_installs_the_release_that_it_belongs_to() {
    if !can_download() {
        return;
    }
    for downloader in downloaders() {
        let server = serve(|_| None);
        let url = format!("{}/mirror", server.url());
        let repository = format!("{}/owner/tfguard", server.url());
        let released = format!("/owner/tfguard/releases/download/v{}", env!("CARGO_PKG_VERSION"));
        for (variable, value, place) in
            [("TFGUARD_INSTALL_URL", url, "/mirror"), ("TFGUARD_INSTALL_REPOSITORY", repository, &released)]
        {
            let installation = Installation::run(downloader, &[(variable, &value)]);
            assert_eq!(installation.exit.out(), VERSION, "{}", installation.exit);
            assert_eq!(installation.exit.code, Some(0));
            assert_eq!(installation.files(), ["tfguard"]);
            assert!(Command::new(installation.binary()).arg("--version").output().unwrap().status.success());
            let asked = server.requests().pop().expect("it asked").target;
            assert_eq!(asked, format!("{place}/{}", package().name));
        }
        assert_eq!(server.requests().len(), 2);
    }
}

/// It says why (GNU's wget says nothing by itself), and leaves nothing.
#[test]
fn the_script_installs_nothing_else() {
    if !can_download() {
        return;
    }
    let right = serve(|_| None);
    let garbage = serve(|_| Some(content(b"no tarball")));
    let missing = serve(|_| Some(Reply::status(404)));
    let (zeros, sum) = ("0".repeat(64), sum(b"no tarball"));
    for downloader in downloaders() {
        for (server, sha256, why) in [
            (&right, &*zeros, "does not have the SHA-256 '0000"),
            (&garbage, "", "does not have the SHA-256 '"),
            (&garbage, &sum, "tar: "),
            (&missing, "", "tfguard is not installed: cannot download http"),
        ] {
            let variables = [("TFGUARD_INSTALL_URL", &*server.url()), ("TFGUARD_INSTALL_SHA256", sha256)];
            let installation = Installation::run(downloader, &variables);
            let exit = &installation.exit;
            assert!(exit.code.is_some_and(|code| code != 0), "{downloader}: {exit}");
            assert!(exit.err().contains(why), "{downloader}: {why}: {exit}");
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
    let name = &package().name;
    let own = package().file(name, dir.path());
    succeed(Command::new("tar").arg("-xzf").arg(&own).arg("-C").arg(dir.path()));
    let others = ["--owner=4711", "--group=4711", "-czf"];
    let folder = name.strip_suffix(".tar.gz").unwrap();
    succeed(Command::new("tar").args(others).arg(&own).arg("-C").arg(dir.path()).arg(folder));
    let tarball = std::fs::read(&own).unwrap();
    let sha256 = sum(&tarball);
    let server = serve(move |file| file.ends_with("gz").then(|| content(&tarball)));

    let owner = |binary: PathBuf| std::fs::metadata(binary).expect("it is installed").uid();
    let runner = Runner::new();
    let exit = runner.main(&[("download-url", &server.url()), ("sha256", &sha256)]).start().wait(SOON).expect_code(0);
    assert_eq!(owner(runner.told().path[0].join("tfguard")), 0, "{exit}");
    for downloader in downloaders() {
        let variables = [("TFGUARD_INSTALL_URL", &*server.url()), ("TFGUARD_INSTALL_SHA256", &sha256)];
        let installation = Installation::run(downloader, &variables);
        assert_eq!(owner(installation.binary()), 0, "{}", installation.exit);
    }
}

/// With a build of the same files, a checksum says something.
#[test]
fn a_release_is_made_the_same_way_twice() {
    let again = make_package();
    let differ: Vec<_> = again.files.iter().filter(|(name, bytes)| package().files.get(*name) != Some(bytes)).collect();
    assert!(differ.is_empty() && again.files.len() == package().files.len(), "{:?}", differ.first().map(|file| file.0));
}

/// Nothing is left for a person to fill in, and every file has its checksum.
#[test]
fn a_release_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    for name in package().files.keys() {
        package().file(name, dir.path());
    }
    let sums = String::from_utf8(package().files["SHA256SUMS"].clone()).unwrap();
    assert_eq!(sums.lines().count(), package().files.len() - 1);
    succeed(Command::new("sh").args(["-c", "cd \"$0\" && sha256sum --check --strict SHA256SUMS"]).arg(dir.path()));

    let (templates, _) = package().ending("-ci-templates.tar.gz");
    succeed(Command::new("tar").arg("-xzf").arg(dir.path().join(templates)).arg("-C").arg(dir.path()));
    let unpacked = dir.path().join(templates.strip_suffix(".tar.gz").unwrap());
    // What pip, npm and a person get, in a directory each.
    let packages = dir.path().join("packages");
    for (end, folder) in
        [(".whl", "wheel"), (&*format!("tfguard-{}.tgz", env!("CARGO_PKG_VERSION")), "npm"), (&*package().name, "tar")]
    {
        let (name, _) = package().ending(end);
        let (file, to) = (dir.path().join(name), packages.join(folder));
        std::fs::create_dir_all(&to).unwrap();
        match end {
            ".whl" => succeed(Command::new(python()).args(["-I", "-m", "zipfile", "-e"]).arg(file).arg(to)),
            _ => succeed(Command::new("tar").arg("-xzf").arg(file).arg("-C").arg(to)),
        };
    }
    let found = |words: &str| {
        let output = Command::new("grep").args(["-rnE", words]).arg(&packages).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // The wheel has the README in its metadata.
    assert_eq!(found("^# tfguard").lines().count(), 3);
    for unfit in [r"\]\([^h#]", "No release is published"] {
        assert_eq!(found(unfit), "");
    }
    assert_eq!(found(r"\]\(https://github.invalid/owner/tfguard/raw/v.*\.svg\)").lines().count(), 3);
    let mut left = Command::new("grep");
    left.args(["-rnE", "OWNER|@install|sha256_[a-z0-9_]*=$"]);
    left.arg(&unpacked).arg(&packages).arg(dir.path().join("install.sh"));
    let left = String::from_utf8(left.output().unwrap().stdout).unwrap();
    let other = if ARCH == "x86_64" { "aarch64" } else { "x86_64" };
    let left: Vec<_> = left.lines().filter(|line| !line.ends_with(&format!("sha256_{other}="))).collect();
    assert!(left.is_empty(), "{left:#?}");
    let workflow = std::fs::read_to_string(unpacked.join("github/terraform.yml")).unwrap();
    assert!(workflow.contains(&format!("owner/tfguard/ci-templates/github@{COMMIT} # v")), "{workflow}");
}
