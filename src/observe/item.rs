//! The weakest evidence: a lock that no log tells of, judged by what it says of itself ([`crate::model::Grade::Item`]).
//!
//! Nobody saw the child take the lock. Two runs of one user on one machine, of the same Terraform and the same command, that
//! want the same state at the same moment can be mistaken for each other. So nothing is released on it unless asked for,
//! and whatever more is known is used: what Terraform logs after it has its lock bounds when that lock was made.

use std::ffi::OsStr;

use jiff::{SignedDuration, Timestamp};

use crate::model::{Baseline, LockInfo};
use crate::observe::locks::Expectations;
use crate::terraform::{Flavour, INIT, minor};

/// What a lock must say to be taken for the child's own.
#[derive(Debug, Clone)]
pub struct ItemTerms {
    /// `<bucket>/<state key>` of the state that the child worked on, where its lock has that.
    pub path: Option<String>,
    /// When the child was started and when it had ended, by this machine's clock.
    pub lifetime: (Timestamp, Timestamp),
    /// When the child was last seen alive, where nobody saw its end.
    pub last_seen: Option<Timestamp>,
    /// How long its life was by a clock that nobody can set.
    pub lasted: SignedDuration,
    /// All that Go could make of this user and host, see [`who`].
    pub who: Vec<String>,
    /// What the child is.
    pub flavour: Flavour,
    /// Its version, if that is known.
    pub version: Option<String>,
    /// What the child's command takes locks for; nothing if nobody knows.
    pub operations: Option<Vec<String>>,
    /// What was there when the child was started; nothing where no look was due.
    pub baseline: Option<Baseline>,
    /// When the child logged something that it does only once it has its lock.
    pub passed: Option<Timestamp>,
    /// The child waits for a lock that is held (`-lock-timeout`) in place of ending.
    pub waits: bool,
    /// A Terraform that lives on this machine may hold the lock.
    pub contested: bool,
}

/// Why a lock is not taken for the child's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It belongs to another state.
    #[error("it is of another state")]
    Path,
    /// It was taken before the child was started, or after it had its own or ended, or at no time that can be understood.
    #[error("it was taken at a time when this run's Terraform could not take it")]
    Created,
    /// Somebody else took it.
    #[error("it was taken by another user or on another machine")]
    Who,
    /// Another product took it.
    #[error("it was taken by another version of Terraform or OpenTofu")]
    Version,
    /// It was taken for something else.
    #[error("it was taken for another operation than this run's")]
    Operation,
    /// It was there before the time at which it says it was taken: by another clock than this machine's.
    #[error("it was there before the time at which it says it was taken")]
    Older,
    /// This machine's clock was set while the child lived, so times cannot be compared.
    #[error("this machine's clock was set meanwhile, so its time says nothing")]
    Clock,
    /// The child may have been waiting for it.
    #[error("this run's Terraform may still have been waiting for somebody else's lock (-lock-timeout)")]
    Waited,
    /// It may be another process's.
    #[error("this run's Terraform did not log that it had its lock, and one that is alive on this machine may hold it")]
    Contested,
    /// Another process may have taken it when the child was dead.
    #[error("it was taken after the last line that this run's Terraform logged, and nobody saw when Terraform died")]
    Unseen,
    /// It is not known what the command takes locks for.
    #[error("it is not known what this run's command takes locks for")]
    Purpose,
    /// It is not known whether it was there when the child was started.
    #[error("it may have been there before")]
    Baseline,
}

impl Misfit {
    /// Nothing speaks against the lock being the child's own, but not everything is known that speaks for it.
    pub fn is_doubt(&self) -> bool {
        matches!(self, Self::Clock | Self::Unseen | Self::Purpose | Self::Waited | Self::Contested | Self::Baseline)
    }
}

/// How much the clock may drift from one that is not set, over a run.
const DRIFT: SignedDuration = SignedDuration::from_secs(2);

