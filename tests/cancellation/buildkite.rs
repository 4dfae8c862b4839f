//! Buildkite: on a terminal, and with few seconds for everything.

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
    let script = &format!("tfguard -- {APPLY}");
    let lines = &format!("tfguard -- {APPLY}\necho done");
    let patient = || Buildkite { grace: Duration::from_secs(60) };
    all_at_once([
        &|| drop(case(Buildkite::default(), script, "5m", Work::Stops)),
        &|| drop(case(Buildkite::default(), script, "4s", Work::Hangs)),
        &|| drop(case(Buildkite::default(), lines, "5m", Work::Stops)),
        // Longer than the agent waits: front and hook are gone before it is over.
        &|| drop(case(Buildkite::default(), lines, "14s", Work::Hangs)),
        // The shell dies of the SIGTERM, and the hook awaits the rest.
        &|| {
            let ended = case(patient(), lines, "12s", Work::Hangs);
            assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
        },
    ]);
}
