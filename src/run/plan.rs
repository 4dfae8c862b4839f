//! From what was typed to what it means: every option validated, every `auto` decided, before anything is started.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Level;

use crate::machine::lease::Times;
use crate::machine::{PATIENCE, Terms};
use crate::model::{Account, CiMessages, Environment, OnDeath, ProcessId, StopRequest};
use crate::report::ci::Publisher;
use crate::run::options::RunOptions;
use crate::run::{Failure, child};
use crate::session::SessionDir;
use crate::store::RELEASE_BUDGET;
use crate::text::{Setting, describe};
use crate::{ci, model, terraform};

/// The grace while Terraform only plans, where that is less: a killed plan loses nothing.
const PLANNING_GRACE: Duration = Duration::from_secs(10);
/// The part of a CI's time limit that is kept, beyond the grace, for the kill and the release.
const RESERVE: Duration = Duration::from_secs(60);

/// Where the child runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Below a supervisor of its own, out of reach of the CI's signals.
    Detached,
    /// On this terminal.
    Attached,
}

/// Something the user should know, and how much it matters.
type Remark = (Level, String);

/// A run, decided.
#[derive(Debug)]
pub struct Plan {
    /// What was asked for.
    pub options: RunOptions,
    /// The command that is really run.
    pub command: Vec<OsString>,
    /// The environment of tfguard, without what a guard around it added.
    pub env: Environment,
    /// The session of the guard around this one.
    pub outer: Option<SessionDir>,
    /// The CI run.
    pub ci: Option<model::Run>,
    /// Where the child runs.
    pub mode: Mode,
    /// How long Terraform may take to end once it is interrupted.
    pub grace: model::Term,
    /// After which time the run stops by itself.
    pub deadline: Option<model::Term>,
    /// The machine's times, but for the deadline.
    pub terms: Terms,
    /// Those whose end is a request to stop, because they wait for tfguard.
    pub waiting: Vec<ProcessId>,
    /// One of those has ended before tfguard began.
    pub is_late: bool,
    /// Whether SIGHUP is a request to stop.
    pub heed_hangup: bool,
    /// Who tells the CI.
    pub publisher: Publisher,
    /// The times of its locks' leases, if they have any.
    pub(crate) lease: Option<Times>,
    /// The command takes tfguard's place: it takes no lock, and nothing else is asked of tfguard.
    pub unguarded: bool,
    /// The command is what stands behind a setup action's wrapper, which was typed.
    pub wrapped: bool,
    /// What the user should know before the command runs. `DEBUG`: what tfguard decided by itself, and why.
    pub remarks: Vec<Remark>,
}

impl Plan {
    /// Decides a run.
    pub fn new(options: &RunOptions) -> Result<Self, Failure> {
        let RunOptions { stopping, locks, .. } = options;
        let env = terraform::without_outer_log(Environment::own());
        let ci = model::Run::detect(&env);
        // Asked early: one of them may end meanwhile. Nobody waits for a supervisor.
        let chain = options.supervise.as_ref().map_or_else(|| ci::Chain::look(ci.is_some()), |_| ci::Chain::default());
        let outer = env.path(child::OUTER).and_then(|path| SessionDir::open(path).ok());
        // One that nobody supervises is of a run that is over.
        let outer = outer.filter(|outer| outer.is_claimed() == Some(true));
        let mut remarks = Vec::new();
        let grace = grace(options, &env, &mut remarks);
        // Who chose a grace chose it for whatever asks for the stop.
        let (cleanup_grace, own_grace) = match stopping.grace {
            Setting::Auto => (ci::cleanup_grace(&env), ci::UNHURRIED),
            Setting::Fixed(_) => Default::default(),
        };
        let planning_grace = PLANNING_GRACE;
        let mut command = command(options, &env, &mut remarks)?;
        let patience = patience_for(command.first().map(OsString::as_os_str).unwrap_or_default());
        let terms = Terms { grace: grace.duration, cleanup_grace, own_grace, planning_grace, patience, deadline: None };
        let deadline = deadline(stopping.deadline, &env, terms.grace_for(&StopRequest::Deadline), &mut remarks);
        // Under nohup, outside a CI, people want it to go on. Jenkins uses nohup for every step.
        let nohup = ci.is_none() && is_ignored(libc::SIGHUP);
        // Who waits above a guard that is around this one is that one's to watch. What a shell starts in the background, on
        // purpose, ignores SIGINT: it may outlive the step. (So does every step of Jenkins, which finds processes by their
        // variables.)
        let is_awaited = outer.is_none() && !stopping.outlive_parent && !is_ignored(libc::SIGINT);
        let is_gitlab = ci.as_ref().is_some_and(|run| run.provider == model::Provider::Gitlab);
        let waiting = chain.waiting(ci.is_some() && is_awaited);
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let here = std::env::current_dir().unwrap_or_default();
        let asked = options.report.is_some() || deadline.is_some() || options.supervise.is_some();
        let unguarded = !asked && terraform::takes_no_lock(&command, &here, &env);
        let mode = mode(stopping.attach, stopping.detach, ci.is_some(), terminal);
        let length = locks.lease.filter(|_| !unguarded && !command.is_empty());
        let lease = length.map(|length| lease(length, locks.on_death, mode, &mut remarks));
        Ok(Self {
            unguarded,
            lease: lease.transpose()?,
            wrapped: !unguarded && step_over_wrapper(&mut command, &env, &mut remarks),
            mode,
            terms,
            grace,
            deadline,
            is_late: is_gitlab && is_awaited && chain.is_orphan_of_su(),
            waiting: if stopping.outlive_parent || nohup { Vec::new() } else { waiting },
            heed_hangup: !nohup,
            publisher: publisher(options, ci.as_ref(), &env),
            options: RunOptions { report: absolute(&options.report), ..options.clone() },
            command,
            env,
            outer,
            ci,
            remarks,
        })
    }

