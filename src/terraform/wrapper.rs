//! The Node script that setup-terraform and setup-opentofu put on PATH in place of the program. It passes no signal on
//! and dies of the first one, and the program behind it with a broken pipe.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::files;
use crate::model::{Product, product};

/// The program behind the wrapper, if `program` is one.
#[must_use]
pub fn behind_wrapper(program: &OsStr, env: &HashMap<OsString, OsString>) -> Option<PathBuf> {
    // The names and variables of setup-terraform's `wrapper/lib/terraform-bin.js` and setup-opentofu's `tofu-bin.js`.
    let (name, variable) = match product(program)? {
        Product::Terraform => ("terraform-bin", "TERRAFORM_CLI_PATH"),
        Product::OpenTofu => ("tofu-bin", "TOFU_CLI_PATH"),
    };
    let wrapper = on_path(program, env)?;
    if !is_node_script(&wrapper) {
        return None;
    }
    let named = env.get(OsStr::new(variable)).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    named
        .into_iter()
        .chain(wrapper.parent().map(Path::to_owned))
        .map(|dir| dir.join(name))
        .find(|path| is_program(path))
}

/// Finds a program as the system does.
pub fn on_path(program: &OsStr, env: &HashMap<OsString, OsString>) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let path = env.get(OsStr::new("PATH"))?;
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|path| is_program(path))
}

/// Whether a path is a file that can be executed by somebody.
pub fn is_program(path: &Path) -> bool {
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
        let env = |variables: &[(&str, &Path)]| {
            variables.iter().map(|(name, value)| (OsString::from(name), value.as_os_str().to_owned())).collect()
        };
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
