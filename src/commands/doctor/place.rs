//! The place of tfguard's sessions, and what the system under it can do.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use rustix::process::{PidfdFlags, pidfd_open};

use super::finding::Area::{Machine, Session};
use super::finding::Finding;
use crate::ci::Provider;
use crate::session::{DirectoryError, Journal, ProcessId, SessionDir, World, create_file, is_log_held};

/// Less is too little for the output and the log of a long run.
const LITTLE_SPACE: u64 = 200 * 1024 * 1024;

/// What was seen.
#[derive(Debug)]
pub struct Place {
    /// A session could be made here: its directory, now removed.
    pub session: Result<PathBuf, DirectoryError>,
    /// A log there shows whether somebody writes to it: the file system grants leases.
    pub leases: bool,
    /// Free bytes there, for this user.
    pub free: Option<u64>,
    /// Sessions that are there.
    pub left: Vec<(String, Life)>,
    /// The kernel has pidfds.
    pub pidfd: bool,
    /// An inotify instance could be had.
    pub inotify: bool,
}

/// What is known of a session's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// One of them lives.
    Alive,
    /// None of those that its journal names lives.
    Dead,
    /// It is of another container or boot, or its journal cannot be read.
    Unknown,
}

impl Life {
    fn of(session: &SessionDir) -> Self {
        let Ok(journal) = Journal::read(session) else { return Self::Unknown };
        if journal.world != World::here() {
            return Self::Unknown;
        }
        let child = journal.child.map(|child| child.id);
        let processes = [journal.front, journal.supervisor, child];
        if processes.into_iter().flatten().any(ProcessId::is_alive) { Self::Alive } else { Self::Dead }
    }
}

/// Looks. It makes a session directory and removes it again.
#[must_use]
pub fn look() -> Place {
    let variable = |name: &str| std::env::var_os(name);
    let left = SessionDir::all(variable)
        .iter()
        .map(|session| (session.path().display().to_string(), Life::of(session)))
        .collect();
    let (mut leases, mut free) = (false, None);
    let session = SessionDir::create(variable).map(|session| {
        leases = has_leases(&session.log());
        free = rustix::fs::statvfs(session.path()).ok().map(|place| place.f_bavail.saturating_mul(place.f_frsize));
        let path = session.path().to_owned();
        session.remove();
        path
    });
    let own = rustix::process::getpid();
    Place {
        session,
        leases,
        free,
        left,
        pidfd: pidfd_open(own, PidfdFlags::empty()).is_ok(),
        inotify: inotify::init(inotify::CreateFlags::CLOEXEC).is_ok(),
    }
}

fn has_leases(log: &Path) -> bool {
    let Ok(writer) = create_file(log) else { return false };
    let Ok(reader) = File::open(log) else { return false };
    let held = is_log_held(&reader);
    drop(writer);
    held == Some(true) && is_log_held(&reader) == Some(false)
}

/// What follows.
#[must_use]
pub fn findings(place: &Place, provider: Option<Provider>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &place.session {
        Ok(path) => findings.push(session_place(path, provider)),
        Err(error) => findings.push(
            Finding::problem(Session, "session-place", error.to_string())
                .why("without a session directory tfguard does not start the command (exit code 125)"),
        ),
    }
    if place.session.is_ok() && !place.leases {
        findings.push(
            Finding::warning(
                Session,
                "leases",
                "the file system of the session directory does not tell who has a file open",
            )
            .why("after another container or user it cannot be proved that Terraform is gone, so its lock stays")
            .fix("set TFGUARD_DIR to a directory on a local file system (ext4, xfs, tmpfs, overlay)"),
        );
    }
    if let Some(free) = place.free.filter(|free| *free < LITTLE_SPACE) {
        findings.push(
            Finding::warning(Session, "space", format!("{} MiB are free for sessions", free / (1024 * 1024)))
                .why("what Terraform prints and logs is kept there while it runs; where it is full, words are lost and the lock may not be learned")
                .fix("free some space, or set TFGUARD_DIR to a larger place"),
        );
    }
    for (session, life) in &place.left {
        findings.push(match life {
            Life::Alive => Finding::note(Session, "session-running", format!("a run is under way: {session}")),
            Life::Unknown => Finding::note(Session, "session-elsewhere", format!("there is a session of another container or boot, or with a journal that cannot be read: {session}"))
                .why("whether its run lives cannot be told by its processes; `tfguard release` in its job can tell by its log"),
            Life::Dead => Finding::warning(Session, "session-left", format!("a run left its session: {session}"))
                .why("its lock may still be there, and what Terraform printed or logged")
                .fix("run `tfguard release` in the job that it is of; once nobody needs it, remove the directory"),
        });
    }
    if !place.pidfd {
        findings.push(
            Finding::note(Machine, "pidfd", "this kernel has no pidfds, or a sandbox denies them")
                .why("tfguard looks at processes five times a second instead of being told"),
        );
    }
    if !place.inotify {
        findings.push(
            Finding::note(Machine, "inotify", "no inotify instance can be had")
                .why("tfguard looks at Terraform's log five times a second instead of being told")
                .fix("raise fs.inotify.max_user_instances"),
        );
    }
    if place.pidfd && place.inotify {
        findings.push(Finding::ok(Machine, "kernel", "pidfds and inotify can be had"));
    }
    findings
}

