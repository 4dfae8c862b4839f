//! Buildkite's own agent: on a terminal, and with few seconds for everything.

use super::*;

fn case(agent: Buildkite, script: &str, grace: &str, work: Work) -> Ended {
    let project = project(work);
    let job = Job::new(&project, script).cleanup(RELEASE).env("TFGUARD_GRACE", grace);
    let ended = cancelled(&project, work, |job| agent.start(job), job);
    // With a shell that leads the session, SIGHUP comes too, when the shell dies of its SIGTERM.
    assert_released(&project, work.end(), None, &ended.log());
    ended
}

#[test]
fn a_command() {
    if Buildkite::get(10).is_none() {
        return;
    }
    let case = |grace, script: &str, of_terraform, work| {
        case(Buildkite::get(grace).expect("there is one"), script, of_terraform, work)
    };
    let command = &format!("tfguard -- {APPLY}");
    let lines = &format!("tfguard -- {APPLY}\necho done");
    all_at_once([
        ("one command", &|| drop(case(10, command, "5m", Work::Stops))),
        ("one command, hangs", &|| drop(case(10, command, "4s", Work::Hangs))),
        ("lines", &|| drop(case(10, lines, "5m", Work::Stops))),
        // Longer than the agent waits: the front is gone before it is over, and no hook starts.
        ("lines, hangs for long", &|| {
            let ended = case(10, &format!("trap '' TERM\n{lines}"), "13s", Work::Hangs);
            assert!(ended.cleanup.is_empty(), "{}", ended.log());
        }),
        // The shell dies of the SIGTERM, and the hook awaits the rest.
        ("lines, a patient agent, hangs", &|| {
            let ended = case(60, lines, "12s", Work::Hangs);
            assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
        }),
    ]);
}
