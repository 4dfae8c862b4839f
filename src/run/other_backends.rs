//! The locks that a dead child may have left on a backend which does not log them: who is to be asked about.

use std::collections::HashMap;
use std::ffi::OsString;

use jiff::{SignedDuration, Timestamp};

use super::rivals::{self, surroundings_of};
use super::supervisor::ticks_since_boot;
use crate::command::{product, subcommand};
use crate::other::{Case, Death, Permission, Suspicion, left_by_move};
use crate::report::{Ending, OtherLock};
use crate::session::{ChildRecord, ProcessId, Tree};

/// More Terraforms below one script are not remembered: each may have to be looked after.
const MOST: usize = 16;

/// What may be left, and the Terraforms that a script was seen to run, for which the system tells no end.
#[derive(Debug, Default)]
pub struct OtherBackends {
    seen: Vec<Seen>,
    suspects: Vec<Suspect>,
}

/// A Terraform below a script.
#[derive(Debug)]
struct Seen {
    id: ProcessId,
    started: Timestamp,
    /// When it was seen to be gone.
    gone: Option<Timestamp>,
    /// No other Terraform ran beside it, so that the log speaks of it alone.
    alone: bool,
    /// It does what the log tells of as done under a lock.
    works: bool,
    suspicion: Suspicion,
}

#[derive(Debug)]
struct Suspect {
    case: Box<Case>,
    started: Timestamp,
    gone: Option<Timestamp>,
    passed: Option<Timestamp>,
}

/// How the child ended, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// How.
    pub ending: Option<Ending>,
    /// The child is Terraform itself.
    pub is_terraform: bool,
    /// When it began.
    pub started: Timestamp,
    /// When the log last told of something that Terraform does only once it has its lock.
    pub under_lock: Option<Timestamp>,
    /// The log told of locks.
    pub logged: bool,
    /// Among them that of a state that is moved elsewhere.
    pub source_is_logged: bool,
    /// Among them that of the place to which a state is moved.
    pub destination_is_logged: bool,
}

impl OtherBackends {
    /// Remembers the Terraforms that are alive below a script, while the system still tells where and how they run. If
    /// `child`, whose command is known, is one itself, there is no script.
    pub fn remember(&mut self, tree: &Tree, child: Option<&ChildRecord>) {
        let alive: Vec<ProcessId> = tree.terraforms().map(|terraform| terraform.id).collect();
        if child.is_some_and(|child| alive.contains(&child.id)) {
            return;
        }
        for seen in self.seen.iter_mut().filter(|seen| seen.gone.is_none() && !seen.id.is_alive()) {
            seen.gone = Some(Timestamp::now());
        }
        for id in &alive {
            if self.seen.len() < MOST
                && self.seen.iter().all(|seen| seen.id != *id)
                && let Some((dir, command, env)) = surroundings_of(*id)
            {
                let subcommand = subcommand(&command).unwrap_or_default();
                tracing::debug!("process {} below the command is terraform {subcommand}", id.pid);
                let suspicion = Suspicion::of(&dir, &command, &env, true);
                let works = matches!(subcommand.as_str(), "plan" | "apply" | "destroy" | "refresh");
                self.seen.push(Seen { id: *id, started: start_of(*id), gone: None, alone: true, works, suspicion });
            }
        }
        if alive.len() > 1 {
            self.seen.iter_mut().filter(|seen| alive.contains(&seen.id)).for_each(|seen| seen.alone = false);
        }
    }

    /// Decides whom to ask about, now that the child is dead. `interrupted_twice` tells whether Terraform gave up after
    /// a second interrupt, which leaves its lock behind an exit code of its own. Gives what is to be said of
    /// locks that are left alone.
    pub fn suspect(
        &mut self,
        end: End,
        command: &[OsString],
        env: &HashMap<OsString, OsString>,
        interrupted_twice: impl FnOnce() -> bool,
    ) -> Vec<String> {
        if matches!(end.ending, Some(Ending::Exited { code: 0, .. })) {
            return Vec::new();
        }
        // It was dead before tfguard came to look where and how it ran.
        let unseen = !end.is_terraform
            && end.under_lock.is_some()
            && !end.logged
            && command.first().is_some_and(|program| product(program).is_none())
            && !self.seen.iter().any(|seen| seen.works);
        let (last, found): (Option<ProcessId>, Vec<Seen>) =
            if (end.is_terraform && !command.is_empty()) || self.seen.is_empty() {
                let Ok(dir) = std::env::current_dir() else { return Vec::new() };
                let suspicion = Suspicion::of(&dir, command, env, end.is_terraform);
                let id = ProcessId { pid: 0, start_ticks: 0 };
                (Some(id), vec![Seen { id, started: end.started, gone: None, alone: true, works: true, suspicion }])
            } else {
                let mut seen = std::mem::take(&mut self.seen);
                // An `init` takes no lock that is looked for here.
                seen.retain(|seen| !matches!(seen.suspicion, Suspicion::None));
                (seen.last().map(|seen| seen.id), seen)
            };
        if !unseen && found.iter().all(|seen| matches!(seen.suspicion, Suspicion::None)) {
            return Vec::new();
        }
        // A shell tells of a signal that ended its command by 128 and more.
        let signalled = matches!(end.ending, Some(Ending::Exited { code: 129.., .. })) && !end.is_terraform;
        if !(end.ending.is_none_or(Ending::is_unclean) || signalled || interrupted_twice()) {
            return Vec::new();
        }
        let mut messages = Vec::new();
        if unseen {
            messages.push(
                "a Terraform below the command worked under a lock and was gone before tfguard saw on which backend: see \
                 whether `terraform plan` is refused the lock there"
                    .to_owned(),
            );
        }
        for seen in found {
            let passed = end.under_lock.filter(|passed| seen.alone && Some(seen.id) == last && *passed >= seen.started);
            match seen.suspicion {
                Suspicion::None => {}
                Suspicion::LeftAlone(message) => messages.push(message),
                Suspicion::Move(from) => {
                    messages.extend(left_by_move(&from, end.source_is_logged, end.destination_is_logged));
                }
                Suspicion::Lock(case) => {
                    self.suspects.push(Suspect { case, started: seen.started, gone: seen.gone, passed });
                }
            }
        }
        messages
    }

    /// Whether somebody is to be asked about.
    pub fn is_suspected(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Looks after all of them.
    pub async fn look_after(&self, ended: Timestamp, permission: Permission) -> Vec<OtherLock> {
        let mut locks = Vec::new();
        for suspect in &self.suspects {
            let Suspect { case, started, gone, passed } = suspect;
            let contested = passed.is_none() && rivals::has_rival(&case.contested());
            let death = Death { started: *started, ended: gone.unwrap_or(ended), passed: *passed, contested };
            locks.push(case.look_after(death, permission).await);
        }
        locks
    }

    /// What to say of them where nobody may look.
    pub fn not_looked(&self, why: &str) -> Vec<OtherLock> {
        self.suspects.iter().map(|suspect| suspect.case.not_looked(why.to_owned())).collect()
    }
}

/// When a process was started: by the kernel's clock ticks, so rather a tick early.
fn start_of(process: ProcessId) -> Timestamp {
    let ticks = ticks_since_boot().saturating_sub(process.start_ticks) + 2;
    let ago = SignedDuration::from_millis(
        i64::try_from(ticks.saturating_mul(1000) / procfs::ticks_per_second()).unwrap_or(i64::MAX / 2),
    );
    Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN)
}
