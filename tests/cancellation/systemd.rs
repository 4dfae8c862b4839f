//! A service of systemd.

use super::*;

fn case(mode: Systemd, grace: &str, work: Work, end: End) -> Value {
    let project = project(work);
    let job = Job::new(&project, format!("exec tfguard -- {APPLY}")).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
    // Scaled, where it is sat out.
    let stop = if let End::Deleted = end { Duration::from_secs(9) } else { SOON };
    let ended = cancelled(&project, work, |job| mode.start_with(job, stop), job);
    let report = assert_released(&project, end, "SIGTERM", &ended.log());
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    report
}

#[test]
fn a_service() {
    // Terraform itself has a SIGTERM from systemd, and it is the only one.
    let all = |grace: &str, work, end| {
        let report = case(Systemd::ControlGroup, grace, work, end);
        assert_eq!(report["interrupt"]["by"], "somebody-else", "{report:#}");
    };
    // As a unit for Terraform should have it.
    let main = |grace: &str, work, end| {
        let report = case(Systemd::Mixed, grace, work, end);
        assert_eq!(report["interrupt"]["by"], "tfguard", "{report:#}");
    };
    all_at_once([
        ("control-group", &|| drop(case(Systemd::ControlGroup, "5m", Work::Stops, End::Unlocked))),
        ("control-group, hangs", &|| all("4s", Work::Hangs, End::Killed)),
        // A shell is the main process and dies of its SIGTERM. What comes after it waits, so that the SIGTERM with which
        // systemd clears up does not become Terraform's second interrupt.
        ("control-group, script", &|| {
            let project = project(Work::Stops);
            let job = Job::new(&project, format!("tfguard -- {APPLY}\necho done")).cleanup(RELEASE);
            let ended = cancelled(&project, Work::Stops, |job| Systemd::ControlGroup.start(job), job);
            assert_released(&project, End::Unlocked, None, &ended.log());
            assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
        }),
        // In the end everybody is killed at once, and then there is `ExecStopPost=`.
        ("control-group, hangs for long", &|| all("5m", Work::Hangs, End::Deleted)),
        ("mixed", &|| main("5m", Work::Stops, End::Unlocked)),
        ("mixed, hangs", &|| main("4s", Work::Hangs, End::Killed)),
        ("mixed, hangs for long", &|| main("5m", Work::Hangs, End::Deleted)),
    ]);
}
