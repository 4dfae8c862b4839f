//! Says and writes the end of a run to where the CI looks for it. Nothing here fails a run.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::AsyncWriteExt as _;

use super::{Level, Message, Summary, azure, buildkite, dotenv, github, gitlab, junit, markdown};
use crate::ci::Provider;
use crate::command;
use crate::report::file;

/// For all calls of the Buildkite agent together: the CI may be about to kill this process.
const AGENT_TIME: Duration = Duration::from_secs(10);

/// Files that the user asked for, each replaced at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Variables for later jobs (`--dotenv`).
    pub dotenv: Option<PathBuf>,
    /// A test report (`--junit`).
    pub junit: Option<PathBuf>,
    /// GitLab's links on the job's page (`--annotations`).
    pub annotations: Option<PathBuf>,
}

/// Who tells the CI.
#[derive(Debug, Clone)]
pub struct Publisher {
    language: Language,
    /// What matters less is not said.
    least: Level,
    files: Files,
}

/// What is understood around here, besides plain text.
#[derive(Debug, Clone)]
enum Language {
    Plain,
    Github { output: Option<PathBuf>, summary: Option<PathBuf> },
    Gitlab,
    Buildkite { agent: PathBuf, job: String, step: String },
    Azure,
}

impl Publisher {
    /// For a run in this environment. `provider`: whose language is to be spoken, if any.
    #[must_use]
    pub fn new(provider: Option<Provider>, env: &HashMap<OsString, OsString>, quiet: bool, files: Files) -> Self {
        let get = |name: &str| env.get(OsStr::new(name)).filter(|value| !value.is_empty());
        let text = |name: &str| get(name).and_then(|value| value.to_str()).map(str::to_owned);
        let path = |name: &str| get(name).map(PathBuf::from);
        let buildkite = || {
            let job = text("BUILDKITE_JOB_ID")?;
            let step = text("BUILDKITE_STEP_KEY").unwrap_or_else(|| job.clone());
            Some(Language::Buildkite { agent: command::on_path(OsStr::new("buildkite-agent"), env)?, job, step })
        };
        let language = match provider {
            Some(Provider::GithubActions) => {
                Language::Github { output: path("GITHUB_OUTPUT"), summary: path("GITHUB_STEP_SUMMARY") }
            }
            Some(Provider::Gitlab) => Language::Gitlab,
            Some(Provider::Azure) => Language::Azure,
            Some(Provider::Buildkite) => buildkite().unwrap_or(Language::Plain),
            Some(Provider::Jenkins | Provider::Circleci | Provider::Other) | None => Language::Plain,
        };
        Self { language, least: if quiet { Level::Warning } else { Level::Notice }, files }
    }

    /// What is to be written to stderr before and after tfguard's own words about a run, each beginning and ending with
    /// a line or empty.
    #[must_use]
    pub fn around(&self, summary: &Summary, now: Timestamp) -> (String, String) {
        if summary.silent || summary.level < self.least {
            return Default::default();
        }
        match &self.language {
            Language::Github { .. } => {
                (String::new(), summary.messages().iter().map(|message| self.command(message)).collect())
            }
            Language::Azure => {
                let commands: String = summary.messages().iter().map(|message| self.command(message)).collect();
                (String::new(), commands + &azure::variables(std::slice::from_ref(summary)))
            }
            Language::Gitlab => match gitlab::section_start(summary, now.as_second()) {
                Some(start) => (start, gitlab::section_end(summary, now.as_second())),
                None => Default::default(),
            },
            Language::Buildkite { .. } | Language::Plain => Default::default(),
        }
    }

    /// One message as a line in the CI's language, empty where that has none.
    #[must_use]
    pub fn command(&self, message: &Message) -> String {
        match &self.language {
            _ if message.level < self.least => String::new(),
            Language::Github { .. } => github::command(message),
            Language::Azure => azure::command(message),
            Language::Gitlab | Language::Buildkite { .. } | Language::Plain => String::new(),
        }
    }

    /// Writes what is to be known of some runs, all that this process knows of, into files, and to the build's page.
    pub async fn publish(&self, summaries: &[Summary]) {
        self.write_files(summaries);
        match &self.language {
            Language::Github { output, summary } => {
                let outputs = || github::outputs(summaries, &unguessable());
                append("GITHUB_OUTPUT", output.as_deref(), outputs);
                let told: Vec<_> = summaries.iter().filter(|summary| !summary.silent).cloned().collect();
                if !told.is_empty() {
                    // Somebody's last line may lack its end.
                    append("GITHUB_STEP_SUMMARY", summary.as_deref(), || format!("\n\n{}", markdown::section(&told)));
                }
            }
            Language::Buildkite { agent, job, step } => {
                let calls = buildkite::calls(summaries, job, step);
                let all = async {
                    for call in &calls {
                        if let Err(error) = run(agent, call).await {
                            tracing::debug!("buildkite-agent {}: {error}", call.args[0]);
                        }
                    }
                };
                if tokio::time::timeout(AGENT_TIME, all).await.is_err() {
                    tracing::debug!("buildkite-agent did not end within {AGENT_TIME:?}: the build is not annotated");
                }
            }
            Language::Gitlab | Language::Azure | Language::Plain => {}
        }
    }

    fn write_files(&self, summaries: &[Summary]) {
        let Files { dotenv: variables, junit: suite, annotations: links } = &self.files;
        replace("--dotenv", variables.as_deref(), || dotenv::variables(summaries));
        replace("--junit", suite.as_deref(), || junit::suite(summaries));
        replace("--annotations", links.as_deref(), || gitlab::annotations(summaries));
    }
}

/// Writes a file that the user asked for.
fn replace(option: &str, path: Option<&Path>, text: impl FnOnce() -> String) {
    let Some(path) = path else { return };
    // They hold no secrets, and a CI may collect them as another user.
    if let Err(error) = file::replace(path, text().as_bytes(), 0o666) {
        tracing::warn!("cannot write {} ({option}): {error}", path.display());
    }
}

/// Adds to a file that the CI reads.
fn append(variable: &str, path: Option<&Path>, text: impl FnOnce() -> String) {
    let Some(path) = path else { return };
    let append = || -> io::Result<()> {
        // Never made, it is the CI's; never waited for.
        let mut file = File::options().append(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        file.write_all(text().as_bytes())
    };
    if let Err(error) = append() {
        tracing::debug!("cannot write {} ({variable}): {error}", path.display());
    }
}

async fn run(agent: &Path, call: &buildkite::Call) -> io::Result<()> {
    let mut child = tokio::process::Command::new(agent)
        .args(&call.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(call.input.as_bytes()).await?;
    }
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

/// A word that nobody could have put into a text before: the standard library seeds its hashers from the system's random
/// numbers.
fn unguessable() -> String {
    let number = || RandomState::new().build_hasher().finish();
    format!("tfguard_{:016x}{:016x}", number(), number())
}
