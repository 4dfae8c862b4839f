//! Which program a name means: behind tfguard's own links, which stand in for `terraform` and `tofu` early on PATH so that
//! pipelines need no change, and behind the wrappers of setup actions.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::files;
use crate::model::{Environment, Product, product};
use crate::session::{DirectoryError, REAL, SessionDir};

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
    /// Something that isn't tfguard's has the name of a link.
    #[error(
        "cannot make the link {path}: there is {found}, which isn't tfguard's, so nothing was changed\n\
         hint: tfguard shim --dir <DIR>, with a directory that has no terraform or tofu in it",
        path = .path.display()
    )]
    Taken {
        /// Which.
        path: PathBuf,
        /// What has it, in words.
        found: String,
    },
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
pub fn called_for(called: &OsStr, env: &Environment) -> Option<Result<PathBuf, ShimError>> {
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
pub fn behind_links(program: &OsStr, env: &Environment) -> Option<PathBuf> {
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
pub fn link_into(session: &SessionDir, env: &Environment) -> Result<Vec<(OsString, OsString)>, DirectoryError> {
    let mut set = Vec::new();
    let Ok(own) = std::env::current_exe() else { return Ok(set) };
    let names: Vec<&str> = NAMES.iter().copied().filter(|name| is_there(OsStr::new(name), env)).collect();
    if let Some(path) = env.get("PATH").filter(|_| !names.is_empty()) {
        let bin = session.make_links(&own, &names)?;
        let dirs = std::iter::once(bin).chain(std::env::split_paths(path));
        if let Ok(path) = std::env::join_paths(dirs) {
            set.push(("PATH".into(), path));
        }
    }
    let named =
        |variable: &str| env.path(variable).filter(|named| named.as_os_str().as_encoded_bytes().contains(&b'/'));
    let [first, second] = TERRAGRUNT.map(named);
    if let Some(named) = first.or(second).filter(|named| is_program(named) && !is_self(named)) {
        let name = product(named.as_os_str()).unwrap_or(Product::Terraform).program();
        let real = std::path::absolute(named).unwrap_or_else(|_| named.to_owned());
        let link = session.make_named_link(&own, name, &real)?;
        // One that names another program goes its own way.
        for variable in TERRAGRUNT.into_iter().filter(|variable| env.path(variable) == Some(named)) {
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
fn is_there(name: &OsStr, env: &Environment) -> bool {
    env.get(REAL_PROGRAM).is_some_and(|chosen| product(chosen) == product(name))
        || all_on_path(name, env).any(|path| !is_self(&path))
}

/// The real program behind the link: never tfguard itself, however often it is on PATH.
///
/// # Errors
/// When there is none.
pub fn real_program(name: &OsStr, env: &Environment) -> Result<PathBuf, ShimError> {
    if let Some(named) = env.get(REAL_PROGRAM) {
        let path = on_path(named, env).into_iter().find(|path| is_program(path) && !is_self(path));
        return path.ok_or_else(|| ShimError::NotAProgram(named.into()));
    }
    let real = all_on_path(name, env).find(|path| !is_self(path));
    real.ok_or_else(|| ShimError::NoRealProgram(name.to_string_lossy().into_owned()))
}

/// The programs of this name on PATH.
fn all_on_path(name: &OsStr, env: &Environment) -> impl Iterator<Item = PathBuf> {
    // One that is set to nothing is the working directory to execvp(3).
    let path = env.iter().find(|(name, _)| *name == "PATH").map(|(_, path)| path);
    path.into_iter().flat_map(std::env::split_paths).map(move |dir| dir.join(name)).filter(|path| is_program(path))
}

/// Whether a path is this very program, or a link to another installation of it: two would call each other for ever.
fn is_self(path: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    file(path).is_some_and(|found| Some(found) == file(Path::new("/proc/self/exe")))
        || std::fs::canonicalize(path).is_ok_and(|real| is_named_tfguard(&real))
}

/// Whether a program has the name of an installation of tfguard.
fn is_named_tfguard(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"tfguard"))
}

/// What has the name of a link and isn't tfguard's own, in words. A link to an installation that is gone is its own, too.
fn in_the_way(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_link(path) {
        Ok(target) if is_self(path) || is_named_tfguard(&target) => Ok(None),
        Ok(target) => Ok(Some(format!("a link to {}", target.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // It isn't a link.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(Some("a file or directory".to_owned())),
        Err(error) => Err(error),
    }
}

/// Puts the links into a directory, over tfguard's own links that are there.
///
/// # Errors
/// When that is not possible. Where something else has one of the names, nothing is changed.
pub fn make_links(dir: &Path) -> Result<Vec<PathBuf>, ShimError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error| ShimError::Link { path, error }
    };
    let own = std::env::current_exe().map_err(fail(dir))?;
    std::fs::create_dir_all(dir).map_err(fail(dir))?;
    let links: Vec<_> = NAMES.iter().map(|name| dir.join(name)).collect();
    for path in &links {
        debug_assert!(product(path.as_os_str()).is_some());
        if let Some(found) = in_the_way(path).map_err(fail(path))? {
            return Err(ShimError::Taken { path: path.clone(), found });
        }
    }
    for path in &links {
        if path.is_symlink() {
            std::fs::remove_file(path).map_err(fail(path))?;
        }
        std::os::unix::fs::symlink(&own, path).map_err(fail(path))?;
    }
    Ok(links)
}

/// The program behind the Node script that setup-terraform and setup-opentofu put on PATH in its place, if `program` is that.
/// The script passes no signal on and dies of the first one, and the program behind it with a broken pipe.
#[must_use]
pub fn behind_wrapper(program: &OsStr, env: &Environment) -> Option<PathBuf> {
    // The names and variables of setup-terraform's `wrapper/lib/terraform-bin.js` and setup-opentofu's `tofu-bin.js`.
    let (name, variable) = match product(program)? {
        Product::Terraform => ("terraform-bin", "TERRAFORM_CLI_PATH"),
        Product::OpenTofu => ("tofu-bin", "TOFU_CLI_PATH"),
    };
    let wrapper = on_path(program, env)?;
    if !is_node_script(&wrapper) {
        return None;
    }
    let dirs = env.path(variable).into_iter().chain(wrapper.parent());
    dirs.map(move |dir| dir.join(name)).find(|path| is_program(path))
}

/// Finds a program as the system does.
pub fn on_path(program: &OsStr, env: &Environment) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(program.into());
    }
    all_on_path(program, env).next()
}

/// Whether a path is a file that can be executed by somebody.
fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn is_node_script(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = files::open_path(path).and_then(|file| file.take(128).read_to_end(&mut start));
    let first = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    read.is_ok() && first.starts_with(b"#!") && first.windows(4).any(|word| word == b"node")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_program_behind_the_node_script_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let env = |variables: &[(&str, &Path)]| variables.iter().copied().collect();
        let path = [("PATH", dir.path())];
        put(dir.path(), "terraform", "\u{7f}ELF");
        assert_eq!(behind_wrapper(OsStr::new("terraform"), &env(&path)), None, "the program itself");
        put(dir.path(), "terraform", "#!/usr/bin/env node\nrequire('x')");
        assert_eq!(behind_wrapper(OsStr::new("terraform"), &env(&path)), None, "a wrapper around nothing");
        put(dir.path(), "terraform-bin", "\u{7f}ELF");
        let beside = dir.path().join("terraform-bin");
        assert_eq!(behind_wrapper(OsStr::new("terraform"), &env(&path)), Some(beside.clone()));
        assert_eq!(behind_wrapper(dir.path().join("terraform").as_os_str(), &env(&[])), Some(beside));
        put(elsewhere.path(), "terraform-bin", "\u{7f}ELF");
        let named = [path[0], ("TERRAFORM_CLI_PATH", elsewhere.path())];
        let found = behind_wrapper(OsStr::new("terraform"), &env(&named));
        assert_eq!(found, Some(elsewhere.path().join("terraform-bin")));
        put(dir.path(), "tofu", "#!/usr/bin/node");
        put(dir.path(), "tofu-bin", "\u{7f}ELF");
        assert_eq!(behind_wrapper(OsStr::new("tofu"), &env(&path)), Some(dir.path().join("tofu-bin")));
        put(dir.path(), "other", "#!/usr/bin/env node");
        assert_eq!(behind_wrapper(OsStr::new("other"), &env(&path)), None, "no business of ours");
    }
}
