//! A run on the terminal of a person. The supervisor works in this process, Terraform in a process group of its own
//! that is handed the terminal's foreground. So Ctrl-C reaches Terraform, once for each time it is pressed, and never
//! tfguard, which therefore never passes it on; signals that are sent to tfguard or its group reach Terraform only as
//! the one interrupt. When Terraform is stopped (Ctrl-Z), tfguard takes the terminal back and stops too, as a shell's
//! job does, and hands the terminal over again when it is continued.

use std::io;

use nix::sys::signal::{SigHandler, Signal, killpg, raise, signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc::unbounded_channel;

use super::child::Output;
use super::expiry;
use super::plan::Plan;
use super::requests;
use super::supervisor::Supervisor;
use super::{Failure, clean_up, conclude, job, new_account};
use crate::session::{Journal, ProcessId, SessionDir};

/// Runs a command on this terminal; gives tfguard's exit code.
pub fn run(plan: &Plan) -> Result<u8, Failure> {
    let parent = requests::parent();
    let session = SessionDir::create(|name| std::env::var_os(name))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    let ended = runtime.block_on(supervised(plan, &session, parent));
    if ended.is_err() {
        session.remove();
    }
    ended
}

async fn supervised(plan: &Plan, session: &SessionDir, parent: Option<ProcessId>) -> Result<u8, Failure> {
    let (to_us, mut requests) = unbounded_channel();
    requests::from_signals(to_us.clone(), plan.heed_hangup, false).map_err(Failure::Start)?;
    if let Some(parent) = parent.filter(|_| plan.watch_parent) {
        requests::from_parent(to_us.clone(), parent);
    }
    let account = new_account(plan, session);
    let job = job(plan, session.clone(), account.started);
    let mut journal = Journal::new(account);
    journal.front = ProcessId::own();
    journal.supervisor = journal.front;
    journal.write(session)?;

    let terminal = Terminal::if_in_foreground().map_err(Failure::Start)?;
    let supervisor = Supervisor::start(&job, journal, Output::Terminal { foreground: terminal.is_some() });
    if supervisor.is_ok() {
        expiry::watch(&job, plan.before_expiry, to_us);
    }
    let account = match (supervisor, &terminal) {
        (Ok(supervisor), Some(terminal)) => {
            let child = supervisor.child_pid();
            let jobs = child.map(|child| tokio::spawn(follow_stops(child, terminal.own_group)));
            let account = supervisor.run(&mut requests).await;
            if let Some(jobs) = jobs {
                jobs.abort();
            }
            Ok(account)
        }
        (Ok(supervisor), None) => Ok(supervisor.run(&mut requests).await),
        (Err(error), _) => Err(error),
    };
    drop(terminal);
    let account = account?;
    conclude(plan, &account);
    account.say();
    clean_up(session, &account);
    Ok(account.exit_code())
}

/// The terminal whose foreground was ours, and is again when this is dropped.
struct Terminal {
    own_group: Pid,
}

impl Terminal {
    /// None if there is no terminal, or tfguard runs in its background: then it is somebody else's to give away.
    fn if_in_foreground() -> io::Result<Option<Self>> {
        let own_group = getpgrp();
        if tcgetpgrp(io::stdin()).ok() != Some(own_group) {
            return Ok(None);
        }
        // Once another group has the foreground, the terminal would stop us for taking it back, or for a message.
        // SAFETY: sets a disposition that is no handler.
        unsafe { signal(Signal::SIGTTOU, SigHandler::SigIgn) }?;
        Ok(Some(Self { own_group }))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tcsetpgrp(io::stdin(), self.own_group);
    }
}

/// Stops with the child and continues it with us.
async fn follow_stops(child: Pid, own_group: Pid) {
    let Ok(mut changes) = tokio::signal::unix::signal(SignalKind::child()) else { return };
    while changes.recv().await.is_some() {
        // WEXITED is not asked for: the child's end is the supervisor's to collect.
        let stopped = waitid(Id::Pid(child), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
        if !matches!(stopped, Ok(WaitStatus::Stopped(..))) {
            continue;
        }
        let _ = tcsetpgrp(io::stdin(), own_group);
        let _ = raise(Signal::SIGSTOP);
        // Here after SIGCONT. In the background (`bg`) the terminal is not ours to give.
        if tcgetpgrp(io::stdin()) == Ok(own_group) {
            let _ = tcsetpgrp(io::stdin(), child);
        }
        let _ = killpg(child, Signal::SIGCONT);
    }
}
