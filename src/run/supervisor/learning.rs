//! What the supervisor learns while the child runs: from Terraform's log, and from what it prints.

use std::path::PathBuf;

use jiff::Timestamp;

use super::{Follow, Supervisor, trouble};
use crate::lock::LockClaim;
use crate::observe::{self, Fact, InterruptScanner, Phase};
use crate::report::LockAccount;
use crate::run::machine::Event;
use crate::run::release::{Located, Started};
use crate::session::{ProcessId, Tree, is_terraform};

impl Supervisor<'_> {
    /// Reads what Terraform has said so far, in which it may already have reported an interrupt, and what it will say.
    pub(super) fn follow_output(&mut self) {
        for (path, from) in self.spools().into_iter().zip(self.said_by_others) {
            if let Ok(follow) = Follow::open(&path, from) {
                self.watch.add(&path);
                self.output.push((follow, InterruptScanner::default()));
            }
        }
        self.read_output();
    }

    fn spools(&self) -> [PathBuf; 2] {
        [self.job.session.stdout(), self.job.session.stderr()]
    }

    /// Below a script a Terraform has just started; whether no other lives. Then what the script's output says of
    /// interrupts up to now is of those that are gone.
    pub(super) fn only_new(&mut self, tree: &Tree) -> bool {
        let alive: Vec<ProcessId> = tree.terraforms().map(|found| found.id).collect();
        // Before the first one nobody was there to be interrupted.
        let others_were = !self.seen.is_empty() && !alive.is_empty();
        let only_new = others_were && !alive.iter().any(|id| self.seen.contains(id));
        self.seen = alive;
        if only_new {
            self.said_by_others = self.spools().map(|path| path.metadata().map_or(0, |file| file.len()));
        }
        only_new
    }

    pub(super) fn read_output(&mut self) {
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

    pub(super) fn read_log(&mut self) {
        let mut facts = Vec::new();
        self.log.read(|chunk| facts.extend(self.observer.feed(chunk, Timestamp::now())));
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
        let look = || Tree::look(child.as_ref(), &self.log.file);
        self.releaser.locate(claim, before, started, look)
    }

    pub(super) fn child_holds_log(&self) -> bool {
        self.journal.child.is_some_and(|child| is_terraform(child.id, &self.log.file))
    }
}
