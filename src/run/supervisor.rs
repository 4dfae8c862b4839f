//! The supervisor's loop: turns the world into the machine's events and its actions into the world.
//!
//! The same code runs in the detached supervisor, in the front of an attached run, and in a front whose supervisor was
//! killed and which takes its place.

mod unnamed;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::annotate::Annotator;
use super::child::{self, Child, StartError};
use super::machine::{Action, Event, Finish, Machine, StopRequest, Terms};
use super::nameless::Unlogging;
use super::other_backends::{End, OtherBackends};
use super::release::{IN_FLIGHT, Located, Releaser, Started};
use super::states;
use super::targets::{Targets, targets};
use super::watch::Watch;
use crate::cli::Evidence;
use crate::command::Flavour;
use crate::lock::UnconditionalDelete;
use crate::observe::{self, Expectations, Fact, InterruptScanner, Observer, Phase, Stage, Verdict};
use crate::other::Permission;
use crate::report::{Account, Ending, Interrupt, InterruptedBy, LockAccount, LockOutcome, Requested};
use crate::session::{Journal, JournalError, ProcessId, SessionDir, Tree, World, is_terraform};

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
    observer: Observer,
    /// The child's output, followed only once a stop is requested: until then nobody needs to know.
    output: Vec<(Follow, InterruptScanner)>,
    interrupted_twice: bool,
    /// The child is Terraform itself: it was seen to have the log open.
    child_is_terraform: bool,
    pub(super) releaser: Releaser,
    pub(super) annotator: Annotator,
    unlogging: Unlogging,
    /// What the child may have left on a backend that logs no locks.
    others: OtherBackends,
}

/// A file that is read as it grows.
#[derive(Debug)]
struct Follow {
    file: File,
}

impl Follow {
    fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    /// What was added since the last time, in pieces of bounded size.
    fn read(&mut self, mut take: impl FnMut(&[u8])) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => take(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return tracing::warn!("cannot read on in a file of the session: {error}"),
            }
        }
    }
}

