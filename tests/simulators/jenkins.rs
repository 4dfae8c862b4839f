//! Jenkins, a stand-in made of its sources and of what its own code was seen to do: how a step is launched (durable-task-plugin, `BourneShellScript.java`), how an abort looks for processes by a
//! cookie in their environment and signals them and all below them (jenkins, `core/…/hudson/util/ProcessTree.java`), and
//! how long the step is waited for (workflow-durable-task-step-plugin, `DurableTaskStep.java`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::SIGTERM;
use nix::unistd::Pid;

use super::processes;
use super::{Ended, Job, Started};
use crate::SOON;
use crate::support::{Exit, Run, Running};

/// How long one walk waits for the processes that it signals (`SoftKillWaitSeconds`). There is no SIGKILL.
const SOFT_KILL: Duration = Duration::from_secs(5);
/// How long an aborted step is waited for (`REMOTE_TIMEOUT`).
const ABORT: Duration = Duration::from_secs(20);
/// `post` has no limit; this only bounds a hang.
const POST: Duration = Duration::from_secs(5 * 60);
/// How often an agent looks whether a step has ended.
const LOOK: Duration = Duration::from_millis(100);

/// An agent.
#[derive(Clone, Copy, Default)]
pub enum Jenkins {
    /// A pipeline's `sh`, on the agent itself.
    #[default]
    Pipeline,
    /// A pipeline's `sh` in a container (`ContainerExecDecorator.java` of the kubernetes plugin, `WithContainerStep.java` of
    /// the docker one): a single `kill` for all processes that carry the cookie.
    Container,
    /// A freestyle project's shell step, a child of the agent's own (`hudson/Proc.java`, `hudson/model/AbstractBuild.java`).
    Freestyle,
}

impl Jenkins {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        let build = Build { kind: self, job };
        let step = build.start("script", build.job.script());
        Box::new(InStep { build, step })
    }
}

/// A build on its node.
struct Build<'a> {
    kind: Jenkins,
    job: Job<'a>,
}

/// A step that was started.
struct Step {
    /// The directory in which it leaves its log and its result.
    control: PathBuf,
    /// Shows the log as it grows; in a freestyle project the step itself.
    log: Running,
}

impl Build<'_> {
    /// Of a pipeline, every `sh` in one directory of a workspace has the same cookie, also those of branches side by side: there a digest of its path.
    fn cookie(&self) -> String {
        format!("durable-{}", self.job.project().work().display())
    }

    fn node_cookie(&self) -> String {
        format!("node-{}", self.job.id())
    }

    fn run(&self, program: &str) -> Run {
        let job = &self.job;
        let url = "https://jenkins.example/";
        job.run(program)
            .envs([("JENKINS_URL", url), ("JOB_NAME", "apply"), ("BUILD_NUMBER", "7"), ("BUILD_ID", "7")])
            .envs([
                ("BUILD_URL", format!("{url}job/apply/{}/", job.id())),
                ("BUILD_TAG", format!("jenkins-{}", job.id())),
            ])
            .envs([("WORKSPACE", job.project().work()), ("WORKSPACE_TMP", job.dir("workspace@tmp"))])
    }

    fn start(&self, name: &str, script: &str) -> Step {
        let control = self.job.dir(&format!("durable-{name}"));
        let file = |name: &str| control.join(name);
        fs::write(file("script.sh"), script).expect("a file can be written");
        if let Jenkins::Freestyle = self.kind {
            let step = self.run("sh").args(["-xe".as_ref(), file("script.sh").as_os_str()]);
            let log = step.env("HUDSON_COOKIE", self.cookie()).env("JENKINS_SERVER_COOKIE", self.cookie()).start();
            return Step { control, log };
        }
        fs::write(file("jenkins-log.txt"), "").expect("a file can be written");
        // In the background, so that the shell has SIGINT and SIGQUIT ignored in everything, as nohup has SIGHUP.
        let launcher = "({ while [ -d \"$0\" ] && [ ! -f \"$0/jenkins-result.txt\" ]; do \
                            touch \"$0/jenkins-log.txt\"; sleep 3; done } & \
                        jsc=$1; JENKINS_SERVER_COOKIE=$jsc sh -xe \"$0/script.sh\" > \"$0/jenkins-log.txt\" 2>&1; \
                        echo $? > \"$0/jenkins-result.tmp\"; mv \"$0/jenkins-result.tmp\" \"$0/jenkins-result.txt\"; wait \
                        ) >&- 2>&- &";
        // What may be called a daemon is a step of its own, hence no cookie of the step in the wrapper.
        let wrapper = self.run("nohup").args(["sh", "-c", launcher]).arg(&control).arg(self.cookie());
        let wrapper = wrapper.env("JENKINS_SERVER_COOKIE", "please-do-not-kill-me");
        wrapper.env("JENKINS_NODE_COOKIE", self.node_cookie()).run().expect_code(0);
        let log = self.job.run("tail").args(["-c", "+1", "-f"]).arg(file("jenkins-log.txt")).start();
        Step { control, log }
    }

    fn abort(&self, step: Pid) {
        let ours = |name| processes::with_variable(name, &self.cookie());
        match self.kind {
            Jenkins::Pipeline => walk(|| ours("JENKINS_SERVER_COOKIE")),
            Jenkins::Container => {
                ours("JENKINS_SERVER_COOKIE").into_iter().for_each(|pid| processes::signal(pid, SIGTERM))
            }
            // By the controller and by the agent, at the same time.
            Jenkins::Freestyle => thread::scope(|scope| {
                scope.spawn(|| walk(|| vec![step]));
                walk(|| ours("HUDSON_COOKIE"));
            }),
        }
    }

    fn conclude(&self, script: Exit) -> Ended {
        let cleanup = self.job.cleanups().iter().enumerate();
        let cleanup = cleanup.map(|(number, script)| self.start(&format!("post-{number}"), script).end(POST));
        let cleanup = cleanup.collect();
        match self.kind {
            Jenkins::Freestyle => walk(|| processes::with_variable("JENKINS_SERVER_COOKIE", &self.cookie())),
            _ => walk(|| processes::with_variable("JENKINS_NODE_COOKIE", &self.node_cookie())),
        }
        Ended { script, cleanup }
    }
}

