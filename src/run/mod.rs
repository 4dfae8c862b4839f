//! The guarded run: front, supervisor, child.

mod annotate;
mod attached;
mod child;
mod control;
mod expiry;
mod finish;
mod follow;
mod front;
mod inner;
mod nameless;
mod options;
mod other_backends;
mod plan;
mod refused;
mod release;
mod requests;
mod rivals;
mod spool;
mod states;
mod supervisor;
mod targets;
mod terraforms;
mod watch;
mod wrapped;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use jiff::Timestamp;
use tokio::time::Instant;

pub(crate) use child::OUTER;
pub use options::{OUTERMOST, RunOptions};
pub use plan::{Mode, Plan, Remark};
pub(crate) use release::IN_FLIGHT;
pub use spool::Sayer;
pub use supervisor::Job;
pub use terraforms::Terraform;

use crate::aws::Surroundings;
use crate::model::{Account, Phase};
use crate::report::ci::Summary;
use crate::session::{DirectoryError, Journal, JournalError, SessionDir};
use crate::terraform::{Flavour, InitRecord};
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
    /// The user does not want it so.
    #[error(transparent)]
    Forbidden(#[from] plan::Forbidden),
    /// The command could not be started.
    #[error(transparent)]
    Command(#[from] child::StartError),
    /// The same, as the supervisor told it.
    #[error("{error}")]
    NotStarted {
        /// Why.
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
    /// The supervisor was killed before it started the command.
    #[error("tfguard's supervisor was killed before it started the command; nothing was run, run it again")]
    SupervisorDied,
}

impl Failure {
    /// tfguard's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Command(error) => error.exit_code(),
            Self::NotStarted { code, .. } => *code,
            _ => exit::TFGUARD_FAILED,
        }
    }
}

/// Runs the plan; gives tfguard's exit code.
pub fn run(plan: &Plan) -> Result<u8, Failure> {
    // What a guard below another one has to say is in its account.
    for remark in plan.remarks.iter().filter(|_| plan.outer.is_none()) {
        match remark {
            Remark::Notice(text) => tracing::info!("{text}"),
            Remark::Warning(text) => tracing::warn!("{text}"),
            Remark::Detail(text) => tracing::debug!("{text}"),
        }
    }
    if plan.unguarded {
        let mut command = std::process::Command::new(&plan.command[0]);
        let failed = command.args(&plan.command[1..]).env_clear().envs(&plan.env).exec();
        return Err(child::StartError::new(&plan.command[0], failed).into());
    }
    match plan.mode {
        Mode::Detached => front::run(plan),
        Mode::Attached => attached::run(plan),
    }
}

pub use finish::{Cleanup, finish};
pub use front::supervise;

/// Runs what is behind the link by which tfguard was called, in this process's place and without a guard, where the guard of
/// the same call is above: what it would find by the link again is this link.
///
/// # Errors
/// It cannot be executed. `Ok` where it is to be guarded.
pub fn pass_on(program: &Path, env: &HashMap<OsString, OsString>) -> Result<(), Failure> {
    if !child::is_guarded_already(env) {
        return Ok(());
    }
    let mut command = std::process::Command::new(program);
    if let Some(path) = env.get(OsStr::new("PATH")) {
        command.env("PATH", terraform::path_without_links(path));
    }
    let failed = command.args(std::env::args_os().skip(1)).exec();
    Err(child::StartError::new(program.as_os_str(), failed).into())
}

fn job(plan: &Plan, session: SessionDir, account: &Account) -> Job {
    // A supervisor that takes over counts from the same beginning.
    let passed = Timestamp::now().duration_since(account.started).try_into().unwrap_or_default();
    let directory = std::env::current_dir().unwrap_or_default();
    Job {
        command: plan.command.clone(),
        env: plan.env.clone(),
        inherited: plan.inherited.clone(),
        session,
        terms: plan.terms.as_decided(account),
        on_death: plan.on_death,
        unconditional: plan.unconditional,
        flavour: flavour(&plan.command, &directory, &plan.env),
        directory,
        evidence: plan.evidence,
        annotate: plan.annotate,
        began: Instant::now().checked_sub(passed).unwrap_or_else(Instant::now),
        until: None,
    }
}

/// What a command that runs in `directory` is, by its name and by what `init` left there.
fn flavour(command: &[OsString], directory: &Path, env: &HashMap<OsString, OsString>) -> Flavour {
    let arguments = command.get(1..).unwrap_or_default();
    let record = InitRecord::read(&Surroundings::of_command(directory, arguments, env.clone()));
    let program = command.first().map(OsString::as_os_str).unwrap_or_default();
    Flavour::decide(program, record.as_ref())
}

