//! Whom each CI signals when it cancels a job, and whether tfguard is among them.
//!
//! From the sources of the CI systems: `ProcessInvoker.cs` of GitHub's and Azure's agents, gitlab-runner's
//! `executors/` and `helpers/process/killer_unix.go`, Jenkins' `ProcessTree.java`, Buildkite's
//! `internal/process/signal_notwindows.go`.

use super::chain::{Chain, Process, Stdout};
use crate::ci::Provider;
use crate::commands::doctor::finding::{Area::Signals, Finding};

/// How GitLab runs a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// On the runner's machine.
    Shell,
    /// In a container of its own.
    Docker,
    /// The same, where the runner tells only the first process of the container to stop.
    DockerNativeStop,
    /// In a pod.
    Kubernetes,
}

/// What the environment tells of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// The CI system.
    pub provider: Option<Provider>,
    /// How GitLab runs it.
    pub executor: Option<Executor>,
    /// A later step runs `tfguard release`, as TFGUARD_CLEANUP_STEP declares.
    pub cleanup_step: bool,
    /// tfguard is told not to stop when the process that started it ends.
    pub outlives_parent: bool,
    /// The job runs on a machine of its owner's, which goes on after it.
    pub self_hosted: bool,
    /// No CI is known, and systemd started it.
    pub systemd_unit: bool,
}

impl Job {
    /// Reads it from the environment.
    pub fn detect(env: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let says_yes = |name: &str| {
            get(name).is_some_and(|value| !["0", "f", "false", "n", "no", "off"].contains(&&*value.to_lowercase()))
        };
        let provider = crate::ci::Run::detect(&env).map(|run| run.provider);
        let executor = (provider == Some(Provider::Gitlab)).then(|| {
            // gitlab-runner, `common/build.go`: shared are the shell, ssh, custom and instance executors.
            if get("CI_SHARED_ENVIRONMENT").is_some() {
                Executor::Shell
            } else if get("KUBERNETES_SERVICE_HOST").is_some() {
                Executor::Kubernetes
            } else if says_yes("FF_USE_NATIVE_CONTAINER_STOP") {
                Executor::DockerNativeStop
            } else {
                Executor::Docker
            }
        });
        Self {
            provider,
            executor,
            cleanup_step: says_yes("TFGUARD_CLEANUP_STEP"),
            outlives_parent: says_yes("TFGUARD_OUTLIVE_PARENT"),
            self_hosted: get("RUNNER_ENVIRONMENT").as_deref() == Some("self-hosted")
                || get("AGENT_ISSELFHOSTED").as_deref() == Some("1"),
            systemd_unit: provider.is_none() && get("INVOCATION_ID").is_some(),
        }
    }
}

/// Who receives the first signal of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    /// The process that the CI started itself, and nobody else.
    Entry,
    /// A task of Azure Pipelines, which may pass it on to what it started.
    Task,
    /// Its process group.
    Group,
    /// Every process of the job.
    Everybody,
    /// What the shell of the job's script started itself.
    ChildrenOfScript,
    /// The first process of the container.
    First,
    /// Nobody, as far as is documented.
    Nobody,
    /// It is not known.
    Unknown,
}

impl Job {
    fn receiver(self, chain: &Chain) -> Receiver {
        match (self.provider, self.executor) {
            (Some(Provider::GithubActions), _) => Receiver::Entry,
            (Some(Provider::Azure), _) => Receiver::Task,
            (Some(Provider::Gitlab), Some(Executor::Docker)) | (Some(Provider::Jenkins), _) => Receiver::Everybody,
            (Some(Provider::Gitlab), Some(Executor::Kubernetes)) => Receiver::ChildrenOfScript,
            (Some(Provider::Gitlab), Some(Executor::DockerNativeStop)) => Receiver::First,
            (Some(Provider::Gitlab | Provider::Buildkite), _) => Receiver::Group,
            (Some(Provider::Circleci), _) => Receiver::Nobody,
            (Some(Provider::Other) | None, _) if chain.contained => Receiver::First,
            (Some(Provider::Other) | None, _) => Receiver::Unknown,
        }
    }
}

/// What follows from all this.
#[must_use]
pub fn findings(job: Job, chain: &Chain) -> Vec<Finding> {
    let mut findings = vec![way(chain), receiver(job, chain)];
    findings.extend(in_the_way(job, chain));
    findings.extend(special(job));
    findings.extend(pipe(chain));
    findings.extend(dispositions(job, chain));
    findings.extend(cleanup(job, chain.contained));
    findings
}

/// The processes as they stand.
fn way(chain: &Chain) -> Finding {
    let shown = |process: &Process| format!("{} ({})", process.name, process.pid);
    let way: Vec<_> = chain.processes.iter().rev().map(shown).collect();
    let container = if chain.contained { "in a container: " } else { "" };
    Finding::ok(Signals, "process-chain", format!("{container}{}", way.join(" > ")))
}

