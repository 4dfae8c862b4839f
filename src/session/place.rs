//! Where sessions live, and whether somebody else could steer what is put there.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::model::Environment;
use crate::text::quote;
use crate::{ci, files};

/// The directory of all sessions in a place. No repository has one of this name.
pub const ROOT: &str = ".tfguard-sessions";

/// What is wrong with the place for sessions, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A part of the way is a symbolic link.
    #[error("{path} is a symbolic link, which somebody else could change\nhint: Set TFGUARD_DIR to the directory itself", path = .0.display())]
    Symlink(PathBuf),
    /// A part of the way is no directory.
    #[error("{path} is not a directory\nhint: Set TFGUARD_DIR to a directory that you can write", path = .0.display())]
    NotADirectory(PathBuf),
    /// Somebody else's.
    #[error("{path} belongs to user {owner}, not to user {own}\nhint: Set TFGUARD_DIR to a directory of your own", path = .path.display())]
    Foreign { path: PathBuf, owner: u32, own: u32 },
    /// Others could change what tfguard writes.
    #[error("{path} can be written by others (mode {mode:04o})\nhint: Run `chmod go-w {}`, or set TFGUARD_DIR to another place (in a container also to a directory in it that does not exist yet: tfguard makes it)", quote(.path), path = .path.display())]
    WritableByOthers { path: PathBuf, mode: u32 },
    /// The file system makes what it likes.
    #[error(
        "the file system of {path} gives a new directory the owner {owner} and the mode {mode:04o}, whatever is asked for, so \
         others could change what tfguard writes there\nhint: Set TFGUARD_DIR to a directory on another file system", path = .path.display()
    )]
    Forced { path: PathBuf, owner: u32, mode: u32 },
    /// Not what tfguard made.
    #[error("{path} is not a session's directory, as tfguard names and marks it", path = .0.display())]
    NotASession(PathBuf),
    #[error("cannot {doing} {path}: {error}\nhint: Set TFGUARD_DIR to a directory that you can write and that has some space left", path = .path.display())]
    Io { doing: &'static str, path: PathBuf, error: io::Error },
}

impl DirectoryError {
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// A directory in which there may be sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The user chose it (`TFGUARD_DIR`).
    Chosen(PathBuf),
    /// A variable of the CI or of the system names it.
    Named(PathBuf),
    /// The user's directory in the temporary directory, which all users share.
    Shared,
}

impl Place {
    /// The places of a run, in the order in which they are tried: that of the user's choice, else those that the cleanup step
    /// of the same CI job can read, then the user's own run-time directory.
    pub fn of_run(env: &Environment) -> Vec<Self> {
        match env.path("TFGUARD_DIR") {
            // With a slash at its end, a link would be followed unseen.
            Some(dir) => vec![Self::Chosen(dir.components().collect())],
            None => {
                let places = ci::directories().chain(["XDG_RUNTIME_DIR"]);
                places
                    .filter_map(|name| env.path(name))
                    .map(|dir| Self::Named(dir.to_owned()))
                    .chain([Self::Shared])
                    .collect()
            }
        }
    }

    /// The places where a session may have been left.
    pub fn of_sessions(env: &Environment) -> Vec<Self> {
        let mut places = Self::of_run(env);
        if !places.contains(&Self::Shared) {
            places.push(Self::Shared);
        }
        places
    }

    /// Reaches it, and makes it where tfguard may.
    pub fn make(&self) -> Result<Reached, DirectoryError> {
        match self {
            Self::Chosen(dir) => {
                if std::fs::symlink_metadata(dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create", dir))?;
                }
                self.reach()
            }
            Self::Named(_) => self.reach(),
            Self::Shared => {
                let shared = Reached::walk(&std::env::temp_dir())?;
                shared.make_private(OsStr::new(&shared_name()))
            }
        }
    }

