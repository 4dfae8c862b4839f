//! A machine that has no descriptors, or no threads, left: whenever a stop is cut short there, Terraform has had one interrupt,
//! nothing panics, and the lock is named.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::thread;

use nix::sys::signal::Signal;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::bounds::{terraform, under_lock};
use crate::stage::*;
use crate::support::*;

/// How many descriptors there are, and from when on.
#[derive(Clone, Copy, Debug)]
enum Lack {
    FromTheStart(u64),
    OnceItRuns(u64),
}

impl Lack {
    /// tfguard with the limit that it starts with.
    fn tfguard(self, stage: &Stage, mode: &str) -> Run {
        let run = match self {
            Self::FromTheStart(count) => {
                stage.run("sh").args(["-c", &format!("ulimit -n {count}; exec \"$@\""), "sh", TFGUARD])
            }
            Self::OnceItRuns(_) => stage.run(TFGUARD),
        };
        run.args([mode, "--grace", "3s", "--"])
    }

    /// Whether it starts anything.
    fn starts(self, mode: &str) -> bool {
        let stage = Stage::new();
        let exit = self.tfguard(&stage, mode).args(["sh", "-c", "exit 7"]).run();
        assert!(!exit.err().contains("panicked"), "{mode} {self:?}: {exit}");
        exit.code == Some(7)
    }
}

/// A run that is asked to stop, and whose supervisor is killed once it has interrupted Terraform. That ends only by the kill, so
/// whoever would interrupt it once more has the time to.
fn cut_short(mode: &str, lack: Lack) {
    let stage = Stage::new();
    let run = lack.tfguard(&stage, mode).arg(terraform(&stage)).arg("apply").start();
    let child = under_lock(&stage);
    let [session] = stage.session_dirs().try_into().expect("one session");
    let journal: serde_json::Value = serde_json::from_slice(&fs::read(session.join("journal.json")).unwrap()).unwrap();
    let supervisor = pid_of(&journal["supervisor"]);
    if let Lack::OnceItRuns(count) = lack {
        for process in [run.pid().as_raw(), supervisor] {
            prlimit(Pid::from_raw(process), Resource::Nofile, Rlimit { current: Some(count), maximum: Some(4096) })
                .expect("less is always permitted");
        }
    }
    run.signal(Signal::SIGTERM);
    child.wait_for_signal(Signal::SIGINT);
    kill(supervisor);
    let released = stage.run(TFGUARD).args(["release", "-v", "--wait", "8s"]).run();
    child.wait_for_end();
    let exit = run.wait(SOON);
    let case = format!("{mode} {lack:?}: {exit}\nrelease: {released}");
    assert_eq!(child.signals(), ["SIGINT"], "{case}");
    assert!(!case.contains("panicked"), "{case}");
    assert!([exit.code, released.code].contains(&Some(120)), "{case}");
    assert!(case.contains("lock 4bb7d84c-f09d-7909-0219-000000000000"), "{case}");
    stage.guard.assert_no_process_left(SOON);
}

/// Each, or every third, side by side.
fn each(mode: &str, lacks: impl Iterator<Item = Lack> + Send) {
    let all = std::env::var_os("TFGUARD_TEST_STEPS").is_some_and(|steps| steps == "all");
    let lacks = Mutex::new(lacks.step_by(if all { 1 } else { 3 }));
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                loop {
                    let next = lacks.lock().unwrap().next();
                    let Some(lack) = next else { return };
                    cut_short(mode, lack);
                }
            });
        }
    });
}

fn with_few_from_the_start(mode: &str) {
    let fewest = (4..100).find(|count| Lack::FromTheStart(*count).starts(mode)).expect("with 100 it runs");
    each(mode, (fewest..=fewest + 12).map(Lack::FromTheStart));
}

#[test]
fn a_stop_with_few_descriptors_is_one_interrupt() {
    with_few_from_the_start("--detach");
}

#[test]
fn an_attached_stop_with_few_descriptors_is_one_interrupt() {
    with_few_from_the_start("--attach");
}

#[test]
fn a_stop_once_descriptors_are_gone_is_one_interrupt() {
    each("--detach", (0..30).map(Lack::OnceItRuns));
}

#[test]
fn an_attached_stop_once_descriptors_are_gone_is_one_interrupt() {
    each("--attach", (0..30).map(Lack::OnceItRuns));
}

/// Guards a release on a machine that gives no thread to look a name up.
#[test]
fn without_threads_a_name_is_not_found_and_that_is_said() {
    const USER: u32 = 310_000;
    let guard = Guard::new();
    let ids = [format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()];
    if Run::new("setpriv", &guard).args(&ids).arg("true").run().code != Some(0) {
        return skipped("this machine permits no users of one's own");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let record = serde_json::json!({"version": 3, "backend": {"type": "s3", "hash": 1, "config": {
        "bucket": "b", "key": "k", "region": "eu-west-1", "use_lockfile": true, "use_path_style": true,
        "endpoints": {"s3": "http://localhost:1"},
    }}});
    fs::create_dir(dir.path().join(".terraform")).unwrap();
    fs::write(dir.path().join(".terraform/terraform.tfstate"), record.to_string()).unwrap();
    let limited = |count| {
        let script = format!("ulimit -u {count}; exec \"$0\" inspect");
        let run = Run::new("setpriv", &guard).args(&ids).args(["bash", "-c", &script, TFGUARD]);
        let run = run.current_dir(dir.path()).env("AWS_MAX_ATTEMPTS", "1");
        run.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b").run()
    };
    let [with, without] = [20, 1].map(|count| limited(count).to_string());
    assert!(!with.contains("unavailable") && with.contains("refused"), "{with}");
    assert!(without.contains("unavailable") && !without.contains("panicked"), "{without}");
}
