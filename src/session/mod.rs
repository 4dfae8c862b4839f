//! A session: its directory, its journal, its processes.

mod directory;
mod holders;
mod journal;
mod place;
mod process;

pub use directory::{DirectoryError, REAL, SessionDir, SessionFile};
pub use holders::{
    LogHolder, Survivor, Tree, identity_of, is_log_held, is_terraform, is_tfguard, runs_terraform, terraforms,
};
pub use journal::{ChildRecord, Journal, JournalError, StartingBackend};
pub use process::{ProcessId, World, awaitable, monotonic_millis, nodename};
