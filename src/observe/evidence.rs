//! Whether a record about a lock can be the child's own.

use jiff::{SignedDuration, Timestamp};

use crate::model::{CLOCK_SLACK, InvalidLockId, LockClaim};
use crate::observe::hclog::Record;
use crate::observe::locks::LockEvent;

/// Why a record about a lock is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Part of the record is missing, or another one is mixed into it.
    #[error("the record is torn or mixed with another")]
    Torn,
    /// Terraform writes these records at INFO.
    #[error("it is not logged at INFO, as Terraform logs its locks")]
    WrongLevel,
    /// No known Terraform writes this.
    #[error("its text is none that a known Terraform version writes about a lock")]
    UnknownMessage,
    /// The message speaks of locking, the operation of something else, or the other way round.
    #[error("its message and its operation contradict each other")]
    WrongOperation,
    /// A field that Terraform always writes is missing, or there twice.
    #[error("the field {0} is missing or there twice")]
    MissingField(&'static str),
    /// The ID is none.
    #[error(transparent)]
    Id(InvalidLockId),
    /// The lock's path is not that of the state.
    #[error("the lock's path is not the bucket and key of the state")]
    PathMismatch,
    /// The log's format cannot carry this bucket or key without a doubt.
    #[error("the bucket or key has a character that the log cannot carry unambiguously")]
    AmbiguousPath,
    /// Logged before the child existed.
    #[error("it was logged at {0}, before the guarded command started")]
    TooEarly(Timestamp),
    /// Logged in the future.
    #[error("it was logged at {0}, which is still to come")]
    TooLate(Timestamp),
    /// The lock's own time is none.
    #[error("the lock's own time {0:?} cannot be understood")]
    Created(String),
    /// The body of the request is none that Terraform sends for a lock.
    #[error("the request that it shows has no lock that Terraform writes")]
    NoLock,
    /// The log hides part of the path, and the rest fits no state that is known here, or more than one.
    #[error("the log hides part of the lock's path, and no state of this directory's backend is sure to be meant")]
    MaskedPath,
    /// No command takes so many.
    #[error("the log tells of more than {0} locks")]
    TooMany(usize),
    /// Another machine took the lock.
    #[error("the lock's holder {0:?} is not on this machine")]
    OtherHost(String),
}

/// A record about a lock that is not believed, kept so that people can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a log record about lock {} is not taken as the guarded command's own: {reason}",
    .id.as_deref().unwrap_or("(no ID)")
)]
pub struct Refused {
    /// The ID in the record, shortened, in whatever shape.
    pub id: Option<String>,
    /// Why not.
    pub reason: Refusal,
}

impl Refused {
    pub(crate) fn new(record: &Record, reason: Refusal) -> Self {
        Self::of(record.field("tf_backend.lock.id"), reason)
    }

    /// A refusal of what is said about the lock of this ID.
    pub(crate) fn of(id: Option<&str>, reason: Refusal) -> Self {
        Self { id: id.map(|id| id.escape_debug().take(64).collect()), reason }
    }
}

/// What is known of the child, by which records in its log are judged.
///
/// The log is private, but everything that Terraform runs can write to it, and a session directory may be used twice.
#[derive(Debug, Clone)]
pub struct Expectations {
    /// When the child was started.
    pub started: Timestamp,
    /// The node name where the child was started, as `uname` tells it; `None` if unknown.
    pub nodename: Option<String>,
}

impl Expectations {
    /// How far the clock may have been set.
    pub const SLACK: SignedDuration = CLOCK_SLACK;

    /// Linux's node names end here; from this length on Go reads the host name elsewhere, so they may differ.
    pub(crate) const NODENAME_LIMIT: usize = 64;

    /// Judges the holder of a lock.
    ///
    /// # Errors
    /// When it is not on this machine.
    pub fn check_holder(&self, claim: &LockClaim) -> Result<(), Refused> {
        self.check_host(&claim.who).map_err(|reason| Refused::of(Some(claim.id.as_str()), reason))
    }

