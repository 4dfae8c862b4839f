//! A session: its directory, its journal, its processes.

mod directory;
mod holders;
mod journal;
mod process;

pub use directory::{DirectoryError, SessionDir, create_file};
pub use holders::{Survivor, Tree, identity_of, is_log_held, is_terraform, is_tfguard};
pub use journal::{ChildRecord, Interrupted, Journal, JournalError, replace_bytes};
pub use process::{ProcessId, World, awaitable, nodename};
