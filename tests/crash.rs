//! tfguard killed at every step that changes something outside itself, from its first file to its last: whatever step it is,
//! `tfguard release` finds what the journal knows, and neither loses the lock nor touches another one.
//!
//! A tracer (ptrace(2)) stops tfguard's processes at each such system call of a run whose Terraform, a real one, is killed over
//! its lock, and kills one of them or all of them there. The suite takes some of the steps; all of them:
//!
//! ```sh
//! TFGUARD_TEST_STEPS=all cargo test --locked --test tfguard -- crash:: --nocapture
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::stage::Stage;
use crate::support::*;
use crate::{SOON, TFGUARD};

const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];

/// Who dies at the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The process that is about to take it.
    Itself,
    /// All of tfguard's processes at once.
    Everybody,
}

/// The calls that change something that others can see: files, locks, processes, connections.
fn changes_something(call: i64) -> bool {
    const CALLS: [i64; 22] = [
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_pwrite64,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_openat,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_renameat2,
        libc::SYS_renameat,
        libc::SYS_symlinkat,
        libc::SYS_linkat,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_flock,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_execve,
        libc::SYS_connect,
        libc::SYS_exit_group,
    ];
    CALLS.contains(&call) || call == libc::SYS_kill || call == libc::SYS_pidfd_send_signal
}

/// The number and first arguments of the call that a stopped thread is about to make.
fn call_of(thread: Pid) -> Option<(i64, [u64; 3])> {
    let text = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    Some((number, [argument()?, argument()?, argument()?]))
}

/// Whether it is a step: openat only where it may make a file.
fn is_step(thread: Pid) -> bool {
    let Some((number, arguments)) = call_of(thread) else { return false };
    match number {
        libc::SYS_openat => arguments[2] & libc::O_CREAT as u64 != 0,
        number => changes_something(number),
    }
}

fn group_of(thread: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

fn is_tfguard(process: Pid) -> bool {
    fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|program| program == Path::new(TFGUARD))
}

/// Traces the process, and what tfguard starts of itself, to the end; kills at the step of this number, counted from 1 as soon
/// as `counts`. The number of steps that were counted, and who was killed.
///
/// Runs in a thread of its own, which waits for nobody but those that it traces.
fn trace(first: Pid, counts: &AtomicBool, kill_at: usize, victim: Victim) -> (usize, BTreeSet<Pid>) {
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(first, options).expect("a process of this test can be traced");
    ptrace::interrupt(first).expect("it is alive");
    let (mut steps, mut killed) = (0, BTreeSet::new());
    let mut guards = BTreeSet::new();
    loop {
        let status = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(status) => status,
            Err(Errno::ECHILD) => return (steps, killed),
            Err(Errno::EINTR) => continue,
            Err(error) => panic!("cannot wait for who is traced: {error}"),
        };
        // Each may be dead by now.
        let _ = match status {
            WaitStatus::PtraceSyscall(thread) => {
                let enters = ptrace::syscall_info(thread).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
                if enters && is_tfguard(thread) && is_step(thread) {
                    guards.extend(group_of(thread));
                    steps += usize::from(counts.load(Ordering::SeqCst));
                    if steps == kill_at && killed.is_empty() {
                        let all = guards.iter().copied().filter(|_| victim == Victim::Everybody);
                        killed = group_of(thread).into_iter().chain(all).collect();
                        for process in &killed {
                            let _ = kill(*process, Signal::SIGKILL);
                        }
                    }
                }
                ptrace::syscall(thread, None)
            }
            WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_EXEC) if !is_tfguard(thread) => {
                guards.remove(&thread);
                ptrace::detach(thread, None)
            }
            WaitStatus::PtraceEvent(thread, ..) => ptrace::syscall(thread, None),
            WaitStatus::Stopped(thread, signal) => ptrace::syscall(thread, signal),
            WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, ..) => {
                guards.remove(&process);
                Ok(())
            }
            _ => Ok(()),
        };
    }
}

/// Has a shell say who it is, and become what follows once it is told to. It is no child of the test's own, whose end a tracer
/// in the same process would take from it.
const TRACED: [&str; 6] = ["-c", "\"$@\"; exit $?", "sh", "sh", "-c", "echo $$; read -r _; exec \"$0\" \"$@\""];