fn receiver(job: Job, chain: &Chain) -> Finding {
    const ID: &str = "cancel-receiver";
    let (Some(own), Some(entry)) = (chain.own(), chain.entry()) else {
        return Finding::note(Signals, ID, "the processes above this one cannot be seen")
            .why("whom a cancel reaches is not known");
    };
    let at_parents_end = if job.outlives_parent {
        "tfguard is told to outlive it (--outlive-parent), so nothing stops the run"
    } else {
        "tfguard stops when it sees that the process that started it has ended"
    };
    let is_entry = own.pid == entry.pid;
    match job.receiver(chain) {
        Receiver::Entry if chain.came_by_exec() => {
            Finding::warning(Signals, ID, "a cancel signals the client outside this container that started the step, and none comes in")
                .why("Terraform goes on until the container is removed with it, and its lock stays")
                .fix("let a later step of the job run `tfguard release`, with `if: always()`: it stops Terraform and waits for it")
        }
        Receiver::Entry if is_entry => {
            Finding::ok(Signals, ID, "a cancel is sent to the process that the CI started, and that is tfguard")
        }
        Receiver::Entry if entry.is_node() => Finding::warning(Signals, ID, format!("a cancel is sent to {}, a Node program, alone", entry.name))
            .why(format!("it passes no signal on; {at_parents_end}"))
            .fix("start tfguard from a script step: `exec tfguard -- terraform …` as its only command"),
        Receiver::Entry => Finding::warning(Signals, ID, format!("a cancel is sent to {}, which started tfguard, and not to tfguard", entry.name))
            .why(format!("a shell passes no signal on and ends seconds later; {at_parents_end}"))
            .fix("write `exec tfguard -- terraform …` as the last and only command of the step, without a pipe"),
        Receiver::Task if is_entry => Finding::ok(Signals, ID, "a cancel is sent to the process that the agent started, and that is tfguard"),
        Receiver::Task if chain.parent().is_some_and(|parent| parent.pid == entry.pid) && entry.is_bash_task() => {
            Finding::ok(Signals, ID, "a cancel is sent to the Bash task, which passes it on to tfguard")
        }
        Receiver::Task if chain.parent().is_some_and(|parent| parent.pid == entry.pid) => {
            Finding::warning(Signals, ID, format!("a cancel is sent to the task ({}) that started tfguard", entry.name))
                .why(format!("Bash@3 passes it on, AzureCLI@2 and others die of it; {at_parents_end}"))
                .fix("use a `bash:` step; get credentials in a step before it")
        }
        Receiver::Task => Finding::warning(Signals, ID, "a cancel is sent to the task, and by some passed on to its shell, but not to tfguard")
            .why(format!("a shell passes no signal on and ends; {at_parents_end}"))
            .fix("write `exec tfguard -- terraform …` as the last and only command of a `bash:` step, without a pipe"),
        Receiver::Group if chain.is_in_jobs_group() => {
            Finding::ok(Signals, ID, "a cancel is sent to the job's process group, and tfguard is in it")
        }
        Receiver::Group => Finding::warning(Signals, ID, "a cancel is sent to the job's process group, and tfguard is in another one")
            .why(format!("no signal reaches it; {at_parents_end}"))
            .fix("start tfguard without `setsid`, `set -m` or `timeout`, which give it a group of its own"),
        Receiver::Everybody => Finding::ok(Signals, ID, "a cancel is sent to every process of the job, to tfguard too"),
        Receiver::ChildrenOfScript if chain.parent().is_some_and(is_stage_script) => {
            Finding::ok(Signals, ID, "a cancel is sent to what `script:` started itself, and that is tfguard")
        }
        Receiver::ChildrenOfScript => Finding::warning(Signals, ID, "a cancel is sent to what `script:` started itself, and tfguard was started by something below that")
            .why(format!("no signal reaches it; {at_parents_end}"))
            .fix("call tfguard in `script:`, not in a script that is called there"),
        Receiver::First if own.pid == 1 => {
            Finding::ok(Signals, ID, "a stop is sent to the container's first process, and that is tfguard")
        }
        Receiver::First if chain.parent().is_some_and(|parent| parent.pid == 1 && parent.is_init()) => {
            Finding::ok(Signals, ID, "a stop is sent to the container's init, which passes it on to tfguard")
        }
        Receiver::First => Finding::warning(Signals, ID, "a stop is sent to the container's first process, and not to tfguard")
            .why(format!("a shell there passes nothing on, and the container is killed seconds later; {at_parents_end}"))
            .fix("make tfguard the container's first process: `exec` in its entrypoint, or an entrypoint in the form of a list"),
        Receiver::Nobody => Finding::warning(Signals, ID, "this CI documents no signal for a cancel")
            .why("Terraform may be killed without having been asked to stop, and no later step runs")
            .fix("run `tfguard release` in a job that runs when this one was cancelled"),
        Receiver::Unknown => Finding::note(Signals, ID, "no CI is known here, so whom it signals is not known")
            .why(format!("a signal to tfguard or its group is enough; without one, {at_parents_end}")),
    }
}

/// As the runner finds it: by the end of its command line (gitlab-runner, `executors/kubernetes/kubernetes.go`).
fn is_stage_script(process: &Process) -> bool {
    process.arguments.last().is_some_and(|last| last.ends_with("step_script"))
}

