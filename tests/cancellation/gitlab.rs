//! GitLab, by its executors.

use super::*;

fn lines() -> String {
    format!("tfguard -- {APPLY}\necho done")
}

/// The whole process group gets SIGTERM and, much later, SIGKILL.
#[test]
fn shell_executor() {
    fn case(start: fn(Job<'_>) -> Box<dyn Started + '_>, grace: &str, work: Work, first: &str) {
        let project = project(work);
        let job = Job::new(&project, lines()).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
        let ended = cancelled(&project, work, start, job);
        assert_survived(&project, work, first, true, &ended);
        assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    }
    let script = |grace: &str, work| case(|job| GitLabShell.start(job), grace, work, "SIGTERM");
    // The shell alone is told, and then the group is killed.
    let steps = |grace: &str, work| case(|job| GitLabSteps.start(job), grace, work, "front-died");
    all_at_once([
        ("script", &|| script("5m", Work::Stops)),
        ("script, hangs", &|| script("4s", Work::Hangs)),
        // Longer than the runner waits: the group is killed, and `after_script` awaits the rest.
        ("script, hangs for long", &|| script("15s", Work::Hangs)),
        ("steps", &|| steps("5m", Work::Stops)),
        ("steps, hangs", &|| steps("7s", Work::Hangs)),
        // After the job's time-out, or when the runner is stopped, there is no `after_script`.
        ("no after_script, hangs for long", &|| {
            let project = project(Work::Hangs);
            let job = Job::new(&project, lines()).env("TFGUARD_GRACE", "14s");
            let ended = cancelled(&project, Work::Hangs, |job| GitLabShell.start(job), job);
            assert_released(&project, End::Killed, "SIGTERM", &ended.log());
        }),
    ]);
}

/// `su` alone gets SIGTERM; the shell that waits for the script's own dies two seconds later. Guards against a Terraform
/// that no cancel reached until somebody killed it.
#[test]
fn shell_executor_as_packages_install_it() {
    if !GitLabUser::permitted(&[&Tools::get().any_terraform(), env!("CARGO_BIN_EXE_tfguard").as_ref()]) {
        return skipped(
            "GitLab's shell executor with --user: it needs root, util-linux' su, and programs that `daemon` may run",
        );
    }
    let case = |script: &str, grace: &str, work| {
        let project = project(work);
        let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
        let ended = cancelled(&project, work, |job| GitLabUser.start(job), job);
        assert_released(&project, work.end(), "parent-died", &ended.log());
        assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    };
    let exec = &format!("exec tfguard -- {APPLY}");
    let below = &format!("sh -c 'tfguard -- {APPLY}; echo done'");
    all_at_once([
        ("script", &|| case(&lines(), "5m", Work::Stops)),
        ("script, hangs", &|| case(&lines(), "4s", Work::Hangs)),
        ("exec", &|| case(exec, "5m", Work::Stops)),
        ("below a script", &|| case(below, "5m", Work::Stops)),
        // Cancelled while the script does something else, as `terraform init`; `$$` is the shell that `su` kills.
        ("before tfguard begins", &|| {
            let project = project(Work::Stops);
            let script = format!("echo begun\nwhile test -d /proc/$$; do sleep 0.1; done\ntfguard -- {APPLY}");
            let started = GitLabUser.start(Job::new(&project, script));
            started.log().wait_for_stdout("begun", SOON);
            let ended = started.cancel();
            assert!(ended.log().contains("stop requested: a process that waited for tfguard ended"), "{}", ended.log());
            project.guard().assert_no_process_left(SOON);
            assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{}", ended.log());
        }),
    ]);
}

/// Every process in the container gets SIGTERM, the highest pid first, Terraform before tfguard; then all are killed.
#[test]
fn docker_executor() {
    let case = |native_stop, grace: &str, work, end: End, first: Option<&str>| {
        let project = project(work);
        let job = Job::new(&project, lines()).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
        // The engine's ten seconds, where they are sat out; a machine may be out of breath.
        let stop = if let End::Deleted = end { Duration::from_secs(10) } else { SOON };
        let ended = cancelled(&project, work, |job| GitLabDocker { native_stop }.start_with(job, stop), job);
        assert_released(&project, end, first, &ended.log());
        assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
        ended.log().matches("Interrupt received.").count()
    };
    if !containers() {
        return;
    }
    all_at_once([
        // What a provisioner started has the higher pid, and Terraform fails before it is interrupted.
        ("loop", &|| assert!(case(false, "5m", Work::Stops, End::Unlocked, None) <= 1)),
        ("loop, hangs", &|| assert_eq!(case(false, "4s", Work::Hangs, End::Killed, Some("SIGTERM")), 1)),
        ("loop, hangs for long", &|| assert_eq!(case(false, "5m", Work::Hangs, End::Deleted, Some("SIGTERM")), 1)),
        // Only the shell that is PID 1 is signalled, and does not heed it.
        ("native stop", &|| assert_eq!(case(true, "5m", Work::Stops, End::Deleted, None), 0)),
        ("native stop, hangs", &|| assert_eq!(case(true, "5m", Work::Hangs, End::Deleted, None), 0)),
        ("lost log", &a_log_that_is_lost),
    ]);
}

/// A lock that the journal knows and Terraform's log does not was once said to be released.
fn a_log_that_is_lost() {
    let project = project(Work::Stops);
    let lose = ": > .tfguard-sessions/*/terraform.log";
    let job = Job::new(&project, lines()).cleanup(format!("{lose}\n{RELEASE}")).cleanup(RELEASE);
    let runner = GitLabDocker { native_stop: true };
    let ended = cancelled(&project, Work::Stops, |job| runner.start(job), job);
    assert_eq!(ended.cleanup[0].code, Some(120), "{}", ended.log());
    assert!(ended.cleanup[0].err().contains("cannot be read"), "{}", ended.log());
    // It is known by now that Terraform is dead, and of which lock.
    assert_eq!(ended.cleanup[1].code, Some(0), "{}", ended.log());
    assert_released(&project, End::Deleted, None, &ended.log());
}

/// tfguard gets SIGTERM, and `after_script` runs beside it at once.
#[test]
fn kubernetes_executor() {
    let case = |script: &str, work: Work, first: &str| {
        let project = project(work);
        let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", "6s");
        let ended = cancelled(&project, work, |job| GitLabKubernetes.start(job), job);
        // The end of Terraform's output is there twice: the front passes on all of it, and the cleanup step shows it too.
        assert_released(&project, work.end(), first, &ended.log());
        assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    };
    let below = &format!("sh -c 'tfguard -- {APPLY}; echo done'");
    if !containers() {
        return;
    }
    all_at_once([
        ("script", &|| case(&lines(), Work::Stops, "SIGTERM")),
        ("script, hangs", &|| case(&lines(), Work::Hangs, "SIGTERM")),
        // A shell between, and the signal reaches only that one.
        ("below a script", &|| case(below, Work::Stops, "parent-died")),
        ("below a script, hangs", &|| case(below, Work::Hangs, "parent-died")),
    ]);
}
