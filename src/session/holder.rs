//! What this machine knows of a lock's holder.

use std::path::Path;

use crate::model;
use crate::model::{
    Boot, Environment, Facts, Grade, Holder, Liveness, LockAccount, LockId, LockInfo, Log, Origin, ProcessId,
    Processes, Recorded, Run, SCHEMA, Session, World, judge,
};
use crate::session::alive::{LogHolder, Tree, is_log_held};
use crate::session::directory::SessionDir;
use crate::session::journal::Journal;
use crate::session::process::nodename;
use crate::text::without_user;

/// No text in a record is longer (in characters); a link that is cut is useless, so a longer one is left out.
const LONGEST: usize = 200;

/// This machine: who it is, and which sessions it knows. Read once, asked about many locks.
#[derive(Debug)]
pub struct Machine {
    world: World,
    host: Option<String>,
    sessions: Vec<(SessionDir, Journal)>,
    /// The living Terraforms of sessions, also of those in other places, and the journals of these.
    living: Vec<(LogHolder, Option<Journal>)>,
}

/// What is known of a lock's holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The holder: by the record beside the lock, else by a journal on this machine that names the lock.
    pub holder: Option<Holder>,
    /// Whether it lives.
    pub verdict: Liveness,
}

impl Machine {
    /// Looks at this machine, and at the sessions in the places that `env` tells.
    pub fn here(env: &Environment) -> Self {
        let sessions = SessionDir::all(env).into_iter().flat_map(with_inner);
        let journals = sessions.filter_map(|session| {
            let journal = Journal::read(&session).inspect_err(|error| tracing::debug!("{error}")).ok()?;
            Some((session, journal))
        });
        let living = LogHolder::all().into_iter().map(|holder| {
            let journal =
                holder.journal().inspect_err(|error| tracing::debug!("{}: {error}", holder.session.display()));
            let journal = journal.ok();
            (holder, journal)
        });
        Self {
            world: World::here(),
            host: nodename().filter(|name| !name.is_empty()),
            sessions: journals.collect(),
            living: living.collect(),
        }
    }

    /// The living Terraforms of sessions that may have a lock, although no journal names it: who would write it there may
    /// be dead.
    pub fn may_hold(&self, lock: &str) -> impl Iterator<Item = &LogHolder> {
        let is_kept =
            |journal: &Journal| journal.world == self.world && journal.supervisor.is_some_and(ProcessId::is_alive);
        let may = move |(holder, journal): &&(LogHolder, Option<Journal>)| {
            !journal.as_ref().is_some_and(is_kept) && holder.log_has(lock)
        };
        self.living.iter().filter(may).map(|(holder, _)| holder)
    }

    /// Judges the holder of a lock by what was found beside it and by what this machine knows.
    pub fn judge(&self, info: &LockInfo, recorded: &Recorded) -> Judged {
        // A journal that names the lock is as good as a record.
        let known = self.sessions.iter().find(|(_, journal)| names(journal, &info.id));
        let living = self.living.iter().find_map(|(holder, journal)| {
            journal.as_ref().filter(|journal| names(journal, &info.id)).map(|journal| (holder, journal))
        });
        let told = known.map(|(session, journal)| (journal, session.path()));
        let told = told.or(living.map(|(holder, journal)| (journal, holder.session.as_path())));
        let holder = match (recorded.holder(), told, info.id.parse::<LockId>()) {
            (Some(holder), _, _) => holder.clone(),
            (None, Some((journal, session)), Ok(lock)) => Holder::of_session(journal, session, lock),
            (None, _, _) => return self.without_record(info, recorded),
        };
        let verdict = match living {
            Some((LogHolder { id, name, .. }, _)) => {
                let why = format!("{name} (process {}), a Terraform of the run, has the run's log open", id.pid);
                Liveness::Alive { why }
            }
            None => judge(&holder, &self.facts(&holder, known)),
        };
        Judged { holder: Some(holder), verdict }
    }

    /// Whether a session of a CI job on this machine holds a lock.
    pub fn is_of_job(&self, lock: &str, job: Option<&model::Run>, runner: Option<&str>) -> bool {
        let is_of_it = |journal: &Journal| journal.account.ci.as_ref() == job && journal.may_be_of_runner(runner);
        job.is_some_and(model::Run::names_its_job)
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
        Judged { holder: None, verdict: Liveness::Unknown { why: format!("{record}{hint}") } }
    }

