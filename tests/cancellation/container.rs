//! `docker stop`, and a pod that is deleted or evicted. There is no cleanup step, but there may be a next run.

use super::*;

fn case(script: &str, grace: &str, work: Work, end: End, first: Option<&str>) -> Ended {
    let project = project(work);
    // A volume.
    let sessions = project.work().join("sessions");
    let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace).env("TFGUARD_DIR", sessions);
    // Ten seconds, where they are sat out; a machine may be out of breath.
    let stop = if let End::Deleted = end { DockerStop::default() } else { DockerStop { timeout: SOON } };
    let ended = cancelled(&project, work, |job| stop.start(job), job);
    assert_released(&project, end, first, &ended.log());
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    ended
}

#[test]
fn a_container() {
    let tfguard = &format!("exec tfguard -- {APPLY}");
    let shell = &format!("tfguard -- {APPLY}; echo done");
    if !containers() {
        return;
    }
    all_at_once([
        ("tfguard", &|| {
            let ended = case(tfguard, "5m", Work::Stops, End::Unlocked, Some("SIGTERM"));
            assert_eq!(ended.script.code, Some(1), "{}", ended.log());
        }),
        ("tfguard, hangs", &|| {
            let ended = case(tfguard, "4s", Work::Hangs, End::Killed, Some("SIGTERM"));
            assert_eq!(ended.script.code, Some(137), "{}", ended.log());
        }),
        ("tfguard, hangs for long", &|| {
            case(tfguard, "5m", Work::Hangs, End::Deleted, Some("SIGTERM"));
        }),
        // A shell as PID 1 does not heed the SIGTERM, and nobody else has it.
        ("shell", &|| drop(case(shell, "5m", Work::Stops, End::Deleted, None))),
        ("shell, hangs", &|| drop(case(shell, "5m", Work::Hangs, End::Deleted, None))),
    ]);
}
