//! Terraforms that a command starts past the guards: called by a path, or with a PATH or user of the script's own.
//!
//! They are known by their program. Each is interrupted once at a stop, waited for, and its lock is learned as far as the
//! command's log tells. Of the others it is said that nobody knows.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;

use crate::aws::Surroundings;
use crate::machine::Event;
use crate::model::{LockInfo, OtherLock, OtherOutcome, ProcessId, Product, StopRequest, product};
use crate::run::inner::{Finished, may_pass};
use crate::run::job::Job;
use crate::run::locks::unlogged;
use crate::run::remove_log_of;
use crate::run::supervisor::Supervisor;
use crate::run::terraforms::Terraform;
use crate::session::{Adoptable, Journal, POLL_INTERVAL, SessionDir, Tree, awaitable};
use crate::terraform::Backend;
use crate::{terraform, text};

/// The most unguarded Terraforms that are remembered.
const MOST: usize = 256;
/// The time between two looks for Terraforms that a script calls past its guards and whose log is elsewhere: nothing tells
/// of them.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(5);
/// The same once a stop is requested.
const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(250);

/// When to look who is at work.
pub(crate) struct Looks {
    /// The log was opened, and by whom is still to be looked for, so many times at most.
    pub(crate) due: u32,
    /// The next time.
    pub(crate) next: Option<Instant>,
    /// Rings for the looks of an idle run, by the kernel: for a time that is seconds away, tokio's timer wakes this process
    /// up to three times.
    clock: Option<AsyncFd<OwnedFd>>,
    /// The newest process of the machine at the last look.
    newest: Option<i32>,
}

impl Looks {
    /// How often it is looked who has opened the log. The kernel tells of it a moment before the opened file can be seen at
    /// the process, and on a busy machine that moment lasts.
    pub(crate) const MOST: u32 = 8;

    pub(crate) fn after(first: Duration) -> Self {
        Self { due: Self::MOST, next: Some(Instant::now() + first), clock: None, newest: None }
    }

    /// Nothing hurries: from now on one is due after each such time.
    pub(crate) fn rest(&mut self, every: Duration) {
        let made = || -> io::Result<_> {
            let clock = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            let time = Timespec::try_from(every).map_err(io::Error::other)?;
            let times = Itimerspec { it_interval: time, it_value: time };
            timerfd_settime(&clock, TimerfdTimerFlags::empty(), &times)?;
            awaitable(clock)
        };
        if self.clock.is_none() {
            self.clock = made().inspect_err(|error| tracing::debug!("no timer of the kernel: {error}")).ok();
        }
        self.next = self.clock.is_none().then(|| Instant::now() + every);
    }

    pub(crate) async fn due(&self) {
        match (self.next, &self.clock) {
            (Some(next), _) => tokio::time::sleep_until(next).await,
            (None, Some(clock)) => {
                if let Ok(mut rung) = clock.readable().await {
                    // It rings again only once it is read.
                    let _ = rustix::io::read(clock.get_ref(), &mut [0; 8]);
                    rung.clear_ready();
                }
            }
            (None, None) => std::future::pending().await,
        }
    }
}

/// A Terraform without a guard of its own.
pub(crate) struct Unguarded {
    id: ProcessId,
    /// The program by which people run it.
    program: &'static str,
    /// Where and how it ran, if that could be seen.
    surroundings: Option<Surroundings>,
    /// It was seen to log to this session.
    logs: bool,
}

/// Whether a process that is there has no command line.
fn has_no_words(process: ProcessId) -> bool {
    let words = procfs::process::Process::new(process.pid).and_then(|process| process.cmdline());
    words.is_ok_and(|words| words.is_empty())
}

/// The process, or thread, that was started last in this PID namespace (proc(5), `loadavg`). While it is the same, no Terraform
/// can have started: each starts threads. None where the system does not tell, and for a while after the numbers began anew.
fn newest_process() -> Option<i32> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let newest = load.split_whitespace().nth(4)?.parse().ok()?;
    (newest >= std::process::id().cast_signed()).then_some(newest)
}

