//! Nothing a test started outlives it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// The environment variable by which a guard knows its processes.
pub const MARK: &str = "TFGUARD_TEST_MARK";

/// Marks everything a test starts through an environment variable that is inherited, also by detached processes, and
/// kills what is left of it when it is dropped. A process that clears its environment escapes.
pub struct Guard {
    mark: String,
}

/// A process that carries the mark. The pidfd keeps the pid from being mistaken for a later process.
struct Marked {
    pid: Pid,
    fd: OwnedFd,
}

impl Guard {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        Self { mark: format!("{}-{}-{now}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)) }
    }

    /// The variable to give to what the test starts.
    pub fn env(&self) -> (&'static str, &str) {
        (MARK, &self.mark)
    }

    /// The command lines of the marked processes that live now.
    pub fn processes(&self) -> Vec<String> {
        self.marked().iter().map(|process| describe(process.pid)).collect()
    }

    /// Waits until every marked process has ended, whoever its parent is. Panics after `timeout` with the command
    /// lines of those that live.
    #[track_caller]
    pub fn assert_no_process_left(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut waited_for_dying = false;
        loop {
            let processes = self.marked();
            let Some(first) = processes.first() else {
                if waited_for_dying {
                    return;
                }
                wait_for_dying();
                waited_for_dying = true;
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let lines: Vec<_> = processes.iter().map(|process| describe(process.pid)).collect();
                panic!("still alive after {timeout:?}:\n  {}", lines.join("\n  "));
            }
            wait_for_end(&first.fd, left);
        }
    }

    /// Kills every marked process and waits until they are dead; whether they are.
    pub fn kill_all(&self) -> bool {
        // Again until none is found: a process may have started another meanwhile.
        for _ in 0..100 {
            let processes = self.marked();
            if processes.is_empty() {
                wait_for_dying();
                return true;
            }
            for process in &processes {
                let _ = pidfd_send_signal(&process.fd, Signal::KILL);
            }
            for process in &processes {
                wait_for_end(&process.fd, Duration::from_secs(5));
            }
        }
        false
    }

    fn marked(&self) -> Vec<Marked> {
        let entry = format!("{MARK}={}\0", self.mark);
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        pids.filter_map(|dir| Pid::from_raw(dir.file_name().to_str()?.parse().ok()?))
            .filter(|pid| carries(*pid, entry.as_bytes()))
            .filter_map(|pid| Some(Marked { pid, fd: pidfd_open(pid, PidfdFlags::empty()).ok()? }))
            // Once more: between the look and the pidfd the pid may have passed to a stranger.
            .filter(|process| carries(process.pid, entry.as_bytes()))
            .collect()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.kill_all() {
            eprintln!("test bed: could not end {:?}", self.processes());
        }
    }
}

/// Kills a living process and waits until it is dead: a Terraform of many threads takes its time, and until then it is
/// alive to whoever looks.
#[track_caller]
pub fn kill(pid: i32) {
    let pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let pidfd = pidfd.unwrap_or_else(|| panic!("process {pid} is gone"));
    pidfd_send_signal(&pidfd, Signal::KILL).expect("it is alive");
    assert!(wait_for_end(&pidfd, Duration::from_secs(60)), "process {pid} does not die");
}

/// Kills the fronts and supervisors of guards, as their journals name them, as if at once: none gets to act on another's death.
#[track_caller]
pub fn kill_guards(journals: &[&serde_json::Value]) {
    let guards = journals.iter().flat_map(|journal| ["supervisor", "front"].map(|name| pid_of(&journal[name])));
    let guards: Vec<_> = guards.collect();
    for pid in &guards {
        kill_process(Pid::from_raw(*pid).expect("a pid"), Signal::STOP).expect("it is alive");
    }
    guards.into_iter().for_each(kill);
}

/// The pid of a process as the journal has it.
#[track_caller]
pub fn pid_of(process: &serde_json::Value) -> i32 {
    process["pid"].as_i64().and_then(|pid| pid.try_into().ok()).unwrap_or_else(|| panic!("no process: {process}"))
}

/// Waits until a process has ended (it may remain as a zombie); whether it did within `timeout`.
pub fn wait_for_end(pidfd: &OwnedFd, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(error) => panic!("a pidfd cannot be polled: {error}"),
        }
    }
}

/// Waits, for a moment, until what is dying on this machine is dead. A process that exits has lost its memory, and with it
/// its mark, before it closes its files: who looks then sees no process, but a log that is held.
fn wait_for_dying() {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let dying = pids.filter_map(|dir| {
        let pid = Pid::from_raw(dir.file_name().to_str()?.parse().ok()?)?;
        // `PF_EXITING` in `flags`, field 9 (proc_pid_stat(5)). A zombie has it too: as the first thread of a process it
        // may be dead before the others are.
        let stat = fs::read_to_string(dir.path().join("stat")).ok()?;
        let flags: u32 = stat.rsplit(") ").next()?.split(' ').nth(9 - 3)?.parse().ok()?;
        (flags & 0x4 != 0).then(|| pidfd_open(pid, PidfdFlags::empty()).ok())?
    });
    let deadline = Instant::now() + Duration::from_secs(2);
    for process in dying {
        wait_for_end(&process, deadline.saturating_duration_since(Instant::now()));
    }
}

/// Whether the environment a process was started with has this `name=value\0`. A zombie has none.
fn carries(pid: Pid, entry: &[u8]) -> bool {
    for _ in 0..10_000 {
        match environ(pid) {
            // In the middle of an exec. That must not hide the process.
            None => thread::yield_now(),
            Some(environ) => return environ.windows(entry.len()).any(|window| window == entry),
        }
    }
    false
}

/// A process's environment, empty for a zombie, a kernel thread or somebody else's process; `None` if it changed
/// while it was read.
fn environ(pid: Pid) -> Option<Vec<u8>> {
    let dir = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let environ = fs::read(dir.join("environ")).unwrap_or_default();
    // Without memory of its own, or not to be looked into.
    if fs::read_link(dir.join("exe")).is_err() {
        return Some(environ);
    }
    // Fields 50 and 51, env_start and env_end; the first one after the name is field 3 (proc_pid_stat(5)).
    let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let mut fields = fields.skip(50 - 3).filter_map(|field| field.parse::<usize>().ok());
    let (start, end) = (fields.next()?, fields.next()?);
    (start != 0 && environ.len() == end.checked_sub(start)?).then_some(environ)
}

fn describe(pid: Pid) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    format!("{} {}", pid.as_raw_nonzero(), String::from_utf8_lossy(&line).replace('\0', " "))
}
