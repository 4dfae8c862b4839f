//! The session directory: the one place for everything durable of a run.
//!
//! Terraform's log and output can hold secrets, so the directory is private (0700), owned by us and checked on the way
//! down (P7). It is made by the front and removed once everything is accounted for.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often, and at which intervals, who begins a session tries to claim it.
const CLAIM_TRIES: u32 = 1000;
const CLAIM_EVERY: Duration = Duration::from_millis(1);

/// Where sessions live when the user names no place, in this order: places that the cleanup step of the same CI job
/// can read, then the user's own run-time directory.
const PLACES: &[&str] = &[
    "RUNNER_TEMP",
    "CI_PROJECT_DIR",
    "WORKSPACE_TMP",
    "AGENT_TEMPDIRECTORY",
    "BUILDKITE_BUILD_CHECKOUT_PATH",
    "XDG_RUNTIME_DIR",
];

/// What is wrong with the place for sessions, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A part of the way is a symbolic link.
    #[error("{path} is a symbolic link; point TFGUARD_DIR to the directory itself, or remove the link", path = .0.display())]
    Symlink(PathBuf),
    /// A part of the way is no directory.
    #[error("{path} is not a directory; remove it or set TFGUARD_DIR to another place", path = .0.display())]
    NotADirectory(PathBuf),
    /// Somebody else's.
    #[error("{path} belongs to user {owner}, not to user {own}; set TFGUARD_DIR to a directory of your own", path = .path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who tfguard runs as.
        own: u32,
    },
    /// Others could change what tfguard writes.
    #[error("{path} can be written by others (mode {mode:04o}); run `chmod go-w` on it or set TFGUARD_DIR to another place", path = .path.display())]
    WritableByOthers {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused.
    #[error("cannot {doing} {path}: {error}; free some space or set TFGUARD_DIR to a writable directory", path = .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
}

/// The directory of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionDir {
    path: PathBuf,
}

impl SessionDir {
    /// Makes a new session directory in the place that `env` tells.
    pub fn create(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self, DirectoryError> {
        let set = |name: &&str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(dir) = set(&"TFGUARD_DIR") {
            // With a slash at its end, a link would be followed unseen.
            let dir: PathBuf = dir.components().collect();
            check_chosen(&dir)?;
            return Self::create_below(&dir.join("tfguard"));
        }
        for place in PLACES.iter().filter_map(set) {
            // A CI variable may name a place that does not exist here (in a container): the next one serves as well.
            // What is wrong with a place of ours inside it is an error: somebody meddles with it.
            match Self::create_below(&place.join("tfguard")) {
                Err(DirectoryError::Io { doing, path, error }) => {
                    tracing::debug!("no session in {}: cannot {doing}: {error}", path.display());
                }
                made => return made,
            }
        }
        // The temporary directory is shared by all users, so each has a directory of its own there.
        let user = nix::unistd::geteuid();
        Self::create_below(&std::env::temp_dir().join(format!("tfguard-{user}")))
    }

    /// Every session in the places that `env` tells, in the order in which they began. What is not safe to look at is
    /// told and passed over.
    pub fn all(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> Vec<Self> {
        let (sessions, refused) = Self::all_and_refused(env);
        for error in refused {
            tracing::warn!("{error}");
        }
        sessions
    }

    /// The same, and why a place, or what lies in one, is not looked at although a session may be in it. What can hold
    /// none is told and passed over.
    pub fn all_and_refused(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> (Vec<Self>, Vec<DirectoryError>) {
        let set = |name: &&str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut roots: Vec<PathBuf> = match set(&"TFGUARD_DIR") {
            Some(dir) => vec![dir.join("tfguard")],
            None => PLACES.iter().filter_map(set).map(|place| place.join("tfguard")).collect(),
        };
        let shared = std::env::temp_dir().join(format!("tfguard-{}", nix::unistd::geteuid()));
        roots.push(shared.clone());
        let chosen = set(&"TFGUARD_DIR").is_some();
        // A run would not have begun there: it would have gone to the next place, or have refused to go where everybody
        // can put something under the name of this user's place.
        let holds_none = |root: &Path, error: &DirectoryError| match error {
            DirectoryError::Io { .. } => !chosen || root == shared,
            DirectoryError::WritableByOthers { .. } => false,
            _ => root == shared,
        };
        let (mut sessions, mut refused) = (Vec::new(), Vec::new());
        let mut pass_over = |holds_none: bool, error: DirectoryError| match &error {
            // What is not there was never made, or another run that just ended took it away.
            DirectoryError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => {}
            _ if holds_none => tracing::warn!("{error}"),
            _ => refused.push(error),
        };
        for root in &roots {
            if let Err(error) = check_private(root) {
                pass_over(holds_none(root, &error), error);
                continue;
            }
            let entries = match std::fs::read_dir(root) {
                Ok(entries) => entries.flatten(),
                Err(error) => {
                    pass_over(false, io_error("read", root)(error));
                    continue;
                }
            };
            for entry in entries {
                match Self::open(&entry.path()) {
                    Ok(session) => sessions.push(session),
                    Err(error) => pass_over(matches!(error, DirectoryError::NotADirectory(_)), error),
                }
            }
        }
        sessions.sort_by(|one, other| one.name().cmp(other.name()));
        (sessions, refused)
    }

    fn create_below(root: &Path) -> Result<Self, DirectoryError> {
        let root = std::path::absolute(root).map_err(io_error("find", root))?;
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
        let pid = std::process::id();
        for n in 0..100 {
            let path = root.join(format!("{stamp}-{pid}-{n}"));
            match make_root(&root).and_then(|()| make_private(&path).map_err(io_error("create", &path))) {
                // A session of the same name is there, or another run that just ended took the root away with it.
                Err(DirectoryError::Io { path: gone, error, .. })
                    if (error.kind() == io::ErrorKind::AlreadyExists && gone == path)
                        || (error.kind() == io::ErrorKind::NotFound && root.parent().is_some_and(Path::is_dir)) => {}
                made => return made.map(|()| Self { path }),
            }
        }
        Err(io_error("create", &root)(io::ErrorKind::AlreadyExists.into()))
    }

    /// An existing session directory, checked.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        check_private(path)?;
        Ok(Self { path: path.to_owned() })
    }

    /// How long nothing was made or removed in it; none if the clocks do not tell.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        std::fs::symlink_metadata(&self.path).ok()?.modified().ok()?.elapsed().ok()
    }

    /// The session's name.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal.json")
    }