impl Supervisor<'_> {
    /// Looks who is at work, and when to look again.
    pub(crate) fn look_around(&mut self) {
        self.looks.next = None;
        let was_known = self.log.child_is_terraform;
        self.log.child_is_terraform = was_known || (!self.runs_guards && self.child_holds_log());
        if self.log.child_is_terraform && !was_known {
            self.note_starting_backend();
        }
        if self.log.child_is_terraform || self.log.is_read {
            return;
        }
        let stopping = self.machine.first_request().is_some();
        let newest = newest_process();
        let is_quiet = !stopping && self.looks.due == 0 && newest.is_some() && newest == self.looks.newest;
        self.looks.newest = newest;
        if !is_quiet {
            let tree = self.look();
            // One of them may be dead when its lock is read of.
            self.locator.terraforms.note(&tree, true);
            self.note_unguarded(&tree);
            let interrupted = &self.journal.interrupted;
            if stopping && tree.terraforms().any(|terraform| !interrupted.contains(&terraform.id)) {
                self.handle(Event::TerraformStarted);
            }
        }
        // One that was just starting may have had no process to wait for.
        if stopping && self.waiting.is_over() {
            self.interrupt_waiting_command();
        }
        let kill_at = self.machine.kill_at().map(|at| self.job.began + at);
        let finish = |session, journal| Box::pin(finish_orphan(self.job.clone(), session, journal, kill_at)) as _;
        self.inner.adopt_orphans(finish);
        self.looks.due = self.looks.due.saturating_sub(1);
        match (self.looks.due > 0, stopping, self.runs_guards) {
            (true, ..) => self.looks.next = Some(Instant::now() + POLL_INTERVAL),
            (_, true, _) => self.looks.next = Some(Instant::now() + LOOK_CLOSELY_EVERY),
            (.., true) => self.looks.rest(LOOK_AROUND_EVERY),
            _ => {}
        }
    }

    /// A wrapper that is called terraform may have run `init` before it became Terraform, just now.
    fn note_starting_backend(&mut self) {
        if self.journal.backend.digest.is_none() {
            self.journal.backend = terraform::starting_backend(&self.job.command, &self.job.surroundings());
            self.locator.start = self.journal.backend.clone();
        }
    }

    fn note_unguarded(&mut self, tree: &Tree) {
        if !self.runs_guards {
            return;
        }
        for found in tree.terraforms() {
            let (id, logs) = (found.id, found.holds_log);
            if let Some(known) = self.unguarded.iter_mut().find(|known| known.id == id) {
                known.logs |= logs;
                continue;
            }
            // In the midst of its exec it has no arguments yet, and may be one whose guard stepped aside: the next look finds
            // them.
            if self.unguarded.len() >= MOST || (!logs && has_no_words(id)) {
                continue;
            }
            let read = Terraform::read(id, false);
            // Its guard stepped aside, as for `terraform version`; or nobody can tell any more whether it did.
            let lockless = read.as_ref().is_some_and(Terraform::takes_no_lock);
            if lockless || (read.is_none() && !logs && (!id.is_alive() || has_no_words(id))) {
                continue;
            }
            tracing::debug!("process {} is a Terraform without a guard of its own", id.pid);
            let program = product(OsStr::new(&found.name)).unwrap_or(Product::Terraform).program();
            let surroundings = read.and_then(|terraform| terraform.surroundings().next());
            self.unguarded.push(Unguarded { id, program, surroundings, logs });
        }
    }

    /// Says of each whose log did not tell that nobody knows whether it left a lock, and who holds the lock of its state now.
    pub(crate) async fn account_for_unguarded(&mut self) {
        if !self.runs_guards {
            return;
        }
        let account = &self.journal.account;
        let succeeded = account.has_succeeded() && account.requests.is_empty();
        // On other backends it works under a lock that is not logged.
        let worked_unlogged =
            self.log.observer.under_lock().is_some() && self.log.observer.ledger().entries().is_empty();
        let cut = self.job.session.log_is_cut(self.log.file()).is_some();
        let log_tells = self.log.observer.tells_locks() && !worked_unlogged && !cut;
        let died = account.tells_of_signal() || account.has_died() || !account.requests.is_empty();
        if worked_unlogged && died && self.unguarded.is_empty() {
            self.note_unknown(
                "a Terraform below the command worked under a lock and was gone before tfguard saw where".to_owned(),
            );
        }
        let unguarded = std::mem::take(&mut self.unguarded).into_iter();
        // What wrote its log to the end of a run that succeeded has nothing to hide.
        let silent = unguarded.filter(|unguarded| !(unguarded.logs && (log_tells || succeeded)));
        let looked = join_all(silent.map(async |unguarded| {
            let found = match &unguarded.surroundings {
                Some(surroundings) => unlogged::holder(surroundings).await,
                None => None,
            };
            (unguarded, found)
        }));
        for (unguarded, found) in looked.await {
            self.journal.account.other_locks.extend(unguarded.account(found, !succeeded));
        }
    }
}

