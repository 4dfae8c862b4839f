//! tfguard on a stage: directories of its own, and actors as its children.
//!
//! An actor is a process that reports every signal it receives and does what the test says, so a test decides the
//! order of events instead of sleeping until they may have happened.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::PidfdFlags;
use serde_json::Value;

use crate::support::{Guard, Run, session_dirs};

/// The binary under test.
pub use crate::{SOON, TFGUARD};

pub struct Stage {
    pub guard: Guard,
    dir: tempfile::TempDir,
    door: UnixListener,
}

impl Stage {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        for name in ["sessions", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        // The umask of the tests may let the group write, which tfguard refuses.
        fs::set_permissions(dir.path().join("sessions"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("actor.py"), include_str!("actor.py")).unwrap();
        let door = UnixListener::bind(dir.path().join("door")).unwrap();
        Self { guard: Guard::new(), dir, door }
    }

    /// A directory for what the test needs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The place of tfguard's sessions (`TFGUARD_DIR`).
    pub fn sessions(&self) -> PathBuf {
        self.dir().join("sessions")
    }

    /// The directory that everything runs in.
    pub fn work(&self) -> PathBuf {
        self.dir().join("work")
    }

    /// A program in the working directory, with nothing of the caller's environment.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Run {
        Run::new(program, &self.guard).current_dir(self.work()).env("TFGUARD_DIR", self.sessions())
    }

    /// tfguard, guarding a command.
    pub fn tfguard<A: AsRef<OsStr>>(&self, options: &[&str], command: impl IntoIterator<Item = A>) -> Run {
        self.run(TFGUARD).args(options).arg("--").args(command)
    }

    /// tfguard, guarding an actor.
    pub fn guarded(&self, options: &[&str]) -> Run {
        self.tfguard(options, self.actor())
    }

    /// A shell script in which `"$@"` is tfguard, guarding an actor.
    pub fn script(&self, script: &str, options: &[&str]) -> Run {
        self.script_of(script, options, self.actor())
    }

    /// A shell script in which `"$@"` is tfguard, guarding a command.
    pub fn script_of<A: AsRef<OsStr>>(
        &self,
        script: &str,
        options: &[&str],
        command: impl IntoIterator<Item = A>,
    ) -> Run {
        self.run("sh").args(["-c", script, "sh", TFGUARD]).args(options).arg("--").args(command)
    }

    /// The command line of an actor.
    pub fn actor(&self) -> Vec<OsString> {
        let file = |name: &str| self.dir().join(name).into_os_string();
        vec![python().into(), "-IS".into(), file("actor.py"), file("door")]
    }

    /// Waits for the next actor that was started.
    #[track_caller]
    pub fn enter(&self) -> Actor {
        assert!(is_ready(&self.door), "no actor came; alive: {:?}", self.guard.processes());
        Actor::new(self.door.accept().unwrap().0)
    }

    /// The directories of the sessions that are there.
    pub fn session_dirs(&self) -> Vec<PathBuf> {
        session_dirs(&self.sessions())
    }

    /// Nothing is left of any session.
    #[track_caller]
    pub fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.sessions()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?} {:?}", self.session_dirs());
    }

    /// A file that `--report` wrote.
    #[track_caller]
    pub fn report(&self, name: &str) -> Value {
        let text = fs::read(self.work().join(name)).expect("the report was written");
        serde_json::from_slice(&text).expect("the report is JSON")
    }
}

/// The interpreter itself: what is called python3 on PATH may be a script that takes its time to find it.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let found = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        let found = found.expect("these tests need python3 on PATH").stdout;
        PathBuf::from(String::from_utf8(found).unwrap().trim_end())
    })
}

#[derive(Default)]
struct Heard {
    signals: Vec<String>,
    answers: Vec<Value>,
    gone: bool,
}

