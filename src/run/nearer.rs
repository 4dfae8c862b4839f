//! Another tfguard, between this one and a Terraform: a shim below a guarded script, a guarded command that guards.
//!
//! Such a Terraform logs to both sessions, because each tfguard leaves the variable of the one above it as it is. So both
//! know whether it lives and which locks are its own. Only the nearest one interrupts it: the signal goes to that one's
//! front, which counts it as a request to stop, however many come.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::child::{LOG_FILES, environment_change};
use super::terraforms::process_surroundings;
use crate::command::Flavour;
use crate::session::{Journal, ProcessId, SessionDir};

/// The tfguard that is nearest to a Terraform, and not this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nearer {
    /// The process to ask for a stop; none if it is gone, of which its supervisor knows by itself.
    pub front: Option<ProcessId>,
}

impl Nearer {
    /// Who is between a Terraform and the session `own`, whose journal is `journal`; none if nobody is, or nobody any
    /// more, and nobody interrupted it. The nearer session is the later one, so of two that see the same Terraform never
    /// both leave it to the other.
    #[must_use]
    pub fn to(terraform: ProcessId, own: &SessionDir, journal: &Journal) -> Option<Self> {
        let (_, _, env) = process_surroundings(terraform)?;
        let logs = LOG_FILES.iter().filter_map(|name| env.get(OsStr::new(name)));
        let sessions = logs.filter_map(|log| session_of(Path::new(log))).filter(|session| session != own);
        let found = sessions.filter_map(|session| {
            let other = Journal::read(&session).ok()?;
            // Elsewhere its process IDs mean nothing.
            let is_nearer = other.account.started > journal.account.started && other.world == journal.world;
            let interrupts = session.is_claimed() == Some(true) || other.interrupted.includes(terraform);
            (is_nearer && interrupts).then_some(other)
        });
        let nearest = found.max_by_key(|other| other.account.started)?;
        Some(Self { front: nearest.front.filter(|front| front.is_alive()) })
    }
}

/// Whether another tfguard guards what runs in `env`, and no log variable of Terraform's is left for this one: the command
/// is that one's alone, which also knows its locks.
#[must_use]
pub fn is_guarded_above(env: &HashMap<OsString, OsString>) -> bool {
    let logs = LOG_FILES.iter().filter_map(|name| env.get(OsStr::new(name)));
    let mut above = logs.filter_map(|log| session_of(Path::new(log)));
    above.any(|session| session.is_claimed() == Some(true))
        && !environment_change(env, Path::new(""), Flavour::Unknown).logs
}

/// The session that has a log.
fn session_of(log: &Path) -> Option<SessionDir> {
    let session = SessionDir::open(log.parent()?).ok()?;
    (session.log() == log).then_some(session)
}