/// Stops what a dead guard below this one guarded; gives its account, if there is one. `kill_at`: when what is alive then is
/// to be killed, if a stop was requested.
async fn finish_orphan(outer: Job, session: SessionDir, journal: Journal, kill_at: Option<Instant>) -> Finished {
    let left = kill_at.map(|at| at.saturating_duration_since(Instant::now()));
    let mut job = outer.of_journal(&session, &journal);
    job.terms.grace = left.unwrap_or(job.terms.grace);
    match Adoptable::look(&session, &journal, Instant::now() + job.terms.patience).await {
        Adoptable::Yes => {}
        Adoptable::NothingStarted => {
            session.remove();
            return Ok(None);
        }
        Adoptable::Held | Adoptable::Unknowable => return Ok(None),
    }
    let (to_us, mut requests) = unbounded_channel();
    let _ = to_us.send(StopRequest::Outer { left });
    match Supervisor::adopt(&job, journal.clone(), &mut requests).await {
        Ok(account) => {
            remove_log_of(&session, &account);
            Ok(Some(account))
        }
        Err(error) if may_pass(&error) => Err(error),
        Err(error) => {
            tracing::warn!("this process cannot take the place of the tfguard of {}: {error}", journal.account.program);
            Ok(None)
        }
    }
}

impl Unguarded {
    /// Whether a stop that is requested now may be what ends it.
    pub(crate) fn may_be_stopped(&self) -> bool {
        self.id.is_alive() || !self.logs
    }

    /// `found`: who has the lock of its state, as far as that could be seen.
    fn account(self, found: Option<Option<LockInfo>>, unclean: bool) -> Option<OtherLock> {
        let Self { id, program, surroundings, .. } = self;
        // Its lock goes with its process.
        if surroundings
            .as_ref()
            .is_some_and(|there| matches!(terraform::read_backend(there), Ok(Backend::None | Backend::Local)))
        {
            return None;
        }
        let directory = surroundings.as_ref().map(|surroundings| &surroundings.dir);
        let place = directory.map(|directory| format!(", {}", directory.display())).unwrap_or_default();
        let (holder, outcome) = match found {
            Some(None) => (None, OtherOutcome::Free),
            other => {
                let holder = other.flatten();
                let now = if holder.is_some() { ". Its state is locked now" } else { "" };
                let why = format!(
                    "{program} (process {}{place}) ran unguarded, because it was not called by its name: whether it left \
                     a lock is unknown{now}. Call it by its name, or put `tfguard --` before it",
                    id.pid
                );
                (holder, OtherOutcome::Unknown { why, unclean })
            }
        };
        let terraform = directory.map(|directory| format!("{program} -chdir={}", text::quote(directory)));
        Some(OtherLock { backend: "s3".to_owned(), holder, outcome, command: None, terraform })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a Terraform that nobody looks for.
    #[test]
    fn whoever_starts_is_the_newest_process() {
        let before = newest_process();
        std::thread::spawn(|| {}).join().unwrap();
        let after = newest_process();
        assert!(before.is_none() || before != after, "{before:?}");
    }
}
