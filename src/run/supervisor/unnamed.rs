//! The supervisor's part in finding out about locks whose ID the log does not tell.

use std::ffi::{OsStr, OsString};

use jiff::{SignedDuration, Timestamp};

use crate::aws::Surroundings;
use crate::model;
use crate::model::{
    Baseline, Ending, Entry, Evidence, FoundLock, Grade, LockAccount, LockOutcome, LockPlace, OtherLock, OtherOutcome,
    Stage, Subject, TraceAccount, TraceEntry, product,
};
use crate::observe::item::{ItemTerms, Misfit};
use crate::observe::{Left, item};
use crate::run::job::trouble;
use crate::run::nameless;
use crate::run::nameless::Unlogged;
use crate::run::supervisor::{Child, Supervisor};
use crate::session::monotonic_millis;
use crate::terraform::Flavour;

/// Longer than a Terraform goes without a word in its log before it has its lock.
const LAST_WORD: SignedDuration = SignedDuration::from_secs(2);

impl Supervisor<'_> {
    pub(crate) fn trace_changed(&mut self, entry: &model::TraceEntry) {
        // As of a lock, the backend is read now.
        let known = self.journal.account.traces.iter().position(|known| known.entry.trace.is_of(&entry.trace));
        let at = known.unwrap_or_else(|| {
            let (entry, places) = (entry.clone(), Vec::new());
            self.journal.account.traces.push(TraceAccount {
                entry,
                places,
                settings: None,
                outcome: None,
                holder: None,
            });
            self.journal.account.traces.len() - 1
        });
        let known = &mut self.journal.account.traces[at];
        known.entry = entry.clone();
        self.locator.locate_trace(known, self.log.started(self.job, self.journal.child));
        if self.job.annotate {
            self.annotator.note_trace(entry);
        }
        self.note_lease(&Subject::Trace(entry.trace.clone()), entry.stage);
    }

    pub(crate) fn traces_left(&self) -> Vec<Left<TraceEntry>> {
        self.log.observer.traces_left(self.observed_ending())
    }

    /// A lock may be left that the log says nothing of. Where a script went is not known, and a shell tells of a signal
    /// that ended its command by 128 and more.
    pub(crate) fn may_be_unlogged(&self) -> bool {
        let account = &self.journal.account;
        let is_named = self.job.command.first().is_some_and(|program| product(program).is_some());
        let script = self.log.observer.is_unlearned() && !self.log.child_is_terraform && !is_named;
        let signalled = script && account.tells_of_signal();
        (account.has_died() || !account.requests.is_empty() || signalled) && (script || self.is_silent())
    }

    /// Whether the command may hold a lock in S3 of which its log says nothing.
    pub(crate) fn is_silent(&self) -> bool {
        let Some(intent) = &self.journal.intent else { return false };
        let locks = intent.operations.as_ref().is_none_or(|operations| !operations.is_empty());
        let locks = locks && nameless::may_lock(intent, &self.job.env);
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

    /// What was in the lock's place beside the start of the command.
    pub(crate) fn note_baseline(&mut self, baseline: Baseline) {
        if let Some(intent) = &mut self.journal.intent {
            intent.baseline = baseline;
        }
        self.write_journal();
    }

    /// What is known of the child that its lock must fit.
    pub(crate) fn item_terms(&self) -> ItemTerms {
        let account = &self.journal.account;
        let now = Timestamp::now();
        let ended = account.ending.and_then(Ending::at).unwrap_or(now);
        let written = || Timestamp::try_from(self.log.file().metadata().and_then(|log| log.modified()).ok()?).ok();
        let last_seen = || written().map_or(account.started, |written| written + LAST_WORD);
        let lived = self.journal.began.map(|began| monotonic_millis().saturating_sub(began));
        let lived = SignedDuration::from_millis(lived.and_then(|lived| i64::try_from(lived).ok()).unwrap_or_default());
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
        let env_user = self.job.env.get(OsStr::new("USER")).map(OsString::as_os_str);
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
        let found = match nameless::look_again(intent, &self.job.env, self.item_terms(), may_land).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(why) => return self.note_unseen(&why),
        };
        let Unlogged { claim, places, settings, created, fits } = found;
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
        if self.refused_by_words().is_some_and(|refused| refused.id == claim.id.as_str()) {
            return tracing::debug!("lock {} is the one that the command was refused", claim.id);
        }
        let asked = self.job.evidence == Evidence::Item;
        let why = match fits {
            fits if !asked && fits.as_ref().err().is_none_or(Misfit::is_doubt) => {
                "tfguard deletes such a lock only with --evidence item".to_owned()
            }
            Ok(()) if is_traced => "the log tells of this run's lockfile, which is not there".to_owned(),
            Ok(()) => {
                let entry = Entry { claim, stage: Stage::Attempted, grade: Grade::Item };
                self.journal.account.locks.push(LockAccount::new(&entry, places, None));
                left.push(Left { entry, may_still_appear: false, unlock_in_flight: false });
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
        let why = format!("held by {} since {created}; {why}", claim.who);
        let mut lock = LockAccount::new(&Entry { claim, stage: Stage::Attempted, grade: Grade::Item }, places, None);
        lock.settings = Some(settings);
        lock.outcome = Some(LockOutcome::Left(why));
        self.journal.account.locks.push(lock);
    }

    /// One that ended by itself has released its lock or told why not.
    pub(crate) fn note_unseen(&mut self, why: &str) {
        let account = &self.journal.account;
        // An error after a request to stop can be a forced exit.
        let forced = matches!(account.ending, Some(Ending::Exited { code: 1.., .. })) && !account.requests.is_empty();
        if forced || account.has_died() {
            self.note_unknown(why.to_owned());
        } else {
            let what = format!("tfguard could not see whether this run left a lock: {why}");
            trouble(&mut self.journal.account, what);
        }
    }

    /// Whether a lock is left is not known, and somebody has to look.
    pub(crate) fn note_unknown(&mut self, why: String) {
        self.journal.account.other_locks.push(OtherLock {
            backend: "s3".to_owned(),
            holder: None,
            outcome: OtherOutcome::Unknown { why, unclean: true },
            command: None,
            terraform: self.journal.intent.as_ref().map(|intent| {
                let surroundings = Surroundings { dir: intent.directory.clone(), env: self.job.env.clone() };
                surroundings.terraform(self.journal.account.product().program(), &intent.workspace, true)
            }),
        });
    }
}
