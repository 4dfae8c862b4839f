//! Cancelled jobs, in every CI: afterwards no lock of the job's own is left, Terraform was interrupted once, the state is
//! whole and no process is alive.

mod act;
mod azure;
mod buildkite;
mod container;
mod github;
mod gitlab;
mod jenkins;
mod moments;
mod systemd;
mod waiting;

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::SOON;
use crate::simulators::*;
use crate::support::*;
use serde_json::Value;

const APPLY: &str = "terraform apply -input=false -auto-approve -no-color";
const RELEASE: &str = "tfguard release --wait 1m";

/// What is applied when the job is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Ends within a moment of an interrupt.
    Stops,
    /// Never ends by itself.
    Hangs,
}

/// How the run is to end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Terraform unlocks.
    Unlocked,
    /// tfguard kills it once its grace is over, and deletes the lock.
    Killed,
    /// The CI kills everybody, and the cleanup step deletes the lock.
    Deleted,
}

impl Work {
    /// How it ends where somebody of tfguard's stays alive.
    fn end(self) -> End {
        match self {
            Self::Stops => End::Unlocked,
            Self::Hangs => End::Killed,
        }
    }
}

/// A state with both halves of a lock, and locks of somebody else's next to it.
fn project(work: Work) -> Project<'static> {
    let kind = match work {
        Work::Stops => Kind::Sleep,
        Work::Hangs => Kind::HangInApply,
    };
    let project = Project::new(Aws::shared(), kind).table().lockfile().init(&Tools::get().any_terraform());
    project.aws().plant_lock(project.table_name(), &foreign(&project));
    project.aws().plant_lockfile(&foreign(&project));
    project
}

fn foreign(project: &Project) -> LockInfo {
    LockInfo::foreign(&format!("{}/network/other.tfstate", project.bucket()))
}

/// A job with that script and cleanup, cancelled in the middle of its apply.
fn cancelled<'a>(
    project: &'a Project<'a>,
    work: Work,
    start: impl FnOnce(Job<'a>) -> Box<dyn Started + 'a>,
    job: Job<'a>,
) -> Ended {
    let job = job.env("TFGUARD_REPORT", project.work().join("report.json"));
    let started = start(job);
    match work {
        Work::Stops => started.log().wait_for_stdout("asleep", SOON),
        Work::Hangs => project.wait_for_hang(SOON),
    }
    assert!(project.lock().is_some() && project.lock_in_bucket().is_some(), "an apply holds its lock");
    started.cancel()
}

/// How many cases may run at the same time, whatever tests they are of: each starts a Terraform, and all ask one server.
static FREE: (Mutex<u32>, Condvar) = (Mutex::new(16), Condvar::new());

/// A case's place among those that run.
struct Place;

impl Place {
    fn take() -> Self {
        let free = FREE.0.lock().expect("nobody panics with it");
        *FREE.1.wait_while(free, |free| *free == 0).expect("nobody panics with it") -= 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *FREE.0.lock().expect("nobody panics with it") += 1;
        FREE.1.notify_one();
    }
}

/// Runs cases, which mostly wait, each in a thread of its name.
fn all_at_once<const N: usize>(cases: [(&str, &(dyn Fn() + Sync)); N]) {
    let failed = std::thread::scope(|scope| {
        let started = cases.map(|(name, case)| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, || {
                let _place = Place::take();
                case();
            });
            (name, thread.expect("a thread can be started"))
        });
        started.map(|(name, thread)| thread.join().is_err().then_some(name))
    });
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Whether this machine permits containers.
fn containers() -> bool {
    let project = Project::new(Aws::shared(), Kind::Quick);
    Container::permitted(&Job::new(&project, ""))
}

fn report(project: &Project) -> Value {
    let text = std::fs::read(project.work().join("report.json")).expect("a report was written");
    serde_json::from_slice(&text).expect("a report is JSON")
}

/// What must be true after every job, however it ended. `log` is all that was shown of it, `first` what first asked for
/// the stop, where that is certain: a signal, or what else the report has. Gives the report.
#[track_caller]
fn assert_released<'a>(project: &Project, end: End, first: impl Into<Option<&'a str>>, log: &str) -> Value {
    project.guard().assert_no_process_left(SOON);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "no own lock is left: {log}");
    let theirs = foreign(project);
    assert_eq!(project.aws().lock(project.table_name(), &theirs.path).expect("it stays")["ID"], theirs.id, "{log}");
    assert_eq!(project.aws().lockfile(&theirs.path).expect("it stays")["ID"], theirs.id, "{log}");
    assert!(!log.contains("Two interrupts"), "{log}");
    // Front and cleanup step may end at the same time; one of them once told of what the other had removed already.
    assert!(!log.contains("cannot remove") && !log.contains("tfguard: error"), "{log}");
    let report = report(project);
    let request = &report["requests"][0];
    if let Some(first) = first.into() {
        let asked = request["name"].as_str().or(request["kind"].as_str());
        // Who is killed is gone a little later, and a cleanup step that follows at once may be heard before that.
        let overtaken = first.ends_with("-died") && asked == Some("release");
        assert!(asked == Some(first) || overtaken, "{report:#}\n{log}");
    }
    let outcome = &report["locks"][0]["outcome"]["is"];
    match end {
        End::Unlocked => assert_eq!(outcome, "unlocked", "{report:#}\n{log}"),
        // One that was interrupted twice ends by itself.
        End::Killed => assert!(outcome != "unlocked" && report["killed"].is_string(), "{report:#}\n{log}"),
        End::Deleted => assert!(outcome != "unlocked" && report["killed"].is_null(), "{report:#}\n{log}"),
    }
    assert_whole(project);
    report
}

/// The same of a job whose log shows everything that Terraform said, once. `read`: the CI reads what tfguard writes for
/// as long as that lives. Where it does not, Terraform's words on its interrupt may have come too late for it.
#[track_caller]
fn assert_survived(project: &Project, work: Work, first: &str, read: bool, ended: &Ended) {
    let log = ended.log();
    assert_released(project, work.end(), first, &log);
    let shown = log.matches("Interrupt received.").count();
    assert!(shown == 1 || shown == 0 && !read, "{shown} times: {log}");
}

/// tfguard's exit code, where the CI's ladder did not kill it before it came to that: a machine may be out of breath.
#[track_caller]
fn assert_code_if_in_time(script: &Exit, code: i32, log: &str) -> bool {
    assert!(script.code == Some(code) || script.signal == Some(9), "{log}");
    script.code.is_some()
}

/// The state is Terraform's own JSON and what its digest says.
#[track_caller]
fn assert_whole(project: &Project) {
    use md5::{Digest as _, Md5};
    if let Some(object) = project.aws().object(project.bucket(), &project.state_key()) {
        let md5: String = Md5::digest(&object.body).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(project.aws().digest(project.table_name(), &project.lock_id()), Some(md5), "digest and state fit");
        assert_eq!(project.state().expect("it is there")["version"], 4);
    }
}
