//! The session directory: the one place for everything durable of a run.
//!
//! Terraform's log and output can hold secrets, so the directory is private (0700), owned by us and checked on the way
//! down (P7). It is made by the front and removed once everything is accounted for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use regex_lite::Regex;
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::files;
use crate::model::Environment;
use crate::session::place::{DirectoryError, Place, ROOT, Reached, io_error, is_shared, make_private, open_private};

/// Longer than a run takes from its session's directory to its journal on a machine that is out of breath.
pub(crate) const FORGOTTEN: Duration = Duration::from_secs(60);
/// How often, and at which intervals, who begins a session tries to claim it.
const CLAIM_TRIES: u32 = 1000;
const CLAIM_EVERY: Duration = Duration::from_millis(1);
/// How often, at the same intervals, who writes the journal on a full disk looks whether it is still read.
const READER_TRIES: u32 = 50;
/// How often a directory is made that others take away meanwhile.
const MAKE_TRIES: u32 = 100;
/// How deep sessions lie in one another at most.
const DEEPEST: u32 = 8;
/// What a journal, and a log, have of the disk from the beginning.
const RESERVED: usize = 32 * 1024;
/// What keeps that room in a journal.
static ROOM: [u8; RESERVED] = [b' '; RESERVED];
/// No journal is longer.
pub(crate) const LONGEST_JOURNAL: u64 = 32 * 1024 * 1024;

/// The directory of the links to tfguard, for a `PATH`.
const LINKS: &str = "bin";
/// The directory of the link to tfguard that stands for a program that a user named, and of the link to that program.
const NAMED: &str = "named";
/// What is in them.
const LINK_NAMES: [&str; 3] = ["terraform", "tofu", REAL];
/// The link to the program that a user named.
pub const REAL: &str = "real";
/// The directory of the sessions inside a session.
pub(crate) const INNER: &str = "inner";

/// A file of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionFile {
    /// Says that tfguard made the directory. Made first and removed last. Locked by who supervises.
    Marker,
    /// Keeps the session out of Git, and out of what goes by its rules.
    Ignore,
    Journal,
    /// What takes the journal's place on a full disk, and without descriptors.
    Spare,
    /// The file to which Terraform logs.
    Log,
    /// The spool of the child's stdout.
    Stdout,
    /// The spool of the child's stderr, where that is not the same as stdout.
    Stderr,
    /// What the child wrote of itself before it became the command: its line of `/proc/self/stat`.
    Child,
    /// How much of the spools the front has passed on: the bytes of stdout and of stderr, eight bytes each.
    Progress,
    /// Locked by a `tfguard release` that will remove the session.
    ReleaseLock,
    /// What the supervisor wrote to its stderr; nothing but a panic's words.
    SupervisorStderr,
}

impl SessionFile {
    const NAMED: [(Self, &'static str); 11] = [
        (Self::Marker, "tfguard-session"),
        (Self::Ignore, ".gitignore"),
        (Self::Journal, "journal.json"),
        (Self::Spare, "journal.spare"),
        (Self::Log, "terraform.log"),
        (Self::Stdout, "stdout"),
        (Self::Stderr, "stderr"),
        (Self::Child, "child"),
        (Self::Progress, "progress"),
        (Self::ReleaseLock, "release.lock"),
        (Self::SupervisorStderr, "supervisor.stderr"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(file, _)| *file == self).expect("each file has a name").1
    }
}

/// The directory of one session, held open: whatever becomes of the directories above it, this one is meant.
#[derive(Debug, Clone)]
pub struct SessionDir {
    path: PathBuf,
    dir: Arc<OwnedFd>,
    /// A write of this process met a full disk.
    was_full: Arc<AtomicBool>,
    open: Arc<Mutex<OpenJournal>>,
}

/// The journal and its spare, held open by who has written the journal: to write it again needs neither room nor a descriptor.
#[derive(Debug, Default)]
struct OpenJournal {
    journal: Option<File>,
    spare: Option<File>,
}

impl SessionDir {
    /// Makes a new session directory in the place that `env` tells.
    pub fn create(env: &Environment) -> Result<Self, DirectoryError> {
        let mut places = Place::of_run(env).into_iter().peekable();
        loop {
            let place = places.next().expect("the temporary directory is always one, or there is a chosen one");
            let is_last = places.peek().is_none();
            let reach = || place.make().and_then(Reached::unsteered);
            let made = reach().map(|reached| {
                let path = reached.path.join(ROOT);
                let mut reached = Some(reached);
                Self::create_in(&path, || {
                    // Another run that ended may have taken the place itself away, as that in the temporary directory.
                    let place = reached.take().map_or_else(reach, Ok)?;
                    make_private(&place.dir, ROOT.as_ref(), &path)
                })
            });
            match made {
                // A CI variable may name a place that does not exist here (in a container) or cannot be written: the next
                // one serves as well. What is wrong with a place of ours inside it is an error: somebody meddles with it.
                Ok(Err(DirectoryError::Io { doing, path, error })) if !is_last => {
                    tracing::debug!("no session in {}: cannot {doing}: {error}", path.display());
                }
                Ok(Err(error @ DirectoryError::Forced { .. })) if !is_last => {
                    tracing::warn!("the session is made elsewhere: {error}");
                }
                Ok(made) => return made,
                Err(error) if is_last => return Err(error),
                Err(error @ DirectoryError::Io { .. }) => tracing::debug!("{error}"),
                Err(error) => tracing::warn!("the session is made elsewhere: {error}"),
            }
        }
    }

