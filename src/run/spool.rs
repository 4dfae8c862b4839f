//! The front's side of the output: copies a spool file to the CI's stdout or stderr as it grows.
//!
//! Each stream has a thread of its own, so that a CI log that does not read stalls neither the other stream nor the
//! front's signals. It never stalls the child, which writes to a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::sync::oneshot;

use crate::run::follow::Follow;
use crate::run::requests::Requests;
use crate::session::{SessionDir, SessionFile};

/// The pause after a copied piece. Waking the relay for each line of a flood costs the child more time than writing it.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// Who takes nothing for so long does not read. Less than a CI gives between its last signal and SIGKILL (GitHub 2.5 s).
const STALLED: Duration = Duration::from_secs(1);

/// One stream on its way to the CI.
#[derive(Debug)]
pub struct Relay {
    /// Told by the thread at its end. No other thread waits for it: there may be none to be had.
    copied: oneshot::Receiver<bool>,
    orders: Arc<Orders>,
}

/// What the front wants of the thread.
#[derive(Debug)]
struct Orders {
    wake: OwnedFd,
    state: Mutex<State>,
    /// How many bytes the reader has taken.
    taken: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// tfguard's own lines, to be written between what the child writes.
    lines: VecDeque<String>,
    /// Everything is there: copy it and stop.
    complete: bool,
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: String) {
        self.lock().lines.push_back(line);
        self.wake();
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Relay {
    /// Starts copying `spool`, if there is one, to `to`, from where whoever copied it before left off.
    pub fn start(spool: Option<Spool>, to: impl AsFd + Send + 'static) -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let orders = Arc::new(Orders { wake, state: Mutex::default(), taken: AtomicU64::new(0) });
        let (done, copied) = oneshot::channel();
        std::thread::Builder::new().name("relay".to_owned()).spawn({
            let orders = orders.clone();
            move || done.send(relay(spool, to.as_fd(), &orders))
        })?;
        Ok(Self { copied, orders })
    }

    /// Adds a line of tfguard's own.
    pub fn say(&self, line: String) {
        self.orders.say(line);
    }

    /// Lets any thread add such lines.
    pub fn sayer(&self) -> impl Fn(String) + use<> {
        let orders = self.orders.clone();
        move |line| orders.say(line)
    }

    /// The spool is complete and so are the lines; the thread ends once everything is copied.
    pub fn complete(&self) {
        self.orders.lock().complete = true;
        self.orders.wake();
    }

    /// Waits until everything is copied, however slowly it is read. Once somebody asks for a stop (`hurried`), only while it is
    /// read at all. Whether the reader was there to the end.
    pub async fn join(mut self, requests: &mut Requests, hurried: &mut bool) -> bool {
        while !*hurried {
            tokio::select! {
                heard = &mut self.copied => return heard.unwrap_or(false),
                Some(_) = requests.recv() => *hurried = true,
            }
        }
        loop {
            let before = self.orders.taken.load(Ordering::Relaxed);
            match tokio::time::timeout(STALLED, &mut self.copied).await {
                Ok(heard) => return heard.unwrap_or(false),
                Err(_) if self.orders.taken.load(Ordering::Relaxed) == before => return false,
                Err(_) => {}
            }
        }
    }
}

/// A spool file on the side of who reads it.
#[derive(Debug)]
pub struct Spool {
    file: Follow,
    /// The file that notes how much was copied, for whoever goes on after this process.
    progress: Option<File>,
    /// The offset of this spool's number in there.
    slot: u64,
    /// None where the system has no inotify left; the file is then looked at five times a second.
    growth: Option<OwnedFd>,
}

impl Spool {
    /// Opens a spool; none where it was removed, as the spool of stderr where that goes into the one of stdout. None also where
    /// another process removes the session at this moment, which has shown everything, and where the file cannot be used: that
    /// is told. `slot`: where its progress is noted.
    pub fn open(session: &SessionDir, spool: SessionFile, slot: u64) -> Option<Self> {
        let opened = Self::open_there(session, spool, slot).inspect_err(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                let path = session.path_of(spool);
                tracing::warn!("the command's output in {} cannot be passed on: {error}", path.display());
            }
        });
        opened.ok()
    }

    fn open_there(session: &SessionDir, spool: SessionFile, slot: u64) -> io::Result<Self> {
        let watch = || -> Result<OwnedFd, rustix::io::Errno> {
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            inotify::add_watch(&fd, session.path_of(spool), WatchFlags::MODIFY)?;
            Ok(fd)
        };
        let growth = watch().ok();
        let file = session.open_file(spool)?;
        let progress =
            session.open_progress().inspect_err(|error| tracing::debug!("how much was passed on: {error}")).ok();
        let mut copied = [0; 8];
        let read = progress.as_ref().map(|progress| progress.read_exact_at(&mut copied, slot));
        let copied = if matches!(read, Some(Ok(()))) { u64::from_ne_bytes(copied) } else { 0 };
        let file = Follow::new(file, copied)?;
        Ok(Self { file, progress, slot, growth })
    }

    /// Another descriptor of what it is watched by. The kernel takes 10 to 15 ms to close the last one of that.
    pub fn watched_by(&self) -> Option<OwnedFd> {
        self.growth.as_ref()?.try_clone().ok()
    }

    /// What nobody has passed on yet, at most so many bytes of its end; none where there is nothing.
    pub fn rest(self, most: u64) -> Option<String> {
        let end = self.file.file().metadata().ok()?.len();
        let from = self.file.position().max(end.saturating_sub(most));
        let mut rest = vec![0; usize::try_from(end.checked_sub(from).filter(|rest| *rest > 0)?).ok()?];
        self.file.file().read_exact_at(&mut rest, from).ok()?;
        if let Some(progress) = &self.progress {
            let _ = progress.write_all_at(&end.to_ne_bytes(), self.slot);
        }
        Some(String::from_utf8_lossy(&rest).into_owned())
    }

    /// Whether somebody has passed on all of it.
    #[must_use]
    pub fn is_passed_on(&self) -> bool {
        self.file.file().metadata().is_ok_and(|file| file.len() <= self.file.position())
    }

    /// Why what the command writes does not get into the file any more, if that is so.
    fn is_full(&self) -> Option<&'static str> {
        let file = self.file.file();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        if limit.is_some_and(|limit| file.metadata().is_ok_and(|file| file.len() >= limit)) {
            return Some("it has reached the limit of a file's size (`ulimit -f`)");
        }
        let space = rustix::fs::fstatvfs(file).ok()?;
        // The rest is kept for root. A file system of no size at all does not tell.
        let free = if nix::unistd::geteuid().is_root() { space.f_bfree } else { space.f_bavail };
        (free == 0 && space.f_blocks > 0).then_some("no space is left for it (set TFGUARD_DIR to a place with some)")
    }

    /// Copies what is there now; whether there may be more by then, which is left, or a flood would never end. What goes into a
    /// file that was `deleted` is not noted as passed on.
    fn copy(
        &mut self,
        to: BorrowedFd<'_>,
        deleted: impl Fn() -> bool,
        orders: &Orders,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        let end = self.file.file().metadata()?.len();
        loop {
            match self.file.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => write_all(to, orders, &buffer[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Some(progress) = self.progress.as_ref().filter(|_| !deleted()) {
                let _ = progress.write_all_at(&self.file.position().to_ne_bytes(), self.slot);
            }
            if self.file.position() >= end {
                return Ok(true);
            }
        }
    }
}

/// The command's output was cut off, and that was said.
static CUT_OFF: Once = Once::new();

/// A reader that is gone is nobody's trouble: nothing is written any more, and the child goes on. Whether it was there to
/// the end. A file counts as one unless somebody deletes it meanwhile, as Jenkins does with the log of a step that it gives
/// up; one that had no name from the start is somebody's way to capture output.
fn relay(mut spool: Option<Spool>, to: BorrowedFd<'_>, orders: &Orders) -> bool {
    let names = || rustix::fs::fstat(to).map_or(1, |file| file.st_nlink);
    let had_a_name = names() > 0;
    let deleted = || had_a_name && names() == 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Asked before the file is read: what is complete then is read to its end.
        let complete = orders.lock().complete;
        let copied = spool.as_mut().map_or(Ok(false), |spool| spool.copy(to, deleted, orders, &mut buffer));
        if let Some(why) = spool.as_ref().and_then(Spool::is_full) {
            CUT_OFF.call_once(|| tracing::warn!("the command's output is incomplete from here: {why}"));
        }
        let written = copied.and_then(|more| {
            while let Some(line) = { orders.lock().lines.pop_front() } {
                write_all(to, orders, line.as_bytes())?;
            }
            Ok(more)
        });
        if let Err(error) = &written
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            tracing::warn!("the command's output cannot be passed on any more: {error}");
        }
        if written.is_err() || complete {
            return written.is_ok() && !deleted();
        }
        if !matches!(written, Ok(true)) {
            wait(spool.as_ref(), orders);
        }
    }
}