    /// The file to which Terraform logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("terraform.log")
    }

    /// The spool of the child's stdout.
    #[must_use]
    pub fn stdout(&self) -> PathBuf {
        self.path.join("stdout")
    }

    /// The spool of the child's stderr, where that is not the same as stdout.
    #[must_use]
    pub fn stderr(&self) -> PathBuf {
        self.path.join("stderr")
    }

    /// What the child wrote of itself before it became the command: its line of `/proc/self/stat`.
    #[must_use]
    pub fn child(&self) -> PathBuf {
        self.path.join("child")
    }

    /// How much of the spools the front has passed on: the bytes of stdout and of stderr, eight bytes each.
    #[must_use]
    pub fn progress(&self) -> PathBuf {
        self.path.join("progress")
    }

    /// Becomes the one that supervises the session, for as long as the file is kept: the system gives the place free
    /// when its holder dies. None while somebody else has it.
    pub fn claim(&self) -> Result<Option<File>, DirectoryError> {
        let path = self.path.join("supervisor.lock");
        let file =
            File::options().create(true).append(true).mode(0o600).open(&path).map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
        }
    }

    /// The same for who begins the session, while others may look whether it is claimed, for an instant. None where somebody
    /// keeps it: a `tfguard release`, which ends what did not begin.
    pub fn claim_first(&self) -> Result<Option<File>, DirectoryError> {
        for _ in 0..CLAIM_TRIES {
            if let Some(claim) = self.claim()? {
                return Ok(Some(claim));
            }
            std::thread::sleep(CLAIM_EVERY);
        }
        Ok(None)
    }

    /// Whether somebody supervises the session, on this kernel in whichever PID namespace; none where that cannot be told.
    #[must_use]
    pub fn is_claimed(&self) -> Option<bool> {
        let file = File::open(self.path.join("supervisor.lock")).ok()?;
        // Given back at once: who claims the session at this very moment looks again a moment later.
        match file.try_lock_shared() {
            Ok(()) => Some(false),
            Err(std::fs::TryLockError::WouldBlock) => Some(true),
            Err(std::fs::TryLockError::Error(_)) => None,
        }
    }

    /// Has the front leave the session in its place when all is over, for as long as the file is kept: a `tfguard release`
    /// will tell what became of it, and remove it. None where that cannot be had, or the session is gone.
    #[must_use]
    pub fn attend(&self) -> Option<File> {
        let file = File::options().create(true).append(true).mode(0o600).open(self.path.join("release.lock")).ok()?;
        file.try_lock_shared().is_ok().then_some(file)
    }

    /// Whether a `tfguard release` will remove the session.
    #[must_use]
    pub fn is_attended(&self) -> bool {
        let file = File::open(self.path.join("release.lock"));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
    }

    /// What the supervisor wrote to its stderr; nothing but a panic's words.
    #[must_use]
    pub fn supervisor_stderr(&self) -> PathBuf {
        self.path.join("supervisor.stderr")
    }

    /// Removes Terraform's log.
    pub fn remove_log(&self) {
        remove_secret(&self.log());
    }

    /// Removes what may hold secrets and leaves the journal.
    pub fn remove_secrets(&self) {
        for path in [self.log(), self.stdout(), self.stderr(), self.progress(), self.supervisor_stderr()] {
            remove_secret(&path);
        }
    }

    /// Removes the session. Called once everything is accounted for, by a front and a `tfguard release` at the same time if
    /// it so happens.
    pub fn remove(&self) {
        let mut removed = std::fs::remove_dir_all(&self.path);
        if removed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::DirectoryNotEmpty) {
            // A `tfguard release` began to look at it just then.
            removed = std::fs::remove_dir_all(&self.path);
        }
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}; it may hold Terraform's log, remove it", self.path.display());
        }
        // The directory above goes with the last session; `remove_dir` leaves it where there are others.
        if let Some(root) = self.path.parent() {
            let _ = std::fs::remove_dir(root);
        }
    }
}

