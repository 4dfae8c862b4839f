//! What Terraform's command line and environment say about directory and workspace.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::Surroundings;

/// The directory of Terraform's global option `-chdir`, if `args` (without the program) have it.
///
/// As Terraform reads it (`extractChdirOption` in its `main.go`): only in the form `-chdir=DIR` and only before the
/// subcommand; the last one counts.
pub fn chdir(args: &[OsString]) -> Option<PathBuf> {
    args.iter()
        .map(|arg| arg.as_bytes())
        .take_while(|arg| arg.starts_with(b"-"))
        .filter_map(|arg| arg.strip_prefix(b"-chdir="))
        .filter(|dir| !dir.is_empty())
        .last()
        .map(|dir| PathBuf::from(OsString::from_vec(dir.to_vec())))
}

/// The directory in which Terraform keeps its own data: `TF_DATA_DIR`, else `.terraform`.
pub(super) fn data_dir(surroundings: &Surroundings) -> PathBuf {
    let named = surroundings.env.get(OsStr::new("TF_DATA_DIR")).filter(|dir| !dir.is_empty());
    surroundings.dir.join(named.map_or(OsStr::new(".terraform"), OsString::as_os_str))
}

/// The selected workspace: `TF_WORKSPACE`, else the file `environment` in Terraform's data directory, else `default`.
pub fn workspace(surroundings: &Surroundings) -> String {
    if let Some(named) = surroundings.var("TF_WORKSPACE") {
        return named.to_owned();
    }
    let recorded = std::fs::read_to_string(data_dir(surroundings).join("environment")).unwrap_or_default();
    match recorded.trim() {
        "" => "default".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chdir_is_read_as_terraform_reads_it() {
        let cases: [(&[&str], Option<&str>); 9] = [
            (&["plan"], None),
            (&["-chdir=infra", "plan"], Some("infra")),
            (&["-help", "-chdir=infra", "plan"], Some("infra")),
            (&["-chdir=a", "-chdir=/b", "plan"], Some("/b")),
            (&["plan", "-chdir=infra"], None),
            (&["-chdir", "infra", "plan"], None),
            (&["-chdir=", "plan"], None),
            (&["--chdir=infra", "plan"], None),
            (&[], None),
        ];
        for (args, expected) in cases {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(chdir(&args), expected.map(PathBuf::from), "{args:?}");
        }
    }

    #[test]
    fn the_workspace_comes_from_the_environment_then_from_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let of = |env: &[(&str, &str)]| {
            let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
            workspace(&Surroundings { dir: dir.path().to_owned(), env })
        };
        assert_eq!(of(&[]), "default");
        std::fs::create_dir_all(dir.path().join(".terraform")).unwrap();
        std::fs::write(dir.path().join(".terraform/environment"), "blue\n").unwrap();
        std::fs::create_dir_all(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/environment"), " \n").unwrap();
        assert_eq!(of(&[]), "blue");
        assert_eq!(of(&[("TF_WORKSPACE", "")]), "blue");
        assert_eq!(of(&[("TF_WORKSPACE", "green")]), "green");
        assert_eq!(of(&[("TF_DATA_DIR", "data")]), "default");
    }
}
