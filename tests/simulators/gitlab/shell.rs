//! The shell executor (`executors/shell/shell.go`, `helpers/process/killer.go`): SIGTERM to the process group, and SIGKILL
//! ten minutes later.

use std::time::Duration;

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

use super::super::{Ended, Job, Started};
use super::{AFTER_SCRIPT, generated, variables};
use crate::support::{Exit, Running, Stdin};

/// From SIGTERM to SIGKILL. Scaled: ten minutes there.
const GRACEFUL: Duration = Duration::from_secs(12);
/// How long the runner waits for the kill to take.
const KILL: Duration = Duration::from_secs(10);

/// The same of the step runner.
const STEP_GRACEFUL: Duration = Duration::from_secs(5);

/// A runner with the shell executor.
pub struct GitLabShell;

/// The same with the step runner (`FF_SCRIPT_TO_STEP_MIGRATION`; `functions/script_legacy/script_legacy.go`): SIGTERM to the
/// shell alone, SIGKILL to its group.
pub struct GitLabSteps;

impl GitLabShell {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        let script = start(&job, job.script());
        Box::new(InScript { job, script, steps: false })
    }
}

impl GitLabSteps {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        let script = start(&job, job.script());
        Box::new(InScript { job, script, steps: true })
    }
}

/// A login shell that leads a group and reads the script from its stdin.
fn start(job: &Job, lines: &str) -> Running {
    let variables = variables(job, ("CI_SHARED_ENVIRONMENT", "true"));
    let script = generated(job, &variables, "", lines);
    job.run("bash").arg("--login").stdin(Stdin::Bytes(script.into_bytes())).new_group().start()
}

struct InScript<'a> {
    job: Job<'a>,
    script: Running,
    steps: bool,
}

impl InScript<'_> {
    fn conclude(self, cancelled: bool) -> Ended {
        let script = end(self.script, cancelled, self.steps);
        let cleanup = self.job.cleanups().iter().map(|lines| end(start(&self.job, lines), false, self.steps));
        Ended { script, cleanup: cleanup.collect() }
    }
}

/// The end of a shell: it has ended when nobody holds its output any more.
fn end(shell: Running, cancelled: bool, steps: bool) -> Exit {
    if cancelled || !shell.closes_within(AFTER_SCRIPT) {
        let graceful = if steps {
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
