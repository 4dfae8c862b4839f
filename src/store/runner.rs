//! A second Terraform, started by tfguard in the dead child's place: bounded, and gone when it should be.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::aws::Surroundings;
use crate::ci;
use crate::terraform::workspace;

/// What is read of its output: more than any of the commands run here prints.
const LONGEST_OUTPUT: u64 = 1024 * 1024;

/// Variables that would change what it prints, or write to the log of the dead child or its user.
const REMOVED: [&str; 7] =
    ["TF_LOG", "TF_LOG_CORE", "TF_LOG_PROVIDER", "TF_LOG_CLOUD", "TF_LOG_STACKS", "TF_LOG_PATH", "TF_TEMP_LOG_PATH"];

/// The program that the child was, in its directory and environment. The latter can hold secrets: Debug does not show
/// it.
#[derive(Clone)]
pub struct Terraform {
    program: OsString,
    global: Vec<OsString>,
    dir: PathBuf,
    env: HashMap<OsString, OsString>,
}

impl std::fmt::Debug for Terraform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terraform")
            .field("program", &self.program)
            .field("global", &self.global)
            .finish_non_exhaustive()
    }
}

/// What it answered.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code; none if it died of a signal.
    pub code: Option<i32>,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// It gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// It cannot be started.
    #[error("{program} cannot be started: {error}")]
    NotStarted {
        /// The program.
        program: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// It took too long and was killed.
    #[error("`{command}` did not answer within {} s and was killed", .limit.as_secs())]
    TimedOut {
        /// What was run.
        command: String,
        /// How long it had.
        limit: Duration,
    },
}

