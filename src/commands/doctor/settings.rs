//! The backend's settings, Terraform's environment and its version: what goes together and what does not.

use std::collections::HashMap;
use std::ffi::OsString;

use super::finding::Area::{Settings, Terraform};
use super::finding::Finding;
use super::program::{Installed, Program};
use crate::command::{self, Product};

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The names of the backend's attributes that are set.
    pub set: &'a [String],
    /// A lock table is configured.
    pub table: bool,
    /// Lockfiles are configured.
    pub lockfile: bool,
    /// The program that would run.
    pub program: Option<&'a Program>,
}

impl Setup<'_> {
    /// What follows.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.halves()];
        findings.extend(self.version());
        findings.extend(self.deprecated());
        findings.extend(self.keys_in_block());
        findings.extend(self.skipped());
        findings
    }

    fn is_set(&self, name: &str) -> bool {
        self.set.iter().any(|set| set == name)
    }

    /// The version of Terraform or OpenTofu, if the program could be asked.
    fn installed(&self) -> Option<&Installed> {
        self.program?.installed.as_ref()
    }

    fn is(&self, product: Product, from: (u32, u32), to: (u32, u32)) -> bool {
        self.installed().is_some_and(|found| {
            let minor = (found.version.0, found.version.1);
            found.product == product && from <= minor && minor <= to
        })
    }

    fn halves(&self) -> Finding {
        const ID: &str = "locking";
        match (self.table, self.lockfile) {
            (false, false) => Finding::problem(Settings, ID, "the backend has neither use_lockfile nor dynamodb_table: Terraform takes no lock")
                .why("two runs at once overwrite each other's state")
                .fix("set `use_lockfile = true` (Terraform and OpenTofu from 1.10 on), or dynamodb_table, and run `terraform init -reconfigure`"),
            (true, true) => Finding::ok(Settings, ID, "each lock has two halves, a lockfile and an item in a table")
                .why("right while pipelines move from one to the other; tfguard looks after both"),
            (true, false) if self.is(Product::Terraform, (1, 11), (u32::MAX, 0)) => {
                Finding::note(Settings, ID, "locked in a DynamoDB table; Terraform from 1.11 on calls dynamodb_table deprecated")
                    .fix("set `use_lockfile = true` beside dynamodb_table, and take the table away once every pipeline has it")
            }
            (true, false) => Finding::ok(Settings, ID, "locked in a DynamoDB table"),
            (false, true) => Finding::ok(Settings, ID, "locked by a lockfile beside the state"),
        }
    }

    fn version(&self) -> Option<Finding> {
        let Installed { product, version } = self.installed()?;
        let shown = format!("{} {}.{}.{}", name(*product), version.0, version.1, version.2);
        if self.lockfile && (version.0, version.1) < (1, 10) {
            return Some(
                Finding::problem(
                    Settings,
                    "lockfile-version",
                    format!("use_lockfile is set, and {shown} does not know it"),
                )
                .why("it refuses the configuration; a newer one elsewhere takes locks that this one would not see")
                .fix("use version 1.10 or later in every pipeline of this state"),
            );
        }
        if *product == Product::Terraform && self.lockfile && (version.0, version.1) == (1, 10) {
            return Some(
                Finding::note(Settings, "lockfile-version", format!("{shown} calls lockfiles experimental"))
                    .fix("use Terraform 1.11 or later"),
            );
        }
        if *product == Product::OpenTofu && (1, 11, 0) <= *version && *version <= (1, 11, 2) {
            // opentofu#3661, fixed in 1.11.3.
            return Some(
                Finding::warning(
                    Settings,
                    "leaks-lock",
                    format!("{shown} leaves its lock behind at every graceful interrupt"),
                )
                .why("tfguard deletes what it leaves, but each cancel then hangs on that")
                .fix("use OpenTofu 1.11.3 or later"),
            );
        }
        if *product == Product::OpenTofu && self.table && (version.0, version.1) <= (1, 10) {
            return Some(
                Finding::warning(Settings, "unlogged", format!("{shown} logs nothing of its locks in a table"))
                    .why("tfguard cannot prove that a lock is its own and only reports what is left")
                    .fix("use OpenTofu 1.11 or later, or lockfiles, or give --evidence item where docs/how-it-works.md says that it is safe"),
            );
        }
        None
    }

    fn deprecated(&self) -> Option<Finding> {
        // The schema of the S3 backend of Terraform 1.6 and later; the roles are gone since 1.10, OpenTofu has them.
        const OLD: [(&str, &str); 8] = [
            ("endpoint", "endpoints.s3"),
            ("dynamodb_endpoint", "endpoints.dynamodb"),
            ("iam_endpoint", "endpoints.iam"),
            ("sts_endpoint", "endpoints.sts"),
            ("force_path_style", "use_path_style"),
            ("shared_credentials_file", "shared_credentials_files"),
            ("role_arn", "assume_role.role_arn"),
            ("lock_table", "dynamodb_table"),
        ];
        if self.is(Product::Terraform, (0, 0), (1, 5)) {
            return None;
        }
        let old: Vec<_> = OLD.iter().filter(|(name, _)| self.is_set(name)).collect();
        let names =
            |of: fn(&&(&'static str, &'static str)) -> &'static str| old.iter().map(of).collect::<Vec<_>>().join(", ");
        (!old.is_empty()).then(|| {
            Finding::note(
                Settings,
                "deprecated",
                format!("old names in the backend block: {}", names(|(name, _)| name)),
            )
            .why("Terraform takes them away one by one; with such a version `init` fails")
            .fix(format!("write instead: {}", names(|(_, new)| new)))
        })
    }

    fn keys_in_block(&self) -> Option<Finding> {
        let keys: Vec<_> = ["access_key", "secret_key", "token", "sse_customer_key"]
            .into_iter()
            .filter(|name| self.is_set(name))
            .collect();
        (!keys.is_empty()).then(|| {
            Finding::warning(Settings, "secrets-in-backend", format!("the backend block holds {}", keys.join(", ")))
                .why("`init` writes them in clear text into .terraform, and `plan -out` into the plan file")
                .fix("give credentials in the environment, by a role or by an identity token")
        })
    }

    fn skipped(&self) -> Option<Finding> {
        let names: Vec<_> = self.set.iter().filter(|name| name.starts_with("skip_")).map(String::as_str).collect();
        (!names.is_empty()).then(|| {
            Finding::note(Settings, "skipped-checks", format!("checks are off: {}", names.join(", ")))
                .why("meant for stores that are not AWS's; a wrong region or key then shows late")
        })
    }
}

