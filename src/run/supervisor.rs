//! The supervisor's loop: turns the world into the machine's events and its actions into the world.
//!
//! The same code runs in the detached supervisor, in the front of an attached run, and in a front whose supervisor was
//! killed and which takes its place.

mod account;
mod ending;
mod learning;
mod leasing;
mod refused;
mod stopping;
mod unguarded;
mod unlogged;

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use nix::unistd::Pid;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::machine::{Action, Event, Finish, Machine};
use crate::model::{Account, Baseline, Ending, ProcessId, Requested, StopRequest, World};

use crate::run::Failure;
use crate::run::child;
use crate::run::child::Child;
use crate::run::inner::InnerGuards;
use crate::run::job::{Job, trouble};
use crate::run::lease::holder::Leases;
use crate::run::locks::annotate::Annotator;
use crate::run::locks::locate::Locator;
use crate::run::locks::unlogged::look_beside_start;
use crate::run::requests::Requests;
use crate::run::supervisor::learning::{Log, Printed};
use crate::run::supervisor::stopping::Waiting;
use crate::run::supervisor::unguarded::{Looks, Unguarded};
use crate::run::supervisor::unlogged::OtherBackends;
use crate::run::terraforms::surroundings_of;
use crate::run::watch::Watch;
use crate::session::{Journal, JournalError, POLL_INTERVAL, SessionFile, monotonic_millis, passed_since};
use crate::{model, terraform};

/// The most requests to stop that are passed on and written down.
pub(crate) const MOST_REQUESTS: usize = 100;

/// Supervises a child from its start to the end of its locks.
pub struct Supervisor<'a> {
    pub(crate) job: &'a Job,
    pub(crate) journal: Journal,
    /// The journal as it was written last.
    written: Option<Journal>,
    machine: Machine,
    child: Child,
    watch: Watch,
    pub(crate) log: Log,
    printed: Printed,
    /// The command is not a Terraform: each that it starts by name has a guard of its own.
    runs_guards: bool,
    /// Those guards.
    inner: InnerGuards,
    /// The Terraforms that the command starts past those guards.
    unguarded: Vec<Unguarded>,
    looks: Looks,
    waiting: Waiting,
    /// One of the Terraforms that share the log said that it was interrupted.
    somebody_stopped: bool,
    /// When it was said last how much of the grace is left.
    reminded: Duration,
    /// Nobody tried to release the child's locks before.
    is_first: bool,
    pub(crate) locator: Locator,
    pub(crate) annotator: Annotator,
    pub(crate) leases: Leases,
    /// The look at the lock of the state that was begun with the child, if there was one.
    baseline: JoinSet<Baseline>,
    others: OtherBackends,
}

impl<'a> Supervisor<'a> {
    /// Writes the journal, starts the command, and writes the journal again with the child in it. The log is there.
    pub fn start(job: &'a Job, mut journal: Journal, output: child::Output) -> Result<Self, Failure> {
        let (env, logs) = if job.runs_guards() {
            (child::environment_with_guards(&job.env, &job.session, &job.inherited)?, true)
        } else {
            child::environment_of_terraform(&job.env, &job.session.log(), job.flavour)
        };
        if !logs {
            trouble(
                &mut journal.account,
                "TF_TEMP_LOG_PATH and another of Terraform's log variables are set, so tfguard cannot learn the lock; \
                 unset one of them"
                    .to_owned(),
            );
        }
        journal.backend = terraform::starting_backend(&job.command, &job.surroundings());
        journal.intent = Some(job.intent(logs, terraform::asks_for_debug(&env)));
        journal.lease = job.lease.map(|times| times.length);
        // Whoever finds this run with its supervisor killed from here on knows whom to ask, and what its Terraform started with.
        journal.write(&job.session)?;
        // What cannot be followed is not started.
        let log = Log::open(job, &journal).map_err(Failure::Log)?;
        let child = Child::start(&job.command, &env, output, &job.session)?;
        journal.child = child::read_record(&job.session).or_else(|| child.record());
        let mut supervisor = Self::new(job, journal, child, log);
        if let Some(look) = look_beside_start(job, supervisor.journal.intent.as_ref()) {
            supervisor.baseline.spawn(look);
        }
        supervisor.write_journal();
        Ok(supervisor)
    }

    /// Takes over the child of a supervisor that is dead. None if that had not started one.
    ///
    /// # Errors
    /// When there is no descriptor for the log.
    pub fn take_over(job: &'a Job, mut journal: Journal) -> io::Result<Option<Self>> {
        journal.child = child::read_record(&job.session).or(journal.child);
        let child = journal.child.map(|record| Child::Adopted(record.id));
        child.map(|child| Self::go_on(job, journal, child)).transpose()
    }

    /// Takes the place of a supervisor that is dead and supervises to the end, as far as that is
    /// [`Adoptable`](crate::session::Adoptable). The session's claim is held. Errors: as of [`Self::take_over`].
    pub async fn adopt(job: &Job, mut journal: Journal, requests: &mut Requests) -> io::Result<Account> {
        if journal.world == World::here()
            && let Some(supervisor) = Supervisor::take_over(job, journal.clone())?
        {
            return Ok(supervisor.run(requests).await);
        }
        // Its process IDs are those of other processes here.
        journal.child = None;
        let mut supervisor = Supervisor::go_on(job, journal, Child::Gone)?;
        supervisor.leases.end();
        Ok(supervisor.run(requests).await)
    }