/// Makes a new private file (0600) that only we can have made.
pub fn create_file(path: &Path) -> Result<File, DirectoryError> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path).map_err(io_error("create", path))
}

fn remove_secret(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {}: {error}; it may hold secrets, remove it", path.display());
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// The directory that holds the sessions: made, or found to be private.
fn make_root(root: &Path) -> Result<(), DirectoryError> {
    match make_private(root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error("create", root)(error)),
        _ => check_private(root),
    }
}

/// A directory that the user chose: need not be private, but nobody else may put things there in our name.
fn check_chosen(path: &Path) -> Result<(), DirectoryError> {
    if let Err(error) = std::fs::symlink_metadata(path)
        && error.kind() == io::ErrorKind::NotFound
    {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))?;
    }
    let (_, mode) = check_own(path)?;
    let sticky = mode & 0o1000 != 0;
    if mode & 0o022 != 0 && !sticky {
        return Err(DirectoryError::WritableByOthers { path: path.to_owned(), mode });
    }
    Ok(())
}

fn check_private(path: &Path) -> Result<(), DirectoryError> {
    let (owner, mode) = check_own(path)?;
    let own = nix::unistd::geteuid().as_raw();
    if owner != own {
        return Err(DirectoryError::Foreign { path: path.to_owned(), owner, own });
    }
    if mode & 0o022 != 0 {
        return Err(DirectoryError::WritableByOthers { path: path.to_owned(), mode });
    }
    Ok(())
}

/// A real directory of ours or root's; its owner and permission bits.
fn check_own(path: &Path) -> Result<(u32, u32), DirectoryError> {
    let found = std::fs::symlink_metadata(path).map_err(io_error("read", path))?;
    if found.is_symlink() {
        return Err(DirectoryError::Symlink(path.to_owned()));
    }
    if !found.is_dir() {
        return Err(DirectoryError::NotADirectory(path.to_owned()));
    }
    let own = nix::unistd::geteuid().as_raw();
    if found.uid() != own && found.uid() != 0 {
        return Err(DirectoryError::Foreign { path: path.to_owned(), owner: found.uid(), own });
    }
    Ok((found.uid(), found.mode() & 0o7777))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |error| DirectoryError::Io { doing, path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a run that cannot begin (125) because another, ending at that moment, removed the directory of
    /// the sessions between two looks at it.
    #[test]
    fn sessions_can_begin_while_others_end() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("tfguard");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        SessionDir::create_below(&root).unwrap().remove();
                    }
                });
            }
        });
        assert!(!root.exists());
    }

    /// Guards against a warning, with bad advice, of a session that went while it was looked for.
    #[test]
    fn sessions_that_end_meanwhile_are_passed_over_in_silence() {
        let place = tempfile::tempdir().unwrap();
        let said = tempfile::NamedTempFile::new().unwrap();
        let writer = std::sync::Arc::new(said.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                for _ in 0..500 {
                    SessionDir::create_below(&place.path().join("tfguard")).unwrap().remove();
                }
            });
            tracing::subscriber::with_default(subscriber, || {
                while !run.is_finished() {
                    SessionDir::all(|name| (name == "TFGUARD_DIR").then(|| place.path().into()));
                }
            });
        });
        let place = place.path().to_str().unwrap();
        assert_eq!(std::fs::read_to_string(said.path()).unwrap().lines().find(|line| line.contains(place)), None);
    }

    /// Guards against a run that nobody is seen to supervise, because somebody looked whether it is claimed when it was.
    #[test]
    fn a_look_does_not_cost_the_claim() {
        let place = tempfile::tempdir().unwrap();
        let session = SessionDir::create_below(&place.path().join("tfguard")).unwrap();
        drop(session.claim_first().unwrap().unwrap());
        let looks = File::open(session.path().join("supervisor.lock")).unwrap();
        looks.try_lock_shared().unwrap();
        assert!(session.claim().unwrap().is_none());
        std::thread::scope(|scope| {
            let claim = scope.spawn(|| session.claim_first().unwrap().unwrap());
            drop(looks);
            let _claim = claim.join().unwrap();
            assert_eq!(session.is_claimed(), Some(true));
        });
    }
}
