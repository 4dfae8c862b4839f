//! How the supervisor stops the child: one interrupt for each process that is to have one, and the kill.

use jiff::Timestamp;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::machine::Event;
use crate::model;
use crate::model::{Interrupt, InterruptedBy, ProcessId};
use crate::run::inner::InnerGuards;
use crate::run::supervisor::{Supervisor, trouble};
use crate::run::targets::{Scene, targets};
use crate::session::Tree;
use crate::text::describe;

impl Supervisor<'_> {
    pub(crate) fn look(&self) -> Tree {
        Tree::look(self.journal.child.as_ref(), self.log.file())
    }

    pub(crate) fn interrupt(&mut self) {
        self.journal.account.interrupt = Some(Interrupt { at: Timestamp::now(), by: InterruptedBy::Tfguard });
        if !self.interrupt_processes() {
            self.journal.account.interrupt = None;
            return self.write_journal();
        }
        let grace = describe(self.machine.grace());
        let program = &self.journal.account.program;
        match self.inner.as_ref().map(|inner| inner.at_work().len()) {
            None | Some(0) => tracing::info!("{program} interrupted; it has {grace} to end gracefully"),
            Some(1) => {
                tracing::info!("the Terraform below {program} is asked to stop; it has {grace} to end gracefully")
            }
            Some(several) => {
                tracing::info!(
                    "{several} Terraforms below {program} are asked to stop; they have {grace} to end gracefully"
                );
            }
        }
    }

    /// The journal first: should tfguard be killed between the two, nobody sends a second interrupt. False if nobody who
    /// should receive it could be reached.
    pub(crate) fn interrupt_processes(&mut self) -> bool {
        let child = self.journal.child.map(|child| child.id);
        let tree = self.look();
        let guards: Vec<ProcessId> =
            self.inner.iter().flat_map(|inner| inner.at_work()).flat_map(|guard| guard.processes()).collect();
        let targets = targets(&Scene {
            tree: &tree,
            child,
            before: &self.journal.interrupted,
            guards: self.inner.as_ref().is_some_and(InnerGuards::any_at_work),
            command_is_terraform: self.inner.is_none()
                && self.job.command.first().is_none_or(|program| model::product(program).is_some()),
        });
        self.command_waits_for.clear();
        self.command_waits = targets.command_waits;
        if targets.command_waits {
            self.command_waits_for = tree.terraforms().map(|found| found.id).chain(guards).collect();
        }
        for found in &targets.unreachable {
            let what = format!(
                "{found}, cannot be interrupted by this one: run tfguard itself as that user, as in \
                 `sudo -E tfguard -- terraform apply`"
            );
            trouble(&mut self.journal.account, what);
        }
        let known = self.journal.interrupted.len();
        self.journal.interrupted.extend(targets.now.iter().chain(&targets.relayed));
        if self.journal.interrupted.len() > known {
            self.write_journal();
        }
        let mut any = false;
        for process in targets.now {
            let sent = process.signal(Signal::SIGINT);
            any |= sent;
            tracing::debug!("SIGINT to process {}{}", process.pid, if sent { "" } else { ": it is gone" });
        }
        any || targets.unreachable.is_empty() || self.guards_at_work()
    }

    /// The command was to receive its interrupt when its Terraforms are gone, some of which are.
    pub(crate) fn interrupt_waiting_command(&mut self) {
        if std::mem::take(&mut self.command_waits) {
            self.interrupt_processes();
        }
    }

    pub(crate) fn note_interrupt(&mut self) {
        if self.journal.account.interrupt.is_some() {
            // A supervisor that is dead interrupted those that lived then. A script may have started more since.
            self.interrupt_processes();
            return;
        }
        self.journal.account.interrupt = Some(Interrupt { at: Timestamp::now(), by: InterruptedBy::SomebodyElse });
        let grace = describe(self.machine.grace());
        tracing::info!(
            "{} was interrupted already, so it is not interrupted again; it has {grace} to end gracefully",
            self.journal.account.program
        );
        let alive = self.look().survivors;
        self.journal.interrupted.extend(alive.into_iter().map(|found| found.id));
        self.write_journal();
    }

    pub(crate) fn kill(&mut self) {
        let child = self.journal.child.map(|child| child.id);
        let tree = self.look();
        if self.machine.is_killing() && self.journal.account.killed.is_none() {
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
        for survivor in &tree.survivors {
            let _ = survivor.id.signal(Signal::SIGKILL);
        }
        // A guard has to release yet.
        let mut terraforms = tree.terraforms().peekable();
        let out_of_reach = match terraforms.peek() {
            Some(_) => terraforms.all(|terraform| terraform.out_of_reach),
            None => tree.survivors.iter().any(|survivor| survivor.out_of_reach),
        };
        if out_of_reach && !self.guards_at_work() {
            self.handle(Event::OutOfReach);
        }
    }
}
