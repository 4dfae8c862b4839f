//! What a CI sees of a machine's processes.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The processes that were started with this variable in their environment, the lowest pid first.
pub fn with_variable(name: &str, value: &str) -> Vec<Pid> {
    let entry = format!("{name}={value}");
    let carries = |pid: &Pid| {
        let environ = fs::read(file(*pid, "environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|found| found == entry.as_bytes())
    };
    all().into_iter().filter(carries).collect()
}

/// All of them, the lowest pid first.
fn all() -> Vec<Pid> {
    let names = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let mut pids: Vec<_> = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().map(Pid::from_raw).collect()
}

/// The children of a process, the lowest pid first.
pub fn children(of: Pid) -> Vec<Pid> {
    with_parents().into_iter().filter_map(|(pid, parent)| (parent == of).then_some(pid)).collect()
}

/// Every process and its parent, the lowest pid first.
pub fn with_parents() -> Vec<(Pid, Pid)> {
    let with_parent = |pid: Pid| {
        let stat = fs::read_to_string(file(pid, "stat")).ok()?;
        // Field 4, the second after the name (proc_pid_stat(5)).
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some((pid, Pid::from_raw(parent)))
    };
    all().into_iter().filter_map(with_parent).collect()
}

/// Signals a process, if it is still there.
pub fn signal(pid: Pid, signal: Signal) {
    let _ = kill(pid, signal);
}

pub fn file(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}