    fn go_on(job: &'a Job, mut journal: Journal, child: Child) -> io::Result<Self> {
        journal.world = World::here();
        journal.supervisor = ProcessId::own();
        journal.intent = journal.intent.or_else(|| Some(job.intent(true, false)));
        let stopped_for = journal.account.requests.first().map(|first| first.request.clone());
        let log = Log::open(job, &journal)?;
        let mut supervisor = Self::new(job, journal, child, log);
        supervisor.others.before = supervisor.journal.account.other_locks.len();
        if supervisor.journal.account.interrupt.is_some() {
            supervisor.machine = supervisor.machine.already_interrupted();
        }
        supervisor.read_log();
        if supervisor.journal.leases.iter().any(|lease| lease.lost) {
            supervisor.annotator.stop();
        }
        if let Some(child) = supervisor.journal.child.filter(|_| job.command.is_empty()) {
            supervisor.others.adopted = surroundings_of(child.id);
        }
        if let Some(request) = stopped_for {
            supervisor.follow_output();
            let since = supervisor.journal.stopping_since.map_or(Duration::ZERO, passed_since);
            let then = supervisor.now().saturating_sub(since);
            supervisor.machine.handle(Event::StopRequested(request), then);
        }
        supervisor.write_journal();
        Ok(supervisor)
    }

    fn new(job: &'a Job, journal: Journal, child: Child, log: Log) -> Self {
        let mut watch = Watch::new();
        watch.add(&job.session.log());
        let runs_guards = model::product(OsStr::new(&journal.account.program)).is_none();
        let printed = Printed::of(job, runs_guards);
        if printed.tells_resources() {
            watch.add_once(&job.session.path_of(SessionFile::Stdout));
        }
        let locator = Locator::new(journal.backend.clone());
        // One that has just been started has done nothing yet.
        let first_look = if matches!(child, Child::Own(_)) { POLL_INTERVAL } else { Duration::ZERO };
        // Who saw the child's end and died then may have begun to release.
        let is_first = journal.account.ending.is_none();
        let leases = Leases::new(job.lease, &journal.leases);
        Self {
            job,
            journal,
            written: None,
            is_first,
            machine: Machine::new(job.terms),
            child,
            watch,
            log,
            printed,
            runs_guards,
            inner: InnerGuards::of(&job.session),
            unguarded: Vec::new(),
            looks: Looks::after(first_look),
            waiting: Waiting::default(),
            somebody_stopped: false,
            reminded: Duration::ZERO,
            locator,
            annotator: Annotator::new(job.lease.is_some()),
            leases,
            baseline: JoinSet::new(),
            others: OtherBackends::default(),
        }
    }

    /// The child's process ID, if it came to be written down.
    pub fn child_pid(&self) -> Option<Pid> {
        self.journal.child.map(|child| Pid::from_raw(child.id.pid))
    }

    /// Supervises until everything is accounted for.
    pub async fn run(mut self, requests: &mut Requests) -> Account {
        let mut ended = false;
        loop {
            while let Some(action) = self.machine.poll_action() {
                if let Some(finish) = self.act(action).await {
                    self.leases.end();
                    self.leases.clean_up().await;
                    self.unlease(finish).await;
                    if finish == Finish::Gone {
                        self.look_at_states().await;
                    }
                    self.explain_refusal().await;
                    self.account_for_unguarded().await;
                    return self.finish(finish);
                }
            }
            let timer = self.machine.next_time().map(|moment| self.job.began + moment);
            let reminder = self.machine.next_reminder(self.reminded).map(|moment| self.job.began + moment);
            tokio::select! {
                biased;
                // Before all else: woken too late, the child is killed before anything is done or read.
                reply = self.leases.due() => self.lease_due(reply),
                Some(Ok(baseline)) = self.baseline.join_next(), if !ended => self.note_baseline(baseline),
                ending = self.child.ended(), if !ended => {
                    ended = true;
                    self.child_ended(ending);
                }
                Some(request) = requests.recv() => self.stop_requested(request),
                // Before the files: a flood of output is no reason to miss the time for a kill.
                () = sleep_until(timer) => {
                    // What was asked for up to now comes first, also where this process had no turn for a while.
                    tokio::task::yield_now().await;
                    while let Ok(request) = requests.try_recv() {
                        self.stop_requested(request);
                    }
                    if self.machine.is_looking() {
                        self.look_once_more();
                    }
                    self.time_passed();
                }
                opened = self.watch.changed(), if !self.log.is_read => self.files_changed(opened),
                () = self.looks.due() => self.look_around(),
                () = sleep_until(reminder) => self.remind(),
                () = self.inner.finish_orphans() => self.interrupt_waiting_command(),
                () = self.waiting.over() => self.interrupt_waiting_command(),
                () = sleep_until(self.printed.resources_due()), if !ended => self.read_resources(),
                // After a turn for all others: a flood must not keep out requests to stop, the child's end, and time.
                () = tokio::task::yield_now(), if self.log.has_more && !self.log.is_read => self.read_some_log(),
                () = tokio::task::yield_now(), if self.printed.has_more && !ended => self.read_resources(),
            }
        }
    }

