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
fn a_step_that_execs_tfguard() {
    let script = &format!("exec tfguard -- {APPLY}");
    all_at_once([
        &|| case(Task::Terminates, script, "5m", Work::Stops, "SIGTERM"),
        &|| case(Task::Terminates, script, "14s", Work::Hangs, "SIGTERM"),
        &|| case(Task::Forwards, script, "5m", Work::Stops, "SIGINT"),
        &|| case(Task::Forwards, script, "14s", Work::Hangs, "SIGINT"),
    ]);
}

#[test]
fn a_step_without_exec() {
    let script = &format!("tfguard -- {APPLY}\necho done");
    all_at_once([
        &|| case(Task::Terminates, script, "5m", Work::Stops, "parent-died"),
        &|| case(Task::Forwards, script, "5m", Work::Stops, "parent-died"),
        &|| case(Task::Forwards, script, "4s", Work::Hangs, "parent-died"),
    ]);
}

/// The task is dead and nobody reads any more what the script writes.
#[test]
fn a_task_that_passes_nothing_on() {
    all_at_once([&|| case(Task::Dies, &format!("exec tfguard -- {APPLY}"), "5m", Work::Stops, "parent-died"), &|| {
        case(Task::Dies, &format!("tfguard -- {APPLY}\necho done"), "4s", Work::Hangs, "release")
    }]);
}