/// One actor. It ends when this is dropped.
pub struct Actor {
    pub pid: Pid,
    pub parent: Pid,
    pub group: Pid,
    /// The session in the kernel's sense.
    pub session: Pid,
    /// The signals it inherited as ignored.
    pub ignored: Vec<String>,
    socket: UnixStream,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

impl Actor {
    #[track_caller]
    fn new(socket: UnixStream) -> Self {
        let mut lines = BufReader::new(socket.try_clone().unwrap());
        let mut hello = String::new();
        lines.read_line(&mut hello).unwrap();
        let hello: Value = serde_json::from_str(&hello).expect("an actor says who it is");
        let pid = |name: &str| Pid::from_raw(hello[name].as_i64().unwrap().try_into().unwrap());
        let ignored = hello["ignored"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        let heard: Arc<(Mutex<Heard>, Condvar)> = Arc::default();
        let told = Arc::clone(&heard);
        std::thread::spawn(move || {
            for line in lines.lines() {
                // The last line of one that was killed may be half a line.
                let fact = line.ok().and_then(|line| serde_json::from_str::<Value>(&line).ok());
                let Some(mut fact) = fact else { break };
                let mut heard = told.0.lock().unwrap();
                match fact.get_mut("signal") {
                    Some(name) => heard.signals.push(name.as_str().unwrap().to_owned()),
                    None => heard.answers.push(fact["answer"].take()),
                }
                told.1.notify_all();
            }
            told.0.lock().unwrap().gone = true;
            told.1.notify_all();
        });
        Self {
            pid: pid("pid"),
            parent: pid("parent"),
            group: pid("group"),
            session: pid("session"),
            ignored: ignored.collect(),
            socket,
            heard,
        }
    }

    /// Lets it run Python statements and waits until they are done.
    #[track_caller]
    pub fn perform(&self, code: &str) {
        self.order("do", code);
        self.wait(|heard| heard.answers.pop());
    }

    /// Lets it run Python statements that end it.
    #[track_caller]
    pub fn order_last(&self, code: &str) {
        self.order("do", code);
        self.wait_for_end();
    }

    /// The value of a Python expression in it.
    #[track_caller]
    pub fn ask(&self, code: &str) -> Value {
        self.order("eval", code);
        self.wait(|heard| heard.answers.pop())
    }

    /// Lets it exit.
    #[track_caller]
    pub fn exit(&self, code: u8) {
        self.order_last(&format!("os._exit({code})"));
    }

    /// Has it start another actor. `options` are those of `subprocess.Popen`.
    #[track_caller]
    pub fn start_another(&self, stage: &Stage, options: &str) -> Actor {
        self.perform(&format!("another({options})"));
        stage.enter()
    }

    /// Gives it something to do without waiting: the answer is the next [`Actor::answer`].
    #[track_caller]
    pub fn begin(&self, code: &str) {
        self.order("eval", code);
    }

    /// The answer to what was begun.
    #[track_caller]
    pub fn answer(&self) -> Value {
        self.wait(|heard| heard.answers.pop())
    }

    #[track_caller]
    fn order(&self, kind: &str, code: &str) {
        let line = serde_json::to_string(&(kind, code)).unwrap() + "\n";
        (&self.socket).write_all(line.as_bytes()).expect("the actor is there");
    }

    #[track_caller]
    pub fn wait_for_end(&self) {
        self.wait(|heard| heard.gone.then_some(()));
    }

    /// Waits until it has received a signal.
    #[track_caller]
    pub fn wait_for_signal(&self, signal: Signal) {
        self.wait(|heard| heard.signals.iter().any(|name| name == signal.as_str()).then_some(()));
    }

    /// Waits until it has received so many signals.
    #[track_caller]
    pub fn wait_for_signals(&self, count: usize) {
        self.wait(|heard| (heard.signals.len() >= count).then_some(()));
    }

    /// Waits until it has received any signal, or is gone.
    #[track_caller]
    pub fn wait_for_any_signal(&self) {
        self.wait(|heard| (heard.gone || !heard.signals.is_empty()).then_some(()));
    }

    /// All signals it has received.
    pub fn signals(&self) -> Vec<String> {
        self.heard.0.lock().unwrap().signals.clone()
    }

    pub fn is_gone(&self) -> bool {
        self.heard.0.lock().unwrap().gone
    }

    #[track_caller]
    fn wait<R>(&self, mut look: impl FnMut(&mut Heard) -> Option<R>) -> R {
        let deadline = Instant::now() + SOON;
        let mut heard = self.heard.0.lock().unwrap();
        loop {
            if let Some(found) = look(&mut heard) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "in vain; signals so far: {:?}, gone: {}", heard.signals, heard.gone);
            heard = self.heard.1.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// Waits until it is stopped (as by Ctrl-Z).
    #[track_caller]
    pub fn wait_until_stopped(&self) {
        let deadline = Instant::now() + SOON;
        // Only a parent could await it.
        while stat(self.pid, 0) != "T" {
            assert!(Instant::now() < deadline, "not stopped: {}", stat(self.pid, 0));
            std::thread::yield_now();
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// A process that the test did not start itself.
pub struct Other(OwnedFd);

impl Other {
    /// It must be alive.
    #[track_caller]
    pub fn new(pid: Pid) -> Self {
        let pid = rustix::process::Pid::from_raw(pid.as_raw()).unwrap();
        Self(rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("the process is alive"))
    }

    /// Waits until it has ended, reaped or not.
    #[track_caller]
    pub fn wait_for_end(&self) {
        assert!(is_ready(&self.0), "still alive after {SOON:?}");
    }
}

/// Whether a descriptor has something to tell before the test gives up.
fn is_ready(fd: &impl AsFd) -> bool {
    let timeout = Timespec::try_from(SOON).ok();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], timeout.as_ref()).expect("a descriptor can be polled") > 0
}

/// The environment that a process was started with.
pub fn environ(pid: Pid) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).expect("the process is there");
    bytes.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}

/// The kernel's field of `/proc/<pid>/stat` after the name: `0` is the state, `1` the parent, `2` the group, `3` the
/// session.
#[track_caller]
pub fn stat(pid: Pid, field: usize) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let (_, fields) = text.rsplit_once(") ").unwrap();
    fields.split(' ').nth(field).unwrap().to_owned()
}