impl Step {
    /// Waits for its end; then, or when the time is over, the step is over, and its directory is removed.
    fn end(self, timeout: Duration) -> Exit {
        let deadline = Instant::now() + timeout;
        if !self.control.join("jenkins-log.txt").exists() {
            // The agent's own child.
            self.log.ends_within(timeout);
            return self.log.wait(SOON);
        }
        let result = loop {
            if let Ok(result) = fs::read_to_string(self.control.join("jenkins-result.txt")) {
                break result.trim().parse().ok();
            }
            if Instant::now() > deadline {
                break None;
            }
            thread::sleep(LOOK);
        };
        let stdout = fs::read(self.control.join("jenkins-log.txt")).expect("it is there");
        // A script that goes on, and what runs it, may be writing there.
        let removed = (0..1000).any(|_| match fs::remove_dir_all(&self.control) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => false,
            removed => removed.map(|()| true).expect("a directory can be removed"),
        });
        assert!(removed, "{} fills up again and again", self.control.display());
        Exit { code: result, signal: None, stdout, stderr: Vec::new() }
    }
}

/// One after the other: everything below a process, then the process itself, by what was there at the beginning of the whole
/// walk. The five seconds begin anew for each that carries the cookie.
fn walk(matching: impl FnOnce() -> Vec<Pid>) {
    let snapshot = Snapshot::take();
    for pid in snapshot.in_order(matching()) {
        snapshot.kill(pid, Instant::now() + SOFT_KILL);
    }
}

struct Snapshot {
    children: BTreeMap<Pid, Vec<Pid>>,
    /// Slots of the table in which Java keeps all processes by their pids.
    slots: usize,
}

impl Snapshot {
    fn take() -> Self {
        let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
        let mut count = 0;
        for (pid, parent) in processes::with_parents() {
            children.entry(parent).or_default().push(pid);
            count += 1;
        }
        // `HashMap` grows when it is three quarters full.
        let slots = (count * 4 / 3 + 1_usize).next_power_of_two().max(16);
        Self { children, slots }
    }

    /// In the order of a `HashMap<Integer, …>`, which is not that of the pids.
    fn in_order(&self, mut pids: Vec<Pid>) -> Vec<Pid> {
        pids.sort_by_key(|pid| {
            let hash = pid.as_raw() ^ (pid.as_raw() >> 16);
            usize::try_from(hash).unwrap_or_default() & (self.slots - 1)
        });
        pids
    }

    fn kill(&self, pid: Pid, deadline: Instant) {
        for child in self.in_order(self.children.get(&pid).cloned().unwrap_or_default()) {
            self.kill(child, deadline);
        }
        processes::signal(pid, SIGTERM);
        let mut pause = Duration::from_millis(10);
        while Path::new(&format!("/proc/{pid}/status")).exists() {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
            if Instant::now() > deadline {
                return;
            }
        }
    }
}

/// A build whose script runs.
struct InStep<'a> {
    build: Build<'a>,
    step: Step,
}

impl Started for InStep<'_> {
    fn log(&self) -> &Running {
        &self.step.log
    }

    fn cancel(self: Box<Self>) -> Ended {
        let Self { build, step } = *self;
        let pid = step.log.pid();
        // The log of the step is gone when it has ended, and `post` starts when the walk is done, too.
        let script = thread::scope(|scope| {
            scope.spawn(|| build.abort(pid));
            step.end(ABORT)
        });
        build.conclude(script)
    }

    fn finish(self: Box<Self>) -> Ended {
        let Self { build, step } = *self;
        let script = step.end(POST);
        build.conclude(script)
    }
}
