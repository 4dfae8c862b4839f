//! The processes from tfguard up to whoever started the job.

use serde::Serialize;

/// A process, as far as it matters for signals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Process {
    /// Its ID in this PID namespace.
    pub pid: i32,
    /// Its parent; 0 for one that was put into this PID namespace from outside, and for the first.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its program's name, as the kernel has it (15 bytes at most).
    pub name: String,
    /// It was started with the variables of this very job.
    pub in_job: bool,
    /// Its command line. Not shown: it can hold secrets.
    #[serde(skip)]
    pub arguments: Vec<String>,
}

/// Where tfguard's stdout goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Stdout {
    /// A terminal.
    Terminal,
    /// A pipe.
    Pipe {
        /// A process of the same job that reads from it: `tee`, for instance.
        reader: Option<Process>,
    },
    /// A file, or anything else.
    Other,
}

/// What the doctor saw of the processes around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// This process, its parent, and so on.
    pub processes: Vec<Process>,
    /// Where its stdout goes.
    pub stdout: Stdout,
    /// Signals that were ignored when it was started, by number.
    pub ignored: Vec<i32>,
    /// It does not run in the machine's own PID namespace.
    pub contained: bool,
}

impl Process {
    /// The file name of the program or of its first argument that is no flag, for programs known by a script.
    fn runs(&self, file: &str) -> bool {
        self.arguments.iter().any(|argument| argument.rsplit('/').next() == Some(file))
    }

    /// Whether it is the part of a CI system that starts the steps of jobs.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        // Names of at most 15 bytes: of what is longer, the kernel keeps so much.
        let by_name = [
            "Runner.Worker",
            "Runner.Listener",
            "Agent.Worker",
            "Agent.Listener",
            "gitlab-runner",
            "gitlab-runner-h",
            "buildkite-agent",
            "act_runner",
            "forgejo-runner",
            "circleci-agent",
        ];
        let jenkins = ["agent.jar", "remoting.jar", "slave.jar", "jenkins.war"];
        by_name.contains(&self.name.as_str()) || (self.name == "java" && jenkins.iter().any(|jar| self.runs(jar)))
    }

    /// Whether it is a shell: it waits for what it started, and passes no signal on.
    #[must_use]
    pub fn is_shell(&self) -> bool {
        matches!(self.name.as_str(), "sh" | "bash" | "dash" | "ash" | "busybox" | "zsh" | "ksh" | "mksh" | "pwsh")
            // A script has its own name, and its interpreter is the first word.
            || self.arguments.first().is_some_and(|program| {
                matches!(program.rsplit('/').next(), Some("sh" | "bash" | "dash" | "ash" | "zsh" | "ksh"))
            })
    }

    /// Whether it is Node, which dies of signals and leaves what it started.
    #[must_use]
    pub fn is_node(&self) -> bool {
        self.name.starts_with("node") || self.arguments.first().is_some_and(|program| program.ends_with("/node"))
    }

    /// Whether it is a task of Azure Pipelines that passes signals on to the script's shell (`Tasks/BashV3/bash.ts`).
    #[must_use]
    pub fn is_bash_task(&self) -> bool {
        self.arguments.iter().any(|argument| argument.contains("/Bash_") && argument.ends_with("/bash.js"))
    }

    /// Whether it is an init for containers, which passes signals on to what it started itself.
    #[must_use]
    pub fn is_init(&self) -> bool {
        matches!(self.name.as_str(), "tini" | "docker-init" | "dumb-init" | "catatonit" | "s6-svscan")
    }
}

impl Chain {
    /// This process.
    #[must_use]
    pub fn own(&self) -> Option<&Process> {
        self.processes.first()
    }

    /// The process that started this one.
    #[must_use]
    pub fn parent(&self) -> Option<&Process> {
        self.processes.get(1)
    }

    /// Where the CI's own processes begin in the list, if one of them can be seen.
    fn agent(&self) -> Option<usize> {
        self.processes.iter().position(Process::is_agent)
    }

    /// The process that the CI started: below its agent, else the topmost with the job's variables, else the topmost that
    /// can be seen. What is PID 1 outside a container started nothing of the job itself.
    #[must_use]
    pub fn entry(&self) -> Option<&Process> {
        let of_job = || self.processes.iter().take_while(|process| process.in_job).count();
        let top = self.agent().unwrap_or_else(|| match of_job() {
            0 => self.processes.len(),
            count => count,
        });
        let job = &self.processes[..top];
        let job = match job {
            [below @ .., first] if first.pid == 1 && !self.contained && !below.is_empty() => below,
            job => job,
        };
        job.last()
    }

    /// Whether the job was put into its container from outside (`docker exec`, `kubectl exec`): the client outside
    /// receives the signals, and passes none on.
    #[must_use]
    pub fn came_by_exec(&self) -> bool {
        self.entry().is_some_and(|entry| entry.parent == 0 && entry.pid != 1)
    }

    /// Whether this process is in the group of the job's shell.
    #[must_use]
    pub fn is_in_jobs_group(&self) -> bool {
        let (Some(own), Some(entry)) = (self.own(), self.entry()) else { return false };
        if own.group == entry.group {
            return true;
        }
        if self.agent().is_some() {
            return false;
        }
        // The CI itself cannot be seen: then the shell above that leads the group is the job's, or whoever started this
        // process as a leader is the CI.
        if own.pid == own.group {
            return self.parent().is_some_and(|parent| !parent.is_shell() && parent.name != "setsid");
        }
        self.processes.iter().any(|above| above.pid == own.group && above.is_shell())
    }

    /// Whether a process that reads what this one prints was put there by the job. The CI itself reads what its steps
    /// print, and so does, until its exec, whatever it starts meanwhile; and a shell may still hold what it made for the
    /// commands of a pipeline.
    #[must_use]
    pub fn is_of_pipeline(&self, reader: &Process) -> bool {
        let is_above = self.processes.iter().any(|above| above.pid == reader.pid);
        let entry = self.entry().map(|entry| entry.pid);
        let end = self.processes.iter().position(|process| Some(process.pid) == entry);
        let job = end.map_or(&[][..], |end| &self.processes[..=end]);
        !is_above && job.iter().any(|process| process.pid == reader.parent)
    }

    /// The processes between this one and the entry, both left out.
    pub fn between(&self) -> impl Iterator<Item = &Process> {
        let entry = self.entry().map(|entry| entry.pid);
        let end = self.processes.iter().position(|process| Some(process.pid) == entry).unwrap_or(0);
        self.processes[..end].iter().skip(1)
    }
}
