//! Wakes the supervisor when one of the session's files grows or is opened. Nothing polls, unless the system is out of
//! inotify instances, which happens on busy CI machines.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::session::awaitable;

/// How often files are looked at where inotify cannot be had.
const WITHOUT_INOTIFY: Duration = Duration::from_millis(200);

/// The files of a session that are watched.
#[derive(Debug)]
pub struct Watch {
    inotify: Option<AsyncFd<OwnedFd>>,
}

/// What happened to the files since the last time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// One was opened, or nobody knows whether one was.
    pub opened: bool,
}

impl Watch {
    /// Watches nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(awaitable)
            .inspect_err(|error| tracing::debug!("no inotify ({error}); looking at the files five times a second"))
            .ok();
        Self { inotify }
    }

    /// Watches one more file.
    pub fn add(&mut self, path: &Path) {
        if let Some(inotify) = &self.inotify
            && let Err(error) = inotify::add_watch(inotify.get_ref(), path, WatchFlags::MODIFY | WatchFlags::OPEN)
        {
            tracing::debug!("cannot watch {}: {error}; looking at the files five times a second", path.display());
            self.inotify = None;
        }
    }

    /// Watches nothing any more. The kernel takes some milliseconds for that, and nobody waits for it.
    pub fn close(&mut self) {
        let closed = self.inotify.take().map(AsyncFd::into_inner);
        let _ = std::thread::Builder::new().name("close".to_owned()).spawn(move || drop(closed));
    }

    /// Waits until a watched file changed.
    pub async fn changed(&mut self) -> Change {
        let Some(inotify) = &self.inotify else {
            tokio::time::sleep(WITHOUT_INOTIFY).await;
            return Change { opened: true };
        };
        let mut change = Change::default();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        if let Ok(mut ready) = inotify.readable().await {
            let mut reader = Reader::new(inotify.get_ref(), &mut buffer);
            while let Ok(event) = reader.next() {
                change.opened |= event.events().intersects(ReadFlags::OPEN | ReadFlags::QUEUE_OVERFLOW);
            }
            ready.clear_ready();
        }
        change
    }
}