fn new_account(plan: &Plan, session: &SessionDir) -> Account {
    let program = plan.command.first().map(Path::new).and_then(Path::file_name);
    let told = |remark: &Remark| match remark {
        Remark::Warning(text) => Some(text.clone()),
        Remark::Notice(_) | Remark::Detail(_) => None,
    };
    Account {
        tfguard: env!("CARGO_PKG_VERSION").to_owned(),
        session: session.name().to_string_lossy().into_owned(),
        started: Timestamp::now(),
        ended: None,
        ci: plan.ci.clone(),
        grace: Some(plan.grace.clone()),
        deadline: plan.deadline.clone(),
        program: program.unwrap_or_default().to_string_lossy().into_owned(),
        wrapped: plan.wrapped,
        directory: std::env::current_dir().unwrap_or_default(),
        ending: None,
        requests: Vec::new(),
        interrupt: None,
        killed: None,
        phase: Phase::Unknown,
        survivors: Vec::new(),
        locks: Vec::new(),
        traces: Vec::new(),
        other_locks: Vec::new(),
        states: Vec::new(),
        refused: None,
        troubles: plan.remarks.iter().filter(|_| plan.outer.is_some()).filter_map(told).collect(),
        terraforms: Vec::new(),
    }
}

/// The session of a new run: inside that of the guard around this one, if there is one.
fn new_session(plan: &Plan) -> Result<SessionDir, DirectoryError> {
    match &plan.outer {
        Some(outer) => outer.create_inside().or_else(|error| match outer.is_claimed() {
            Some(true) => Err(error),
            // It ended just now.
            _ => SessionDir::create(|name| std::env::var_os(name)),
        }),
        None => SessionDir::create(|name| std::env::var_os(name)),
    }
}

/// Writes the report and removes Terraform's log. By whoever supervised to the end: the front may be gone by then.
fn conclude(plan: &Plan, session: &SessionDir, account: &Account) {
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
fn report(plan: &Plan, account: &Account) {
    if let Some(path) = &plan.report {
        write_report(path, &account.report());
    }
}

/// Says what happened, to the CI in its own language. `within_a_line`: whether the child's last line may have no end.
fn announce(plan: &Plan, session: &SessionDir, account: &Account, within_a_line: bool) -> Summary {
    let summary = Summary::of(account);
    // Where the session was removed meanwhile, the guard around this one cannot know what there is to say.
    if plan.is_left_to_outer() && is_accounted_for(session) {
        return summary;
    }
    crate::log::mute(false);
    let (before, after) = plan.publisher.around(&summary, Timestamp::now());
    // What is for the CI is understood at the beginning of a line only.
    if within_a_line && !(before.is_empty() && after.is_empty()) {
        crate::log::raw("\n".to_owned());
    }
    crate::log::raw(before);
    account.say();
    crate::log::raw(after);
    summary
}

/// Writes the file of `--report`. That it cannot be written changes nothing of what happened.
pub(crate) fn write_report(path: &std::path::Path, report: &impl serde::Serialize) {
    let text = serde_json::to_vec_pretty(report).map_err(io::Error::from);
    let written = text.and_then(|text| files::replace_path(path, &text, 0o600));
    if let Err(error) = written {
        tracing::warn!("cannot write the report {}: {error}", path.display());
    }
}

/// Whether all that the child said was passed on.
fn is_passed_on(session: &SessionDir) -> bool {
    let (stdout, stderr) = front::spools(session);
    stdout.into_iter().chain(stderr).all(|spool| spool.is_passed_on())
}

/// Removes the session, or what of it may hold secrets where a lock is left and somebody will want the journal.
/// `keeps`: somebody will want it anyway, for the account in it.
fn clean_up(session: &SessionDir, account: &Account, keeps: bool) {
    for inner in session.inner() {
        // One that is not over is its own guard's.
        let over = is_accounted_for(&inner) && inner.is_claimed() != Some(true);
        let account = account.terraforms.iter().find(|account| *account.session == *inner.name());
        if let Some(account) = account.filter(|_| over) {
            clean_up(&inner, account, false);
        }
    }
    if !account.survivors.is_empty() || (keeps && !is_passed_on(session)) {
        // Whether they are gone can be told by the log, which they hold. What nobody could read is shown by the guard around.
    } else if keeps || account.lock_left() {
        if is_accounted_for(session) {
            session.remove_secrets();
        }
    } else {
        session.remove();
    }
}
