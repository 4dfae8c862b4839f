//! What a person runs by hand: commands that look at states and their locks.
//!
//! [`target`] finds the state that a command is about, by directory or by flags. The rest here is what the commands
//! share: asking a question, writing to stdout, failing.

mod confirm;
mod describe;
pub mod doctor;
pub mod inspect;
pub mod judged;
pub mod locks;
mod looked;
mod output;
pub mod target;
pub mod unlock;
pub mod verify;

use std::io;

pub use confirm::{Answer, confirm};
pub(crate) use output::printable_whole;
pub use output::{print, printable};
pub use target::{Access, HalfPlace, State, Target, TargetError};

use crate::exit;
use crate::lock::StoreError;

/// Why a command did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It is not known what it is about.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// AWS could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The same, of a state.
    #[error("the state {state} could not be looked at: {error}")]
    NotLookedAt {
        /// `s3://<bucket>/<key>`.
        state: String,
        /// Why.
        error: StoreError,
    },
    /// The digest of a state could not be written.
    #[error("the digest of {state} was not written, as far as is known: {error}. Look again")]
    NotWritten {
        /// `s3://<bucket>/<key>`.
        state: String,
        /// Why.
        error: StoreError,
    },
    /// What it found cannot be written.
    #[error("cannot write to stdout: {0}")]
    Output(io::Error),
    /// The system has no socket or thread for it.
    #[error("tfguard cannot start: {0}")]
    Start(io::Error),
}

impl Failure {
    /// tfguard's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        exit::TFGUARD_FAILED
    }
}

/// What a person runs by hand.
#[derive(Debug, clap::Subcommand)]
pub enum Task {
    /// List locks, by table, bucket or working directory, and find the stale ones
    Locks(locks::Args),
    /// Look at one state and its lock: who holds it, since when, and whether they live
    Inspect(inspect::Args),
    /// Delete one lock, by condition, after a look at whether its holder lives
    Unlock(unlock::Args),
    /// Is the state whole: digest, JSON, lineage, serial, errored.tfstate; and what to do if not
    Verify(verify::Args),
    /// Look before anybody needs it: permissions, table, bucket, and what stands between the CI and tfguard
    Doctor(doctor::Args),
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
        }
    }
}

/// Runs the asynchronous part of a command to its end.
///
/// # Errors
/// What the command says, and when the system has no thread for it.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    let result = runtime.block_on(work);
    // A name that is being looked up has a thread that cannot be stopped.
    runtime.shutdown_background();
    result
}
