//! Azure Pipelines: the ladder of GitHub's runner, which has the same origin (microsoft/azure-pipelines-agent,
//! `src/Agent.Sdk/ProcessInvoker.cs`), but the entry process is a task, which decides what its script hears of it
//! (microsoft/azure-pipelines-tasks, `Tasks/BashV3/bash.ts`; azure-pipelines-task-lib, `toolrunner.ts`).

use std::time::Duration;

use nix::sys::signal::Signal::{SIGINT, SIGTERM};

use super::ladder::{clean_up, climb, end, hunt};
use super::{Ended, Job, Started};
use crate::SOON;
use crate::support::{Running, Stdin, Tools};

/// What is left for the steps after a cancel (`cancelTimeoutInMinutes`).
const AFTER: Duration = Duration::from_secs(5 * 60);

/// What a task does at a signal.
#[derive(Clone, Copy, Default)]
pub enum Task {
    /// `Bash@3` up to some version: SIGTERM to the script's shell, whatever the signal was.
    #[default]
    Terminates,
    /// `Bash@3` of late: the same signal to the shell.
    Forwards,
    /// `AzureCLI@2` and others: it dies, and the script goes on without a reader.
    Dies,
}

/// An agent. The job's script is a `bash:` step, each cleanup one with `condition: always()`.
pub struct Azure {
    pub task: Task,
    /// The job's variables `PROCESS_SIGINT_TIMEOUT` and `PROCESS_SIGTERM_TIMEOUT`.
    pub ladder: [Duration; 2],
}

impl Default for Azure {
    fn default() -> Self {
        Self { task: Task::default(), ladder: [Duration::from_millis(7500), Duration::from_millis(2500)] }
    }
}

impl Azure {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        let worker = Worker { agent: self, job };
        let step = worker.start("script", worker.job.script());
        Box::new(InStep { worker, step })
    }
}

struct Worker<'a> {
    agent: Azure,
    job: Job<'a>,
}

impl Worker<'_> {
    fn lookup_id(&self) -> String {
        format!("vsts_{}", self.job.id())
    }

    fn start(&self, name: &str, script: &str) -> Running {
        let job = &self.job;
        let script = job.file(&format!("{name}.sh"), script);
        let task = job.file("task.py", include_str!("azure_task.py"));
        let way = match self.agent.task {
            Task::Terminates => "terminates",
            Task::Forwards => "forwards",
            Task::Dies => "dies",
        };
        job.run(Tools::get().python())
            .arg("-I")
            .arg(task)
            .args([way, "bash", "--noprofile", "--norc"])
            .arg(script)
            .envs([("TF_BUILD", "True"), ("SYSTEM_COLLECTIONURI", "https://dev.azure.example/organisation/")])
            .envs([("SYSTEM_TEAMPROJECT", "project"), ("BUILD_BUILDID", job.id()), ("SYSTEM_JOBID", "apply")])
            .env("AGENT_TEMPDIRECTORY", job.dir("_temp"))
            .env("VSTS_PROCESS_LOOKUP_ID", self.lookup_id())
            .stdin(Stdin::Bytes(Vec::new()))
            .start()
    }

    fn conclude(self, step: Running) -> Ended {
        let script = end(step);
        let cleanup = clean_up(&self.job, AFTER, |name, script| self.start(name, script));
        hunt("VSTS_PROCESS_LOOKUP_ID", &self.lookup_id());
        Ended { script, cleanup }
    }
}

struct InStep<'a> {
    worker: Worker<'a>,
    step: Running,
}

impl Started for InStep<'_> {
    fn log(&self) -> &Running {
        &self.step
    }

    fn cancel(self: Box<Self>) -> Ended {
        let [int, term] = self.worker.agent.ladder;
        climb(&self.step, [(SIGINT, int), (SIGTERM, term)]);
        self.worker.conclude(self.step)
    }

    fn finish(self: Box<Self>) -> Ended {
        self.step.ends_within(SOON);
        self.worker.conclude(self.step)
    }
}
