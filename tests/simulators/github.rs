//! GitHub Actions: the ladder of the runner (actions/runner, `src/Runner.Sdk/ProcessInvoker.cs`), the steps that still
//! run after it (`src/Runner.Worker/StepsRunner.cs`), and the hunt for orphans at the end of the job
//! (`src/Runner.Worker/JobExtension.cs`).

use std::time::Duration;

use nix::sys::signal::Signal::{self, SIGINT, SIGTERM};

use super::container::Container;
use super::ladder::{clean_up, climb, end, hunt};
use super::{Ended, Job, Started};
use crate::support::{Running, Stdin};

/// How long the runner waits after each signal. Constants there, and too short to be scaled.
const LADDER: [(Signal, Duration); 2] = [(SIGINT, Duration::from_millis(7500)), (SIGTERM, Duration::from_millis(2500))];
/// What all steps after a cancel have together, less what the runner keeps to itself.
const AFTER: Duration = Duration::from_secs(285);

/// The shell of a `run:` step (`src/Runner.Worker/Handlers/ScriptHandlerHelpers.cs`).
#[derive(Clone, Copy, Default)]
pub enum Shell {
    /// None named: `bash -e {0}`.
    #[default]
    Unnamed,
    /// `shell: bash`.
    Bash,
    /// `shell: sh`, and where a container has no bash.
    Sh,
}

impl Shell {
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::Unnamed => &["bash", "-e"],
            Self::Bash => &["bash", "--noprofile", "--norc", "-e", "-o", "pipefail"],
            Self::Sh => &["sh", "-e"],
        }
    }
}

/// A runner. The job's script is a `run:` step, each cleanup one with `if: always()`.
#[derive(Default)]
pub struct GitHub {
    pub shell: Shell,
    /// The job has a `container:`.
    pub container: bool,
}

impl GitHub {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        // The container's own process does nothing, and does not bury the orphans that come to it.
        let container = Container::command(&job).args(["tail", "-f", "/dev/null"]);
        let container = self.container.then(|| Container::start(container));
        let worker = Worker { tracking: format!("github_{}", job.id()), job, shell: self.shell, container };
        let step = worker.start("script", worker.job.script());
        Box::new(InStep { worker, step })
    }
}

/// A runner's process for one job.
struct Worker<'a> {
    job: Job<'a>,
    shell: Shell,
    container: Option<Container>,
    tracking: String,
}

impl Worker<'_> {
    /// Starts a `run:` step.
    fn start(&self, name: &str, script: &str) -> Running {
        let job = &self.job;
        let script = job.file(&format!("{name}.sh"), script);
        let command = self.shell.command().iter().map(AsRef::as_ref).chain([script.as_os_str()]);
        let step = match &self.container {
            Some(container) => container.exec(job).args(command),
            // Node and .NET start everything with SIGPIPE ignored, and so it stays below them.
            None => job.run("sh").args(["-c", "trap '' PIPE; exec \"$@\"", "sh"]).args(command),
        };
        let file = |what: &str| job.file(&format!("{what}_{name}"), "");
        let step = step
            .envs([
                ("GITHUB_ACTIONS", "true"),
                ("CI", "true"),
                ("RUNNER_OS", "Linux"),
                ("RUNNER_ENVIRONMENT", "github-hosted"),
            ])
            .envs([("GITHUB_SERVER_URL", "https://github.com"), ("GITHUB_REPOSITORY", "owner/repository")])
            .envs([("GITHUB_RUN_ID", job.id()), ("GITHUB_RUN_ATTEMPT", "1"), ("GITHUB_JOB", "apply")])
            .envs([("GITHUB_WORKSPACE", job.project().work()), ("RUNNER_TEMP", job.dir("_temp"))])
            .envs(["GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY"].map(|name| (name, file(name))))
            .stdin(Stdin::Bytes(Vec::new()));
        match self.container {
            // The runner does not pass its own environment into the container.
            Some(_) => step,
            None => step.env("RUNNER_TRACKING_ID", &self.tracking),
        }
        .start()
    }

    /// The end of the job after its step.
    fn conclude(self, step: Running) -> Ended {
        let script = end(step);
        let cleanup = clean_up(&self.job, AFTER, |name, script| self.start(name, script));
        if let Some(container) = self.container {
            container.remove();
        }
        hunt("RUNNER_TRACKING_ID", &self.tracking);
        Ended { script, cleanup }
    }
}

/// A job whose script runs.
struct InStep<'a> {
    worker: Worker<'a>,
    step: Running,
}

impl Started for InStep<'_> {
    fn log(&self) -> &Running {
        &self.step
    }

    fn cancel(self: Box<Self>) -> Ended {
        climb(&self.step, LADDER);
        self.worker.conclude(self.step)
    }

    fn finish(self: Box<Self>) -> Ended {
        assert!(self.step.ends_within(AFTER), "nobody cancels it, so it should end by itself");
        self.worker.conclude(self.step)
    }
}