    /// Every session in the places that `env` tells, in the order in which they began. What is not safe to look at is
    /// told and passed over.
    pub fn all(env: &Environment) -> Vec<Self> {
        let (sessions, refused) = Self::all_and_refused(env);
        refused.iter().for_each(|error| tracing::warn!("{error}"));
        sessions
    }

    /// The same, and why a place, or what lies in one, is not looked at although a session may be in it. What can hold
    /// none is told and passed over.
    pub fn all_and_refused(env: &Environment) -> (Vec<Self>, Vec<DirectoryError>) {
        let (mut sessions, mut refused) = (Vec::new(), Vec::new());
        for place in Place::of_sessions(env) {
            match Self::all_in(&place, &mut refused) {
                Ok(found) => sessions.extend(found),
                // What is not there was never made, or another run that just ended took it away.
                Err(DirectoryError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                // A run would not have begun there: it would have gone to the next place, or have refused to go where
                // everybody can put something under the name of this user's place.
                Err(error) => match (&place, &error) {
                    (Place::Shared, DirectoryError::WritableByOthers { .. }) => refused.push(error),
                    (Place::Shared, _) | (Place::Named(_), DirectoryError::Io { .. }) => tracing::warn!("{error}"),
                    _ => refused.push(error),
                },
            }
        }
        sessions.sort_by(|one: &Self, other| one.name().cmp(other.name()));
        (sessions, refused)
    }

    fn all_in(place: &Place, refused: &mut Vec<DirectoryError>) -> Result<Vec<Self>, DirectoryError> {
        let reached = place.reach()?;
        if !reached.has(ROOT.as_ref()) {
            return Ok(Vec::new());
        }
        let root = reached.unsteered()?.open_private(ROOT.as_ref())?;
        let mut sessions = Vec::new();
        for session in Self::below(root.dir, root.path)? {
            match session {
                Ok(session) => sessions.push(session),
                Err(error) => refused.push(error),
            }
        }
        Ok(sessions)
    }

    /// The sessions in a directory of them, in the order in which they began, and why one that may be there is not looked at.
    /// Each is opened when it is its turn: there may be more of them than descriptors.
    fn below(
        root: OwnedFd,
        path: PathBuf,
    ) -> Result<impl Iterator<Item = Result<Self, DirectoryError>>, DirectoryError> {
        let mut names = list(&root).map_err(io_error("read", &path))?;
        names.retain(|name| is_session_name(name));
        names.sort();
        Ok(names.into_iter().filter_map(move |name| match Self::open_in(&root, path.join(&name)) {
            Err(DirectoryError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                remove_if_forgotten(&root, &name);
                None
            }
            Err(error @ (DirectoryError::NotASession(_) | DirectoryError::NotADirectory(_))) => {
                tracing::warn!("{error}");
                None
            }
            opened => Some(opened),
        }))
    }

    /// Makes a session inside this one, for a guard inside this one's run.
    pub fn create_inside(&self) -> Result<Self, DirectoryError> {
        let path = self.path.join(INNER);
        Self::create_in(&path, || make_private(&self.dir, INNER.as_ref(), &path))
    }

    /// Makes a session in the directory `path`, which `make` opens, and makes where it is not there.
    fn create_in(
        path: &Path,
        mut make: impl FnMut() -> Result<OwnedFd, DirectoryError>,
    ) -> Result<Self, DirectoryError> {
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
        let pid = std::process::id();
        let again = |error: &DirectoryError| {
            let kind = if let DirectoryError::Io { error, .. } = error { Some(error.kind()) } else { None };
            matches!(kind, Some(io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists))
        };
        let mut created = Err(io_error("create", path)(io::ErrorKind::AlreadyExists.into()));
        for n in 0..MAKE_TRIES {
            created = Self::create_at(path.join(format!("{stamp}-{pid}-{n}")), &mut make);
            // Another run that ended took the place away, or one of that name is there.
            if !created.as_ref().is_err_and(again) {
                break;
            }
        }
        created
    }

    fn create_at(
        path: PathBuf,
        make: impl FnOnce() -> Result<OwnedFd, DirectoryError>,
    ) -> Result<Self, DirectoryError> {
        let root = make()?;
        let name = path.file_name().unwrap_or_default();
        rustix::fs::mkdirat(&root, name, Mode::RWXU).map_err(|error| io_error("create", &path)(error.into()))?;
        let session = Self::at(open_private(&root, name, &path)?, path);
        if let Err(error) = session.begin() {
            session.remove();
            return Err(error);
        }
        Ok(session)
    }

    /// Marks a new session as one, and takes the room that its journal needs on a disk that is full later.
    fn begin(&self) -> Result<(), DirectoryError> {
        use io::Write as _;
        let mark = concat!("A session of tfguard ", env!("CARGO_PKG_VERSION"), ", removed when it has ended.\n");
        let write = |file: SessionFile, content: &[u8]| {
            let written = self.create_file(file)?.write_all(content);
            written.map_err(io_error("write", &self.path_of(file)))
        };
        write(SessionFile::Marker, mark.as_bytes())?;
        write(SessionFile::Ignore, b"*\n")?;
        write(SessionFile::Spare, &ROOM)
    }

    /// An existing session directory, checked.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let not_a_session = || DirectoryError::NotASession(path.to_owned());
        let root = path.parent().ok_or_else(not_a_session)?;
        let name = root.file_name().filter(|name| *name == ROOT || *name == INNER).ok_or_else(not_a_session)?;
        let above = Reached::walk(root.parent().ok_or_else(not_a_session)?)?.unsteered()?;
        let root = above.open_private(name)?;
        Self::open_in(&root.dir, root.path.join(path.file_name().ok_or_else(not_a_session)?))
    }

