//! Jobs that wait for somebody else's lock when they are cancelled: it stays, and nobody deletes what he never had.

use super::*;

fn case<'a>(project: &'a Project<'a>, start: impl FnOnce(Job<'a>) -> Box<dyn Started + 'a>) {
    let theirs = LockInfo::foreign(&project.lock_id());
    project.aws().plant_lock(project.table_name(), &theirs);
    project.aws().plant_lockfile(&theirs);
    let script = format!("tfguard -- {APPLY} -lock-timeout=10m\necho done");
    let started = start(Job::new(project, script).cleanup(RELEASE));
    started.log().wait_for_stdout("Acquiring state lock", SOON);
    let ended = started.cancel();
    let log = ended.log();
    project.guard().assert_no_process_left(SOON);
    assert_eq!(project.lock().expect("it stays")["ID"], theirs.id, "{log}");
    assert_eq!(project.lock_in_bucket().expect("it stays")["ID"], theirs.id, "{log}");
    assert!(!log.contains("Two interrupts") && !log.contains("deleted by tfguard"), "{log}");
    assert_eq!(ended.cleanup[0].code, Some(0), "{log}");
}

#[test]
fn somebody_elses_lock_stays() {
    let native = || GitLabDocker { native_stop: true };
    all_at_once([
        ("GitHub", &|| case(&project(Work::Stops), |job| GitHub::default().start(job))),
        ("GitLab shell", &|| case(&project(Work::Stops), |job| GitLabShell.start(job))),
        ("Jenkins", &|| case(&project(Work::Stops), |job| Jenkins::Pipeline.start(job))),
        ("systemd", &|| case(&project(Work::Stops), |job| Systemd::ControlGroup.start(job))),
        // Killed while it waits, so that only the log tells that it had asked for a lock.
        ("GitLab docker", &|| {
            if containers() {
                case(&project(Work::Stops), |job| native().start(job));
            }
        }),
    ]);
}
