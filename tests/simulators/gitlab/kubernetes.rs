//! The Kubernetes executor in its default mode, attached (`executors/kubernetes/kubernetes.go`): SIGTERM to the children of
//! the shells that run the stage's script, and at once the `after_script` next to whatever still runs. The pod lives as
//! long as that.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal::SIGTERM;

use super::super::{Container, Ended, Job, Started};
use super::{AFTER_SCRIPT, generated, variables};
use crate::SOON;
use crate::support::{Exit, Running, Stdin};

/// How the runner, which sees nothing but the log, learns that a stage's script has ended.
const TELL_THE_END: &str = r#"
runner_script_trap() {
    code=$?
    echo
    echo "{\"command_exit_code\": $code, \"script\": \"$0\"}"
    exit 0
}
trap runner_script_trap EXIT
"#;
/// Every process whose command line ends with the script's name, and of those the children.
const CANCEL: &str = r#"
kill -TERM $(for shell in $(
    for file in /proc/[0-9]*/cmdline; do
        (printf "$file "; cat -A "$file") | sed 's/\^@/ /g;s|/proc/||;s|/cmdline||'
        echo
    done | grep -e 'step_script $' | awk '{print $1}'
); do
    test -f /proc/$shell/task/$shell/children && cat /proc/$shell/task/$shell/children && echo
done) 2>/dev/null
"#;
/// From the deletion of the pod to its kill. Scaled: 30 seconds there, which only a shell sits out that does not heed it.
const POD: Duration = Duration::from_secs(3);

/// A runner with the Kubernetes executor.
pub struct GitLabKubernetes;

impl GitLabKubernetes {
    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        let command = Container::command(&job).arg("sh").env("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        let mut pod = Pod { container: Container::start(command.stdin(Stdin::Open)), job };
        let script = pod.job.script().to_owned();
        pod.begin("step_script", &script);
        Box::new(pod)
    }
}

/// A pod whose build container has a shell that is told by its stdin what to run.
struct Pod<'a> {
    job: Job<'a>,
    container: Container,
}

impl Pod<'_> {
    /// Begins a stage, in the background.
    fn begin(&mut self, stage: &str, lines: &str) {
        let variables = variables(&self.job, ("CI_DISPOSABLE_ENVIRONMENT", "true"));
        let script = self.job.file(stage, &generated(&self.job, &variables, TELL_THE_END, lines));
        let log = self.job.place().join("output.log");
        let command = format!("sh -c '(bash {} 2>&1 | tee -a {}) &'\n", script.display(), log.display());
        self.container.log_mut().write(command.as_bytes());
    }

    /// Runs what comes after the script, and deletes the pod.
    fn conclude(mut self) -> Ended {
        let mut ends = vec![self.container.log().stdout().len()];
        for (number, lines) in self.job.cleanups().to_vec().iter().enumerate() {
            let stage = format!("after_script_{number}");
            self.begin(&stage, lines);
            self.wait_for_end_of(&stage, AFTER_SCRIPT);
            ends.push(self.container.log().stdout().len());
        }
        self.container.signal(SIGTERM);
        self.container.log().ends_within(POD);
        let all = self.container.remove();
        *ends.last_mut().expect("the script's") = all.stdout.len();
        // All stages write to the one log.
        let part = |stage: &str, from: usize, to: usize| {
            let code = exit_code(&all.out(), &self.job.place().join(stage));
            Exit { code, signal: None, stdout: all.stdout[from..to].to_vec(), stderr: Vec::new() }
        };
        let cleanup = ends.windows(2).enumerate();
        let cleanup = cleanup.map(|(number, ends)| part(&format!("after_script_{number}"), ends[0], ends[1])).collect();
        Ended { script: part("step_script", 0, ends[0]), cleanup }
    }

    fn wait_for_end_of(&self, stage: &str, timeout: Duration) {
        let end = format!("\"script\": \"{}\"}}", self.job.place().join(stage).display());
        self.container.log().wait_for_stdout(&end, timeout);
    }
}

/// The exit code that a stage's script told.
fn exit_code(log: &str, script: &Path) -> Option<i32> {
    let end = format!(", \"script\": \"{}\"}}", script.display());
    let (before, _) = log.split_once(&end)?;
    before.rsplit_once(' ')?.1.parse().ok()
}

impl Started for Pod<'_> {
    fn log(&self) -> &Running {
        self.container.log()
    }

    fn cancel(self: Box<Self>) -> Ended {
        self.container.exec(&self.job).args(["sh", "-c", CANCEL]).start().wait(SOON);
        self.conclude()
    }

    fn finish(self: Box<Self>) -> Ended {
        self.wait_for_end_of("step_script", AFTER_SCRIPT);
        self.conclude()
    }
}
