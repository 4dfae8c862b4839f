//! When the CI ends the job by itself, where it tells.

use std::ffi::OsStr;
use std::time::Duration;

use jiff::Timestamp;
use procfs::process::Process;

use crate::ci::grace::{LONGEST, duration};
use crate::model::Environment;

/// What is left of a job's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeLeft {
    /// The time.
    pub left: Duration,
    /// Who says so, in words.
    pub says: &'static str,
}

/// How much of the job's time is left, where the CI tells its limit:
///
/// * GitLab: `CI_JOB_TIMEOUT` (seconds) from `CI_JOB_STARTED_AT` (RFC 3339). The script has a limit of its own in
///   `RUNNER_SCRIPT_TIMEOUT` (a duration of Go's), which begins somewhat later than it is counted here.
/// * Buildkite: `BUILDKITE_TIMEOUT` (minutes, or `false`) of the whole job, whose beginning is not told. `age` says for
///   how long the job has been seen to run.
///
/// GitHub Actions, Azure Pipelines, Jenkins and CircleCI have limits and tell none.
pub fn time_left(env: &Environment, now: Timestamp, age: impl FnOnce() -> Option<Duration>) -> Option<TimeLeft> {
    if let Some(started) = env.text("CI_JOB_STARTED_AT").and_then(|text| text.parse::<Timestamp>().ok()) {
        let job = env.text("CI_JOB_TIMEOUT").and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let script = env.text("RUNNER_SCRIPT_TIMEOUT").and_then(duration);
        let job = job.map(|limit| (limit, "GitLab's CI_JOB_TIMEOUT and CI_JOB_STARTED_AT"));
        let script = script.map(|limit| (limit, "RUNNER_SCRIPT_TIMEOUT and CI_JOB_STARTED_AT"));
        let (limit, says) = job.into_iter().chain(script).min()?;
        let spent = Duration::try_from(now.duration_since(started)).unwrap_or_default();
        return Some(TimeLeft { left: limit.saturating_sub(spent).min(LONGEST), says });
    }
    let minutes: u64 = env.text("BUILDKITE_TIMEOUT")?.parse().ok().filter(|minutes| *minutes > 0)?;
    let left = Duration::from_secs(minutes.saturating_mul(60)).saturating_sub(age()?).min(LONGEST);
    Some(TimeLeft { left, says: "BUILDKITE_TIMEOUT and the age of the job's processes" })
}

/// How long ago the oldest process began that this one descends from and that has this variable with this value.
pub fn job_age(name: &str, value: &str) -> Option<Duration> {
    let now = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?);
    let mut process = Process::myself().ok()?;
    let mut oldest = None;
    loop {
        let of_job = process.environ().is_ok_and(|env| env.get(OsStr::new(name)).is_some_and(|found| found == value));
        let stat = process.stat().ok()?;
        if !of_job {
            break;
        }
        oldest = Some(stat.starttime);
        match Process::new(stat.ppid) {
            Ok(parent) => process = parent,
            Err(_) => break,
        }
    }
    let began = Duration::from_millis(oldest?.saturating_mul(1000) / procfs::ticks_per_second());
    Some(now.saturating_sub(began))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn left(variables: &[(&str, &str)], now: &str, age: Option<Duration>) -> Option<Duration> {
        time_left(&variables.iter().copied().collect(), now.parse().unwrap(), || age).map(|limit| limit.left)
    }

    #[test]
    fn gitlab_tells_how_much_time_is_left() {
        let job = [("CI_JOB_STARTED_AT", "2026-01-01T10:00:00Z"), ("CI_JOB_TIMEOUT", "3600")];
        assert_eq!(left(&job, "2026-01-01T10:20:00Z", None), Some(Duration::from_secs(2400)));
        assert_eq!(left(&job, "2026-01-01T12:00:00Z", None), Some(Duration::ZERO));
        assert_eq!(left(&job, "2026-01-01T09:00:00Z", None), Some(HOUR));
        let script = |limit| left(&[job[0], job[1], ("RUNNER_SCRIPT_TIMEOUT", limit)], "2026-01-01T10:00:00Z", None);
        assert_eq!(script("50m"), Some(Duration::from_secs(3000)), "the sooner one");
        assert_eq!(script("2h"), Some(HOUR));
        for ignored in ["", "0s", "-5m", "soon"] {
            assert_eq!(script(ignored), Some(HOUR), "the runner ignores {ignored:?}");
        }
        for variables in [&[][..], &job[..1], &job[1..], &[("CI_JOB_STARTED_AT", "x"), job[1]]] {
            assert_eq!(left(variables, "2026-01-01T10:00:00Z", None), None, "{variables:?}");
        }
    }

    #[test]
    fn buildkite_tells_its_limit_and_the_processes_their_age() {
        let at = |limit, age| left(&[("BUILDKITE_TIMEOUT", limit)], "2026-01-01T10:00:00Z", age);
        assert_eq!(at("60", Some(HOUR / 4)), Some(HOUR / 4 * 3));
        assert_eq!(at("60", Some(HOUR * 2)), Some(Duration::ZERO));
        assert_eq!(at("60", None), None);
        for none in ["false", "0", "", "-1"] {
            assert_eq!(at(none, Some(HOUR)), None, "{none:?}");
        }
    }

    #[test]
    fn an_absurd_limit_is_one_that_can_be_counted_with() {
        let huge = u64::MAX.to_string();
        let gitlab = [("CI_JOB_STARTED_AT", "2026-01-01T10:00:00Z"), ("CI_JOB_TIMEOUT", huge.as_str())];
        assert_eq!(left(&gitlab, "2026-01-01T10:00:00Z", None), Some(LONGEST));
        assert_eq!(left(&[("BUILDKITE_TIMEOUT", &huge)], "2026-01-01T10:00:00Z", Some(HOUR)), Some(LONGEST));
    }

    #[test]
    fn a_job_is_as_old_as_its_oldest_process() {
        // Of the caller's environment, so that this process has it and its parent may.
        let (name, value) = std::env::vars().find(|(_, value)| !value.is_empty()).unwrap();
        assert!(job_age(&name, &value).is_some());
        assert_eq!(job_age("TFGUARD_NOBODY_HAS_THIS", "1"), None);
    }
}