fn traced(run: &Running) -> Pid {
    run.wait_for_stdout("\n", SOON);
    Pid::from_raw(run.stdout().lines().next().unwrap_or_default().parse().expect("the shell says who it is"))
}

/// A Terraform that is killed while it holds its lock.
fn project(lockfile: bool) -> Project<'static> {
    let work =
        "resource \"terraform_data\" \"work\" {\n  provisioner \"local-exec\" {\n    command = \"sh die.sh\"\n  }\n}\n";
    let project = Project::new(Aws::shared(), Kind::Hcl(work.to_owned()));
    fs::write(project.work().join("die.sh"), "kill -9 \"$(awk '{print $4}' /proc/$PPID/stat)\"\n").unwrap();
    let project = if lockfile { project.lockfile() } else { project.table() };
    project.init(&Tools::get().any_terraform())
}

/// One run whose guard dies at a step, and the cleanup step after it; the number of steps it had.
fn killed_at(project: &Project, lockfile: bool, mode: &str, victim: Victim, step: usize) -> usize {
    let terraform = Tools::get().any_terraform();
    let report = project.work().join("report");
    let _ = fs::remove_file(&report);
    let run = project.command("sh").args(TRACED).args([TFGUARD, mode, "--report", "report", "--"]);
    let mut run = run.arg(terraform).args(APPLY).stdin(Stdin::Open).start();
    let traced = traced(&run);
    let (steps, killed) = thread::scope(|scope| {
        let tracer = scope.spawn(move || trace(traced, &AtomicBool::new(true), step, victim));
        run.write(b"\n");
        run.close_stdin();
        tracer.join().expect("the tracer comes to its end")
    });
    let exit = run.wait(SOON);
    let case = format!("{mode} {victim:?} {step}: {exit}");
    // Else the front lived on, and the command ran.
    assert!(killed.contains(&traced) || exit.code == Some(125) || report.exists(), "no report: {case}");
    // Of a run without a guard, Terraform's own end has to be awaited.
    project.guard().assert_no_process_left(SOON);
    let release = || project.command(TFGUARD).args(["release", "-v", "--wait", "1m"]).run();
    let released = release();
    let lock = if lockfile { project.lock_in_bucket() } else { project.lock() };
    assert_eq!(lock, None, "{case}\nrelease: {released}");
    assert_nothing_left(&project.sessions(), &format!("{case}\nrelease: {released}"), release);
    steps
}

/// No session is left, at the latest a minute later: for so long, one without a journal may be one that is just starting.
fn assert_nothing_left(sessions: &Path, case: &str, release: impl Fn() -> Exit) {
    let old = SystemTime::now() - Duration::from_secs(120);
    for dir in session_dirs(sessions) {
        assert!(!dir.join("journal.json").exists(), "{case}");
        fs::File::open(dir).and_then(|dir| dir.set_modified(old)).unwrap();
        release();
    }
    let left: Vec<_> = session_dirs(sessions).iter().map(|dir| files_in(dir)).collect();
    assert!(left.is_empty(), "left: {left:?}\n{case}");
}

