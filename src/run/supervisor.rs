//! The supervisor's loop: turns the world into the machine's events and its actions into the world.
//!
//! The same code runs in the detached supervisor, in the front of an attached run, and in a front whose supervisor was
//! killed and which takes its place.

mod ending;
mod learning;
mod stopping;
mod unguarded;
mod unnamed;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use nix::unistd::Pid;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use crate::machine::{Action, Event, Finish, Machine, Terms};
use crate::model;
use crate::model::{Account, Ending, Evidence, ProcessId, Requested, StopRequest, World};
use crate::observe::{Expectations, InterruptScanner, Observer};
use crate::run::annotate::Annotator;
use crate::run::child;
use crate::run::child::{Child, Environment, StartError};
use crate::run::follow::Follow;
use crate::run::inner::InnerGuards;
use crate::run::nameless::Unlogging;
use crate::run::other_backends::OtherBackends;
use crate::run::plan::patience_for;
use crate::run::release::{Releaser, starting_backend};
use crate::run::supervisor::unguarded::Unguarded;
use crate::run::watch::{Change, Watch};
use crate::session::{Journal, JournalError, SessionDir, monotonic_millis};
use crate::store::UnconditionalDelete;
use crate::terraform::Flavour;

/// How often it is looked who has opened the log. The kernel tells of it a moment before the opened file can be seen at the
/// process, and on a busy machine that moment lasts.
const LOOKS: u32 = 8;
/// How often is looked for Terraforms that a script calls past its guards and whose log is elsewhere: nothing tells of
/// them.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(5);
/// So many requests to stop are written down.
const MOST_REQUESTS: usize = 100;
/// The same once a stop is requested.
const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(250);

/// Everything that supervising needs to know of the run.
#[derive(Debug)]
pub struct Job {
    /// The command.
    pub command: Vec<OsString>,
    /// The directory that it runs in.
    pub directory: PathBuf,
    /// The environment of the command, but for what is added.
    pub env: Environment,
    /// What the guards below this one are told, as variables.
    pub inherited: Vec<(OsString, OsString)>,
    /// Its session.
    pub session: SessionDir,
    /// The machine's times.
    pub terms: Terms,
    /// What becomes of a lock that is left.
    pub on_death: crate::model::OnDeath,
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
    /// When a cleanup step has no more time.
    pub until: Option<Instant>,
}

/// Supervises a child from its start to the end of its locks.
#[derive(Debug)]
pub struct Supervisor<'a> {
    pub(crate) job: &'a Job,
    pub(crate) journal: Journal,
    machine: Machine,
    child: Child,
    watch: Watch,
    log: Follow,
    pub(crate) observer: Observer,
    /// The child's output, followed only once a stop is requested: until then nobody needs to know.
    output: Vec<(Follow, InterruptScanner)>,
    /// The guards of the Terraforms that the command starts; none where the command is a Terraform.
    inner: Option<InnerGuards>,
    /// The Terraforms that the command starts past those guards.
    unguarded: Vec<Unguarded>,
    /// The log was opened, and by whom is still to be looked for, so many times at most.
    looks_due: u32,
    /// When to look next who is at work.
    next_look: Option<Instant>,
    interrupted_twice: bool,
    /// One of the Terraforms that share the log said that it was interrupted.
    somebody_stopped: bool,
    /// Nobody tried to release the child's locks before.
    pub(crate) is_first: bool,
    /// The command is to be interrupted when no Terraform is at work any more.
    command_waits: bool,
    /// When these are gone, it is looked whether that is so.
    command_waits_for: Vec<ProcessId>,
    /// The child is Terraform itself: it was seen to have the log open.
    pub(crate) child_is_terraform: bool,
    /// Everything is over, and the log was read to its end.
    log_is_read: bool,
    /// There is more in the log than was read.
    log_has_more: bool,
    pub(crate) releaser: Releaser,
    pub(crate) annotator: Annotator,
    unlogging: Unlogging,
    /// What the child may have left on a backend that logs no locks.
    others: OtherBackends,
}

impl Job {
    /// So long, or what a cleanup step has left of its time but for `reserve`.
    pub(crate) fn at_most(&self, longest: Duration, reserve: Duration) -> Duration {
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).saturating_sub(reserve);
        self.until.map_or(longest, |until| left(until).min(longest))
    }

    /// Whether the command is no Terraform: each that it starts by name has a guard of its own.
    fn runs_guards(&self) -> bool {
        self.command.first().is_some_and(|program| model::product(program).is_none())
    }

    /// The same for the session of a guard below this one that died.
    #[must_use]
    pub fn of_inner(&self, session: &SessionDir, journal: &Journal) -> Self {
        Self {
            command: Vec::new(),
            directory: journal.account.directory.clone(),
            env: self.env.clone(),
            inherited: Vec::new(),
            session: session.clone(),
            terms: Terms { deadline: None, patience: patience_for(&journal.account.program), ..self.terms },
            on_death: journal.on_death.map_or(self.on_death, |told| told.and(self.on_death)),
            unconditional: self.unconditional,
            flavour: crate::run::flavour(
                &[OsString::from(&journal.account.program)],
                &journal.account.directory,
                &self.env,
            ),
            evidence: self.evidence,
            annotate: self.annotate,
            began: Instant::now(),
            until: self.until,
        }
    }
}

