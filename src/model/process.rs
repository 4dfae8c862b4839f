//! Which process is meant: a pid alone is not enough, it is given to the next process once its owner is gone.

use serde::{Deserialize, Serialize};

/// The child as it described itself before it became the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRecord {
    /// The process; it leads the group of the same number.
    pub id: ProcessId,
    /// Its session (the system's word: the group of groups).
    pub session: i32,
}

impl ChildRecord {
    /// Reads a line of `/proc/<pid>/stat`.
    #[must_use]
    pub fn from_stat(text: &[u8]) -> Option<Self> {
        use procfs::FromRead as _;
        let stat = procfs::process::Stat::from_read(text).ok()?;
        Some(Self { id: ProcessId { pid: stat.pid, start_ticks: stat.starttime }, session: stat.session })
    }
}

/// One process of this boot and PID namespace, for ever: its pid and its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process ID in this PID namespace.
    pub pid: i32,
    /// Start time in clock ticks after boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
}

/// The machine and PID namespace in which a [`ProcessId`] means something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// The kernel's boot ID.
    pub boot_id: String,
    /// Inode of the PID namespace.
    pub pid_namespace: u64,
}