/// Judges a lock that was found when the child was dead.
///
/// All of it has to fit. Even then somebody may have worked as the same user on a machine of the same name at the same
/// time, which is why this is off unless asked for.
///
/// # Errors
/// The first thing that does not fit; doubts come last.
pub fn judge(lock: &LockInfo, terms: &ItemTerms) -> Result<(), Misfit> {
    let fits = |fits: bool, misfit: Misfit| if fits { Ok(()) } else { Err(misfit) };
    let (started, ended) = terms.lifetime;
    // What was made when the child had its own is somebody else's. The log has whole milliseconds.
    let had =
        |passed: Timestamp| passed.checked_add(SignedDuration::from_millis(1)).map_or(ended, |had| ended.min(had));
    let last = terms.passed.filter(|_| terms.operations.is_some()).map_or(ended, had);
    fits(terms.path.as_ref().is_none_or(|path| *path == lock.path), Misfit::Path)?;
    let steady = (ended.duration_since(started) - terms.lasted).abs() <= DRIFT;
    // Terraform sets the time when it begins to ask for the lock, so no slack is due on either side.
    let created: Option<Timestamp> = lock.created.parse().ok();
    fits(!steady || created.is_some_and(|created| started <= created && created <= last), Misfit::Created)?;
    fits(terms.who.contains(&lock.who), Misfit::Who)?;
    let version = match (&terms.version, terms.flavour, minor(&lock.version)) {
        (Some(version), ..) => *version == lock.version,
        (None, Flavour::OldTerraform, Some(version)) => version < (1, 6),
        (None, _, Some(version)) => version >= (1, 6),
        (None, _, None) => false,
    };
    fits(version, Misfit::Version)?;
    // The lock for the work comes after the one for a new workspace, and cannot exist beside it.
    let may_be = |operation: &String| *operation == lock.operation && (operation != INIT || terms.passed.is_none());
    let operations = terms.operations.as_ref();
    fits(operations.is_none_or(|operations| operations.iter().any(may_be)), Misfit::Operation)?;
    if let Some(Baseline::Present { id, answered }) = &terms.baseline {
        fits(*id != lock.id || created.is_some_and(|created| created <= *answered), Misfit::Older)?;
    }
    fits(steady, Misfit::Clock)?;
    fits(terms.last_seen.is_none_or(|seen| created.is_some_and(|created| created <= seen)), Misfit::Unseen)?;
    fits(operations.is_some(), Misfit::Purpose)?;
    fits(terms.passed.is_some() || !terms.waits, Misfit::Waited)?;
    fits(terms.passed.is_some() || !terms.contested, Misfit::Contested)?;
    fits(terms.baseline != Some(Baseline::Unknown), Misfit::Baseline)
}

