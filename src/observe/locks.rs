//! Records in which Terraform's S3 backend tells of a state lock, and whether they can be the child's own.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::{CLOCK_SLACK, InvalidLockId, LockClaim, LockId, LockKinds};
use crate::observe::hclog::{Level, Record};

/// The only logger whose records are believed (`internal/backend/remote-state/s3/logging.go`).
const LOGGER: &str = "backend-s3";

/// What identifies a lock of this session: other states have other locks, and two buckets may hold the same key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LoggedPlace {
    pub id: LockId,
    /// The bucket of the state.
    pub bucket: String,
    /// The key of the state in its bucket.
    pub state_key: String,
}

impl LoggedPlace {
    /// Where a claimed lock is.
    pub fn of(claim: &LockClaim) -> Self {
        Self { id: claim.id.clone(), bucket: claim.bucket.clone(), state_key: claim.state_key.clone() }
    }

    /// Whether this is where a claimed lock is.
    pub(crate) fn is_of(&self, claim: &LockClaim) -> bool {
        (&self.id, &self.bucket, &self.state_key) == (&claim.id, &claim.bucket, &claim.state_key)
    }
}

/// A step in the life of a lock, as Terraform logged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockEvent {
    /// The request that takes the lock is about to be sent, repeated with the same ID under `-lock-timeout`. `done`: the lock
    /// is taken (Terraform 1.10 and later).
    Take { claim: LockClaim, done: bool },
    /// The request that releases the lock is about to be sent. It may be anybody's: `force-unlock` logs this too. `done`: the
    /// lock is released (Terraform 1.10 and later).
    Release { place: LoggedPlace, done: bool },
}

/// The messages of `internal/backend/remote-state/s3/client.go`, Terraform 1.6.0 to 1.15.9: the operation that each is about,
/// and whether it is done.
fn known(message: &str) -> Option<(&'static str, bool, LockKinds)> {
    // Terraform 1.6 to 1.9, which say nothing afterwards.
    match message {
        "Locking remote state" => return Some(("Lock", false, LockKinds::Unstated)),
        "Unlocking remote state" => return Some(("Unlock", false, LockKinds::Unstated)),
        _ => {}
    }
    let (verb, rest) = message.split_once(" remote state (")?;
    let (kinds, end) = rest.split_once(')')?;
    let (operation, done) = match (verb, end) {
        ("Attempting to lock", "...") => ("Lock", false),
        ("Locked", "") => ("Lock", true),
        ("Attempting to unlock", "...") => ("Unlock", false),
        ("Unlocked", "") => ("Unlock", true),
        _ => return None,
    };
    let kinds = match kinds {
        "DynamoDB only" => LockKinds::DynamoDb,
        "S3 Native only" => LockKinds::Lockfile,
        "S3 Native and DynamoDB" => LockKinds::Both,
        _ => return None,
    };
    Some((operation, done, kinds))
}

/// Reads what a record tells about a lock. `None`: it is about something else.
///
/// Only the record itself is judged here; [`crate::observe::locks::Expectations`] judges whether this child can have written it.
///
/// # Errors
/// When the record poses as one of a lock but is not exactly what Terraform writes.
pub fn read(record: &Record) -> Option<Result<LockEvent, Refused>> {
    if record.logger != LOGGER {
        return None;
    }
    // The HTTP records of the same call carry the same fields, at DEBUG.
    let operation = record.field("tf_backend.operation");
    let poses = record.level == Level::Info && matches!(operation, Some("Lock" | "Unlock"));
    if !poses && known(&record.message).is_none() {
        return None;
    }
    Some(judge(record).map_err(|reason| Refused::of(record.field("tf_backend.lock.id"), reason)))
}

fn judge(record: &Record) -> Result<LockEvent, Refusal> {
    if record.torn {
        return Err(Refusal::Torn);
    }
    if record.level != Level::Info {
        return Err(Refusal::WrongLevel);
    }
    let (operation, done, kinds) = known(&record.message).ok_or(Refusal::UnknownMessage)?;
    if record.field("tf_backend.operation") != Some(operation) {
        return Err(Refusal::WrongOperation);
    }
    let field = |key: &'static str| record.field(key).ok_or(Refusal::MissingField(key));
    let place = LoggedPlace {
        id: field("tf_backend.lock.id")?.parse().map_err(Refusal::Id)?,
        bucket: field("tf_backend.s3.bucket")?.to_owned(),
        state_key: field("tf_backend.s3.path")?.to_owned(),
    };
    if !(unambiguous(&place.bucket) && unambiguous(&place.state_key)) {
        return Err(Refusal::AmbiguousPath);
    }
    if operation == "Unlock" {
        return Ok(LockEvent::Release { place, done });
    }
    let claim = LockClaim {
        id: place.id,
        operation: field("tf_backend.lock.operation")?.to_owned(),
        who: field("tf_backend.lock.who")?.to_owned(),
        version: field("tf_backend.lock.version")?.to_owned(),
        bucket: place.bucket,
        state_key: place.state_key,
        kinds,
    };
    // A record that was torn and joined with another rarely names the same path twice.
    if field("tf_backend.lock.path")? != claim.lock_id() {
        return Err(Refusal::PathMismatch);
    }
    Ok(LockEvent::Take { claim, done })
}

