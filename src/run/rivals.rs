//! Other Terraforms of this machine that may hold the lock that a dead one looks to have left.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::model::{ProcessId, product};
use crate::run::terraforms::process_surroundings;
use crate::session::is_tfguard;
use crate::store::Contested;
use crate::terraform;

/// Whether a Terraform of this user that lives, and that can be seen from here, may hold a lock with this
/// `Operation`.
pub fn has_rival(lock: &Contested, operation: &str) -> bool {
    let Ok(processes) = procfs::process::all_processes() else { return true };
    let user = nix::unistd::getuid().as_raw();
    let mut others = processes.flatten().filter(|process| process.uid().is_ok_and(|uid| uid == user));
    let rival = others.find(|process| {
        ProcessId::of(process.pid).and_then(surroundings_of).is_some_and(|(dir, command, env)| {
            let is_terraform = command.first().is_some_and(|program| product(program).is_some());
            is_terraform && !is_tfguard(process.pid) && lock.may_be_of(&dir, &command, env, operation)
        })
    });
    if let Some(rival) = &rival {
        tracing::debug!("process {} may hold the lock that was found", rival.pid);
    }
    rival.is_some()
}

/// Where, how and with what environment a living Terraform was started.
pub fn surroundings_of(process: ProcessId) -> Option<(PathBuf, Vec<OsString>, HashMap<OsString, OsString>)> {
    let (dir, mut command, env) = process_surroundings(process)?;
    // A Terraform that is a script has its interpreter before it.
    if let Some(at) = command.iter().take(3).position(|word| product(word).is_some()) {
        command.drain(..at);
    }
    // It may have gone there already.
    if terraform::chdir(command.get(1..)?).is_some_and(|below| !dir.join(below).is_dir()) {
        command.retain(|word| !word.as_encoded_bytes().starts_with(b"-chdir="));
    }
    Some((dir, command, env))
}