fn name(product: Product) -> &'static str {
    match product {
        Product::Terraform => "Terraform",
        Product::OpenTofu => "OpenTofu",
    }
}

/// What the environment does to any Terraform here.
#[must_use]
pub fn environment(env: &HashMap<OsString, OsString>) -> Vec<Finding> {
    let value = |name: &str| env.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty());
    let mut findings = Vec::new();
    // A script is no Terraform: of it, the variables alone are looked at.
    if let Some(place) = command::lock_disabled(&["script".into()], env) {
        findings.push(
            Finding::problem(Settings, "lock-false", format!("-lock=false stands {place}"))
                .why("Terraform takes no lock, so that nothing keeps two runs from overwriting each other's state")
                .fix("take it away; --forbid-lock-false makes tfguard refuse such a run"),
        );
    }
    // GitLab takes the job's token back at a cancel (gitlab-org/gitlab#473376).
    let passwords = ["TF_HTTP_PASSWORD", "TF_PASSWORD"].into_iter();
    if let Some(token) = value("CI_JOB_TOKEN")
        && let Some(name) = passwords.into_iter().find(|name| value(name) == Some(token))
    {
        findings.push(
            Finding::warning(Settings, "job-token", format!("{name} is the job's own token (CI_JOB_TOKEN)"))
                .why("GitLab takes it back when the job is cancelled: then Terraform can neither save its state nor unlock")
                .fix("use the token of a project or group, with the role Maintainer and the scope api"),
        );
    }
    let logs: Vec<_> = ["TF_LOG", "TF_LOG_CORE", "TF_LOG_PROVIDER", "TF_LOG_PATH"]
        .into_iter()
        .filter(|name| value(name).is_some())
        .collect();
    if !logs.is_empty() {
        findings.push(
            Finding::note(Settings, "terraform-log", format!("{} set: Terraform logs as they say", logs.join(", ")))
                .why("tfguard leaves them alone and reads a log of its own, at level TRACE, which makes Terraform slower; from DEBUG on a log can hold secrets"),
        );
    }
    if value("TF_FORK").is_some_and(|value| value != "0") {
        findings.push(Finding::note(Settings, "fork", "TF_FORK is set; tfguard sets it to 0 for the run").why(
            "Terraform before 1.1 would otherwise be two processes, of which the outer one swallows the interrupt",
        ));
    }
    findings
}

