//! What the supervisor learns while the child runs: from Terraform's log, and from what it prints.

use std::fs::File;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::machine::Event;
use crate::model::{
    ChildRecord, Entry, Holder, LockAccount, LockId, Phase, Product, Requested, Stage, StopRequest, Subject,
    TraceAccount, TraceEntry,
};
use crate::observe::{Fact, InterruptScanner, Observer};
use crate::run::follow::Follow;
use crate::run::inner::may_pass;
use crate::run::job::{Job, expectations};
use crate::run::locks::annotate::write_holder;
use crate::run::locks::locate::Started;
use crate::run::supervisor::Supervisor;
use crate::session::{Journal, SessionFile, is_terraform};
use crate::terraform;
use crate::terraform::minor;

/// How much of the output of what runs Terraforms is looked at for what they said when the stop was requested.
const JUST_SAID: u64 = 4 * 1024;
/// How much of the output is read at once for what it says of resources.
const PIECE_OF_OUTPUT: u64 = 256 * 1024;
/// How long after it grew that is done. Nobody waits for it.
const READ_OUTPUT_AFTER: Duration = Duration::from_secs(1);
/// How much of the log is read before the supervisor looks at its other tasks: some dozens of records, each of which may have
/// it look where a lock is.
const PIECE: u64 = 16 * 1024;
/// The most pieces that are read before an interrupt: 16 MB, which takes a fraction of a second.
const MOST_PIECES: usize = 1024;

/// Terraform's log, and what it tells.
#[derive(Debug)]
pub(crate) struct Log {
    file: Follow,
    pub(crate) observer: Observer,
    /// Everything is over, and it was read to its end.
    pub(crate) is_read: bool,
    /// There is more in it than was read.
    pub(crate) has_more: bool,
    /// The child is Terraform itself: it was seen to have the log open.
    pub(crate) child_is_terraform: bool,
}

impl Log {
    /// # Errors
    /// When there is no descriptor for it.
    pub(crate) fn open(job: &Job, journal: &Journal) -> io::Result<Self> {
        let file = journal.open_log(&job.session).or_else(|error| {
            if may_pass(&error) {
                return Err(error);
            }
            tracing::error!("cannot read Terraform's log, so its lock and whether it lives will not be known: {error}");
            File::open("/dev/null")
        })?;
        Ok(Self {
            file: Follow::from_the_start(file),
            observer: Observer::new(job.believed(journal.intent.as_ref()), expectations(journal)),
            is_read: false,
            has_more: false,
            child_is_terraform: false,
        })
    }

    pub(crate) fn file(&self) -> &File {
        self.file.file()
    }

    /// The command, as far as it tells where a lock lives.
    pub(crate) fn started<'s>(&'s self, job: &'s Job, child: Option<ChildRecord>) -> Started<'s> {
        Started {
            job,
            asked: self.observer.asked(),
            child: child.map(|child| (child, self.file())),
            is_terraform: self.child_is_terraform,
        }
    }

    fn read_some(&mut self, most: u64) -> Vec<Fact> {
        let mut facts = Vec::new();
        self.has_more = self.file.read_some(most, |chunk| facts.extend(self.observer.feed(chunk, Timestamp::now())));
        facts
    }
}

/// What the child prints.
#[derive(Debug)]
pub(crate) struct Printed {
    /// Both streams, followed only once a stop is requested: until then nobody needs to know of interrupts.
    streams: Vec<(Follow, InterruptScanner)>,
    /// Terraform said that it was interrupted a second time, and gives up.
    pub(crate) twice: bool,
    /// Stdout, read from its start for what it says of resources. None where that is not done.
    resources: Option<Follow>,
    /// When to read on there. None until it grows.
    resources_due: Option<Instant>,
    /// There is more of it than was read.
    pub(crate) has_more: bool,
    /// It can't be read on.
    pub(crate) has_failed: bool,
}

impl Printed {
    pub(crate) fn of(job: &Job, runs_guards: bool) -> Self {
        // Of several Terraforms, each has a guard of its own, or nobody can tell whose a line is.
        let stdout = if runs_guards { None } else { job.session.open_file(SessionFile::Stdout).ok() };
        let resources = stdout.map(Follow::from_the_start);
        Self { streams: Vec::new(), twice: false, resources, resources_due: None, has_more: false, has_failed: false }
    }

    /// Whether the output is read for what it says of resources.
    pub(crate) fn tells_resources(&self) -> bool {
        self.resources.is_some()
    }

    /// When to read on what is said of resources, unless there is more of it already.
    pub(crate) fn resources_due(&self) -> Option<Instant> {
        self.resources_due.filter(|_| !self.has_more)
    }

    /// Something was printed, or may have been.
    pub(crate) fn note_growth(&mut self) {
        if self.resources.is_some() {
            self.resources_due.get_or_insert_with(|| Instant::now() + READ_OUTPUT_AFTER);
        }
    }

