//! The supervisor's part in finding out about locks that the log does not tell: by their ID, or at all.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::aws::Surroundings;
use crate::model::{
    Baseline, Ending, Entry, Environment, Evidence, FoundLock, LockClaim, LockOutcome, LockPlace, OtherLock,
    TraceAccount, TraceEntry,
};
use crate::observe::item::{ItemTerms, Misfit};
use crate::observe::{Left, Migration, item};
use crate::run::locks::unlogged;
use crate::run::locks::unlogged::Unlogged;
use crate::run::supervisor::{Child, Supervisor};
use crate::run::terraforms::has_rival;
use crate::session::passed_since;
use crate::store::{Case, Permission, Suspicion, left_by_move};
use crate::terraform;
use crate::terraform::{Backend, Flavour};

/// Longer than a Terraform goes without a word in its log before it has its lock.
const LAST_WORD: SignedDuration = SignedDuration::from_secs(2);

/// What the child may have left on a backend that logs no locks.
#[derive(Debug, Default)]
pub(crate) struct OtherBackends {
    /// Where, how and with what environment the child of a dead supervisor runs, by the system's word.
    pub(crate) adopted: Option<(PathBuf, Vec<OsString>, Environment)>,
    /// A lock that is looked for when the child is dead.
    pub(crate) suspect: Option<Box<Case>>,
    /// A lock that nobody looks for, as the account tells of it.
    pub(crate) unseen: Option<OtherLock>,
    /// So many of the account's, the first ones, are from a supervisor that is dead.
    pub(crate) before: usize,
}