    /// Takes from the deadline what passed before the run began.
    pub fn shorten_deadline(&mut self, passed: Duration) {
        if let Some(deadline) = &mut self.deadline {
            deadline.duration = deadline.duration.saturating_sub(passed);
        }
    }

    /// The file for the outputs of the wrapper that was stepped over, if there is one.
    #[must_use]
    pub fn wrapper_outputs(&self) -> Option<&Path> {
        self.env.path("GITHUB_OUTPUT").filter(|_| self.wrapped)
    }

    /// Whether the guard around this one, which lives, tells what became of the run.
    #[must_use]
    pub fn is_left_to_outer(&self) -> bool {
        self.outer.as_ref().is_some_and(|outer| outer.is_claimed() == Some(true))
    }

    /// Whether its lines are kept back: they are in its account, which the guard around it tells.
    #[must_use]
    pub fn is_muted(&self) -> bool {
        self.outer.is_some() && !self.options.verbose
    }

    /// The runner of the CI's that this is, where it tells one.
    pub fn runner(&self) -> Option<String> {
        self.ci.as_ref().and_then(|_| model::Origin::detect(&self.env).runner)
    }
}

impl Terms {
    /// These times with grace and deadline as they were decided where the run began, if that is known: the supervisor sees less
    /// of the CI than the front.
    pub(crate) fn as_decided(self, account: &Account) -> Self {
        let Some(grace) = &account.grace else { return self };
        let deadline = account.deadline.as_ref().map(|deadline| deadline.duration);
        Self { grace: grace.duration, deadline, ..self }
    }
}

/// How long what was killed may take to go. Each guard below a command that is not a Terraform releases after the kill: it
/// waits for what it killed, looks for the lock, deletes both halves of it, and looks at the state.
pub(crate) fn patience_for(program: impl AsRef<OsStr>) -> Duration {
    let program = program.as_ref();
    let guards_one = program.is_empty() || model::product(program).is_some();
    if guards_one { PATIENCE } else { PATIENCE * 4 + RELEASE_BUDGET * 2 }
}

/// The supervisor may outlive the step, and the working directory its meaning.
fn absolute(path: &Option<PathBuf>) -> Option<PathBuf> {
    path.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
}

fn publisher(options: &RunOptions, ci: Option<&model::Run>, env: &Environment) -> Publisher {
    let provider = ci.map(|run| run.provider).filter(|_| options.ci.ci_messages == CiMessages::Auto);
    Publisher::new(provider, env, options.quiet, absolute(&options.ci.dotenv))
}

fn grace(options: &RunOptions, env: &Environment, remarks: &mut Vec<Remark>) -> model::Term {
    let fitting = ci::grace(&ci::Surroundings::here(env, options.ci.cleanup_step));
    let (what, why) = (describe(fitting.duration), &fitting.why);
    match options.stopping.grace {
        Setting::Auto => {
            remarks.push((Level::DEBUG, format!("grace: {what} ({why})")));
            fitting
        }
        Setting::Fixed(duration) => {
            if duration > fitting.duration {
                remarks.push((Level::DEBUG, format!("--grace is longer than the {what} that fit here ({why})")));
            }
            model::Term { duration, why: "chosen by --grace".to_owned() }
        }
    }
}

