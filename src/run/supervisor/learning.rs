//! What the supervisor learns while the child runs: from Terraform's log, and from what it prints.

use jiff::Timestamp;

use crate::machine::Event;
use crate::model;
use crate::model::{LockAccount, LockClaim, Phase, Product, Requested, StopRequest};
use crate::observe::{Fact, InterruptScanner};
use crate::run::child;
use crate::run::follow::Follow;
use crate::run::release::{Located, Started};
use crate::run::supervisor::{Supervisor, trouble};
use crate::session::{SessionFile, Tree, is_terraform};
use crate::terraform::minor;

/// How much of the output of what runs Terraforms is looked at for what they said when the stop was requested.
const JUST_SAID: u64 = 4 * 1024;
/// How much of the log is read before the supervisor looks at its other tasks: some dozens of records, each of which may have
/// it look where a lock is.
const PIECE: u64 = 16 * 1024;

impl Supervisor<'_> {
    /// Reads what Terraform has said so far, in which it may already have reported an interrupt, and what it will say.
    ///
    /// Of what runs Terraforms, what was said before a request may be of one that its own `timeout` interrupted, unless
    /// everybody is being signalled. Then the end of it counts: they may have had their turn before tfguard.
    pub(crate) fn follow_output(&mut self) {
        let just_said = if self.is_everybody_signalled() { JUST_SAID } else { 0 };
        for spool in [SessionFile::Stdout, SessionFile::Stderr] {
            let Ok(file) = self.job.session.open_file(spool) else { continue };
            let end = file.metadata().map_or(0, |file| file.len());
            let from = if self.inner.is_some() { end.saturating_sub(just_said) } else { 0 };
            if let Ok(follow) = Follow::new(file, from) {
                self.watch.add(&self.job.session.path_of(spool));
                self.output.push((follow, InterruptScanner::new(self.inner.is_some())));
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
        let (mut received, before) = (false, self.interrupted_twice);
        for (follow, scanner) in &mut self.output {
            follow.read_on(|chunk| {
                let found = scanner.feed(chunk);
                received |= found.received;
                self.interrupted_twice |= found.twice;
            });
        }
        if received {
            self.handle(Event::InterruptReported);
        }
        if self.interrupted_twice && !before {
            let what = "Terraform was interrupted twice, not both times by tfguard, and drops its work: its state may lack \
                        what it was doing";
            trouble(&mut self.journal.account, what.to_owned());
        }
    }

    pub(crate) fn read_log(&mut self) {
        while self.read_some_log() {}
    }

    /// Reads a piece of the log. Whether there is more: what a stop needs must not wait for all that somebody may have
    /// written there.
    pub(crate) fn read_some_log(&mut self) -> bool {
        let mut facts = Vec::new();
        let more = self.log.read_some(PIECE, |chunk| facts.extend(self.observer.feed(chunk, Timestamp::now())));
        self.learn(facts);
        self.note_undumped();
        more
    }

    /// Says of a Terraform before 1.6 whose environment does not ask for DEBUG that its log does not tell its lock.
    fn note_undumped(&mut self) {
        let (Some(intent), Some((Product::Terraform, version))) = (&self.journal.intent, self.observer.product())
        else {
            return;
        };
        let is_old = minor(version).is_some_and(|minor| ((1, 0)..(1, 6)).contains(&minor));
        if !is_old || intent.debug || !intent.logs || intent.places.is_empty() {
            return;
        }
        let why = match child::log_variables_of_user(&self.job.env).join(", ") {
            none if none.is_empty() => "its directory was initialised by a later one".to_owned(),
            set => format!("{set} is set, and it logs its requests only at DEBUG"),
        };
        let what = format!(
            "tfguard cannot learn the lock of Terraform {version}: {why}. Set TF_LOG=debug, or unset all of them"
        );
        trouble(&mut self.journal.account, what);
    }

    pub(crate) fn learn(&mut self, facts: Vec<Fact>) {
        if facts.is_empty() {
            return;
        }
        for fact in facts {
            match fact {
                Fact::Lock(entry) => self.lock_changed(&entry),
                Fact::Trace(entry) => self.trace_changed(&entry),
                Fact::Refused(refused) => trouble(&mut self.journal.account, refused.to_string()),
                Fact::Phase(phase) => self.phase_changed(phase),
                Fact::CoreStopped { alone } => {
                    // Of several, one after the other or at once, only the output tells which. Where everybody is signalled,
                    // it does not matter; on a terminal there is no output to be read, and its keys signal them all.
                    let is_childs = alone && self.inner.is_none();
                    if is_childs || self.output_is_unseen() || self.is_everybody_signalled() {
                        self.handle(Event::InterruptReported);
                    }
                    self.somebody_stopped = true;
                }
                Fact::Unlearned => trouble(
                    &mut self.journal.account,
                    "this is a Terraform before 1.0: tfguard learns none of its locks, and so releases none".to_owned(),
                ),
            }
        }
        self.write_journal();
    }

    pub(crate) fn phase_changed(&mut self, phase: Phase) {
        self.journal.account.phase = phase;
        self.handle(Event::PhaseChanged(phase));
    }

    pub(crate) fn lock_changed(&mut self, entry: &model::Entry) {
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

    pub(crate) fn locate(&mut self, claim: &LockClaim) -> Located {
        let before = self.journal.account.locks.iter().find(|lock| lock.claim == *claim);
        let before = before.map(|lock| Located { places: lock.places.clone(), settings: lock.settings.clone() });
        self.locate_again(claim, before.unwrap_or_default())
    }

    pub(crate) fn locate_again(&mut self, claim: &LockClaim, before: Located) -> Located {
        let child = self.journal.child;
        let started = Started {
            command: &self.job.command,
            directory: &self.job.directory,
            env: &self.job.env,
            asked: self.observer.asked(),
            child: child.map(|child| child.id),
            is_terraform: self.child_is_terraform,
        };
        let look = || Tree::look(child.as_ref(), self.log.file());
        self.releaser.locate(claim, before, started, look)
    }

    pub(crate) fn child_holds_log(&self) -> bool {
        self.journal.child.is_some_and(|child| is_terraform(child.id, self.log.file()))
    }
}
