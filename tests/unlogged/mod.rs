//! Locks of backends that do not log them: what becomes of them when Terraform dies, tried with real Terraforms.

mod fake;
mod gcs;
mod http;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::*;
use serde_json::Value;
use tempfile::TempDir;

use crate::{SOON, TFGUARD};
const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];

/// Says `asleep` while it applies, and sleeps until it is killed.
const SLEEP: &str = "resource \"terraform_data\" \"work\" {\n  provisioner \"local-exec\" {\n    command = \"echo as''leep; exec sleep 600\"\n  }\n}\n";
const QUICK: &str = "resource \"terraform_data\" \"quick\" {\n  input = 42\n}\n";

/// A directory in which Terraform runs. What runs in it ends with it.
struct Place {
    guard: Guard,
    dir: TempDir,
    terraform: PathBuf,
}

impl Place {
    fn new(terraform: &Path, backend: &str, configuration: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("tfguard-test-").tempdir().expect("a directory can be made");
        for name in ["work", "home", "tfguard"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory can be made");
        }
        let place = Self { guard: Guard::new(), dir, terraform: terraform.to_owned() };
        place.write("main.tf", configuration);
        place.write("backend.tf", backend);
        place
    }

    fn init(self) -> Self {
        self.terraform(["init", "-input=false", "-no-color"]).run().expect_code(0);
        self
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.work().join(name), content).expect("a file can be written");
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        Run::new(program, &self.guard)
            .current_dir(self.work())
            .env("HOME", self.dir.path().join("home"))
            .env("TFGUARD_DIR", self.dir.path().join("tfguard"))
            .env("CHECKPOINT_DISABLE", "1")
    }

    fn terraform<const N: usize>(&self, args: [&str; N]) -> Run {
        self.command(&self.terraform).args(args)
    }

    /// A guarded command of Terraform's, with a report.
    fn guarded(&self, options: &[&str], args: &[&str]) -> Run {
        self.command(TFGUARD).args(["--report", "report.json"]).args(options).arg("--").arg(&self.terraform).args(args)
    }

    /// A guarded apply, already asleep, with its lock.
    fn asleep(&self, options: &[&str]) -> Running {
        let run = self.guarded(options, &APPLY).new_group().start();
        run.wait_for_stdout("asleep", SOON);
        run
    }

    /// Kills the command that tfguard started, and waits until it is dead.
    fn kill_terraform(&self) {
        kill(self.child().expect("it is alive"));
    }

    /// The command that tfguard started, if it has come so far. Dead or alive.
    fn child(&self) -> Option<i32> {
        // What the child wrote of itself before it was the command, perhaps at this moment; the journal has it a little
        // later. It is gone with its session.
        let stat = std::fs::read_to_string(self.session()?.join("child")).ok()?;
        stat.split(' ').next()?.parse().ok()
    }

    fn kill_supervisor(&self) {
        kill(pid_of(&self.journal()["supervisor"]));
    }

    fn journal(&self) -> Value {
        let journal = self.session().expect("there is a session").join("journal.json");
        serde_json::from_slice(&std::fs::read(journal).expect("it has a journal")).expect("in JSON")
    }

    fn session(&self) -> Option<PathBuf> {
        session_dirs(&self.dir.path().join("tfguard")).into_iter().next()
    }

    /// Signals the process below this place whose command line has this word.
    fn signal_below(&self, word: &str, signal: nix::sys::signal::Signal) {
        let lines = self.guard.processes();
        let is_tfguard = |line: &String| {
            let pid = line.split(' ').next().unwrap_or_default();
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.ends_with("tfguard"))
        };
        let is_it = |line: &&String| line.contains("terraform") && line.contains(word) && !is_tfguard(line);
        let line = lines.iter().find(is_it).unwrap_or_else(|| panic!("none with {word}: {lines:#?}"));
        let pid = line.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is alive");
    }

    /// What the report says of the lock.
    #[track_caller]
    fn reported(&self) -> Value {
        let text = std::fs::read(self.work().join("report.json")).expect("a report was written");
        let report: Value = serde_json::from_slice(&text).expect("a report is JSON");
        report["other_locks"][0].clone()
    }
}

/// What is said where another test's Terraform, of which nobody can tell what it locks, may have the lock.
const RIVAL: &str = "one that is alive on this machine may hold it";

/// The holder that every Terraform writes here.
fn own_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    format!("{user}@{}", nix::unistd::gethostname().unwrap().to_str().unwrap())
}

fn any_terraform() -> PathBuf {
    Tools::get().any_terraform()
}
