//! The lock that a dead child may have left on a backend which does not log locks.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::model::{Ending, Intent, OtherLock, ProcessId};
use crate::observe::Migration;
use crate::observe::item::ItemTerms;
use crate::run::rivals;
use crate::run::rivals::surroundings_of;
use crate::store::{Case, Permission, Suspicion, left_by_move};

/// What may be left.
#[derive(Debug, Default)]
pub struct OtherBackends {
    /// Where, how and with what environment the child of a dead supervisor runs, by the system's word.
    adopted: Option<(PathBuf, Vec<OsString>, HashMap<OsString, OsString>)>,
    suspect: Option<Box<Case>>,
    /// What is to be said of a lock that nobody looks for.
    unseen: Option<OtherLock>,
}

/// How the child ended, as far as it matters here.
#[derive(Debug, Clone)]
pub struct End {
    /// How.
    pub ending: Option<Ending>,
    /// The child is Terraform itself.
    pub is_terraform: bool,
    /// The state that it moved.
    pub migration: Option<Migration>,
    /// It logs each lock that it takes in S3.
    pub is_logged: bool,
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
    /// after a second interrupt, which leaves its lock behind an exit code of its own.
    pub fn suspect(
        &mut self,
        end: End,
        command: &[OsString],
        directory: &Path,
        env: &HashMap<OsString, OsString>,
        intent: Option<&Intent>,
        interrupted_twice: impl FnOnce() -> bool,
    ) {
        if matches!(end.ending, Some(Ending::Exited { code: 0, .. })) {
            return;
        }
        let (directory, command, env) = match &self.adopted {
            Some((directory, command, env)) => (directory.as_path(), command.as_slice(), env),
            None => (directory, command, env),
        };
        let suspicion = match &end.migration {
            Some(_) => Suspicion::None,
            None => Suspicion::of(directory, command, env, end.is_terraform, intent),
        };
        if matches!(suspicion, Suspicion::None) && end.migration.is_none() {
            return;
        }
        // A wrapper script tells of a signal that ended its command by 128 and more.
        let signalled = matches!(end.ending, Some(Ending::Exited { code: 129.., .. })) && !end.is_terraform;
        if !(end.ending.is_none_or(Ending::is_unclean) || signalled || interrupted_twice()) {
            return;
        }
        match suspicion {
            Suspicion::None => {
                let End { is_logged, source_is_logged, destination_is_logged, .. } = end;
                let left = |moved| left_by_move(moved, is_logged, source_is_logged, destination_is_logged);
                self.unseen = end.migration.as_ref().and_then(left).map(OtherLock::unknown);
            }
            Suspicion::LeftAlone(lock) => self.unseen = Some(*lock),
            Suspicion::Lock(case) => self.suspect = Some(case),
        }
    }

    /// Whether a lock is to be looked after.
    pub fn is_suspected(&self) -> bool {
        self.suspect.is_some()
    }

    /// Looks after it. `terms`: what is known of the child.
    pub async fn look_after(&self, terms: ItemTerms, permission: Permission) -> Option<OtherLock> {
        Some(self.suspect.as_ref()?.look_after(terms, permission, rivals::has_rival).await)
    }

    /// What is to be said of a lock that nobody looks for.
    pub fn unseen(&mut self) -> Option<OtherLock> {
        self.unseen.take()
    }

    /// What to say of it where nobody may look.
    pub fn not_looked(&self, why: &str) -> Option<OtherLock> {
        Some(self.suspect.as_ref()?.not_looked(why.to_owned()))
    }
}
