//! Who of a session is alive: the child, its process group, and whoever holds the session's log open for writing.
//!
//! Every Terraform has the log open for its whole life, wherever it moved (another group, another session, another
//! PID namespace). A daemon that a provisioner left behind has not: Go opens files close-on-exec. Only one that a script
//! gave another log is known by its program's name, and only in the child's group.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use procfs::process::Stat;
use rustix::fs::{Mode, OFlags};

use crate::files;
use crate::model::{ChildRecord, ProcessId, product};
use crate::session::directory::{INNER, LONGEST_JOURNAL, SessionFile, is_session_name};
use crate::session::journal::Journal;
use crate::session::place::ROOT;
use crate::session::process::{is_running, nobody_can_look, stat_of};

/// A living process of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    pub id: ProcessId,
    /// Its program's name, as the kernel has it (15 bytes at most).
    pub name: String,
    /// It is a Terraform.
    pub is_terraform: bool,
    /// It has the session's log open for writing.
    pub holds_log: bool,
    /// Its parent.
    pub parent: i32,
    /// It is another user's, so that this process may not signal it (`sudo terraform`).
    pub out_of_reach: bool,
}

impl std::fmt::Display for Survivor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.id.pid)?;
        if self.out_of_reach { f.write_str(", which is another user's") } else { Ok(()) }
    }
}

/// What of a session is alive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// The processes that could be seen.
    pub survivors: Vec<Survivor>,
    /// There is somebody whom this process cannot see or not look into (another user's, another PID namespace's).
    pub hidden: bool,
}

impl Tree {
    /// Looks at what is alive of the session of `child`, which logs to `log`. `log` must be open for reading only, as
    /// tfguard's own processes have it: who holds it for writing is a Terraform.
    pub fn look(child: Option<&ChildRecord>, log: &File) -> Self {
        let open = is_log_held(log);
        let log_file = identity(log);
        // Where there is no log, nobody can be told to be gone.
        let mut tree = Self { hidden: log_file.is_none(), ..Self::default() };
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Self { hidden: true, ..tree };
        };
        let mut parents = Vec::new();
        for entry in entries {
            let Ok(name) = entry.map(|entry| entry.file_name()) else {
                tree.hidden = true;
                continue;
            };
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let stat = match stat_of(pid) {
                Ok(stat) => stat,
                // No descriptors are left, say: whoever it is, it may live.
                Err(error) if nobody_can_look(&error) => {
                    tree.hidden = true;
                    continue;
                }
                Err(_) => continue,
            };
            if !is_running(&stat) {
                continue;
            }
            let in_session = child.is_some_and(|child| child.session == stat.session);
            // The number of a group is given away again once it is empty, hence the session.
            let in_group = in_session && child.is_some_and(|child| child.id.pid == stat.pgrp);
            let id = ProcessId { pid: stat.pid, start_ticks: stat.starttime };
            // The child counts wherever it moved.
            let is_own = in_group || child.is_some_and(|child| child.id == id);
            // On a busy machine most processes are older than the child, and of nobody's interest. Should one of them
            // have the log open all the same, the kernel's count below tells.
            let may_hold = match open {
                Some(true) => child.is_none_or(|child| stat.starttime >= child.id.start_ticks),
                Some(false) => false,
                None => true,
            };
            if !is_own && !may_hold {
                continue;
            }
            let holds_log = may_hold
                && holds_for_writing(stat.pid, log_file).unwrap_or_else(|error| {
                    // Nobody can look: then it may be anybody. Or not ours to look into, as with `sudo terraform`.
                    tree.hidden |= nobody_can_look(&error) || (open.is_none() && !is_own && in_session);
                    false
                });
            if is_own || holds_log {
                let is_terraform = holds_log || is_called_terraform(stat.pid, &stat.comm);
                if is_terraform {
                    parents.push(stat.ppid);
                }
                tree.survivors.push(Survivor {
                    id,
                    name: stat.comm,
                    is_terraform,
                    holds_log,
                    parent: stat.ppid,
                    out_of_reach: kill(Pid::from_raw(stat.pid), None) == Err(Errno::EPERM),
                });
            }
        }
        // What started a Terraform and is called so, too, is no more than a wrapper of it.
        for survivor in tree.survivors.iter_mut().filter(|survivor| !survivor.holds_log) {
            survivor.is_terraform &= !parents.contains(&survivor.id.pid);
        }
        // The kernel's count of writers sees further than /proc: other users' processes, other PID namespaces.
        tree.hidden |= open == Some(true) && !tree.survivors.iter().any(|survivor| survivor.holds_log);
        tree
    }

    /// Nobody is, or may be, alive.
    pub fn is_gone(&self) -> bool {
        self.survivors.is_empty() && !self.hidden
    }

    /// The Terraforms among the living.
    pub fn terraforms(&self) -> impl Iterator<Item = &Survivor> {
        self.survivors.iter().filter(|survivor| survivor.is_terraform)
    }
}

