//! What a person runs by hand: commands that look at states and their locks.
//!
//! [`target`] finds the state that a command is about, by directory or by flags. The rest here is what the commands
//! share: asking a question, writing to stdout, failing.

use std::io;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use crate::aws::StoreError;
use crate::model;
use crate::model::{Environment, InvalidLockId};
use crate::terraform::{ShimError, make_links};
use crate::text::with_escapes;

mod describe;
pub mod doctor;
pub mod inspect;
pub mod judged;
pub mod locks;
mod page;
pub mod release;
pub mod target;
pub mod unlock;
pub mod verify;

use judged::Unread;
pub use target::{State, Target, TargetError};

/// Why a command did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It is not known what it is about.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It names no lock.
    #[error(
        "{0}\nhint: Copy it from `ID:` in Terraform's message or from `tfguard inspect`; a lock whose ID has \
         another form is deleted by `tfguard unlock --broken`"
    )]
    LockId(#[from] InvalidLockId),
    /// A state or its lock could not be read.
    #[error("could not read {}", .0.on_lines())]
    NotRead(Unread),
    /// The digest of a state could not be written.
    #[error("could not write the digest of {state}: {}", error.on_lines())]
    NotWritten {
        /// `s3://<bucket>/<key>`.
        state: String,
        error: StoreError,
    },
    /// A report cannot be used.
    #[error("the report {path} cannot be read: {error}. It is the file that `--report` of the run names")]
    Report {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Nothing is known of a Terraform that died over a state.
    #[error(
        "no Terraform is known that died over {state} and had made something\n\
         hint: tfguard verify --imports --from <REPORT>, with the file that `--report` of the run names"
    )]
    NothingUnsaved {
        /// `s3://<bucket>/<key>`.
        state: String,
    },
    /// The links of `tfguard shim` cannot be made.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// What it found cannot be written.
    #[error("cannot write to stdout: {0}")]
    Output(io::Error),
    /// The system has no socket or thread for it.
    #[error("tfguard cannot start: {0}")]
    Start(io::Error),
}

/// How what was found is printed. The pages of the commands in docs/ have the fields of the JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// What a person runs by hand.
#[derive(Debug, clap::Subcommand)]
pub enum Task {
    /// List locks and find the stale ones
    ///
    /// List the locks of tables, buckets or working directories: who holds each, since when, and whether the holder lives.
    #[command(after_help = "Example: tfguard locks --table my-locks --region eu-west-1 --fail")]
    Locks(locks::Args),
    /// Show one state, who holds its lock, and whether they live
    ///
    /// Show one state, its digest and its lock: who holds it, since when, and whether the holder lives. Exits with 122 if the
    /// lock is stale.
    #[command(after_help = "Example: tfguard inspect --chdir infra/prod")]
    Inspect(inspect::Args),
    /// Delete one lock, after a look whether its holder lives
    ///
    /// Delete one lock by a conditional request that names its ID. tfguard shows the lock first, refuses where its holder is
    /// alive, and asks where nobody can tell.
    #[command(after_help = "Example: tfguard unlock 072289d9-2228-9d1e-d3cc-a75e5d856e10 --chdir infra/prod")]
    Unlock(unlock::Args),
    /// Check whether a state is whole, and say what to do if not
    ///
    /// Check digest, JSON, lineage, serial and errored.tfstate of a state, and print one command for each thing that is wrong.
    /// Exits with 121 if something is.
    #[command(after_help = "Example: tfguard verify --chdir infra/prod")]
    Verify(verify::Args),
    /// Check permissions, table, bucket and CI before you need them
    ///
    /// Check all that decides whether a lock will be released: permissions, credentials, table, bucket, the place of sessions,
    /// and what stands between the CI and tfguard. It changes nothing.
    #[command(after_help = "Example: tfguard doctor --chdir infra/prod")]
    Doctor(doctor::Args),
    /// Make links named terraform and tofu that run tfguard
    ///
    /// Make links named terraform and tofu that run the real ones under tfguard. Put their directory first on PATH, and
    /// pipelines need no change.
    #[command(after_help = "Example: tfguard shim --dir \"$HOME/tfguard-links\"")]
    Shim {
        /// Make the links in this directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

impl Task {
    /// Does it; gives tfguard's exit code.
    ///
    /// # Errors
    /// When it did not come about.
    pub fn run(&self) -> Result<u8, Failure> {
        match self {
            Self::Locks(args) => locks::run(args),
            Self::Inspect(args) => inspect::run(args),
            Self::Unlock(args) => unlock::run(args),
            Self::Verify(args) => verify::run(args),
            Self::Doctor(args) => doctor::run(args),
            Self::Shim { dir } => shim(dir),
        }
    }
}

/// Makes the links, and says where.
fn shim(dir: &Path) -> Result<u8, Failure> {
    let links = make_links(dir)?;
    print(&links.iter().map(|link| format!("{}\n", link.display())).collect::<String>())?;
    Ok(0)
}

/// Runs the asynchronous part of a command to its end.
///
/// # Errors
/// What the command says, and when the system has no thread for it.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = crate::run::runtime().map_err(Failure::Start)?;
    let result = runtime.block_on(work);
    // A name that is being looked up has a thread that cannot be stopped.
    runtime.shutdown_background();
    result
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `yes`, in full.
    Yes,
    /// Anything else.
    No,
    /// Nobody can be asked: stdin or stderr is no terminal, or it is a CI's.
    NobodyThere,
}

/// Asks on the terminal. Only `yes` is a yes, as Terraform has it. The terminals of CI systems have nobody before them.
pub fn confirm(question: &str) -> Answer {
    let in_ci = model::Run::detect(&Environment::own()).is_some();
    if in_ci || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Answer::NobodyThere;
    }
    let mut line = String::new();
    let asked = write!(io::stderr(), "tfguard: {question} Only `yes` will be accepted: ");
    match asked.and_then(|()| io::stdin().lock().read_line(&mut line)) {
        Ok(_) if line.trim() == "yes" => Answer::Yes,
        _ => Answer::No,
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// When stdout cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Writes one JSON document to stdout.
///
/// # Errors
/// When stdout cannot be written.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&(to_json(value).map_err(Failure::Output)? + "\n"))
}

/// JSON that a terminal and a CI can be shown, too: what `printable` of `text` replaces is escaped, so that the value stays what
/// it is.
///
/// # Errors
/// When the value cannot be written as JSON.
pub fn to_json(value: &impl serde::Serialize) -> io::Result<String> {
    // Such characters stand in strings only.
    Ok(with_escapes(&serde_json::to_string(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::harmless;

    #[test]
    fn json_keeps_the_value_and_steers_nothing() {
        let text = "a\u{1b}[2J\n\u{9b}\u{202e}\u{7f}ä𝄞 # ##[a] ###";
        let json = to_json(&text).unwrap();
        assert!(json.chars().all(|char| harmless(char) == char) && !json.contains("##"), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
