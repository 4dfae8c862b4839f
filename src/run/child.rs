//! The child: how it is started, and how its end is learned.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use jiff::Timestamp;
use tokio::process::Command;

use crate::model::{ChildRecord, Ending, Environment, ProcessId, World};
use crate::run::Failure;
use crate::run::options::OUTERMOST;
use crate::session::{DirectoryError, Journal, SessionDir, SessionFile, runs_terraform};
use crate::terraform::Flavour;
use crate::{ci, exit, model, terraform};

/// Names the session of the guard around a command, for the guards of the Terraforms that it starts.
pub const OUTER: &str = "TFGUARD_SESSION";

/// More than a line of `/proc/<pid>/stat` has.
const RECORD_SIZE: usize = 1024;

/// Whether this process is a part of one call of a Terraform that has its guard: what was called looked PATH up again and found
/// tfguard's link, as a version manager does for the `system`'s version. A Terraform that another one calls is not.
pub fn is_guarded_already(env: &Environment) -> bool {
    let above: Vec<_> = std::iter::successors(ProcessId::own(), |process| process.parent()).collect();
    let sessions = SessionDir::all(env);
    sessions.iter().any(|session| is_within_call(session, &above))
}

/// Whether `above`, this process and all that it descends from, is a part of the one call of a Terraform that a session, or one
/// inside it, guards.
fn is_within_call(session: &SessionDir, above: &[ProcessId]) -> bool {
    let of_this_one = || {
        let child = read_record(session)?;
        let end = above.iter().position(|process| *process == child.id)?;
        let journal = Journal::read(session).ok().filter(|journal| journal.world == World::here())?;
        model::product(OsStr::new(&journal.account.program))?;
        let log = journal.open_log(session).ok()?;
        Some(!above[..=end].iter().any(|process| runs_terraform(*process, &log)))
    };
    of_this_one() == Some(true) || session.inner().any(|inner| is_within_call(&inner, above))
}

/// The environment of a command that runs Terraforms: with links to tfguard for each that it calls by name, which then
/// has a guard of its own, inside this session. The log is for those that it calls by a path.
///
/// # Errors
/// The links cannot be made.
pub fn environment_with_guards(
    env: &Environment,
    session: &SessionDir,
    inherited: &[(OsString, OsString)],
) -> Result<Environment, DirectoryError> {
    let mut child = env.clone();
    // Terragrunt opens the first log, too (its `internal/logging`), and would hold it as if it were a Terraform.
    child.extend(terraform::log_variables(env, &session.log(), Flavour::OpenTofu));
    child.extend(terraform::link_into(session, env)?);
    // What was typed overrules a variable that says the opposite.
    for (typed, opposite) in [("TFGUARD_VERBOSE", "TFGUARD_QUIET"), ("TFGUARD_QUIET", "TFGUARD_VERBOSE")] {
        if inherited.iter().any(|(name, _)| name == typed) {
            child.remove([opposite]);
        }
    }
    child.extend(inherited.iter().cloned());
    child.remove(OUTERMOST.into_iter().chain(ci::hunting_variables()));
    child.set("TFGUARD_CI_MESSAGES", "off");
    child.set(OUTER, session.path());
    Ok(child)
}

/// The environment of a Terraform: `env` with what makes it log to `log`, too. And whether it will.
pub fn environment_of_terraform(env: &Environment, log: &Path, flavour: Flavour) -> (Environment, bool) {
    let set = terraform::log_variables(env, log, flavour);
    let logs = !set.is_empty();
    let mut child = env.clone();
    child.extend(set);
    child.remove(ci::hunting_variables());
    (child, logs)
}

/// Where the child's output goes.
#[derive(Debug)]
pub enum Output {
    /// To the spool files. None for stderr: to the same file as stdout.
    Spool {
        /// Spool of stdout.
        stdout: File,
        /// Spool of stderr.
        stderr: Option<File>,
    },
    /// To tfguard's own stdout and stderr.
    Terminal {
        /// Whether it gets the terminal's foreground.
        foreground: bool,
    },
}

/// The child.
#[derive(Debug)]
pub enum Child {
    /// Started by this process.
    Own(tokio::process::Child),
    /// Started by a supervisor that is dead. The system does not tell us how it ends.
    Adopted(ProcessId),
    /// Known to be gone, with everything of its session.
    Gone,
}