impl Supervisor<'_> {
    pub(crate) fn traces_left(&self) -> Vec<Left<TraceEntry>> {
        self.log.observer.traces_left(self.observed_ending())
    }

    /// A lock may be left that the log says nothing of. Where a script went is not known, and a shell tells of a signal
    /// that ended its command by 128 and more.
    pub(crate) fn may_be_unlogged(&self) -> bool {
        let account = &self.journal.account;
        let script = self.log.observer.is_unlearned() && !self.log.child_is_terraform && self.job.product().is_none();
        let signalled = script && account.tells_of_signal();
        (account.has_died() || !account.requests.is_empty() || signalled) && (script || self.is_silent())
    }

    /// Whether the command may hold a lock in S3 of which its log says nothing.
    pub(crate) fn is_silent(&self) -> bool {
        let Some(intent) = &self.journal.intent else { return false };
        let locks = intent.operations.as_ref().is_none_or(|operations| !operations.is_empty());
        let locks = locks && unlogged::may_lock(intent, &self.job.env);
        let moves = intent.moves || self.log.observer.migration().is_some();
        let product = self.log.observer.product();
        let shown = match (self.job.flavour.corrected(product), product) {
            // It did nothing yet, or is no Terraform.
            (Flavour::Terraform | Flavour::Unknown, None) => {
                intent.logs && (intent.places.is_empty() || !self.lacks_version())
            }
            _ => {
                let is_lockfile = |place: &LockPlace| matches!(place, LockPlace::Lockfile { .. });
                self.shows_locks(!intent.places.is_empty() && intent.places.iter().all(is_lockfile))
            }
        };
        (locks || moves) && !shown && self.log.observer.ledger().entries().is_empty()
    }

    /// Whether Terraform died, and its log has not even its version, which it writes first.
    pub(crate) fn lacks_version(&self) -> bool {
        let unclean = self.journal.account.has_died();
        self.log.child_is_terraform && unclean && self.log.observer.product().is_none()
    }

    /// Whether its log shows each lock in S3 that it takes. `lockfile`: each has a lockfile.
    pub(crate) fn shows_locks(&self, lockfile: bool) -> bool {
        let intent = self.journal.intent.as_ref();
        intent.is_some_and(|intent| intent.logs && self.log.observer.shows_locks(intent.debug, lockfile))
    }

    /// Notes what was in the lock's place when the command started.
    pub(crate) fn note_baseline(&mut self, baseline: Baseline) {
        if let Some(intent) = &mut self.journal.intent {
            intent.baseline = baseline;
        }
        self.write_journal();
    }

    /// What a lock has to say to be the child's.
    pub(crate) fn item_terms(&self) -> ItemTerms {
        let account = &self.journal.account;
        let now = Timestamp::now();
        let ended = account.ending.and_then(Ending::at).unwrap_or(now);
        let written = || Timestamp::try_from(self.log.file().metadata().and_then(|log| log.modified()).ok()?).ok();
        let last_seen = || written().map_or(account.started, |written| written + LAST_WORD);
        let lived = self.journal.began.map_or(Duration::ZERO, passed_since);
        let lived = SignedDuration::try_from(lived).unwrap_or_default();
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
        let env_user = self.job.env.get("USER");
        let nodename = self.journal.nodename.as_deref();
        let product = self.log.observer.product();
        ItemTerms {
            path: None,
            lifetime: (account.started, ended),
            last_seen: matches!(self.child, Child::Gone).then(last_seen),
            lasted: lived - now.duration_since(ended),
            who: nodename.map(|nodename| item::who(user.as_deref(), env_user, nodename)).unwrap_or_default(),
            flavour: self.job.flavour.corrected(product),
            version: product.map(|(_, version)| version.to_owned()),
            operations: None,
            baseline: None,
            passed: self.log.observer.under_lock(),
            waits: false,
            contested: false,
        }
    }

    /// Looks whether a lock is left that nothing logs. Added if it is sure enough, else told of.
    pub(crate) async fn look_for_unlogged(&mut self, left: &mut Vec<Left<Entry>>) {
        let account = &self.journal.account;
        if self.log.observer.is_unlearned() {
            // An error after a request to stop can be a forced exit.
            if !account.has_succeeded() {
                self.note_unknown("tfguard learns no lock of Terraform before 1.0".to_owned());
            }
            return;
        }
        let Some(intent) = &self.journal.intent else { return };
        let unclean = account.has_died();
        let may_land = unclean && self.log.observer.under_lock().is_none();
        let found = match unlogged::look_again(intent, &self.job.env, self.item_terms(), may_land).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(why) => return self.note_unseen(&why),
        };
        let Unlogged { mut lock, settings, created, fits } = found;
        let claim = &lock.claim;
        // The lock of that state is known, and this one is that or another.
        if left.iter().any(|leftover| leftover.entry.claim.lock_id() == claim.lock_id()) {
            return;
        }
        let mut traces = account.traces.iter().filter(|trace| trace.entry.trace.lock_id() == claim.lock_id());
        let is_others = |trace: &TraceAccount| matches!(&trace.holder, Some(FoundLock::Held(holder)) if holder.id == claim.id.as_str());
        if account.traces.iter().any(is_others) {
            return tracing::debug!("lock {} has a lockfile that is not this run's", claim.id);
        }
        let is_traced = traces.next().is_some();
        // It said who has the lock, and that it has none. Its words can only keep a lock from being taken for its own.
        if self.refused_by_words().is_some_and(|refused| refused.holder.id == claim.id.as_str()) {
            return tracing::debug!("lock {} is the one that the command was refused", claim.id);
        }
        let asked = self.job.locks.evidence == Evidence::Item;
        let why = match fits {
            fits if !asked && fits.as_ref().err().is_none_or(Misfit::is_doubt) => {
                "tfguard deletes such a lock only with --evidence item".to_owned()
            }
            Ok(()) if is_traced => "the log tells of this run's lockfile, which is not there".to_owned(),
            Ok(()) => {
                let entry = Entry { claim: lock.claim.clone(), stage: lock.stage, grade: lock.grade };
                self.journal.account.locks.push(lock);
                left.push(Left::long_ago(entry));
                return self.write_journal();
            }
            Err(doubt) if doubt.is_doubt() => doubt.to_string(),
            Err(misfit) => {
                return tracing::info!(
                    "the state is locked by {} of {} since {created} ({}), which is not this run's lock: {misfit}",
                    claim.id,
                    claim.who,
                    claim.operation
                );
            }
        };
        lock.outcome = Some(LockOutcome::Left(format!("held by {} since {created}; {why}", claim.who)));
        lock.settings = Some(settings);
        self.journal.account.locks.push(lock);
    }

    /// Decides whether to look after a lock that the child may have left on a backend which does not log locks.
    pub(crate) fn suspect(&mut self) {
        if self.journal.account.has_succeeded() {
            return;
        }
        if let Some(moved) = self.migration() {
            if self.may_have_died_over_a_lock() {
                let entries = self.log.observer.ledger().entries();
                let logged = |is_it: fn(&LockClaim) -> bool| entries.iter().any(|entry| is_it(&entry.claim));
                let (from, to) = (logged(LockClaim::is_migration_source), logged(LockClaim::is_migration_destination));
                let left = left_by_move(&moved, self.shows_locks(false), from, to);
                self.others.unseen = left.map(OtherLock::unknown);
            }
            return;
        }
        let job = self.job;
        // After everything was killed its arguments are not known.
        let program = [OsString::from(&self.journal.account.program)];
        let (directory, command, env) = match &self.others.adopted {
            Some((directory, command, env)) => (directory, command.as_slice(), env),
            None if job.command.is_empty() => (&job.directory, &program[..], &job.env),
            None => (&job.directory, job.command.as_slice(), &job.env),
        };
        let is_terraform = self.log.child_is_terraform;
        match Suspicion::of(directory, command, env, is_terraform, self.journal.intent.as_ref()) {
            Suspicion::None => {}
            _ if !self.may_have_died_over_a_lock() => {}
            Suspicion::LeftAlone(lock) => self.others.unseen = Some(*lock),
            Suspicion::Lock(case) => self.others.suspect = Some(case),
        }
    }

    fn may_have_died_over_a_lock(&mut self) -> bool {
        let account = &self.journal.account;
        account.has_died() || (account.tells_of_signal() && !self.log.child_is_terraform) || self.gave_up()
    }

    /// Whether Terraform gave up after a second interrupt, which leaves its lock behind an exit code of its own.
    fn gave_up(&mut self) -> bool {
        if !self.printed.is_followed() {
            self.follow_output();
        }
        self.read_output();
        self.printed.twice
    }

    /// The state that the command moved: by its log, else by its arguments, and then nobody knows where to.
    fn migration(&self) -> Option<Migration> {
        let logged = self.log.observer.migration().cloned();
        let intent =
            self.journal.intent.as_ref().filter(|intent| intent.moves && self.log.observer.product().is_none());
        logged.or_else(|| {
            let surroundings = Surroundings { dir: intent?.directory.clone(), env: self.job.env.clone() };
            // The old backend is the recorded one, until all is over.
            let from = match terraform::read_backend(&surroundings) {
                Ok(Backend::S3(_)) => "s3".to_owned(),
                Ok(Backend::Other { kind, .. }) => kind,
                Ok(Backend::None | Backend::Local) | Err(_) => "local".to_owned(),
            };
            Some(Migration { from, to: None })
        })
    }

    pub(crate) async fn release_on_other_backends(&mut self, uploaded: Instant) {
        let Some(case) = &self.others.suspect else { return };
        let permission = Permission { evidence: self.job.locks.evidence, on_death: self.job.locks.on_death };
        tokio::time::sleep_until(uploaded).await;
        let lock = case.look_after(self.item_terms(), permission, has_rival).await;
        self.journal.account.other_locks.push(lock);
        self.write_journal();
    }
}
