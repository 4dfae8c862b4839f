//! The Terraforms of a session, and others of this machine: where, with which arguments and in which environment each runs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use procfs::process::{Process, all_processes};

use crate::aws::Surroundings;
use crate::model::{Environment, LockPlace, ProcessId, StartingBackend};
use crate::session::{Tree, is_tfguard};
use crate::store::Contested;
use crate::terraform::{Backend, chdir, data_dir, read_backend_of, starting_backend, workspace};
use crate::{model, terraform};

/// How many are remembered. Their environments take some kilobytes each.
const MOST: usize = 1024;
/// How often, and at which intervals, an environment that seems empty is read again.
const EMPTY_TRIES: u32 = 3;
const EMPTY_EVERY: Duration = Duration::from_millis(1);

/// A process, as the kernel has it. The environment can hold secrets.
pub struct Terraform {
    /// Which process it is.
    pub id: ProcessId,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Its arguments, behind the name of a program that is Terraform.
    command: Vec<OsString>,
    env: Environment,
    /// It was only seen at its start, when it may not have carried out its `-chdir` yet.
    early: bool,
    /// What the directories that it may run in were configured for when it was first seen.
    pub started_with: Vec<StartingBackend>,
}

impl Terraform {
    /// Reads what the kernel has. None if it is gone or may not be looked into.
    pub fn read(id: ProcessId, early: bool) -> Option<Self> {
        let (cwd, mut command, env) = process_surroundings(id)?;
        command.splice(..1, ["terraform".into()]);
        let mut terraform = Self { id, cwd, command, env, early, started_with: Vec::new() };
        let there = terraform.surroundings();
        terraform.started_with =
            there.map(|surroundings| starting_backend(&terraform.command, &surroundings)).collect();
        Some(terraform)
    }

    /// Its arguments, without the program.
    pub fn args(&self) -> &[OsString] {
        &self.command[1..]
    }

    /// Whether it surely takes no lock.
    pub fn takes_no_lock(&self) -> bool {
        terraform::takes_no_lock(&self.command, &self.cwd, &self.env)
    }

    /// Whether it works on a state, by its backend, arguments and workspace. `file`: where the state's lockfile would be. What
    /// only reads does not.
    pub fn works_on(&self, state_key: &str, file: &LockPlace) -> bool {
        let is_it = |surroundings: Surroundings| {
            // In another container the path of its directory means something else.
            let here = Surroundings { dir: format!("/proc/{}/cwd", self.id.pid).into(), ..surroundings };
            let (planned, Ok(Backend::S3(backend))) = read_backend_of(self.args(), &here) else {
                // With its directory went what would tell (proc(5)).
                return self.cwd.as_os_str().as_bytes().ends_with(b" (deleted)");
            };
            // Those that go to another workspace, or to another backend, lock more than one.
            let selected = || backend.state_key(&workspace(&here)) == state_key;
            // Since it started, another one may have been selected.
            let selection = std::fs::metadata(data_dir(&here).join("environment")).and_then(|file| file.modified());
            let changed = !self.env.has("TF_WORKSPACE")
                && selection.is_ok_and(|selected| self.id.started().is_none_or(|started| selected >= started));
            let all = ["workspace", "init"].iter().any(|word| self.args().iter().any(|arg| arg == word));
            backend.file_place(state_key) == *file
                && backend.workspace_of(state_key).is_some()
                && (planned.is_some() || all || changed || selected())
        };
        !self.takes_no_lock() && self.surroundings().last().is_some_and(is_it)
    }

    /// Where it runs: one place, or two where it is not known whether it had gone to its `-chdir`.
    pub fn surroundings(&self) -> impl Iterator<Item = Surroundings> {
        let gone_to = chdir(self.args()).filter(|_| self.early).map(|dir| self.cwd.join(dir));
        gone_to.into_iter().chain([self.cwd.clone()]).map(|dir| Surroundings { dir, env: self.env.clone() })
    }
}

/// A living process's directory, command line and environment, as the kernel has them.
fn process_surroundings(process: ProcessId) -> Option<(PathBuf, Vec<OsString>, Environment)> {
    let opened = Process::new(process.pid).ok()?;
    let cwd = opened.cwd().ok()?;
    // An argument may be empty, or not UTF-8.
    let cmdline = || std::fs::read(format!("/proc/{}/cmdline", process.pid)).ok();
    // A process that is just becoming a program has neither of them yet, or the one but not the other, and one that is just
    // ending has its directory for some milliseconds more, but neither of them any longer.
    let line = cmdline().filter(|line| !line.is_empty())?;
    let mut environ = opened.environ().ok()?;
    for _ in 0..EMPTY_TRIES {
        if environ.is_empty() {
            std::thread::sleep(EMPTY_EVERY);
            environ = opened.environ().ok()?;
        }
    }
    if cmdline()? != line {
        return None;
    }
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    let command = words.map(|word| OsStr::from_bytes(word).to_owned()).collect();
    // It was another process's meanwhile if that one is gone now.
    process.is_alive().then(|| (cwd, command, environ.into_iter().collect()))
}

