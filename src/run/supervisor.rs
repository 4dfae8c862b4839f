//! The supervisor's loop: turns the world into the machine's events and its actions into the world.
//!
//! The same code runs in the detached supervisor, in the front of an attached run, and in a front whose supervisor was
//! killed and which takes its place.

mod ending;
mod learning;
mod redirected;
mod stopping;
mod unnamed;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use nix::unistd::Pid;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use redirected::Redirected;

use super::annotate::Annotator;
use super::child::{self, Child, StartError};
use super::follow::Follow;
use super::front::A_MOMENT;
use super::machine::{Action, Event, Finish, Machine, StopRequest, Terms};
use super::nameless::Unlogging;
use super::other_backends::OtherBackends;
use super::release::Releaser;
use super::watch::{Change, Watch};
use crate::cli::Evidence;
use crate::command::Flavour;
use crate::lock::UnconditionalDelete;
use crate::observe::{Expectations, InterruptScanner, Observer};
use crate::report::{Account, Ending, Requested};
use crate::session::{Journal, JournalError, ProcessId, SessionDir, World};

/// Everything that supervising needs to know of the run.
#[derive(Debug)]
pub struct Job {
    /// The command.
    pub command: Vec<OsString>,
    /// The environment that the command has.
    pub env: HashMap<OsString, OsString>,
    /// Its session.
    pub session: SessionDir,
    /// The machine's times.
    pub terms: Terms,
    /// What becomes of a lock that is left.
    pub on_death: crate::cli::OnDeath,
    /// What becomes of a lockfile where the store keeps no conditions.
    pub unconditional: UnconditionalDelete,
    /// What the command is.
    pub flavour: Flavour,
    /// Which evidence is enough to delete a lock.
    pub evidence: Evidence,
    /// Whether the holder is written beside its lock.
    pub annotate: bool,
    /// When the session began; the machine's moments count from here.
    pub began: Instant,
}

/// Supervises a child from its start to the end of its locks.
#[derive(Debug)]
pub struct Supervisor<'a> {
    pub(super) job: &'a Job,
    pub(super) journal: Journal,
    machine: Machine,
    child: Child,
    watch: Watch,
    log: Follow,
    pub(super) observer: Observer,
    /// The child's output, followed only once a stop is requested: until then nobody needs to know.
    output: Vec<(Follow, InterruptScanner)>,
    /// The output of Terraforms that a script sent to files of its own.
    redirected: Vec<Redirected>,
    /// Terraforms that a script gave another log.
    unlogged: Vec<ProcessId>,
    /// The Terraforms that lived when any was seen last.
    seen: Vec<ProcessId>,
    /// The log was opened, and by whom is still to be looked for, so many times at most.
    looks_due: u32,
    /// Below a script, how much of stdout and of stderr there was when nobody new was known of.
    said: [u64; 2],
    /// So much of both is of Terraforms that are gone.
    said_by_others: [u64; 2],
    interrupted_twice: bool,
    /// When these Terraforms are gone, the script's shell is to be interrupted, too.
    shell_waits_for: Vec<ProcessId>,
    /// The child is Terraform itself: it was seen to have the log open.
    pub(super) child_is_terraform: bool,
    /// Everything is over, and the log was read to its end.
    log_is_read: bool,
    pub(super) releaser: Releaser,
    pub(super) annotator: Annotator,
    unlogging: Unlogging,
    /// What the child may have left on a backend that logs no locks.
    others: OtherBackends,
}

impl<'a> Supervisor<'a> {
    /// Starts the command. The log is there, and `journal` is written, which is written again with the child in it.
    pub fn start(job: &'a Job, mut journal: Journal, output: child::Output) -> Result<Self, StartError> {
        let change = child::environment_change(&job.env, &job.session.log(), job.flavour);
        if !change.logs {
            trouble(
                &mut journal.account,
                "TF_TEMP_LOG_PATH and another of Terraform's log variables are set, so tfguard cannot learn the lock; \
                 unset one of them"
                    .to_owned(),
            );
        }
        let child = Child::start(&job.command, &change, output, &job.session)?;
        journal.child = child::read_record(&job.session).or_else(|| child.record());
        let mut supervisor = Self::new(job, journal, child);
        supervisor.unlogging = Unlogging::begin(job);
        supervisor.write_journal();
        Ok(supervisor)
    }

