//! The doctor in jobs of simulated CI systems, which signal as the real ones do: what it says of a cancel is what
//! `tests/cancellation` shows to happen in jobs of the same shapes.

use super::*;
use crate::simulators::*;

const DOCTOR: &str = "tfguard doctor --format json --offline";

/// How the doctor judges who receives a cancel, in a job with this script.
fn judged(script: &str, start: impl for<'a> FnOnce(Job<'a>) -> Box<dyn Started + 'a>) -> (String, String) {
    let project = Project::new(Aws::shared(), Kind::Quick);
    let started = start(Job::new(&project, script));
    let log = started.finish().log();
    let line = log.lines().find(|line| line.starts_with("{\"schema\"")).unwrap_or_else(|| panic!("no report: {log}"));
    let report: Value = serde_json::from_str(line).unwrap();
    let receiver = found(&report, "cancel-receiver").unwrap_or_else(|| panic!("{report}"));
    (receiver["severity"].as_str().unwrap().to_owned(), receiver["seen"].as_str().unwrap().to_owned())
}

#[track_caller]
fn assert_judged(
    script: &str,
    severity: &str,
    says: &str,
    start: impl for<'a> FnOnce(Job<'a>) -> Box<dyn Started + 'a>,
) {
    let (found, seen) = judged(script, start);
    assert!(found == severity && seen.contains(says), "{script}: {found}: {seen}");
}

#[test]
fn on_github_the_step_has_to_exec() {
    fn github(job: Job<'_>) -> Box<dyn Started + '_> {
        GitHub::default().start(job)
    }
    fn sh(job: Job<'_>) -> Box<dyn Started + '_> {
        GitHub { shell: Shell::Sh, ..GitHub::default() }.start(job)
    }
    assert_judged(&format!("exec {DOCTOR}"), "ok", "that is tfguard", github);
    assert_judged(&format!("exec {DOCTOR}"), "ok", "that is tfguard", sh);
    assert_judged(&format!("{DOCTOR}\necho done"), "warning", "sent to bash", github);
    assert_judged(&format!("exec {DOCTOR} | cat"), "warning", "sent to bash", github);
}

#[test]
fn on_azure_the_task_decides() {
    let azure = || Azure::default();
    assert_judged(&format!("exec {DOCTOR}"), "warning", "that started tfguard", |job| azure().start(job));
    let dies = || Azure { task: Task::Dies, ..Azure::default() };
    assert_judged(&format!("{DOCTOR}\necho done"), "warning", "not to tfguard", |job| dies().start(job));
}

#[test]
fn on_buildkite_the_group_hears_of_it() {
    assert_judged(&format!("exec {DOCTOR}"), "ok", "process group", |job| Buildkite::default().start(job));
    assert_judged(&format!("{DOCTOR}; echo done"), "ok", "process group", |job| Buildkite::default().start(job));
}

#[test]
fn without_a_ci_little_is_known() {
    assert_judged(DOCTOR, "note", "no CI", |job| Systemd::ControlGroup.start(job));
}

#[test]
fn on_gitlab_it_depends_on_the_executor() {
    assert_judged(DOCTOR, "ok", "process group", |job| GitLabShell.start(job));
    assert_judged(&format!("setsid --wait {DOCTOR}"), "warning", "another one", |job| GitLabShell.start(job));
}

#[test]
fn on_jenkins_everybody_hears_of_it() {
    for jenkins in [Jenkins::Pipeline, Jenkins::Freestyle] {
        assert_judged(&format!("exec {DOCTOR}"), "ok", "every process", |job| jenkins.start(job));
    }
}

#[test]
fn in_containers_it_depends_on_who_is_told() {
    let project = Project::new(Aws::shared(), Kind::Quick);
    // It says so if not.
    if !Container::permitted(&Job::new(&project, "")) {
        return;
    }
    let github = GitHub { container: true, ..GitHub::default() };
    assert_judged(&format!("exec {DOCTOR}"), "warning", "outside this container", |job| github.start(job));
    assert_judged(&format!("exec {DOCTOR}"), "ok", "that is tfguard", |job| DockerStop::default().start(job));
    assert_judged(&format!("{DOCTOR}; echo done"), "warning", "not to tfguard", |job| DockerStop::default().start(job));
    assert_judged(DOCTOR, "ok", "every process", |job| GitLabDocker::default().start(job));
    assert_judged(DOCTOR, "warning", "first process", |job| {
        GitLabDocker { native_stop: true }.start(job.env("FF_USE_NATIVE_CONTAINER_STOP", "true"))
    });
    assert_judged(DOCTOR, "ok", "`script:`", |job| GitLabKubernetes.start(job));
    assert_judged(&format!("sh -c '{DOCTOR}; echo done'"), "warning", "below that", |job| GitLabKubernetes.start(job));
}
