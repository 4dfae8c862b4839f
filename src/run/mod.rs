//! The guarded run: front, supervisor, child.

mod attached;
mod child;
mod follow;
mod front;
mod inner;
mod job;
mod lease;
mod locks;
mod options;
mod output;
mod plan;
pub(crate) mod requests;
mod settings;
mod spool;
mod supervisor;
mod targets;
mod terraforms;
mod watch;
mod wrapped;

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use jiff::Timestamp;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::unbounded_channel;
use tracing::Level;

pub(crate) use child::OUTER;
pub(crate) use inner::InnerGuards;
pub use job::Job;
pub(crate) use lease::expiry::{Expired, Expiry, unleased};
pub(crate) use locks::again::{compare_again, release_again};
pub(crate) use locks::release::IN_FLIGHT;
pub use options::{OUTERMOST, RunOptions, Supervise};
pub(crate) use output::{Output, Spools, spools};
pub use plan::{Mode, Plan};
pub(crate) use requests::Requests;
pub(crate) use supervisor::Supervisor;
pub use terraforms::Terraform;

use crate::model::{Account, Environment, ProcessId};
use crate::session::{DirectoryError, Journal, JournalError, SessionDir};
use crate::{exit, files, terraform};

/// Why a run did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no place for its session.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its journal cannot be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The system has no process, socket or thread for it.
    #[error("tfguard cannot start: {0}")]
    Start(io::Error),
    /// `-lock=false` under `--forbid-lock-false`.
    #[error(
        "-lock=false ({0}) is forbidden by --forbid-lock-false\nhint: Leave it out, so that Terraform takes its lock"
    )]
    LockFalse(String),
    /// There is no lease of this length.
    #[error("--lease: {0}")]
    Lease(String),
    /// Ctrl-Z would stop whoever renews the lease.
    #[error(
        "--lease cannot be kept on a terminal: Ctrl-Z suspends tfguard with Terraform, and the lease runs out meanwhile\n\
         hint: add --detach"
    )]
    LeaseAttached,
    /// Whoever finds the lease run out would delete what is to stay.
    #[error(
        "--lease and --on-death keep contradict each other: a lock that is kept is not renewed, and the next `tfguard \
         --reclaim` deletes it\nhint: leave one of them out"
    )]
    LeaseKept,
    /// There is no such command.
    #[error("{0}: command not found")]
    NotFound(String),
    /// The command is there and the system will not run it.
    #[error("{0}: cannot execute: {1}")]
    CannotExecute(String, io::Error),
    /// There is no descriptor for the log.
    #[error("cannot read the log that the command is to write: {0}")]
    Log(io::Error),
    /// The command could not be started, as the supervisor told it.
    #[error("{error}")]
    NotStarted {
        /// What went wrong.
        error: String,
        /// The exit code that says it.
        code: u8,
    },
    /// The supervisor was killed, and somebody else was quicker in taking its place.
    #[error(
        "`tfguard release` took the place of tfguard's supervisor, which was killed; it says how the command ended. If none ran, \
         somebody removed the session: then the command may still run, and its lock may be left"
    )]
    FinishedByRelease,
    /// The supervisor was killed, and this process cannot take its place, as without descriptors.
    #[error(
        "tfguard's supervisor was killed, and this process cannot take its place, so the command may still run, and its lock may \
         be left: {0}\nhint: Run `tfguard release` in this job"
    )]
    NotTakenOver(String),
    /// The supervisor was killed before it started the command.
    #[error("tfguard's supervisor was killed before it started the command: nothing was run\nhint: Run it again")]
    SupervisorDied,
}

impl Failure {
    /// Why a command could not be executed.
    pub(crate) fn of_command(program: &OsStr, error: io::Error) -> Self {
        let name = program.to_string_lossy().into_owned();
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound(name),
            _ => Self::CannotExecute(name, error),
        }
    }

    /// tfguard's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => exit::NOT_FOUND,
            Self::CannotExecute(..) => exit::CANNOT_EXECUTE,
            Self::NotStarted { code, .. } => *code,
            Self::NotTakenOver(_) => exit::LOCK_LEFT,
            _ => exit::TFGUARD_FAILED,
        }
    }
}

/// More descriptors than a runtime needs.
const DESCRIPTORS: usize = 12;
/// More than a run has open at any moment, but for those of the guards below it.
const FEWEST: u64 = 64;

/// Makes a runtime, if the system has enough descriptors: later, at a stop, it would be too late. tokio panics where there are
/// none for it (those of signals), so they are had first.
pub(crate) fn runtime() -> io::Result<Runtime> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit.filter(|limit| *limit < FEWEST) {
        let what =
            format!("it may have only {limit} files open, and needs up to {FEWEST}\nhint: Run `ulimit -n 1024` first");
        return Err(io::Error::other(what));
    }
    (0..DESCRIPTORS / 2).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?;
    Builder::new_current_thread().enable_all().build()
}

/// Runs the plan; gives tfguard's exit code.
pub fn run(plan: Plan) -> Result<u8, Failure> {
    // What a guard below another one has to say is in its account.
    for (level, text) in plan.remarks.iter().filter(|_| plan.outer.is_none()) {
        match *level {
            Level::WARN => tracing::warn!("{text}"),
            Level::INFO => tracing::info!("{text}"),
            _ => tracing::debug!("{text}"),
        }
    }
    if plan.unguarded {
        let mut command = std::process::Command::new(&plan.command[0]);
        let failed = command.args(&plan.command[1..]).env_clear().envs(plan.env.iter()).exec();
        return Err(Failure::of_command(&plan.command[0], failed));
    }
    let runtime = runtime().map_err(Failure::Start)?;
    let ended = runtime.block_on(begun(plan));
    // What still waits in a thread (a look-up of a name) is not waited for.
    runtime.shutdown_background();
    ended
}