    /// Reaches it where it is.
    pub fn reach(&self) -> Result<Reached, DirectoryError> {
        match self {
            Self::Chosen(dir) => {
                let found = std::fs::symlink_metadata(dir).map_err(io_error("read", dir))?;
                if found.is_symlink() {
                    return Err(DirectoryError::Symlink(dir.clone()));
                }
                let reached = Reached::walk(dir)?;
                // In a container, too: nobody but the user has to do with its mode.
                let stat = rustix::fs::fstat(&reached.dir).map_err(io::Error::from).map_err(io_error("read", dir))?;
                let steered = steered_by_others(&stat, dir, false);
                Ok(Reached { steered: steered.or(reached.steered), ..reached })
            }
            Self::Named(dir) => Reached::walk(dir),
            Self::Shared => Reached::walk(&std::env::temp_dir())?.open_private(OsStr::new(&shared_name())),
        }
    }
}

fn shared_name() -> String {
    format!("tfguard-{}", nix::unistd::geteuid())
}

/// Whether a directory is the user's own in the temporary directory, which tfguard makes and removes.
pub fn is_shared(path: &Path) -> bool {
    path.file_name() == Some(OsStr::new(&shared_name()))
        && std::env::temp_dir().canonicalize().is_ok_and(|temporary| path.parent() == Some(&temporary))
}

/// A directory that was reached step by step from the root of the file system, through no link.
#[derive(Debug)]
pub struct Reached {
    /// The directory itself.
    pub dir: OwnedFd,
    /// Its path, without links.
    pub path: PathBuf,
    /// Who else could put another directory in its place, or in that of one above it.
    pub steered: Option<DirectoryError>,
}

impl Reached {
    /// Reaches a directory and checks all those above it, as OpenSSH's `StrictModes` does: each belongs to root or to
    /// this user, and nobody else can write to it. Excepted are
    /// * temporary directories with the sticky bit, in which nobody can rename what is somebody else's;
    /// * directories that only the owner's private group can write to (a group of the owner's name, without other members:
    ///   `USERGROUPS_ENAB` of login.defs(5)): a runner with the umask 002 makes such ones;
    /// * all of them in a container of a job: GitLab's runner makes `/builds` with the mode 0777, a volume of Kubernetes
    ///   has it, and GitHub runs the container's root in the directories of another user. Nobody else is in there.
    pub fn walk(path: &Path) -> Result<Self, DirectoryError> {
        let path = path.canonicalize().map_err(io_error("find", path))?;
        let anyone_may = ci::is_in_container_of_a_job();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (mut dir, mut at): (Option<OwnedFd>, _) = (None, PathBuf::new());
        let mut steered = None;
        for component in path.components() {
            at.push(component);
            let step = match (&dir, component) {
                (Some(dir), Component::Normal(name)) => rustix::fs::openat(dir, name, flags, Mode::empty()),
                _ => rustix::fs::open(&at, flags, Mode::empty()),
            };
            let opened = step.map_err(|error| match error {
                Errno::NOTDIR => DirectoryError::NotADirectory(at.clone()),
                error => io_error("open", &at)(error.into()),
            })?;
            let stat = rustix::fs::fstat(&opened).map_err(|error| io_error("read", &at)(error.into()))?;
            if !anyone_may && steered.is_none() {
                steered = steered_by_others(&stat, &at, true);
            }
            dir = Some(opened);
        }
        let dir = dir.ok_or_else(|| io_error("find", &path)(io::ErrorKind::NotFound.into()))?;
        Ok(Self { dir, path, steered })
    }

