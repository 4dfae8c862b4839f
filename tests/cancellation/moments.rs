//! Jobs that are cancelled at any moment, from the first on: before there is a session, a supervisor, a Terraform, a lock.

use std::sync::Mutex;

use super::*;

/// How a CI starts a job.
type Start = fn(Job<'_>) -> Box<dyn Started + '_>;

const IN_ANY_CASE: [(&str, Start); 6] = [
    ("GitHub", |job| GitHub::default().start(job)),
    ("GitLab shell", |job| GitLabShell.start(job)),
    ("Jenkins", |job| Jenkins::Pipeline.start(job)),
    ("Buildkite", |job| Buildkite::default().start(job)),
    ("Azure", |job| Azure::default().start(job)),
    ("systemd", |job| Systemd::ControlGroup.start(job)),
];
const IN_CONTAINERS: [(&str, Start); 3] = [
    ("GitHub container", |job| GitHub { container: true, ..GitHub::default() }.start(job)),
    ("GitLab docker", |job| GitLabDocker::default().start(job)),
    ("GitLab Kubernetes", |job| GitLabKubernetes.start(job)),
];

/// Spread over the start of tfguard, and Terraform's start, plan and apply.
const MOMENTS: [u64; 5] = [0, 60, 150, 400, 900];

#[test]
fn whenever_a_job_is_cancelled_its_lock_is_gone() {
    let cis = IN_ANY_CASE.into_iter().chain(IN_CONTAINERS.into_iter().filter(|_| containers()));
    let cases = cis.flat_map(|ci| MOMENTS.map(|moment| (ci, moment)));
    let cases = Mutex::new(cases.collect::<Vec<_>>());
    let work = || {
        loop {
            let next = cases.lock().expect("no case panics while it is chosen").pop();
            let Some(((name, start), moment)) = next else { return };
            cancelled_after(name, start, Duration::from_millis(moment));
        }
    };
    all_at_once([&work; 6]);
}

fn cancelled_after(name: &str, start: Start, moment: Duration) {
    let project = project(Work::Stops);
    let job = Job::new(&project, format!("tfguard -- {APPLY}\necho done")).cleanup(RELEASE);
    let started = start(job);
    std::thread::sleep(moment);
    let ended = started.cancel();
    let log = format!("{name} after {moment:?}: {}", ended.log());
    project.guard().assert_no_process_left(SOON);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{log}");
    assert!(!log.contains("Two interrupts"), "{log}");
    assert_eq!(ended.cleanup[0].code, Some(0), "{log}");
    assert_whole(&project);
}