fn files_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Tries `killed_at` for each step, or for some of them, from several threads, until it has counted less; how many it tried.
/// Each thread has what `new` makes.
fn every_step<T>(new: impl Fn() -> T + Sync, killed_at: impl Fn(&T, usize) -> usize + Sync) -> usize {
    let stride = if std::env::var_os("TFGUARD_TEST_STEPS").is_some_and(|steps| steps == "all") { 1 } else { 11 };
    let (next, tried) = (AtomicUsize::new(1), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let own = new();
                loop {
                    let step = next.fetch_add(stride, Ordering::Relaxed);
                    if killed_at(&own, step) < step {
                        return;
                    }
                    tried.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(tried.load(Ordering::Relaxed) > 3, "no steps were seen");
    tried.into_inner()
}

fn each_lock_is_released(mode: &str, lockfile: bool, victim: Victim) {
    let foreign = LockInfo::foreign("other/state");
    let new = || {
        let project = project(lockfile);
        if !lockfile {
            project.aws().plant_lock(project.table_name(), &foreign);
        }
        project
    };
    let tried = every_step(new, |project, step| {
        let steps = killed_at(project, lockfile, mode, victim, step);
        if !lockfile {
            let there = project.aws().lock(project.table_name(), "other/state");
            assert_eq!(there, Some(serde_json::to_value(&foreign).unwrap()), "{mode} {victim:?} {step}");
        }
        steps
    });
    println!("{mode} {victim:?}, {}: killed at {tried} steps", if lockfile { "lockfile" } else { "table" });
}

/// A stop whose guard dies at a step: the child, an actor, gets one interrupt, or none where the guard died between writing that
/// down and sending it, and then it ends at the end of its grace.
fn stopped_at(victim: Victim, step: usize, uninterrupted: &AtomicUsize) -> usize {
    let stage = Stage::new();
    let run = stage.run("sh").args(TRACED).args([TFGUARD, "--detach", "--grace", "3s", "--"]).args(stage.actor());
    let mut run = run.stdin(Stdin::Open).start();
    let front = traced(&run);
    let counts = AtomicBool::new(false);
    let case = format!("{victim:?} {step}");
    let steps = thread::scope(|scope| {
        let tracer = scope.spawn(|| trace(front, &counts, step, victim));
        run.write(b"\n");
        run.close_stdin();
        let child = stage.enter();
        counts.store(true, Ordering::SeqCst);
        // It may be dead of its own next step.
        let _ = kill(front, Signal::SIGTERM);
        let release = scope.spawn(|| match victim {
            // It awaits who is alive, and takes the place of who is dead.
            Victim::Everybody => Some(stage.run(TFGUARD).args(["release", "--wait", "1m"]).run()),
            Victim::Itself => None,
        });
        child.wait_for_any_signal();
        if !child.is_gone() {
            child.exit(1);
        }
        let released = release.join().expect("a cleanup step comes to its end");
        stage.guard.assert_no_process_left(SOON);
        match child.signals().as_slice() {
            [] => {
                uninterrupted.fetch_add(1, Ordering::Relaxed);
            }
            signals => {
                assert_eq!(signals, ["SIGINT"], "{case} {}", released.map(|exit| exit.to_string()).unwrap_or_default())
            }
        }
        tracer.join().expect("the tracer comes to its end").0
    });
    run.wait(SOON);
    let release = || stage.run(TFGUARD).args(["release", "--wait", "1m"]).run();
    let released = release();
    assert_nothing_left(&stage.sessions(), &format!("{case}\nrelease: {released}"), release);
    steps
}

fn each_child_is_interrupted_once(victim: Victim) {
    let uninterrupted = AtomicUsize::new(0);
    let tried = every_step(|| (), |(), step| stopped_at(victim, step, &uninterrupted));
    let uninterrupted = uninterrupted.into_inner();
    println!("stop, {victim:?}: killed at {tried} steps, {uninterrupted} without an interrupt");
    // Of a few steps, one may be the one between the two.
    assert!(uninterrupted <= 1.max(tried / 10), "{uninterrupted} of {tried} were not interrupted");
}

#[test]
fn whoever_is_killed_at_any_step_the_lock_is_released() {
    each_lock_is_released("--detach", false, Victim::Itself);
}

#[test]
fn whenever_everybody_is_killed_the_lock_is_released() {
    each_lock_is_released("--detach", false, Victim::Everybody);
}

#[test]
fn whenever_an_attached_guard_is_killed_the_lock_is_released() {
    each_lock_is_released("--attach", false, Victim::Everybody);
}

#[test]
fn whenever_the_guard_of_a_lockfile_is_killed_it_is_released() {
    each_lock_is_released("--detach", true, Victim::Everybody);
}

#[test]
fn whoever_is_killed_at_any_step_of_a_stop_the_child_is_interrupted_once() {
    each_child_is_interrupted_once(Victim::Itself);
}

#[test]
fn whenever_everybody_is_killed_in_a_stop_the_child_is_interrupted_once() {
    each_child_is_interrupted_once(Victim::Everybody);
}
