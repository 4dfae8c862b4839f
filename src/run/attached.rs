//! A run on the terminal of a person. The supervisor works in this process, Terraform in a process group of its own
//! that is handed the terminal's foreground. So Ctrl-C reaches Terraform, once for each time it is pressed, and never
//! tfguard, which therefore never passes it on; signals that are sent to tfguard or its group reach Terraform only as
//! the one interrupt. When Terraform is stopped (Ctrl-Z), tfguard takes the terminal back and stops too, as a shell's
//! job does, and hands the terminal over again when it is continued.

use std::io::{self, Write as _};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, kill, killpg, signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal as signals};
use tokio::sync::mpsc::UnboundedSender;

use crate::model::StopRequest;
use crate::run::child::Output;
use crate::run::job::Job;
use crate::run::output::announce;
use crate::run::plan::Plan;
use crate::run::requests::Requests;
use crate::run::supervisor::Supervisor;
use crate::run::{Failure, clean_up, conclude, new_journal, requests};
use crate::session::SessionDir;

/// Runs a command on this terminal; gives tfguard's exit code.
pub async fn supervised(
    plan: &Plan,
    session: &SessionDir,
    to_us: UnboundedSender<StopRequest>,
    mut requests: Requests,
) -> Result<u8, Failure> {
    // So that a `tfguard release` beside it sees that somebody supervises.
    let Some(_claim) = session.claim_first()? else { return Err(Failure::SupervisorDied) };
    let mut journal = new_journal(plan, session);
    journal.supervisor = journal.front;
    let job = Job::new(plan, session.clone(), &journal);
    journal.create_log(session)?;

    let terminal = Terminal::of_this_session().map_err(Failure::Start)?;
    // Before the child, which may stop at once.
    let changed = signals(SignalKind::child()).map_err(Failure::Start)?;
    let continued = signals(SignalKind::from_raw(libc::SIGCONT)).map_err(Failure::Start)?;
    let foreground = terminal.is_some_and(|terminal| terminal.foreground);
    let supervisor = Supervisor::start(&job, journal, Output::Terminal { foreground });
    let child = supervisor.as_ref().ok().and_then(Supervisor::child_pid);
    let jobs = terminal.zip(child).map(|(terminal, child)| tokio::spawn(terminal.follow(child, changed, continued)));
    if supervisor.is_ok() {
        requests::once_started(plan, &job, &to_us);
    }
    let account = match supervisor {
        Ok(supervisor) => Ok(supervisor.run(&mut requests).await),
        Err(error) => Err(error),
    };
    if let Some(jobs) = jobs {
        jobs.abort();
    }
    if let Some(terminal) = terminal {
        terminal.take_back_from(child);
    }
    let account = account?;
    conclude(plan, session, &account);
    if let Some(line) = crate::run::wrapped::conclude(plan, session, &account) {
        let _ = io::stdout().write_all(line.as_bytes());
    }
    // Where the cursor is on the child's terminal is not known.
    let summary = announce(plan, session, &account, true);
    clean_up(session, &account, plan.outer.is_some());
    if plan.outer.is_none() {
        plan.publisher.publish(&[summary]).await;
    }
    Ok(account.exit_code())
}

/// The terminal of tfguard's session.
#[derive(Clone, Copy)]
struct Terminal {
    own_group: Pid,
    /// Whether its foreground was tfguard's, and so is the child's to have from the start.
    foreground: bool,
}

impl Terminal {
    /// None if there is none, or it is another session's.
    fn of_this_session() -> io::Result<Option<Self>> {
        let own_group = getpgrp();
        let Ok(foreground) = tcgetpgrp(io::stdin()) else { return Ok(None) };
        // Once another group has the foreground, the terminal would stop us for taking it back, or for a message.
        // SAFETY: sets a disposition that is no handler.
        unsafe { signal(Signal::SIGTTOU, SigHandler::SigIgn) }?;
        Ok(Some(Self { own_group, foreground: foreground == own_group }))
    }

    /// Hands the foreground to the child if it is ours to give: not in the background (`bg`).
    fn give_to(self, child: Pid) -> bool {
        tcgetpgrp(io::stdin()) == Ok(self.own_group) && tcsetpgrp(io::stdin(), child).is_ok()
    }

    /// Takes the foreground back if the child has it, or nobody (one that was never executed). In the background it is
    /// the shell's, and stays with it.
    fn take_back_from(self, child: Option<Pid>) {
        let nobodys = |group| killpg(group, None) == Err(Errno::ESRCH);
        if tcgetpgrp(io::stdin()).is_ok_and(|group| Some(group) == child || nobodys(group)) {
            let _ = tcsetpgrp(io::stdin(), self.own_group);
        }
    }

    /// Stops with the child and continues it with us. `changed`: the child may have been stopped; `continued`: tfguard was
    /// continued.
    async fn follow(self, child: Pid, mut changed: Signals, mut continued: Signals) {
        loop {
            tokio::select! {
                _ = changed.recv() => {
                    // WEXITED is not asked for: the child's end is the supervisor's to collect.
                    let stopped = waitid(Id::Pid(child), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
                    let Ok(WaitStatus::Stopped(_, by)) = stopped else { continue };
                    // It wants the terminal, and the shell brought us to the foreground without a word (`fg` of a job
                    // that runs).
                    let wants_terminal = matches!(by, Signal::SIGTTIN | Signal::SIGTTOU);
                    if wants_terminal && self.give_to(child) {
                        let _ = killpg(child, Signal::SIGCONT);
                        continue;
                    }
                    self.take_back_from(Some(child));
                    // The whole group, as the terminal would do it: a script may stand between us and the shell.
                    // Where nobody would continue it (no shell) the system does not stop it, and the child goes on.
                    let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
                    // Here after SIGCONT.
                    self.give_to(child);
                    let _ = killpg(child, Signal::SIGCONT);
                }
                // Continued by somebody, maybe without having been stopped.
                _ = continued.recv() => {
                    if self.give_to(child) {
                        let _ = killpg(child, Signal::SIGCONT);
                    }
                }
            }
        }
    }
}
