//! Jenkins: whoever carries a cookie, and all below, get SIGTERM, once for each that carries it and is above them, and never
//! SIGKILL.

use super::*;

fn case(agent: Jenkins, script: &str, grace: &str, work: Work, first: Option<&str>) {
    let project = project(work);
    let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
    let ended = cancelled(&project, work, |job| agent.start(job), job);
    let report = assert_released(&project, work.end(), first, &ended.log());
    assert_eq!(report["interrupt"]["by"], "tfguard", "no walk found Terraform: {report:#}");
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
}

fn lines() -> String {
    format!("tfguard -- {APPLY}\necho done")
}

#[test]
fn a_step() {
    let exec = &format!("exec tfguard -- {APPLY}");
    let below = &format!("sh -c 'tfguard -- {APPLY}; echo done'\necho done");
    let pipeline = |script: &str, grace: &str, work| case(Jenkins::Pipeline, script, grace, work, Some("SIGTERM"));
    // tfguard and the shell above it are signalled at the same time.
    let container = |work| case(Jenkins::Container, &lines(), "8s", work, None);
    let freestyle = |work| case(Jenkins::Freestyle, &lines(), "8s", work, Some("SIGTERM"));
    all_at_once([
        ("pipeline", &|| pipeline(&lines(), "5m", Work::Stops)),
        // Longer than the walks and than the step is waited for.
        ("pipeline, hangs", &|| pipeline(&lines(), "22s", Work::Hangs)),
        ("pipeline, exec", &|| pipeline(exec, "5m", Work::Stops)),
        ("pipeline, exec, hangs", &|| pipeline(exec, "8s", Work::Hangs)),
        ("pipeline, below a script, hangs", &|| pipeline(below, "8s", Work::Hangs)),
        ("pipeline in a container", &|| container(Work::Stops)),
        ("pipeline in a container, hangs", &|| container(Work::Hangs)),
        ("freestyle", &|| freestyle(Work::Stops)),
        ("freestyle, hangs", &|| freestyle(Work::Hangs)),
    ]);
}

/// Two builds on one node, whose sessions are in one place.
#[test]
fn another_builds_terraform_goes_on() {
    let projects = [project(Work::Stops), project(Work::Stops)];
    let [aborted, other] = projects.each_ref().map(|project| {
        let place = projects[0].sessions();
        let job = Job::new(project, lines()).cleanup(RELEASE).env("TFGUARD_DIR", place);
        let job = job.env("TFGUARD_REPORT", project.work().join("report.json"));
        let started = Jenkins::Pipeline.start(job);
        started.log().wait_for_stdout("asleep", SOON);
        started
    });
    let aborted = aborted.cancel();
    assert_released(&projects[0], End::Unlocked, "SIGTERM", &aborted.log());
    assert!(projects[1].lock().is_some() && projects[1].lock_in_bucket().is_some(), "{}", aborted.log());
    assert!(!other.log().stdout().contains("stop requested"));
    let other = other.cancel();
    assert_released(&projects[1], End::Unlocked, "SIGTERM", &other.log());
}
