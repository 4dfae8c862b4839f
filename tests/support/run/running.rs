//! A program while it runs.

use std::fs::File;
use std::io::{PipeReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::super::guard::{self, pid_of, wait_for_end};
use super::super::watched::Watched;
use super::Exit;
use super::stream::{Stream, drain};

/// A program that was started. Dropping it kills it (what it started is left to the `Guard`).
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    /// Tells the threads that read to stop.
    stop: OwnedFd,
    input: Option<File>,
    handed: Option<PipeReader>,
    stdout: Arc<Watched<Stream>>,
    stderr: Arc<Watched<Stream>>,
}

impl Running {
    pub(super) fn new(
        child: Child,
        input: Option<File>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
        handed: Option<PipeReader>,
    ) -> Self {
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child that was not waited for has a pidfd");
        let stop = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd can be made");
        let dup = |fd: &OwnedFd| fd.try_clone().expect("a descriptor can be duplicated");
        let [stdout, stderr] = [stdout, stderr].map(|fd| {
            let stream =
                Arc::new(Watched::new(Stream { complete: fd.is_none(), closed: fd.is_none(), ..Stream::default() }));
            if let Some(fd) = fd {
                let (pidfd, stop, stream) = (dup(&pidfd), dup(&stop), Arc::clone(&stream));
                thread::spawn(move || drain(fd, &pidfd, &stop, &stream));
            }
            stream
        });
        Self { child, pidfd, stop, input, handed, stdout, stderr }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// To the program's pid alone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a child that was not waited for can be signalled");
    }

    /// Kills a guarded run's front and supervisor as if at once: neither gets to act on the other's death.
    #[track_caller]
    pub fn kill_with_supervisor(self, journal: &serde_json::Value) -> Exit {
        let supervisor = pid_of(&journal["supervisor"]);
        kill(Pid::from_raw(supervisor), Signal::SIGSTOP).expect("it is alive");
        self.signal(Signal::SIGSTOP);
        guard::kill(supervisor);
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(60)).expect_signal(Signal::SIGKILL)
    }

    /// To the group the program leads (`Run::new_group`, `Run::pty`).
    #[track_caller]
    pub fn signal_group(&self, signal: Signal) {
        killpg(self.pid(), signal).expect("the group of a child that was not waited for can be signalled");
    }

    /// Writes to an open stdin, or types at the terminal (`b"\x03"` is Ctrl-C, `b"\x1a"` Ctrl-Z).
    pub fn write(&mut self, bytes: &[u8]) {
        self.input.as_mut().expect("stdin is open").write_all(bytes).expect("the program reads");
    }

    /// The end of stdin. For a terminal see [`Self::hang_up`].
    pub fn close_stdin(&mut self) {
        self.input = None;
    }

    /// Goes away as a log collector or a terminal may: closes this side of stdin, stdout, stderr, and so of the
    /// terminal. What was written up to now stays.
    pub fn hang_up(&mut self) {
        self.input = None;
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).expect("an eventfd can be written");
        for stream in [&self.stdout, &self.stderr] {
            stream
                .wait(Duration::from_secs(60), |stream| stream.closed.then_some(()))
                .expect("a thread that reads stops when asked");
        }
    }

    /// The reading side of stdout after `Run::hand_stdout`.
    pub fn take_stdout(&mut self) -> PipeReader {
        self.handed.take().expect("stdout was handed to the test, and not taken before")
    }

    /// Waits until stdout has `text`. Panics after `timeout`, or at once when the program has ended without it.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str, timeout: Duration) {
        self.wait_for(&self.stdout, text, timeout);
    }

    /// As [`Self::wait_for_stdout`].
    #[track_caller]
    pub fn wait_for_stderr(&self, text: &str, timeout: Duration) {
        self.wait_for(&self.stderr, text, timeout);
    }

    #[track_caller]
    fn wait_for(&self, stream: &Watched<Stream>, text: &str, timeout: Duration) {
        let mut seen = 0_usize;
        let found = stream.wait(timeout, |stream| {
            // A text may begin in what was there before.
            let from = seen.saturating_sub(text.len());
            seen = stream.bytes.len();
            match stream.bytes[from..].windows(text.len()).any(|window| window == text.as_bytes()) {
                false if stream.complete => Some(false),
                found => found.then_some(true),
            }
        });
        match found {
            Some(true) => {}
            Some(false) => panic!("ended without {text:?}\n{}", self.shown()),
            None => panic!("no {text:?} within {timeout:?}\n{}", self.shown()),
        }
    }

    /// What was written to stdout up to now.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.get().bytes).into_owned()
    }

    /// What was written to stderr up to now.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.get().bytes).into_owned()
    }

    fn shown(&self) -> String {
        // Without reaping it.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let end = match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => match status.terminating_signal() {
                Some(signal) => format!("died of signal {signal}"),
                None => format!("exited with {}", status.exit_status().unwrap_or_default()),
            },
            _ => "running".to_owned(),
        };
        format!("{end}\n--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.stderr())
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Waits for its end; whether it came within `timeout`.
    pub fn ends_within(&self, timeout: Duration) -> bool {
        wait_for_end(&self.pidfd, timeout)
    }

    /// Waits until nobody holds its stdout and its stderr any more, as a CI does; whether that came within `timeout`.
    pub fn closes_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        [&self.stdout, &self.stderr].into_iter().all(|stream| {
            let left = deadline.saturating_duration_since(Instant::now());
            stream.wait(left, |stream| stream.closed.then_some(())).is_some()
        })
    }

    /// Waits for its end, and for all it wrote itself. Panics after `timeout`.
    #[track_caller]
    pub fn wait(mut self, timeout: Duration) -> Exit {
        if !wait_for_end(&self.pidfd, timeout) {
            panic!("not ended within {timeout:?}\n{}", self.shown());
        }
        let status = self.child.wait().expect("a child can be waited for");
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|stream| {
            stream
                .wait(Duration::from_secs(60), |stream| stream.complete.then(|| stream.bytes.clone()))
                .expect("the output of a program that has ended can be read to its end")
        });
        Exit { code: status.code(), signal: status.signal(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing after a wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