    fn at(dir: OwnedFd, path: PathBuf) -> Self {
        Self { path, dir: Arc::new(dir), was_full: Arc::default(), open: Arc::default() }
    }

    fn open_in(root: impl AsFd, path: PathBuf) -> Result<Self, DirectoryError> {
        let name = path.file_name().unwrap_or_default();
        if !is_session_name(name) {
            return Err(DirectoryError::NotASession(path));
        }
        let session = Self::at(open_private(root, name, &path)?, path);
        // A checkout makes other modes: what a repository has of this name is not taken for a session.
        if !rustix::fs::fstat(&session.dir).is_ok_and(|stat| stat.st_mode & 0o077 == 0) {
            return Err(DirectoryError::NotASession(session.path));
        }
        match session.open_file(SessionFile::Marker) {
            Ok(_) => Ok(session),
            Err(error) if error.kind() == io::ErrorKind::NotFound => session.unmarked(),
            Err(error) => Err(io_error("open", &session.path_of(SessionFile::Marker))(error)),
        }
    }

    /// Says why a directory without a marker is not looked at.
    fn unmarked(self) -> Result<Self, DirectoryError> {
        // One that is about to be removed, or whose remover was killed, is empty, and one that is being made is marked just now.
        let marker = SessionFile::Marker.name();
        match list(&self.dir) {
            Ok(names) if names.is_empty() || names.iter().any(|name| name == marker) => {
                Err(io_error("open", &self.path)(io::ErrorKind::NotFound.into()))
            }
            _ => Err(DirectoryError::NotASession(self.path)),
        }
    }

    /// The sessions inside this one, in the order in which they began. What is not safe to look at is told and passed over.
    pub fn inner(&self) -> impl Iterator<Item = Self> {
        self.inner_or_why().filter_map(|session| session.inspect_err(|error| tracing::warn!("{error}")).ok())
    }

    /// The same, and why something is not looked at.
    pub(crate) fn inner_or_why(&self) -> impl Iterator<Item = Result<Self, DirectoryError>> {
        let path = self.path.join(INNER);
        let found = open_private(&self.dir, INNER.as_ref(), &path).and_then(|root| Self::below(root, path));
        let (sessions, error) = match found {
            Ok(sessions) => (Some(sessions), None),
            Err(error) => (None, Some(error).filter(|error| !error.is_not_found())),
        };
        sessions.into_iter().flatten().chain(error.map(Err))
    }

    /// Makes links to `target` of these names (`terraform`, `tofu`) and gives the directory that they are in. It is made
    /// once.
    pub fn make_links(&self, target: &Path, names: &[&str]) -> Result<PathBuf, DirectoryError> {
        let links: Vec<_> = names.iter().map(|name| (*name, target)).collect();
        self.make_links_in(LINKS, &links)
    }

    /// Makes a link to `target` that stands for the program `real` that a user named, and gives it. Beside it is the link
    /// [`REAL`] to that program. `name`: `terraform` or `tofu`.
    pub fn make_named_link(&self, target: &Path, name: &str, real: &Path) -> Result<PathBuf, DirectoryError> {
        Ok(self.make_links_in(NAMED, &[(name, target), (REAL, real)])?.join(name))
    }

    fn make_links_in(&self, within: &str, links: &[(&str, &Path)]) -> Result<PathBuf, DirectoryError> {
        let path = self.path.join(within);
        let dir = make_private(&self.dir, within.as_ref(), &path)?;
        for (name, target) in links {
            let path = path.join(name);
            if !LINK_NAMES.contains(name) {
                return Err(io_error("create", &path)(io::ErrorKind::InvalidInput.into()));
            }
            rustix::fs::symlinkat(*target, &dir, *name).map_err(|error| io_error("create", &path)(error.into()))?;
        }
        Ok(path)
    }

    /// How long nothing was made or removed in it; none if the clocks do not tell.
    pub fn age(&self) -> Option<Duration> {
        File::from(self.dir.try_clone().ok()?).metadata().ok()?.modified().ok()?.elapsed().ok()
    }

    /// Whether it is still where it was made.
    pub fn exists(&self) -> bool {
        is_in(rustix::fs::CWD, self.path.as_os_str(), &self.dir)
    }

    /// The session's name.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// The path of the directory, for other processes and for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file, for other processes, for inotify and for people.
    pub fn path_of(&self, file: SessionFile) -> PathBuf {
        self.path.join(file.name())
    }

    /// The path of the file to which Terraform logs.
    pub fn log(&self) -> PathBuf {
        self.path_of(SessionFile::Log)
    }

