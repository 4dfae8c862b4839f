//! Wakes the supervisor when one of the session's files grows or is opened. Nothing polls, unless the system is out of
//! inotify instances, which happens on busy CI machines.
//!
//! The kernel takes 10 to 15 ms to close an inotify instance (it waits for a grace period of its own), also at the end of the
//! process. So there is none for a command that ends at once: its files are read at its end anyway.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::session::awaitable;

/// How often files are looked at where inotify cannot be had.
const WITHOUT_INOTIFY: Duration = Duration::from_millis(200);
/// A command that ends earlier is not watched. Terraform takes longer to its first lock.
const LATE: Duration = Duration::from_millis(50);
/// The pause after a change, before the next one is told: a Terraform that logs thousands of lines a second shall not share its
/// processor with a supervisor that wakes for each.
const PAUSE: Duration = Duration::from_millis(20);

/// The files of a session that are watched.
#[derive(Debug)]
pub enum Watch {
    /// Not yet, but from this time on.
    Late { from: Instant, files: Vec<(PathBuf, WatchFlags)> },
    /// By the kernel. Nothing is told before `from`.
    Inotify { inotify: AsyncFd<OwnedFd>, from: Instant },
    /// By looking at them.
    Polling,
    /// Not any more.
    Closed,
}

impl Watch {
    /// Watches nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::Late { from: Instant::now() + LATE, files: Vec::new() }
    }

    /// Watches one more file, until it is read no more.
    pub fn add(&mut self, path: &Path) {
        self.add_with(path, WatchFlags::MODIFY | WatchFlags::OPEN);
    }

    /// Tells once that a file grew, which no [`Self::add`] watches.
    pub fn add_once(&mut self, path: &Path) {
        self.add_with(path, WatchFlags::MODIFY | WatchFlags::ONESHOT);
    }

    fn add_with(&mut self, path: &Path, flags: WatchFlags) {
        match self {
            Self::Late { files, .. } => files.push((path.to_owned(), flags)),
            Self::Inotify { inotify, .. } => {
                if let Err(error) = inotify::add_watch(inotify.get_ref(), path, flags) {
                    tracing::debug!(
                        "cannot watch {}: {error}; looking at the files five times a second",
                        path.display()
                    );
                    self.close();
                    *self = Self::Polling;
                }
            }
            Self::Polling | Self::Closed => {}
        }
    }

    fn begin(&mut self, files: Vec<(PathBuf, WatchFlags)>) {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(std::io::Error::from);
        match inotify.and_then(awaitable) {
            Ok(inotify) => *self = Self::Inotify { inotify, from: Instant::now() },
            Err(error) => {
                tracing::debug!("no inotify ({error}); looking at the files five times a second");
                *self = Self::Polling;
            }
        }
        for (path, flags) in files {
            self.add_with(&path, flags);
        }
    }

    /// Watches nothing any more. Nobody waits for the kernel.
    pub fn close(&mut self) {
        if let Self::Inotify { inotify, .. } = std::mem::replace(self, Self::Closed) {
            let closed = inotify.into_inner();
            let _ = std::thread::Builder::new().name("close".to_owned()).spawn(move || drop(closed));
        }
    }

    /// Waits until a watched file changed; whether one was opened, also where nobody knows.
    pub async fn changed(&mut self) -> bool {
        match self {
            Self::Late { from, files } => {
                tokio::time::sleep_until(*from).await;
                let files = std::mem::take(files);
                self.begin(files);
                // What happened before nobody told.
                true
            }
            Self::Inotify { inotify, from } => {
                tokio::time::sleep_until(*from).await;
                let mut opened = false;
                let mut buffer = [MaybeUninit::uninit(); 4096];
                if let Ok(mut ready) = inotify.readable().await {
                    let mut reader = Reader::new(inotify.get_ref(), &mut buffer);
                    while let Ok(event) = reader.next() {
                        opened |= event.events().intersects(ReadFlags::OPEN | ReadFlags::QUEUE_OVERFLOW);
                    }
                    ready.clear_ready();
                }
                *from = Instant::now() + PAUSE;
                opened
            }
            Self::Polling => {
                tokio::time::sleep(WITHOUT_INOTIFY).await;
                true
            }
            Self::Closed => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write as _;

    /// How long nothing is awaited before it counts as not coming.
    const NOTHING: Duration = Duration::from_millis(100);

    async fn change(watch: &mut Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("nothing is told")
    }

    /// Guards what is written and opened before the watch begins.
    #[tokio::test]
    async fn a_watch_that_begins_late_misses_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut watch = Watch::new();
        watch.add(file.path());
        assert!(matches!(watch, Watch::Late { .. }));
        file.as_file().write_all(b"early").unwrap();
        assert!(change(&mut watch).await, "everything is looked at once it begins");
        file.as_file().write_all(b"later").unwrap();
        assert!(!change(&mut watch).await);
        drop(File::open(file.path()).unwrap());
        assert!(change(&mut watch).await);
        watch.close();
        assert!(tokio::time::timeout(NOTHING, watch.changed()).await.is_err());
    }

    /// Guards against a supervisor that runs once for each line of a long output.
    #[tokio::test]
    async fn a_file_that_is_watched_once_tells_once_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut watch = Watch::new();
        watch.add_once(file.path());
        change(&mut watch).await;
        for _ in 0..2 {
            file.as_file().write_all(b"a").unwrap();
            change(&mut watch).await;
            file.as_file().write_all(b"b").unwrap();
            assert!(tokio::time::timeout(NOTHING, watch.changed()).await.is_err(), "told twice");
            watch.add_once(file.path());
        }
    }

    /// Guards against a supervisor that runs once for each line of a log that floods.
    #[tokio::test(start_paused = true)]
    async fn a_flood_is_told_of_a_few_times() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut watch = Watch::new();
        watch.add(file.path());
        change(&mut watch).await;
        let begun = Instant::now();
        for _ in 0..10 {
            file.as_file().write_all(b"a line\n").unwrap();
            change(&mut watch).await;
        }
        assert!(begun.elapsed() >= 9 * PAUSE);
        tokio::time::advance(PAUSE).await;
        let calm = Instant::now();
        file.as_file().write_all(b"a line\n").unwrap();
        change(&mut watch).await;
        assert_eq!(calm.elapsed(), Duration::ZERO, "the first after a pause is told at once");
    }

    /// Guards a run on a machine that has no inotify instance left, and a session that is gone.
    #[tokio::test]
    async fn what_cannot_be_watched_is_looked_at() {
        let mut watch = Watch::new();
        watch.add(Path::new("/nowhere"));
        for _ in 0..2 {
            assert!(change(&mut watch).await);
        }
        assert!(matches!(watch, Watch::Polling));
    }
}
