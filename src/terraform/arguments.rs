//! What Terraform's arguments say, typed or from `TF_CLI_ARGS`: where it runs, which plan it applies, what it locks.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::aws::Surroundings;
use crate::model::{Environment, MIGRATION, product};
use crate::terraform::directory::workspace;

/// Variable from which Terraform takes more arguments for every command; with `_<command>` behind it, for that one.
const EXTRA_ARGUMENTS: &str = "TF_CLI_ARGS";

/// The `Operation` of the lock under which some backends make the state of a new workspace, before the lock for the work.
pub const INIT: &str = "init";

/// The flags of `apply`, and of the commands on workspaces, whose value may be the next word, in any Terraform from 0.13 to
/// 1.15 or OpenTofu from 1.6 to 1.12 (`ParseApply` and `extendedFlagSet` in `internal/command/arguments`). All others are
/// switches.
const FLAGS_WITH_VALUE: &[&str] = &[
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

/// A command with its arguments, in the order in which Terraform reads them.
struct Reading {
    /// Where the words of the subcommand end.
    behind: usize,
    /// The subcommand, such as `apply` or `state mv`.
    subcommand: String,
    /// Arguments and where they come from. Of a flag given twice, Go takes the last.
    arguments: Vec<(OsString, String)>,
    /// The word behind `--`, which ends the flags.
    behind_dashes: Option<OsString>,
}

impl Reading {
    /// Reads `command`, program first. None without a subcommand.
    fn of(command: &[OsString], env: &Environment) -> Option<Self> {
        let is_flag = |word: &&OsString| word.as_bytes().starts_with(b"-");
        let at = 1 + command.iter().skip(1).position(|word| !is_flag(&word))?;
        let first = command[at].to_string_lossy();
        let second = command.get(at + 1).filter(|word| !is_flag(word)).map(|word| word.to_string_lossy());
        let (behind, subcommand) = match second {
            Some(second) if matches!(&*first, "state" | "workspace") => (at + 2, format!("{first} {second}")),
            _ => (at + 1, first.into_owned()),
        };
        Some(Self::behind(subcommand, behind, command, env))
    }

    /// Reads what stands behind the words of a subcommand.
    fn behind(subcommand: String, behind: usize, words: &[OsString], env: &Environment) -> Self {
        // Both are put right behind the subcommand, this one's own first (`mergeEnvArgs` in Terraform's main.go).
        let own = format!("{EXTRA_ARGUMENTS}_{}", subcommand.replace([' ', '-'], "_"));
        let extra = [own.as_str(), EXTRA_ARGUMENTS].into_iter().flat_map(|name| {
            let words = env.get(name).map(split).unwrap_or_default();
            words.into_iter().map(move |word| (word, format!("in {name}")))
        });
        let typed = words[behind..].iter().map(|word| (word.clone(), "on the command line".to_owned()));
        let mut arguments: Vec<_> = extra.chain(typed).collect();
        let end = arguments.iter().position(|(word, _)| word == "--").unwrap_or(arguments.len());
        let behind_dashes = arguments.get(end + 1).map(|(word, _)| word.clone());
        arguments.truncate(end);
        Self { behind, subcommand, arguments, behind_dashes }
    }

    /// The last value of a flag, and where it stands. Empty where it has none.
    fn flag(&self, name: &str) -> Option<(&[u8], &str)> {
        self.arguments.iter().rev().find_map(|(word, from)| Some((value(word, name)?, from.as_str())))
    }

    /// Whether a flag that can be given without a value is on.
    fn is_on(&self, name: &str) -> bool {
        self.flag(name).is_some_and(|(value, _)| !is_false(value))
    }

    /// The first word that belongs to no flag, as Go's `flag` package finds it.
    fn operand(&self) -> Option<&OsStr> {
        let mut words = self.arguments.iter().map(|(word, _)| word.as_os_str());
        loop {
            let Some(word) = words.next() else { return self.behind_dashes.as_deref() };
            let Some(flag) = word.as_bytes().strip_prefix(b"-").filter(|flag| !flag.is_empty()) else {
                return Some(word);
            };
            let name = flag.strip_prefix(b"-").unwrap_or(flag);
            // With `=` the value is in the same word, and the name is none of these.
            if FLAGS_WITH_VALUE.iter().any(|with_value| with_value.as_bytes() == name) {
                words.next();
            }
        }
    }
}

/// The words of a variable. What cannot be split makes Terraform itself refuse to run.
fn split(text: &OsStr) -> Vec<OsString> {
    let words = text.to_str().and_then(|text| shell_words::split(text).ok()).unwrap_or_default();
    words.into_iter().map(OsString::from).collect()
}

/// The value in a word that is this flag.
fn value<'a>(word: &'a OsStr, flag: &str) -> Option<&'a [u8]> {
    let word = word.as_bytes().strip_prefix(b"-")?;
    match word.strip_prefix(b"-").unwrap_or(word).strip_prefix(flag.as_bytes())? {
        [] => Some(b""),
        [b'=', value @ ..] => Some(value),
        _ => None,
    }
}