/// Like `Write::write_all`, but also to a descriptor that somebody else made non-blocking (Node does that to pipes).
fn write_all(to: BorrowedFd<'_>, orders: &Orders, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(length) => {
                bytes = &bytes[length..];
                orders.taken.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let _ = rustix::event::poll(&mut [PollFd::new(&to, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait(spool: Option<&Spool>, orders: &Orders) {
    let ordered = PollFd::new(&orders.wake, PollFlags::IN);
    let is_ordered = rustix::event::poll(&mut [ordered.clone()], Some(&PAUSE)) == Ok(1);
    let mut sources = vec![ordered];
    let growth = spool.and_then(|spool| spool.growth.as_ref());
    sources.extend(growth.map(|growth| PollFd::new(growth, PollFlags::IN)));
    let polled = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    let timeout = (spool.is_some() && growth.is_none()).then_some(&polled);
    if !is_ordered {
        let _ = rustix::event::poll(&mut sources, timeout);
    }
    let _ = rustix::io::read(&orders.wake, &mut [0_u8; 8]);
    if let Some(growth) = growth {
        let mut events = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(growth, &mut events);
        while reader.next().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a warning, or worse, of a cleanup step, because the front removed the session between two looks at it.
    #[test]
    fn a_spool_may_go_at_any_moment() {
        let place = tempfile::tempdir().unwrap();
        let env = [("TFGUARD_DIR", place.path())].into_iter().collect();
        for _ in 0..500 {
            let session = SessionDir::create(&env).unwrap();
            drop(session.create_file(SessionFile::Stdout).unwrap());
            std::thread::scope(|scope| {
                let front = scope.spawn(|| session.remove());
                while !front.is_finished() {
                    if let Err(error) = Spool::open_there(&session, SessionFile::Stdout, 0) {
                        assert_eq!(error.kind(), io::ErrorKind::NotFound);
                    }
                }
            });
            session.remove();
        }
    }
}
