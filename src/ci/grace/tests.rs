//! The table of the graces, case by case.

use proptest::prelude::*;

use super::*;
use crate::ci::grace;

/// What is there besides the environment.
#[derive(Clone, Copy, Default)]
struct Place {
    pid_1: bool,
    container: bool,
    cleanup: bool,
}

const MACHINE: Place = Place { pid_1: false, container: false, cleanup: false };
const CONTAINER: Place = Place { container: true, ..MACHINE };
const PID_1: Place = Place { pid_1: true, ..CONTAINER };

fn cleanup(place: Place) -> Place {
    Place { cleanup: true, ..place }
}

fn decide(variables: &[(&str, &str)], place: Place) -> Term {
    let env = variables.iter().copied().collect();
    let Place { pid_1, container, cleanup } = place;
    grace(&Surroundings { env: &env, is_pid_1: pid_1, in_container: container, cleanup_step: cleanup })
}

#[track_caller]
fn check(variables: &[(&str, &str)], place: Place, seconds: u64, why: &str) {
    let term = decide(variables, place);
    assert_eq!(term.duration, Duration::from_secs(seconds), "{variables:?}: {}", term.why);
    assert!(term.why.contains(why), "{variables:?}: {}", term.why);
}

const POD_HOST: (&str, &str) = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");

#[test]
fn github() {
    let hosted = [("GITHUB_ACTIONS", "true"), ("RUNNER_ENVIRONMENT", "github-hosted")];
    let own = [("GITHUB_ACTIONS", "true"), ("RUNNER_ENVIRONMENT", "self-hosted")];
    let alike = [("GITHUB_ACTIONS", "true")];
    check(&hosted, MACHINE, 6, "no cleanup step");
    check(&hosted, CONTAINER, 6, "no cleanup step");
    check(&hosted, cleanup(MACHINE), 210, "5 minutes");
    check(&own, MACHINE, 300, "machine stays");
    check(&own, cleanup(MACHINE), 210, "5 minutes");
    check(&own, CONTAINER, 6, "no cleanup step");
    check(&[own[0], own[1], POD_HOST], MACHINE, 6, "no cleanup step");
    check(&alike, CONTAINER, 300, "not known");
    check(&alike, cleanup(CONTAINER), 210, "not known");
}

/// The cleanup step waits no longer than it is told, and the CI no longer than it does.
#[test]
fn the_cleanup_steps_wait_counts() {
    let with = |wait| [("GITHUB_ACTIONS", "true"), ("RUNNER_ENVIRONMENT", "github-hosted"), ("TFGUARD_WAIT", wait)];
    check(&with("2m"), cleanup(MACHINE), 90, "5 minutes");
    check(&with("20s"), cleanup(MACHINE), 10, "5 minutes");
    check(&with("10m"), cleanup(MACHINE), 225, "5 minutes");
    check(&with("whenever"), cleanup(MACHINE), 210, "5 minutes");
    check(&with("2m"), MACHINE, 6, "no cleanup step");
}

/// Guards against a sum of times that overflows, which ended the supervisor and the front.
#[test]
fn an_absurd_wait_is_one_that_can_be_counted_with() {
    for text in ["2562047788015215h", "87600h"] {
        let wait = cleanup_grace(&[("TFGUARD_WAIT", text)].into_iter().collect());
        assert!(wait <= LONGEST, "{text}: {wait:?}");
    }
}

#[test]
fn gitlab() {
    let shell = [("GITLAB_CI", "true"), ("CI_SHARED_ENVIRONMENT", "true")];
    let docker = [("GITLAB_CI", "true"), ("CI_DISPOSABLE_ENVIRONMENT", "true")];
    let native = [docker[0], docker[1], ("FF_USE_NATIVE_CONTAINER_STOP", "true")];
    let pod = [docker[0], docker[1], POD_HOST];
    check(&shell, MACHINE, 240, "5 minutes at a forced cancel");
    check(&shell, cleanup(MACHINE), 240, "5 minutes at a forced cancel");
    check(&[shell[0], shell[1], POD_HOST], CONTAINER, 240, "5 minutes at a forced cancel");
    check(&docker, CONTAINER, 8, "docker executor");
    check(&docker, cleanup(CONTAINER), 20, "after_script releases");
    check(&native, CONTAINER, 6, "within 10 seconds");
    check(&native, cleanup(CONTAINER), 10, "after_script releases");
    check(&pod, CONTAINER, 20, "deletes the pod");
    check(&pod, cleanup(CONTAINER), 210, "after_script waits");
    let limited = |limit| [pod[0], pod[1], POD_HOST, ("RUNNER_AFTER_SCRIPT_TIMEOUT", limit), ("TFGUARD_WAIT", "1h")];
    check(&limited("10m"), cleanup(CONTAINER), 540, "after_script waits");
    check(&limited("1m30s"), cleanup(CONTAINER), 60, "after_script waits");
    check(&limited("never"), cleanup(CONTAINER), 240, "after_script waits");
}

#[test]
fn jenkins() {
    let jenkins = [("JENKINS_URL", "http://jenkins/")];
    check(&jenkins, MACHINE, 300, "no SIGKILL");
    check(&jenkins, CONTAINER, 13, "20 seconds");
    check(&[jenkins[0], POD_HOST], CONTAINER, 13, "20 seconds");
    check(&jenkins, cleanup(CONTAINER), 210, "no limit");
    check(&[jenkins[0], ("TFGUARD_WAIT", "30m")], cleanup(MACHINE), 1770, "no limit");
}

