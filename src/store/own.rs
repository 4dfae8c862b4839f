//! Whether the lock that has the claimed ID is one that this session's Terraform can have taken.
//!
//! A claim comes from a log to which everything that Terraform runs can write. So the lock itself is asked, too: when it
//! was created, and whom the record beside it names.

use jiff::Timestamp;

use crate::model::{CLOCK_SLACK, FoundLock, Holder, Recorded};

/// Why a lock that has the claimed ID cannot be this session's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// It is older than the session.
    #[error("it was created at {created}, before this run began at {began}")]
    Older { created: Timestamp, began: Timestamp },
    /// It does not tell its age.
    #[error("it tells no time at which it was created that can be understood: {0:?}")]
    Untimed(String),
    /// Another run's tfguard recorded itself beside it.
    #[error("the record beside it names another holder: {0}")]
    HeldBy(Box<Holder>),
    /// Beside it there is a record that this tfguard cannot read.
    #[error("{0}")]
    Unreadable(String),
}

/// Judges a lock that has the claimed ID by itself and the record beside it. `session`: the record that this session writes
/// beside its locks.
///
/// # Errors
/// Why it is not this session's.
pub(super) fn check_own(lock: &FoundLock, recorded: &Recorded, session: &Holder) -> Result<(), Stranger> {
    let FoundLock::Held(info) = lock else { return Err(Stranger::Untimed(String::new())) };
    let untimed = |_| Stranger::Untimed(info.created.chars().take(64).collect());
    let created: Timestamp = info.created.parse().map_err(untimed)?;
    if session.started.duration_since(created) > CLOCK_SLACK {
        return Err(Stranger::Older { created, began: session.started });
    }
    match recorded {
        Recorded::Nothing => Ok(()),
        Recorded::Holder(holder) if holder.is_of_run(session) => Ok(()),
        Recorded::Holder(holder) => Err(Stranger::HeldBy(holder.clone())),
        Recorded::Foreign(why) => Err(Stranger::Unreadable(why.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LockInfo;

    const ID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";
    const BEGAN: &str = "2026-11-20T05:00:00.123456789Z";

    fn session() -> Holder {
        let record = serde_json::json!({
            "schema": 1, "lock": ID, "tfguard": "0.1.0", "started": BEGAN, "session": "/a/.tfguard-sessions/s",
            "world": {"boot_id": "b", "pid_namespace": 1},
        });
        serde_json::from_value(record).unwrap()
    }

    fn judge(created: &str, recorded: &Recorded) -> Result<(), Stranger> {
        let info = LockInfo { id: ID.to_owned(), created: created.to_owned(), ..LockInfo::default() };
        check_own(&FoundLock::Held(info), recorded, &session())
    }

    #[test]
    fn a_lock_that_is_older_than_the_run_is_not_its_own() {
        for (created, own) in [
            (BEGAN, true),
            ("2026-11-20T04:58:00.123456789Z", true),
            ("2026-11-20T04:58:00.123456788Z", false),
            ("2025-12-20T05:00:01Z", false),
            ("2026-11-20T06:00:00Z", true),
            ("", false),
            ("yesterday", false),
        ] {
            assert_eq!(judge(created, &Recorded::Nothing).is_ok(), own, "{created}");
        }
    }

    #[test]
    fn a_lock_whose_record_names_another_run_is_not_this_ones() {
        type Change = fn(&mut Holder);
        let changes: [(Change, bool); 6] = [
            (|_| {}, true),
            // Who took the session over.
            (|holder| holder.supervisor = None, true),
            (|holder| holder.session = None, true),
            // Mounted elsewhere in another container.
            (|holder| holder.session = Some("/b/.tfguard-sessions/s".into()), true),
            (|holder| holder.session = Some("/a/.tfguard-sessions/t".into()), false),
            (|holder| holder.started = "2026-11-20T05:00:00.123456788Z".parse().unwrap(), false),
        ];
        for (number, (change, own)) in changes.into_iter().enumerate() {
            let mut holder = session();
            change(&mut holder);
            let judged = judge(BEGAN, &Recorded::Holder(Box::new(holder)));
            assert_eq!(judged.is_ok(), own, "{number}");
        }
        assert!(judge(BEGAN, &Recorded::Foreign("format 2".to_owned())).is_err());
    }
}