/// Whether a process is a Terraform by what it runs, or by having the log open for writing.
pub fn runs_terraform(process: ProcessId, log: &File) -> bool {
    is_called_terraform(process.pid, "") || is_terraform(process, log)
}

/// Whether a process has the log open for writing, so that it is a Terraform.
pub fn is_terraform(process: ProcessId, log: &File) -> bool {
    let log_file = identity(log);
    holds_for_writing(process.pid, log_file).is_ok_and(|holds| holds) && process.is_alive()
}

/// Whether a process runs a program that is called as Terraform or OpenTofu is. A script of that name is none, and tfguard
/// itself can be called so. `name`: as the kernel has it.
fn is_called_terraform(pid: i32, name: &str) -> bool {
    match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(program) => product(without_deleted(&program)).is_some() && !is_tfguard(pid),
        // Not ours to look into.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => product(OsStr::new(name)).is_some(),
        // It has ended.
        Err(_) => false,
    }
}

/// The path of an open file or a running program, which may have been deleted or replaced since (proc(5)).
pub(crate) fn without_deleted(path: &Path) -> &OsStr {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = path.as_os_str().as_bytes();
    OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes))
}

/// Whether a process is tfguard, whatever it is called.
pub fn is_tfguard(pid: i32) -> bool {
    let file = |of: &str| std::fs::metadata(format!("/proc/{of}/exe")).ok().map(|file| identity_of(&file));
    file("self").is_some_and(|own| file(&pid.to_string()) == Some(own))
}

/// The processes of this machine whose program is called as Terraform or OpenTofu is, guarded or not.
pub fn terraforms() -> Vec<(ProcessId, String)> {
    let found = processes().filter(|(_, stat)| is_called_terraform(stat.pid, &stat.comm));
    found.map(|(id, stat)| (id, stat.comm)).collect()
}

/// A process that has the log of a session open for writing, as each Terraform of the session has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHolder {
    pub id: ProcessId,
    /// Its program's name, as the kernel has it.
    pub name: String,
    /// The session's directory, as that process sees it: in another container the path means something else.
    pub session: PathBuf,
    /// The link to the log below its `/proc/<pid>/fd`.
    descriptor: PathBuf,
}

impl LogHolder {
    /// Every such process of this machine that may be looked into, wherever its session is.
    pub fn all() -> Vec<Self> {
        let log = |pid: i32| {
            open_for_writing(pid).ok()?.into_iter().find_map(|descriptor| {
                let path = std::fs::read_link(&descriptor).ok().filter(|path| is_log(path))?;
                Some((path.parent()?.to_owned(), descriptor))
            })
        };
        let found = processes().filter_map(|(id, stat)| {
            let (session, descriptor) = log(id.pid)?;
            Some(Self { id, name: stat.comm, session, descriptor })
        });
        found.collect()
    }

