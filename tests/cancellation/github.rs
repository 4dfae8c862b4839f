//! GitHub Actions: the entry process gets SIGINT, SIGTERM, SIGKILL within ten seconds, then `if: always()` steps run.

use super::*;

/// The first and only command of its step, as the documentation has it: the runner signals tfguard itself.
const EXEC: &str = "exec tfguard -- terraform apply -input=false -auto-approve -no-color";

fn lines() -> String {
    format!("tfguard -- {APPLY}\necho done")
}

fn in_shell(shell: Shell) -> GitHub {
    GitHub { shell, ..GitHub::default() }
}

fn case(runner: GitHub, script: &str, grace: &str, work: Work, first: &str) -> Ended {
    let project = project(work);
    let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
    let ended = cancelled(&project, work, |job| runner.start(job), job);
    // After the end of its entry process the runner reads the step's output for five seconds.
    assert_survived(&project, work, first, script == EXEC, &ended);
    ended.cleanup[0].code.expect("it exits");
    ended
}

#[test]
fn a_step() {
    all_at_once([
        ("exec", &|| {
            let ended = case(GitHub::default(), EXEC, "5m", Work::Stops, "SIGINT");
            if assert_code_if_in_time(&ended.script, 1, &ended.log()) {
                assert_eq!(ended.cleanup[0].err(), "", "nothing was left to do");
            }
        }),
        ("exec, hangs", &|| {
            let ended = case(GitHub::default(), EXEC, "2s", Work::Hangs, "SIGINT");
            assert_code_if_in_time(&ended.script, 137, &ended.log());
        }),
        // The front is killed, the cleanup step awaits the rest.
        ("exec, hangs for longer than the ladder", &|| {
            let ended = case(GitHub::default(), EXEC, "25s", Work::Hangs, "SIGINT");
            assert_eq!(ended.script.signal, Some(9), "{}", ended.log());
            assert!(ended.cleanup[0].err().contains("left by Terraform, deleted by tfguard"), "{}", ended.log());
        }),
        ("exec, sh", &|| drop(case(in_shell(Shell::Sh), EXEC, "5m", Work::Stops, "SIGINT"))),
        // The shell passes nothing on and dies of the SIGTERM: that is the request to stop.
        ("no exec", &|| drop(case(GitHub::default(), &lines(), "5m", Work::Stops, "parent-died"))),
        ("no exec, hangs", &|| drop(case(GitHub::default(), &lines(), "4s", Work::Hangs, "parent-died"))),
        ("no exec, bash", &|| drop(case(in_shell(Shell::Bash), &lines(), "5m", Work::Stops, "parent-died"))),
        ("no exec, sh", &|| drop(case(in_shell(Shell::Sh), &lines(), "5m", Work::Stops, "parent-died"))),
    ]);
}

/// Below a pipe `exec` is done by the pipeline's subshell, and the runner signals the shell above it.
#[test]
fn a_step_that_reaches_tfguard_with_no_signal() {
    let tee = &format!("{EXEC} | tee log");
    let bash = || in_shell(Shell::Bash);
    let without_cleanup = |script: &str, work: Work, first: &str| {
        let project = project(work);
        let job = Job::new(&project, script).env("TFGUARD_GRACE", "13s");
        let ended = cancelled(&project, work, |job| GitHub::default().start(job), job);
        assert_released(&project, work.end(), first, &ended.log());
    };
    let in_container = |grace: &str, work| {
        if containers() {
            case(GitHub { container: true, ..GitHub::default() }, EXEC, grace, work, "release");
        }
    };
    all_at_once([
        ("tee", &|| drop(case(bash(), tee, "5m", Work::Stops, "parent-died"))),
        ("tee, hangs", &|| drop(case(bash(), tee, "4s", Work::Hangs, "parent-died"))),
        // Whoever reads ends first, and Terraform does not notice.
        ("head, hangs", &|| {
            let project = project(Work::Hangs);
            let job = Job::new(&project, format!("{EXEC} | head -n 3")).cleanup(RELEASE).env("TFGUARD_GRACE", "4s");
            let ended = cancelled(&project, Work::Hangs, |job| bash().start(job), job);
            assert_released(&project, End::Killed, "parent-died", &ended.log());
        }),
        // In a container the first to tell of the cancel is the cleanup step.
        ("container", &|| in_container("5m", Work::Stops)),
        ("container, hangs", &|| in_container("4s", Work::Hangs)),
        // The runner is stopped, so no later step runs; or there is none. What carries its tracking ID is killed at the
        // end, and what tfguard supervises does not.
        ("exec, no cleanup", &|| without_cleanup(EXEC, Work::Hangs, "SIGINT")),
        ("no exec, no cleanup", &|| without_cleanup(&lines(), Work::Stops, "parent-died")),
        ("no exec, no cleanup, hangs", &|| without_cleanup(&lines(), Work::Hangs, "parent-died")),
    ]);
}

/// The job is as it would be without tfguard.
#[test]
fn a_job_that_nobody_cancels() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().lockfile().init(&Tools::get().any_terraform());
    let script = "tfguard -- terraform apply -auto-approve\ntest $(tfguard -- terraform output -raw answer) = 42";
    let job = Job::new(&project, script).cleanup(RELEASE);
    let ended = GitHub::default().start(job).finish();
    assert_eq!((ended.script.code, ended.cleanup[0].code), (Some(0), Some(0)), "{}", ended.log());
    assert_eq!(ended.script.err() + &ended.cleanup[0].out() + &ended.cleanup[0].err(), "");
}

/// The step's credentials are denied when the lock is to be released, those of the cleanup step that awaits it are not.
#[test]
fn a_cleanup_step_that_awaited_the_run_tries_again() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = Project::new(Aws::shared(), Kind::HangInApply).table().endpoint(proxy.url());
    let project = project.init(&Tools::get().any_terraform());
    proxy.rule(Match::dynamodb("DeleteItem").nth(1), [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))]);
    let job = Job::new(&project, EXEC).cleanup(RELEASE).env("TFGUARD_GRACE", "25s");
    let started = GitHub::default().start(job);
    project.wait_for_hang(SOON);
    let ended = started.cancel();
    assert_eq!(ended.script.signal, Some(9), "{}", ended.log());
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    assert!(ended.cleanup[0].err().contains("left by Terraform, deleted by tfguard"), "{}", ended.log());
    assert_eq!(project.lock(), None);
    project.guard().assert_no_process_left(SOON);
}
