//! The guards below this one: each Terraform that the command calls by name has one.
//!
//! Their sessions lie inside this one. They alone interrupt and release. This guard asks them to stop, all at once, waits
//! for them, finishes what a dead one left, and puts their accounts into its own.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::model::{Account, ProcessId, StopRequest, World};
use crate::session::{DirectoryError, Journal, JournalError, SessionDir, SessionFile, monotonic_millis};

/// The signal by which a guard asks the guards below it to stop.
pub const ASK: Signal = Signal::SIGUSR2;

/// How long a session without a journal is taken for one whose guard is just starting.
const STARTING: Duration = Duration::from_secs(5);
/// How long this process tries to take a dead guard's place where the system has no room for it, once at each look.
const TRIED_FOR: Duration = Duration::from_secs(30);

/// The guards below this one.
pub struct InnerGuards {
    session: SessionDir,
    /// The sessions of those that died, and what became of each once that is known. Then nobody waits for it any more,
    /// whatever its journal says: that may have been impossible to write.
    adopted: HashMap<OsString, Adoption>,
    /// What finishes them; gives the session, when that was tried first, and how it went.
    finishing: FuturesUnordered<LocalBoxFuture<'static, (OsString, Instant, Finished)>>,
}

/// The account of a dead guard's session, unless nothing was started in it or it cannot be finished from here. An error where the
/// system has no descriptor or no memory for it just now.
pub type Finished = io::Result<Option<Account>>;

/// How far this process is with the session of a guard that died.
enum Adoption {
    UnderWay,
    /// To be tried again; since when it is.
    Postponed(Instant),
    /// With its account, if there is one.
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
    pub fn adopt_orphans(&mut self, finish: impl Fn(SessionDir, Journal) -> LocalBoxFuture<'static, Finished>) {
        for guard in self.at_work() {
            if guard.journal.is_none() {
                continue;
            }
            let name = guard.session.name().to_owned();
            let tried = match self.adopted.get(&name) {
                None => None,
                Some(Adoption::Postponed(since)) => Some(*since),
                Some(Adoption::UnderWay | Adoption::Over(_)) => continue,
            };
            if !guard.processes().is_empty() {
                continue;
            }
            // A front, or a cleanup step, may have been quicker.
            let Ok(Some(claim)) = guard.session.claim() else { continue };
            // It may have come to its end meanwhile.
            let Ok(journal) = Journal::read(&guard.session) else { continue };
            if journal.account.ended.is_some() || !processes_of(&journal).is_empty() {
                continue;
            }
            let since = tried.unwrap_or_else(|| {
                tracing::warn!("the tfguard of {} was killed; this process takes its place", journal.account.program);
                Instant::now()
            });
            self.adopted.insert(name.clone(), Adoption::UnderWay);
            let finished = finish(guard.session, journal).map(move |finished| {
                // Until then nobody else takes its place.
                drop(claim);
                (name, since, finished)
            });
            self.finishing.push(Box::pin(finished));
        }
    }

    /// Goes on finishing what dead guards left; returns when that of one is finished.
    pub async fn finish_orphans(&mut self) {
        let Some((session, since, finished)) = self.finishing.next().await else { return std::future::pending().await };
        let adoption = match finished {
            Ok(account) => Adoption::Over(account.map(Box::new)),
            Err(_) if since.elapsed() < TRIED_FOR => Adoption::Postponed(since),
            Err(error) => {
                tracing::warn!("this process cannot take the place of a tfguard that was killed: {error}");
                Adoption::Over(None)
            }
        };
        self.adopted.insert(session, adoption);
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
pub fn may_pass(error: &io::Error) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of a session with one that is dead, and whose place this process tries to take, in vain.
    fn not_now() -> (InnerGuards, tempfile::TempDir) {
        let place = tempfile::tempdir().unwrap();
        let outer = SessionDir::create(&[("TFGUARD_DIR", place.path())].into_iter().collect()).unwrap();
        Journal::new(Account::default()).write(&outer.create_inside().unwrap()).unwrap();
        let mut guards = InnerGuards::of(&outer);
        guards.adopt_orphans(|_, _| Box::pin(async { Err(io::Error::from_raw_os_error(libc::EMFILE)) }));
        (guards, place)
    }

    /// Guards the lock below a script whose guard died while the machine had no descriptor for another one.
    #[tokio::test]
    async fn a_dead_guard_whose_place_cannot_be_taken_just_now_is_tried_again() {
        let (mut guards, _place) = not_now();
        guards.finish_orphans().await;
        assert_eq!(guards.at_work().len(), 1, "it is waited for");
        guards.adopt_orphans(|_, _| Box::pin(async { Ok(Some(Account::default())) }));
        guards.finish_orphans().await;
        assert_eq!((guards.at_work().len(), guards.accounts().0.len()), (0, 1));
    }

    /// Guards against a run that waits for ever where that never changes.
    #[tokio::test(start_paused = true)]
    async fn after_a_while_it_is_given_up() {
        let (mut guards, _place) = not_now();
        tokio::time::advance(TRIED_FOR).await;
        guards.finish_orphans().await;
        assert_eq!((guards.at_work().len(), guards.accounts().0.len()), (0, 1), "its journal tells");
    }
}
