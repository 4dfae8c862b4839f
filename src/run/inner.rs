//! The guards below this one: each Terraform that the command calls by name has one.
//!
//! Their sessions lie inside this one. They alone interrupt and release. This guard asks them to stop, all at once, waits
//! for them, finishes what a dead one left, and puts their accounts into its own.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use nix::sys::signal::Signal;

use crate::model::{Account, ProcessId, StopRequest, World};
use crate::session::{DirectoryError, Journal, JournalError, SessionDir, SessionFile, monotonic_millis};

/// The signal by which a guard asks the guards below it to stop.
pub const ASK: Signal = Signal::SIGUSR2;

/// How long a session without a journal is taken for one whose guard is just starting.
const STARTING: Duration = Duration::from_secs(5);

/// The guards below this one.
pub struct InnerGuards {
    session: SessionDir,
    /// The sessions of those that died, and what became of each once that is known. Then nobody waits for it any more,
    /// whatever its journal says: that may have been impossible to write.
    adopted: HashMap<OsString, Adoption>,
    /// What finishes them; gives the session and its account, if there is one.
    finishing: FuturesUnordered<LocalBoxFuture<'static, (OsString, Option<Account>)>>,
}

/// How far this process is with the session of a guard that died.
enum Adoption {
    UnderWay,
    /// With its account, unless nothing was started in it, or it cannot be finished from here.
    Over(Option<Box<Account>>),
}

/// A guard that has not accounted for its Terraform yet.
#[derive(Debug)]
pub struct InnerGuard {
    /// Its session.
    pub session: SessionDir,
    /// Its journal; none while it is just starting.
    pub journal: Option<Journal>,
}

/// A guard of which every process is dead, and whose place this process takes.
#[derive(Debug)]
pub struct Orphan {
    pub session: SessionDir,
    pub journal: Journal,
    /// Nobody else takes its place meanwhile.
    _claim: File,
}

impl InnerGuard {
    /// Its processes that are alive.
    pub fn processes(&self) -> Vec<ProcessId> {
        self.journal.as_ref().map(processes_of).unwrap_or_default()
    }
}

/// The processes of a guard, but for this one, that are alive.
fn processes_of(journal: &Journal) -> Vec<ProcessId> {
    // Elsewhere its process IDs mean nothing.
    let known = [journal.front, journal.supervisor].into_iter().flatten().filter(|_| journal.world == World::here());
    let mut alive: Vec<_> = known.filter(|id| Some(*id) != ProcessId::own() && id.is_alive()).collect();
    alive.dedup();
    alive
}

impl InnerGuards {
    /// Those of a session.
    pub fn of(session: &SessionDir) -> Self {
        Self { session: session.clone(), adopted: HashMap::new(), finishing: FuturesUnordered::new() }
    }

    /// Those that are to be waited for: they have not accounted for their Terraforms yet.
    pub fn at_work(&self) -> Vec<InnerGuard> {
        let inner =
            self.session.inner().filter(|session| !matches!(self.adopted.get(session.name()), Some(Adoption::Over(_))));
        let inner = inner.filter_map(|session| {
            let journal = Journal::read(&session).ok();
            let at_work = match &journal {
                Some(journal) => journal.account.ended.is_none(),
                None => session.age().is_some_and(|age| age < STARTING),
            };
            at_work.then_some(InnerGuard { session, journal })
        });
        inner.collect()
    }

    /// Asks each of them to stop. Who is just starting reads of it in this guard's journal, which has to be written first.
    pub fn ask(&self) {
        for guard in self.at_work() {
            let journal = guard.journal.as_ref().filter(|journal| journal.world == World::here());
            // One whose place this process has taken has heard of it.
            let supervisor = journal.and_then(|journal| journal.supervisor);
            if let Some(supervisor) = supervisor.filter(|supervisor| Some(*supervisor) != ProcessId::own()) {
                let asked = supervisor.signal(ASK);
                tracing::debug!("guard {} {}", supervisor.pid, if asked { "asked to stop" } else { "is gone" });
            }
        }
    }

    /// Takes the place of each guard of which every process is dead: `finish` stops what it guarded.
    pub fn adopt_orphans(&mut self, finish: impl Fn(Orphan) -> LocalBoxFuture<'static, Option<Account>>) {
        for guard in self.at_work() {
            if guard.journal.is_none() {
                continue;
            }
            let name = guard.session.name().to_owned();
            if self.adopted.contains_key(&name) || !guard.processes().is_empty() {
                continue;
            }
            // A front, or a cleanup step, may have been quicker.
            let Ok(Some(claim)) = guard.session.claim() else { continue };
            // It may have come to its end meanwhile.
            let Ok(journal) = Journal::read(&guard.session) else { continue };
            if journal.account.ended.is_some() || !processes_of(&journal).is_empty() {
                continue;
            }
            tracing::warn!("the tfguard of {} was killed; this process takes its place", journal.account.program);
            self.adopted.insert(name.clone(), Adoption::UnderWay);
            let finished = finish(Orphan { session: guard.session, journal, _claim: claim });
            self.finishing.push(Box::pin(finished.map(|account| (name, account))));
        }
    }

    /// Goes on finishing what dead guards left; returns when that of one is finished.
    pub async fn finish_orphans(&mut self) {
        match self.finishing.next().await {
            Some((session, account)) => _ = self.adopted.insert(session, Adoption::Over(account.map(Box::new))),
            None => std::future::pending().await,
        }
    }

    /// Whether one of their sessions, which may tell of a lock, cannot be looked at just now.
    pub fn are_hidden(&self) -> bool {
        self.session.inner_or_why().any(|session| match session.map(|session| Journal::read(&session)) {
            Err(DirectoryError::Io { error, .. }) | Ok(Err(JournalError::Io { error, .. })) => may_pass(&error),
            Err(_) | Ok(_) => false,
        })
    }

    /// What each of them has to tell, in the order in which they began; and of which sessions nothing can be told although
    /// something may have been started in them, and why. In one look: what one misses, another need not.
    pub fn accounts(&self) -> (Vec<Account>, Vec<(String, String)>) {
        let (mut accounts, mut silent) = (Vec::new(), Vec::new());
        for session in self.session.inner_or_why() {
            let session = match session {
                Ok(session) => session,
                Err(DirectoryError::Io { path, error, .. }) => {
                    silent.push((path.display().to_string(), error.to_string()));
                    continue;
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    continue;
                }
            };
            match (self.adopted.get(session.name()), Journal::read(&session)) {
                (Some(Adoption::Over(Some(account))), _) => accounts.push((**account).clone()),
                (_, Ok(journal)) => accounts.push(journal.account),
                (_, Err(error)) if session.path_of(SessionFile::Child).exists() => {
                    silent.push((session.name().to_string_lossy().into_owned(), error.to_string()));
                }
                (_, Err(_)) => {}
            }
        }
        (accounts, silent)
    }
}

/// Whether looking again later may help: the system had no descriptor or no memory, or somebody was writing.
fn may_pass(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
        || error.kind() == io::ErrorKind::WouldBlock
}

/// What the guard around this one wants, if it wants a stop.
pub fn outer_request(outer: &SessionDir) -> Option<StopRequest> {
    let kill_at = Journal::read(outer).ok()?.kill_at?;
    // In whole seconds, as people read it.
    let left = kill_at.saturating_sub(monotonic_millis()).div_ceil(1000);
    Some(StopRequest::Outer { left: Some(Duration::from_secs(left)) })
}
