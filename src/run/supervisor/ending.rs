//! What the supervisor does once the child is dead: reads the log to its end, and releases what is left.

use jiff::Timestamp;
use memchr::memmem;
use tokio::time::Instant;

use crate::machine::Event;
use crate::model::{Ending, Entry};
use crate::observe::Left;
use crate::run::locks::release::{IN_FLIGHT, Terms};
use crate::run::supervisor::Supervisor;
use crate::session::{SessionFile, Tree, is_log_held};
use crate::{files, observe};

/// How much of the end of the output is searched for what Go's runtime says of a crash, in bytes.
const LAST_WORDS: u64 = 64 * 1024;

impl Supervisor<'_> {
    /// How a Terraform ended, by more than its exit code. 11 is its own after a panic (`internal/logging/panic.go`). 2 is that
    /// of Go's runtime, which ends it at a fatal error, SIGQUIT or SIGABRT, and also that of a plan with changes: it was a
    /// crash if the log shows a lock that was not given back, or if the runtime wrote what its goroutines were doing.
    pub(crate) fn judge_ending(&mut self, ending: Ending) -> Ending {
        let Ending::Exited { code, at } = ending else { return ending };
        let crashed = match code {
            _ if self.runs_guards => false,
            2 => {
                let facts = self.log.observer.finish(Timestamp::now());
                self.learn(facts);
                let orderly = observe::Ending { exited_zero: true, by_signal_or_kill: false, unclean: false };
                !self.log.observer.left(orderly).is_empty()
                    || !self.log.observer.traces_left(orderly).is_empty()
                    || self.has_dumped_goroutines()
            }
            code => code == 11,
        };
        if crashed { Ending::Crashed { code, at } } else { ending }
    }

    fn has_dumped_goroutines(&self) -> bool {
        let begins = b"\ngoroutine ";
        let dumped = |text: Vec<u8>| {
            let mut places = memmem::find_iter(&text, begins);
            places.any(|at| text.get(at + begins.len()).is_some_and(u8::is_ascii_digit))
        };
        [SessionFile::Stdout, SessionFile::Stderr]
            .into_iter()
            .filter_map(|file| files::tail(&self.job.session.open_file(file).ok()?, LAST_WORDS).ok())
            .any(dumped)
    }

    pub(crate) fn log_ended(&mut self) {
        let again = std::mem::replace(&mut self.log.is_read, true);
        self.watch.close();
        self.read_log();
        let facts = self.log.observer.finish(Timestamp::now());
        self.learn(facts);
        self.follow_output_to_its_end();
        if !again {
            // Who has a guard of its own has accounted for itself.
            if self.inner.accounts().0.is_empty() {
                self.suspect();
            }
            // Where the place of its lock is known, that is looked at.
            let places = self.journal.intent.as_ref().is_some_and(|intent| !intent.places.is_empty());
            let is_looked_at = places && !self.runs_guards && self.may_be_unlogged();
            if !is_looked_at && self.others.suspect.is_none() {
                self.note_what_the_log_lacks();
            }
        }
        let killed = matches!(self.journal.account.ending, Some(Ending::Died { .. } | Ending::Crashed { .. }));
        let locks_left = self.holds_locks() || self.may_be_unlogged() || self.others.suspect.is_some();
        self.handle(Event::LogRead { locks_left, orphaned: locks_left && self.is_orphaned(), killed });
    }

    /// Whether a lock is held, as far as the log told up to now.
    pub(crate) fn holds_locks(&self) -> bool {
        !self.left().is_empty() || !self.traces_left().is_empty()
    }

    /// Whether a Terraform is alive; also one that cannot be seen from here.
    pub(crate) fn is_terraform_alive(&self, tree: &Tree) -> bool {
        tree.terraforms().next().is_some() || is_log_held(self.log.file()) == Some(true)
    }

    /// A script ended, and no Terraform of it is alive: the orphans of one that died over its lock (a local command, a
    /// provider) are nobody's any more. Of an orderly Terraform's own end this is not said: what lives then may have been
    /// left on purpose.
    pub(crate) fn is_orphaned(&self) -> bool {
        let tree = self.look();
        !self.log.child_is_terraform && !tree.hidden && tree.terraforms().next().is_none()
    }

    /// A forced exit after two interrupts leaves requests on their way, and only the output tells of it. It is
    /// read only where it matters: it may be large.
    pub(crate) fn follow_output_to_its_end(&mut self) {
        if !self.printed.is_followed() && !self.journal.account.has_succeeded() && !self.left().is_empty() {
            self.follow_output();
        } else {
            self.read_output();
        }
    }

    pub(crate) fn observed_ending(&self) -> observe::Ending {
        let account = &self.journal.account;
        let own_end = self.log.child_is_terraform && !account.has_died();
        observe::Ending {
            exited_zero: own_end && account.has_succeeded(),
            by_signal_or_kill: !own_end || self.printed.twice,
            unclean: account.has_died() || (!self.log.child_is_terraform && account.tells_of_signal()),
        }
    }

    pub(crate) fn left(&self) -> Vec<Left<Entry>> {
        self.log.observer.left(self.observed_ending())
    }

    pub(crate) async fn release(&mut self) {
        self.leases.end();
        let uploaded = Instant::now() + IN_FLIGHT;
        // A beat that is under way would put a lease beside a lock that is gone.
        self.leases.settle(IN_FLIGHT).await;
        let ending = self.observed_ending();
        let (mut left, traces) = (self.left(), self.traces_left());
        // What a supervisor that is dead saw is looked at again.
        self.journal.account.other_locks.drain(..std::mem::take(&mut self.others.before));
        let started = self.log.started(self.job, self.journal.child);
        self.locator.identify_traces(traces, &mut left, started, self.is_first, &mut self.journal).await;
        self.write_journal();
        if self.may_be_unlogged() {
            self.look_for_unlogged(&mut left).await;
        }
        // Also where it had ended before anybody saw that it was Terraform itself. A wrapper of that name may succeed over a dead
        // Terraform.
        let child = self.journal.child.map(|child| child.id);
        let is_terraform = !self.runs_guards && !self.locator.terraforms.has_others(child);
        let exited_zero = ending.exited_zero || (is_terraform && self.journal.account.has_succeeded());
        let terms = Terms { unclean: ending.by_signal_or_kill, uploaded, exited_zero, just_ended: self.is_first };
        self.locator.settle(&left, self.log.started(self.job, self.journal.child), terms, &mut self.journal).await;
        self.write_journal();
        self.release_on_other_backends(uploaded).await;
        self.handle(Event::ReleaseEnded);
    }
}
