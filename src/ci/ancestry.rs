//! The processes from tfguard up to the CI's own.

use procfs::process::{FDPermissions, FDTarget, Process as Proc, all_processes};

use crate::model::{ProcessId, Provider};

/// A longer way up means that something is wrong with what was read.
const HIGHEST: usize = 128;

/// This process or one above it, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ancestor {
    /// Its ID in this PID namespace.
    pub pid: i32,
    /// Its start time in clock ticks after boot.
    pub start_ticks: u64,
    /// Its parent; 0 for one that was put into this PID namespace from outside, and for the first.
    pub parent: i32,
    /// Its program's name, as the kernel has it (15 bytes at most).
    pub name: String,
    /// Its command line. Not shown: it can hold secrets.
    pub arguments: Vec<String>,
}

impl Ancestor {
    fn read(pid: i32) -> Option<Self> {
        let process = Proc::new(pid).ok().filter(|_| pid > 0)?;
        let stat = process.stat().ok()?;
        let arguments = process.cmdline().unwrap_or_default();
        Some(Self { pid, start_ticks: stat.starttime, parent: stat.ppid, name: stat.comm, arguments })
    }

    /// Whether it is the part of a CI system that starts the steps of jobs. Jenkins' own shell, which has the cookie in
    /// `jsc` (durable-task-plugin, `BourneShellScript.java`), is one: what started that one ends at once.
    fn is_agent(&self) -> bool {
        const NAMES: [&str; 9] = [
            "Runner.Worker",
            "Agent.Worker",
            "gitlab-runner",
            "gitlab-runner-h",
            "buildkite-agent",
            "act",
            "act_runner",
            "forgejo-runner",
            "circleci-agent",
        ];
        let is_jenkins =
            |word: &String| ["agent.jar", "remoting.jar", "jenkins.war"].iter().any(|jar| word.ends_with(jar));
        NAMES.contains(&self.name.as_str())
            || (self.name == "java" && self.arguments.iter().any(is_jenkins))
            || self.arguments.iter().any(|word| word.contains("jsc=") || word.contains("-cookieval=durable-"))
    }

    /// Whether it is a shell: it waits for what it started, and passes no signal on.
    fn is_shell(&self) -> bool {
        let is = |name: &str| matches!(name, "sh" | "bash" | "dash" | "ash" | "busybox" | "zsh" | "ksh" | "pwsh");
        // A script has its own name, and its interpreter is the first word.
        is(&self.name) || self.arguments.first().is_some_and(|word| word.rsplit('/').next().is_some_and(is))
    }

    /// Whether it is Node, which dies of a signal and leaves what it started.
    fn is_node(&self) -> bool {
        self.name.starts_with("node") || self.arguments.first().is_some_and(|word| word.ends_with("/node"))
    }

    /// Whether it is the one task of Azure Pipelines that passes signals on (`Tasks/BashV3/bash.ts`).
    fn is_bash_task(&self) -> bool {
        self.arguments.iter().any(|word| word.contains("/Bash_") && word.ends_with("/bash.js"))
    }
}

/// This process, its parent and so on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain(pub Vec<Ancestor>);

impl Chain {
    /// As far up as can be seen. `whole`: not the parent alone.
    pub fn look(whole: bool) -> Self {
        let own = Ancestor::read(std::process::id().cast_signed());
        let chain = std::iter::successors(own, |process| Ancestor::read(process.parent));
        Self(chain.take(if whole { HIGHEST } else { 2 }).collect())
    }

    /// Those of the job: up to the CI's own. All that can be seen where the CI's cannot.
    fn job(&self) -> &[Ancestor] {
        let end = self.0.iter().position(Ancestor::is_agent).unwrap_or(self.0.len());
        &self.0[..end]
    }

    /// Those whose end is a request to stop: the parent, and in a job of a CI whoever waits above it, up to the CI's own.
    /// What the init process started, or took over, is no part of the job: a daemon, or a shell that was left behind on
    /// purpose. Outside a CI people detach things (tmux, a shell's background), so there it is the parent alone.
    pub fn waiting(&self, in_job: bool) -> Vec<ProcessId> {
        let parent = self.0.iter().skip(1).take(1);
        let above = self.job().iter().skip(2).filter(|process| in_job && process.parent != 1);
        let waiting = parent.chain(above).filter(|process| process.pid > 1);
        waiting.map(|process| ProcessId { pid: process.pid, start_ticks: process.start_ticks }).collect()
    }