    /// Whether there is more of what is said of resources than was read.
    fn has_grown(&self) -> bool {
        let length = |follow: &Follow| follow.file().metadata().map_or(0, |file| file.len());
        self.resources.as_ref().is_some_and(|follow| length(follow) != follow.position())
    }

    /// Reads a piece of what is said of resources.
    fn read_resources(&mut self, take: impl FnMut(&[u8])) {
        let Some(follow) = &mut self.resources else { return };
        self.resources_due = None;
        match follow.try_read_some(PIECE_OF_OUTPUT, take) {
            Ok(has_more) => self.has_more = has_more,
            Err(error) => {
                tracing::warn!("cannot read on what Terraform says of its resources: {error}");
                (self.resources, self.has_more, self.has_failed) = (None, false, true);
            }
        }
    }

    pub(crate) fn is_followed(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Reads on. Whether Terraform said that it was interrupted.
    fn read(&mut self) -> bool {
        let mut received = false;
        for (follow, scanner) in &mut self.streams {
            follow.read_some(u64::MAX, |chunk| {
                let found = scanner.feed(chunk);
                received |= found.received;
                self.twice |= found.twice;
            });
        }
        received
    }
}

impl Supervisor<'_> {
    /// Reads what Terraform has said so far, in which it may already have reported an interrupt, and what it will say.
    ///
    /// Of what runs Terraforms, what was said before a request may be of one that its own `timeout` interrupted, unless
    /// everybody is being signalled. Then the end of it counts: they may have had their turn before tfguard.
    pub(crate) fn follow_output(&mut self) {
        let just_said = if self.is_everybody_signalled() { JUST_SAID } else { 0 };
        self.printed.streams.clear();
        for spool in [SessionFile::Stdout, SessionFile::Stderr] {
            let Ok(file) = self.job.session.open_file(spool) else { continue };
            let end = file.metadata().map_or(0, |file| file.len());
            let from = if self.runs_guards { end.saturating_sub(just_said) } else { 0 };
            if let Ok(follow) = Follow::new(file, from) {
                self.watch.add(&self.job.session.path_of(spool));
                self.printed.streams.push((follow, InterruptScanner::new(self.runs_guards)));
            }
        }
        self.read_output();
    }

    /// Whether the child writes to a terminal, and not to the spool.
    fn output_is_unseen(&self) -> bool {
        !self.job.session.path_of(SessionFile::Stdout).exists()
    }

    pub(crate) fn is_everybody_signalled(&self) -> bool {
        let everybody = |asked: &Requested| matches!(asked.request, StopRequest::Signal { everybody: true, .. });
        self.journal.account.requests.iter().any(everybody)
    }

    pub(crate) fn read_output(&mut self) {
        let before = self.printed.twice;
        if self.printed.read() {
            self.handle(Event::InterruptReported);
        }
        if self.printed.twice && !before {
            self.trouble(
                "Terraform was interrupted twice, at least once by somebody else, and aborts: its state may lack what it \
                 was doing",
            );
        }
    }

    /// Reads a piece of what Terraform says of its resources.
    pub(crate) fn read_resources(&mut self) {
        self.printed.read_resources(|chunk| self.log.observer.resources.feed(chunk));
        if !self.printed.has_more && self.printed.tells_resources() && !self.printed.is_followed() {
            self.watch.add_once(&self.job.session.path_of(SessionFile::Stdout));
        }
        // Since it was read, and before it was watched again.
        if self.printed.has_grown() {
            self.printed.note_growth();
        }
    }

    /// Reads the log to where its end is now: what something adds meanwhile is left, or a flood would never end.
    pub(crate) fn read_log(&mut self) {
        let end = self.log.file().metadata().map_or(0, |log| log.len());
        loop {
            // Not beyond it: there a write ended, and so a record. What was emptied is read from its start.
            match end.saturating_sub(self.log.file.position()) {
                0 => self.read_some_log(),
                left => self.read_piece_of_log(PIECE.min(left)),
            }
            if !self.log.has_more || self.log.file.position() >= end {
                return;
            }
        }
    }

    /// Reads a piece of the log: what a stop needs must not wait for all that somebody may have written there.
    pub(crate) fn read_some_log(&mut self) {
        self.read_piece_of_log(PIECE);
    }

    fn read_piece_of_log(&mut self, most: u64) {
        let facts = self.log.read_some(most);
        self.learn(facts);
        self.note_missing_debug();
        self.note_unleased();
    }

    /// Reads what was said up to now, right before the interrupt is sent. A supervisor that had no turn for a while (a busy
    /// machine, SIGSTOP) would otherwise send a second one to who has reported the first meanwhile.
    pub(crate) fn look_once_more(&mut self) {
        self.read_output();
        for _ in 0..MOST_PIECES {
            self.read_some_log();
            if !self.log.has_more {
                break;
            }
        }
    }

