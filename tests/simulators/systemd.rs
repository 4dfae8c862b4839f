//! A service of systemd that is stopped (systemd.kill(5), `ExecStopPost=` in systemd.service(5); systemd,
//! `src/core/service.c`): SIGTERM, then what comes after the main process, then SIGTERM to what is left, each with its
//! time before a SIGKILL.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{self, SIGKILL, SIGTERM};
use nix::unistd::Pid;

use super::processes;
use super::{Ended, Job, Started};
use crate::SOON;
use crate::support::{Run, Running};

/// From SIGTERM to SIGKILL, where the unit says nothing else (`TimeoutStopSec`).
const STOP: Duration = Duration::from_secs(90);
/// How often it is looked whether the control group is empty, which systemd is told.
const LOOK: Duration = Duration::from_millis(20);

/// A unit. The job's script is its `ExecStart=` below a shell, each cleanup an `ExecStopPost=`.
#[derive(Clone, Copy, Default)]
pub enum Systemd {
    /// `KillMode=control-group`: both signals to every process of the unit.
    #[default]
    ControlGroup,
    /// `KillMode=mixed`: SIGTERM to the main process.
    Mixed,
}

impl Systemd {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        self.start_with(job, STOP)
    }

    /// With this `TimeoutStopSec=`.
    pub fn start_with<'a>(self, job: Job<'a>, stop: Duration) -> Box<dyn Started + 'a> {
        let main = command(&job, job.script()).start();
        Box::new(Active { mode: self, job, main, stop })
    }
}

fn command(job: &Job, script: &str) -> Run {
    job.run("sh").args(["-c", script]).env("INVOCATION_ID", job.id()).new_group()
}

struct Active<'a> {
    mode: Systemd,
    job: Job<'a>,
    main: Running,
    stop: Duration,
}

impl Active<'_> {
    /// The processes of the service's control group. Real ones are not to be had everywhere, so these are all that inherited
    /// the test bed's mark, which tfguard takes from nobody: also those that left their parent and their session.
    fn members(&self) -> Vec<Pid> {
        let (name, mark) = self.job.project().guard().env();
        processes::with_variable(name, mark)
    }

    fn signal_all(&self, signal: Signal) {
        for member in self.members() {
            processes::signal(member, signal);
        }
    }

    fn is_empty_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.members().is_empty() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }

    /// After the main process.
    fn conclude(self) -> Ended {
        let cleanup = self.job.cleanups().iter().map(|script| {
            let command = command(&self.job, script).env("SERVICE_RESULT", "signal").start();
            if !command.ends_within(self.stop) {
                command.signal(SIGKILL);
            }
            command.wait(SOON)
        });
        let cleanup = cleanup.collect();
        let empty = match self.mode {
            Systemd::ControlGroup => {
                self.signal_all(SIGTERM);
                self.is_empty_within(self.stop)
            }
            Systemd::Mixed => false,
        };
        if !empty {
            self.signal_all(SIGKILL);
        }
        Ended { script: self.main.wait(SOON), cleanup }
    }
}

impl Started for Active<'_> {
    fn log(&self) -> &Running {
        &self.main
    }

    fn cancel(self: Box<Self>) -> Ended {
        match self.mode {
            Systemd::ControlGroup => self.signal_all(SIGTERM),
            Systemd::Mixed => self.main.signal(SIGTERM),
        }
        if !self.main.ends_within(self.stop) {
            self.signal_all(SIGKILL);
        }
        self.main.ends_within(SOON);
        self.conclude()
    }

    fn finish(self: Box<Self>) -> Ended {
        self.main.ends_within(SOON);
        self.conclude()
    }
}