/// As Go's `strconv.ParseBool` reads it.
fn is_false(value: &[u8]) -> bool {
    matches!(value, b"0" | b"f" | b"F" | b"false" | b"False" | b"FALSE")
}

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

/// Where its arguments lead a Terraform.
impl Surroundings {
    /// The surroundings of a Terraform that is started in `cwd` with `args` (without the program).
    pub fn of_command(cwd: &Path, args: &[OsString], env: Environment) -> Self {
        Self { dir: chdir(args).map_or_else(|| cwd.to_owned(), |dir| cwd.join(dir)), env }
    }
}

/// The plan file that a Terraform applies which was started with `args` (without the program), if it does: the word
/// behind the flags of `apply`, be they typed or from `TF_CLI_ARGS` and `TF_CLI_ARGS_apply`. A directory there is none.
///
/// The subcommand is looked for anywhere, because a Terraform can be embedded in a program with words of its own.
pub fn plan_file(args: &[OsString], surroundings: &Surroundings) -> Option<PathBuf> {
    let at = args.iter().position(|word| word == "apply")?;
    let reading = Reading::behind("apply".to_owned(), at + 1, args, &surroundings.env);
    let path = surroundings.dir.join(reading.operand()?);
    (!path.is_dir()).then_some(path)
}

/// The subcommand, such as `apply` or `state mv`; none without one.
#[must_use]
pub fn subcommand(command: &[OsString]) -> Option<String> {
    Some(Reading::of(command, &Environment::default())?.subcommand)
}

/// Where `-lock=false` stands, if it does and no later argument takes it back. Of a command that is no Terraform only
/// the variables are known, which the Terraforms that it starts will read.
#[must_use]
pub fn lock_disabled(command: &[OsString], env: &Environment) -> Option<String> {
    if product(command.first()?).is_some() {
        let reading = Reading::of(command, env)?;
        let (value, from) = reading.flag("lock")?;
        return is_false(value).then(|| from.to_owned());
    }
    let turns_off = |(name, text): &(&OsStr, &OsStr)| {
        name.as_bytes().starts_with(EXTRA_ARGUMENTS.as_bytes())
            && split(text).iter().rev().find_map(|word| value(word, "lock")).is_some_and(is_false)
    };
    env.iter().filter(turns_off).map(|(name, _)| format!("in {}", name.to_string_lossy())).min()
}

/// Adds Terraform's own `-lock-timeout` to a command that takes it (`internal/command/*.go`, Terraform 1.6 to 1.15 and
/// OpenTofu alike), unless the user gave one.
pub fn with_lock_timeout(command: &mut Vec<OsString>, env: &Environment, timeout: Duration) {
    if command.first().is_none_or(|program| product(program).is_none()) {
        return;
    }
    let Some(reading) = Reading::of(command, env) else { return };
    let takes_one = match reading.subcommand.as_str() {
        "init" => true,
        "console" | "query" => false,
        name => !operations(name).0.is_empty(),
    };
    if takes_one && reading.flag("lock-timeout").is_none() {
        command.insert(reading.behind, format!("-lock-timeout={}ms", timeout.as_millis()).into());
    }
}

/// The `Operation`s of the locks that a subcommand takes for its work (`internal/command/*.go`), and whether it makes the
/// state of a workspace that has none.
fn operations(subcommand: &str) -> (&'static [&'static str], bool) {
    match subcommand {
        "plan" | "query" => (&["OperationTypePlan"], true),
        "apply" | "destroy" => (&["OperationTypeApply"], true),
        "refresh" => (&["OperationTypeRefresh"], true),
        "import" | "console" => (&["OperationTypeInvalid"], true),
        "taint" => (&["taint"], true),
        "untaint" => (&["untaint"], true),
        "state mv" => (&["state-mv"], true),
        "state rm" => (&["state-rm"], true),
        "state push" => (&["state-push"], true),
        "state replace-provider" => (&["state-replace-provider"], true),
        "workspace new" => (&["workspace-new"], true),
        // Sic, from 0.15 on.
        "workspace delete" => (&["state-replace-provider", "workspace_delete"], false),
        "init" | "graph" | "output" | "providers" | "show" | "state list" | "state pull" | "state show" => (&[], true),
        _ => (&[], false),
    }
}

