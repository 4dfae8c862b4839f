//! Files that others may have put there: opened without blocking and never through a link, read to a limit, and replaced
//! through a descriptor of their directory.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// How the name of a file begins that is about to take another one's place.
pub const TEMPORARY: &str = ".tfguard-";

/// Opens a regular file in `dir`. Neither a link nor a FIFO nor a device is one.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] where there is none.
pub fn open(dir: impl AsFd, name: &OsStr, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
    regular(opened.map_err(|error| match error {
        Errno::LOOP => io::Error::other("it is a symbolic link"),
        // A FIFO that nobody reads, a device that is not there.
        Errno::NXIO => not_regular(),
        error => error.into(),
    })?)
}

/// Opens a regular file for reading where links are followed, as Terraform follows them.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] where there is none; another kind where it is not a regular file.
pub fn open_path(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    regular(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Reads a file where links are followed, if it has no more than `limit` bytes. Errors: as of [`open_path`].
pub fn read_path(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read(open_path(path)?, limit)
}

/// Whether a text is in the first `limit` bytes of a file.
pub fn has(file: File, text: &[u8], limit: u64) -> io::Result<bool> {
    let (mut file, mut bytes) = (file.take(limit), Vec::new());
    loop {
        // What was kept of the piece before can have the beginning of it.
        let length = file.by_ref().take(64 * 1024).read_to_end(&mut bytes)?;
        if memchr::memmem::find(&bytes, text).is_some() {
            return Ok(true);
        }
        if length == 0 {
            return Ok(false);
        }
        bytes.drain(..bytes.len().saturating_sub(text.len()));
    }
}

/// The end of a file: so many bytes of it at most.
pub fn tail(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let mut tail = vec![0; usize::try_from(length.min(most)).map_err(io::Error::other)?];
    file.read_exact_at(&mut tail, length.saturating_sub(most))?;
    Ok(tail)
}

/// Whether the last line of a file lacks its end.
pub fn ends_within_a_line(file: &File) -> io::Result<bool> {
    Ok(tail(file, 1)?.last().is_some_and(|last| *last != b'\n'))
}

/// Makes a new file in `dir`, open for reading and writing.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where anything has that name.
pub fn create(dir: impl AsFd, name: &OsStr, mode: u32) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))?.into())
}

/// Reads a file to its end, which is no further than `limit` bytes from its start.
pub fn read(mut file: impl io::Read, limit: u64) -> io::Result<Vec<u8>> {
    // A journal, with the room that it keeps, is read at once.
    let mut bytes = Vec::with_capacity(40 * 1024);
    file.by_ref().take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Puts `content` in place of the file `name` in `dir`, in one step: readers see the old or the new one, never a part. A
/// new file has `mode`, less what the umask takes.
pub fn replace(dir: impl AsFd, name: &OsStr, content: &[u8], mode: u32) -> io::Result<()> {
    let (aside, _) = write_aside(&dir, content, mode)?;
    let replaced = rustix::fs::renameat(&dir, &aside, &dir, name);
    if replaced.is_err() {
        let _ = rustix::fs::unlinkat(&dir, &aside, AtFlags::empty());
    }
    Ok(replaced?)
}

/// Writes a file that is about to take another one's place in `dir`; gives its name, and the file, still open.
pub fn write_aside(dir: impl AsFd, content: &[u8], mode: u32) -> io::Result<(String, File)> {
    let aside = format!("{TEMPORARY}{}", random());
    let mut file = create(&dir, aside.as_ref(), mode)?;
    // Some file systems (NFS, quotas) tell only when a descriptor is closed that there was no room.
    let written = file.write_all(content).and_then(|()| Ok(nix::unistd::close(file.try_clone()?)?));
    if written.is_err() {
        let _ = rustix::fs::unlinkat(&dir, &aside, AtFlags::empty());
    }
    written.map(|()| (aside, file))
}

/// Puts `content` in place of a file that the user asked for. What is there and not a regular file stays: a link could
/// have been put there by the repository, to have another file overwritten.
pub fn replace_path(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = directory_of(path)?;
    match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => {
                return Err(io::Error::other("it is a symbolic link; name the file that it points to"));
            }
            _ => return Err(io::Error::other("it is there and not a regular file")),
        },
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    replace(&dir, name, content, mode)
}

/// The repository that a directory is in; without one, the directory itself. Both without links in their paths.
pub fn checkout_of(directory: &Path) -> PathBuf {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    directory.ancestors().find(|above| above.join(".git").exists()).unwrap_or(&directory).to_owned()
}

/// The directory of a file, and the file's name. In the checkout that the working directory is in, which the repository may
/// have filled, no link is followed, whichever way a path leads there.
fn directory_of(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it is a directory"))?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let checkout = checkout_of(&std::env::current_dir().unwrap_or_default());
    let leads_there = |above: &&Path| above.canonicalize().is_ok_and(|above| above.starts_with(&checkout));
    let above: Vec<_> = parent.ancestors().collect();
    let (start, below) = match above.into_iter().rev().find(leads_there) {
        _ if parent.is_relative() => (Path::new("."), parent),
        Some(start) => (start, parent.strip_prefix(start).unwrap_or(Path::new(""))),
        None => (parent, Path::new("")),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open(start, flags, Mode::empty())?;
    for component in below.components().filter(|component| *component != Component::CurDir) {
        dir = match rustix::fs::openat(&dir, component.as_os_str(), flags | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOTDIR) => {
                let name = component.as_os_str().display();
                return Err(io::Error::other(format!("{name} is not a directory, or a symbolic link to one")));
            }
            opened => opened?,
        };
    }
    Ok((dir, name))
}

/// Whether a file has the name of one that was to take another one's place, and may have been left by who was killed.
pub fn is_temporary(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY));
    random.is_some_and(|random| random.len() == 32 && random.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// 32 hexadecimal digits that nobody can guess.
pub fn random() -> String {
    format!("{:032x}", random_number())
}

/// A number that nobody can guess: the standard library seeds its hashers from the system's random numbers, once.
pub fn random_number() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

fn regular(opened: OwnedFd) -> io::Result<File> {
    let file = File::from(opened);
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}