#[test]
fn buildkite() {
    let on = |more: &[(&'static str, &'static str)], place, seconds, why| {
        let variables: Vec<_> = [("BUILDKITE", "true")].into_iter().chain(more.iter().copied()).collect();
        check(&variables, place, seconds, why);
    };
    let hosted = ("BUILDKITE_COMPUTE_TYPE", "hosted");
    let v3 = ("BUILDKITE_CANCEL_GRACE_PERIOD", "120");
    on(&[], MACHINE, 300, "machine stays");
    on(&[("BUILDKITE_CANCEL_GRACE_PERIOD", "1200")], MACHINE, 1139, "signal's grace period");
    on(&[hosted], MACHINE, 5, "signal's grace period");
    on(&[hosted], cleanup(MACHINE), 5, "signal's grace period");
    on(&[], CONTAINER, 5, "signal's grace period");
    // A hook that runs is one that the command leaves time.
    on(&[("BUILDKITE_CANCEL_GRACE_PERIOD", "300")], MACHINE, 300, "machine stays");
    on(&[("BUILDKITE_CANCEL_GRACE_PERIOD", "300")], cleanup(MACHINE), 239, "signal's grace period");
    on(&[], cleanup(MACHINE), 300, "machine stays");
    on(&[hosted, v3], MACHINE, 79, "signal's grace period");
    on(&[hosted, v3, ("BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS", "60")], MACHINE, 40, "signal's grace period");
    on(&[hosted, v3, ("BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS", "-30")], MACHINE, 60, "signal's grace period");
    on(&[hosted, ("BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS", "-30")], MACHINE, 1, "signal's grace period");
    on(&[hosted, ("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", "5m0s")], MACHINE, 240, "signal's grace period");
}

#[test]
fn azure() {
    let hosted = [("TF_BUILD", "True"), ("AGENT_ISSELFHOSTED", "0")];
    let own = [("TF_BUILD", "True"), ("AGENT_ISSELFHOSTED", "1")];
    check(&hosted, MACHINE, 6, "no cleanup step");
    check(&[hosted[0], hosted[1], ("PROCESS_SIGINT_TIMEOUT", "120000")], MACHINE, 81, "no cleanup step");
    check(&hosted, cleanup(MACHINE), 210, "5 minutes");
    check(&own, MACHINE, 300, "machine stays");
    check(&own, CONTAINER, 6, "no cleanup step");
}

#[test]
fn elsewhere() {
    check(&[], MACHINE, 300, "nothing is known");
    check(&[], CONTAINER, 300, "nothing is known");
    check(&[], PID_1, 6, "container");
    check(&[POD_HOST], PID_1, 20, "terminationGracePeriodSeconds");
    check(&[POD_HOST], CONTAINER, 20, "terminationGracePeriodSeconds");
    check(&[("INVOCATION_ID", "f00d")], MACHINE, 60, "TimeoutStopSec");
    check(&[("CI", "true")], MACHINE, 300, "nothing is known");
    check(&[("CI", "true"), ("INVOCATION_ID", "f00d")], MACHINE, 300, "nothing is known");
    check(&[("CI", "true")], CONTAINER, 6, "container");
    check(&[("CIRCLECI", "true")], CONTAINER, 300, "CircleCI");
    check(&[], cleanup(MACHINE), 210, "nothing is known");
}

const VARIABLES: &[&str] = &[
    "GITHUB_ACTIONS",
    "RUNNER_ENVIRONMENT",
    "GITLAB_CI",
    "CI_SHARED_ENVIRONMENT",
    "RUNNER_AFTER_SCRIPT_TIMEOUT",
    "JENKINS_URL",
    "BUILDKITE",
    "BUILDKITE_CANCEL_GRACE_PERIOD",
    "BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS",
    "BUILDKITE_CANCEL_SIGNAL_TIMEOUT",
    "TF_BUILD",
    "PROCESS_SIGINT_TIMEOUT",
    "PROCESS_SIGTERM_TIMEOUT",
    "TFGUARD_WAIT",
    "KUBERNETES_SERVICE_HOST",
    "INVOCATION_ID",
    "CI",
];

proptest! {
    /// Whatever the variables say: no panic, never no time at all, always a reason, and it survives the journal.
    #[test]
    fn any_environment_has_a_grace(
        values in proptest::collection::vec(
            (proptest::sample::select(VARIABLES), prop_oneof![
                Just("true".to_owned()),
                Just("self-hosted".to_owned()),
                any::<i64>().prop_map(|number| number.to_string()),
                "-?[0-9]{1,9}(ms|s|m|h)",
                ".*",
            ]),
            0..6,
        ),
        [pid_1, container, cleanup] in any::<[bool; 3]>(),
    ) {
        let variables: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let term = decide(&variables, Place { pid_1, container, cleanup });
        prop_assert!(term.duration > Duration::ZERO);
        prop_assert!(!term.why.is_empty());
        let text = serde_json::to_string(&term).unwrap();
        let read = serde_json::from_str::<Term>(&text).unwrap();
        prop_assert!(read.duration.abs_diff(term.duration) < Duration::from_millis(1) && read.why == term.why);
    }
}
