//! GitLab, by its executors.

use super::*;

fn script() -> String {
    format!("tfguard -- {APPLY}\necho done")
}

/// The whole process group gets SIGTERM and, much later, SIGKILL.
#[test]
fn shell_executor() {
    let case = |grace: &str, work| {
        let project = project(work);
        let job = Job::new(&project, script()).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
        let ended = cancelled(&project, work, |job| GitLabShell.start(job), job);
        assert_survived(&project, work, "SIGTERM", &ended);
        assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    };
    all_at_once([
        &|| case("5m", Work::Stops),
        &|| case("4s", Work::Hangs),
        // Longer than the runner waits: the group is killed, and `after_script` awaits the rest.
        &|| case("16s", Work::Hangs),
    ]);
}

/// Every process in the container gets SIGTERM, the highest pid first, Terraform before tfguard; then all are killed.
#[test]
fn docker_executor() {
    let case = |runner: GitLabDocker, grace: &str, work, end, first: Option<&str>| {
        let project = project(work);
        let job = Job::new(&project, script()).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
        let ended = cancelled(&project, work, |job| runner.start(job), job);
        assert_released(&project, end, first, &ended.log());
        assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
        ended
    };
    let interrupts = |ended: &Ended| ended.log().matches("Interrupt received.").count();
    if !containers() {
        return;
    }
    all_at_once([
        // What a provisioner started has the higher pid, and Terraform fails before it is interrupted.
        &|| assert!(interrupts(&case(GitLabDocker::default(), "5m", Work::Stops, End::Unlocked, None)) <= 1),
        &|| assert_eq!(interrupts(&case(GitLabDocker::default(), "4s", Work::Hangs, End::Killed, Some("SIGTERM"))), 1),
        &|| assert_eq!(interrupts(&case(GitLabDocker::default(), "5m", Work::Hangs, End::Deleted, Some("SIGTERM"))), 1),
        // Only the shell that is PID 1 is signalled, and does not heed it.
        &|| assert_eq!(interrupts(&case(GitLabDocker { native_stop: true }, "5m", Work::Hangs, End::Deleted, None)), 0),
        &|| assert_eq!(interrupts(&case(GitLabDocker { native_stop: true }, "5m", Work::Stops, End::Deleted, None)), 0),
    ]);
}

/// tfguard gets SIGTERM, and `after_script` runs beside it at once.
#[test]
fn kubernetes_executor() {
    let case = |script: &str, work: Work, first: &str| {
        let project = project(work);
        let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", "4s");
        let ended = cancelled(&project, work, |job| GitLabKubernetes.start(job), job);
        // The end of Terraform's output is there twice: the front passes on all of it, and the cleanup step shows it too.
        assert_released(&project, work.end(), first, &ended.log());
        assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    };
    if !containers() {
        return;
    }
    all_at_once([
        &|| case(&script(), Work::Stops, "SIGTERM"),
        &|| case(&script(), Work::Hangs, "SIGTERM"),
        // A shell between, and the signal reaches only that one.
        &|| case(&format!("sh -c 'tfguard -- {APPLY}; echo done'"), Work::Stops, "parent-died"),
        &|| case(&format!("sh -c 'tfguard -- {APPLY}; echo done'"), Work::Hangs, "parent-died"),
    ]);
}