    /// Makes a file (0600), open for reading and writing, that only we can have made.
    pub fn create_file(&self, file: SessionFile) -> Result<File, DirectoryError> {
        files::create(&self.dir, file.name().as_ref(), 0o600).map_err(io_error("create", &self.path_of(file)))
    }

    /// Makes the log, and takes some room for it, as the file system can.
    pub(crate) fn create_log(&self) -> Result<File, DirectoryError> {
        let log = self.create_file(SessionFile::Log)?;
        match rustix::fs::fallocate(&log, FallocateFlags::KEEP_SIZE, 0, RESERVED as u64) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => {
                Err(io_error("take room for", &self.path_of(SessionFile::Log))(error.into()))
            }
            _ => Ok(log),
        }
    }

    /// Why the log may lack what was written to it last: its end is torn, or the disk was full and the log longer than the room
    /// that was taken for it.
    pub fn log_is_cut(&self, log: &File) -> Option<&'static str> {
        let found = log.metadata().ok().filter(std::fs::Metadata::is_file)?;
        if files::ends_within_a_line(log).is_ok_and(|torn| torn) {
            return Some("the end of Terraform's log is torn, as on a full disk");
        }
        // In blocks of 512 bytes (stat(2)).
        let reserved = found.blocks() * 512 >= RESERVED as u64 && found.len() < RESERVED as u64;
        let cut = self.was_full.load(Ordering::Relaxed) && !reserved;
        cut.then_some("the disk was full, so Terraform's log may lack its end")
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none; another kind where it is not a regular file of this user.
    pub fn open_file(&self, file: SessionFile) -> io::Result<File> {
        self.open_file_for(file, OFlags::RDONLY)
    }

    /// Opens a file for appending. Errors: as of [`Self::open_file`].
    pub fn append_to(&self, file: SessionFile) -> io::Result<File> {
        self.open_file_for(file, OFlags::WRONLY | OFlags::APPEND)
    }

    /// Opens the note of what was passed on, for reading and writing, and makes it where it is not there.
    pub fn open_progress(&self) -> io::Result<File> {
        self.open_file_for(SessionFile::Progress, OFlags::RDWR | OFlags::CREATE)
    }

