//! Paths as Go and aws-sdk-go-base treat them, and files that settings name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex_lite::{Captures, Regex};

use crate::files;
use crate::model::Environment;

/// Files of settings have a few kilobytes, bundles of certificates some hundred.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Reads a file that a setting names. `/dev/null` is one, too.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if path == Path::new("/dev/null") { Ok(Vec::new()) } else { files::read_path(path, LARGEST) }
}

/// Whether a file is one that [`read`] reads.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    match files::open_path(path)?.metadata()?.len() {
        ..=LARGEST => Ok(()),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// Go's `path.Join` of parts that begin with no slash, as Terraform wants the key of a state and its prefix.
pub(crate) fn join(parts: &[&str]) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in parts.iter().flat_map(|part| part.split('/')) {
        match segment {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    kept.join("/")
}

/// A path of a setting, expanded: `$NAME` and `${NAME}` as Go's `os.ExpandEnv` does, then a leading `~`.
pub(crate) fn expand(path: &str, env: &Environment) -> String {
    static VARIABLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\$(?:\{([^}]*)\}|\{|(\w+))").expect("a pattern"));
    let value = |found: &Captures| {
        let name = found.get(1).or(found.get(2)).map_or("", |name| name.as_str());
        env.text(name).unwrap_or_default().to_owned()
    };
    let expanded = VARIABLE.replace_all(path, value);
    match (expanded.strip_prefix('~'), env.text("HOME")) {
        (Some(below), Some(home)) if below.is_empty() || below.starts_with('/') => format!("{home}{below}"),
        _ => expanded.into_owned(),
    }
}

/// Where and with what environment a Terraform runs.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Its working directory, after `-chdir`.
    pub dir: PathBuf,
    /// Its environment.
    pub env: Environment,
}

impl Surroundings {
    /// The home directory.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        Some(self.dir.join(self.env.text("HOME")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        std::fs::write(&file, "x").unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&file).unwrap(), b"x");
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
        let large = dir.path().join("large");
        std::fs::File::create(&large).unwrap().set_len(LARGEST + 1).unwrap();
        check(&file).unwrap();
        for other in [&*pipe, dir.path(), Path::new("/dev/zero"), &dir.path().join("gone"), &large] {
            assert!(read(other).is_err() && check(other).is_err(), "{}", other.display());
        }
    }

    #[test]
    fn paths_are_joined_as_go_joins_them() {
        // From the tests of Go's `path` package, and the shapes a workspace's key can have.
        for (parts, expected) in [
            (&["a", "b"][..], "a/b"),
            (&["a", ""], "a"),
            (&["", "b"], "b"),
            (&["a/", "../b"], "b"),
            (&["..", "b"], "../b"),
            (&["a//./c", "b/"], "a/c/b"),
            (&["env:", "blue", "k"], "env:/blue/k"),
        ] {
            assert_eq!(join(parts), expected, "{parts:?}");
        }
    }

    #[test]
    fn paths_are_expanded_as_go_expands_them() {
        let env = [("HOME", "/home/u"), ("X_1", "v")].into_iter().collect();
        for (path, expected) in [
            ("plain", "plain"),
            ("~/aws", "/home/u/aws"),
            ("~", "/home/u"),
            ("~other/aws", "~other/aws"),
            ("$HOME/aws", "/home/u/aws"),
            ("${X_1}y/$X_1-$UNSET.", "vy/v-."),
            ("a$/b", "a$/b"),
            ("a$", "a$"),
        ] {
            assert_eq!(expand(path, &env), expected, "{path}");
        }
    }
}