/// Whether a command surely takes no lock, so that it may run without a guard: it never looks at a state, or reads one.
///
/// The S3 backend takes a hidden lock (`init`) for whatever reads the state of a workspace that has none yet, so reading
/// is lockless only in the workspace `default`, of which it takes none.
#[must_use]
pub fn takes_no_lock(command: &[OsString], cwd: &Path, env: &Environment) -> bool {
    let Some((program, arguments)) = command.split_first() else { return false };
    if product(program).is_none() {
        return false;
    }
    const HELP: [&str; 5] = ["-help", "--help", "-h", "-version", "--version"];
    if arguments.iter().any(|word| HELP.iter().any(|help| word == help)) {
        return true;
    }
    let Some(name) = subcommand(command) else { return true };
    let reads = match name.as_str() {
        "fmt" | "get" | "validate" | "version" => return true,
        "workspace list" | "workspace show" => true,
        "init" => false,
        name => operations(name) == (&[], true),
    };
    reads && workspace(&Surroundings::of_command(cwd, arguments, env.clone())) == "default"
}

/// What a command takes locks for (the `Operation`s in `internal/command/*.go`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// The workspace whose state it locks, where its arguments name one. Else it is the selected one's.
    pub workspace: Option<String>,
    /// The `Operation` of the locks that it takes for its work; none with `-lock=false`.
    pub operations: &'static [&'static str],
    /// It makes a state that is not there, under a lock of its own ([`INIT`]), whatever `-lock` says.
    pub makes: bool,
    /// It waits for a lock that is held (`-lock-timeout`) in place of ending.
    pub waits: bool,
    /// It is an `init`, which moves a state if it is told to or somebody says yes, under the locks of both backends
    /// ([`MIGRATION`], `internal/command/meta_backend_migrate.go`).
    pub may_move: bool,
    /// It is told to.
    pub moves: bool,
}

impl Purpose {
    /// Reads a command line, program first, and the environment. `None`: it takes no lock.
    ///
    /// Whatever looks like `-lock-timeout` counts, wherever it stands: a lock that was still waited for is not the
    /// child's.
    #[must_use]
    pub fn read(command: &[OsString], env: &Environment) -> Option<Self> {
        let reading = Reading::of(command, env)?;
        let locks = reading.flag("lock").is_none_or(|(value, _)| !is_false(value));
        let (operations, makes) = match reading.subcommand.as_str() {
            "workspace select" => (&[][..], reading.is_on("or-create")),
            name => operations(name),
        };
        let may_move = reading.subcommand == "init" && locks;
        let moves = may_move && ["migrate-state", "force-copy"].iter().any(|flag| reading.is_on(flag));
        let operations = if locks { operations } else { &[] };
        if operations.is_empty() && !makes {
            return None;
        }
        let named = reading.operand().filter(|_| reading.subcommand.starts_with("workspace "));
        Some(Self {
            workspace: named.map(|name| name.to_string_lossy().into_owned()),
            operations,
            makes,
            waits: reading.flag("lock-timeout").is_some(),
            may_move,
            moves,
        })
    }

    /// Whether a lock of this `Operation` can be its own.
    #[must_use]
    pub fn takes(&self, operation: &str) -> bool {
        self.operations.contains(&operation)
            || (self.makes && operation == INIT)
            || (self.may_move && MIGRATION.contains(&operation))
    }