    fn open_file_for(&self, file: SessionFile, flags: OFlags) -> io::Result<File> {
        let opened = files::open(&self.dir, file.name().as_ref(), flags)?;
        let owner = opened.metadata()?.uid();
        if owner != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to user {owner}")));
        }
        Ok(opened)
    }

    /// Reads a small file.
    pub fn read_file(&self, file: SessionFile) -> io::Result<Vec<u8>> {
        files::read(self.open_file(file)?, 64 * 1024)
    }

    /// Reads the journal, as somebody wrote it.
    pub(crate) fn read_journal(&self) -> io::Result<Vec<u8>> {
        for _ in 0..CLAIM_TRIES {
            let file = self.open_file(SessionFile::Journal)?;
            // What somebody writes is not the journal any more, but the spare.
            if !matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)) {
                // Again afterwards: not every file system can lock, and who writes does not wait for ever.
                if self.is_in_place(&file, SessionFile::Journal)?
                    && let text = files::read(&file, LONGEST_JOURNAL)
                    && self.is_in_place(&file, SessionFile::Journal)?
                {
                    return text;
                }
            }
            std::thread::sleep(CLAIM_EVERY);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether an open file is still the one of this name.
    fn is_in_place(&self, file: &File, name: SessionFile) -> io::Result<bool> {
        let there = rustix::fs::statat(&self.dir, name.name(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(there.st_ino == file.metadata()?.ino())
    }

    /// Puts `text` in the journal's place, in one step, also where the disk is full, and, from the second time on, where there
    /// are no descriptors: once only on a file system that cannot exchange two files.
    pub(crate) fn replace_journal(&self, mut text: Vec<u8>) -> io::Result<()> {
        if text.len() as u64 > LONGEST_JOURNAL {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it would have {} bytes", text.len())));
        }
        // The spaces keep the room that a longer one will need.
        text.extend_from_slice(ROOM.get(text.len()..).unwrap_or_default());
        let mut open = self.open_journal();
        let write = || {
            let (aside, file) = files::write_aside(&self.dir, &text, 0o600)?;
            let placed = self.exchange(&aside, SessionFile::Journal.name());
            let _ = unlink(&self.dir, &aside, AtFlags::empty());
            // Without an exchange nothing is gained by a file that the next journal replaces.
            placed.map(|traded| traded.then_some(file))
        };
        match write() {
            Ok(journal) => {
                open.journal = journal;
                Ok(())
            }
            Err(error) => {
                if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
                    self.was_full.store(true, Ordering::Relaxed);
                }
                self.exchange_journal(&mut open, &text).map_err(|why| {
                    tracing::debug!("the journal's spare cannot be used: {why}");
                    error
                })
            }
        }
    }

    /// What is held open, as far as it is still what its names say: another process may have written the journal meanwhile.
    fn open_journal(&self) -> MutexGuard<'_, OpenJournal> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.journal.take_if(|journal| !self.is_in_place(journal, SessionFile::Journal).is_ok_and(|own| own));
        open.spare.take_if(|spare| !self.is_in_place(spare, SessionFile::Spare).is_ok_and(|own| own));
        if open.spare.is_none() {
            let spare = self.open_file_for(SessionFile::Spare, OFlags::WRONLY);
            open.spare = spare.inspect_err(|why| tracing::debug!("the journal's spare: {why}")).ok();
        }
        open
    }

    /// Writes into the room that was taken when the session began, and exchanges that file for the journal.
    fn exchange_journal(&self, open: &mut OpenJournal, text: &[u8]) -> io::Result<()> {
        let [journal, spare] = [SessionFile::Journal, SessionFile::Spare].map(SessionFile::name);
        let file = open.spare.as_ref().ok_or(io::ErrorKind::NotFound)?;
        for _ in 0..READER_TRIES {
            match file.try_lock() {
                // It was the journal a moment ago, and somebody still reads it: for an instant, or suspended.
                Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(CLAIM_EVERY),
                // Not every file system can lock.
                _ => break,
            }
        }
        let written = file.write_all_at(text, 0).and_then(|()| match file.metadata()?.len() > text.len() as u64 {
            true => file.set_len(text.len() as u64),
            false => Ok(()),
        });
        let exchanged = written.and_then(|()| self.exchange(spare, journal));
        let _ = file.unlock();
        match exchanged? {
            true => std::mem::swap(&mut open.journal, &mut open.spare),
            false => open.spare = None,
        }
        Ok(())
    }

    /// Puts one file of the session in another one's place, in one step; gives whether that one took its place, which not every
    /// file system can do. Without that, ext4 begins to write the file to the disk at once (`auto_da_alloc`), and who removes it
    /// soon afterwards waits for the disk.
    fn exchange(&self, one: &str, other: &str) -> io::Result<bool> {
        match rustix::fs::renameat_with(&self.dir, one, &self.dir, other, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            // There is none yet, or neither file system nor sandbox knows exchanges.
            Err(_) => Ok(rustix::fs::renameat(&self.dir, one, &self.dir, other).map(|()| false)?),
        }
    }

    /// Writes the journal no more, unless it has to: what removes the session is to find nothing of it open.
    pub(crate) fn close_journal(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = OpenJournal::default();
    }

    /// Becomes the one that supervises the session, for as long as the file is kept: the system gives the place free
    /// when its holder dies. None while somebody else has it.
    pub fn claim(&self) -> Result<Option<File>, DirectoryError> {
        let path = self.path_of(SessionFile::Marker);
        // To write: NFS makes a lock on a range of it.
        let file = self.append_to(SessionFile::Marker).map_err(io_error("open", &path))?;
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
    pub fn is_claimed(&self) -> Option<bool> {
        let file = self.open_file(SessionFile::Marker).ok()?;
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
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let file = self.open_file_for(SessionFile::ReleaseLock, flags).ok()?;
        file.try_lock_shared().is_ok().then_some(file)
    }

    /// Whether a `tfguard release` will remove the session.
    pub fn is_attended(&self) -> bool {
        let file = self.open_file(SessionFile::ReleaseLock);
        file.is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
    }

    /// Removes Terraform's log.
    pub fn remove_log(&self) {
        self.remove_secret(SessionFile::Log);
    }

    /// Removes what may hold secrets and leaves the journal.
    pub fn remove_secrets(&self) {
        use SessionFile::{Log, Progress, Stderr, Stdout, SupervisorStderr};
        for file in [Log, Stdout, Stderr, Progress, SupervisorStderr] {
            self.remove_secret(file);
        }
    }

    fn remove_secret(&self, file: SessionFile) {
        if let Err(error) = unlink(&self.dir, file.name(), AtFlags::empty()) {
            tracing::warn!("cannot remove {}: {error}; it may hold secrets", self.path_of(file).display());
        }
    }

    /// Removes the session: what tfguard makes in one, and nothing else. Called once everything is accounted for, by a
    /// front and a `tfguard release` at the same time if it so happens.
    pub fn remove(&self) {
        self.close_journal();
        // The directory above, whatever it is called by now. None if the session is gone.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(root) = rustix::fs::openat(&self.dir, "..", flags, Mode::empty()) else { return };
        let mut removed = remove_session(&root, self.name(), &self.dir, 0);
        if matches!(removed, Err(Errno::NOTEMPTY | Errno::EXIST)) {
            // A `tfguard release` began to look at it just then.
            removed = remove_session(&root, self.name(), &self.dir, 0);
        }
        match removed {
            Ok(stays) if stays.is_empty() => {}
            Ok(stays) => tracing::warn!(
                "{} stays, because tfguard did not make what is in it: {}",
                self.path.display(),
                stays.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            ),
            Err(error) => {
                tracing::warn!("cannot remove {}: {error}; it may hold Terraform's log", self.path.display());
            }
        }
        if let Some(path) = self.path.parent() {
            remove_root(&root, path);
        }
    }
}

/// Removes a session's directory that was left empty, because whoever made or removed it was killed.
fn remove_if_forgotten(root: &OwnedFd, name: &OsStr) {
    let age = |stat: rustix::fs::Stat| {
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(stat.st_mtime.try_into().ok()?))?;
        changed.elapsed().ok()
    };
    let stat = rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW).ok();
    if stat.and_then(age).is_some_and(|age| age >= FORGOTTEN) {
        let _ = rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR);
    }
}

