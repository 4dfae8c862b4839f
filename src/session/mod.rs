//! A session: its directory, its journal, its processes.

mod directory;
mod holder;
mod holders;
mod journal;
mod place;
mod process;

pub(crate) use directory::FORGOTTEN;
pub use directory::{REAL, SessionDir, SessionFile};
pub use holder::{Judged, Machine};
pub use holders::{
    LogHolder, Survivor, Tree, identity_of, is_log_held, is_terraform, is_tfguard, runs_terraform, terraforms,
};
pub use journal::{Journal, JournalError, StartingBackend};
pub use place::DirectoryError;
pub use process::{awaitable, monotonic_millis, nodename};
