//! tfguard under the name of `terraform` or `tofu`: a link early on PATH, so that pipelines need no change.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::arguments::product;
use super::wrapper::{is_program, on_path};

/// Names the program that a shim guards, where it is not the next one on PATH.
const REAL_PROGRAM: &str = "TFGUARD_TERRAFORM";

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

/// The name under which tfguard was called, if it stands in for the real program.
#[must_use]
pub fn called_as(program: &OsStr) -> Option<OsString> {
    let name = Path::new(program).file_name()?;
    NAMES.iter().any(|known| name == *known).then(|| name.to_owned())
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