    /// Whether the job was cancelled before tfguard began, in GitLab's shell executor below `su`: the shell that led its
    /// session is dead, and the one that runs the script, a copy of it, goes on as nobody's.
    pub fn is_orphan_of_su(&self) -> bool {
        let leader = nix::unistd::getsid(None).map_or(0, nix::unistd::Pid::as_raw);
        let top = self.0.iter().find(|process| process.parent == 1);
        leader > 1 && ProcessId::of(leader).is_none() && top.is_some_and(|top| top.arguments == ["bash", "-l"])
    }

    /// From the CI down to tfguard.
    pub fn shown(&self) -> String {
        let shown = |process: &Ancestor| format!("{} ({})", process.name, process.pid);
        self.0.iter().rev().map(shown).collect::<Vec<_>>().join(" > ")
    }

    /// Whether something waits for tfguard that `exec` would replace, in a CI that signals only what it started itself.
    pub fn lacks_exec(&self, provider: Option<Provider>) -> bool {
        let Some(parent) = self.0.get(1) else { return false };
        match provider {
            // They signal the process group, except for GitLab's runner as packages install it: there `su` tells the shell
            // below it alone, which dies of it two seconds later. `exec` changes nothing about that.
            Some(Provider::Buildkite | Provider::Gitlab) => false,
            Some(Provider::Jenkins) => parent.is_shell() && !parent.is_agent(),
            Some(_) if self.job().len() < self.0.len() => self.job().iter().skip(1).any(|process| !process.is_node()),
            Some(_) => parent.is_shell(),
            // A container's first process gets the stop.
            None => parent.is_shell() && parent.pid == 1,
        }
    }

    /// Whether a Node program of the CI's stands above that passes no signal on.
    pub fn has_deaf_node(&self) -> bool {
        self.job().iter().skip(1).any(|process| process.is_node() && !process.is_bash_task())
    }

    /// The name of a process that the job's script put behind tfguard in a pipe. The CI reads what steps print, too, and so
    /// does, until its exec, whatever it starts meanwhile.
    pub fn reader_of_stdout(&self) -> Option<String> {
        let FDTarget::Pipe(pipe) = Proc::myself().ok()?.fd_from_fd(1).ok()?.target else { return None };
        let reads = |process: &Proc| {
            process.fd().into_iter().flatten().flatten().any(|open| {
                open.mode().contains(FDPermissions::READ)
                    && matches!(open.target, FDTarget::Pipe(inode) if inode == pipe)
            })
        };
        let mut all = all_processes().ok()?.flatten();
        let reader = all.find(|process| {
            process.stat().is_ok_and(|stat| self.may_be_behind(process.pid, stat.ppid)) && reads(process)
        })?;
        Some(reader.stat().ok()?.comm)
    }

