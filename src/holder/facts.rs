//! What this machine knows of a lock's holder.

use std::ffi::OsString;
use std::path::Path;

use super::verdict::{Boot, Facts, Log, Processes, Session, Verdict, judge};
use super::{Holder, Recorded};
use crate::ci;
use crate::lock::{LockId, LockInfo};
use crate::observe::Grade;
use crate::report::LockAccount;
use crate::session::{Journal, ProcessId, SessionDir, Tree, World, is_log_held, nodename};

/// This machine: who it is, and which sessions it knows. Read once, asked about many locks.
#[derive(Debug)]
pub struct Machine {
    world: World,
    host: Option<String>,
    sessions: Vec<(SessionDir, Journal)>,
}

/// What is known of a lock's holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The holder: by the record beside the lock, else by a journal on this machine that names the lock.
    pub holder: Option<Holder>,
    /// Whether it lives.
    pub verdict: Verdict,
}

impl Machine {
    /// Looks at this machine, and at the sessions in the places that `env` tells.
    #[must_use]
    pub fn here(env: impl Fn(&str) -> Option<OsString>) -> Self {
        let sessions = SessionDir::all(env).into_iter().flat_map(with_inner);
        let journals = sessions.filter_map(|session| {
            let journal = Journal::read(&session).inspect_err(|error| tracing::debug!("{error}")).ok()?;
            Some((session, journal))
        });
        Self { world: World::here(), host: nodename().filter(|name| !name.is_empty()), sessions: journals.collect() }
    }

    /// Judges the holder of a lock by what was found beside it and by what this machine knows.
    #[must_use]
    pub fn judge(&self, info: &LockInfo, recorded: &Recorded) -> Judged {
        // A journal that names the lock is as good as a record.
        let known = self.sessions.iter().find(|(_, journal)| names(journal, &info.id));
        let holder = match (recorded.holder(), known) {
            (Some(holder), _) => holder.clone(),
            (None, Some((session, journal))) => {
                let Ok(lock) = info.id.parse::<LockId>() else { return self.without_record(info, recorded) };
                Holder::of_session(journal, session, lock)
            }
            (None, None) => return self.without_record(info, recorded),
        };
        let verdict = judge(&holder, &self.facts(&holder, known));
        Judged { holder: Some(holder), verdict }
    }

    /// Whether a session of a CI job on this machine holds a lock.
    #[must_use]
    pub fn is_of_job(&self, lock: &str, job: Option<&ci::Run>, runner: Option<&str>) -> bool {
        let is_of_it = |journal: &Journal| journal.account.ci.as_ref() == job && journal.may_be_of_runner(runner);
        job.is_some_and(ci::Run::names_its_job)
            && self.sessions.iter().any(|(_, journal)| names(journal, lock) && is_of_it(journal))
    }

    /// There is only what the lock says itself, which proves nothing.
    fn without_record(&self, info: &LockInfo, recorded: &Recorded) -> Judged {
        let record = match recorded {
            Recorded::Foreign(why) => why.as_str(),
            _ => "tfguard recorded no holder",
        };
        let host = info.who.rsplit_once('@').map(|(_, host)| host).filter(|host| !host.is_empty());
        let hint = match (host, &self.host) {
            (Some(host), Some(own)) if host == own => format!("; it names {host}, as this machine is called, too"),
            (Some(host), _) => format!("; it names the host {host}"),
            (None, _) => String::new(),
        };
        Judged { holder: None, verdict: Verdict::Unknown { why: format!("{record}{hint}") } }
    }

    fn boot_of(&self, world: &World) -> Boot {
        if world.boot_id.is_empty() || self.world.boot_id.is_empty() {
            Boot::Hidden
        } else if world.boot_id == self.world.boot_id {
            Boot::Same
        } else {
            Boot::Other { same_name: false }
        }
    }

    fn facts(&self, holder: &Holder, known: Option<&(SessionDir, Journal)>) -> Facts {
        let boot = match self.boot_of(&holder.world) {
            Boot::Other { .. } => Boot::Other { same_name: self.host.is_some() && holder.host == self.host },
            boot => boot,
        };
        let found = match (known, &holder.session) {
            (Some((session, journal)), _) => Ok(Some((session.clone(), journal.clone()))),
            (None, Some(path)) if boot == Boot::Same => open(path, holder),
            (None, _) => Ok(None),
        };
        // Whoever took a session over is in its journal, not in the record.
        let (world, supervisor, child) = match &found {
            Ok(Some((_, journal))) => (&journal.world, journal.supervisor, journal.child),
            _ => (&holder.world, holder.supervisor, holder.child),
        };
        let here = boot == Boot::Same && *world == self.world;
        let lives = |process: Option<ProcessId>| process.is_some_and(ProcessId::is_alive);
        let processes =
            here.then(|| Processes { supervisor: lives(supervisor), child: lives(child.map(|child| child.id)) });
        let session = match found {
            Ok(Some((session, journal))) => look_at(&session, &journal, boot == Boot::Same, here),
            Ok(None) => Session::NotHere,
            Err(why) => Session::Unreadable(why),
        };
        Facts { boot, processes, session }
    }
}

/// A session and those of the guards below it.
fn with_inner(session: SessionDir) -> Vec<SessionDir> {
    let below = session.inner().into_iter().flat_map(with_inner).collect::<Vec<_>>();
    std::iter::once(session).chain(below).collect()
}

/// Whether a lock is a session's by what its Terraform logged. One that only fits by what it says itself is in the
/// journal too, and may be somebody else's.
fn names(journal: &Journal, lock: &str) -> bool {
    let logged = |account: &&LockAccount| account.grade != Grade::Item;
    journal.account.locks.iter().filter(logged).any(|account| account.claim.id.as_str() == lock)
}

/// The session in a recorded place. Containers of one machine can have sessions of one name, so it counts only if its
/// journal names the lock.
fn open(path: &Path, holder: &Holder) -> Result<Option<(SessionDir, Journal)>, String> {
    if matches!(std::fs::symlink_metadata(path), Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let session = SessionDir::open(path).map_err(|error| error.to_string())?;
    let journal = Journal::read(&session).map_err(|error| error.to_string())?;
    let same = journal.world.boot_id == holder.world.boot_id && names(&journal, holder.lock.as_str());
    Ok(same.then_some((session, journal)))
}

/// `kernel`: it is this kernel's; `here`: it is of this PID namespace, too.
fn look_at(session: &SessionDir, journal: &Journal, kernel: bool, here: bool) -> Session {
    let concluded = journal.account.ended.filter(|_| journal.account.survivors.is_empty());
    let mut facts = (Log::Untold, Vec::new(), false);
    if kernel {
        facts.0 = match journal.open_log(session) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Log::Missing,
            Err(_) => Log::Untold,
            Ok(log) => {
                if here {
                    let tree = Tree::look(journal.child.as_ref(), &log);
                    facts.1 = tree.survivors.iter().map(|found| format!("{} ({})", found.name, found.id.pid)).collect();
                    facts.2 = tree.hidden;
                }
                match is_log_held(&log) {
                    Some(true) => Log::Held,
                    Some(false) => Log::Free,
                    None => Log::Untold,
                }
            }
        };
    }
    let (log, group, hidden) = facts;
    let supervised = kernel.then(|| session.is_claimed()).flatten();
    Session::Here { concluded, supervised, log, group, hidden }
}
