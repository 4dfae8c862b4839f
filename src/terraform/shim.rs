//! tfguard under the name of `terraform` or `tofu`: a link early on PATH, so that pipelines need no change.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::model::{Product, product};
use crate::session::{DirectoryError, REAL, SessionDir};
use crate::terraform::wrapper::{is_program, on_path};

/// Names the program that a shim guards, where it is not the next one on PATH.
pub(crate) const REAL_PROGRAM: &str = "TFGUARD_TERRAFORM";

/// The variables by which Terragrunt is told which program to run, the newer one first.
const TERRAGRUNT: [&str; 2] = ["TG_TF_PATH", "TERRAGRUNT_TFPATH"];

/// The directory of a session with the link for a program that the user named.
const NAMED: &str = "named";

/// The names under which tfguard stands in for the real program.
const NAMES: &[&str] = &["terraform", "tofu"];

/// Why a shim cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// There is nothing to guard.
    #[error(
        "{0}: no other program of this name is on PATH behind tfguard's link; install it, or name it in {REAL_PROGRAM}"
    )]
    NoRealProgram(String),
    /// The variable names tfguard itself, or nothing.
    #[error("{REAL_PROGRAM} is {0}, which is not a program that tfguard could guard")]
    NotAProgram(PathBuf),
    /// The links cannot be made.
    #[error("cannot make the link {path}: {error}", path = .path.display())]
    Link {
        /// Which.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
}

/// The real program behind the link by which tfguard was called; none where it was not called by the name of a program
/// that it guards.
///
/// # Errors
/// When there is no such program.
pub fn called_for(called: &OsStr, env: &HashMap<OsString, OsString>) -> Option<Result<PathBuf, ShimError>> {
    let name = Path::new(called).file_name()?;
    if !NAMES.iter().any(|known| name == *known) {
        return None;
    }
    // The link of a session that stands for a program which the user named.
    let named = Path::new(called).parent().filter(|dir| dir.ends_with(NAMED)).map(|dir| dir.join(REAL));
    match named.filter(|real| is_program(real) && !is_self(real)) {
        Some(real) => Some(std::fs::read_link(&real).map_err(|error| ShimError::Link { path: real, error })),
        None => Some(real_program(name, env)),
    }
}

/// The program that a command's first word means: where tfguard's own links are found first, what stands behind them.
#[must_use]
pub fn behind_links(program: &OsStr, env: &HashMap<OsString, OsString>) -> Option<PathBuf> {
    product(program)?;
    on_path(program, env).filter(|found| is_self(found))?;
    real_program(Path::new(program).file_name()?, env).ok()
}

/// How the environment of a command that runs Terraforms is changed so that each has a guard: by links to tfguard in the
/// session.
///
/// Terragrunt takes the program that its variables name, before the `terraform_binary` of its configuration
/// (`internal/cli/commands/run/run.go` of 1.1.3). So they are set only where the user set them; else it finds the links
/// on PATH by the name that its configuration, or its default, has.
///
/// # Errors
/// The links cannot be made.
pub fn link_into(
    session: &SessionDir,
    env: &HashMap<OsString, OsString>,
) -> Result<Vec<(OsString, OsString)>, DirectoryError> {
    let mut set = Vec::new();
    let Ok(own) = std::env::current_exe() else { return Ok(set) };
    let names: Vec<&str> = NAMES.iter().copied().filter(|name| is_there(OsStr::new(name), env)).collect();
    let path = env.get(OsStr::new("PATH"));
    if let Some(path) = path.filter(|_| !names.is_empty()) {
        let bin = session.make_links(&own, &names)?;
        let dirs = std::iter::once(bin).chain(std::env::split_paths(path));
        if let Ok(path) = std::env::join_paths(dirs) {
            set.push(("PATH".into(), path));
        }
    }
    let named = |variable: &str| env.get(OsStr::new(variable)).filter(|named| named.as_encoded_bytes().contains(&b'/'));
    let [first, second] = TERRAGRUNT.map(named);
    if let Some(named) = first.or(second).map(Path::new).filter(|named| is_program(named) && !is_self(named)) {
        let name = product(named.as_os_str()).unwrap_or(Product::Terraform).program();
        let real = std::path::absolute(named).unwrap_or_else(|_| named.to_owned());
        let link = session.make_named_link(&own, name, &real)?;
        // One that names another program goes its own way.
        for variable in TERRAGRUNT.iter().filter(|variable| env.get(OsStr::new(variable)).is_some_and(|it| it == named))
        {
            set.push((variable.into(), link.clone().into()));
        }
    }
    Ok(set)
}

/// PATH without the directories in which tfguard's links are.
#[must_use]
pub fn path_without_links(path: &OsStr) -> OsString {
    let dirs = std::env::split_paths(path).filter(|dir| !NAMES.iter().any(|name| is_self(&dir.join(name))));
    // What was split at the separators has none.
    std::env::join_paths(dirs).unwrap_or_else(|_| path.to_owned())
}

/// Whether a program of this name is on PATH, besides tfguard's own links.
fn is_there(name: &OsStr, env: &HashMap<OsString, OsString>) -> bool {
    let path = env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let chosen = env.get(OsStr::new(REAL_PROGRAM)).filter(|chosen| product(chosen) == product(name));
    chosen.is_some()
        || std::env::split_paths(&path).map(|dir| dir.join(name)).any(|path| is_program(&path) && !is_self(&path))
}

/// The real program behind the link: never tfguard itself, however often it is on PATH.
///
/// # Errors
/// When there is none.
pub fn real_program(name: &OsStr, env: &HashMap<OsString, OsString>) -> Result<PathBuf, ShimError> {
    if let Some(named) = env.get(OsStr::new(REAL_PROGRAM)).filter(|named| !named.is_empty()) {
        let path = on_path(named, env).into_iter().find(|path| is_program(path) && !is_self(path));
        return path.ok_or_else(|| ShimError::NotAProgram(named.into()));
    }
    let path = env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let real = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| is_program(path) && !is_self(path));
    real.ok_or_else(|| ShimError::NoRealProgram(name.to_string_lossy().into_owned()))
}

/// Whether a path is this very program, or a link to another installation of it: two would call each other for ever.
fn is_self(path: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let is_named_so =
        |real: &Path| real.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"tfguard"));
    file(path).is_some_and(|found| Some(found) == file(Path::new("/proc/self/exe")))
        || std::fs::canonicalize(path).is_ok_and(|real| is_named_so(&real))
}

/// Puts the links into a directory, over links that are there.
///
/// # Errors
/// When that is not possible; a file that is no link is never replaced.
pub fn make_links(dir: &Path) -> Result<Vec<PathBuf>, ShimError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error| ShimError::Link { path, error }
    };
    let own = std::env::current_exe().map_err(fail(dir))?;
    std::fs::create_dir_all(dir).map_err(fail(dir))?;
    let links = NAMES.iter().map(|name| {
        debug_assert!(product(OsStr::new(name)).is_some());
        let path = dir.join(name);
        if path.is_symlink() {
            std::fs::remove_file(&path).map_err(fail(&path))?;
        }
        std::os::unix::fs::symlink(&own, &path).map_err(fail(&path))?;
        Ok(path)
    });
    links.collect()
}