    /// Whether the script started it beside tfguard: the shell that became tfguard, its parent, or that one's.
    fn may_be_behind(&self, pid: i32, parent: i32) -> bool {
        self.0.iter().all(|above| above.pid != pid) && self.job().iter().take(3).any(|above| above.pid == parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Provider::{Azure, Buildkite, GithubActions, Gitlab, Jenkins, Other};

    /// A chain from command lines, from the top down.
    fn chain(top_down: &[&str]) -> Chain {
        let process = |(pid, words): (i32, &&str)| {
            let arguments: Vec<_> = words.split(' ').map(str::to_owned).collect();
            let name = arguments[0].rsplit('/').next().unwrap().to_owned();
            Ancestor { pid, start_ticks: 0, parent: pid - 1, name, arguments }
        };
        let mut chain: Vec<_> = (10..).zip(top_down).map(process).collect();
        chain.reverse();
        Chain(chain)
    }

    const BASH_TASK: &str = "/externals/node20/bin/node /_tasks/Bash_6c7/3.2/bash.js";

    #[test]
    fn what_exec_would_have_replaced_is_found_in_the_shapes_of_each_ci() {
        let durable = "sh -c ({while:;}&jsc=durable-1;sh";
        for (provider, top_down, expected) in [
            (Some(GithubActions), &["Runner.Listener", "Runner.Worker", "tfguard"][..], false),
            (Some(GithubActions), &["Runner.Worker", "bash -e x.sh", "tfguard"], true),
            (Some(GithubActions), &["Runner.Worker", "bash -e x.sh", "make", "tfguard"], true),
            (Some(GithubActions), &["Runner.Worker", "node index.js", "tfguard"], false),
            (Some(GithubActions), &["sh -e x.sh", "tfguard"], true),
            (Some(Azure), &["Agent.Worker", BASH_TASK, "tfguard"], false),
            (Some(Azure), &["Agent.Worker", BASH_TASK, "/usr/bin/bash x", "tfguard"], true),
            (Some(Gitlab), &["gitlab-runner run", "bash -l", "bash -l", "tfguard"], false),
            (Some(Gitlab), &["gitlab-runner run", "su -s /bin/bash x", "bash -l", "tfguard"], false),
            (Some(Gitlab), &["gitlab-runner run", "su -s /bin/bash x", "bash -l", "bash -l", "tfguard"], false),
            (Some(Jenkins), &["java -jar remoting.jar", durable, "tfguard"], false),
            (Some(Jenkins), &["java -jar remoting.jar", durable, "sh -xe /w/script.sh", "tfguard"], true),
            (Some(Buildkite), &["buildkite-agent bootstrap", "sh -c x", "tfguard"], false),
            (Some(Other), &["runner", "./deploy", "tfguard"], false),
            (Some(Other), &["runner", "/bin/sh ./deploy.sh", "tfguard"], true),
            (None, &["systemd", "bash", "tfguard"], false),
            (None, &["tfguard"], false),
        ] {
            assert_eq!(chain(top_down).lacks_exec(provider), expected, "{provider:?} {top_down:?}");
        }
        let mut first = chain(&["sh -c x", "tfguard"]);
        first.0[1].pid = 1;
        assert!(first.lacks_exec(None), "the first process of a container");
    }

    #[test]
    fn whoever_waits_for_tfguard_is_watched_up_to_the_cis_own() {
        let durable = "sh -c ({while:;}&jsc=durable-1;sh";
        for (in_job, top_down, expected) in [
            (true, &["systemd", "gitlab-runner run", "su -s /bin/bash x", "bash -l", "bash -l", "tfguard"][..], 3),
            (true, &["Runner.Listener", "Runner.Worker", "tfguard"], 1),
            (true, &["Agent.Worker", "node /_tasks/AzureCLI_46e/2.0/azureclitask.js", "bash x", "tfguard"], 2),
            // What started Jenkins' own shell may be there for a moment still.
            (true, &["java -jar remoting.jar", durable, durable, "sh -xe x.sh", "make", "tfguard"], 2),
            (true, &["java -jar remoting.jar", durable, durable, "tfguard"], 1),
            (true, &["unknown-agent", "sh x.sh", "make", "tfguard"], 3),
            (false, &["tmux", "bash", "make", "tfguard"], 1),
            (true, &["tfguard"], 0),
        ] {
            assert_eq!(chain(top_down).waiting(in_job).len(), expected, "{top_down:?}");
        }
        // The first process of a container, and what that one started, are no part of the job.
        let mut container = chain(&["tini", "sh x.sh", "make", "tfguard"]);
        for (pid, process) in (1..).zip(container.0.iter_mut().rev()) {
            (process.pid, process.parent) = (pid, pid - 1);
        }
        assert_eq!(container.waiting(true).len(), 1);
    }

    #[test]
    fn only_azures_bash_task_is_a_node_program_that_passes_signals_on() {
        let deaf = |top_down: &[&str]| chain(top_down).has_deaf_node();
        assert!(!deaf(&["Agent.Worker", BASH_TASK, "tfguard"]));
        assert!(deaf(&["Agent.Worker", "/bin/node /_tasks/AzureCLI_46e/2.0/azureclitask.js", "bash", "tfguard"]));
        assert!(!deaf(&["node RunnerService.js", "Runner.Worker", "tfguard"]), "the CI's own");
    }

    /// Guards against a warning about a pipe because of a process that the CI was just starting.
    #[test]
    fn what_reads_from_a_pipe_is_of_the_script() {
        let chain = chain(&["Runner.Listener", "Runner.Worker", "bash -e x.sh", "tfguard"]);
        for (pid, parent, expected) in [(20, 12, true), (20, 13, true), (20, 11, false), (12, 12, false)] {
            assert_eq!(chain.may_be_behind(pid, parent), expected, "{pid} of {parent}");
        }
    }
}
