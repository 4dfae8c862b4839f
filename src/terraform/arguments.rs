//! What Terraform's arguments say of locking, wherever they come from.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use crate::model::product;

/// Variable from which Terraform takes more arguments for every command; with `_<command>` behind it, for that one.
const EXTRA_ARGUMENTS: &str = "TF_CLI_ARGS";

/// The commands that take `-lock-timeout` (`internal/command/*.go`, Terraform 1.6 to 1.15 and OpenTofu alike).
const LOCKING: &[&str] = &[
    "apply",
    "destroy",
    "import",
    "init",
    "plan",
    "refresh",
    "state mv",
    "state push",
    "state replace-provider",
    "state rm",
    "taint",
    "untaint",
    "workspace delete",
    "workspace new",
];

/// The flags of the commands that lock a workspace's state whose value may be the next word.
const FLAGS_WITH_VALUE: &[&str] = &["lock-timeout", "state"];

/// A command with its arguments, in the order in which Terraform reads them.
pub(crate) struct Reading {
    /// Where the words of the subcommand end.
    behind: usize,
    /// The subcommand, such as `apply` or `state mv`.
    pub(crate) subcommand: String,
    /// Arguments and where they come from. Of a flag given twice, Go takes the last.
    arguments: Vec<(String, String)>,
    /// The word behind `--`, which ends the flags.
    behind_dashes: Option<String>,
}

impl Reading {
    /// Reads `command`, program first. None without a subcommand.
    pub(crate) fn of(command: &[OsString], env: &HashMap<OsString, OsString>) -> Option<Self> {
        let is_flag = |word: &&OsString| word.to_string_lossy().starts_with('-');
        let at = 1 + command.iter().skip(1).position(|word| !is_flag(&word))?;
        let first = command[at].to_string_lossy();
        let second = command.get(at + 1).filter(|word| !is_flag(word)).map(|word| word.to_string_lossy());
        let (behind, subcommand) = match second {
            Some(second) if matches!(&*first, "state" | "workspace") => (at + 2, format!("{first} {second}")),
            _ => (at + 1, first.into_owned()),
        };
        // Both are put right behind the subcommand, this one's own first (`mergeEnvArgs` in Terraform's main.go).
        let own = format!("{EXTRA_ARGUMENTS}_{}", subcommand.replace([' ', '-'], "_"));
        let mut arguments = Vec::new();
        for name in [own.as_str(), EXTRA_ARGUMENTS] {
            let text = env.get(OsStr::new(name)).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
            // What cannot be split makes Terraform itself refuse to run.
            let words = shell_words::split(&text).unwrap_or_default();
            arguments.extend(words.into_iter().map(|word| (word, format!("in {name}"))));
        }
        let typed = command[behind..].iter().map(|word| word.to_string_lossy().into_owned());
        arguments.extend(typed.map(|word| (word, "on the command line".to_owned())));
        let end = arguments.iter().position(|(word, _)| word == "--").unwrap_or(arguments.len());
        let behind_dashes = arguments.get(end + 1).map(|(word, _)| word.clone());
        arguments.truncate(end);
        Some(Self { behind, subcommand, arguments, behind_dashes })
    }

    /// The last value of a flag, and where it stands. Empty where it has none.
    pub(crate) fn flag(&self, name: &str) -> Option<(&str, &str)> {
        self.arguments.iter().rev().find_map(|(word, from)| {
            let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
            let (found, value) = flag.split_once('=').unwrap_or((flag, ""));
            (found == name).then_some((value, from.as_str()))
        })
    }

    /// Whether a flag that can be given without a value is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.flag(name).is_some_and(|(value, _)| !is_false(value))
    }

    /// The first word that belongs to no flag.
    pub(crate) fn operand(&self) -> Option<&str> {
        let mut words = self.arguments.iter().map(|(word, _)| word.as_str());
        loop {
            let Some(word) = words.next() else { return self.behind_dashes.as_deref() };
            let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else { return Some(word) };
            if FLAGS_WITH_VALUE.contains(&flag.strip_prefix('-').unwrap_or(flag)) {
                words.next();
            }
        }
    }
}

/// The subcommand, such as `apply` or `state mv`; none without one.
#[must_use]
pub fn subcommand(command: &[OsString]) -> Option<String> {
    Some(Reading::of(command, &HashMap::new())?.subcommand)
}

/// Where `-lock=false` stands, if it does and no later argument takes it back. Of a command that is no Terraform only
/// the variables are known, which the Terraforms that it starts will read.
#[must_use]
pub fn lock_disabled(command: &[OsString], env: &HashMap<OsString, OsString>) -> Option<String> {
    let program = command.first()?;
    if product(program).is_some() {
        let reading = Reading::of(command, env)?;
        let (value, from) = reading.flag("lock")?;
        return is_false(value).then(|| from.to_owned());
    }
    let mut variables: Vec<_> = env
        .iter()
        .filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with(EXTRA_ARGUMENTS)))
        .filter(|(_, text)| {
            let words = shell_words::split(&text.to_string_lossy()).unwrap_or_default();
            let arguments = words.into_iter().map(|word| (word, String::new())).collect();
            let reading = Reading { behind: 0, subcommand: String::new(), arguments, behind_dashes: None };
            reading.flag("lock").is_some_and(|(value, _)| is_false(value))
        })
        .map(|(name, _)| format!("in {}", name.to_string_lossy()))
        .collect();
    variables.sort();
    variables.into_iter().next()
}

/// As Go's `strconv.ParseBool` reads it.
pub(crate) fn is_false(value: &str) -> bool {
    matches!(value, "0" | "f" | "F" | "false" | "False" | "FALSE")
}

/// Adds Terraform's own `-lock-timeout` to a command that takes it, unless the user gave one.
pub fn with_lock_timeout(command: &mut Vec<OsString>, env: &HashMap<OsString, OsString>, timeout: Duration) {
    if command.first().is_none_or(|program| product(program).is_none()) {
        return;
    }
    let Some(reading) = Reading::of(command, env) else { return };
    if LOCKING.contains(&reading.subcommand.as_str()) && reading.flag("lock-timeout").is_none() {
        command.insert(reading.behind, format!("-lock-timeout={}ms", timeout.as_millis()).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Product;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn env(variables: &[(&str, &str)]) -> HashMap<OsString, OsString> {
        variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
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
}
