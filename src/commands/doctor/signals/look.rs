//! Looks at the processes around this one.

use std::ffi::OsStr;
use std::fs;
use std::io::IsTerminal as _;

use procfs::process::{FDPermissions, FDTarget, Process as Proc, all_processes};

use super::chain::{Chain, Process, Stdout};

/// The inode of the PID namespace that the machine booted with (`PROC_PID_INIT_INO` in Linux's `proc_ns.h`).
const MACHINES_OWN_NAMESPACE: u64 = 0xEFFF_FFFC;
/// A longer way up means that something is wrong with what was read.
const HIGHEST: usize = 128;
/// Variables with which GitHub's and Azure's agents start the processes of a job, and which only that job has.
const OF_JOB: [&str; 2] = ["GITHUB_RUN_ID", "BUILD_BUILDID"];

/// What can be seen from here.
#[must_use]
pub fn look() -> Chain {
    let mut processes = Vec::new();
    let mut next = std::process::id().cast_signed();
    while let Some(process) = read(next).filter(|_| processes.len() < HIGHEST) {
        next = process.parent;
        processes.push(process);
    }
    let status = Proc::myself().and_then(|own| own.status()).ok();
    let signals = |mask: fn(&procfs::process::Status) -> u64| {
        let mask = status.as_ref().map(mask).unwrap_or_default();
        // The numbers above are the C library's.
        (1..=31).filter(|number| mask & (1 << (number - 1)) != 0).collect()
    };
    let world = crate::session::World::here();
    let mut chain = Chain {
        stdout: Stdout::Other,
        ignored: signals(|status| status.sigign),
        contained: world.pid_namespace != 0 && world.pid_namespace != MACHINES_OWN_NAMESPACE,
        processes,
    };
    chain.stdout = stdout(&chain);
    chain
}

fn read(pid: i32) -> Option<Process> {
    if pid <= 0 {
        return None;
    }
    let process = Proc::new(pid).ok()?;
    let stat = process.stat().ok()?;
    Some(Process {
        pid,
        parent: stat.ppid,
        group: stat.pgrp,
        name: stat.comm,
        in_job: OF_JOB.iter().any(|name| is_with(&process, name)),
        arguments: process.cmdline().unwrap_or_default(),
    })
}

/// Whether a process has a variable as this one has it.
fn is_with(process: &Proc, name: &str) -> bool {
    let Some(own) = std::env::var_os(name).filter(|value| !value.is_empty()) else { return false };
    process.environ().is_ok_and(|env| env.get(OsStr::new(name)) == Some(&own))
}

fn stdout(chain: &Chain) -> Stdout {
    if std::io::stdout().is_terminal() {
        return Stdout::Terminal;
    }
    let pipe = fs::read_link("/proc/self/fd/1").ok().and_then(|target| {
        let target = target.to_str()?.strip_prefix("pipe:[")?.strip_suffix(']')?.parse::<u64>().ok()?;
        Some(target)
    });
    let Some(pipe) = pipe else { return Stdout::Other };
    let reads = |process: &Proc| {
        let Ok(mut descriptors) = process.fd() else { return false };
        descriptors.any(|descriptor| {
            descriptor.is_ok_and(|descriptor| {
                descriptor.mode().contains(FDPermissions::READ)
                    && matches!(descriptor.target, FDTarget::Pipe(inode) if inode == pipe)
            })
        })
    };
    let mut readers = all_processes().into_iter().flatten().flatten().filter(reads);
    Stdout::Pipe { reader: readers.find_map(|process| read(process.pid).filter(|reader| chain.is_of_pipeline(reader))) }
}
