//! Says and writes the end of a run to where the CI looks for it. Nothing here fails a run.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{CWD, OFlags};
use tokio::io::AsyncWriteExt as _;

use crate::model::{Environment, Provider};
use crate::report::ci::summary::{Level, Message, Summary};
use crate::report::ci::{language, markdown, outputs};
use crate::{ci, files, terraform};

/// How long the Buildkite agent may take: the CI may be about to kill this process.
const AGENT_TIME: Duration = Duration::from_secs(10);

/// Who tells the CI.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// Whose language is spoken, besides plain text.
    provider: Option<Provider>,
    env: Environment,
    /// What matters less is not said.
    least: Level,
    /// The file for variables that the user asked for (`--dotenv`), replaced at the end.
    dotenv: Option<PathBuf>,
}

impl Publisher {
    /// For a run in this environment. `provider`: whose language is to be spoken, if any.
    pub fn new(provider: Option<Provider>, env: &Environment, quiet: bool, dotenv: Option<PathBuf>) -> Self {
        let least = if quiet { Level::Warning } else { Level::Notice };
        Self { provider, env: env.clone(), least, dotenv }
    }

    /// What is to be written to stderr before and after tfguard's own words about a run, each beginning and ending with
    /// a line or empty.
    pub fn around(&self, summary: &Summary, now: Timestamp) -> (String, String) {
        if summary.silent || summary.level < self.least {
            return Default::default();
        }
        match self.provider {
            Some(Provider::GithubActions | Provider::Azure) => {
                (String::new(), summary.messages().iter().map(|message| self.command(message)).collect())
            }
            Some(Provider::Gitlab) => language::gitlab_section(summary, now.as_second()),
            _ => Default::default(),
        }
    }

    /// One message as a line in the CI's language, empty where that has none.
    pub fn command(&self, message: &Message) -> String {
        match self.provider {
            _ if message.level < self.least => String::new(),
            Some(Provider::GithubActions) => language::github_command(message),
            Some(Provider::Azure) => language::azure_command(message),
            _ => String::new(),
        }
    }

    /// Writes what is to be known of all runs that this process knows of into files, and to the build's page.
    pub async fn publish(&self, summaries: &[Summary]) {
        if let Some(path) = &self.dotenv {
            // It holds no secrets, and a CI may collect it as another user.
            if let Err(error) = files::replace_path(path, outputs::dotenv(summaries).as_bytes(), 0o666) {
                tracing::warn!("cannot write {} (--dotenv): {error}", path.display());
            }
        }
        let env = &self.env;
        match self.provider {
            Some(Provider::GithubActions) => {
                append("GITHUB_OUTPUT", env, || outputs::for_github(summaries, &unguessable()));
                // act has no page for a summary and prints it into the log, where it would be twice, or thrice.
                if let Some(section) = markdown::section(summaries).filter(|_| !ci::is_act(env)) {
                    append("GITHUB_STEP_SUMMARY", env, || format!("\n{section}"));
                }
            }
            Some(Provider::Buildkite) => {
                let Some(agent) = terraform::on_path(OsStr::new("buildkite-agent"), env) else { return };
                let Some(job) = env.text("BUILDKITE_JOB_ID") else { return };
                let Some(annotation) = language::buildkite_annotation(summaries, job) else { return };
                let ended = tokio::time::timeout(AGENT_TIME, annotate(&agent, &annotation)).await;
                if let Err(error) = ended.unwrap_or_else(|elapsed| Err(elapsed.into())) {
                    tracing::debug!("the build is not annotated: buildkite-agent: {error}");
                }
            }
            _ => {}
        }
    }
}

/// Sets outputs of a step of GitHub's, on which a later step may rely.
pub fn set_outputs(path: &Path, values: &[(&str, String)]) {
    if let Err(error) = append_to(path, &outputs::assignments(values, &unguessable())) {
        tracing::warn!("the step's outputs cannot be set: {} (GITHUB_OUTPUT): {error}", path.display());
    }
}

/// The same; what of tfguard's own cannot be written there is nobody's trouble.
fn append(variable: &str, env: &Environment, text: impl FnOnce() -> String) {
    let Some(path) = env.path(variable) else { return };
    if let Err(error) = append_to(path, &text()) {
        tracing::debug!("cannot write {} ({variable}): {error}", path.display());
    }
}

/// Adds to a file that the CI reads.
fn append_to(path: &Path, text: &str) -> io::Result<()> {
    // Never made, it is the CI's; never waited for.
    let mut file = files::open(CWD, path.as_os_str(), OFlags::RDWR | OFlags::APPEND)?;
    // Somebody's last line may lack its end.
    let separator = if files::ends_within_a_line(&file)? { "\n" } else { "" };
    file.write_all(format!("{separator}{text}").as_bytes())
}

async fn annotate(agent: &Path, annotation: &language::Annotation) -> io::Result<()> {
    let mut child = tokio::process::Command::new(agent)
        .args(&annotation.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(annotation.body.as_bytes()).await?;
    }
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

/// A word that nobody could have put into a text before.
fn unguessable() -> String {
    format!("tfguard_{}", files::random())
}