    /// Says of a Terraform before 1.6 whose environment does not ask for DEBUG that its log does not tell its lock.
    fn note_missing_debug(&mut self) {
        let (Some(intent), Some((Product::Terraform, version))) = (&self.journal.intent, self.log.observer.product())
        else {
            return;
        };
        let is_old = minor(version).is_some_and(|minor| ((1, 0)..(1, 6)).contains(&minor));
        if !is_old || intent.debug || !intent.logs || intent.places.is_empty() {
            return;
        }
        let why = match terraform::log_variables_of_user(&self.job.env).join(", ") {
            none if none.is_empty() => "its directory was initialised by a later one".to_owned(),
            set => format!("{set} is set, and it logs its requests only at DEBUG"),
        };
        self.trouble(format!(
            "tfguard cannot learn the lock of Terraform {version}: {why}. Set TF_LOG=debug, or unset all of them"
        ));
    }

    pub(crate) fn learn(&mut self, facts: Vec<Fact>) {
        if facts.is_empty() {
            return;
        }
        for fact in facts {
            match fact {
                Fact::Lock(entry) => self.lock_changed(&entry),
                Fact::Trace(entry) => self.trace_changed(&entry),
                Fact::Refused(refused) => self.trouble(refused.to_string()),
                Fact::Phase(phase) => self.phase_changed(phase),
                Fact::CoreStopped { alone } => {
                    // Of several, one after the other or at once, only the output tells which. Where everybody is signalled,
                    // it does not matter; on a terminal there is no output to be read, and its keys signal them all.
                    let is_childs = alone && !self.runs_guards;
                    if is_childs || self.output_is_unseen() || self.is_everybody_signalled() {
                        self.handle(Event::InterruptReported);
                    }
                    self.somebody_stopped = true;
                }
                Fact::Unlearned => self
                    .trouble("this is a Terraform before 1.0: tfguard learns none of its locks, and so releases none"),
            }
        }
        self.write_journal();
    }

    pub(crate) fn phase_changed(&mut self, phase: Phase) {
        self.journal.account.phase = phase;
        self.handle(Event::PhaseChanged(phase));
    }

    fn lock_changed(&mut self, entry: &Entry) {
        let locks = &mut self.journal.account.locks;
        let known = locks.iter().position(|lock| lock.claim == entry.claim).unwrap_or_else(|| {
            locks.push(LockAccount::new(entry, Vec::new(), None));
            locks.len() - 1
        });
        let lock = &mut locks[known];
        (lock.stage, lock.grade) = (entry.stage, entry.grade);
        // The backend is read now: at the end the directory may be gone.
        let started = self.log.started(self.job, self.journal.child);
        self.locator.locate(&lock.claim, &mut lock.places, &mut lock.settings, started);
        self.note_stage(&Subject::Lock(entry.claim.clone()), entry.stage);
    }

    fn trace_changed(&mut self, entry: &TraceEntry) {
        let traces = &mut self.journal.account.traces;
        let known = traces.iter().position(|known| known.entry.trace.is_of(&entry.trace)).unwrap_or_else(|| {
            let (entry, places) = (entry.clone(), Vec::new());
            traces.push(TraceAccount { entry, places, settings: None, outcome: None, holder: None });
            traces.len() - 1
        });
        let known = &mut traces[known];
        known.entry = entry.clone();
        let started = self.log.started(self.job, self.journal.child);
        self.locator.locate(&entry.trace.without_id(), &mut known.places, &mut known.settings, started);
        self.note_stage(&Subject::Trace(entry.trace.clone()), entry.stage);
    }

    /// Notes how far a lock has come whose backend was looked up, where something is written beside it.
    fn note_stage(&mut self, lock: &Subject, stage: Stage) {
        if !self.job.locks.no_annotate {
            let write = || match self.locator.backend(&lock.claim()) {
                Ok(backend) => {
                    let holder = record(self.job, &self.journal, lock.claim().id);
                    Some(write_holder(lock.clone(), backend.clone(), holder))
                }
                Err(why) => {
                    tracing::debug!("the holder is not written beside the lock: {why}");
                    None
                }
            };
            self.annotator.note(lock, stage, write);
        }
        let why = self.leases.note(lock, stage, self.locator.backend(&lock.claim()));
        why.into_iter().for_each(|why| self.trouble(why));
    }

    pub(crate) fn child_holds_log(&self) -> bool {
        self.journal.child.is_some_and(|child| is_terraform(child.id, self.log.file()))
    }
}

/// What is written beside a lock of the run.
pub(crate) fn record(job: &Job, journal: &Journal, lock: LockId) -> Holder {
    Holder::of_session(journal, job.session.path(), lock).with_environment(&job.env)
}