impl Terraform {
    /// The program of a command line that ran in `dir` with `env`, with the global options it had.
    #[must_use]
    pub fn of(dir: &Path, command: &[OsString], env: &HashMap<OsString, OsString>) -> Self {
        let (program, arguments) =
            command.split_first().map_or((OsStr::new("terraform"), &[][..]), |(program, rest)| (program, rest));
        let is_chdir = |argument: &&OsString| argument.as_encoded_bytes().starts_with(b"-chdir=");
        let is_global = |argument: &&OsString| argument.as_encoded_bytes().starts_with(b"-");
        Self {
            program: program.to_owned(),
            global: arguments.iter().take_while(is_global).filter(is_chdir).cloned().collect(),
            dir: dir.to_owned(),
            env: env.clone(),
        }
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> String {
        Path::new(&self.program).file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The beginning of a command line by which a person runs it in the same place, from whichever directory.
    #[must_use]
    pub fn typed(&self) -> String {
        let surroundings = Surroundings::of_command(&self.dir, &self.global, self.env.clone());
        surroundings.terraform(&self.name(), &workspace(&surroundings), true)
    }

    /// Runs a subcommand, for at most `limit`, without input and without a log. It is in a process group of its own, so
    /// that nobody else's signals end it in the middle; at the limit the whole group is killed.
    pub async fn run(&self, arguments: &[&str], limit: Duration) -> Result<Answer, NoAnswer> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.global)
            .args(arguments)
            .current_dir(&self.dir)
            .env_clear()
            .envs(self.env.iter().filter(|(name, _)| !is_arguments(name) && !is_removed(name)))
            .envs([("TF_FORK", "0"), ("TF_INPUT", "0"), ("TF_IN_AUTOMATION", "1"), ("CHECKPOINT_DISABLE", "1")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let not_started = |error| NoAnswer::NotStarted { program: self.name(), error };
        let mut child = command.spawn().map_err(not_started)?;
        let group = child.id();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = tokio::time::timeout(limit, async { tokio::join!(read(stdout), read(stderr), child.wait()) }).await;
        if let Ok((stdout, stderr, status)) = ended {
            return Ok(Answer { code: status.map_err(not_started)?.code(), stdout, stderr });
        }
        // Not reaped yet, so the number is still its own.
        if let Some(group) = group.filter(|_| child.id().is_some()).and_then(|group| i32::try_from(group).ok()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = child.wait().await;
        Err(NoAnswer::TimedOut { command: format!("{} {}", self.name(), arguments.first().unwrap_or(&"")), limit })
    }

    /// Its version, as it writes it into a lock.
    pub async fn version(&self, limit: Duration) -> Result<String, String> {
        let answer = self.run(&["version", "-json"], limit).await.map_err(|error| error.to_string())?;
        serde_json::from_str::<serde_json::Value>(&answer.stdout)
            .ok()
            // OpenTofu names it so, too. A lock has it without the pre-release (`version.Version`).
            .and_then(|version| Some(version.get("terraform_version")?.as_str()?.split('-').next()?.to_owned()))
            .ok_or_else(|| format!("`{} version -json` did not tell its version", self.name()))
    }
}

/// Whether a variable adds arguments to a command line: `TF_CLI_ARGS`, `TF_CLI_ARGS_apply`, ….
fn is_arguments(variable: &OsStr) -> bool {
    variable.as_encoded_bytes().starts_with(b"TF_CLI_ARGS")
}

fn is_removed(variable: &OsStr) -> bool {
    REMOVED.iter().chain(ci::HUNTING_VARIABLES).any(|removed| variable == OsStr::new(removed))
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // A part is as good as the whole to whoever looks for a few lines.
        let _ = stream.take(LONGEST_OUTPUT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(env: &[(&str, &str)]) -> Terraform {
        let path = std::env::var_os("PATH").unwrap();
        let env =
            env.iter().map(|(name, value)| ((*name).into(), (*value).into())).chain([("PATH".into(), path)]).collect();
        Terraform::of(Path::new("/"), &["sh".into()], &env)
    }

    #[test]
    fn of_the_global_options_only_the_directory_is_taken_over() {
        let command: Vec<OsString> = ["tofu", "-chdir=a", "-x", "apply", "-chdir=b"].iter().map(Into::into).collect();
        let terraform = Terraform::of(Path::new("/"), &command, &HashMap::new());
        assert_eq!((terraform.name().as_str(), terraform.global), ("tofu", vec!["-chdir=a".into()]));
    }

    #[tokio::test]
    async fn it_has_the_environment_less_what_would_change_its_answer() {
        let terraform = shell(&[("TF_LOG", "trace"), ("TF_CLI_ARGS_untaint", "-lock=false"), ("TF_WORKSPACE", "blue")]);
        let answer = terraform.run(&["-c", "env; echo $0 >&2; exit 3"], Duration::from_secs(60)).await.unwrap();
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(3), "sh\n"));
        assert!(answer.stdout.contains("TF_WORKSPACE=blue\n") && answer.stdout.contains("TF_IN_AUTOMATION=1\n"));
        assert!(!answer.stdout.contains("TF_LOG") && !answer.stdout.contains("TF_CLI_ARGS"), "{}", answer.stdout);
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 600 & echo $! >{0}; wait", pids.display());
        let error = shell(&[]).run(&["-c", &script], Duration::from_millis(500)).await.unwrap_err();
        assert!(matches!(error, NoAnswer::TimedOut { .. }), "{error}");
        // The sleep is nobody's child now: it is reaped by whoever took it over.
        let pid: i32 = std::fs::read_to_string(pids).unwrap().trim().parse().unwrap();
        let gone = || {
            procfs::process::Process::new(pid).and_then(|process| process.stat()).is_ok_and(|stat| stat.state != 'Z')
        };
        for _ in 0..600 {
            if !gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{pid} lives on");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_answer_too() {
        let terraform = Terraform::of(Path::new("/"), &["/nonexistent/terraform".into()], &HashMap::new());
        assert!(matches!(terraform.run(&[], Duration::from_secs(60)).await, Err(NoAnswer::NotStarted { .. })));
        assert!(terraform.version(Duration::from_secs(60)).await.is_err());
    }
}
