//! Azure Pipelines: the ladder of GitHub's runner, which has the same origin (microsoft/azure-pipelines-agent,
//! `src/Agent.Sdk/ProcessInvoker.cs`), but the entry process is a task, which decides what its script hears of it
//! (microsoft/azure-pipelines-tasks, `Tasks/BashV3/bash.ts`; azure-pipelines-task-lib, `toolrunner.ts`).

use std::time::Duration;

use nix::sys::signal::Signal::{SIGINT, SIGKILL, SIGTERM};

use super::github::climb;
use super::processes;
use super::{Ended, Job, Started};
use crate::SOON;
use crate::support::{Running, Stdin, Tools};

/// How long the agent waits for the output of a task that has ended.
const OUTPUT: Duration = Duration::from_secs(5);

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
        step.closes_within(OUTPUT);
        let script = step.wait(SOON);
        let cleanup = self.job.cleanups().iter().enumerate().map(|(number, script)| {
            let step = self.start(&format!("cleanup-{number}"), script);
            step.ends_within(SOON);
            step.closes_within(OUTPUT);
            step.wait(SOON)
        });
        let cleanup = cleanup.collect();
        for orphan in processes::with_variable("VSTS_PROCESS_LOOKUP_ID", &self.lookup_id()) {
            processes::signal(orphan, SIGKILL);
        }
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
        self.worker.conclude(self.step)
    }
}
