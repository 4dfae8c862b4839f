//! Buildkite's agent (buildkite/agent, `internal/process/signal_notwindows.go`, `internal/job/executor.go`,
//! `agent/run_job.go`; seen on 3.138): the command leads a session on a pseudo-terminal; its group gets SIGTERM, later SIGKILL;
//! the hooks after it have what is left of the same time, and do not start when there is nothing left.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

use super::{Ended, Job, Started};
use crate::SOON;
use crate::support::Running;

/// An agent. The job's script is the command, each cleanup a `pre-exit` hook.
pub struct Buildkite {
    /// The signal's grace period: `cancel-grace-period` less a second, unless `signal-grace-period-seconds` says otherwise.
    pub grace: Duration,
}

impl Default for Buildkite {
    fn default() -> Self {
        Self { grace: Duration::from_secs(9) }
    }
}

impl Buildkite {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        let command = start(&job, job.script(), false);
        Box::new(InCommand { agent: self, job, command })
    }
}

fn start(job: &Job, script: &str, cancelled: bool) -> Running {
    let url = format!("https://buildkite.example/organisation/pipeline/builds/{}", job.id());
    let run = job
        .run("bash")
        .args(["-e", "-c", script])
        .envs([("CI", "true"), ("BUILDKITE", "true"), ("BUILDKITE_RETRY_COUNT", "0"), ("TERM", "xterm-256color")])
        .envs([("BUILDKITE_BUILD_URL", url.as_str()), ("BUILDKITE_JOB_ID", job.id())])
        .env("BUILDKITE_BUILD_CHECKOUT_PATH", job.project().work());
    let run = if cancelled { run.env("BUILDKITE_JOB_CANCELLED", "true") } else { run };
    run.pty().start()
}

struct InCommand<'a> {
    agent: Buildkite,
    job: Job<'a>,
    command: Running,
}

impl InCommand<'_> {
    fn conclude(self, deadline: Option<Instant>) -> Ended {
        let script = self.command.wait(SOON);
        let left = || deadline.map_or(SOON, |deadline| deadline.saturating_duration_since(Instant::now()));
        let cleanup = self.job.cleanups().iter().take_while(|_| !left().is_zero()).map(|hook| {
            let mut hook = start(&self.job, hook, deadline.is_some());
            let left = left();
            if !hook.ends_within(left) {
                // The agent kills what runs the hooks, and the hook's terminal goes with that.
                hook.hang_up();
            }
            hook.wait(SOON)
        });
        Ended { script, cleanup: cleanup.collect() }
    }
}

impl Started for InCommand<'_> {
    fn log(&self) -> &Running {
        &self.command
    }

    fn cancel(self: Box<Self>) -> Ended {
        let deadline = Instant::now() + self.agent.grace;
        self.command.signal_group(SIGTERM);
        if !self.command.ends_within(self.agent.grace) {
            self.command.signal_group(SIGKILL);
        }
        self.conclude(Some(deadline))
    }

    fn finish(self: Box<Self>) -> Ended {
        self.conclude(None)
    }
}
