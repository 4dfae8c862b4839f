//! Whether a CI gave the job a container of its own.

use std::os::unix::fs::MetadataExt as _;

/// The first PID namespace of a kernel, that of no container (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const OF_THE_HOST: u64 = 0xEFFF_FFFC;
/// The first process of a container that is a machine of its own, with services and with logins of others.
const INITS: [&str; 2] = ["systemd", "init"];

/// Whether this process runs in a container that holds one job: in a PID namespace of its own, without an init system.
#[must_use]
pub fn is_in_container_of_a_job() -> bool {
    let on_host = std::fs::metadata("/proc/self/ns/pid").map_or(true, |namespace| namespace.ino() == OF_THE_HOST);
    let first = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    !on_host && !first.is_empty() && !INITS.contains(&first.trim_end())
}
