//! Real holders whose machine is gone or stands still, and who comes next on another machine: in a PID namespace of its own,
//! with another boot ID and another place for sessions.

use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;

use super::*;

const HOLD: [&str; 2] = ["--lease", "15s"];

/// A run on another machine. None where that cannot be imitated here.
fn elsewhere(project: &Project) -> Option<Run> {
    let script = "mount --bind \"$BOOT_ID\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script, "sh"];
    let (boot, place) = (project.sessions().join("boot_id"), project.sessions().join("elsewhere"));
    std::fs::write(&boot, "11111111-2222-3333-4444-555555555555\n").unwrap();
    std::fs::create_dir_all(&place).unwrap();
    let run = || project.command("unshare").args(unshare).envs([("BOOT_ID", &boot), ("TFGUARD_DIR", &place)]);
    if run().arg("true").run().code != Some(0) {
        skipped("another machine cannot be imitated here");
        return None;
    }
    Some(run().arg(TFGUARD).arg("--reclaim").args(HOLD).arg("--").arg(terraform()).args(APPLY).new_group())
}

/// The processes that the test has started.
fn processes(project: &Project) -> Vec<i32> {
    let pid = |line: &String| line.split(' ').next().and_then(|pid| pid.parse().ok());
    project.guard().processes().iter().filter_map(pid).collect()
}

fn to_all(processes: &[i32], what: Signal) {
    for pid in processes {
        let _ = signal(Pid::from_raw(*pid), what);
    }
}

/// Stops the run of another machine as its CI would, and waits for its end.
fn stop_elsewhere(project: &Project, run: Running) {
    let is_first = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    };
    let first: Vec<_> = processes(project).into_iter().filter(is_first).collect();
    assert_eq!(first.len(), 1, "{}", run.stderr());
    to_all(&first, Signal::SIGTERM);
    let exit = run.wait(SOON);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{exit}");
    let keys = project.aws().keys(project.bucket(), "");
    assert!(!keys.iter().any(|key| key.contains(".tflock")), "{keys:?}: {exit}");
}

/// A state with both kinds of locks, whose apply sleeps.
fn project() -> Project<'static> {
    Project::new(Aws::shared(), Kind::Sleep).table().lockfile().init(&terraform())
}

/// A run that holds its lock with a lease on both halves.
fn held(project: &Project) -> Running {
    let run = project.tfguard(TFGUARD, HOLD, APPLY).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    let is_leased = || {
        let item = project.aws().item(project.table_name(), &project.lock_id());
        let key = format!("{}.tflock.lease", project.state_key());
        item.is_some_and(|item| item.contains_key("TfguardLease"))
            && project.aws().object(project.bucket(), &key).is_some()
    };
    let began = Instant::now();
    while !is_leased() {
        assert!(began.elapsed() < SOON, "{}", run.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
    run
}

/// The ID of the lock, which is the same in both halves.
fn id(project: &Project) -> serde_json::Value {
    let halves =
        [project.lock(), project.lock_in_bucket()].map(|half| half.expect("the state is locked")["ID"].clone());
    assert_eq!(halves[0], halves[1]);
    halves[0].clone()
}

/// The power fails: nothing of the run is left but its lock.
#[test]
fn the_lock_of_a_run_that_was_killed_with_everything_is_reclaimed() {
    let project = project();
    let Some(next) = elsewhere(&project) else { return };
    let run = held(&project);
    let dead = id(&project);
    to_all(&processes(&project), Signal::SIGKILL);
    run.wait(SOON).expect_signal(Signal::SIGKILL);
    let began = Instant::now();
    let next = next.start();
    next.wait_for_stdout("asleep", SOON);
    assert!(began.elapsed() >= WAIT, "{}", next.stderr());
    let said = next.stderr();
    assert_eq!(said.matches("nobody renewed its lease for 21s 500ms").count(), 2, "{said}");
    assert!(said.contains("held by a run outside a CI"), "{said}");
    assert_ne!(id(&project), dead, "{said}");
    stop_elsewhere(&project, next);
}

/// A machine stands still, and goes on when somebody else has its lock: it kills its own Terraform, and touches nothing.
#[test]
fn a_run_that_wakes_up_after_its_lock_was_reclaimed_kills_its_terraform_and_touches_nothing() {
    let project = project();
    let Some(next) = elsewhere(&project) else { return };
    let run = held(&project);
    let (first, terraforms, all) = (id(&project), project.terraforms(), processes(&project));
    to_all(&all, Signal::SIGSTOP);
    let next = next.start();
    next.wait_for_stdout("asleep", SOON);
    let successor = id(&project);
    assert_ne!(successor, first, "{}", next.stderr());
    to_all(&all, Signal::SIGCONT);
    let exit = run.wait(SOON);
    assert_ne!(exit.code, Some(0), "{exit}");
    let alive = project.terraforms();
    assert!(terraforms.iter().all(|terraform| !alive.contains(terraform)), "{exit}");
    assert_eq!(id(&project), successor, "{exit}");
    stop_elsewhere(&project, next);
}

/// On its own machine it is seen that a frozen run lives, whatever its lease says.
#[test]
fn the_lock_of_a_frozen_run_of_this_machine_stays() {
    let project = project();
    let run = held(&project);
    let (first, all) = (id(&project), processes(&project));
    to_all(&all, Signal::SIGSTOP);
    let next = project.tfguard(TFGUARD, ["--reclaim"], APPLY).new_group().start();
    next.wait_for_stderr("the lease has run out, and the lock stays all the same: the holder is alive", SOON);
    assert_eq!(id(&project), first);
    to_all(&all, Signal::SIGCONT);
    let exit = run.wait(SOON);
    next.wait_for_stdout("asleep", SOON);
    // By the one or the other, as soon as the first is dead.
    assert_ne!(id(&project), first, "{exit}\n{}", next.stderr());
}

/// A Terraform of the run that has the lock wants the same one: it would wait for itself.
#[test]
fn what_a_run_calls_itself_does_not_wait_for_its_lock() {
    let (is_leased, plan) = (
        format!("{TFGUARD} inspect --format json | grep -q length_ms"),
        format!("{TFGUARD} --reclaim -- terraform plan -input=false -no-color"),
    );
    let command = format!("until {is_leased}; do sleep 0.2; done; {plan} 2>&1; echo ended with $?");
    let hcl = format!(
        r#"resource "terraform_data" "a" {{
  provisioner "local-exec" {{
    command = {command:?}
  }}
}}
"#
    );
    let project = Project::new(Aws::shared(), Kind::Hcl(hcl)).table().lockfile().init(&terraform());
    let exit = project.tfguard(TFGUARD, HOLD, APPLY).run().expect_code(0);
    assert!(exit.out().contains("is held by the run that this is a part of"), "{exit}");
    assert!(exit.out().contains("ended with 1") && !exit.out().contains(WAITING), "{exit}");
}

/// Where the proof is at hand, nobody waits for the lease.
#[test]
fn the_lock_of_a_dead_run_of_this_machine_goes_at_once() {
    let project = project();
    let run = held(&project);
    let first = id(&project);
    to_all(&processes(&project), Signal::SIGKILL);
    run.wait(SOON).expect_signal(Signal::SIGKILL);
    let next = project.tfguard(TFGUARD, ["--reclaim"], APPLY).new_group().start();
    next.wait_for_stdout("asleep", SOON);
    let said = next.stderr();
    assert!(said.contains("deleted at") && !said.contains("nobody renewed"), "{said}");
    assert_ne!(id(&project), first, "{said}");
}
