//! A second Terraform, started in the dead child's place: it is asked who holds the state, and has it unlock.

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
use crate::model::Environment;
use crate::observe::{PrintedHolder, PrintedRefusal};
use crate::terraform::workspace;

/// The command that asks. `untaint` loads the backend (no provider, no variable), takes the lock, reads the state,
/// finds that the resource is not there, unlocks and ends, before the line that would write anything
/// (`internal/command/untaint.go`, Terraform 0.13 to 1.15 and OpenTofu alike). With `-allow-missing` that is a success,
/// so exit code 0 means that the lock was free.
const LOOK: [&str; 6] =
    ["untaint", "-no-color", "-lock=true", "-lock-timeout=0s", "-allow-missing", "tfguard_lock_probe.no_such_resource"];

/// The operation of the lock that it takes.
pub const OPERATION: &str = LOOK[0];

/// How Terraform says that it could not give back the lock that it took to look.
const RELEASE_FAILED: &str = "Error releasing the state lock";
/// `outputUnlockSuccess` in `internal/command/unlock.go`.
const UNLOCKED: &str = "has been successfully unlocked";

/// Who has the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Free,
    Held(PrintedHolder),
    /// It cannot be said, for this reason.
    Unclear(String),
}

/// Looks who has the lock of the workspace's state.
pub async fn look(terraform: &Terraform, limit: Duration) -> Look {
    match terraform.run(&LOOK, limit).await {
        Ok(answer) => read_look(&answer),
        Err(error @ NoAnswer::NotStarted { .. }) => Look::Unclear(error.to_string()),
        Err(error @ NoAnswer::TimedOut { .. }) => {
            Look::Unclear(format!("{error}; if it had got the lock by then, there is one of operation `untaint` now"))
        }
    }
}

fn read_look(answer: &Answer) -> Look {
    let text = [answer.stderr.as_str(), &answer.stdout].join("\n");
    if text.contains(RELEASE_FAILED) {
        return Look::Unclear(format!("looking at it took the lock, and giving it back failed: {}", summary(&text)));
    }
    match PrintedRefusal::find(&text) {
        Some(PrintedRefusal { holder: Some(holder), .. }) => Look::Held(holder),
        Some(PrintedRefusal { reason, holder: None }) => Look::Unclear(summary(&reason)),
        None if answer.code == Some(0) => Look::Free,
        None => Look::Unclear(summary(&text)),
    }
}

/// Has Terraform unlock the state.
///
/// # Errors
/// When it did not, or did not say so.
pub async fn force_unlock(terraform: &Terraform, id: &str, limit: Duration) -> Result<(), String> {
    let answer =
        terraform.run(&["force-unlock", "-no-color", "-force", id], limit).await.map_err(|error| error.to_string())?;
    read_unlock(&answer)
}

fn read_unlock(answer: &Answer) -> Result<(), String> {
    // Both: a wrapper can end with 0 whatever happened, and a text can be another command's.
    if answer.code == Some(0) && answer.stdout.contains(UNLOCKED) {
        return Ok(());
    }
    Err(summary(&[answer.stderr.as_str(), &answer.stdout].join("\n")))
}

/// The first paragraphs of an error, in one line. An address is cut before its query, which can be a signature.
fn summary(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word.split_once('?') {
        Some((address, _)) if word.contains("://") => address,
        _ => word,
    });
    let line: String = words.collect::<Vec<_>>().join(" ").chars().take(300).collect();
    if line.is_empty() { "Terraform did not say why".to_owned() } else { line.escape_debug().to_string() }
}

/// How long a process that was killed is waited for.
const LONGEST_DEATH: Duration = Duration::from_secs(3);

/// What is read of its output: more than any of the commands run here prints.
const LONGEST_OUTPUT: u64 = 1024 * 1024;

/// Variables that would change what it prints, or write to the log of the dead child or its user.
const REMOVED: [&str; 7] =
    ["TF_LOG", "TF_LOG_CORE", "TF_LOG_PROVIDER", "TF_LOG_CLOUD", "TF_LOG_STACKS", "TF_LOG_PATH", "TF_TEMP_LOG_PATH"];

/// The program that the child was, in its directory and environment.
#[derive(Debug, Clone)]
pub struct Terraform {
    program: OsString,
    global: Vec<OsString>,
    dir: PathBuf,
    env: Environment,
}

/// What it answered.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code; none if it died of a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// It gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// It cannot be started.
    #[error("{program} cannot be started: {error}")]
    NotStarted { program: String, error: std::io::Error },
    /// It took too long and was killed.
    #[error("`{command}` did not answer within {} s and was killed", .limit.as_secs())]
    TimedOut { command: String, limit: Duration },
}