/// Whether a directory is called as tfguard calls a session: when it began, who made it, and a number.
pub(crate) fn is_session_name(name: &OsStr) -> bool {
    static FORM: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[0-9]{8}T[0-9]{6}-[0-9]{1,10}-[0-9]{1,2}$").expect("a pattern"));
    name.to_str().is_some_and(|name| FORM.is_match(name))
}

/// The names in a directory.
fn list(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether the entry `name` of `dir` is the directory that is held open.
fn is_in(dir: impl AsFd, name: &OsStr, held: impl AsFd) -> bool {
    let id = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let there = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(id);
    matches!((there, rustix::fs::fstat(held).map(id)), (Ok(there), Ok(held)) if there == held)
}

/// What is removed last, in this order: a removal that is cut short leaves a session, which Git does not see, and which can be
/// removed again.
const LAST: [SessionFile; 2] = [SessionFile::Ignore, SessionFile::Marker];

/// Removes what tfguard made of a session, and its directory if nothing else is in it. Gives what else is.
fn remove_session(root: &OwnedFd, name: &OsStr, dir: &OwnedFd, depth: u32) -> Result<Vec<PathBuf>, Errno> {
    let mut stays = Vec::new();
    let is_file = |name: &OsStr| {
        let known = |(file, known): &(SessionFile, &str)| !LAST.contains(file) && name == *known;
        files::is_temporary(name) || SessionFile::NAMED.iter().any(known)
    };
    for name in list(dir).map_err(errno)? {
        match name.to_str() {
            _ if is_file(&name) => match unlink(dir, &name, AtFlags::empty()) {
                Err(Errno::ISDIR) => stays.push(name.into()),
                removed => removed?,
            },
            Some(name) if LAST.iter().any(|file| file.name() == name) => {}
            Some(LINKS | NAMED) => stays.extend(remove_directory(dir, &name, |links, name| {
                let stat = rustix::fs::statat(links, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
                if !is_link || !LINK_NAMES.iter().any(|known| name == *known) {
                    return Ok(vec![name.into()]);
                }
                rustix::fs::unlinkat(links, name, AtFlags::empty()).map(|()| Vec::new())
            })?),
            Some(INNER) => stays.extend(remove_directory(dir, &name, |inner, name| {
                match SessionDir::open_in(inner, name.into()) {
                    Ok(session) if depth < DEEPEST => remove_session(inner, name, &session.dir, depth + 1),
                    // Who made it, or was removing it, was killed: it is empty, or about to be marked.
                    Err(error) if error.is_not_found() => {
                        let removed = unlink(inner, name, AtFlags::REMOVEDIR);
                        Ok(if removed.is_ok() { Vec::new() } else { vec![name.into()] })
                    }
                    _ => Ok(vec![name.into()]),
                }
            })?),
            _ => stays.push(name.into()),
        }
    }
    if stays.is_empty() {
        for file in LAST {
            match unlink(dir, file.name(), AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                removed => removed?,
            }
        }
        if is_in(root, name, dir) {
            unlink(root, name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(stays)
}

/// Removes each entry of a directory in `dir`, and the directory itself if nothing stays. Gives what does.
fn remove_directory(
    dir: &OwnedFd,
    name: &OsStr,
    remove: impl Fn(&OwnedFd, &OsStr) -> Result<Vec<PathBuf>, Errno>,
) -> Result<Vec<PathBuf>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        // A file or a link.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(vec![name.into()]),
        Err(error) => return Err(error),
    };
    let mut stays = Vec::new();
    for entry in list(&opened).map_err(errno)? {
        match remove(&opened, &entry) {
            Ok(there) => stays.extend(there.into_iter().map(|path| Path::new(name).join(path))),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    if stays.is_empty() {
        unlink(dir, name, AtFlags::REMOVEDIR)?;
    }
    Ok(stays)
}

/// Removes a name, if it is still there.
fn unlink(dir: impl AsFd, name: impl rustix::path::Arg, flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Removes a directory of sessions with the last of them.
fn remove_root(root: &OwnedFd, path: &Path) {
    let Some(name) = path.file_name() else { return };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(above) = rustix::fs::openat(root, "..", flags, Mode::empty()) else { return };
    // The one of this name may be another run's by now, which made it anew.
    let is_removed = is_in(&above, name, root) && rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR).is_ok();
    if let Some(place) = path.parent().filter(|place| is_removed && is_shared(place)) {
        let _ = std::fs::remove_dir(place);
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn env(place: &tempfile::TempDir) -> Environment {
        [("TFGUARD_DIR", place.path())].into_iter().collect()
    }

    fn created(place: &tempfile::TempDir) -> SessionDir {
        SessionDir::create(&env(place)).unwrap()
    }

    fn all(place: &tempfile::TempDir) -> Vec<PathBuf> {
        paths(SessionDir::all(&env(place)))
    }

    fn paths(sessions: impl IntoIterator<Item = SessionDir>) -> Vec<PathBuf> {
        sessions.into_iter().map(|session| session.path).collect()
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Guards against a run that cannot begin (125) because another, ending at that moment, removed the directory of
    /// the sessions between two looks at it.
    #[test]
    fn sessions_can_begin_while_others_end() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join(ROOT);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        created(&place).remove();
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
                    created(&place).remove();
                }
            });
            tracing::subscriber::with_default(subscriber, || {
                while !run.is_finished() {
                    SessionDir::all(&env(&place));
                }
            });
        });
        let place = place.path().to_str().unwrap();
        assert_eq!(std::fs::read_to_string(said.path()).unwrap().lines().find(|line| line.contains(place)), None);
    }

    /// Guards against a run that nobody is seen to supervise, because somebody looked whether it is claimed when it was.
    /// Who made the inner one was killed before it marked it.
    #[test]
    fn a_session_around_an_empty_one_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let session = created(&place);
        let inner = session.create_inside().unwrap();
        for file in std::fs::read_dir(inner.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        session.remove();
        assert!(!place.path().join(ROOT).exists());
    }

    #[test]
    fn a_look_does_not_cost_the_claim() {
        let place = tempfile::tempdir().unwrap();
        let session = created(&place);
        drop(session.claim_first().unwrap().unwrap());
        let looks = File::open(session.path_of(SessionFile::Marker)).unwrap();
        looks.try_lock_shared().unwrap();
        assert!(session.claim().unwrap().is_none());
        std::thread::scope(|scope| {
            let claim = scope.spawn(|| session.claim_first().unwrap().unwrap());
            drop(looks);
            let _claim = claim.join().unwrap();
            assert_eq!(session.is_claimed(), Some(true));
        });
    }

    #[test]
    fn only_names_of_tfguards_form_are_sessions() {
        for name in ["20261128T124134-1234-0", "20261128T124134-4194304-99"] {
            assert!(is_session_name(OsStr::new(name)), "{name}");
        }
        for name in
            ["", "src", "20261128T124134", "20261128T124134-1", "20261128-1-0", "20261128T124134-1-0 ", "2026T1-1-0"]
        {
            assert!(!is_session_name(OsStr::new(name)), "{name}");
        }
    }

    /// Guards the files of a user that lie where tfguard's could.
    #[test]
    fn what_tfguard_did_not_make_and_mark_is_no_session() {
        let place = tempfile::tempdir().unwrap();
        let session = created(&place);
        let root = session.path().parent().unwrap();
        // Without a marker, with the modes of a checkout, with another name, a link.
        let [unmarked, checked_out, link] = [2, 3, 4].map(|n| root.join(format!("20260101T000000-1-{n}")));
        for (path, mode, marked) in
            [(&unmarked, 0o700, false), (&checked_out, 0o755, true), (&root.join("src"), 0o700, true)]
        {
            std::fs::create_dir(path).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            std::fs::write(path.join("journal.json"), "mine").unwrap();
            if marked {
                std::fs::write(path.join("tfguard-session"), "").unwrap();
            }
            assert!(SessionDir::open(path).is_err(), "{path:?}");
        }
        symlink(session.path(), &link).unwrap();
        assert!(matches!(SessionDir::open(&link), Err(DirectoryError::Symlink(path)) if path == link));
        assert_eq!(all(&place), [session.path()]);
        let elsewhere = place.path().join(session.name());
        std::fs::rename(session.path(), &elsewhere).unwrap();
        assert!(matches!(SessionDir::open(&elsewhere), Err(DirectoryError::NotASession(_))));
    }

    #[test]
    fn a_session_goes_with_all_that_tfguard_makes_in_it() {
        let place = tempfile::tempdir().unwrap();
        let session = created(&place);
        SessionFile::NAMED.iter().for_each(|(file, _)| drop(session.create_file(*file)));
        let here = Path::new("/proc/self/exe");
        let links = session.make_links(here, &["terraform", "tofu"]).unwrap();
        assert_eq!(std::fs::read_link(links.join("tofu")).unwrap(), here);
        let named = session.make_named_link(here, "terraform", Path::new("/programs/terraform-1.5")).unwrap();
        assert_eq!(std::fs::read_link(named.with_file_name(REAL)).unwrap(), Path::new("/programs/terraform-1.5"));
        assert!(session.make_links(here, &["bash"]).is_err());
        let inner = session.create_inside().unwrap();
        let innermost = inner.create_inside().unwrap();
        innermost.make_links(here, &["tofu"]).unwrap();
        assert_eq!(paths(session.inner()), [inner.path()]);
        assert_eq!(paths(inner.inner()), [innermost.path()]);
        assert_eq!(SessionDir::open(innermost.path()).unwrap().path(), innermost.path());
        innermost.remove();
        assert!(inner.inner().next().is_none() && inner.exists());
        inner.create_inside().unwrap();
        session.remove();
        assert_eq!(names(place.path()), [""; 0]);
        assert!(!session.exists() && !inner.exists());
        session.remove();
    }

    /// Guards against a removal that takes what it does not know with it.
    #[test]
    fn what_somebody_put_into_a_session_stays() {
        let place = tempfile::tempdir().unwrap();
        let kept = tempfile::tempdir().unwrap();
        std::fs::write(kept.path().join("terraform"), "x").unwrap();
        let session = created(&place);
        let at = |name: &str| session.path().join(name);
        let inner = session.create_inside().unwrap();
        std::fs::write(inner.path().join("notes"), "mine").unwrap();
        std::fs::create_dir(at("src")).unwrap();
        std::fs::create_dir(at("child")).unwrap();
        symlink(kept.path(), at("bin")).unwrap();
        session.create_file(SessionFile::Log).unwrap();
        session.make_named_link(Path::new("/x"), "tofu", Path::new("/y")).unwrap();
        std::fs::write(at("named/tool"), "mine").unwrap();
        session.remove();
        assert_eq!(names(session.path()), [".gitignore", "bin", "child", "inner", "named", "src", "tfguard-session"]);
        assert_eq!(names(inner.path()), [".gitignore", "notes", "tfguard-session"]);
        assert_eq!((names(&at("named")), names(kept.path())), (vec!["tool".to_owned()], vec!["terraform".to_owned()]));
        assert_eq!(all(&place), [session.path()], "it can be removed once that is gone");
    }

    #[test]
    fn a_session_is_ignored_and_the_directory_of_all_goes_with_the_last() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join(ROOT);
        let (one, other) = (created(&place), created(&place));
        assert_eq!(std::fs::read_to_string(one.path().join(".gitignore")).unwrap(), "*\n");
        one.remove();
        assert_eq!(names(&root), [other.name().to_str().unwrap()]);
        std::fs::write(root.join("notes"), "mine").unwrap();
        other.remove();
        assert_eq!(names(&root), ["notes"]);
        std::fs::remove_file(root.join("notes")).unwrap();
        created(&place).remove();
        assert!(!root.exists());
    }

    /// Guards against a link, a FIFO, a socket or a directory that somebody has put where a file of the session is.
    #[test]
    fn only_regular_files_are_opened_and_never_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let session = created(&place);
        let target = place.path().join("target");
        std::fs::write(&target, "mine").unwrap();
        for (file, _) in SessionFile::NAMED.into_iter().filter(|(file, _)| *file != SessionFile::Spare) {
            let path = session.path_of(file);
            let _ = std::fs::remove_file(&path);
            symlink(&target, &path).unwrap();
            let refused = || [session.open_file(file).is_err(), session.append_to(file).is_err()];
            assert_eq!((refused(), session.create_file(file).is_err()), ([true; 2], true), "{file:?}");
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
            assert_eq!((refused(), session.create_file(file).is_err()), ([true; 2], true), "{file:?}");
            std::fs::remove_dir(&path).unwrap();
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            assert_eq!((refused(), session.create_file(file).is_err()), ([true; 2], true), "{file:?}");
            std::fs::remove_file(&path).unwrap();
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            assert_eq!((refused(), session.create_file(file).is_err()), ([true; 2], true), "{file:?}");
        }
        assert!(session.claim().is_err() && session.attend().is_none() && session.is_claimed().is_none());
        assert!(session.open_progress().is_err() && session.read_journal().is_err());
        assert_eq!(std::fs::read_to_string(target).unwrap(), "mine");
        session.remove();
        assert!(!session.exists());
    }

    #[test]
    fn a_journal_is_read_to_a_limit() {
        let place = tempfile::tempdir().unwrap();
        let session = created(&place);
        let file = session.create_file(SessionFile::Journal).unwrap();
        file.set_len(LONGEST_JOURNAL).unwrap();
        assert_eq!(session.read_journal().unwrap().len() as u64, LONGEST_JOURNAL);
        file.set_len(LONGEST_JOURNAL + 1).unwrap();
        assert_eq!(session.read_journal().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    /// Guards against putting in the journal's place what was that before another process wrote it.
    #[test]
    fn a_journal_that_two_write_is_the_newer_ones() {
        let place = tempfile::tempdir().unwrap();
        let one = created(&place);
        let other = SessionDir::open(one.path()).unwrap();
        for number in 0..32_u8 {
            let writer = if number & 4 == 0 { &one } else { &other };
            let text = vec![number; RESERVED];
            match number & 8 {
                0 => writer.replace_journal(text.clone()).unwrap(),
                _ => writer.exchange_journal(&mut writer.open_journal(), &text).unwrap(),
            }
            assert_eq!(one.read_journal().unwrap(), text, "{number}");
        }
    }

    /// Whatever way it is written, readers have one of the journals, and the spare has room for another one.
    #[test]
    fn a_journal_is_exchanged_as_a_whole() {
        let place = tempfile::tempdir().unwrap();
        let session = created(&place);
        let content =
            |number: u32| vec![b'0' + u8::try_from(number % 10).unwrap(); 100 + 4000 * (number as usize % 11)];
        let written = |mut text: Vec<u8>| {
            text.resize(text.len().max(RESERVED), b' ');
            session.exchange_journal(&mut session.open_journal(), &text)
        };
        session.replace_journal(content(0)).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let text = session.read_journal().unwrap();
                    let text = text.trim_ascii_end();
                    assert!(text.iter().all(|byte| *byte == text[0]) && text.len() % 4000 == 100, "{}", text.len());
                }
            });
            for number in 1..500 {
                if number % 2 == 0 {
                    session.replace_journal(content(number)).unwrap();
                } else {
                    written(content(number)).unwrap();
                }
                assert!(std::fs::metadata(session.path_of(SessionFile::Spare)).unwrap().len() >= RESERVED as u64);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(session.read_journal().unwrap().trim_ascii_end(), content(499));
        assert!(!names(session.path()).iter().any(|name| files::is_temporary(OsStr::new(name))));
        session.create_file(SessionFile::Log).unwrap().write_all(b"x").unwrap();
    }
}
