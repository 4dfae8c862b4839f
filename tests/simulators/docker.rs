//! A container that is stopped: `docker stop`, and Kubernetes when it deletes or evicts a pod. SIGTERM to PID 1, and
//! SIGKILL to all after a time.

use std::time::Duration;

use nix::sys::signal::Signal::SIGTERM;

use super::{Container, Ended, Job, Started};
use crate::SOON;
use crate::support::Running;

/// The job's script is the container's command, in its shell form. Each cleanup is the command of a later container, which
/// has the same volumes.
pub struct DockerStop {
    /// `--stop-timeout`; `terminationGracePeriodSeconds`, whose default is 30 seconds.
    pub timeout: Duration,
}

impl Default for DockerStop {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10) }
    }
}

impl DockerStop {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        let container = start(&job, job.script());
        Box::new(Stoppable { timeout: self.timeout, job, container })
    }
}

fn start(job: &Job, script: &str) -> Container {
    Container::start(Container::command(job).args(["sh", "-c", script]))
}

struct Stoppable<'a> {
    timeout: Duration,
    job: Job<'a>,
    container: Container,
}

impl Stoppable<'_> {
    fn conclude(self) -> Ended {
        let script = self.container.remove();
        let cleanup = self.job.cleanups().iter().map(|script| {
            let container = start(&self.job, script);
            container.log().ends_within(SOON);
            container.remove()
        });
        Ended { script, cleanup: cleanup.collect() }
    }
}

impl Started for Stoppable<'_> {
    fn log(&self) -> &Running {
        self.container.log()
    }

    fn cancel(self: Box<Self>) -> Ended {
        self.container.signal(SIGTERM);
        self.container.log().ends_within(self.timeout);
        self.conclude()
    }

    fn finish(self: Box<Self>) -> Ended {
        self.container.log().ends_within(SOON);
        self.conclude()
    }
}
