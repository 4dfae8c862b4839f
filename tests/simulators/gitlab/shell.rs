//! The shell executor (`executors/shell/shell.go`, `helpers/process/killer.go`): SIGTERM to the process group, and SIGKILL
//! ten minutes later.
//!
//! As its packages install it (`gitlab-runner install --user`) it runs the shell by `su`, and that group is `su` alone:
//! the shell leads a session of its own, gets SIGTERM and two seconds later SIGKILL from `su`, and the subshell below it,
//! in which the script runs, lives on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

use super::super::{Ended, Job, Started};
use super::{AFTER_SCRIPT, generated, quoted, variables};
use crate::support::{Exit, Running, Stdin};

/// From SIGTERM to SIGKILL. Scaled: ten minutes there.
const GRACEFUL: Duration = Duration::from_secs(12);
/// How long the runner waits for the kill to take.
const KILL: Duration = Duration::from_secs(10);

/// Whose jobs they are (`--user`). Not root: to root `su` gives no session of its own.
const USER: &str = "daemon";

/// The same of the step runner.
const STEP_GRACEFUL: Duration = Duration::from_secs(5);

/// A runner with the shell executor.
pub struct GitLabShell;

/// The same as its packages install it, with the real `su`.
pub struct GitLabUser;

/// The same with the step runner (`FF_SCRIPT_TO_STEP_MIGRATION`; `functions/script_legacy/script_legacy.go`): SIGTERM to the
/// shell alone, SIGKILL to its group.
pub struct GitLabSteps;

impl GitLabShell {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        Executor::Group.start(job)
    }
}

impl GitLabUser {
    /// Whether there is the `su` of util-linux, and the user may run what these programs are.
    pub fn permitted(programs: &[&Path]) -> bool {
        let succeeds = |command: &mut Command| command.output().ok().filter(|output| output.status.success());
        let version = succeeds(Command::new("su").arg("--version")).map(|output| output.stdout).unwrap_or_default();
        let runs = programs.iter().map(|program| format!("test -x {}", quoted(&program.to_string_lossy())));
        let runs = runs.collect::<Vec<_>>().join(" && ");
        String::from_utf8_lossy(&version).contains("util-linux")
            && nix::unistd::geteuid().is_root()
            && succeeds(Command::new("su").args(["-s", "/bin/bash", USER, "-c", &runs])).is_some()
    }

    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        Executor::User.start(job)
    }
}

impl GitLabSteps {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        Executor::Steps.start(job)
    }
}

#[derive(Clone, Copy)]
enum Executor {
    Group,
    User,
    Steps,
}

impl Executor {
    fn start(self, job: Job<'_>) -> Box<dyn Started + '_> {
        let script = self.run(&job, job.script());
        Box::new(InScript { job, script, executor: self })
    }

    /// A login shell that reads the script from its stdin, below what leads a group.
    fn run(self, job: &Job, lines: &str) -> Running {
        let mut variables = variables(job, ("CI_SHARED_ENVIRONMENT", "true"));
        let all = job.place().parent().expect("a job's directory is in the project's");
        if let Self::User = self {
            // `su` sets it to that of the user.
            variables.push(("HOME".to_owned(), all.join("home").into()));
            job.run("chown").args(["-R", USER]).arg(all).run().expect_code(0);
        }
        let script = generated(job, &variables, "", lines);
        let shell = match self {
            Self::User => job.run("su").args(["-s", "/bin/bash", USER, "-c", "bash -l"]),
            Self::Group | Self::Steps => job.run("bash").arg("--login"),
        };
        shell.stdin(Stdin::Bytes(script.into_bytes())).new_group().start()
    }
}

struct InScript<'a> {
    job: Job<'a>,
    script: Running,
    executor: Executor,
}

impl InScript<'_> {
    fn conclude(self, cancelled: bool) -> Ended {
        let script = end(self.script, cancelled, self.executor);
        let cleanup =
            self.job.cleanups().iter().map(|lines| end(self.executor.run(&self.job, lines), false, self.executor));
        Ended { script, cleanup: cleanup.collect() }
    }
}

/// The end of a shell: it has ended when nobody holds its output any more.
fn end(shell: Running, cancelled: bool, executor: Executor) -> Exit {
    if cancelled || !shell.closes_within(AFTER_SCRIPT) {
        let graceful = if let Executor::Steps = executor {
            shell.signal(SIGTERM);
            STEP_GRACEFUL
        } else {
            shell.signal_group(SIGTERM);
            GRACEFUL
        };
        if !shell.closes_within(graceful) {
            shell.signal_group(SIGKILL);
            shell.closes_within(KILL);
        }
    }
    shell.wait(KILL)
}

impl Started for InScript<'_> {
    fn log(&self) -> &Running {
        &self.script
    }

    fn cancel(self: Box<Self>) -> Ended {
        self.conclude(true)
    }

    fn finish(self: Box<Self>) -> Ended {
        self.conclude(false)
    }
}