/// What stands between tfguard and the CI without being a shell.
fn in_the_way(job: Job, chain: &Chain) -> Vec<Finding> {
    let strange = |process: &&Process| !process.is_shell() && !process.is_node() && !process.is_init();
    let names: Vec<_> = chain.between().filter(strange).map(|process| process.name.as_str()).collect();
    if names.is_empty() || job.provider.is_none() {
        return Vec::new();
    }
    let seen = format!("between the CI and tfguard stand: {}", names.join(", "));
    vec![
        Finding::note(Signals, "between", seen)
            .why("whether they pass signals on, and how often, is up to them; tfguard makes one interrupt of all"),
    ]
}

fn special(job: Job) -> Option<Finding> {
    const ID: &str = "cancel-special";
    if job.systemd_unit {
        return Some(
            Finding::note(Signals, ID, "a systemd unit: unless its KillMode says otherwise, a stop signals every process of it")
                .why("Terraform's providers die of SIGTERM in the midst of their work, and tfguard's own processes cannot leave the unit")
                .fix("set KillMode=mixed, and TimeoutStopSec to more than the grace"),
        );
    }
    match (job.provider?, job.executor) {
        (Provider::Gitlab, Some(Executor::Docker)) => Some(
            Finding::warning(Signals, ID, "GitLab's docker executor signals every process of the container, Terraform's providers first, and removes it after some 20 seconds")
                .why("a provider dies of SIGTERM in the midst of its work; nothing inside the container can keep it from that")
                .fix("run applies on a shell or Kubernetes executor, or build an image with tfguard as its entrypoint and set FF_USE_NATIVE_CONTAINER_STOP"),
        ),
        (Provider::Gitlab, Some(Executor::DockerNativeStop)) => Some(
            Finding::note(Signals, ID, "FF_USE_NATIVE_CONTAINER_STOP is set: only the container's first process is told to stop, 10 seconds before the end"),
        ),
        (Provider::Jenkins, _) => Some(
            Finding::ok(Signals, ID, "Jenkins signals the whole tree of processes, again every 5 seconds; Terraform and tfguard's supervisor are not in it"),
        ),
        _ => None,
    }
}

fn pipe(chain: &Chain) -> Option<Finding> {
    let Stdout::Pipe { reader: Some(reader) } = &chain.stdout else { return None };
    Some(
        Finding::warning(Signals, "pipe", format!("stdout is a pipe that {} reads", reader.name))
            .why("with a pipe the shell stays in between, also where the command begins with `exec`; the step's exit code is that of the last command, and what is said last can be lost")
            .fix("write no pipe behind tfguard; --report has what happened as a file"),
    )
}

fn dispositions(job: Job, chain: &Chain) -> Option<Finding> {
    let ignored: Vec<_> =
        [(libc::SIGHUP, "SIGHUP"), (libc::SIGINT, "SIGINT"), (libc::SIGQUIT, "SIGQUIT"), (libc::SIGTERM, "SIGTERM")]
            .into_iter()
            .filter(|(number, _)| chain.ignored.contains(number))
            .map(|(_, name)| name)
            .collect();
    if ignored.is_empty() {
        return None;
    }
    let finding = Finding::note(Signals, "ignored", format!("{} ignored by what started tfguard", are(&ignored)));
    let nohup = job.provider.is_none() && chain.ignored.contains(&libc::SIGHUP);
    Some(finding.why(if nohup {
        "outside a CI that is nohup: neither SIGHUP nor the end of the process that started tfguard stops the run"
    } else {
        "usual for a shell that starts something in the background; tfguard hears them all the same"
    }))
}

fn are(signals: &[&str]) -> String {
    format!("{} {}", signals.join(", "), if signals.len() == 1 { "is" } else { "are" })
}

fn cleanup(job: Job, contained: bool) -> Option<Finding> {
    const ID: &str = "cleanup-step";
    let (where_to, needed) = match job.provider? {
        Provider::GithubActions => ("a later step with `if: always()`", contained || !job.self_hosted),
        Provider::Azure => ("a later step with `condition: always()`", contained || !job.self_hosted),
        Provider::Gitlab => ("`after_script`", job.executor != Some(Executor::Shell)),
        Provider::Jenkins => ("`post { always { … } }` of the same agent", false),
        Provider::Buildkite => ("the `pre-exit` hook", false),
        Provider::Circleci | Provider::Other => return None,
    };
    if job.cleanup_step {
        return Some(Finding::ok(Signals, ID, "a cleanup step is declared (TFGUARD_CLEANUP_STEP)"));
    }
    let seen = "no cleanup step is declared (TFGUARD_CLEANUP_STEP)";
    let fix = format!(
        "run `tfguard release` in {where_to}, and set TFGUARD_CLEANUP_STEP=true for the job, so that Terraform gets the time that this gives"
    );
    let finding = if needed { Finding::warning(Signals, ID, seen) } else { Finding::note(Signals, ID, seen) };
    Some(finding.why("after a cancel nothing waits for Terraform's end and shows what became of the lock, and the machine may go before it").fix(fix))
}

#[cfg(test)]
mod tests;
