//! Azure Pipelines: GitHub's ladder, with a task between that passes on what it likes.

use super::*;

fn case(task: Task, script: &str, grace: &str, work: Work, first: &str) {
    let project = project(work);
    let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
    let agent = Azure { task, ..Azure::default() };
    let ended = cancelled(&project, work, |job| agent.start(job), job);
    assert_released(&project, work.end(), first, &ended.log());
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
}

#[test]
fn a_step() {
    let exec = &format!("exec tfguard -- {APPLY}");
    let lines = &format!("tfguard -- {APPLY}\necho done");
    all_at_once([
        ("exec, SIGTERM passed on", &|| case(Task::Terminates, exec, "5m", Work::Stops, "SIGTERM")),
        ("exec, SIGTERM passed on, hangs", &|| case(Task::Terminates, exec, "13s", Work::Hangs, "SIGTERM")),
        ("exec, SIGINT passed on", &|| case(Task::Forwards, exec, "5m", Work::Stops, "SIGINT")),
        ("exec, SIGINT passed on, hangs", &|| case(Task::Forwards, exec, "13s", Work::Hangs, "SIGINT")),
        ("no exec, SIGTERM passed on", &|| case(Task::Terminates, lines, "5m", Work::Stops, "parent-died")),
        ("no exec, SIGINT passed on", &|| case(Task::Forwards, lines, "5m", Work::Stops, "parent-died")),
        ("no exec, SIGINT passed on, hangs", &|| case(Task::Forwards, lines, "4s", Work::Hangs, "parent-died")),
        // The task is dead and nobody reads any more what the script writes.
        ("exec, nothing passed on", &|| case(Task::Dies, exec, "5m", Work::Stops, "parent-died")),
        ("no exec, nothing passed on, hangs", &|| case(Task::Dies, lines, "4s", Work::Hangs, "parent-died")),
    ]);
}
