//! A service of systemd.

use super::*;

fn case(mode: Systemd, script: &str, grace: &str, work: Work, end: End) -> Ended {
    let project = project(work);
    let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
    let ended = cancelled(&project, work, |job| mode.start(job), job);
    assert_released(&project, end, "SIGTERM", &ended.log());
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    ended
}

/// Terraform itself has a SIGTERM from systemd, and it is the only one.
#[test]
fn the_whole_control_group() {
    let script = &format!("exec tfguard -- {APPLY}");
    let case = |grace: &str, work, end| case(Systemd::ControlGroup, script, grace, work, end);
    all_at_once([
        &|| drop(case("5m", Work::Stops, End::Unlocked)),
        &|| {
            let ended = case("4s", Work::Hangs, End::Killed);
            assert!(ended.script.err().contains("was interrupted already"), "{}", ended.log());
        },
        // In the end everybody is killed at once, and then there is `ExecStopPost=`.
        &|| drop(case("5m", Work::Hangs, End::Deleted)),
    ]);
}

/// A shell is the main process and dies of its SIGTERM. What comes after it waits, so that the SIGTERM with which systemd
/// clears up does not become Terraform's second interrupt.
#[test]
fn a_script_in_the_control_group() {
    let script = &format!("tfguard -- {APPLY}\necho done");
    let project = project(Work::Stops);
    let job = Job::new(&project, script).cleanup(RELEASE);
    let ended = cancelled(&project, Work::Stops, |job| Systemd::ControlGroup.start(job), job);
    assert_released(&project, End::Unlocked, None, &ended.log());
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
}

/// As a unit for Terraform should have it.
#[test]
fn the_main_process_first() {
    let script = &format!("exec tfguard -- {APPLY}");
    let case = |grace: &str, work, end| case(Systemd::Mixed, script, grace, work, end);
    all_at_once([
        &|| drop(case("5m", Work::Stops, End::Unlocked)),
        &|| drop(case("4s", Work::Hangs, End::Killed)),
        &|| drop(case("5m", Work::Hangs, End::Deleted)),
    ]);
}