impl Child {
    /// Starts the command in a process group of its own. It writes its identity into the session before it becomes the
    /// command, so that it can be found however early its supervisor is killed.
    pub fn start(
        command: &[OsString],
        env: &Environment,
        output: Output,
        session: &SessionDir,
    ) -> Result<Self, Failure> {
        let (program, arguments) = command.split_first().expect("the command line requires a command");
        let attached = matches!(output, Output::Terminal { .. });
        let foreground = matches!(output, Output::Terminal { foreground: true });
        let mut child = Command::new(program);
        child.args(arguments).env_clear().envs(env.iter()).process_group(0);
        if let Output::Spool { stdout, stderr } = output {
            let stderr = match stderr {
                Some(stderr) => stderr,
                None => stdout.try_clone().map_err(|error| Failure::of_command(program, error))?,
            };
            child.stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
        }
        let mut record = session.create_file(SessionFile::Child)?;
        // Takes the room for it: without the record the child could be neither interrupted nor taken over.
        let path = || session.path_of(SessionFile::Child);
        let room = record.write_all(&[b' '; RECORD_SIZE]);
        room.map_err(|error| DirectoryError::Io { doing: "write", path: path(), error })?;
        let record_fd = record.as_raw_fd();
        // SAFETY: between fork and exec only async-signal-safe functions are called, on memory of the stack.
        unsafe {
            child.pre_exec(move || {
                record_own_stat(record_fd);
                if attached {
                    ignore_hangup();
                }
                if foreground {
                    take_foreground();
                }
                Ok(())
            });
        }
        child.spawn().map(Self::Own).map_err(|error| Failure::of_command(program, error))
    }

    /// The child as the system sees it now, for when its own record could not be written.
    pub fn record(&self) -> Option<ChildRecord> {
        let pid = match self {
            Self::Own(child) => child.id()?.cast_signed(),
            Self::Adopted(id) => id.pid,
            Self::Gone => return None,
        };
        ChildRecord::from_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Waits for the child's end.
    pub async fn ended(&mut self) -> Ending {
        match self {
            Self::Own(child) => match child.wait().await {
                Ok(status) => ending(status),
                Err(error) => {
                    tracing::error!("cannot learn how the command ended: {error}");
                    Ending::Unknown { at: Timestamp::now() }
                }
            },
            Self::Adopted(id) => {
                id.gone().await;
                Ending::Unknown { at: Timestamp::now() }
            }
            Self::Gone => Ending::Unknown { at: Timestamp::now() },
        }
    }
}

fn ending(status: ExitStatus) -> Ending {
    use std::os::unix::process::ExitStatusExt as _;
    let at = Timestamp::now();
    match status.signal() {
        Some(signal) => Ending::Died { signal, at },
        None => Ending::Exited { code: exit::of_child(status), at },
    }
}

/// Reads what the child wrote of itself; none if it never came to that.
pub fn read_record(session: &SessionDir) -> Option<ChildRecord> {
    ChildRecord::from_stat(&session.read_file(SessionFile::Child).ok()?)
}

/// Copies `/proc/self/stat` to a descriptor, with system calls only. If it fails, the record is missing, which is what
/// a supervisor killed here would have left too.
fn record_own_stat(to: i32) {
    let mut line = [0_u8; RECORD_SIZE];
    // SAFETY: the path is NUL-terminated, `line` is valid for its length, and `length` bytes of it were filled.
    unsafe {
        let from = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let length = libc::read(from, line.as_mut_ptr().cast(), line.len());
        if let Ok(length @ 1..) = usize::try_from(length) {
            libc::pwrite(to, line.as_ptr().cast(), length, 0);
        }
        libc::close(from);
    }
}

/// Makes the child's group the one that the terminal's keys speak to. Done by the child, so that it has the terminal
/// before it is the command. SIGTTOU is ignored here, as in tfguard, and must not be in the command.
fn take_foreground() {
    // SAFETY: system calls on a standard descriptor, and a disposition that is no handler.
    unsafe {
        libc::tcsetpgrp(0, libc::getpid());
        libc::signal(libc::SIGTTOU, libc::SIG_DFL);
    }
}

/// A terminal that hangs up sends SIGHUP to the foreground group, which kills a Terraform at once and providers with
/// it (it catches only SIGINT and SIGTERM, `signal_unix.go`). tfguard gets the hang-up too, and makes it one graceful
/// interrupt.
fn ignore_hangup() {
    // SAFETY: sets a disposition that is no handler.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}