    /// Refuses it where somebody else could steer what is put there.
    pub fn unsteered(self) -> Result<Self, DirectoryError> {
        match self.steered {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    /// Opens a directory in it that is this user's alone.
    pub fn open_private(self, name: &OsStr) -> Result<Self, DirectoryError> {
        let path = self.path.join(name);
        let dir = open_private(&self.dir, name, &path)?;
        Ok(Self { dir, path, ..self })
    }

    /// The same, made where it is not there.
    pub fn make_private(self, name: &OsStr) -> Result<Self, DirectoryError> {
        let path = self.path.join(name);
        let dir = make_private(&self.dir, name, &path)?;
        Ok(Self { dir, path, ..self })
    }

    /// Whether there is anything of that name in it.
    pub fn has(&self, name: &OsStr) -> bool {
        !matches!(rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT))
    }
}

/// Opens a directory that is this user's alone. `path`: what it is called in an error.
pub fn open_private(dir: impl AsFd, name: &OsStr, path: &Path) -> Result<OwnedFd, DirectoryError> {
    let read = |error: Errno| io_error("read", path)(error.into());
    // Asked first, for a good word: what belongs to somebody else may not even be opened.
    check_private(&rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(read)?, path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(read)?;
    check_private(&rustix::fs::fstat(&opened).map_err(read)?, path)?;
    Ok(opened)
}

/// The same, made where it is not there.
pub fn make_private(dir: impl AsFd, name: &OsStr, path: &Path) -> Result<OwnedFd, DirectoryError> {
    match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_private(&dir, name, path).map_err(|error| match error {
            DirectoryError::WritableByOthers { .. } | DirectoryError::Foreign { .. } => {
                let Some((owner, mode)) = forced(&dir) else { return error };
                // If it is empty, so that nobody takes it for a place of sessions later.
                let _ = rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR);
                let path = path.parent().unwrap_or(path).to_owned();
                DirectoryError::Forced { path, owner, mode: mode & 0o7777 }
            }
            error => error,
        }),
        Err(error) => Err(io_error("create", path)(error.into())),
    }
}

/// The owner and mode that a file system gives every directory that is made in `dir`, where that is not what was asked for:
/// SMB's and Windows' do, as mounted.
fn forced(dir: impl AsFd) -> Option<(u32, u32)> {
    let name = format!("{}{}", files::TEMPORARY, files::random());
    rustix::fs::mkdirat(&dir, &name, Mode::RWXU).ok()?;
    let made = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW);
    let _ = rustix::fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR);
    let made = made.ok()?;
    let private = made.st_uid == nix::unistd::geteuid().as_raw() && made.st_mode & 0o022 == 0;
    (!private).then_some((made.st_uid, made.st_mode))
}

fn check_private(stat: &Stat, path: &Path) -> Result<(), DirectoryError> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {}
        FileType::Symlink => return Err(DirectoryError::Symlink(path.to_owned())),
        _ => return Err(DirectoryError::NotADirectory(path.to_owned())),
    }
    let own = nix::unistd::geteuid().as_raw();
    if stat.st_uid != own {
        return Err(DirectoryError::Foreign { path: path.to_owned(), owner: stat.st_uid, own });
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(DirectoryError::WritableByOthers { path: path.to_owned(), mode: stat.st_mode & 0o7777 });
    }
    Ok(())
}

/// Who else could rename what is in a directory.
fn steered_by_others(stat: &Stat, path: &Path, group_may: bool) -> Option<DirectoryError> {
    let (path, mode) = (path.to_owned(), stat.st_mode & 0o7777);
    let own = nix::unistd::geteuid().as_raw();
    if stat.st_uid != own && stat.st_uid != 0 && !is_unmapped(stat.st_uid) {
        return Some(DirectoryError::Foreign { path, owner: stat.st_uid, own });
    }
    let is_sticky = mode & 0o1000 != 0;
    let by_all = mode & 0o002 != 0;
    let by_group = || mode & 0o020 != 0 && !(group_may && is_private_group(stat.st_gid, stat.st_uid));
    (!is_sticky && (by_all || by_group())).then_some(DirectoryError::WritableByOthers { path, mode })
}

/// Whether a group is a user's alone.
fn is_private_group(group: u32, user: u32) -> bool {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(user)) else { return false };
    let Ok(Some(group)) = Group::from_gid(Gid::from_raw(group)) else { return false };
    group.name == user.name && group.mem.iter().all(|member| *member == user.name)
}

/// Whether a user ID stands for all users that a user namespace does not know, root outside of it among them
/// (user_namespaces(7)).
fn is_unmapped(user: u32) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
    let maps_all = read("self/uid_map").split_whitespace().eq(["0", "0", "4294967295"]);
    !maps_all && read("sys/kernel/overflowuid").trim().parse() == Ok(user)
}

pub fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |error| DirectoryError::Io { doing, path, error }
}
