//! How long Terraform has, by where tfguard runs. The table itself is tested where it is; here it is seen to be what the
//! run goes by, told and reported.

use std::io::Write as _;

use crate::stage::*;
use crate::support::*;
use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;

type Variables = &'static [(&'static str, &'static str)];

const HOSTED: Variables = &[("GITHUB_ACTIONS", "true"), ("RUNNER_ENVIRONMENT", "github-hosted")];
const SHELL: Variables = &[("GITLAB_CI", "true"), ("CI_SHARED_ENVIRONMENT", "true")];

/// A run to which nothing happens, and its report.
fn ordinary(stage: &Stage, options: &[&str], variables: &[(&str, &str)]) -> (Exit, Value) {
    let options: Vec<&str> = options.iter().copied().chain(["--report", "report"]).collect();
    let exit = stage.tfguard(&options, ["true"]).envs(variables.iter().copied()).run().expect_code(0);
    (exit, stage.report("report"))
}

#[test]
fn it_is_what_the_ci_leaves_and_is_explained() {
    let cases: [(Variables, &[&str], f64, &str); 6] = [
        (HOSTED, &[], 6.0, "grace: 6s (GitHub kills a cancelled step after 10 seconds"),
        (HOSTED, &["--cleanup-step"], 210.0, "grace: 3m 30s (GitHub gives the steps after a cancel 5 minutes"),
        (SHELL, &[], 240.0, "grace: 4m (GitLab's shell executor"),
        (&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")], &[], 20.0, "grace: 20s (a Kubernetes pod"),
        (HOSTED, &["--grace", "5s"], 5.0, ""),
        (HOSTED, &["--grace", "10m"], 600.0, "--grace is longer than the 6s that fit here (GitHub kills"),
    ];
    let stage = Stage::new();
    for (variables, options, seconds, words) in cases {
        let (exit, report) = ordinary(&stage, &[options, &["-v"]].concat(), variables);
        assert_eq!(report["grace"]["seconds"], seconds, "{variables:?} {options:?}");
        assert!(exit.err().contains(words), "{exit}");
        assert_eq!(exit.err().matches("grace").count(), usize::from(!words.is_empty()), "once: {exit}");
        let (exit, _) = ordinary(&stage, options, variables);
        assert_eq!(exit.err(), "", "silent unless asked");
    }
    let (_, report) = ordinary(&stage, &[], &[HOSTED, &[("TFGUARD_CLEANUP_STEP", "true")]].concat());
    assert_eq!(report["grace"]["seconds"], 210.0, "templates declare the cleanup step by the variable");
}

/// The supervisor reads the command line again, in an environment without what Jenkins is known by here.
#[test]
fn the_supervisor_goes_by_what_the_front_saw() {
    let stage = Stage::new();
    let run = stage.guarded(&["--cleanup-step"]).env("JENKINS_NODE_COOKIE", "c").env("TFGUARD_WAIT", "90s").start();
    let child = stage.enter();
    run.signal(SIGTERM);
    run.wait_for_stderr("it has 1m to end gracefully", SOON);
    child.wait_for_signal(SIGINT);
    child.exit(0);
    run.wait(SOON).expect_code(0);
}

/// `docker stop` leaves ten seconds. Only the front is the container's first process.
#[test]
fn the_first_process_of_a_container_has_less() {
    let stage = Stage::new();
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    if stage.run("unshare").args(unshare).arg("true").run().code != Some(0) {
        // Not by a macro, whose words the harness keeps to itself where a test passes.
        let words = b"SKIPPED: this machine permits no PID namespaces, so nothing is tried of containers\n";
        let _ = std::io::stderr().write_all(words);
        return;
    }
    let run = stage.run("unshare").args(unshare).arg(TFGUARD).arg("--").args(stage.actor()).start();
    let child = stage.enter();
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.pid())).unwrap();
    kill(Pid::from_raw(children.trim().parse().unwrap()), SIGTERM).unwrap();
    run.wait_for_stderr("it has 6s to end gracefully", SOON);
    child.wait_for_signal(SIGINT);
    child.exit(0);
    run.wait(SOON).expect_code(0);
}

#[test]
fn the_deadline_is_the_jobs_own_where_the_ci_tells_it() {
    let stage = Stage::new();
    let now = jiff::Timestamp::now().to_string();
    let gitlab = [SHELL, &[("CI_JOB_STARTED_AT", &*now), ("CI_JOB_TIMEOUT", "3600")]].concat();
    let buildkite = [
        ("BUILDKITE", "true"),
        ("BUILDKITE_COMPUTE_TYPE", "hosted"),
        ("BUILDKITE_TIMEOUT", "60"),
        // The test's own process does not have it, so the job is as old as tfguard.
        ("BUILDKITE_JOB_ID", "0198-of-this-test"),
    ];
    for (variables, most, words) in [
        (&gitlab[..], 3600.0 - 300.0 - 60.0, "GitLab's CI_JOB_TIMEOUT"),
        // The five seconds of a hosted agent count once the CI asks.
        (&buildkite[..], 3600.0 - 300.0 - 60.0, "BUILDKITE_TIMEOUT"),
    ] {
        let (exit, report) = ordinary(&stage, &["-v", "--deadline", "auto"], variables);
        let seconds = report["deadline"]["seconds"].as_f64().unwrap();
        assert!((most - 600.0..=most).contains(&seconds), "{report}");
        assert!(exit.err().contains("deadline: in ") && exit.err().contains(words), "{exit}");
    }
    let (exit, report) = ordinary(&stage, &["-v", "--deadline", "auto"], HOSTED);
    assert_eq!(report["deadline"], Value::Null);
    assert!(exit.err().contains("no deadline: this CI does not tell its time limit"), "{exit}");
}

/// Guards against killing at the deadline within the seconds that a CI leaves after a cancel, which nobody has asked for.
#[test]
fn a_deadline_in_good_time_leaves_more_than_a_cancel() {
    let stage = Stage::new();
    let patient: Variables = &[("BUILDKITE", "true"), ("BUILDKITE_CANCEL_GRACE_PERIOD", "1200")];
    for (options, env, grace) in [
        (&["--deadline", "0s"][..], HOSTED, "it has 5m to end gracefully"),
        (&["--deadline", "0s", "--grace", "40s"], HOSTED, "it has 40s to end gracefully"),
        (&["--deadline", "0s"], SHELL, "it has 5m to end gracefully"),
        (&["--deadline", "0s"], patient, "it has 18m 59s to end gracefully"),
    ] {
        // No actor: it might be interrupted before it is ready for that.
        let run = stage.tfguard(&[options, &["-v"]].concat(), ["sleep", "600"]).envs(env.iter().copied()).start();
        let exit = run.wait(SOON).expect_code(124);
        assert!(exit.err().contains(grace), "{exit}");
    }
}

/// Guards against a deadline of zero where the job's whole time is shorter than the grace.
#[test]
fn of_a_short_time_half_is_for_the_command() {
    let stage = Stage::new();
    let now = jiff::Timestamp::now().to_string();
    let job = [SHELL, &[("CI_JOB_STARTED_AT", &*now), ("CI_JOB_TIMEOUT", "300")]].concat();
    let (_, report) = ordinary(&stage, &["--deadline", "auto"], &job);
    assert!((1.0..=150.0).contains(&report["deadline"]["seconds"].as_f64().unwrap()), "{report}");
}
