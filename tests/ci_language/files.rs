//! The file of variables that the user asks for, in any CI or none.

use super::*;

const DOTENV: [(&str, &str); 1] = [("TFGUARD_DOTENV", "tfguard.env")];

fn variable(project: &Project, name: &str) -> String {
    let text = read(&project.work().join("tfguard.env"));
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("TFGUARD_RESULT_{name}=")));
    line.unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
}

#[test]
fn it_tells_of_a_lock_that_is_left_and_then_released() {
    let (proxy, project) = denying();
    // As GitLab's runner makes them: later jobs read what is there at the end.
    let job = |run: Run| {
        run.envs(DOTENV).envs([("GITLAB_CI", "true"), ("CI_JOB_ID", "1"), ("CI_JOB_URL", "https://gitlab/-/jobs/1")])
    };
    let (exit, id) = killed_apply(&project, &[], job);
    exit.expect_code(120);
    assert_eq!(variable(&project, "OUTCOME"), "left");
    assert_eq!(variable(&project, "LOCK_LEFT"), "true");
    assert_eq!(variable(&project, "LOCK_ID"), id);
    assert_eq!(variable(&project, "LOCK_IDS"), id);

    proxy.clear_rules();
    job(project.command(TFGUARD).arg("release")).run().expect_code(0);
    assert_eq!(variable(&project, "OUTCOME"), "released");

    job(project.command(TFGUARD).arg("release")).run().expect_code(0);
    assert_eq!(variable(&project, "OUTCOME"), "released", "a cleanup step without work writes nothing");
}

/// The state is blocked by what is left of a lock whose other half could be deleted.
#[test]
fn a_lock_of_which_half_is_left_is_left() {
    let (proxy, project) = denying_to(Project::lockfile);
    let (exit, id) = killed_apply(&project, &[], |run| run.envs(DOTENV));
    let exit = exit.expect_code(120);
    assert_eq!((project.lock_in_bucket(), project.lock().is_some()), (None, true));
    assert_eq!([variable(&project, "OUTCOME"), variable(&project, "LOCK_ID")], ["left".to_owned(), id]);
    assert!(exit.err().contains(&format!("DynamoDB table {}", project.table_name())), "{exit}");
    proxy.clear_rules();
    project.command(TFGUARD).arg("release").envs(DOTENV).run().expect_code(0);
    assert_eq!(project.lock(), None);
    assert_eq!(variable(&project, "OUTCOME"), "released");
}

#[test]
fn an_ordinary_run_writes_it_too() {
    let project = project(Kind::Quick);
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).envs(DOTENV).run().expect_code(0);
    assert_eq!(exit.err(), "");
    assert_eq!(variable(&project, "OUTCOME"), "unlocked");
    assert_eq!(variable(&project, "LOCK_LEFT"), "false");
    // What takes no lock has nothing to say of locks, and leaves what is there.
    project.tfguard(TFGUARD, [""; 0], ["output"]).envs(DOTENV).run().expect_code(0);
    assert_eq!(variable(&project, "OUTCOME"), "unlocked");
}

/// Several runs of one job end in one cleanup step: the worst counts, also where it is not the last.
#[test]
fn a_cleanup_step_writes_of_all_runs_at_once() {
    let (_proxy, project) = denying();
    let job = |run: Run| run.envs(DOTENV).env("CI", "true");
    let (exit, id) = killed_apply(&project, &[], job);
    exit.expect_code(120);
    let run = job(project.command(TFGUARD).args(["--", "sh", "-c", "echo ready; exec sleep 600"])).start();
    run.wait_for_stdout("ready", SOON);
    run.signal(SIGKILL);
    run.wait(SOON).expect_signal(SIGKILL);
    std::fs::remove_file(project.work().join("tfguard.env")).unwrap();
    job(project.command(TFGUARD).arg("release")).run().expect_code(120);
    assert_eq!([variable(&project, "OUTCOME"), variable(&project, "LOCK_IDS")], ["left".to_owned(), id]);
}

#[test]
fn one_that_cannot_be_written_is_a_warning() {
    let project = project(Kind::Quick);
    for name in ["gone/a", ".", "/dev/null"] {
        let run = project.command(TFGUARD).args(["--dotenv", name, "--", "sh", "-c", "exit 3"]);
        let exit = run.run().expect_code(3);
        assert!(exit.err().contains("warning: cannot write") && exit.err().contains("--dotenv"), "{exit}");
    }
}