/// Whether the cleanup step of the same job will find it.
fn session_place(path: &Path, provider: Option<Provider>) -> Finding {
    const ID: &str = "session-place";
    let place = path.parent().unwrap_or(path).display();
    let under = |name: &str| std::env::var_os(name).is_some_and(|dir| !dir.is_empty() && path.starts_with(dir));
    let shared = match provider {
        Some(Provider::GithubActions) => "RUNNER_TEMP",
        Some(Provider::Gitlab) => "CI_PROJECT_DIR",
        Some(Provider::Jenkins) => "WORKSPACE_TMP",
        Some(Provider::Azure) => "AGENT_TEMPDIRECTORY",
        Some(Provider::Buildkite) => "BUILDKITE_BUILD_CHECKOUT_PATH",
        Some(Provider::Circleci | Provider::Other) | None => {
            return Finding::ok(Session, ID, format!("sessions go to {place}"));
        }
    };
    if under(shared) {
        return Finding::ok(Session, ID, format!("sessions go to {place}, which later steps of the job see"));
    }
    Finding::note(Session, ID, format!("sessions go to {place}, which is not below {shared}"))
        .why("a cleanup step in another container of the job may not see it, and then has nothing to go by")
        .fix(format!(
            "set TFGUARD_DIR to a directory that all steps of the job see, or let {shared} name one that can be written"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Severity;

    fn ids(place: &Place) -> Vec<(&'static str, Severity)> {
        findings(place, None).iter().map(|found| (found.id, found.severity)).collect()
    }

    #[test]
    fn what_is_missing_is_told() {
        let good = || Place {
            session: Ok("/run/tfguard/x".into()),
            leases: true,
            free: Some(u64::MAX),
            left: Vec::new(),
            pidfd: true,
            inotify: true,
        };
        assert_eq!(ids(&good()), [("session-place", Severity::Ok), ("kernel", Severity::Ok)]);
        let bad = Place {
            leases: false,
            free: Some(5),
            left: vec![("a".to_owned(), Life::Alive), ("b".to_owned(), Life::Dead), ("c".to_owned(), Life::Unknown)],
            pidfd: false,
            inotify: false,
            ..good()
        };
        let expected = [
            ("session-place", Severity::Ok),
            ("leases", Severity::Warning),
            ("space", Severity::Warning),
            ("session-running", Severity::Note),
            ("session-left", Severity::Warning),
            ("session-elsewhere", Severity::Note),
            ("pidfd", Severity::Note),
            ("inotify", Severity::Note),
        ];
        assert_eq!(ids(&bad), expected);
        let none = Place { session: Err(DirectoryError::Symlink("/x".into())), leases: false, ..good() };
        assert_eq!(ids(&none), [("session-place", Severity::Problem), ("kernel", Severity::Ok)]);
    }

    #[test]
    fn leases_are_tried_on_a_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(has_leases(&dir.path().join("log")));
        assert!(!has_leases(&dir.path().join("missing/log")));
    }
}