/// Whether the log can carry this name unchanged. hclog escapes odd characters but no backslashes, so a name with a
/// backslash or a control character has two readings, and one that is not UTF-8 has none.
fn unambiguous(name: &str) -> bool {
    !name.is_empty()
        && !name.chars().any(|char| char == '\\' || char.is_control() || char == char::REPLACEMENT_CHARACTER)
}

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
    #[error("no known Terraform version writes such a text about a lock")]
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
    #[error("it was logged at {0}, which is in the future")]
    TooLate(Timestamp),
    /// The lock's own time is none.
    #[error("the lock's own time {0:?} cannot be understood")]
    Created(String),
    /// The body of the request is none that Terraform sends for a lock.
    #[error("the request that it shows doesn't hold a lock as Terraform writes it")]
    NoLock,
    /// The log hides part of the path, and the rest fits no state that is known here, or more than one.
    #[error(
        "the log hides part of the lock's path, and it is not clear which state of this directory's backend is meant"
    )]
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
    pub reason: Refusal,
}

impl Refused {
    /// A refusal of what is said about the lock of this ID.
    pub(crate) fn of(id: Option<&str>, reason: Refusal) -> Self {
        Self { id: id.map(|id| id.escape_debug().take(64).collect()), reason }
    }
}

/// What is known of the child, by which records in its log are judged.
///
/// The log is private, but everything that Terraform runs can write to it, and a session directory may be used twice.
#[derive(Debug, Clone, Default)]
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

    /// Judges what [`crate::observe::locks::read`] made of a record of this time.
    ///
    /// # Errors
    /// When this child, on this machine, in its lifetime so far, cannot have written it.
    pub fn check(&self, time: Timestamp, event: &LockEvent, now: Timestamp) -> Result<(), Refused> {
        let in_time = self.check_time(time, now);
        let (id, judged) = match event {
            LockEvent::Take { claim, .. } => (&claim.id, in_time.and_then(|()| self.check_host(&claim.who))),
            LockEvent::Release { place, .. } => (&place.id, in_time),
        };
        judged.map_err(|reason| Refused::of(Some(id.as_str()), reason))
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
    use crate::observe::hclog::Splitter;
    use crate::observe::locks::LoggedPlace;

    const ATTEMPTING: &str = r#"2026-11-20T04:11:21.822Z [INFO]  backend-s3: Attempting to lock remote state (DynamoDB only)...: tf_backend.lock.id=4bb7d84c-f09d-7909-0219-02f6e8d9eeb4 tf_backend.lock.info="" tf_backend.lock.operation=OperationTypeApply tf_backend.lock.path=tfstate/app/main.tfstate tf_backend.lock.version=1.11.4 tf_backend.lock.who=ci@runner tf_backend.operation=Lock tf_backend.req_id=4e500000-0000-0000-0000-000000000000 tf_backend.s3.bucket=tfstate tf_backend.s3.path=app/main.tfstate"#;

    fn look(line: &str) -> Option<Result<LockEvent, Refusal>> {
        let records = Splitter::default().feed(format!("{line}\n").as_bytes());
        let [record] = records.as_slice() else { panic!("{line}") };
        read(record).map(|read| read.map_err(|refused| refused.reason))
    }

    fn unlock(message: &str) -> String {
        ATTEMPTING
            .replace("Attempting to lock remote state (DynamoDB only)...", message)
            .replace("operation=Lock", "operation=Unlock")
    }

    #[test]
    fn every_text_of_every_version_is_known() {
        let kinds = [
            ("DynamoDB only", LockKinds::DynamoDb),
            ("S3 Native only", LockKinds::Lockfile),
            ("S3 Native and DynamoDB", LockKinds::Both),
        ];
        for (text, kinds) in kinds {
            let Some(Ok(LockEvent::Take { claim, done: false })) = look(&ATTEMPTING.replace("DynamoDB only", text))
            else {
                panic!()
            };
            assert_eq!(claim.kinds, kinds);
            assert_eq!(claim.id.as_str(), "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4");
            assert_eq!((claim.operation.as_str(), claim.version.as_str()), ("OperationTypeApply", "1.11.4"));
            assert_eq!((claim.who.as_str(), claim.lock_id().as_str()), ("ci@runner", "tfstate/app/main.tfstate"));
            let place = LoggedPlace::of(&claim);
            let locked =
                ATTEMPTING.replace("Attempting to lock", "Locked").replace("DynamoDB only)...", &format!("{text})"));
            assert_eq!(look(&locked), Some(Ok(LockEvent::Take { claim, done: true })));
            let unlocking = unlock(&format!("Attempting to unlock remote state ({text})..."));
            assert_eq!(look(&unlocking), Some(Ok(LockEvent::Release { place: place.clone(), done: false })));
            let unlocked = unlock(&format!("Unlocked remote state ({text})"));
            assert_eq!(look(&unlocked), Some(Ok(LockEvent::Release { place, done: true })));
        }
        let old = ATTEMPTING.replace("Attempting to lock remote state (DynamoDB only)...", "Locking remote state");
        assert!(
            matches!(look(&old), Some(Ok(LockEvent::Take { claim, done: false })) if claim.kinds == LockKinds::Unstated)
        );
        assert!(matches!(look(&unlock("Unlocking remote state")), Some(Ok(LockEvent::Release { done: false, .. }))));
    }

    #[test]
    fn what_terraform_would_not_write_is_refused() {
        let refusals = [
            ("[INFO] ", "[WARN] ", Refusal::WrongLevel),
            ("DynamoDB only", "Carrier pigeon", Refusal::UnknownMessage),
            ("...:", ":", Refusal::UnknownMessage),
            ("Attempting", "x: Attempting", Refusal::UnknownMessage),
            ("=Lock", "=Unlock", Refusal::WrongOperation),
            ("=Lock", "=Get", Refusal::WrongOperation),
            ("tf_backend.operation=Lock", "x=y", Refusal::WrongOperation),
            ("req_id=", "operation=", Refusal::WrongOperation),
            ("=ci@runner", "=ci@runner tf_backend.lock.who=ci@runner", Refusal::MissingField("tf_backend.lock.who")),
            ("lock.version", "lock.vision", Refusal::MissingField("tf_backend.lock.version")),
            ("lock.path", "lock.pith", Refusal::MissingField("tf_backend.lock.path")),
            ("=tfstate/app", "=tfstate/other", Refusal::PathMismatch),
            ("s3.bucket=tfstate", "s3.bucket=tfstate2", Refusal::PathMismatch),
            ("s3.path=app/main.tfstate", "s3.path=app/main.tfst", Refusal::PathMismatch),
            ("s3.path=app/main.tfstate", r"s3.path=app\main.tfstate", Refusal::AmbiguousPath),
            ("s3.path=app/main.tfstate", r#"s3.path="app\tmain.tfstate""#, Refusal::AmbiguousPath),
            ("s3.path=app/main.tfstate", r#"s3.path="""#, Refusal::AmbiguousPath),
            ("s3.path=app", "s3.path=app b", Refusal::Torn),
            ("lock.info=\"\"", "lock.info=\"", Refusal::Torn),
        ];
        for (from, to, refusal) in refusals {
            assert!(ATTEMPTING.contains(from), "{from}");
            assert_eq!(look(&ATTEMPTING.replacen(from, to, 1)), Some(Err(refusal)), "{from} -> {to}");
        }
        for id in ["", "4bb7d84c", "4BB7D84C-F09D-7909-0219-02F6E8D9EEB4", "4bb7d84c-f09d-7909-0219-02f6e8d9eeb42026"] {
            let line = ATTEMPTING.replace("4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", id);
            assert!(matches!(look(&line), Some(Err(Refusal::Id(_)))), "{id}");
        }
    }

    #[test]
    fn other_records_are_nobodys_business() {
        for (from, to) in [
            ("backend-s3", "terraform"),
            // The requests of a lock carry its fields, at DEBUG.
            (
                "[INFO]  backend-s3: Attempting to lock remote state (DynamoDB only)...",
                "[WARN]  backend-s3: failed to close S3 object body",
            ),
        ] {
            assert_eq!(look(&ATTEMPTING.replace(from, to)), None);
        }
        let upload = ATTEMPTING
            .replace("Attempting to lock remote state (DynamoDB only)...", "Uploading remote state")
            .replace("=Lock", "=Put");
        assert_eq!(look(&upload), None);
    }

    const ID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";

    fn locked(who: &str) -> LockEvent {
        let claim = LockClaim { who: who.into(), ..LockClaim::example("key", LockKinds::DynamoDb) };
        LockEvent::Take { claim, done: true }
    }

    #[test]
    fn only_records_of_the_childs_lifetime_count() {
        let started: Timestamp = "2026-11-20T04:00:00Z".parse().unwrap();
        let now: Timestamp = "2026-11-20T05:00:00Z".parse().unwrap();
        let expectations = Expectations { started, nodename: None };
        let (slack, step) = (Expectations::SLACK, SignedDuration::from_millis(1));
        let LockEvent::Take { claim, .. } = locked("a@b") else { panic!() };
        for event in [locked("a@b"), LockEvent::Release { place: LoggedPlace::of(&claim), done: true }] {
            for (time, refusal) in [
                (started, None),
                (now, None),
                (started - slack, None),
                (now + slack, None),
                (started - slack - step, Some(Refusal::TooEarly(started - slack - step))),
                (now + slack + step, Some(Refusal::TooLate(now + slack + step))),
            ] {
                assert_eq!(expectations.check(time, &event, now).err().map(|refused| refused.reason), refusal);
            }
        }
    }

    #[test]
    fn only_locks_of_this_machine_count() {
        let time = Timestamp::UNIX_EPOCH;
        let judge = |nodename: Option<&str>, who: &str| {
            let nodename = nodename.map(str::to_owned);
            Expectations { started: time, nodename }.check(time, &locked(who), time).is_ok()
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