/// Those that were seen. They are remembered, because one may be dead when its lock is read of in the log.
#[derive(Default)]
pub struct Terraforms(Vec<Terraform>);

impl Terraforms {
    /// Remembers those that live now. `early`: one of them has only just started.
    pub fn note(&mut self, tree: &Tree, early: bool) {
        for found in tree.terraforms() {
            let known = self.0.iter().position(|known| known.id == found.id);
            if known.is_some() && early {
                continue;
            }
            let Some(terraform) = Terraform::read(found.id, early) else { continue };
            match known {
                Some(at) => {
                    let started_with = std::mem::take(&mut self.0[at].started_with);
                    self.0[at] = Terraform { started_with, ..terraform };
                }
                None => self.0.push(terraform),
            }
        }
        self.0.drain(..self.0.len().saturating_sub(MOST));
    }

    /// Whether others than this one were seen.
    pub fn has_others(&self, than: Option<ProcessId>) -> bool {
        self.0.iter().any(|terraform| Some(terraform.id) != than)
    }

    /// Those that are alive.
    pub fn living(&self) -> impl Iterator<Item = &Terraform> {
        self.0.iter().filter(|terraform| terraform.id.is_alive())
    }

    /// Those that are not, the latest first.
    pub fn dead(&self) -> impl Iterator<Item = &Terraform> {
        self.0.iter().rev().filter(|terraform| !terraform.id.is_alive())
    }
}

/// Whether a Terraform of this user that lives, and that can be seen from here, may hold a lock with this
/// `Operation`.
pub fn has_rival(lock: &Contested, operation: &str) -> bool {
    // Whom nobody can look at, for want of a descriptor, may be one.
    let room: io::Result<Vec<_>> = (0..4).map(|_| File::open("/dev/null")).collect();
    let (Ok(processes), Ok(_)) = (all_processes(), room) else { return true };
    let user = nix::unistd::getuid().as_raw();
    let mut others = processes.flatten().filter(|process| process.uid().is_ok_and(|uid| uid == user));
    let rival = others.find(|process| {
        ProcessId::of(process.pid).and_then(surroundings_of).is_some_and(|(dir, command, env)| {
            let is_terraform = command.first().is_some_and(|program| model::product(program).is_some());
            is_terraform && !is_tfguard(process.pid) && lock.may_be_of(&dir, &command, env, operation)
        })
    });
    if let Some(rival) = &rival {
        tracing::debug!("process {} may hold the lock that was found", rival.pid);
    }
    rival.is_some()
}

/// Where, how and with what environment a living Terraform was started.
pub fn surroundings_of(process: ProcessId) -> Option<(PathBuf, Vec<OsString>, Environment)> {
    let (dir, mut command, env) = process_surroundings(process)?;
    // A Terraform that is a script has its interpreter before it.
    if let Some(at) = command.iter().take(3).position(|word| model::product(word).is_some()) {
        command.drain(..at);
    }
    // It may have gone there already.
    if terraform::chdir(command.get(1..)?).is_some_and(|below| !dir.join(below).is_dir()) {
        command.retain(|word| !word.as_encoded_bytes().starts_with(b"-chdir="));
    }
    Some((dir, command, env))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Guards against a lock that stays for want of credentials, because its Terraform began or ended while it was looked at.
    #[test]
    fn a_process_that_is_just_beginning_or_ending_has_no_surroundings() {
        // On a busy machine one may be gone before it is looked at.
        let mut seen = 0;
        for _ in 0..200 {
            // To give so much memory back takes the kernel a while.
            let mut command = Command::new("dd");
            command.args(["if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"]).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            let id = ProcessId::of(child.id().cast_signed());
            let surroundings = || id.and_then(process_surroundings);
            let mut looks = 0;
            while let Some((_, command, env)) = surroundings() {
                assert!(!command[0].is_empty() && env.iter().next().is_some(), "{command:?}");
                looks += 1;
            }
            assert!(child.wait().unwrap().success());
            seen += i32::from(looks > 0);
            if seen == 5 {
                return;
            }
        }
        panic!("{seen} were seen");
    }
}