    /// The journal beside the log. It tells of a living run whoever owns it, but is no proof of a dead one's end.
    ///
    /// # Errors
    /// When it is not there, or not beside that very log.
    pub fn journal(&self) -> io::Result<Journal> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{}/root", self.id.pid), flags, Mode::empty())?;
        let path = self.session.strip_prefix("/").map_err(io::Error::other)?;
        let dir = rustix::fs::openat(root, path, flags | OFlags::NOFOLLOW, Mode::empty())?;
        let beside = files::open(&dir, SessionFile::Log.name().as_ref(), OFlags::RDONLY)?.metadata()?;
        if identity_of(&beside) != identity_of(&std::fs::metadata(&self.descriptor)?) {
            return Err(io::Error::other("its log is another file"));
        }
        let journal = files::open(&dir, SessionFile::Journal.name().as_ref(), OFlags::RDONLY)?;
        serde_json::from_slice(&files::read(journal, LONGEST_JOURNAL)?).map_err(io::Error::from)
    }

    /// Whether the log has a text, as far as it is looked through.
    pub fn log_has(&self, text: &str) -> bool {
        let log = files::open_path(&self.descriptor);
        log.is_ok_and(|log| files::has(log, text.as_bytes(), MOST_LOOKED_THROUGH).unwrap_or(true))
    }
}

/// Whether a path is that of the log of a session.
fn is_log(path: &Path) -> bool {
    let path = Path::new(without_deleted(path));
    let above = |path: &Path, n| path.ancestors().nth(n).and_then(Path::file_name).unwrap_or_default().to_owned();
    above(path, 0) == SessionFile::Log.name()
        && is_session_name(&above(path, 1))
        && [ROOT, INNER].iter().any(|root| above(path, 2) == *root)
}

/// How much of a log is looked through at most: at its lowest level it grows for hours.
const MOST_LOOKED_THROUGH: u64 = 256 * 1024 * 1024;

/// The running processes of this machine.
fn processes() -> impl Iterator<Item = (ProcessId, Stat)> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let stat = stat_of(entry.file_name().to_str()?.parse().ok()?).ok().filter(is_running)?;
        Some((ProcessId { pid: stat.pid, start_ticks: stat.starttime }, stat))
    })
}

/// What a log is known by; none if it is no log, as where /dev/null stands for one that is lost: everybody has that open.
fn identity(log: &File) -> Option<(u64, u64)> {
    log.metadata().ok().filter(Metadata::is_file).map(|file| identity_of(&file))
}

