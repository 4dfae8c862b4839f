//! The lock that a dead child may have left on a backend which does not log locks.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::rivals::{self, surroundings_of};
use crate::other::{Case, Death, Permission, Suspicion, left_by_move};
use crate::report::{Ending, OtherLock};
use crate::session::ProcessId;

/// What may be left.
#[derive(Debug, Default)]
pub struct OtherBackends {
    /// Where, how and with what environment the child of a dead supervisor runs, by the system's word.
    adopted: Option<(PathBuf, Vec<OsString>, HashMap<OsString, OsString>)>,
    suspect: Option<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    case: Box<Case>,
    started: Timestamp,
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
    /// The log told of the lock of a state that is moved elsewhere.
    pub source_is_logged: bool,
    /// And of that of the place to which it is moved.
    pub destination_is_logged: bool,
}

impl OtherBackends {
    /// Remembers how a child runs whose command this process was not told, while the system still tells.
    pub fn remember(&mut self, child: ProcessId) {
        self.adopted = surroundings_of(child);
    }

    /// Decides whether to look after a lock, now that the child is dead. `interrupted_twice` tells whether Terraform gave up
    /// after a second interrupt, which leaves its lock behind an exit code of its own. Gives what is to be said of a lock
    /// that is left alone.
    pub fn suspect(
        &mut self,
        end: End,
        command: &[OsString],
        directory: &Path,
        env: &HashMap<OsString, OsString>,
        interrupted_twice: impl FnOnce() -> bool,
    ) -> Option<String> {
        if matches!(end.ending, Some(Ending::Exited { code: 0, .. })) {
            return None;
        }
        let suspicion = match &self.adopted {
            Some((directory, command, env)) => Suspicion::of(directory, command, env, end.is_terraform),
            None => Suspicion::of(directory, command, env, end.is_terraform),
        };
        if matches!(suspicion, Suspicion::None) {
            return None;
        }
        // A wrapper script tells of a signal that ended its command by 128 and more.
        let signalled = matches!(end.ending, Some(Ending::Exited { code: 129.., .. })) && !end.is_terraform;
        if !(end.ending.is_none_or(Ending::is_unclean) || signalled || interrupted_twice()) {
            return None;
        }
        match suspicion {
            Suspicion::None => None,
            Suspicion::LeftAlone(message) => Some(message),
            Suspicion::Move(from) => left_by_move(&from, end.source_is_logged, end.destination_is_logged),
            Suspicion::Lock(case) => {
                self.suspect = Some(Suspect { case, started: end.started, passed: end.under_lock });
                None
            }
        }
    }

    /// Whether a lock is to be looked after.
    pub fn is_suspected(&self) -> bool {
        self.suspect.is_some()
    }

    /// Looks after it.
    pub async fn look_after(&self, ended: Timestamp, permission: Permission) -> Option<OtherLock> {
        let Suspect { case, started, passed } = self.suspect.as_ref()?;
        let contested = passed.is_none() && rivals::has_rival(&case.contested());
        let death = Death { started: *started, ended, passed: *passed, contested };
        Some(case.look_after(death, permission).await)
    }

    /// What to say of it where nobody may look.
    pub fn not_looked(&self, why: &str) -> Option<OtherLock> {
        Some(self.suspect.as_ref()?.case.not_looked(why.to_owned()))
    }
}
