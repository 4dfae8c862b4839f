//! A container, as far as it matters here: PID, mount and UTS namespaces of its own, with a home and a temporary
//! directory that end with it. The rest of the file system is its image and its volumes.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{Job, processes};
use crate::SOON;
use crate::support::{Exit, Run, Running, Tools};

/// Once prepared, it says so and becomes what it was told to.
const PREPARE: &str = r#"
mount -t proc proc /proc
for dir in "$HOME" "$TMPDIR"; do mount -t tmpfs tmpfs "$dir"; done
echo "$CONTAINER" > /proc/sys/kernel/hostname
echo container ready
exec "$@"
"#;
const UNSHARE: [&str; 5] = ["--pid", "--fork", "--mount", "--uts", "--kill-child"];

pub struct Container {
    runtime: Running,
    /// None if it had ended before anybody looked.
    init: Option<Pid>,
}

impl Container {
    /// Whether this machine permits any. If not, that is said, past the test harness, which shows only the output of
    /// what fails.
    pub fn permitted(job: &Job) -> bool {
        let script = "mount -t proc proc /proc && mount -t tmpfs tmpfs \"$HOME\" && echo x > /proc/sys/kernel/hostname";
        let permitted = job.run("unshare").args(UNSHARE).args(["sh", "-c", script]).run().code == Some(0);
        if !permitted {
            let words =
                b"SKIPPED: this machine permits no PID, mount and UTS namespaces, so nothing is tried of containers\n";
            let _ = std::io::stderr().write_all(words);
        }
        permitted
    }

    /// What starts one: the command, added as arguments, becomes its PID 1.
    pub fn command(job: &Job) -> Run {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{:012x}", COUNT.fetch_add(1, Ordering::Relaxed));
        job.run("unshare").args(UNSHARE).args(["sh", "-c", PREPARE, "sh"]).env("CONTAINER", name)
    }

    /// Starts one.
    pub fn start(command: Run) -> Self {
        let runtime = command.start();
        runtime.wait_for_stdout("container ready", SOON);
        let init = processes::children(runtime.pid()).first().copied();
        Self { runtime, init }
    }

    /// What its PID 1 writes, and when that ends.
    pub fn log(&self) -> &Running {
        &self.runtime
    }

    /// The same, to write to its stdin.
    pub fn log_mut(&mut self) -> &mut Running {
        &mut self.runtime
    }

    /// A client of `docker exec -i`: the command, added as arguments, runs in the container.
    pub fn exec(&self, job: &Job) -> Run {
        let client = job.file("docker_exec.py", include_str!("docker_exec.py"));
        let into = ["--pid", "--mount", "--uts", "--target"];
        let run = job.run(Tools::get().python()).arg("-I").arg(client).arg("nsenter").args(into);
        run.arg(self.init.expect("the container lives").to_string())
            .arg(format!("--wd={}", job.project().work().display()))
    }

    /// To its PID 1, from outside, so that even a kill is obeyed.
    pub fn signal(&self, signal: Signal) {
        self.init.into_iter().for_each(|init| processes::signal(init, signal));
    }

    /// Ends all that is left in it, as `docker rm --force` does.
    pub fn remove(self) -> Exit {
        self.signal(Signal::SIGKILL);
        self.runtime.wait(SOON)
    }
}