async fn begun(mut plan: Plan) -> Result<u8, Failure> {
    let (to_us, mut requests) = unbounded_channel();
    // First, so that from here on no signal kills this process.
    requests::from_signals(to_us.clone(), plan.heed_hangup, false, plan.outer.clone()).map_err(Failure::Start)?;
    requests::from_waiting(to_us.clone(), &plan);
    if let Some(code) = lease::reclaim::before_start(&mut plan, &mut requests).await {
        return Ok(code);
    }
    let session = new_session(&plan)?;
    crate::log::mute(plan.is_muted());
    match plan.mode {
        Mode::Detached => front::front(&plan, &session, to_us, requests).await,
        Mode::Attached => {
            attached::supervised(&plan, &session, to_us, requests).await.inspect_err(|_| session.remove())
        }
    }
}

pub use front::supervise;

/// Runs what is behind the link by which tfguard was called, in this process's place and without a guard, where the guard of
/// the same call is above: what it would find by the link again is this link.
///
/// # Errors
/// It cannot be executed. `Ok` where it is to be guarded.
pub fn pass_on(program: &Path, env: &Environment) -> Result<(), Failure> {
    if !child::is_guarded_already(env) {
        return Ok(());
    }
    let mut command = std::process::Command::new(program);
    if let Some(path) = env.get("PATH") {
        command.env("PATH", terraform::path_without_links(path));
    }
    let failed = command.args(std::env::args_os().skip(1)).exec();
    Err(Failure::of_command(program.as_os_str(), failed))
}

/// The journal of a run that this process begins.
fn new_journal(plan: &Plan, session: &SessionDir) -> Journal {
    let mut journal = Journal::new(new_account(plan, session));
    journal.front = ProcessId::own();
    journal.runner = plan.runner();
    journal.on_death = Some(plan.options.locks.on_death);
    journal
}

fn new_account(plan: &Plan, session: &SessionDir) -> Account {
    let program = plan.command.first().map(Path::new).and_then(Path::file_name);
    let warnings = plan.remarks.iter().filter(|(level, _)| plan.outer.is_some() && *level == Level::WARN);
    Account {
        tfguard: env!("CARGO_PKG_VERSION").to_owned(),
        session: session.name().to_string_lossy().into_owned(),
        started: Timestamp::now(),
        ci: plan.ci.clone(),
        grace: Some(plan.grace.clone()),
        deadline: plan.deadline.clone(),
        program: program.unwrap_or_default().to_string_lossy().into_owned(),
        wrapped: plan.wrapped,
        directory: std::env::current_dir().unwrap_or_default(),
        troubles: warnings.map(|(_, text)| text.clone()).collect(),
        ..Account::default()
    }
}

/// The session of a new run: inside that of the guard around this one, if there is one.
fn new_session(plan: &Plan) -> Result<SessionDir, DirectoryError> {
    match &plan.outer {
        Some(outer) => outer.create_inside().or_else(|error| match outer.is_claimed() {
            Some(true) => Err(error),
            // It ended just now.
            _ => SessionDir::create(&Environment::own()),
        }),
        None => SessionDir::create(&Environment::own()),
    }
}

/// Writes the report and removes Terraform's log. By whoever supervised to the end: the front may be gone by then.
pub(crate) fn conclude(plan: &Plan, session: &SessionDir, account: &Account) {
    remove_log_of(session, account);
    report(plan, account);
}

/// Removes Terraform's log once nobody writes to it any more and nobody will need it: the front that would remove it may be
/// gone.
fn remove_log_of(session: &SessionDir, account: &Account) {
    if account.survivors.is_empty() && is_accounted_for(session) {
        session.remove_log();
    }
}

/// Whether the journal on the disk says what became of the run. On a full disk it may not, and then the log alone does.
fn is_accounted_for(session: &SessionDir) -> bool {
    Journal::read(session).is_ok_and(|journal| journal.account.ended.is_some())
}

/// Writes the report, if one is wanted.
pub(crate) fn report(plan: &Plan, account: &Account) {
    if let Some(path) = &plan.options.report {
        write_report(path, &account.report());
    }
}

/// Writes the file of `--report`. That it cannot be written changes nothing of what happened.
pub(crate) fn write_report(path: &std::path::Path, report: &impl serde::Serialize) {
    let text = serde_json::to_vec_pretty(report).map_err(io::Error::from);
    let written = text.and_then(|text| files::replace_path(path, &text, 0o600));
    if let Err(error) = written {
        tracing::warn!("cannot write the report {}: {error}", path.display());
    }
}

/// Removes the session, or what of it may hold secrets where a lock is left and somebody will want the journal.
/// `keeps`: somebody will want it anyway, for the account in it.
pub(crate) fn clean_up(session: &SessionDir, account: &Account, keeps: bool) {
    for inner in session.inner() {
        // One that is not over is its own guard's.
        let over = is_accounted_for(&inner) && inner.is_claimed() != Some(true);
        let account = account.terraforms.iter().find(|account| *account.session == *inner.name());
        if let Some(account) = account.filter(|_| over) {
            clean_up(&inner, account, false);
        }
    }
    if !account.survivors.is_empty() || (keeps && !output::is_passed_on(session)) {
        // Whether they are gone can be told by the log, which they hold. What nobody could read is shown by the guard around.
    } else if keeps || account.lock_left() || account.lacks_resources() {
        if is_accounted_for(session) {
            session.remove_secrets();
        }
    } else {
        session.remove();
    }
}