    /// Takes over the child of a supervisor that is dead. None if that had not started one.
    #[must_use]
    pub fn take_over(job: &'a Job, mut journal: Journal) -> Option<Self> {
        let record = child::read_record(&job.session).or(journal.child)?;
        journal.child = Some(record);
        Some(Self::go_on(job, journal, Child::Adopted(record.id)))
    }

    /// Takes over a session of which everything is dead.
    #[must_use]
    pub fn take_over_dead(job: &'a Job, journal: Journal) -> Self {
        Self::go_on(job, journal, Child::Gone)
    }

    fn go_on(job: &'a Job, mut journal: Journal, child: Child) -> Self {
        journal.world = World::here();
        journal.supervisor = ProcessId::own();
        let stopped_for = journal.account.requests.first().map(|first| first.request.clone());
        let mut supervisor = Self::new(job, journal, child);
        if supervisor.journal.account.interrupt.is_some() {
            supervisor.machine = supervisor.machine.already_interrupted();
        }
        supervisor.read_log();
        // `tfguard release` does not know the command, but the system does while it is alive.
        let known = supervisor.journal.child.as_ref().filter(|_| !job.command.is_empty());
        supervisor.others.remember(&supervisor.look(), known);
        if let Some(request) = stopped_for {
            supervisor.follow_output();
            supervisor.handle(Event::StopRequested(request));
        }
        supervisor.write_journal();
        supervisor
    }

    fn new(job: &'a Job, journal: Journal, child: Child) -> Self {
        let mut watch = Watch::new();
        watch.add(&job.session.log());
        let log = journal.open_log(&job.session).unwrap_or_else(|error| {
            tracing::error!("cannot read Terraform's log, so its lock and whether it lives will not be known: {error}");
            File::open("/dev/null").expect("there is always /dev/null")
        });
        let log = Follow::from_the_start(log);
        let observer = Observer::believing(job.believed(), expectations(&journal));
        Self {
            job,
            journal,
            machine: Machine::new(job.terms),
            child,
            watch,
            log,
            observer,
            output: Vec::new(),
            redirected: Vec::new(),
            unlogged: Vec::new(),
            seen: Vec::new(),
            looks_due: 0,
            said: [0; 2],
            said_by_others: [0; 2],
            interrupted_twice: false,
            shell_waits_for: Vec::new(),
            child_is_terraform: false,
            log_is_read: false,
            releaser: Releaser::default(),
            annotator: Annotator::default(),
            unlogging: Unlogging::default(),
            others: OtherBackends::default(),
        }
    }

    /// The child's process ID, if it came to be written down.
    #[must_use]
    pub fn child_pid(&self) -> Option<Pid> {
        self.journal.child.map(|child| Pid::from_raw(child.id.pid))
    }

    /// Supervises until everything is accounted for.
    pub async fn run(mut self, requests: &mut UnboundedReceiver<StopRequest>) -> Account {
        let mut ended = false;
        loop {
            while let Some(action) = self.machine.poll_action() {
                if let Some(finish) = self.act(action).await {
                    self.explain_refusal().await;
                    return self.finish(finish);
                }
            }
            let timer = self.machine.next_time().map(|moment| self.job.began + moment);
            tokio::select! {
                biased;
                ending = self.child.ended(), if !ended => {
                    ended = true;
                    self.child_ended(ending);
                }
                Some(request) = requests.recv() => self.stop_requested(request),
                // Before the files: a flood of output is no reason to miss the time for a kill.
                () = sleep_until(timer) => self.time_passed(),
                change = self.watch.changed(), if !self.log_is_read => self.files_changed(change),
                () = tokio::time::sleep(A_MOMENT), if self.is_to_look_again() && !self.log_is_read => {
                    self.files_changed(Change::default());
                }
                _ = join_all(self.shell_waits_for.iter().map(|id| id.gone())), if !self.shell_waits_for.is_empty() => {
                    self.interrupt_processes();
                }
                () = sleep_until(self.annotator.next()), if !ended => self.annotate(),
            }
        }
    }

