//! What the supervisor learns while the child runs: from Terraform's log, and from what it prints.

use std::ffi::OsStr;
use std::path::PathBuf;

use jiff::Timestamp;

use super::redirected::Redirected;
use super::{Supervisor, trouble};
use crate::lock::LockClaim;
use crate::observe::{self, Fact, InterruptScanner, Phase};
use crate::report::LockAccount;
use crate::run::child::LOG_FILES;
use crate::run::follow::Follow;
use crate::run::machine::Event;
use crate::run::release::{Located, Started};
use crate::run::terraforms::process_surroundings;
use crate::run::watch::Change;
use crate::session::{ProcessId, SessionFile, Tree, identity_of, is_terraform};

/// How often is looked at most who has opened the log.
const LOOKS: u32 = 8;

impl Supervisor<'_> {
    /// Reads what Terraform has said so far, in which it may already have reported an interrupt, and what it will say.
    pub(super) fn follow_output(&mut self) {
        for (spool, from) in [SessionFile::Stdout, SessionFile::Stderr].into_iter().zip(self.said_by_others) {
            let session = &self.job.session;
            if let Ok(follow) = session.open_file(spool).and_then(|file| Follow::new(file, from)) {
                self.watch.add(&session.path_of(spool));
                self.output.push((follow, InterruptScanner::default()));
            }
        }
        for redirected in &self.redirected {
            self.watch.add(&redirected.path());
        }
        self.read_output();
    }

    pub(super) fn spools(&self) -> [PathBuf; 2] {
        [SessionFile::Stdout, SessionFile::Stderr].map(|file| self.job.session.path_of(file))
    }

    /// Looks who has opened the log. The kernel tells of it a moment before the opened file can be seen at the process,
    /// and on a busy machine that moment lasts: who was not seen is looked for again, a few times.
    ///
    /// `late`: a stop was requested, and who is found now may have said already that it was interrupted.
    pub(super) fn look_for_newcomers(&mut self, change: Change, late: bool) -> Option<Event> {
        if change.opened {
            self.looks_due = LOOKS;
        }
        let was_known = self.child_is_terraform;
        self.child_is_terraform = was_known || self.child_holds_log();
        if self.looks_due == 0 {
            return None;
        }
        // Its own log, opened for the first time by a child that is Terraform itself, needs no look around.
        if self.child_is_terraform != was_known {
            self.looks_due = 0;
            self.seen.extend(self.journal.child.map(|child| child.id));
            self.follow_redirected(late);
            return Some(Event::TerraformStarted { only_new: false });
        }
        let tree = self.look();
        self.releaser.note(&tree);
        self.note_unlogged(&tree);
        if !self.child_is_terraform {
            self.others.remember(&tree, self.journal.child.as_ref());
        }
        let alive: Vec<ProcessId> = tree.terraforms().map(|found| found.id).collect();
        let is_new = |id: &&ProcessId| !self.seen.contains(id);
        for id in alive.iter().filter(is_new) {
            tracing::debug!("process {} has opened the log", id.pid);
        }
        let any_new = alive.iter().any(|id| is_new(&id));
        // Before the first one nobody was there to be interrupted.
        let only_new = any_new && alive.iter().all(|id| is_new(&id)) && !self.seen.is_empty();
        if !alive.is_empty() {
            self.seen = alive;
        }
        if any_new {
            self.follow_redirected(late);
        }
        self.looks_due = if any_new { 0 } else { self.looks_due - 1 };
        if only_new {
            // What was said of interrupts before they came is of those that are gone.
            self.said_by_others = self.said;
        }
        Some(Event::TerraformStarted { only_new })
    }

    /// What Terraforms say of interrupts where a script sent their output to a file.
    fn follow_redirected(&mut self, late: bool) {
        self.redirected.retain(|redirected| redirected.process.is_alive());
        let spools: Vec<_> =
            self.spools().iter().filter_map(|path| path.metadata().ok()).map(|file| identity_of(&file)).collect();
        for process in &self.seen {
            if self.redirected.iter().any(|redirected| redirected.process == *process) {
                continue;
            }
            for found in Redirected::of(*process, late) {
                if spools.contains(&found.file) || self.redirected.iter().any(|known| known.file == found.file) {
                    continue;
                }
                if self.machine.first_request().is_some() {
                    self.watch.add(&found.path());
                }
                self.redirected.push(found);
            }
        }
    }

    /// One that a script gave a log of its own, or none, tells tfguard of no lock.
    pub(super) fn note_unlogged(&mut self, tree: &Tree) {
        let child = self.journal.child.map(|child| child.id);
        let log = self.job.session.log();
        let silent =
            tree.terraforms().filter(|found| !found.holds_log && Some(found.id) != child).map(|found| found.id);
        for process in silent.filter(|process| !self.unlogged.contains(process)).collect::<Vec<_>>() {
            // One that has just started has not opened its log yet.
            let will_log = process_surroundings(process).is_none_or(|(_, _, env)| {
                LOG_FILES.iter().any(|name| env.get(OsStr::new(name)).is_some_and(|path| *path == *log))
            });
            if !will_log {
                self.unlogged.push(process);
            }
        }
    }

    /// Whether who has opened the log was not seen yet. Without inotify it is looked for again anyway.
    pub(super) fn is_to_look_again(&self) -> bool {
        self.looks_due > 0 && self.watch.is_told()
    }

    pub(super) fn read_output(&mut self) {
        let mut received = false;
        let redirected = self.redirected.iter_mut().map(|redirected| (&mut redirected.follow, &mut redirected.scanner));
        let redirected = redirected.filter(|_| self.machine.first_request().is_some());
        for (follow, scanner) in self.output.iter_mut().map(|(follow, scanner)| (follow, scanner)).chain(redirected) {
            follow.read_on(|chunk| {
                let found = scanner.feed(chunk);
                received |= found.received;
                self.interrupted_twice |= found.twice;
            });
        }
        if received {
            self.handle(Event::InterruptReported);
        }
    }

    pub(super) fn read_log(&mut self) {
        let mut facts = Vec::new();
        self.log.read_on(|chunk| facts.extend(self.observer.feed(chunk, Timestamp::now())));
        self.learn(facts);
    }

    pub(super) fn learn(&mut self, facts: Vec<Fact>) {
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
                Fact::Unlearned => trouble(
                    &mut self.journal.account,
                    "this is a Terraform before 1.0: tfguard learns none of its locks, and so releases none".to_owned(),
                ),
            }
        }
        self.write_journal();
    }

    pub(super) fn phase_changed(&mut self, phase: Phase) {
        self.journal.account.phase = phase;
        self.handle(Event::PhaseChanged(phase));
    }

    pub(super) fn lock_changed(&mut self, entry: &observe::Entry) {
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

    pub(super) fn locate(&mut self, claim: &LockClaim) -> Located {
        let before = self.journal.account.locks.iter().find(|lock| lock.claim == *claim);
        let before = before.map(|lock| Located { places: lock.places.clone(), settings: lock.settings.clone() });
        self.locate_again(claim, before.unwrap_or_default())
    }

    pub(super) fn locate_again(&mut self, claim: &LockClaim, before: Located) -> Located {
        let child = self.journal.child;
        let started = Started {
            command: &self.job.command,
            env: &self.job.env,
            terraform: child.map(|child| child.id).filter(|_| self.child_is_terraform),
        };
        let look = || Tree::look(child.as_ref(), self.log.file());
        self.releaser.locate(claim, before, started, look)
    }

    pub(super) fn child_holds_log(&self) -> bool {
        self.journal.child.is_some_and(|child| is_terraform(child.id, self.log.file()))
    }
}