fn deadline(
    asked: Option<Setting>,
    env: &Environment,
    grace: Duration,
    remarks: &mut Vec<Remark>,
) -> Option<model::Term> {
    match asked? {
        Setting::Fixed(duration) => Some(model::Term { duration, why: "chosen by --deadline".to_owned() }),
        Setting::Auto => {
            let age = || ci::job_age("BUILDKITE_JOB_ID", env.text("BUILDKITE_JOB_ID")?);
            let Some(limit) = ci::time_left(env, jiff::Timestamp::now(), age) else {
                remarks.push((Level::DEBUG, "no deadline: this CI does not tell its time limit".to_owned()));
                return None;
            };
            // Of a short time, half is for the command.
            let kept = (grace + RESERVE).min(limit.left / 2);
            let why = format!("the job ends in {}, by {}", describe(limit.left), limit.says);
            let duration = limit.left.saturating_sub(kept);
            remarks.push((Level::DEBUG, format!("deadline: in {} ({why})", describe(duration))));
            Some(model::Term { duration, why })
        }
    }
}

fn lease(length: Duration, on_death: OnDeath, mode: Mode, remarks: &mut Vec<Remark>) -> Result<Times, Failure> {
    let times = Times::of(length).map_err(|error| Failure::Lease(error.to_string()))?;
    if mode == Mode::Attached {
        return Err(Failure::LeaseAttached);
    }
    if on_death != OnDeath::Release {
        return Err(Failure::LeaseKept);
    }
    if times.is_short() {
        let (length, renew, kill) = (describe(length), describe(times.renew), describe(times.kill - times.renew));
        let text = format!(
            "--lease {length} is short: where AWS does not answer for {renew}, Terraform is stopped, and {kill} later killed"
        );
        remarks.push((Level::WARN, text));
    }
    Ok(times)
}

/// The command that is really run.
fn command(options: &RunOptions, env: &Environment, remarks: &mut Vec<Remark>) -> Result<Vec<OsString>, Failure> {
    let mut command = options.command.clone();
    if let Some(real) = command.first().and_then(|program| terraform::behind_links(program, env)) {
        command[0] = real.into();
    }
    if let Some(from) = terraform::lock_disabled(&command, env) {
        if options.locks.forbid_lock_false {
            return Err(Failure::LockFalse(from));
        }
        let text = format!(
            "-lock=false ({from}): Terraform takes no lock for its work, so nothing keeps others from changing the state \
             meanwhile. (A new workspace is locked for a moment all the same.)"
        );
        remarks.push((Level::WARN, text));
    }
    if let Some(timeout) = options.locks.lock_timeout {
        terraform::with_lock_timeout(&mut command, env, timeout);
    }
    Ok(command)
}

/// Puts what stands behind a setup action's wrapper in its place; whether there is one.
fn step_over_wrapper(command: &mut [OsString], env: &Environment, remarks: &mut Vec<Remark>) -> bool {
    let Some(first) = command.first_mut() else { return false };
    let Some(program) = terraform::behind_wrapper(first, env) else { return false };
    let text = format!(
        "{} is the Node wrapper of a setup action, which passes no signals on; running {} in its place",
        first.display(),
        program.display()
    );
    remarks.push((Level::INFO, text));
    *first = program.into();
    true
}

fn mode(attach: bool, detach: bool, ci: bool, terminal: bool) -> Mode {
    if attach || (!detach && !ci && terminal) { Mode::Attached } else { Mode::Detached }
}

/// Whether this process inherited a signal as ignored.
fn is_ignored(signal: i32) -> bool {
    let mut current = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: only asks for the disposition, which it writes into `current` if it returns 0.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) == 0
            && current.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detached_is_the_rule_and_a_person_at_a_terminal_the_exception() {
        for bits in 0..16_u8 {
            let [attach, detach, ci, terminal] = [0, 1, 2, 3].map(|bit| bits & (1 << bit) != 0);
            let expected = if attach {
                Mode::Attached
            } else if detach || ci || !terminal {
                Mode::Detached
            } else {
                Mode::Attached
            };
            assert_eq!(mode(attach, detach, ci, terminal), expected);
        }
    }
}
