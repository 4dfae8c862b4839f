//! The output of a Terraform that a script sent to a file (`terraform apply > apply.txt`). It is the only place where
//! Terraform tells of an interrupt while it plans or writes its state.

use std::fs::{File, Metadata};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use crate::observe::InterruptScanner;
use crate::run::follow::Follow;
use crate::session::{ProcessId, identity_of};

/// One such file.
#[derive(Debug)]
pub struct Redirected {
    pub process: ProcessId,
    /// Device and inode.
    pub file: (u64, u64),
    pub follow: Follow,
    pub scanner: InterruptScanner,
}

impl Redirected {
    /// The files that are a process's stdout and stderr. What is in there when it has just started is not of it; if it is
    /// looked at `late`, all is taken for its own, unless it goes on with a file that was there (`>>`).
    pub fn of(process: ProcessId, late: bool) -> Vec<Self> {
        let open = |number: i32| {
            let path = format!("/proc/{}/fd/{number}", process.pid);
            // First: to open a FIFO can wait for ever.
            let known = std::fs::metadata(&path).ok().filter(Metadata::is_file)?;
            let file = File::open(&path).ok()?;
            let opened = file.metadata().ok().filter(|opened| identity_of(opened) == identity_of(&known))?;
            let from = if late && !appends(process, number) { 0 } else { opened.len() };
            let follow = Follow::new(file, from).ok()?;
            Some(Self { process, file: identity_of(&opened), follow, scanner: InterruptScanner::default() })
        };
        let found = [1, 2].into_iter().filter_map(open).collect();
        if process.is_alive() { found } else { Vec::new() }
    }

    /// By which the file is found, whatever its name is.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.follow.file().as_raw_fd()).into()
    }
}

/// Whether a descriptor was opened to append (`flags` in proc_pid_fdinfo(5), octal).
fn appends(process: ProcessId, number: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{}/fdinfo/{number}", process.pid)).unwrap_or_default();
    let flags = text.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_APPEND != 0)
}
