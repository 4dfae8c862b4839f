//! The supervisor's part in the leases of its locks: it obeys their machines.

use jiff::Timestamp;
use nix::sys::signal::Signal;

use crate::machine::lease::holder::Action;
use crate::machine::{Event, Finish};
use crate::model::{LockAccount, LockOutcome, StopRequest};
use crate::run::lease::holder::Reply;
use crate::run::locks::annotate::warn_of_loss;
use crate::run::locks::release::stays_leased;
use crate::run::supervisor::Supervisor;
use crate::run::supervisor::learning::record;
use crate::text::describe;

impl Supervisor<'_> {
    /// Says of a run whose lock can have no lease that it has none, once it is at work under that lock.
    pub(crate) fn note_unleased(&mut self) {
        let known = !self.runs_guards && self.log.observer.under_lock().is_some();
        let Some(intent) = self.journal.intent.as_ref().filter(|_| known && self.leases.are_missing()) else { return };
        let locks = intent.operations.as_ref().is_some_and(|operations| !operations.is_empty());
        let why = match (locks && intent.places.is_empty(), self.is_silent()) {
            (true, _) => "its state is not in S3",
            (false, true) => "its log says nothing of its lock",
            (false, false) => return,
        };
        let program = self.journal.account.product().program();
        self.trouble(format!("--lease: {why}, so its lock has no lease, and {program} goes on without one"));
    }

    /// A beat is due, or a request was answered, or it is too late.
    pub(crate) fn lease_due(&mut self, reply: Option<Reply>) {
        let why = self.leases.wake(reply);
        why.into_iter().for_each(|why| self.trouble(why));
        while let Some((at, action)) = self.leases.poll_action() {
            match action {
                Action::Kill => self.kill_for_lease(at),
                Action::Stop { lost } => self.stop_for_lease(at, lost),
                Action::ReadLog => {
                    self.read_log();
                    let facts = self.log.observer.finish(Timestamp::now());
                    self.learn(facts);
                    let ended = self.journal.account.ending.is_some() && !self.runs_guards;
                    // A wrapper named terraform may be dead, and its Terraform not.
                    let ended = (ended || self.log.is_read) && !self.is_terraform_alive(&self.look());
                    self.leases.log_read(at, self.leases.stage(at).is_over() || ended);
                }
                Action::Beat { .. } | Action::Read => {
                    if matches!(action, Action::Beat { .. }) {
                        self.journal.leases = self.leases.notes();
                        self.write_journal();
                    }
                    let lock = self.leases.lock(at);
                    self.leases.ask(at, action, record(self.job, &self.journal, lock));
                }
            }
        }
    }

    fn stop_for_lease(&mut self, at: usize, lost: bool) {
        let state = self.leases.state(at);
        self.leases.stopped(at, lost);
        let left = describe(self.leases.left().unwrap_or_default());
        let request = if lost { StopRequest::LockLost } else { StopRequest::LeaseNotRenewed };
        let is_new = !self.has_asked(|known| *known == request);
        let program = self.journal.account.product().program();
        if lost {
            self.annotator.stop();
            // Whoever takes this process's place does not touch it either.
            self.journal.leases = self.leases.notes();
        }
        if is_new && lost {
            warn_of_loss(&state, None);
            tracing::warn!("{program} is stopped, and killed in {left}; tfguard does nothing more about that lock");
        } else if is_new {
            tracing::warn!(
                "the lease of the lock of {state} was not renewed for too long: {program} is stopped, and killed in {left} \
                 unless it is renewed by then"
            );
        }
        self.stop_requested(request);
    }

    /// Takes the lease away from a lock that is kept for a person, or whose Terraform may be alive: whoever waits for the lease
    /// to end is not to take the lock.
    pub(crate) async fn unlease(&mut self, finish: Finish) {
        let is_kept = |lock: &LockAccount| matches!(lock.outcome, Some(LockOutcome::Kept));
        let kept = self.journal.account.locks.iter().filter(|lock| is_kept(lock));
        let kept: Vec<_> = kept.map(|lock| lock.claim.lock_id()).collect();
        let stay = |state: &str| finish == Finish::Alive || kept.iter().any(|kept| kept == state);
        for state in self.leases.unlease(stay, |lock| record(self.job, &self.journal, lock)).await {
            self.trouble(stays_leased(&state));
        }
    }

    fn has_asked(&self, is_it: impl Fn(&StopRequest) -> bool) -> bool {
        self.journal.account.requests.iter().any(|asked| is_it(&asked.request))
    }

    /// Nobody may take the lock before the child is dead.
    fn kill_for_lease(&mut self, at: usize) {
        let child = self.journal.child.map(|child| child.id).filter(|child| child.is_alive());
        if let Some(child) = child {
            child.signal_group(Signal::SIGKILL);
        } else if self.look().is_gone() {
            return;
        }
        let (state, program) = (self.leases.state(at), self.journal.account.product().program());
        tracing::warn!("the lease of the lock of {state} ends: killing {program}, before anybody may take that lock");
        self.journal.account.killed.get_or_insert_with(Timestamp::now);
        if !self.has_asked(|asked| matches!(asked, StopRequest::LeaseNotRenewed | StopRequest::LockLost)) {
            self.stop_requested(StopRequest::LeaseNotRenewed);
        }
        self.handle(Event::LeaseEnded);
    }
}
