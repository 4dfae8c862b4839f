//! How long Terraform may take to end, by where it runs: what the CI leaves between its first signal and the end.
//!
//! The supervisor is out of reach of the CI's signals, so what counts is how long it lives: as long as the machine where
//! that goes on after the job, as long as the job where the machine goes with it, as long as the container where that is
//! removed. The facts are those of the CI systems' own sources.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use jiff::SignedDuration;

use crate::model::{Environment, Term};

/// What tells where tfguard runs.
pub struct Surroundings<'a> {
    /// The environment.
    pub env: &'a Environment,
    /// The process that the CI started is the first of its PID namespace.
    pub is_pid_1: bool,
    /// It runs in a container.
    pub in_container: bool,
    /// A later step of this job runs `tfguard release` (`--cleanup-step`).
    pub cleanup_step: bool,
}

impl<'a> Surroundings<'a> {
    /// Those of this process.
    pub fn here(env: &'a Environment, cleanup_step: bool) -> Self {
        // Docker's mark and Podman's.
        let in_container = ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| std::path::Path::new(mark).exists());
        Self { env, is_pid_1: std::process::id() == 1, in_container, cleanup_step }
    }
}

/// Where nobody waits: longer than most providers need to end what they are doing.
pub const UNHURRIED: Duration = Duration::from_secs(5 * 60);
/// Most providers end within this what they are doing.
pub const LONG_ENOUGH: Duration = Duration::from_secs(60);
/// How long `tfguard release` waits unless it is told otherwise, and what it keeps of that for the kill and the release.
const CLEANUP_WAIT: Duration = Duration::from_secs(4 * 60);
const CLEANUP_RESERVE: Duration = Duration::from_secs(30);
/// From the cancel to the end of the job's remaining steps: GitHub documents 5 minutes, of which the runner keeps 15
/// seconds for itself (actions/runner, `JobDispatcher.cs`); Azure Pipelines, of the same descent, has
/// `cancelTimeoutInMinutes`, 5 unless set, and tells it to nobody.
const LATER_STEPS: Duration = Duration::from_secs(285);
/// The `after_script` of a GitLab job, where `RUNNER_AFTER_SCRIPT_TIMEOUT` does not say otherwise (gitlab-runner,
/// `common/consts.go`).
const AFTER_SCRIPT: Duration = Duration::from_secs(5 * 60);
/// From SIGTERM to SIGKILL for a pod that says nothing else (`terminationGracePeriodSeconds`).
const POD: Duration = Duration::from_secs(30);
/// The same of `docker stop`, and of the ladders of GitHub and Azure (`ProcessInvoker.cs` of both).
const TEN_SECONDS: Duration = Duration::from_secs(10);

/// What a cleanup step leaves that waits as long as `TFGUARD_WAIT` says, or as it does unless it is told otherwise.
pub fn cleanup_grace(env: &Environment) -> Duration {
    let wait = env.text("TFGUARD_WAIT").and_then(duration).unwrap_or(CLEANUP_WAIT);
    wait.saturating_sub(CLEANUP_RESERVE).max(wait / 2)
}