    /// Judges what [`crate::observe::locks::read`] made of `record`.
    ///
    /// # Errors
    /// When this child, on this machine, in its lifetime so far, cannot have written it.
    pub fn check(&self, record: &Record, event: &LockEvent, now: Timestamp) -> Result<(), Refused> {
        let id = match event {
            LockEvent::Attempting(claim) | LockEvent::Locked(claim) => &claim.id,
            LockEvent::Unlocking(place) | LockEvent::Unlocked(place) => &place.id,
        };
        self.judge(record.time, event, now).map_err(|reason| Refused::of(Some(id.as_str()), reason))
    }

    /// Judges the time of a record alone.
    ///
    /// # Errors
    /// When it is outside of the child's lifetime so far.
    pub(crate) fn check_time(&self, time: Timestamp, now: Timestamp) -> Result<(), Refusal> {
        if self.started.duration_since(time) > Self::SLACK {
            return Err(Refusal::TooEarly(time));
        }
        if time.duration_since(now) > Self::SLACK {
            return Err(Refusal::TooLate(time));
        }
        Ok(())
    }

    fn judge(&self, time: Timestamp, event: &LockEvent, now: Timestamp) -> Result<(), Refusal> {
        self.check_time(time, now)?;
        match event {
            LockEvent::Attempting(claim) | LockEvent::Locked(claim) => self.check_host(&claim.who),
            LockEvent::Unlocking(_) | LockEvent::Unlocked(_) => Ok(()),
        }
    }

    fn check_host(&self, who: &str) -> Result<(), Refusal> {
        let Some(nodename) = &self.nodename else {
            return Ok(());
        };
        // A user name may hold an `@`, a host name may not.
        let host = who.rsplit_once('@').map(|(_, host)| host);
        if nodename.len() >= Self::NODENAME_LIMIT || host == Some(nodename) {
            return Ok(());
        }
        Err(Refusal::OtherHost(who.chars().take(128).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LockKinds;
    use crate::observe::locks::LoggedPlace;

    const ID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";

    fn locked(who: &str) -> LockEvent {
        LockEvent::Locked(LockClaim {
            id: ID.parse().unwrap(),
            operation: "OperationTypeApply".into(),
            who: who.into(),
            version: "1.11.4".into(),
            bucket: "bucket".into(),
            state_key: "key".into(),
            kinds: LockKinds::DynamoDb,
        })
    }

    #[test]
    fn only_records_of_the_childs_lifetime_count() {
        let started: Timestamp = "2026-11-20T04:00:00Z".parse().unwrap();
        let now: Timestamp = "2026-11-20T05:00:00Z".parse().unwrap();
        let expectations = Expectations { started, nodename: None };
        let (slack, step) = (Expectations::SLACK, SignedDuration::from_millis(1));
        let LockEvent::Locked(claim) = locked("a@b") else { panic!() };
        for event in [locked("a@b"), LockEvent::Unlocked(LoggedPlace::of(&claim))] {
            for (time, refusal) in [
                (started, None),
                (now, None),
                (started - slack, None),
                (now + slack, None),
                (started - slack - step, Some(Refusal::TooEarly(started - slack - step))),
                (now + slack + step, Some(Refusal::TooLate(now + slack + step))),
            ] {
                assert_eq!(expectations.judge(time, &event, now).err(), refusal);
            }
        }
    }

    #[test]
    fn only_locks_of_this_machine_count() {
        let time = Timestamp::UNIX_EPOCH;
        let judge = |nodename: Option<&str>, who: &str| {
            let nodename = nodename.map(str::to_owned);
            Expectations { started: time, nodename }.judge(time, &locked(who), time).is_ok()
        };
        for who in ["ci@runner", "@runner", "a@b@runner", r"D\ci@runner"] {
            assert!(judge(Some("runner"), who), "{who}");
        }
        for who in ["ci@runner2", "ci@runner.example.org", "ci@Runner", "runner", "", "runner@ci", "ci@runner@x"] {
            assert!(!judge(Some("runner"), who), "{who}");
            assert!(judge(None, who));
            assert!(judge(Some(&"n".repeat(64)), who));
            assert!(!judge(Some(&"n".repeat(63)), who));
        }
    }

    #[test]
    fn a_refusal_tells_people_why_and_shows_no_raw_text() {
        let refused = Refused { id: Some(ID.into()), reason: Refusal::OtherHost("x@\u{1b}[2Jy".into()) };
        let text = refused.to_string();
        assert!(text.contains(ID) && text.contains("not on this machine") && !text.contains('\u{1b}'), "{text}");
    }
}
