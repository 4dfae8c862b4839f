//! Whether another process can take the place of a supervisor that is dead: who of its run is, or may be, alive.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{ProcessId, World};
use crate::session::alive::{Tree, is_log_held};
use crate::session::directory::{SessionDir, SessionFile};
use crate::session::journal::Journal;
use crate::session::process::POLL_INTERVAL;

/// Longer than the kernel takes to end what was killed, such as a Terraform and its memory.
const DYING: Duration = Duration::from_secs(5);

/// Whether something is still so when what was killed a moment ago, as by the end of a container, has had time to die.
pub async fn goes_on(until: Instant, is_so: impl Fn() -> bool) -> bool {
    let until = until.min(Instant::now() + DYING);
    while is_so() {
        if Instant::now() >= until {
            return true;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    false
}

/// Whether a journal is of the kernel that runs here. One that does not tell its boot ID may be any; then only a living
/// supervisor is proof, by its start time.
pub fn is_of_this_kernel(journal: &Journal) -> bool {
    let here = World::here().boot_id;
    journal.world.boot_id == here && (!here.is_empty() || journal.supervisor.is_some_and(ProcessId::is_alive))
}

/// Whether another process can take the place of a supervisor that is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoptable {
    /// It can.
    Yes,
    /// The run had not come to start its command.
    NothingStarted,
    /// A Terraform of another container still runs.
    Held,
    /// Whether one does cannot be known.
    Unknowable,
}

impl Adoptable {
    /// Looks. Where the session is of another PID namespace of this kernel (a container that is gone), nobody holds its log
    /// when everything in it is gone; until `until` that is waited for.
    pub async fn look(session: &SessionDir, journal: &Journal, until: Instant) -> Self {
        if !is_of_this_kernel(journal) {
            return Self::Unknowable;
        }
        let started = journal.child.is_some() || session.path_of(SessionFile::Child).exists();
        if journal.world == World::here() {
            return if started { Self::Yes } else { Self::NothingStarted };
        }
        let wrote_nothing = std::fs::metadata(session.log()).map_or(true, |log| log.len() == 0);
        if wrote_nothing && !started {
            return Self::NothingStarted;
        }
        let is_held = || journal.open_log(session).ok().and_then(|log| is_log_held(&log));
        match goes_on(until, || is_held() == Some(true)).await {
            true => Self::Held,
            false if is_held() == Some(false) => Self::Yes,
            false => Self::Unknowable,
        }
    }
}

/// Whether one of the processes that were left at the end is, or may be, still there.
pub fn may_be_alive(session: &SessionDir, journal: &Journal) -> bool {
    match journal.open_log(session) {
        Ok(log) if journal.world == World::here() => !Tree::look(journal.child.as_ref(), &log).is_gone(),
        Ok(log) => is_log_held(&log) != Some(false),
        // tfguard removes it only where everybody was seen to be gone.
        Err(error) => error.kind() != io::ErrorKind::NotFound || !journal.account.survivors.is_empty(),
    }
}
