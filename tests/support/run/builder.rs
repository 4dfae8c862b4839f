//! How a program is started.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::super::guard::Guard;
use super::{Exit, Running};

/// What a program reads.
pub enum Stdin {
    /// `/dev/null`
    Null,
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// What [`Running::write`] writes, until [`Running::close_stdin`].
    Open,
}

/// A program to run, with an environment of its own: nothing of the caller's but `PATH`.
pub struct Run {
    command: Command,
    stdin: Stdin,
    stdout: Stdout,
    pty: bool,
}

enum Stdout {
    Captured,
    Handed,
    Other(Stdio),
}

impl Run {
    /// The guard ends the program and all it starts.
    pub fn new(program: impl AsRef<OsStr>, guard: &Guard) -> Self {
        let mut command = Command::new(program);
        let (mark, value) = guard.env();
        command.env_clear().env(mark, value);
        // The second: where a coverage build writes to.
        for name in ["PATH", "LLVM_PROFILE_FILE"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        Self { command, stdin: Stdin::Null, stdout: Stdout::Captured, pty: false }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(mut self, vars: impl IntoIterator<Item = (N, V)>) -> Self {
        self.command.envs(vars);
        self
    }

    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// [`Stdin::Null`] unless said otherwise.
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Nobody reads stdout but the test, by [`Running::take_stdout`]: a reader that stalls, or goes away.
    pub fn hand_stdout(mut self) -> Self {
        self.stdout = Stdout::Handed;
        self
    }

    /// A file, or the like, as stdout.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Stdout::Other(stdout.into());
        self
    }

    /// The program leads a process group, so that [`Running::signal_group`] reaches it and not the test.
    pub fn new_group(mut self) -> Self {
        self.command.process_group(0);
        self
    }

    /// The program leads a session on a pseudo-terminal of 24 rows and 80 columns, which is its stdin, stdout and
    /// stderr. What it shows counts as stdout; keys are sent by [`Running::write`].
    pub fn pty(mut self) -> Self {
        self.pty = true;
        self
    }

    /// For what this builder does not offer.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it, waits for its end: ten minutes at most, longer than anything takes that is run so.
    #[track_caller]
    pub fn run(self) -> Exit {
        self.start().wait(Duration::from_secs(600))
    }

    /// Panics if it cannot be started.
    pub fn start(mut self) -> Running {
        if self.pty {
            return self.start_on_pty();
        }
        self.command.stderr(Stdio::piped());
        self.command.stdin(match self.stdin {
            Stdin::Null => Stdio::null(),
            Stdin::Bytes(_) | Stdin::Open => Stdio::piped(),
        });
        let mut handed = None;
        let captured = matches!(self.stdout, Stdout::Captured);
        match self.stdout {
            Stdout::Captured => self.command.stdout(Stdio::piped()),
            Stdout::Other(stdout) => self.command.stdout(stdout),
            Stdout::Handed => {
                let (reader, writer) = std::io::pipe().expect("a pipe can be made");
                handed = Some(reader);
                self.command.stdout(writer)
            }
        };
        let mut child = spawn(&mut self.command);
        let mut input = child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe)));
        if let Stdin::Bytes(bytes) = self.stdin
            && let Some(mut pipe) = input.take()
        {
            // A program may end without having read all.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = captured.then(|| child.stdout.take()).flatten().map(OwnedFd::from);
        let stderr = child.stderr.take().map(OwnedFd::from);
        Running::new(child, input, stdout, stderr, handed)
    }

    fn start_on_pty(mut self) -> Running {
        let (master, slave) = open_pty().expect("a pseudo-terminal can be opened");
        let dup = |fd: &OwnedFd| fd.try_clone().expect("a descriptor can be duplicated");
        self.command.stdin(dup(&slave)).stdout(dup(&slave)).stderr(slave);
        // SAFETY: setsid and ioctl are async-signal-safe and nothing is allocated between fork and exec. Only the
        // child itself can become the leader of a session and take a terminal as its own.
        unsafe {
            self.command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(std::io::stdin())?;
                Ok(())
            });
        }
        let child = spawn(&mut self.command);
        // The command still holds the terminal's other side.
        drop(self.command);
        Running::new(child, Some(File::from(dup(&master))), Some(master), None, None)
    }
}

/// Both sides close on exec from the start, so that no other test's process holds this terminal.
fn open_pty() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    tcsetwinsize(&slave, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 })?;
    Ok((master, slave))
}

#[track_caller]
fn spawn(command: &mut Command) -> Child {
    heed_signals();
    command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().display()))
}

/// What is started heeds every signal, also where the tests run below `nohup` or in the background of a script, whose
/// processes are born with SIGHUP, or SIGINT and SIGQUIT, ignored.
fn heed_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for heeded in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
            // SAFETY: no handler is set, and nothing in the tests sets one for these signals that this could replace.
            unsafe { signal(heeded, SigHandler::SigDfl) }.expect("a signal can be heeded");
        }
    });
}