impl<'a> Supervisor<'a> {
    /// Starts the command. `journal` is written first, and again with the child in it.
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
        // The log's reader is there before the log's writer, so that nothing is in the child's way afterwards.
        drop(crate::session::create_file(&job.session.log())?);
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
        let record = child::read_record(&job.session)?;
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
        let log = Follow::open(&job.session.log()).unwrap_or_else(|error| {
            tracing::error!("cannot read Terraform's log, so its lock will not be known: {error}");
            Follow { file: File::open("/dev/null").expect("there is always /dev/null") }
        });
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
            interrupted_twice: false,
            child_is_terraform: false,
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
                change = self.watch.changed(), if !ended => {
                    let was_known = self.child_is_terraform;
                    self.child_is_terraform = was_known || self.child_holds_log();
                    // Its own log, opened for the first time by a child that is Terraform itself, needs no look around.
                    if change.opened && self.child_is_terraform == was_known {
                        let tree = self.look();
                        self.releaser.note(&tree);
                        if !self.child_is_terraform {
                            self.others.remember(&tree, self.journal.child.as_ref());
                        }
                    }
                    self.read_log();
                    self.read_output();
                    if change.opened {
                        self.handle(Event::TerraformStarted);
                    }
                }
                () = sleep_until(timer) => self.time_passed(),
                () = sleep_until(self.annotator.next()), if !ended => self.annotate(),
            }
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

    /// Reads what Terraform has said so far, in which it may already have reported an interrupt, and what it will say.
    fn follow_output(&mut self) {
        for path in [self.job.session.stdout(), self.job.session.stderr()] {
            if let Ok(follow) = Follow::open(&path) {
                self.watch.add(&path);
                self.output.push((follow, InterruptScanner::default()));
            }
        }
        self.read_output();
    }

    fn read_output(&mut self) {
        let mut received = false;
        for (follow, scanner) in &mut self.output {
            follow.read(|chunk| {
                let found = scanner.feed(chunk);
                received |= found.received;
                self.interrupted_twice |= found.twice;
            });
        }
        if received {
            self.handle(Event::InterruptReported);
        }
    }

    fn read_log(&mut self) {
        let mut facts = Vec::new();
        self.log.read(|chunk| facts.extend(self.observer.feed(chunk, Timestamp::now())));
        self.learn(facts);
    }

    fn learn(&mut self, facts: Vec<Fact>) {
        if facts.is_empty() {
            return;
        }
        for fact in facts {
            match fact {
                Fact::Lock(entry) => self.lock_changed(&entry),
                Fact::Trace(entry) => self.trace_changed(&entry),
                Fact::Refused(refused) => trouble(&mut self.journal.account, refused.to_string()),
                Fact::Phase(phase) => self.phase_changed(phase),
                Fact::CoreStopped => self.handle(Event::InterruptReported),
            }
        }
        self.write_journal();
    }

    fn phase_changed(&mut self, phase: Phase) {
        self.journal.account.phase = phase;
        self.handle(Event::PhaseChanged(phase));
    }

    fn lock_changed(&mut self, entry: &observe::Entry) {
        // The backend is read now: at the end the directory may be gone.
        let Located { places, settings } = self.locate(&entry.claim);
        if self.job.annotate {
            self.annotator.note_lock(entry);
        }
        let locks = &mut self.journal.account.locks;
        if let Some(lock) = locks.iter_mut().find(|lock| lock.claim == entry.claim) {
            (lock.stage, lock.grade, lock.places, lock.settings) = (entry.stage, entry.grade, places, settings);
            return;
        }
        locks.push(LockAccount::new(entry, places, settings));
    }

    fn locate(&mut self, claim: &crate::lock::LockClaim) -> Located {
        let before = self.journal.account.locks.iter().find(|lock| lock.claim == *claim);
        let before = before.map(|lock| Located { places: lock.places.clone(), settings: lock.settings.clone() });
        self.locate_again(claim, before.unwrap_or_default())
    }

    fn locate_again(&mut self, claim: &crate::lock::LockClaim, before: Located) -> Located {
        let child = self.journal.child;
        let started = Started {
            command: &self.job.command,
            env: &self.job.env,
            terraform: child.map(|child| child.id).filter(|_| self.child_is_terraform),
        };
        let look = || Tree::look(child.as_ref(), &self.log.file);
        self.releaser.locate(claim, before, started, look)
    }

    fn child_holds_log(&self) -> bool {
        self.journal.child.is_some_and(|child| is_terraform(child.id, &self.log.file))
    }

    fn child_ended(&mut self, ending: Ending) {
        self.annotator.stop();
        // What a dead supervisor wrote down before it is better known.
        self.journal.account.ending.get_or_insert(ending);
        self.write_journal();
        // A script's exit code says nothing of how the Terraforms it ran ended, but it ended them in its own way.
        self.handle(Event::ChildEnded { unclean: ending.is_unclean() });
    }

    async fn act(&mut self, action: Action) -> Option<Finish> {
        match action {
            Action::Interrupt => self.interrupt(),
            Action::InterruptNewcomers => self.interrupt_processes(),
            Action::NoteInterrupt => self.note_interrupt(),
            Action::Kill => self.kill(),
            Action::ReadLog => self.log_ended(),
            Action::Inspect => {
                let alive = !self.look().is_gone();
                self.handle(Event::Inspected { alive });
            }
            Action::Release => self.release().await,
            Action::Finish(finish) => return Some(finish),
        }
        None
    }

    fn look(&self) -> Tree {
        Tree::look(self.journal.child.as_ref(), &self.log.file)
    }

    fn interrupt(&mut self) {
        self.journal.account.interrupt = Some(Interrupt { at: Timestamp::now(), by: InterruptedBy::Tfguard });
        self.interrupt_processes();
        let grace = describe(self.machine.grace());
        tracing::info!("{} interrupted; it has {grace} to end gracefully", self.journal.account.program);
    }

    /// The journal first: should tfguard be killed between the two, nobody sends a second interrupt.
    fn interrupt_processes(&mut self) {
        let child = self.journal.child.map(|child| child.id);
        match targets(&self.look(), child, &self.journal.interrupted) {
            Targets::Processes(processes) if processes.is_empty() => {}
            Targets::Processes(processes) => {
                self.journal.interrupted.processes.extend(&processes);
                self.write_journal();
                for process in processes {
                    let sent = process.signal(Signal::SIGINT);
                    tracing::debug!("SIGINT to process {}{}", process.pid, if sent { "" } else { ": it is gone" });
                }
            }
            Targets::Group => {
                let Some(child) = child.filter(|child| child.is_alive()) else { return };
                self.journal.interrupted.all_started_until = Some(ticks_since_boot());
                self.write_journal();
                if let Err(error) = nix::sys::signal::killpg(Pid::from_raw(child.pid), Signal::SIGINT) {
                    tracing::debug!("SIGINT to group {}: {error}", child.pid);
                }
            }
        }
    }

    fn note_interrupt(&mut self) {
        if self.journal.account.interrupt.is_none() {
            self.journal.account.interrupt = Some(Interrupt { at: Timestamp::now(), by: InterruptedBy::SomebodyElse });
            let grace = describe(self.machine.grace());
            tracing::info!(
                "{} was interrupted already, so it is not interrupted again; it has {grace} to end gracefully",
                self.journal.account.program
            );
        }
        self.journal.interrupted.all_started_until = Some(ticks_since_boot());
        self.write_journal();
    }

    fn kill(&mut self) {
        let child = self.journal.child.map(|child| child.id);
        let tree = self.look();
        if self.journal.account.ending.is_none() && self.journal.account.killed.is_none() {
            tracing::warn!(
                "{} has not ended within its grace of {}: killing it",
                self.journal.account.program,
                describe(self.machine.grace())
            );
            self.journal.account.killed = Some(Timestamp::now());
            self.write_journal();
        }
        // All at once first, so that nobody starts somebody meanwhile.
        if let Some(child) = child.filter(|child| child.is_alive()) {
            let _ = nix::sys::signal::killpg(Pid::from_raw(child.pid), Signal::SIGKILL);
        }
        for survivor in tree.survivors {
            let _ = survivor.id.signal(Signal::SIGKILL);
        }
    }

    fn log_ended(&mut self) {
        self.read_log();
        let facts = self.observer.finish(Timestamp::now());
        self.learn(facts);
        self.follow_output_to_its_end();
        self.suspect();
        let locks_left = !self.left().is_empty()
            || !self.traces_left().is_empty()
            || self.may_be_unlogged()
            || self.others.is_suspected();
        self.handle(Event::LogRead { locks_left, orphaned: locks_left && self.is_orphaned() });
    }

    fn suspect(&mut self) {
        let end = End {
            ending: self.journal.account.ending,
            is_terraform: self.child_is_terraform,
            started: self.journal.account.started,
            under_lock: self.observer.under_lock(),
        };
        let mut others = std::mem::take(&mut self.others);
        let messages = others.suspect(end, &self.job.command, &self.job.env, || {
            if self.output.is_empty() {
                self.follow_output();
            }
            self.read_output();
            self.interrupted_twice
        });
        self.others = others;
        for message in messages {
            trouble(&mut self.journal.account, message);
        }
    }

    async fn release_on_other_backends(&mut self) {
        if !self.others.is_suspected() {
            return;
        }
        let ended = self.journal.account.ending.and_then(Ending::at).unwrap_or_else(Timestamp::now);
        let permission = Permission { evidence: self.job.evidence, on_death: self.job.on_death };
        tokio::time::sleep(IN_FLIGHT).await;
        self.journal.account.other_locks = self.others.look_after(ended, permission).await;
        self.write_journal();
    }

    /// A script ended, and no Terraform of it is alive: the orphans of one that died over its lock (a local command, a
    /// provider) are nobody's any more. Of an orderly Terraform's own end this is not said: what lives then may have been
    /// left on purpose.
    fn is_orphaned(&self) -> bool {
        let tree = self.look();
        !self.child_is_terraform && !tree.hidden && tree.terraforms().next().is_none()
    }

    /// A forced exit after two interrupts leaves requests on their way, and only the output tells of it. It is
    /// read only where it matters: it may be large.
    fn follow_output_to_its_end(&mut self) {
        let exited_zero = matches!(self.journal.account.ending, Some(Ending::Exited { code: 0, .. }));
        if self.output.is_empty() && !exited_zero && !self.left().is_empty() {
            self.follow_output();
        } else {
            self.read_output();
        }
    }

    fn observed_ending(&self) -> observe::Ending {
        let ending = self.journal.account.ending;
        let own_end = self.child_is_terraform && !ending.is_none_or(Ending::is_unclean);
        observe::Ending {
            exited_zero: own_end && matches!(ending, Some(Ending::Exited { code: 0, .. })),
            by_signal_or_kill: !own_end || self.interrupted_twice,
        }
    }

    fn left(&self) -> Vec<observe::Leftover> {
        match self.observer.verdict(self.observed_ending()) {
            Verdict::Left(left) => left,
            Verdict::NoLocks | Verdict::Released => Vec::new(),
        }
    }

    /// All at once: each may take its time, and a CI does not give much.
    async fn release(&mut self) {
        let unclean = self.journal.account.ending.is_none_or(Ending::is_unclean);
        let mut left = self.left();
        self.identify_traces(&mut left).await;
        if self.may_be_unlogged() {
            self.look_for_unlogged(&mut left).await;
        }
        let located: Vec<_> = left.iter().map(|leftover| self.locate(&leftover.entry.claim)).collect();
        let (job, releaser) = (self.job, &self.releaser);
        let outcomes = join_all(left.iter().map(async |leftover| {
            if job.on_death.keeps(&leftover.entry.claim) {
                (LockOutcome::Kept, Vec::new())
            } else {
                releaser.release(leftover, unclean, job.unconditional).await
            }
        }))
        .await;
        for ((leftover, located), (outcome, halves)) in left.iter().zip(located).zip(outcomes) {
            if let Some(lock) = self.lock(&leftover.entry.claim) {
                (lock.places, lock.settings) = (located.places, located.settings);
                lock.outcome = Some(outcome);
                lock.halves = halves;
            }
        }
        self.write_journal();
        self.release_on_other_backends().await;
        states::look(&mut self.journal.account, &self.releaser).await;
        self.write_journal();
        self.handle(Event::ReleaseEnded);
    }

    fn lock(&mut self, claim: &crate::lock::LockClaim) -> Option<&mut LockAccount> {
        self.journal.account.locks.iter_mut().find(|lock| lock.claim == *claim)
    }

    fn finish(mut self, finish: Finish) -> Account {
        if finish == Finish::Alive {
            let tree = self.look();
            let mut alive: Vec<_> =
                tree.survivors.iter().map(|found| format!("{} ({})", found.name, found.id.pid)).collect();
            if alive.is_empty() {
                alive.push("one that cannot be seen from here".to_owned());
            }
            // Never empty here: a journal that ended without survivors says that everything of the run is gone.
            self.journal.account.survivors.clone_from(&alive);
            let who = alive.join(", ");
            for leftover in self.left() {
                if let Some(lock) = self.lock(&leftover.entry.claim) {
                    lock.outcome = Some(LockOutcome::Left(format!("a process of this run may still be alive: {who}")));
                }
            }
            for trace in self.journal.account.traces.iter_mut().filter(|trace| trace.entry.stage != Stage::Unlocked) {
                trace.outcome = Some(LockOutcome::Left(format!("a process of this run may still be alive: {who}")));
            }
            if self.may_be_unlogged() {
                let what =
                    format!("a lock that no log names may be left, and a process of this run may be alive: {who}");
                trouble(&mut self.journal.account, what);
            }
            self.journal.account.other_locks =
                self.others.not_looked(&format!("a process of this run may still be alive: {who}"));
        }
        let account = &mut self.journal.account;
        account.ending.get_or_insert(Ending::StillAlive);
        let known = self.observer.ledger().entries();
        for lock in account.locks.iter_mut().filter(|lock| lock.outcome.is_none()) {
            // A supervisor that is dead learned of it, and what it learned from is lost.
            let lost = lock.stage != Stage::Unlocked && !known.iter().any(|entry| entry.claim == lock.claim);
            lock.outcome = Some(if lost {
                LockOutcome::Left(
                    "Terraform's log, which would tell whether it was released, cannot be read".to_owned(),
                )
            } else {
                LockOutcome::Unlocked
            });
        }
        for trace in &mut account.traces {
            trace.outcome.get_or_insert(LockOutcome::Unlocked);
        }
        account.ended = Some(Timestamp::now());
        self.write_journal();
        self.journal.account
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
