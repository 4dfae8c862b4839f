//! How the supervisor stops the child: one interrupt for each process that is to have one, and the kill.

use jiff::Timestamp;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{Supervisor, describe, ticks_since_boot};
use crate::report::{Interrupt, InterruptedBy};
use crate::run::nearer::Nearer;
use crate::run::targets::{Targets, targets};
use crate::session::{ProcessId, Tree};

impl Supervisor<'_> {
    pub(super) fn look(&self) -> Tree {
        Tree::look(self.journal.child.as_ref(), self.log.file())
    }

    pub(super) fn interrupt(&mut self) {
        self.journal.account.interrupt = Some(Interrupt { at: Timestamp::now(), by: InterruptedBy::Tfguard });
        self.interrupt_processes();
        let grace = describe(self.machine.grace());
        tracing::info!("{} interrupted; it has {grace} to end gracefully", self.journal.account.program);
    }

    /// The journal first: should tfguard be killed between the two, nobody sends a second interrupt.
    pub(super) fn interrupt_processes(&mut self) {
        let child = self.journal.child.map(|child| child.id);
        let mut tree = self.look();
        self.note_unlogged(&tree);
        let mut at_work: Vec<ProcessId> = tree.terraforms().map(|found| found.id).collect();
        let known = self.journal.interrupted.processes.len();
        at_work.extend(self.leave_to_nearer(&mut tree));
        let any_left = self.journal.interrupted.processes.len() > known;
        let targets = targets(&tree, child, &self.journal.interrupted);
        self.shell_waits_for.clear();
        if let Targets::Processes { later: Some(_), .. } = targets {
            self.shell_waits_for = at_work;
        }
        match targets {
            Targets::Processes { now, .. } if now.is_empty() && !any_left => {}
            Targets::Processes { now: processes, .. } => {
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

    /// Puts in place of each Terraform that another tfguard guards, nearer to it, that one's front, and gives these fronts.
    /// Such a Terraform counts as interrupted from here on: should the other tfguard be killed, it would not be known
    /// whether it was before it did it or after.
    fn leave_to_nearer(&mut self, tree: &mut Tree) -> Vec<ProcessId> {
        let mut fronts = Vec::new();
        for found in tree.survivors.iter_mut().filter(|found| found.is_terraform) {
            let Some(nearer) = Nearer::to(found.id, &self.job.session, &self.journal) else { continue };
            fronts.extend(nearer.front);
            if !self.journal.interrupted.includes(found.id) {
                tracing::debug!("process {} is left to the tfguard that is nearer to it", found.id.pid);
                self.journal.interrupted.processes.push(found.id);
                found.id = nearer.front.unwrap_or(found.id);
            }
        }
        fronts
    }

    pub(super) fn note_interrupt(&mut self) {
        if self.journal.account.interrupt.is_some() {
            // A supervisor that is dead interrupted those that lived then. A script may have started more since.
            return self.interrupt_processes();
        }
        self.journal.account.interrupt = Some(Interrupt { at: Timestamp::now(), by: InterruptedBy::SomebodyElse });
        let grace = describe(self.machine.grace());
        tracing::info!(
            "{} was interrupted already, so it is not interrupted again; it has {grace} to end gracefully",
            self.journal.account.program
        );
        self.journal.interrupted.all_started_until = Some(ticks_since_boot());
        self.write_journal();
    }

    pub(super) fn kill(&mut self) {
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
        for survivor in tree.survivors {
            let _ = survivor.id.signal(Signal::SIGKILL);
        }
    }
}
