//! A session: its directory, its journal, its processes.

mod alive;
mod directory;
mod holder;
mod journal;
mod place;
mod process;
mod takeover;

pub use alive::{
    LogHolder, Survivor, Tree, identity_of, is_log_held, is_terraform, is_tfguard, runs_terraform, terraforms,
};
pub(crate) use directory::FORGOTTEN;
pub use directory::{REAL, SessionDir, SessionFile};
pub use holder::{Judged, Machine};
pub use journal::{Journal, JournalError};
pub use place::DirectoryError;
pub(crate) use process::POLL_INTERVAL;
pub use process::{awaitable, boot_time, monotonic_millis, nodename, passed_since};
pub(crate) use takeover::{Adoptable, goes_on, is_of_this_kernel, may_be_alive};