impl Surroundings<'_> {
    fn is(&self, name: &str, value: &str) -> bool {
        self.env.text(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    fn in_pod(&self) -> bool {
        self.env.has("KUBERNETES_SERVICE_HOST")
    }

    /// The machine outlives the job, and the supervisor with it.
    fn machine_stays(&self) -> bool {
        !self.in_container && !self.is_pid_1 && !self.in_pod()
    }

    /// As long as the cleanup step waits, if the CI lets it for `at_most`.
    fn until_cleanup(&self, at_most: Duration, why: &str) -> Term {
        Term::new(cleanup_grace(self.env).min(less_release(at_most)), why)
    }

    /// As long as the cleanup step waits, if there is one, where nothing else is known.
    pub(super) fn unhurried(&self, why: &str) -> Term {
        if self.cleanup_step { self.until_cleanup(Duration::MAX, why) } else { Term::new(UNHURRIED, why) }
    }

    pub(super) fn github(&self) -> Term {
        if !self.env.has("RUNNER_ENVIRONMENT") {
            // Gitea, Forgejo and act call themselves GitHub Actions too.
            return self.unhurried("GITHUB_ACTIONS is set but RUNNER_ENVIRONMENT is not: its cancel is not known");
        }
        if self.cleanup_step {
            self.until_cleanup(LATER_STEPS, "GitHub gives the steps after a cancel 5 minutes, and one of them waits")
        } else if self.is("RUNNER_ENVIRONMENT", "self-hosted") && self.machine_stays() {
            Term::new(UNHURRIED, "a self-hosted GitHub runner's machine stays after the job")
        } else {
            let why = "GitHub kills a cancelled step after 10 seconds, and no cleanup step is declared";
            Term::ends_after(TEN_SECONDS, why)
        }
    }

    pub(super) fn gitlab(&self) -> Term {
        // gitlab-runner, `common/build.go`: shared are the shell, ssh, custom and instance executors.
        if self.env.has("CI_SHARED_ENVIRONMENT") {
            // Seen on gitlab-runner 19.4. Which executor it is, no job can see; a custom one has `graceful_kill_timeout`.
            let why =
                "GitLab's shell executor gives a script 5 minutes at a forced cancel and at the job's limit, else 10";
            return Term::ends_after(Duration::from_secs(5 * 60), why);
        }
        if self.in_pod() {
            if self.cleanup_step {
                let limit = self.env.text("RUNNER_AFTER_SCRIPT_TIMEOUT").and_then(duration);
                let why = "GitLab's Kubernetes executor keeps the pod while after_script waits";
                return self.until_cleanup(limit.unwrap_or(AFTER_SCRIPT), why);
            }
            let why = "GitLab deletes the pod of a cancelled job, with 30 seconds unless configured";
            return Term::ends_after(POD, why);
        }
        let native = self.is("FF_USE_NATIVE_CONTAINER_STOP", "true") || self.is("FF_USE_NATIVE_CONTAINER_STOP", "1");
        let (grace, why) = match (self.cleanup_step, native) {
            // A kill would come sooner than the container's end and gain nothing: after_script releases then.
            (true, false) => {
                (2 * TEN_SECONDS, "GitLab removes the container after some 20 seconds, and after_script releases")
            }
            (true, true) => (TEN_SECONDS, "GitLab stops the container within 10 seconds, and after_script releases"),
            // It goes from process to process, providers first, so the supervisor learns of it late
            // (`shells/bash.go`).
            (false, false) => {
                (Duration::from_secs(8), "GitLab's docker executor removes the container after some 20 seconds")
            }
            (false, true) => (less_release(TEN_SECONDS), "GitLab stops the container within 10 seconds"),
        };
        Term::new(grace, why)
    }

    pub(super) fn jenkins(&self) -> Term {
        if self.cleanup_step {
            self.until_cleanup(Duration::MAX, "Jenkins sets `post` no limit, and a step there waits")
        } else if self.machine_stays() {
            Term::new(UNHURRIED, "Jenkins sends no SIGKILL, and its agent's machine stays after the build")
        } else {
            // DurableTaskStep.java, REMOTE_TIMEOUT.
            let why = "Jenkins gives an aborted step up after 20 seconds, and then its container";
            Term::ends_after(2 * TEN_SECONDS, why)
        }
    }

    pub(super) fn buildkite(&self) -> Term {
        let seconds = |name| self.env.text(name).and_then(|text| text.parse::<i64>().ok());
        // Agent v4 tells the time, v3 what it is computed from (buildkite/agent, `clicommand/cancel_signal.go`).
        let timeout = self.env.text("BUILDKITE_CANCEL_SIGNAL_TIMEOUT").and_then(duration);
        let ladder = timeout.unwrap_or_else(|| {
            let cancel = seconds("BUILDKITE_CANCEL_GRACE_PERIOD").unwrap_or(10);
            let signal = match seconds("BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS").unwrap_or(-1) {
                relative @ ..0 => cancel.saturating_add(relative),
                absolute => absolute,
            };
            Duration::from_secs(u64::try_from(signal).unwrap_or_default())
        });
        // The hook has no time of its own: after this it does not even start.
        let why = "the Buildkite agent kills a cancelled command, and what is left of its hooks, after the signal's grace period";
        let ladder = Term::ends_after(ladder, why);
        let stays = !self.is("BUILDKITE_COMPUTE_TYPE", "hosted") && self.machine_stays();
        let is_heard = self.cleanup_step && ladder.duration >= LONG_ENOUGH;
        if stays && !is_heard && ladder.duration < UNHURRIED {
            Term::new(UNHURRIED, "a self-hosted Buildkite agent's machine stays after the job")
        } else {
            ladder
        }
    }

    pub(super) fn azure(&self) -> Term {
        if self.cleanup_step {
            let why = "Azure gives the steps after a cancel 5 minutes unless set otherwise, and one of them waits";
            return self.until_cleanup(LATER_STEPS, why);
        }
        // azure-pipelines-agent, `Constants.cs` and `JobRunner.cs`.
        if self.is("AGENT_ISSELFHOSTED", "1") && self.machine_stays() {
            return Term::new(UNHURRIED, "a self-hosted Azure agent's machine stays after the job");
        }
        let milliseconds =
            |name, otherwise| self.env.text(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
        let ladder = milliseconds("PROCESS_SIGINT_TIMEOUT", 7500_u64)
            .saturating_add(milliseconds("PROCESS_SIGTERM_TIMEOUT", 2500_u64));
        let why = "Azure kills a cancelled step after its two time-outs, and no cleanup step is declared";
        Term::ends_after(Duration::from_millis(ladder), why)
    }

    /// `ci`: one of which nothing is known.
    pub(super) fn elsewhere(&self, ci: bool) -> Term {
        if self.in_pod() {
            let why = "a Kubernetes pod has 30 seconds unless its terminationGracePeriodSeconds says otherwise";
            Term::ends_after(POD, why)
        } else if self.is_pid_1 || (ci && self.in_container) {
            Term::ends_after(TEN_SECONDS, "a container is stopped within 10 seconds unless told otherwise")
        } else if !ci && self.env.has("INVOCATION_ID") {
            let why = "systemd stops a unit within 90 seconds unless its TimeoutStopSec says otherwise";
            Term::ends_after(Duration::from_secs(90), why)
        } else {
            self.unhurried("nothing is known to end it sooner here")
        }
    }
}

impl Term {
    /// A time and why it is so.
    pub fn new(duration: Duration, why: &str) -> Self {
        Self { duration, why: why.to_owned() }
    }

    /// The grace where all is over after `total`.
    fn ends_after(total: Duration, why: &str) -> Self {
        Self::new(less_release(total), why)
    }
}

/// A third of it is kept for the kill and the release: four seconds at least, since a release waits two for requests that
/// are under way, and a minute at most, since it is given 45 seconds. What is longer than a day is a mistake somewhere.
fn less_release(total: Duration) -> Duration {
    let total = total.min(Duration::from_secs(24 * 3600));
    let reserve = (total / 3).clamp(Duration::from_secs(4), Duration::from_secs(60));
    let grace = total.saturating_sub(reserve).max(Duration::from_secs(1));
    Duration::from_secs(grace.as_secs())
}

/// Longer than any job, short enough that no sum of such times overflows.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A duration as the CI systems (Go, mostly) and tfguard's options write it; none if it is no time at all.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let duration = Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()?;
    (!duration.is_zero()).then_some(duration.min(LONGEST))
}

/// The first PID namespace of a kernel, that of no container (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const OF_THE_HOST: u64 = 0xEFFF_FFFC;
/// The first process of a container that is a machine of its own, with services and with logins of others.
const INITS: [&str; 2] = ["systemd", "init"];

/// Whether this process runs in a container that holds one job: in a PID namespace of its own, without an init system.
pub fn is_in_container_of_a_job() -> bool {
    let on_host = std::fs::metadata("/proc/self/ns/pid").map_or(true, |namespace| namespace.ino() == OF_THE_HOST);
    let first = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    !on_host && !first.is_empty() && !INITS.contains(&first.trim_end())
}

#[cfg(test)]
mod tests;
