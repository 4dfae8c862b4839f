//! Jenkins: whoever carries a cookie, and all below, get SIGTERM again and again and never SIGKILL.

use super::*;

fn case(agent: Jenkins, script: &str, grace: &str, work: Work, first: Option<&str>) {
    let project = project(work);
    let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
    let ended = cancelled(&project, work, |job| agent.start(job), job);
    assert_released(&project, work.end(), first, &ended.log());
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
}

fn script() -> String {
    format!("tfguard -- {APPLY}\necho done")
}

#[test]
fn a_pipelines_step() {
    let case = |script: &str, grace: &str, work| case(Jenkins::Pipeline, script, grace, work, Some("SIGTERM"));
    let exec = &format!("exec tfguard -- {APPLY}");
    all_at_once([
        &|| case(&script(), "5m", Work::Stops),
        // Longer than the walks and than the step is waited for.
        &|| case(&script(), "25s", Work::Hangs),
        &|| case(exec, "5m", Work::Stops),
        &|| case(exec, "8s", Work::Hangs),
        &|| case(&format!("sh -c 'tfguard -- {APPLY}; echo done'\necho done"), "8s", Work::Hangs),
    ]);
}

/// tfguard and the shell above it are signalled at the same time.
#[test]
fn a_pipelines_step_in_a_container() {
    let case = |work| case(Jenkins::Container, &script(), "8s", work, None);
    all_at_once([&|| case(Work::Stops), &|| case(Work::Hangs)]);
}

#[test]
fn a_freestyle_projects_step() {
    let case = |work| case(Jenkins::Freestyle, &script(), "8s", work, Some("SIGTERM"));
    all_at_once([&|| case(Work::Stops), &|| case(Work::Hangs)]);
}
