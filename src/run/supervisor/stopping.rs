//! How the supervisor stops the child: one interrupt for each process that is to have one, and the kill.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use nix::sys::signal::Signal;

use crate::machine::Event;
use crate::model::{Interrupt, InterruptedBy, ProcessId};
use crate::run::inner::InnerGuard;
use crate::run::supervisor::Supervisor;
use crate::run::targets::{Scene, targets};
use crate::session::{Tree, monotonic_millis};
use crate::text::describe;

/// A command that is to be interrupted when no Terraform is at work any more.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// There is one.
    command: bool,
    /// The processes after whose end that is checked.
    processes: Vec<ProcessId>,
}

impl Waiting {
    /// Waits for the end of the processes.
    pub(crate) async fn over(&self) {
        if self.processes.is_empty() {
            std::future::pending::<()>().await;
        }
        join_all(self.processes.iter().map(|id| id.gone())).await;
    }

    pub(crate) fn is_over(&self) -> bool {
        !self.processes.iter().any(|process| process.is_alive())
    }
}

/// Who received an interrupt.
struct Reached {
    /// How many guards were asked.
    guards: usize,
    /// A process that has to pass it on to another user's Terraform.
    relayed: bool,
}

impl Supervisor<'_> {
    pub(crate) fn look(&self) -> Tree {
        Tree::look(self.journal.child.as_ref(), self.log.file())
    }

    /// Interrupts whoever is to have it and has not had it. The account has it once somebody was there to receive it.
    pub(crate) fn interrupt(&mut self) {
        let is_first = self.journal.account.interrupt.is_none();
        let now = Interrupt { at: Timestamp::now(), by: InterruptedBy::Tfguard };
        self.journal.account.interrupt.get_or_insert(now);
        self.journal.stopping_since.get_or_insert_with(monotonic_millis);
        let reached = self.interrupt_processes();
        if !is_first {
            return;
        }
        let Some(Reached { guards, relayed }) = reached else {
            (self.journal.account.interrupt, self.journal.stopping_since) = (None, None);
            return self.write_journal();
        };
        let grace = self.machine.grace();
        let grace = describe(self.leases.left().map_or(grace, |left| left.min(grace)));
        let program = &self.journal.account.program;
        match guards {
            0 if relayed => tracing::info!(
                "the process above another user's Terraform interrupted, which has to pass that on; it has {grace} to end \
                 gracefully"
            ),
            0 => tracing::info!("{program} interrupted; it has {grace} to end gracefully"),
            1 => tracing::info!("the Terraform below {program} is asked to stop; it has {grace} to end gracefully"),
            several => tracing::info!(
                "{several} Terraforms below {program} are asked to stop; they have {grace} to end gracefully"
            ),
        }
    }

    /// Says how long whoever was interrupted still has, so that nobody takes a long end for a hang and cancels again.
    pub(crate) fn remind(&mut self) {
        self.reminded = self.now();
        let Some(left) = self.machine.kill_at().map(|at| at.saturating_sub(self.reminded)) else { return };
        let left = Duration::from_secs(left.as_secs());
        let left = match self.leases.left().filter(|lease| *lease < left) {
            Some(lease) => format!("{} left until its lease ends", describe(lease)),
            None => format!("{} of {} left", describe(left), describe(self.machine.grace())),
        };
        let program = &self.journal.account.program;
        let who = match self.inner.at_work().len() {
            0 if self.journal.account.ending.is_some() => format!("what {program} started is"),
            0 => format!("{program} is"),
            1 => format!("the Terraform below {program} is"),
            several => format!("{several} Terraforms below {program} are"),
        };
        tracing::info!("{who} finishing: {left}");
    }

    /// The journal first: should tfguard be killed between the two, nobody sends a second interrupt. Where it can't be written,
    /// as in a directory that nobody may write to any more, the interrupt is sent all the same: without it Terraform is killed
    /// over its lock for certain, while a second one needs tfguard's death besides. None if nobody received it.
    fn interrupt_processes(&mut self) -> Option<Reached> {
        let child = self.journal.child.map(|child| child.id);
        let tree = self.look();
        let guards = self.inner.at_work();
        let targets = targets(&Scene {
            tree: &tree,
            child,
            before: &self.journal.interrupted,
            guards: !guards.is_empty(),
            command_is_terraform: !self.runs_guards,
        });
        self.waiting = Waiting { command: targets.command_waits, processes: Vec::new() };
        if targets.command_waits {
            let of_guards = guards.iter().flat_map(InnerGuard::processes);
            self.waiting.processes = tree.terraforms().map(|found| found.id).chain(of_guards).collect();
        }
        for found in &targets.unreachable {
            self.trouble(format!(
                "{found}, cannot be interrupted by this one: run tfguard itself as that user, as in \
                 `sudo -E tfguard -- terraform apply`"
            ));
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
        (any || !guards.is_empty()).then_some(Reached { guards: guards.len(), relayed: !targets.relayed.is_empty() })
    }

    /// The command was to receive its interrupt when its Terraforms are gone, some of which are.
    pub(crate) fn interrupt_waiting_command(&mut self) {
        if std::mem::take(&mut self.waiting.command) {
            self.interrupt();
        }
    }

    pub(crate) fn note_interrupt(&mut self) {
        if self.journal.account.interrupt.is_some() {
            // A supervisor that is dead interrupted those that lived then. A script may have started more since.
            return self.interrupt();
        }
        self.journal.account.interrupt = Some(Interrupt { at: Timestamp::now(), by: InterruptedBy::SomebodyElse });
        self.journal.stopping_since = Some(monotonic_millis());
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
        child.map(|child| child.signal_group(Signal::SIGKILL));
        for survivor in &tree.survivors {
            let _ = survivor.id.signal(Signal::SIGKILL);
        }
        // A guard has to release yet.
        let mut terraforms = tree.terraforms().peekable();
        let out_of_reach = match terraforms.peek() {
            Some(_) => terraforms.all(|terraform| terraform.out_of_reach),
            None => tree.survivors.iter().any(|survivor| survivor.out_of_reach),
        };
        if out_of_reach && self.inner.at_work().is_empty() {
            self.handle(Event::OutOfReach);
        }
    }
}
