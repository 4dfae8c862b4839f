//! The docker executor (`executors/docker/internal/wait/wait.go`, `executors/docker/docker.go`, `shells/bash.go`): a loop
//! in the container sends SIGTERM to each process, then the engine stops the container. What runs afterwards does so in a
//! new one, which has the project's directory and nothing else of the old one.

use std::time::Duration;

use nix::sys::signal::Signal::SIGTERM;

use super::super::{Container, Ended, Job, Started};
use super::{AFTER_SCRIPT, generated, variables};
use crate::support::{Running, Stdin};

/// From the highest pid to the lowest, but for itself and PID 1, SIGTERM and up to six seconds for the process to go.
const LOOP: &str = r#"
for process in $(cd /proc && ls -rvd [0-9]*); do
    [ $$ -ne $process ] && [ $process -ne 1 ] || continue
    kill -TERM $process 2>/dev/null || continue
    attempts=6
    while [ -e /proc/$process ] && [ $attempts -gt 0 ]; do
        sleep 1
        attempts=$((attempts-1))
    done
done
"#;
/// How long the runner listens to the loop, which goes on without it.
const LOOP_TIME: Duration = Duration::from_secs(10);
/// From the engine's SIGTERM to its SIGKILL: its default, since the runner gives none.
const STOP: Duration = Duration::from_secs(10);

/// A runner with the docker executor.
#[derive(Default)]
pub struct GitLabDocker {
    /// `FF_USE_NATIVE_CONTAINER_STOP`: only the engine's stop, without the loop.
    pub native_stop: bool,
}

impl GitLabDocker {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        self.start_with(job, STOP)
    }

    /// On an engine with a time of its own from SIGTERM to SIGKILL.
    pub fn start_with<'a>(self, job: Job<'a>, stop: Duration) -> Box<dyn Started + 'a> {
        let container = start(&job, job.script());
        Box::new(InScript { job, container, native_stop: self.native_stop, stop })
    }
}

/// A container whose PID 1 is a shell that reads the script from its stdin.
fn start(job: &Job, lines: &str) -> Container {
    let variables = variables(job, ("CI_DISPOSABLE_ENVIRONMENT", "true"));
    let script = generated(job, &variables, "", lines);
    // There it looks for a bash before.
    let command = Container::command(job).args(["sh", "-c", "exec bash"]);
    Container::start(command.stdin(Stdin::Bytes(script.into_bytes())))
}

struct InScript<'a> {
    job: Job<'a>,
    container: Container,
    native_stop: bool,
    stop: Duration,
}

impl InScript<'_> {
    fn conclude(self) -> Ended {
        let script = self.container.remove();
        let cleanup = self.job.cleanups().iter().map(|lines| {
            let container = start(&self.job, lines);
            container.log().ends_within(AFTER_SCRIPT);
            container.remove()
        });
        Ended { script, cleanup: cleanup.collect() }
    }
}

impl Started for InScript<'_> {
    fn log(&self) -> &Running {
        self.container.log()
    }

    fn cancel(self: Box<Self>) -> Ended {
        if !self.native_stop {
            let client = self.container.exec(&self.job).args(["sh", "-c", LOOP]).start();
            client.ends_within(LOOP_TIME);
        }
        self.container.signal(SIGTERM);
        self.container.log().ends_within(self.stop);
        self.conclude()
    }

    fn finish(self: Box<Self>) -> Ended {
        self.container.log().ends_within(AFTER_SCRIPT);
        self.conclude()
    }
}
