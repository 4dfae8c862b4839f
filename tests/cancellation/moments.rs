//! Jobs that are cancelled at any moment, from the first on: before there is a session, a supervisor, a Terraform, a lock.

use std::sync::Mutex;
use std::time::Instant;

use super::*;

/// How a CI starts a job.
type Start = fn(Job<'_>) -> Box<dyn Started + '_>;

/// From when on a job is cancelled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// Whatever there is of it by then is signalled.
    TheStart,
    /// The cancel may meet nobody, as all that is signalled is a client outside, or what the script's shell has started by
    /// then. Then the cleanup step is the first to tell tfguard, and there has to be one: a script that begins after the
    /// cleanup step has ended is out of everybody's reach.
    ItsSession,
}

const IN_ANY_CASE: [(&str, Start, From); 5] = [
    ("GitHub", |job| GitHub::default().start(job), From::TheStart),
    ("GitLab shell", |job| GitLabShell.start(job), From::TheStart),
    ("Jenkins", |job| Jenkins::Pipeline.start(job), From::TheStart),
    ("Azure", |job| Azure::default().start(job), From::TheStart),
    ("systemd", |job| Systemd::ControlGroup.start(job), From::TheStart),
];
/// Its own agent, which takes its time to begin a job. It leaves its hooks more than the nine seconds that a busy machine may
/// take for a Terraform to end.
const BUILDKITE: (&str, Start, From) =
    ("Buildkite", |job| Buildkite::get(60).expect("there is one").start(job), From::ItsSession);
const IN_CONTAINERS: [(&str, Start, From); 3] = [
    ("GitHub container", |job| GitHub { container: true, ..GitHub::default() }.start(job), From::ItsSession),
    ("GitLab docker", |job| GitLabDocker::default().start(job), From::TheStart),
    ("GitLab Kubernetes", |job| GitLabKubernetes.start(job), From::ItsSession),
];

/// Spread over the start of tfguard, and Terraform's start, plan and apply.
const MOMENTS: [u64; 5] = [0, 60, 150, 400, 900];

#[test]
fn whenever_a_job_is_cancelled_its_lock_is_gone() {
    let cis = IN_ANY_CASE.into_iter().chain(IN_CONTAINERS.into_iter().filter(|_| containers()));
    let cis = cis.chain(Buildkite::get(60).map(|_| BUILDKITE));
    let cases = cis.flat_map(|ci| MOMENTS.map(|moment| (ci, moment)));
    in_turn(cases.collect(), |(ci, moment)| cancelled_after(ci, Duration::from_millis(moment)));
}

/// A few at a time, since each starts a Terraform.
fn in_turn<T: Send>(cases: Vec<T>, run: impl Fn(T) + Sync) {
    let cases = Mutex::new(cases);
    let work = || {
        loop {
            let next = cases.lock().expect("no case panics while it is chosen").pop();
            let Some(case) = next else { return };
            run(case);
        }
    };
    all_at_once([("moments", &work as _); 6]);
}

fn cancelled_after((name, start, from): (&str, Start, From), moment: Duration) {
    let project = project(Work::Stops);
    let job = Job::new(&project, format!("tfguard -- {APPLY}\necho done")).cleanup(RELEASE);
    let started = match from {
        From::TheStart => start(job),
        From::ItsSession => {
            let started = start(job.env("TFGUARD_DIR", project.sessions()));
            wait_for_session(&project);
            started
        }
    };
    std::thread::sleep(moment);
    let ended = started.cancel();
    let log = format!("{name} after {moment:?}: {}", ended.log());
    project.guard().assert_no_process_left(SOON);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{log}");
    assert!(!log.contains("Two interrupts"), "{log}");
    assert_eq!(ended.cleanup[0].code, Some(0), "{log}");
    assert_whole(&project);
}

fn wait_for_session(project: &Project) {
    let deadline = Instant::now() + SOON;
    let begun = || session_dirs(&project.sessions()).iter().any(|session| session.join("journal.json").exists());
    while !begun() {
        assert!(Instant::now() < deadline, "no session");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A container is killed, and in the next one two cleanup steps begin at the same time.
#[test]
fn whenever_a_container_is_killed_two_cleanup_steps_agree() {
    if containers() {
        in_turn((0..12).collect(), |number| killed_after(Duration::from_millis(number * 100)));
    }
}

fn killed_after(moment: Duration) {
    let project = project(Work::Stops);
    let both = format!("{RELEASE} & one=$!; {RELEASE}; two=$?; wait $one; echo $? and $two");
    let job = Job::new(&project, format!("tfguard -- {APPLY}\necho done")).cleanup(both).cleanup(RELEASE);
    let job = job.env("TFGUARD_DIR", project.work().join("sessions"));
    let job = job.env("GITLAB_CI", "true").env("CI_JOB_ID", "1");
    let started = DockerStop { timeout: Duration::ZERO }.start(job);
    std::thread::sleep(moment);
    let ended = started.cancel();
    let log = format!("after {moment:?}: {}", ended.log());
    project.guard().assert_no_process_left(SOON);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{log}");
    // One that came second once believed that the first was in a container that it cannot reach. And where there was no
    // Terraform yet, both did, for ever.
    assert!(ended.cleanup[0].out().contains("0 and 0"), "{log}");
    assert_eq!((ended.cleanup[1].code, ended.cleanup[1].err().as_str()), (Some(0), ""), "{log}");
    assert_whole(&project);
}
