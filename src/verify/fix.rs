//! Whether the digest in the table may be replaced by that of the state. Pure.

use serde::Serialize;

use super::{Expected, Flaw, Format, Seen, StoredDigest};
use crate::lock::FoundLock;

/// A digest that may be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What is in the table.
    pub old: StoredDigest,
    /// The MD5 of the state.
    pub new: String,
}

/// Why no digest may be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no table.
    #[error("no lock table is named, so there is no digest to be written. If the state locks in one, give --table")]
    NotKept,
    /// Somebody holds the lock.
    #[error(
        "{0} holds the state's lock and may be writing it. Look again when the lock is gone; should nobody be behind it, \
         see `tfguard inspect` and release it first"
    )]
    Locked(String),
    /// Something lies in the place of the lock.
    #[error("something that is no lock lies in the lock's place: see `tfguard inspect` and remove it first")]
    LockMalformed,
    /// There is no state.
    #[error("there is no state of which a digest could be written")]
    NoState,
    /// It is not whole.
    #[error("the state is not whole: {0}")]
    NotWhole(Flaw),
    /// Nobody can tell whether it is.
    #[error("the state has format version {0}, which this tfguard cannot judge; use a newer one")]
    UnknownFormat(u64),
    /// It is not the state that is expected.
    #[error("the state is not the one that --lineage and --serial name")]
    NotExpected,
}

/// Decides. None where the digest fits already.
///
/// `lock`: what lies in the place of the lock at that time, be its holder dead or alive.
///
/// # Errors
/// When none may be written.
pub fn fix(seen: &Seen, expected: &Expected, lock: Option<&FoundLock>) -> Result<Option<Fix>, Refusal> {
    match lock {
        Some(FoundLock::Held(info)) => return Err(Refusal::Locked(format!("{} (lock {})", info.who, info.id))),
        Some(FoundLock::Malformed(_)) => return Err(Refusal::LockMalformed),
        None => {}
    }
    if seen.digest == StoredDigest::NotKept {
        return Err(Refusal::NotKept);
    }
    let object = seen.object.as_ref().ok_or(Refusal::NoState)?;
    let content = object.content.as_ref().map_err(|flaw| Refusal::NotWhole(flaw.clone()))?;
    if let Format::Unknown(version) = content.format {
        return Err(Refusal::UnknownFormat(version));
    }
    let lineage_fits = expected.lineage.as_deref().is_none_or(|lineage| content.lineage() == Some(lineage));
    if !lineage_fits || expected.serial.is_some_and(|serial| content.serial.unwrap_or_default() < serial) {
        return Err(Refusal::NotExpected);
    }
    let fits = seen.digest.md5() == Some(&object.md5);
    Ok((!fits).then(|| Fix { old: seen.digest.clone(), new: object.md5.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::LockInfo;
    use crate::verify::{StateObject, Versions, md5};

    const WHOLE: &[u8] =
        br#"{"version":4,"terraform_version":"1.11.4","serial":5,"lineage":"l","outputs":{},"resources":[]}"#;

    fn seen(bytes: &[u8], digest: StoredDigest) -> Seen {
        Seen { object: Some(StateObject::of(bytes)), digest, lock: None, errored: None, versions: Versions::NotAsked }
    }

    fn decide(seen: &Seen) -> Result<Option<Fix>, Refusal> {
        fix(seen, &Expected::default(), None)
    }

    #[test]
    fn only_the_digest_of_a_whole_and_expected_state_that_nobody_has_locked_is_written() {
        let wrong = || StoredDigest::Md5(md5(b"other"));
        for old in [wrong(), StoredDigest::Absent, StoredDigest::Malformed] {
            let expected = Fix { old: old.clone(), new: md5(WHOLE) };
            assert_eq!(decide(&seen(WHOLE, old)), Ok(Some(expected)));
        }
        assert_eq!(decide(&seen(WHOLE, StoredDigest::Md5(md5(WHOLE)))), Ok(None));
        assert_eq!(decide(&seen(WHOLE, StoredDigest::NotKept)), Err(Refusal::NotKept));
        assert_eq!(decide(&Seen { object: None, ..seen(b"", wrong()) }), Err(Refusal::NoState));
        for broken in [&b""[..], &WHOLE[..40], b"[]"] {
            assert!(matches!(decide(&seen(broken, wrong())), Err(Refusal::NotWhole(_))));
        }
        assert_eq!(decide(&seen(br#"{"version":5}"#, wrong())), Err(Refusal::UnknownFormat(5)));
        for (lineage, serial, fits) in
            [(Some("l"), Some(5), true), (Some("m"), None, false), (None, Some(6), false), (None, Some(4), true)]
        {
            let expected = Expected { lineage: lineage.map(str::to_owned), serial };
            let decided = fix(&seen(WHOLE, wrong()), &expected, None);
            assert_eq!(decided.is_ok(), fits, "{expected:?}");
        }
        let held = FoundLock::Held(LockInfo::parse(br#"{"ID":"x","Who":"ci@runner"}"#).unwrap());
        for lock in [held, FoundLock::Malformed(String::new())] {
            assert!(fix(&seen(WHOLE, wrong()), &Expected::default(), Some(&lock)).is_err());
        }
    }
}