impl<'a> Supervisor<'a> {
    /// Writes the journal, starts the command, and writes the journal again with the child in it. The log is there.
    pub fn start(job: &'a Job, mut journal: Journal, output: child::Output) -> Result<Self, StartError> {
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
        if let Some(surroundings) = job.surroundings() {
            journal.backend = starting_backend(&job.command, &surroundings);
        }
        journal.intent = job.intent(logs, child::asks_for_debug(&env));
        // Whoever finds this run with its supervisor killed from here on knows whom to ask, and what its Terraform started with.
        journal.write(&job.session)?;
        let child = Child::start(&job.command, &env, output, &job.session)?;
        journal.child = child::read_record(&job.session).or_else(|| child.record());
        let mut supervisor = Self::new(job, journal, child);
        supervisor.unlogging = Unlogging::begin(job, supervisor.journal.intent.as_ref());
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
        journal.intent = journal.intent.or_else(|| job.intent(true, false));
        let stopped_for = journal.account.requests.first().map(|first| first.request.clone());
        let mut supervisor = Self::new(job, journal, child);
        if supervisor.journal.account.interrupt.is_some() {
            supervisor.machine = supervisor.machine.already_interrupted();
        }
        supervisor.read_log();
        if let Some(child) = supervisor.journal.child.filter(|_| job.command.is_empty()) {
            supervisor.others.remember(child.id);
        }
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
        let runs_guards = model::product(OsStr::new(&journal.account.program)).is_none();
        let inner = runs_guards.then(|| InnerGuards::of(&job.session));
        let observer = Observer::new(job.believed(journal.intent.as_ref()), expectations(&journal));
        let releaser = Releaser::new(journal.backend.clone());
        // Who saw the child's end and died then may have begun to release.
        let is_first = journal.account.ending.is_none();
        Self {
            job,
            journal,
            is_first,
            machine: Machine::new(job.terms),
            child,
            watch,
            log,
            observer,
            output: Vec::new(),
            inner,
            unguarded: Vec::new(),
            looks_due: LOOKS,
            next_look: Some(Instant::now()),
            interrupted_twice: false,
            somebody_stopped: false,
            command_waits: false,
            command_waits_for: Vec::new(),
            child_is_terraform: false,
            log_is_read: false,
            log_has_more: false,
            releaser,
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
                    self.account_for_unguarded().await;
                    return self.finish(finish);
                }
            }
            let timer = self.machine.next_time().map(|moment| self.job.began + moment);
            tokio::select! {
                biased;
                baseline = self.unlogging.baseline(), if self.unlogging.is_looking() && !ended => self.note_baseline(baseline),
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
                    self.time_passed();
                }
                change = self.watch.changed(), if !self.log_is_read => self.files_changed(change),
                () = sleep_until(self.next_look) => self.look_around(),
                () = finish_orphans(&mut self.inner) => self.interrupt_waiting_command(),
                _ = join_all(self.command_waits_for.iter().map(|id| id.gone())), if !self.command_waits_for.is_empty() => {
                    self.interrupt_waiting_command();
                }
                () = sleep_until(self.annotator.next()), if !ended => self.annotate(),
                () = std::future::ready(()), if self.log_has_more && !self.log_is_read => {
                    self.log_has_more = self.read_some_log();
                }
            }
        }
    }

    fn files_changed(&mut self, change: Change) {
        if change.opened {
            // First: what is read afterwards may be of those that have just started.
            self.looks_due = LOOKS;
            self.look_around();
        }
        self.log_has_more = self.read_some_log();
        self.read_output();
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
            self.ask_guards();
        }
    }

    /// Asks the guards of the command's Terraforms, all at once. The journal first: who is just starting reads it there.
    fn ask_guards(&mut self) {
        let Some(inner) = &self.inner else { return };
        let left = self.machine.kill_at().map_or(Duration::ZERO, |at| at.saturating_sub(self.job.began.elapsed()));
        let kill_at = monotonic_millis() + u64::try_from(left.as_millis()).unwrap_or_default();
        if self.journal.kill_at.is_none_or(|known| kill_at < known) {
            self.journal.kill_at = Some(kill_at);
            if let Err(error) = self.journal.write(&self.job.session) {
                tracing::debug!("{error}");
            }
            inner.ask();
        }
        self.next_look = Some(Instant::now());
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
                self.output.clear();
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
        let ending = self.judged(ending);
        // What a dead supervisor wrote down before it is better known.
        self.journal.account.ending.get_or_insert(ending);
        self.write_journal();
        let unclean = ending.is_unclean();
        let asked = self.machine.first_request().is_some();
        let left = self.holds_locks() || self.may_be_unlogged();
        let left_alone = (asked || (unclean && left)) && self.is_terraform_alive(&self.look());
        let orphans = left_alone || self.guards_at_work();
        // A script's exit code says nothing of how the Terraforms it ran ended, but it ended them in its own way.
        self.handle(Event::ChildEnded { unclean, orphans });
        if orphans && (unclean || left_alone) && !asked {
            self.stop_requested(StopRequest::ChildDied);
        } else if orphans {
            let program = &self.journal.account.program;
            tracing::info!("{program} has ended; waiting for a Terraform that it had started");
        }
    }

    /// Whether a guard of a Terraform that the command started has not accounted for it yet.
    fn guards_at_work(&self) -> bool {
        self.inner.as_ref().is_some_and(InnerGuards::any_at_work)
    }

    async fn act(&mut self, action: Action) -> Option<Finish> {
        match action {
            Action::Interrupt => self.interrupt(),
            Action::InterruptNewcomers => _ = self.interrupt_processes(),
            Action::NoteInterrupt => self.note_interrupt(),
            Action::Kill => self.kill(),
            Action::ReadLog => self.log_ended(),
            Action::Inspect => {
                let tree = self.look();
                let guards = self.guards_at_work();
                let terraforms = guards || self.is_terraform_alive(&tree);
                self.handle(Event::Inspected { alive: guards || !tree.is_gone(), terraforms });
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

async fn finish_orphans(inner: &mut Option<InnerGuards>) {
    match inner {
        Some(inner) => inner.finish_orphans().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