    /// Whether it takes a lock for its work, or to make the state of a workspace. That of `default` the S3 backend makes
    /// without one.
    #[must_use]
    pub fn locks(&self, workspace: &str) -> bool {
        !self.operations.is_empty() || self.moves || workspace != "default"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Product;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn env(variables: &[(&str, &str)]) -> Environment {
        variables.iter().copied().collect()
    }

    #[test]
    fn programs_are_known_by_their_names() {
        for (name, expected) in [
            ("terraform", Some(Product::Terraform)),
            ("/usr/bin/terraform", Some(Product::Terraform)),
            ("terraform-bin", Some(Product::Terraform)),
            ("terraform_v1.5.7", Some(Product::Terraform)),
            ("tofu", Some(Product::OpenTofu)),
            ("./tofu-1.9.0", Some(Product::OpenTofu)),
            ("terraform-docs", None),
            ("terragrunt", None),
            ("tofuenv", None),
            ("terraform.sh", None),
            ("sh", None),
        ] {
            assert_eq!(product(OsStr::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn lock_false_is_found_wherever_it_stands_and_the_last_word_counts() {
        let on = "on the command line";
        type Case = (&'static [&'static str], &'static [(&'static str, &'static str)], Option<&'static str>);
        let cases: &[Case] = &[
            (&["terraform", "apply"], &[], None),
            (&["terraform", "apply", "-lock=false"], &[], Some(on)),
            (&["terraform", "-chdir=x", "apply", "--lock=0"], &[], Some(on)),
            (&["terraform", "state", "rm", "-lock=F", "a.b"], &[], Some(on)),
            (&["terraform", "apply", "-lock=true"], &[], None),
            (&["terraform", "apply", "-lock"], &[], None),
            (&["terraform", "apply", "-lock=false", "-lock=true"], &[], None),
            (&["terraform", "apply", "--", "-lock=false"], &[], None),
            (&["terraform", "apply", "-lock-timeout=0"], &[], None),
            (&["terraform", "apply"], &[("TF_CLI_ARGS", "-no-color '-lock=false'")], Some("in TF_CLI_ARGS")),
            (&["terraform", "apply"], &[("TF_CLI_ARGS_apply", "-lock=false")], Some("in TF_CLI_ARGS_apply")),
            (&["terraform", "plan"], &[("TF_CLI_ARGS_apply", "-lock=false")], None),
            (
                &["tofu", "state", "mv", "a", "b"],
                &[("TF_CLI_ARGS_state_mv", "-lock=false")],
                Some("in TF_CLI_ARGS_state_mv"),
            ),
            (&["terraform", "apply", "-lock=true"], &[("TF_CLI_ARGS", "-lock=false")], None),
            (&["terraform", "apply"], &[("TF_CLI_ARGS_apply", "-lock=false"), ("TF_CLI_ARGS", "-lock=true")], None),
            (&["terraform", "apply"], &[("TF_CLI_ARGS", "it's torn -lock=false")], None),
            (&["terraform"], &[], None),
            (&["sh", "-c", "terraform apply -lock=false"], &[], None),
            (&["terragrunt", "apply"], &[("TF_CLI_ARGS_apply", "-lock=false")], Some("in TF_CLI_ARGS_apply")),
        ];
        for (command, variables, expected) in cases {
            let found = lock_disabled(&words(command), &env(variables));
            assert_eq!(found.as_deref(), *expected, "{command:?} {variables:?}");
        }
    }

    #[test]
    fn a_lock_timeout_is_added_where_terraform_takes_one_and_nobody_gave_one() {
        let with = |command: &[&str], variables: &[(&str, &str)]| {
            let mut command = words(command);
            with_lock_timeout(&mut command, &env(variables), Duration::from_secs(90));
            command.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(with(&["terraform", "apply", "x"], &[]), "terraform apply -lock-timeout=90000ms x");
        assert_eq!(
            with(&["terraform", "-chdir=a", "state", "mv", "a", "b"], &[]),
            "terraform -chdir=a state mv -lock-timeout=90000ms a b"
        );
        for (command, variables) in [
            (&["terraform", "apply", "-lock-timeout=1s"][..], &[][..]),
            (&["terraform", "apply"], &[("TF_CLI_ARGS", "-lock-timeout=1s")]),
            (&["terraform", "output"], &[]),
            (&["terraform", "state", "list"], &[]),
            (&["terraform"], &[]),
            (&["terraform", "-version"], &[]),
            (&["terragrunt", "apply"], &[]),
        ] {
            assert_eq!(with(command, variables), command.join(" "));
        }
    }

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
            let surroundings = Surroundings { dir: dir.path().to_owned(), env: env.iter().copied().collect() };
            let expected = expected.map(|path| dir.path().join(path));
            assert_eq!(plan_file(&args, &surroundings), expected, "{args:?} {env:?}");
        }
    }

    fn read(line: &str, env: &[(&str, &str)]) -> Option<Purpose> {
        let command: Vec<OsString> = format!("terraform {line}").split(' ').map(OsString::from).collect();
        let env = env.iter().copied().collect();
        Purpose::read(&command, &env)
    }

    #[test]
    fn commands_and_their_operations() {
        for (line, operation, workspace, makes) in [
            ("-chdir=x apply -auto-approve", Some("OperationTypeApply"), None, true),
            ("destroy", Some("OperationTypeApply"), None, true),
            ("plan -lock=true", Some("OperationTypePlan"), None, true),
            ("state mv -lock=true a b", Some("state-mv"), None, true),
            ("workspace new -lock-timeout 5s -lock=true blue", Some("workspace-new"), Some("blue"), true),
            ("workspace new -- blue", Some("workspace-new"), Some("blue"), true),
            ("workspace delete -force blue", Some("state-replace-provider"), Some("blue"), false),
            ("workspace select -or-create blue", None, Some("blue"), true),
            ("plan -lock=false", None, None, true),
            ("output -json", None, None, true),
            ("init", None, None, true),
        ] {
            let purpose = read(line, &[]).unwrap_or_else(|| panic!("{line}"));
            let found = (purpose.operations.first().copied(), purpose.workspace.as_deref(), purpose.makes);
            assert_eq!(found, (operation, workspace, makes), "{line}");
            assert_eq!(purpose.locks("default"), operation.is_some(), "{line}");
            assert!(purpose.locks("blue") && !purpose.moves, "{line}");
        }
        for none in ["workspace select blue", "workspace delete -lock=false blue", "version", "-help", "force-unlock x"]
        {
            assert_eq!(read(none, &[]), None, "{none}");
        }
    }

    #[test]
    fn an_init_that_moves_a_state_is_told_from_one_that_does_not() {
        let moves = |line: &str, env: &[(&str, &str)]| read(line, env).is_some_and(|purpose| purpose.moves);
        assert!(moves("init -migrate-state", &[]) && moves("-chdir=x init --force-copy", &[]));
        assert!(moves("init", &[("TF_CLI_ARGS_init", "-migrate-state")]));
        assert!(!moves("init -reconfigure", &[]) && !moves("apply -migrate-state", &[]));
        assert!(!moves("init -migrate-state -lock=false", &[]) && !moves("init -migrate-state=false", &[]));
    }

    #[test]
    fn what_turns_the_lock_off_or_lets_it_wait_is_seen_wherever_it_is() {
        let works = |line: &str, env: &[(&str, &str)]| !read(line, env).unwrap().operations.is_empty();
        for off in ["-lock=false", "--lock=f", "-lock=0"] {
            assert!(!works(&format!("apply {off}"), &[]) && !works("apply", &[("TF_CLI_ARGS", off)]));
            assert!(!works("apply", &[("TF_CLI_ARGS_apply", &format!("-x=1 '{off}'"))]));
            assert!(works("apply", &[("TF_CLI", off), ("TF_CLI_ARGS_plan", off)]));
        }
        let waits = |line: &str, env: &[(&str, &str)]| read(line, env).unwrap().waits;
        assert!(waits("apply -lock-timeout=5m", &[]) && waits("apply -lock-timeout 5m", &[]));
        assert!(waits("apply", &[("TF_CLI_ARGS_apply", "-lock-timeout=5m")]));
        assert!(!waits("apply -lock=true", &[("TF_CLI_ARGS", "-no-color")]));
    }

    fn lockless(line: &str, env: &[(&str, &str)]) -> bool {
        let command: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let env = env.iter().copied().collect();
        takes_no_lock(&command, Path::new("/nonexistent"), &env)
    }

    #[test]
    fn only_what_surely_takes_no_lock_goes_without_a_guard() {
        for line in [
            "terraform version",
            "terraform fmt -check",
            "terraform -chdir=x validate",
            "tofu output -raw x",
            "terraform show tfplan",
            "terraform state list",
            "terraform state pull",
            "terraform providers lock",
            "terraform workspace list",
            "terraform",
            "terraform -help",
            "terraform apply -help",
            "/usr/bin/terraform-bin graph",
        ] {
            assert!(lockless(line, &[]), "{line}");
        }
        for line in [
            "terraform apply",
            "terraform plan",
            "terraform destroy",
            "terraform init",
            "terraform refresh",
            "terraform import a b",
            "terraform state rm a",
            "terraform state mv a b",
            "terraform state push x",
            "terraform workspace new x",
            "terraform workspace delete x",
            "terraform taint a",
            "terraform console",
            "terraform test",
            "terraform force-unlock x",
            "terraform login",
            "terraform made-up",
            "sh -c version",
            "terragrunt output",
        ] {
            assert!(!lockless(line, &[]), "{line}");
        }
    }

    /// `terraform output` in a new workspace takes the lock `init` for a moment.
    #[test]
    fn reading_in_another_workspace_is_guarded() {
        assert!(!lockless("terraform output", &[("TF_WORKSPACE", "staging")]));
        assert!(lockless("terraform output", &[("TF_WORKSPACE", "default")]));
        assert!(lockless("terraform fmt", &[("TF_WORKSPACE", "staging")]));
    }
}