/// What is known of the program that would run.
#[must_use]
pub fn program(found: Option<&Program>) -> Finding {
    const ID: &str = "program";
    let Some(program) = found else {
        return Finding::warning(Terraform, ID, "neither terraform nor tofu is on PATH")
            .why("tfguard runs what is behind `--`; it can also be given with its path")
            .fix("install it, or call `tfguard -- /path/to/terraform …`");
    };
    let mut seen = match &program.installed {
        Some(Installed { product, version }) => format!("{} {}.{}.{}", name(*product), version.0, version.1, version.2),
        None => format!("a {} that does not tell its version", program.name),
    };
    seen += &format!(" ({})", program.path.display());
    let is_old = program
        .installed
        .as_ref()
        .is_some_and(|found| found.product == Product::Terraform && found.version < (0, 13, 0));
    if program.node_wrapper {
        return Finding::note(Terraform, ID, seen)
            .why("`terraform` is the Node wrapper of a setup action, which passes no signals on: tfguard runs the program behind it, and the wrapper's step outputs are not set")
            .fix("set `terraform_wrapper: false` (`tofu_wrapper: false`) in the setup action");
    }
    if is_old {
        return Finding::warning(Terraform, ID, seen)
            .why("tfguard does not know how its log shows locks")
            .fix("use Terraform 0.13 or later");
    }
    if program.installed.is_none() {
        return Finding::warning(Terraform, ID, seen)
            .why("what depends on the version was not looked at")
            .fix("run it with `version -json` and see what it says");
    }
    let shim = if program.shim { "; tfguard's link stands in for it" } else { "" };
    Finding::ok(Terraform, ID, seen + shim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Severity;

    fn program_of(product: Product, version: (u32, u32, u32)) -> Program {
        let installed = Some(Installed { product, version });
        Program { name: "terraform", path: "/bin/terraform".into(), shim: false, node_wrapper: false, installed }
    }

    fn found(set: &[&str], (table, lockfile): (bool, bool), program: Option<Program>) -> Vec<(&'static str, Severity)> {
        let set: Vec<_> = set.iter().map(|name| (*name).to_owned()).collect();
        let setup = Setup { set: &set, table, lockfile, program: program.as_ref() };
        setup.findings().iter().map(|found| (found.id, found.severity)).collect()
    }

    #[test]
    fn versions_and_settings_that_do_not_go_together_are_told() {
        use Product::{OpenTofu, Terraform};
        use Severity::{Note, Ok, Problem, Warning};
        let of = |halves, product, version| found(&[], halves, Some(program_of(product, version)));
        let (table, file, both) = ((true, false), (false, true), (true, true));
        assert_eq!(found(&[], (false, false), None), [("locking", Problem)]);
        assert_eq!(found(&[], table, None), [("locking", Ok)]);
        assert_eq!(of(table, Terraform, (1, 10, 5)), [("locking", Ok)]);
        assert_eq!(of(table, Terraform, (1, 11, 0)), [("locking", Note)]);
        assert_eq!(of(both, Terraform, (1, 15, 5)), [("locking", Ok)]);
        assert_eq!(of(file, Terraform, (1, 9, 8)), [("locking", Ok), ("lockfile-version", Problem)]);
        assert_eq!(of(file, Terraform, (1, 10, 1)), [("locking", Ok), ("lockfile-version", Note)]);
        assert_eq!(of(file, OpenTofu, (1, 9, 0)), [("locking", Ok), ("lockfile-version", Problem)]);
        assert_eq!(of(file, OpenTofu, (1, 10, 0)), [("locking", Ok)]);
        assert_eq!(of(table, OpenTofu, (1, 10, 0)), [("locking", Ok), ("unlogged", Warning)]);
        assert_eq!(of(table, OpenTofu, (1, 11, 2)), [("locking", Ok), ("leaks-lock", Warning)]);
        assert_eq!(of(table, OpenTofu, (1, 11, 3)), [("locking", Ok)]);
    }

    #[test]
    fn old_names_secrets_and_skipped_checks_are_told() {
        let table = (true, false);
        let of = |set: &[&str], program| found(set, table, program).split_off(1);
        assert_eq!(of(&["bucket", "endpoint", "role_arn"], None), [("deprecated", Severity::Note)]);
        assert_eq!(of(&["endpoint"], Some(program_of(Product::Terraform, (1, 5, 7)))), []);
        assert_eq!(of(&["secret_key"], None), [("secrets-in-backend", Severity::Warning)]);
        assert_eq!(of(&["skip_region_validation"], None), [("skipped-checks", Severity::Note)]);
    }

    #[test]
    fn the_environment_is_looked_through() {
        let of = |name: &str, value: &str| {
            let env = HashMap::from([(name.into(), value.into())]);
            environment(&env).iter().map(|found| (found.id, found.severity)).collect::<Vec<_>>()
        };
        assert_eq!(of("TF_CLI_ARGS_apply", "-lock=false"), [("lock-false", Severity::Problem)]);
        assert_eq!(of("TF_CLI_ARGS", "-lock=true"), []);
        assert_eq!(of("TF_LOG", "debug"), [("terraform-log", Severity::Note)]);
        let gitlab = |password: &str| {
            let env = [("CI_JOB_TOKEN", "t"), ("TF_HTTP_PASSWORD", password)];
            environment(&env.map(|(name, value)| (name.into(), value.into())).into()).len()
        };
        assert_eq!((gitlab("t"), gitlab("other")), (1, 0));
        assert_eq!(of("TF_LOG", ""), []);
        assert_eq!(of("TF_FORK", "0"), []);
        assert_eq!(of("TF_FORK", "1"), [("fork", Severity::Note)]);
    }
}