    fn facts(&self, holder: &Holder, known: Option<&(SessionDir, Journal)>) -> Facts {
        let [theirs, ours] = [&holder.world, &self.world].map(|world| world.boot_id.as_str());
        let boot = match theirs {
            "" => Boot::Hidden,
            _ if ours.is_empty() => Boot::Hidden,
            _ if theirs == ours => Boot::Same,
            _ => Boot::Other { same_name: self.host.is_some() && holder.host == self.host },
        };
        // Whoever took a session over is in its journal, not in the record.
        let (world, supervisor, child) = match known {
            Some((_, journal)) => (&journal.world, journal.supervisor, journal.child),
            None => (&holder.world, holder.supervisor, holder.child),
        };
        let here = boot == Boot::Same && *world == self.world;
        let lives = |process: Option<ProcessId>| process.is_some_and(ProcessId::is_alive);
        let processes =
            here.then(|| Processes { supervisor: lives(supervisor), child: lives(child.map(|child| child.id)) });
        // The path in the record is somebody's text: nothing is opened by it.
        let session =
            known.map_or(Session::NotHere, |(session, journal)| look_at(session, journal, boot == Boot::Same, here));
        Facts { boot, processes, session }
    }
}

/// A session and those of the guards below it.
fn with_inner(session: SessionDir) -> Vec<SessionDir> {
    let below = session.inner().flat_map(with_inner).collect::<Vec<_>>();
    std::iter::once(session).chain(below).collect()
}

/// Whether a lock is a session's by what its Terraform logged. One that only fits by what it says itself is in the
/// journal too, and may be somebody else's.
fn names(journal: &Journal, lock: &str) -> bool {
    let logged = |account: &&LockAccount| account.grade != Grade::Item;
    journal.account.locks.iter().filter(logged).any(|account| account.claim.id.as_str() == lock)
}

/// `kernel`: it is this kernel's; `here`: it is of this PID namespace, too.
fn look_at(session: &SessionDir, journal: &Journal, kernel: bool, here: bool) -> Session {
    let concluded = journal.account.ended.filter(|_| journal.account.survivors.is_empty());
    let open = kernel.then(|| journal.open_log(session));
    let log = match &open {
        Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Log::Missing,
        Some(Ok(log)) => is_log_held(log).map_or(Log::Untold, |held| if held { Log::Held } else { Log::Free }),
        _ => Log::Untold,
    };
    let tree = open.and_then(Result::ok).filter(|_| here).map(|log| Tree::look(journal.child.as_ref(), &log));
    let Tree { survivors, hidden } = tree.unwrap_or_default();
    let group = survivors.iter().map(|found| format!("{} ({})", found.name, found.id.pid)).collect();
    let supervised = kernel.then(|| session.is_claimed()).flatten();
    Session::Here { concluded, supervised, log, group, hidden }
}

/// What a session records of itself beside its lock.
impl Holder {
    /// The record of a session that holds a lock, as its journal tells it.
    pub fn of_session(journal: &Journal, session: &Path, lock: LockId) -> Self {
        let run = journal.account.ci.clone().map(|run| Run {
            url: run.url.map(without_user).filter(|url| url.chars().count() <= LONGEST),
            job: run.job.and_then(bounded),
            attempt: run.attempt.and_then(bounded),
            ..run
        });
        Self {
            schema: SCHEMA,
            lock,
            tfguard: journal.account.tfguard.clone(),
            started: journal.account.started,
            ci: run,
            origin: Origin::default(),
            host: journal.nodename.clone().and_then(bounded),
            world: journal.world.clone(),
            supervisor: journal.supervisor,
            child: journal.child,
            session: (session.as_os_str().len() <= 4 * LONGEST).then(|| session.to_owned()),
        }
    }

    /// With what the run's environment tells besides.
    pub fn with_environment(self, env: &Environment) -> Self {
        let Origin { commit, actor, runner } = Origin::detect(env);
        let origin = Origin {
            commit: commit.and_then(bounded),
            actor: actor.and_then(bounded),
            runner: runner.and_then(bounded),
        };
        Self { origin, ..self }
    }
}

/// Cut to what a record may hold; none if there is nothing.
fn bounded(text: String) -> Option<String> {
    let text: String = text.chars().take(LONGEST).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_holds_no_password_and_no_endless_text() {
        for (url, kept) in [
            ("https://u:secret@ci.example.com/a@b", "https://ci.example.com/a@b"),
            ("https://u:s@cret@ci.example.com", "https://ci.example.com"),
            ("https://ci.example.com/a@b", "https://ci.example.com/a@b"),
            ("https://ci.example.com?u=a@b", "https://ci.example.com?u=a@b"),
            ("no link", "no link"),
        ] {
            assert_eq!(without_user(url.to_owned()), kept);
        }
        assert_eq!(bounded("\u{e4}".repeat(1000)).unwrap().chars().count(), LONGEST);
        assert_eq!(bounded(String::new()), None);
    }
}