/// What a Terraform of this process's user writes as its lock's holder (`NewLockInfo` in
/// `internal/states/statemgr/locker.go`): Go's `user.Current().Username`, which is the name in the system's user
/// database, else `$USER`, else nothing; and the node name. Empty where the node name may be cut off.
pub fn who(account: Option<&str>, user: Option<&OsStr>, nodename: &str) -> Vec<String> {
    if nodename.len() >= Expectations::NODENAME_LIMIT {
        return Vec::new();
    }
    let users = match (account, user.and_then(OsStr::to_str)) {
        (Some(account), _) => vec![account],
        (None, Some(user)) => vec![user, ""],
        (None, None) => vec![""],
    };
    users.into_iter().map(|user| format!("{user}@{nodename}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "2026-11-20T05:00:00Z";
    const END: &str = "2026-11-20T05:10:00Z";

    fn terms() -> ItemTerms {
        ItemTerms {
            path: Some("b/k".to_owned()),
            lifetime: (START.parse().unwrap(), END.parse().unwrap()),
            last_seen: None,
            lasted: SignedDuration::from_mins(10),
            who: vec!["ci@runner".to_owned()],
            flavour: Flavour::OpenTofu,
            version: Some("1.8.4".to_owned()),
            operations: Some(vec!["OperationTypeApply".to_owned()]),
            baseline: Some(Baseline::Absent),
            passed: None,
            waits: false,
            contested: false,
        }
    }

    fn present(id: String, answered: &str) -> Option<Baseline> {
        Some(Baseline::Present { id, answered: answered.parse().unwrap() })
    }

    fn lock() -> LockInfo {
        LockInfo {
            id: "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4".to_owned(),
            operation: "OperationTypeApply".to_owned(),
            info: String::new(),
            who: "ci@runner".to_owned(),
            version: "1.8.4".to_owned(),
            created: "2026-11-20T05:00:01.123456789Z".to_owned(),
            path: "b/k".to_owned(),
        }
    }

    /// Each single thing that does not fit is enough.
    #[test]
    fn all_of_it_has_to_fit() {
        assert_eq!(judge(&lock(), &terms()), Ok(()));
        type Change = (fn(&mut LockInfo), Misfit);
        let changes: [Change; 14] = [
            (|lock| lock.path = "b/other".to_owned(), Misfit::Path),
            (|lock| lock.created = "2026-11-20T04:59:59.999999999Z".to_owned(), Misfit::Created),
            (|lock| lock.created = "2026-11-20T05:10:00.000000001Z".to_owned(), Misfit::Created),
            (|lock| lock.created = String::new(), Misfit::Created),
            (|lock| lock.created = "yesterday".to_owned(), Misfit::Created),
            (|lock| lock.who = "ci@runner2".to_owned(), Misfit::Who),
            (|lock| lock.who = "alice@runner".to_owned(), Misfit::Who),
            (|lock| lock.who = String::new(), Misfit::Who),
            (|lock| lock.version = "1.5.7".to_owned(), Misfit::Version),
            (|lock| lock.version = "1.8.5".to_owned(), Misfit::Version),
            (|lock| lock.version = "one".to_owned(), Misfit::Version),
            (|lock| lock.version = String::new(), Misfit::Version),
            (|lock| lock.operation = "OperationTypePlan".to_owned(), Misfit::Operation),
            (|lock| lock.operation = "init".to_owned(), Misfit::Operation),
        ];
        for (change, misfit) in changes {
            let mut lock = lock();
            change(&mut lock);
            assert_eq!(judge(&lock, &terms()), Err(misfit), "{lock:?}");
        }
    }

    #[test]
    fn what_is_not_known_of_the_run_makes_nothing_fit() {
        type Change = (fn(&mut ItemTerms), Misfit);
        let changes: [Change; 7] = [
            (|terms| terms.last_seen = START.parse().ok(), Misfit::Unseen),
            (|terms| terms.lasted = SignedDuration::from_mins(9), Misfit::Clock),
            (|terms| terms.lasted = SignedDuration::from_mins(11), Misfit::Clock),
            (|terms| terms.who.clear(), Misfit::Who),
            (|terms| terms.operations = None, Misfit::Purpose),
            (|terms| terms.baseline = Some(Baseline::Unknown), Misfit::Baseline),
            (|terms| terms.baseline = present(lock().id, START), Misfit::Older),
        ];
        for (change, misfit) in changes {
            let mut terms = terms();
            change(&mut terms);
            assert_eq!(judge(&lock(), &terms), Err(misfit));
        }
        let another = ItemTerms { baseline: present("another".to_owned(), START), ..terms() };
        assert_eq!(judge(&lock(), &another), Ok(()), "it went away, and ours came");
        let own = ItemTerms { baseline: present(lock().id, "2026-11-20T05:00:02Z"), ..terms() };
        assert_eq!(judge(&lock(), &own), Ok(()), "the child was quicker than the look");
    }

    /// Guards the lock of a living run that had what ours was kept waiting for.
    #[test]
    fn what_another_may_hold_fits_only_a_run_that_had_its_lock() {
        let waiting = ItemTerms { waits: true, ..terms() };
        let contested = ItemTerms { contested: true, ..terms() };
        for (terms, misfit) in [(waiting, Misfit::Waited), (contested, Misfit::Contested)] {
            assert_eq!(judge(&lock(), &terms), Err(misfit));
            let passed = ItemTerms { passed: END.parse().ok(), ..terms.clone() };
            assert_eq!(judge(&lock(), &passed), Ok(()));
            let before = ItemTerms { passed: START.parse().ok(), ..terms };
            assert_eq!(judge(&lock(), &before), Err(Misfit::Created));
        }
    }

    #[test]
    fn versions_fit_the_product() {
        for (flavour, version, fits) in [
            (Flavour::OpenTofu, "1.6.0", true),
            (Flavour::OpenTofu, "1.12.6", true),
            (Flavour::OpenTofu, "1.5.7", false),
            (Flavour::OldTerraform, "1.5.7", true),
            (Flavour::OldTerraform, "1.6.0", false),
        ] {
            let lock = LockInfo { version: version.to_owned(), ..lock() };
            assert_eq!(
                judge(&lock, &ItemTerms { flavour, version: None, ..terms() }).is_ok(),
                fits,
                "{flavour:?} {version}"
            );
        }
    }

    #[test]
    fn the_holder_is_what_go_makes_of_it() {
        let user = OsStr::new("ci");
        assert_eq!(who(Some("root"), Some(user), "vm"), ["root@vm"]);
        assert_eq!(who(None, Some(user), "vm"), ["ci@vm", "@vm"]);
        assert_eq!(who(None, None, "vm"), ["@vm"]);
        assert!(who(Some("root"), None, &"n".repeat(64)).is_empty());
    }

    /// Of a place that has no path in its lock, and at which nobody looked.
    #[test]
    fn the_lock_for_a_new_workspace_fits_until_the_work_began() {
        let operations = ["OperationTypeApply", INIT].map(str::to_owned).to_vec();
        let terms = ItemTerms { path: None, baseline: None, operations: Some(operations), ..terms() };
        let init = LockInfo { operation: INIT.to_owned(), path: String::new(), ..lock() };
        assert_eq!(judge(&init, &terms), Ok(()));
        let passed = ItemTerms { passed: END.parse().ok(), ..terms };
        assert_eq!(judge(&init, &passed), Err(Misfit::Operation));
    }
}