    fn files_changed(&mut self, change: Change) {
        // First: what is read afterwards may be of those that have just started.
        if let Some(event) = self.look_for_newcomers(change, false) {
            self.handle(event);
        }
        self.read_log();
        self.read_output();
        if self.looks_due == 0 && !self.child_is_terraform {
            self.said = self.spools().map(|path| path.metadata().map_or(0, |file| file.len()));
        }
    }

    fn now(&self) -> Duration {
        self.job.began.elapsed()
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        self.machine.handle(event, now);
    }

    fn time_passed(&mut self) {
        let before = self.machine.first_request().is_some();
        let now = self.now();
        self.machine.handle_time(now);
        if !before && self.machine.first_request().is_some() {
            self.note_request(StopRequest::Deadline);
        }
    }

    fn stop_requested(&mut self, request: StopRequest) {
        // Whoever has just started may not have been looked for yet, and what was said before is not of them.
        if self.machine.first_request().is_none()
            && let Some(event) = self.look_for_newcomers(Change { opened: true }, true)
        {
            self.handle(event);
        }
        self.note_request(request.clone());
        self.handle(Event::StopRequested(request));
    }

    fn note_request(&mut self, request: StopRequest) {
        if self.journal.account.requests.is_empty() {
            tracing::info!("stop requested: {request}");
            self.follow_output();
        } else {
            tracing::debug!("stop requested again: {request}");
        }
        self.journal.account.requests.push(Requested { at: Timestamp::now(), request });
        self.write_journal();
    }

    fn child_ended(&mut self, ending: Ending) {
        self.annotator.stop();
        // What a dead supervisor wrote down before it is better known.
        self.journal.account.ending.get_or_insert(ending);
        self.write_journal();
        self.read_log();
        let unclean = ending.is_unclean();
        let asked = self.machine.first_request().is_some();
        let left = self.holds_locks() || self.may_be_unlogged();
        let orphans = (asked || (unclean && left)) && self.is_terraform_alive(&self.look());
        // A script's exit code says nothing of how the Terraforms it ran ended, but it ended them in its own way.
        self.handle(Event::ChildEnded { unclean, orphans });
        if orphans && asked {
            let program = &self.journal.account.program;
            tracing::info!("{program} has ended; waiting for a Terraform that it had started");
        } else if orphans {
            self.stop_requested(StopRequest::ChildDied);
        }
    }

    async fn act(&mut self, action: Action) -> Option<Finish> {
        match action {
            Action::Interrupt => self.interrupt(),
            Action::InterruptNewcomers => self.interrupt_processes(),
            Action::NoteInterrupt => self.note_interrupt(),
            Action::Kill => self.kill(),
            Action::ReadLog => self.log_ended(),
            Action::Inspect => {
                let tree = self.look();
                let terraforms = self.is_terraform_alive(&tree);
                self.handle(Event::Inspected { alive: !tree.is_gone(), terraforms });
            }
            Action::Release => self.release().await,
            Action::Finish(finish) => return Some(finish),
        }
        None
    }

    /// What cannot be written down is said, once, and supervised all the same (P6).
    fn write_journal(&mut self) {
        if let Err(error) = self.journal.write(&self.job.session) {
            let JournalError::Io { .. } = &error else { return };
            trouble(&mut self.journal.account, error.to_string());
        }
    }
}

/// By what the log of a session's child is judged.
pub fn expectations(journal: &Journal) -> Expectations {
    Expectations { started: journal.account.started, nodename: journal.nodename.clone() }
}

/// Notes something that went wrong for tfguard, and says it if it is new.
fn trouble(account: &mut Account, what: String) {
    if !account.troubles.contains(&what) {
        tracing::warn!("{what}");
        account.troubles.push(what);
    }
}

/// Now, in the clock ticks in which the kernel counts start times.
pub(super) fn ticks_since_boot() -> u64 {
    let since_boot =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or(Duration::MAX);
    let ticks = since_boot.as_millis() * u128::from(procfs::ticks_per_second()) / 1000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A duration as people write it.
#[must_use]
pub fn describe(duration: Duration) -> String {
    let duration = Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    jiff::SignedDuration::try_from(duration)
        .map_or_else(|_| format!("{duration:?}"), |duration| format!("{duration:#}"))
}
