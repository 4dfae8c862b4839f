//! Jenkins: whoever carries a cookie, and all below, get SIGTERM again and again and never SIGKILL.

use super::*;

fn case(agent: Jenkins, script: &str, grace: &str, work: Work) -> Ended {
    let project = project(work);
    let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
    let ended = cancelled(&project, work, |job| agent.start(job), job);
    assert_released(&project, work.end(), &ended.log());
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    ended
}

fn script() -> String {
    format!("tfguard -- {APPLY}\necho done")
}

#[test]
fn a_pipelines_step() {
    let case = |script: &str, grace: &str, work| case(Jenkins::Pipeline, script, grace, work);
    all_at_once([
        &|| drop(case(&script(), "5m", Work::Stops)),
        // Longer than the walks and than the step is waited for.
        &|| drop(case(&script(), "25s", Work::Hangs)),
        &|| drop(case(&format!("exec tfguard -- {APPLY}"), "5m", Work::Stops)),
        &|| drop(case(&format!("exec tfguard -- {APPLY}"), "8s", Work::Hangs)),
        &|| drop(case(&format!("sh -c 'tfguard -- {APPLY}; echo done'\necho done"), "8s", Work::Hangs)),
    ]);
}

#[test]
fn a_pipelines_step_in_a_container() {
    all_at_once([&|| drop(case(Jenkins::Container, &script(), "5m", Work::Stops)), &|| {
        drop(case(Jenkins::Container, &script(), "8s", Work::Hangs))
    }]);
}

#[test]
fn a_freestyle_projects_step() {
    all_at_once([&|| drop(case(Jenkins::Freestyle, &script(), "5m", Work::Stops)), &|| {
        drop(case(Jenkins::Freestyle, &script(), "8s", Work::Hangs))
    }]);
}