    fn files_changed(&mut self, opened: bool) {
        if opened {
            // First: what is read afterwards may be of those that have just started.
            self.looks.due = Looks::MOST;
            self.look_around();
        }
        self.read_some_log();
        self.read_output();
        self.printed.note_growth();
    }

    fn now(&self) -> Duration {
        self.job.began.elapsed()
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        self.machine.handle(event, now);
    }

    fn time_passed(&mut self) {
        let now = self.now();
        self.machine.handle_time(now);
        if self.machine.first_request().is_some() && self.journal.account.requests.is_empty() {
            self.note_request(StopRequest::Deadline);
            self.ask_guards();
        }
    }

    /// Asks the guards of the command's Terraforms, all at once. The journal first: who is just starting reads it there.
    fn ask_guards(&mut self) {
        if !self.runs_guards {
            return;
        }
        let left = self.machine.kill_at().map_or(Duration::ZERO, |at| at.saturating_sub(self.job.began.elapsed()));
        let kill_at = monotonic_millis() + u64::try_from(left.as_millis()).unwrap_or_default();
        if self.journal.kill_at.is_none_or(|known| kill_at < known) {
            self.journal.kill_at = Some(kill_at);
            if let Err(error) = self.journal.write(&self.job.session) {
                tracing::debug!("{error}");
            }
            self.inner.ask();
        }
        self.looks.next = Some(Instant::now());
    }

    fn stop_requested(&mut self, request: StopRequest) {
        self.note_request(request.clone());
        self.handle(Event::StopRequested(request));
        if self.somebody_stopped && self.is_everybody_signalled() {
            self.handle(Event::InterruptReported);
        }
        self.ask_guards();
    }

    fn note_request(&mut self, request: StopRequest) {
        let known = self.journal.account.requests.len();
        let (is_first, is_noted) = (known == 0, known < MOST_REQUESTS);
        let was_everybody = self.is_everybody_signalled();
        if is_noted {
            self.journal.account.requests.push(Requested { at: Timestamp::now(), request: request.clone() });
        }
        if is_first {
            tracing::info!("stop requested: {request}");
            // What ended before, and logged to its end, ended by itself.
            self.unguarded.retain(Unguarded::may_be_stopped);
            self.follow_output();
        } else {
            tracing::debug!("stop requested again: {request}");
            if self.is_everybody_signalled() && !was_everybody {
                // Of two requests by one signal to everybody, the front's came first.
                self.follow_output();
            }
        }
        if is_noted {
            self.write_journal();
        }
    }

    fn child_ended(&mut self, ending: Ending) {
        self.annotator.stop();
        self.read_log();
        let ending = self.judge_ending(ending);
        // What a dead supervisor wrote down before it is better known.
        self.journal.account.ending.get_or_insert(ending);
        self.write_journal();
        let unclean = ending.is_unclean();
        let asked = self.machine.first_request().is_some();
        let left = self.holds_locks() || self.may_be_unlogged();
        let left_alone = (asked || (unclean && left)) && self.is_terraform_alive(&self.look());
        let orphans = left_alone || !self.inner.at_work().is_empty();
        // A script's exit code says nothing of how the Terraforms it ran ended, but it ended them in its own way.
        self.handle(Event::ChildEnded { unclean, orphans });
        if orphans && (unclean || left_alone) && !asked {
            self.stop_requested(StopRequest::ChildDied);
        } else if orphans {
            let program = &self.journal.account.program;
            tracing::info!("{program} has ended; waiting for a Terraform that it had started");
        }
    }

    async fn act(&mut self, action: Action) -> Option<Finish> {
        match action {
            Action::Interrupt | Action::InterruptNewcomers => self.interrupt(),
            Action::NoteInterrupt => self.note_interrupt(),
            Action::Kill => self.kill(),
            Action::ReadLog => self.log_ended(),
            Action::Inspect => {
                let tree = self.look();
                let guards = !self.inner.at_work().is_empty();
                let terraforms = guards || self.is_terraform_alive(&tree);
                self.handle(Event::Inspected { alive: guards || !tree.is_gone(), terraforms });
            }
            Action::Release => self.release().await,
            Action::Finish(finish) => return Some(finish),
        }
        None
    }

    /// Notes something that went wrong for tfguard, and says it if it is new.
    fn trouble(&mut self, what: impl Into<String>) {
        trouble(&mut self.journal.account, what.into());
    }

    /// Writes the journal, if it changed. A journal that cannot be written is said, once, and the run goes on (P6).
    fn write_journal(&mut self) {
        if self.written.as_ref() == Some(&self.journal) {
            return;
        }
        match self.journal.write(&self.job.session) {
            Ok(()) => self.written = Some(self.journal.clone()),
            Err(error @ JournalError::Io { .. }) => self.trouble(error.to_string()),
            Err(_) => {}
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