impl Terraform {
    /// The program of a command line that ran in `dir` with `env`, with the global options it had.
    pub fn of(dir: &Path, command: &[OsString], env: &Environment) -> Self {
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
    pub fn name(&self) -> String {
        Path::new(&self.program).file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The beginning of a command line by which a person runs it in the same place, from whichever directory.
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
        // Nobody can kill a process that is another user's, or that the kernel does not let go.
        let _ = tokio::time::timeout(LONGEST_DEATH, child.wait()).await;
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
    REMOVED.into_iter().chain(ci::hunting_variables()).any(|removed| variable == OsStr::new(removed))
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

    fn answer(code: i32, stdout: &str, stderr: &str) -> Answer {
        Answer { code: Some(code), stdout: stdout.into(), stderr: stderr.into() }
    }

    const REFUSED: &str = "\nError: Error acquiring the state lock\n\nError message: state blob is already locked\nLock Info:\n  ID:        4bb7d84c-f09d-7909-0219-02f6e8d9eeb4\n  Path:      states/prod\n  Operation: OperationTypeApply\n  Who:       root@vm\n  Version:   1.11.4\n  Created:   2026-11-20 04:11:22 +0000 UTC\n  Info:      \n\n\nTerraform acquires a state lock to protect the state from being written\n";

    #[test]
    fn a_look_is_free_only_by_exit_code_and_silence() {
        let missing = "\nWarning: No such resource instance\n\nResource instance tfguard_lock_probe.no_such_resource was not found, but this is\nnot an error because -allow-missing was set.\n";
        assert_eq!(read_look(&answer(0, missing, "")), Look::Free);
        assert!(matches!(read_look(&answer(1, missing, "")), Look::Unclear(_)));
        let unreleased = "\nError: Error releasing the state lock\n\nError message: no network\n";
        assert!(
            matches!(read_look(&answer(0, missing, unreleased)), Look::Unclear(why) if why.contains("giving it back failed"))
        );
    }

    #[test]
    fn a_refusal_names_the_holder() {
        let Look::Held(PrintedHolder { info: Some(info), .. }) = read_look(&answer(1, "", REFUSED)) else { panic!() };
        assert_eq!((info.who.as_str(), info.created.as_str()), ("root@vm", "2026-11-20T04:11:22Z"));
    }

    #[test]
    fn a_signed_address_is_not_repeated() {
        for error in [
            "Error: GET \"https://a.blob.core.windows.net/c/k?sv=1&sig=hush\": 403",
            "Error: Error acquiring the state lock\n\nError message: https://x/?sig=hush denied",
            "Error: https://a/b then ?next=https://x/?sig=hush",
        ] {
            let Look::Unclear(why) = read_look(&answer(1, "", error)) else { panic!() };
            assert!(!why.contains("hush") && why.contains("https://"), "{why}");
        }
    }

    #[test]
    fn an_error_of_another_kind_is_told() {
        for (text, words) in [
            (
                "\nError: Backend initialization required, please run \"terraform init\"\n\nReason: x\n",
                "Backend initialization required",
            ),
            (
                "\nError: Error acquiring the state lock\n\nError message: access denied\n\nTerraform acquires a state lock\n",
                "access denied",
            ),
            ("", "did not say why"),
        ] {
            assert!(matches!(read_look(&answer(1, "", text)), Look::Unclear(why) if why.contains(words)), "{text}");
        }
    }

    /// The answers of `force-unlock` on each backend, from `internal/command/unlock.go` and the backends' `Unlock`.
    #[test]
    fn only_terraforms_word_and_exit_code_together_mean_unlocked() {
        let success = "Terraform state has been successfully unlocked!\n\nThe state has been unlocked, and Terraform commands should now be able to\nobtain a new lock on the remote state.\n";
        assert_eq!(read_unlock(&answer(0, success, "")), Ok(()));
        assert_eq!(read_unlock(&answer(0, &success.replace("Terraform", "OpenTofu"), "")), Ok(()));
        assert!(read_unlock(&answer(1, success, "")).is_err() && read_unlock(&answer(0, "", "")).is_err());
        for reason in [
            "googleapi: Error 412: At least one of the pre-conditions you specified did not hold., conditionNotMet",
            "Lock ID should be numerical value, got 'x'",
            "lock id \"a\" does not match existing lock",
            "failed to retrieve lock info: blob metadata \"terraformlockid\" was empty",
            "state is already unlocked",
            "lock id mismatch, a != b",
            "lock ID 'a' does not match the existing lock ID 'b'",
        ] {
            let why = read_unlock(&answer(1, "", &format!("Failed to unlock state: {reason}\n"))).unwrap_err();
            assert!(why.starts_with("Failed to unlock state: "), "{why}");
        }
    }

    fn shell(env: &[(&str, &str)]) -> Terraform {
        let path = std::env::var_os("PATH").unwrap();
        let mut env: Environment = env.iter().copied().collect();
        env.set("PATH", path);
        Terraform::of(Path::new("/"), &["sh".into()], &env)
    }

    #[test]
    fn of_the_global_options_only_the_directory_is_taken_over() {
        let command: Vec<OsString> = ["tofu", "-chdir=a", "-x", "apply", "-chdir=b"].iter().map(Into::into).collect();
        let terraform = Terraform::of(Path::new("/"), &command, &Environment::default());
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

    /// To a clock that jumps to what is due next, no death is quick.
    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_die_of_its_kill_is_not_waited_for() {
        let shell = shell(&[]);
        let run = shell.run(&["-c", "exec sleep 600"], Duration::from_secs(3600));
        let answer = tokio::time::timeout(Duration::from_secs(7200), run).await;
        assert!(matches!(answer, Ok(Err(NoAnswer::TimedOut { .. }))), "{answer:?}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_answer_too() {
        let terraform = Terraform::of(Path::new("/"), &["/nonexistent/terraform".into()], &Environment::default());
        assert!(matches!(terraform.run(&[], Duration::from_secs(60)).await, Err(NoAnswer::NotStarted { .. })));
        assert!(terraform.version(Duration::from_secs(60)).await.is_err());
    }
}
