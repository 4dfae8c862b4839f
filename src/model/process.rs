//! Processes, and the products whose processes matter.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::LazyLock;

use regex_lite::Regex;
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// The kernel's boot ID.
    pub boot_id: String,
    /// Inode of the PID namespace.
    pub pid_namespace: u64,
}

/// The programs whose arguments tfguard understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    Terraform,
    /// The Linux Foundation's.
    OpenTofu,
}

impl Product {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Terraform => "Terraform",
            Self::OpenTofu => "OpenTofu",
        }
    }

    /// The program by which people run it.
    pub fn program(self) -> &'static str {
        match self {
            Self::Terraform => "terraform",
            Self::OpenTofu => "tofu",
        }
    }
}

/// Which product a program is, by its name: also `terraform-bin`, `terraform1.5`, `tofu_1.9.0`, but not `terraform-docs`.
pub fn product(program: &OsStr) -> Option<Product> {
    static NAME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("^(terraform|tofu)(?:-bin|[-_.v]*[0-9][0-9.]*)?$").expect("a pattern"));
    let name = NAME.captures(Path::new(program).file_name()?.to_str()?)?;
    Some(if &name[1] == "tofu" { Product::OpenTofu } else { Product::Terraform })
}
