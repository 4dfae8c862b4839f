//! What Terraform's command line and environment say about directory, workspace and plan file.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::aws::Surroundings;
use crate::files;

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

/// The flags of `apply` whose value may be the next word, in any Terraform from 0.13 to 1.15 or OpenTofu from 1.6 to
/// 1.12 (`ParseApply` and `extendedFlagSet` in `internal/command/arguments`). All others are switches.
const APPLY_FLAGS_WITH_VALUE: &[&str] = &[
    "backup",
    "exclude",
    "exclude-file",
    "invoke",
    "json-into",
    "lock-timeout",
    "parallelism",
    "replace",
    "state",
    "state-out",
    "target",
    "target-file",
    "var",
    "var-file",
];

/// The plan file that a Terraform applies which was started with `args` (without the program), if it does: the word
/// behind the flags of `apply`, be they typed or from `TF_CLI_ARGS` and `TF_CLI_ARGS_apply`. A directory there is none.
///
/// The subcommand is looked for anywhere, because a Terraform can be embedded in a program with words of its own.
pub fn plan_file(args: &[OsString], surroundings: &Surroundings) -> Option<PathBuf> {
    let path = surroundings.dir.join(first_operand(words("apply", args, surroundings)?.into_iter())?);
    (!path.is_dir()).then_some(path)
}

/// What stands behind a subcommand: typed, and from variables, in Terraform's order. None if it is another one.
fn words(subcommand: &str, args: &[OsString], surroundings: &Surroundings) -> Option<Vec<OsString>> {
    let at = args.iter().position(|word| word == subcommand)?;
    let extra = |name: &str| {
        // What cannot be split makes Terraform itself refuse to run.
        let words = surroundings.var(name).and_then(|text| shell_words::split(text).ok()).unwrap_or_default();
        words.into_iter().map(OsString::from)
    };
    // Terraform puts them right behind the subcommand, this one's own first (`mergeEnvArgs` in its `main.go`).
    let extra = extra(&format!("TF_CLI_ARGS_{subcommand}")).chain(extra("TF_CLI_ARGS"));
    Some(extra.chain(args[at + 1..].iter().cloned()).collect())
}

/// The first word that belongs to no flag, as Go's `flag` package finds it.
fn first_operand(mut words: impl Iterator<Item = OsString>) -> Option<OsString> {
    loop {
        let word = words.next()?;
        let bytes = word.as_bytes();
        if bytes == b"--" {
            return words.next();
        }
        let Some(flag) = bytes.strip_prefix(b"-").filter(|flag| !flag.is_empty()) else { return Some(word) };
        let name = flag.strip_prefix(b"-").unwrap_or(flag);
        // With `=` the value is in the same word, and the name is none of these.
        if APPLY_FLAGS_WITH_VALUE.iter().any(|with_value| with_value.as_bytes() == name) {
            words.next();
        }
    }
}

/// The directory in which Terraform keeps its own data: `TF_DATA_DIR`, else `.terraform`.
pub(crate) fn data_dir(surroundings: &Surroundings) -> PathBuf {
    let named = surroundings.env.get(OsStr::new("TF_DATA_DIR")).filter(|dir| !dir.is_empty());
    surroundings.dir.join(named.map_or(OsStr::new(".terraform"), OsString::as_os_str))
}

/// No file with the name of a workspace has more bytes.
const LARGEST_NAME: u64 = 64 * 1024;

/// The selected workspace: `TF_WORKSPACE`, else the file `environment` in Terraform's data directory, else `default`.
pub fn workspace(surroundings: &Surroundings) -> String {
    if let Some(named) = surroundings.var("TF_WORKSPACE") {
        return named.to_owned();
    }
    let recorded = files::read_path(&data_dir(surroundings).join("environment"), LARGEST_NAME).unwrap_or_default();
    match String::from_utf8(recorded).unwrap_or_default().trim() {
        "" => "default".to_owned(),
        name => name.to_owned(),
    }
}

/// Where its arguments lead a Terraform.
impl Surroundings {
    /// The surroundings of a Terraform that is started in `cwd` with `args` (without the program).
    pub fn of_command(cwd: &Path, args: &[OsString], env: HashMap<OsString, OsString>) -> Self {
        Self { dir: chdir(args).map_or_else(|| cwd.to_owned(), |dir| cwd.join(dir)), env }
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
    fn the_plan_file_is_found_where_terraform_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("modules")).unwrap();
        type Env<'a> = &'a [(&'a str, &'a str)];
        let cases: &[(&[&str], Env, Option<&str>)] = &[
            (&["apply"], &[], None),
            (&["apply", "p"], &[], Some("p")),
            (&["apply", "-auto-approve", "-lock=false", "p"], &[], Some("p")),
            (&["-chdir=x", "apply", "-var", "p", "q"], &[], Some("q")),
            (&["apply", "-var", "p"], &[], None),
            (&["apply", "--var=a=b", "-target", "p", "-no-color", "q"], &[], Some("q")),
            // Taken away from wherever it stands (`ParseView`).
            (&["apply", "p", "-no-color"], &[], Some("p")),
            (&["apply", "--", "-p"], &[], Some("-p")),
            (&["apply", "-"], &[], Some("-")),
            (&["apply", "modules"], &[], None),
            (&["apply", "/srv/p"], &[], Some("/srv/p")),
            (&["apply"], &[("TF_CLI_ARGS", "-var 'a b' 'my plan'")], Some("my plan")),
            (&["apply"], &[("TF_CLI_ARGS_apply", "-no-color p")], Some("p")),
            (&["apply", "q"], &[("TF_CLI_ARGS_apply", "-target=a"), ("TF_CLI_ARGS", "-target b")], Some("q")),
            (&["apply", "q"], &[("TF_CLI_ARGS_plan", "p"), ("TF_CLI_ARGS", "it's torn")], Some("q")),
            (&["apply", "x"], &[("TF_CLI_ARGS", "-var")], None),
            (&["plan"], &[("TF_CLI_ARGS", "p")], None),
            (&["destroy", "p"], &[], None),
            (&["-I", "terraform.py", "apply", "p"], &[], Some("p")),
            (&[], &[], None),
        ];
        for (args, env, expected) in cases {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let surroundings = Surroundings {
                dir: dir.path().to_owned(),
                env: env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            };
            let expected = expected.map(|path| dir.path().join(path));
            assert_eq!(plan_file(&args, &surroundings), expected, "{args:?} {env:?}");
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
