//! GitHub Actions: the entry process gets SIGINT, SIGTERM, SIGKILL within ten seconds, then `if: always()` steps run.

use super::*;

/// The first and only command of its step, as the documentation has it.
const EXEC: &str = "exec tfguard -- terraform apply -input=false -auto-approve -no-color";

fn case(runner: GitHub, script: &str, grace: &str, work: Work, first: &str) -> Ended {
    let project = project(work);
    let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
    let ended = cancelled(&project, work, |job| runner.start(job), job);
    assert_survived(&project, work, first, &ended);
    ended.cleanup[0].code.expect("it exits");
    ended
}

/// As it should be written: the runner signals tfguard itself.
#[test]
fn a_step_that_execs_tfguard() {
    all_at_once([
        &|| {
            let ended = case(GitHub::default(), EXEC, "5m", Work::Stops, "SIGINT");
            assert_eq!(ended.script.code, Some(1), "{}", ended.log());
            assert_eq!(ended.cleanup[0].err(), "", "nothing was left to do");
        },
        &|| {
            let ended = case(GitHub::default(), EXEC, "4s", Work::Hangs, "SIGINT");
            assert_eq!(ended.script.code, Some(137), "{}", ended.log());
        },
        // Longer than the ladder: the front is killed, the cleanup step awaits the rest.
        &|| {
            let ended = case(GitHub::default(), EXEC, "14s", Work::Hangs, "SIGINT");
            assert_eq!(ended.script.signal, Some(9), "{}", ended.log());
            assert!(ended.cleanup[0].err().contains("left by Terraform, deleted by tfguard"), "{}", ended.log());
        },
        &|| drop(case(GitHub { shell: Shell::Sh, ..GitHub::default() }, EXEC, "5m", Work::Stops, "SIGINT")),
    ]);
}

/// The shell passes nothing on and dies of the SIGTERM: that is the request to stop.
#[test]
fn a_step_without_exec() {
    let script = &format!("tfguard -- {APPLY}\necho done");
    all_at_once([
        &|| drop(case(GitHub::default(), script, "5m", Work::Stops, "parent-died")),
        &|| drop(case(GitHub::default(), script, "4s", Work::Hangs, "parent-died")),
        &|| drop(case(GitHub { shell: Shell::Bash, ..GitHub::default() }, script, "5m", Work::Stops, "parent-died")),
        &|| drop(case(GitHub { shell: Shell::Sh, ..GitHub::default() }, script, "5m", Work::Stops, "parent-died")),
    ]);
}

/// Here `exec` is done by the pipeline's subshell, and the runner signals the shell above it.
#[test]
fn a_step_with_a_pipe() {
    let bash = || GitHub { shell: Shell::Bash, ..GitHub::default() };
    let script = &format!("{EXEC} | tee log");
    all_at_once([
        &|| drop(case(bash(), script, "5m", Work::Stops, "parent-died")),
        &|| drop(case(bash(), script, "4s", Work::Hangs, "parent-died")),
        // Whoever reads ends first, and Terraform does not notice.
        &|| {
            let project = project(Work::Hangs);
            let job = Job::new(&project, format!("{EXEC} | head -n 3")).cleanup(RELEASE).env("TFGUARD_GRACE", "4s");
            let ended = cancelled(&project, Work::Hangs, |job| bash().start(job), job);
            assert_released(&project, End::Killed, "parent-died", &ended.log());
        },
    ]);
}

/// In a container no signal arrives at all. The first to tell of the cancel is the cleanup step.
#[test]
fn a_step_in_a_container() {
    let container = || GitHub { container: true, ..GitHub::default() };
    if !containers() {
        return;
    }
    all_at_once([&|| drop(case(container(), EXEC, "5m", Work::Stops, "release")), &|| {
        drop(case(container(), EXEC, "4s", Work::Hangs, "release"))
    }]);
}

/// The runner is stopped, so no later step runs; or there is none. What carries its tracking ID is killed at the end, and
/// what tfguard supervises does not.
#[test]
fn a_job_without_a_cleanup_step() {
    let case = |script: &str, work, first: &str| {
        let project = project(work);
        let job = Job::new(&project, script).env("TFGUARD_GRACE", "14s");
        let ended = cancelled(&project, work, |job| GitHub::default().start(job), job);
        assert_released(&project, work.end(), first, &ended.log());
    };
    all_at_once([
        &|| case(EXEC, Work::Hangs, "SIGINT"),
        &|| case(&format!("tfguard -- {APPLY}\necho done"), Work::Stops, "parent-died"),
        &|| case(&format!("tfguard -- {APPLY}\necho done"), Work::Hangs, "parent-died"),
    ]);
}

/// Nobody cancels: the job is as it would be without tfguard.
#[test]
fn a_job_that_nobody_cancels() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().lockfile().init(&Tools::get().any_terraform());
    let script = "tfguard -- terraform apply -auto-approve\ntest $(tfguard -- terraform output -raw answer) = 42";
    let job = Job::new(&project, script).cleanup(RELEASE);
    let ended = GitHub::default().start(job).finish();
    assert_eq!((ended.script.code, ended.cleanup[0].code), (Some(0), Some(0)), "{}", ended.log());
    assert_eq!(ended.script.err() + &ended.cleanup[0].out() + &ended.cleanup[0].err(), "");
}