/// What a file is known by, whatever its name is: device and inode.
pub fn identity_of(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Which signal tells of a lease to be given back (`asm-generic/fcntl.h`, the same on every Linux tfguard is built for).
const F_SETSIG: libc::c_int = 10;

/// Whether a process has the file open for writing; not if it is gone.
///
/// # Errors
/// It may not be looked into, or there are no descriptors to look.
fn holds_for_writing(pid: i32, file: Option<(u64, u64)>) -> io::Result<bool> {
    let is_it = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|target| Some(identity_of(&target)) == file);
    match open_for_writing(pid) {
        Ok(open) => Ok(open.iter().any(is_it)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a process has open for writing: links below its `/proc/<pid>/fd`, whose modes tell (proc(5)). It takes one descriptor.
fn open_for_writing(pid: i32) -> io::Result<Vec<PathBuf>> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // It may be closed by now.
        if path.symlink_metadata().is_ok_and(|link| link.mode() & 0o200 != 0) {
            open.push(path);
        }
    }
    Ok(open)
}

/// Whether anybody on this kernel, in whichever PID namespace, has a session's log open for writing; none where the
/// file system cannot tell.
///
/// A read lease is granted only when nobody has (fcntl(2), `F_SETLEASE`). It is given back at once. NFS and SMB refuse it
/// with the same error where the server did not delegate the file (`fs/nfs/nfs4proc.c`, `fs/smb/client/cifsfs.c`).
pub fn is_log_held(file: &File) -> Option<bool> {
    const WITHOUT_LEASES: [u32; 3] = [0x6969, 0xFF53_4D42, 0xFE53_4D42];
    let kind = rustix::fs::fstatfs(file).ok()?.f_type;
    if WITHOUT_LEASES.iter().any(|without| i64::from(*without) == kind & 0xFFFF_FFFF) {
        return None;
    }
    let fd = file.as_raw_fd();
    // SAFETY: these fcntl commands take an integer and touch no memory of ours; the descriptor is open, as `file` is.
    let taken = unsafe {
        // Should somebody open the file before the lease is given back, the kernel sends this signal, which is ignored
        // by default, instead of SIGIO, which kills.
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK)
    };
    if taken == 0 {
        // SAFETY: as above.
        unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
        return Some(false);
    }
    (Errno::last() == Errno::EAGAIN).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    struct Killed(std::process::Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn log() -> (tempfile::NamedTempFile, File) {
        let written = tempfile::NamedTempFile::new().unwrap();
        let read = File::open(written.path()).unwrap();
        (written, read)
    }

    /// A process that lives until its stdin closes, in a group of its own or not.
    fn cat(stdout: Stdio, own_group: bool) -> Killed {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(stdout);
        if own_group {
            command.process_group(0);
        }
        Killed(command.spawn().unwrap())
    }

    fn record(child: &Killed) -> ChildRecord {
        let pid = child.0.id().cast_signed();
        ChildRecord::from_stat(&std::fs::read(format!("/proc/{pid}/stat")).unwrap()).unwrap()
    }

    #[test]
    fn a_writer_of_the_log_is_alive_wherever_it_is() {
        let (written, log) = log();
        let (path, writer) = (written.path().to_owned(), written.into_file());
        assert_eq!(is_log_held(&log), Some(true));
        let terraform = cat(writer.into(), true);
        let tree = Tree::look(None, &log);
        assert!(!tree.is_gone());
        assert_eq!(tree.terraforms().map(|found| found.id.pid).collect::<Vec<_>>(), [terraform.0.id().cast_signed()]);
        drop(terraform);
        assert_eq!(is_log_held(&log), Some(false));
        assert_eq!(Tree::look(None, &log), Tree::default());
        drop(path);
    }

    #[test]
    fn the_group_counts_and_a_daemon_that_left_it_does_not() {
        let (written, log) = log();
        drop(written.into_file());
        let child = cat(Stdio::null(), true);
        let stranger = cat(Stdio::null(), true);
        let tree = Tree::look(Some(&record(&child)), &log);
        assert_eq!(tree.survivors.iter().map(|found| found.id.pid).collect::<Vec<_>>(), [child.0.id().cast_signed()]);
        assert!(!tree.survivors[0].holds_log);
        let gone = record(&child);
        drop(child);
        assert!(Tree::look(Some(&gone), &log).is_gone());
        drop(stranger);
    }

    /// Guards against interrupting and killing everybody who has /dev/null open, where the log was removed.
    #[test]
    fn without_a_log_nobody_is_a_terraform_and_nobody_is_known_to_be_gone() {
        let null = File::open("/dev/null").unwrap();
        let stranger = cat(Stdio::null(), true);
        let tree = Tree::look(None, &null);
        assert_eq!(tree, Tree { survivors: Vec::new(), hidden: true });
        assert!(!tree.is_gone());
        let stranger = ProcessId::of(stranger.0.id().cast_signed()).unwrap();
        assert!(!is_terraform(stranger, &null));
    }

    /// Guards against taking for gone whom nobody can look at.
    #[test]
    fn without_a_descriptor_nobody_is_known_to_be_gone() {
        const ALONE: &str = "TFGUARD_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            // A limit is that of a whole process.
            let name = "session::alive::tests::without_a_descriptor_nobody_is_known_to_be_gone";
            let own = std::env::current_exe().unwrap();
            let alone = Command::new(own).args(["--exact", name]).env(ALONE, "1").output().unwrap();
            return assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stdout));
        }
        let (written, log) = log();
        let writer = cat(written.into_file().into(), true);
        let (pid, file) = (writer.0.id().cast_signed(), identity(&log));
        let id = ProcessId::of(pid).unwrap();
        let next = File::open("/dev/null").unwrap().as_raw_fd();
        for free in 0..5 {
            let current = u64::try_from(next + free).unwrap();
            let limit = rustix::process::Rlimit { current: Some(current), maximum: Some(4096) };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            assert_eq!(holds_for_writing(pid, file).ok(), (free > 0).then_some(true), "{free}");
            assert!(!Tree::look(None, &log).is_gone() && id.is_alive(), "{free}");
        }
    }

    #[test]
    fn readers_of_the_log_do_not_count() {
        let (written, log) = log();
        drop(written.into_file());
        let reader = log.try_clone().unwrap();
        assert!(Tree::look(None, &log).is_gone());
        drop(reader);
    }
}
