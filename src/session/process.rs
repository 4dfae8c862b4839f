//! Which process is meant: a pid alone is not enough, it is given to the next process once its owner is gone.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use procfs::FromRead as _;
use procfs::process::Stat;
use rustix::process::PidfdFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::model::{ProcessId, World};

/// Between two looks at something of which nothing tells. Longer than a child takes from fork to exec.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl World {
    /// Where this process runs. A part that the system hides is empty and equals nothing elsewhere.
    pub fn here() -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
            pid_namespace: std::fs::metadata("/proc/self/ns/pid").map(|file| file.ino()).unwrap_or_default(),
        }
    }
}

/// The name of this machine or container.
pub fn nodename() -> Option<String> {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok())
}

impl ProcessId {
    /// The process that has this pid now; none if there is none or it is a zombie's.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = stat_of(pid).ok()?;
        is_running(&stat).then_some(Self { pid, start_ticks: stat.starttime })
    }

    /// This process.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id().cast_signed())
    }

    /// The process that started it, or took it over.
    pub fn parent(self) -> Option<Self> {
        Self::of(stat_of(self.pid).ok()?.ppid)
    }

    /// When it started, by the system's clock as it is now.
    pub fn started(self) -> Option<SystemTime> {
        let started = Duration::from_millis(self.start_ticks.checked_mul(1000)? / procfs::ticks_per_second());
        SystemTime::now().checked_sub(boot_time().checked_sub(started)?)
    }

    /// Whether it still runs. A zombie does not. Where nobody can look, as without descriptors, whatever has its pid counts.
    pub fn is_alive(self) -> bool {
        match stat_of(self.pid) {
            Ok(stat) => is_running(&stat) && stat.starttime == self.start_ticks,
            Err(error) if nobody_can_look(&error) => {
                nix::sys::signal::kill(Pid::from_raw(self.pid), None) != Err(Errno::ESRCH)
            }
            Err(_) => false,
        }
    }

    /// If it was stopped, by SIGSTOP or the like, and not continued: the CPU time that it has had, in clock ticks.
    pub fn suspended_at(self) -> Option<u64> {
        let stat = stat_of(self.pid).ok().filter(|stat| stat.state == 'T' && stat.starttime == self.start_ticks)?;
        Some(stat.utime + stat.stime)
    }

    /// Sends a signal to this very process; false if it is gone or may not be signalled.
    pub fn signal(self, signal: Signal) -> bool {
        match self.pidfd() {
            Ok(Some(pidfd)) => {
                let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) else { return false };
                rustix::process::pidfd_send_signal(pidfd, signal).is_ok()
            }
            Ok(None) => false,
            // A kernel before 5.3: the pid could only be reused between the check and the signal.
            Err(_) => self.is_alive() && nix::sys::signal::kill(Pid::from_raw(self.pid), signal).is_ok(),
        }
    }

    /// Sends a signal to the group that this process leads, as long as it lives.
    pub fn signal_group(self, signal: Signal) -> bool {
        // As a group, 1 stands for everybody and 0 for one's own (kill(2)). No child has these.
        self.pid > 1 && self.is_alive() && nix::sys::signal::killpg(Pid::from_raw(self.pid), signal).is_ok()
    }

    /// Waits until the process is gone.
    pub async fn gone(self) {
        match self.pidfd().map(|pidfd| pidfd.map(awaitable)) {
            Ok(None) => {}
            Ok(Some(Ok(pidfd))) => {
                // A pidfd becomes readable when its process is dead, reaped or not.
                let _ = pidfd.readable().await;
            }
            // No pidfds on this kernel (before 5.3), or no more of them: looking now and then is what is left.
            Err(_) | Ok(Some(Err(_))) => {
                while self.is_alive() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// A pidfd of this very process, none if it is gone.
    fn pidfd(self) -> Result<Option<OwnedFd>, rustix::io::Errno> {
        // No process has another one, whatever a journal says.
        let Some(pid) = rustix::process::Pid::from_raw(self.pid.max(0)) else { return Ok(None) };
        match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            // Opened first, compared afterwards: from here on the pid cannot change hands unseen.
            Ok(pidfd) => Ok(self.is_alive().then_some(pidfd)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            // NONBLOCK came with Linux 5.10.
            Err(rustix::io::Errno::INVAL) => {
                let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
                Ok(self.is_alive().then_some(pidfd))
            }
            Err(error) => Err(error),
        }
    }
}

/// The `/proc/<pid>/stat` of a process. Three system calls, where procfs makes eight: an interrupt waits until those of all
/// processes are read.
pub(crate) fn stat_of(pid: i32) -> io::Result<Stat> {
    // More than the line can have.
    let mut line = [0; 2048];
    let length = File::open(format!("/proc/{pid}/stat"))?.read(&mut line)?;
    Stat::from_read(&line[..length]).map_err(io::Error::other)
}

/// Whether a process may be there and there is no way to look, as without descriptors.
pub(crate) fn nobody_can_look(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        && error.raw_os_error().is_some_and(|error| error != libc::ESRCH)
}

/// A descriptor that can be awaited for reading.
pub fn awaitable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor until it is dropped, which is after it is deregistered.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Whether the process of a `/proc/<pid>/stat` still runs. Of several threads the first one may be a zombie while
/// others are at work: the process is dead when the last of them is.
pub fn is_running(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X' | 'x') || stat.num_threads > 1
}

/// The kernel's monotonic clock, which all guards share.
pub fn monotonic_millis() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// How long ago that clock had a time.
pub fn passed_since(millis: u64) -> Duration {
    Duration::from_millis(monotonic_millis().saturating_sub(millis))
}

/// How long ago this machine was booted, suspended or not: a clock that nobody can set.
pub fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { start_ticks: own.start_ticks + 1, ..own }.is_alive());
        assert!(!ProcessId { start_ticks: own.start_ticks + 1, ..own }.signal(Signal::SIGKILL));
    }

    /// Guards against a journal in which somebody wrote what kill(2) takes for everybody.
    #[tokio::test]
    async fn a_number_that_means_many_processes_means_none() {
        for pid in [i32::MIN, -1, 0, 1] {
            let start_ticks = ProcessId::of(pid).map_or(0, |first| first.start_ticks);
            let id = ProcessId { pid, start_ticks };
            // A signal that whoever does not await it passes over.
            assert!(!id.signal_group(Signal::SIGWINCH), "{pid}");
            if pid != 1 {
                assert!(!id.signal(Signal::SIGWINCH), "{pid}");
                id.gone().await;
            }
        }
    }

    /// The first thread of a killed Terraform may be gone while another one still writes.
    #[test]
    fn a_process_lives_as_long_as_its_last_thread() {
        let script = "import ctypes, os, platform, sys, threading
def stay():
    while open(f'/proc/{os.getpid()}/stat').read().rsplit(') ', 1)[1][0] != 'Z': pass
    print('up', flush=True)
    sys.stdin.read()
threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)";
        let mut child = std::process::Command::new("python3");
        let child = child.args(["-c", script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = child.spawn().unwrap();
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
        assert!(id.is_alive());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!id.is_alive());
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_awaited_also_while_it_is_a_zombie() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        drop(child.stdin.take());
        id.gone().await;
        assert!(!id.is_alive());
        assert!(!id.signal(Signal::SIGTERM));
        child.wait().unwrap();
        id.gone().await;
    }
}
