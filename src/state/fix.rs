//! Whether the digest in the table may be replaced by that of the state. Pure.

use serde::Serialize;

use crate::state::seen::{Expected, Seen, StoredDigest};

/// A digest that may be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What is in the table.
    pub old: StoredDigest,
    /// The MD5 of the state.
    pub new: String,
}

/// Decides. None where the digest fits already. The lock must have been looked at: one stands in the way, be its holder
/// dead or alive.
///
/// # Errors
/// Why none may be written.
pub fn fix(seen: &Seen, expected: &Expected) -> Result<Option<Fix>, String> {
    if let Some(lock) = &seen.lock {
        return Err(format!(
            "the state is locked by {lock}. If its holder is dead (`tfguard inspect` tells), unlock first"
        ));
    }
    if seen.digest == StoredDigest::NotKept {
        return Err("no lock table is named. If the state locks in one, give --table".to_owned());
    }
    let object = seen.object.as_ref().ok_or("there is no state of which a digest could be written")?;
    match &object.content {
        Err(flaw) => return Err(format!("the state is not known to be whole: {flaw}")),
        Ok(content) if !expected.is_met(content) => {
            return Err("the state is not the one that --lineage and --serial name".to_owned());
        }
        Ok(_) => {}
    }
    let fits = seen.digest.md5() == Some(&object.md5);
    Ok((!fits).then(|| Fix { old: seen.digest.clone(), new: object.md5.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FoundLock;
    use crate::model::LockInfo;
    use crate::state::content::md5;
    use crate::state::seen::Held;
    use crate::state::seen::StateObject;

    const WHOLE: &[u8] =
        br#"{"version":4,"terraform_version":"1.11.4","serial":5,"lineage":"l","outputs":{},"resources":[]}"#;

    fn seen(bytes: &[u8], digest: StoredDigest) -> Seen {
        Seen { object: Some(StateObject::of(bytes)), digest, ..Seen::default() }
    }

    fn decide(seen: &Seen) -> Result<Option<Fix>, String> {
        fix(seen, &Expected::default())
    }

    #[test]
    fn only_the_digest_of_a_whole_and_expected_state_that_nobody_has_locked_is_written() {
        let wrong = || StoredDigest::Md5(md5(b"other"));
        for old in [wrong(), StoredDigest::Absent, StoredDigest::Malformed] {
            let expected = Fix { old: old.clone(), new: md5(WHOLE) };
            assert_eq!(decide(&seen(WHOLE, old)), Ok(Some(expected)));
        }
        assert_eq!(decide(&seen(WHOLE, StoredDigest::Md5(md5(WHOLE)))), Ok(None));
        assert_eq!(
            decide(&seen(WHOLE, StoredDigest::NotKept)),
            Err("no lock table is named. If the state locks in one, give --table".to_owned())
        );
        assert!(decide(&Seen { object: None, ..seen(b"", wrong()) }).is_err());
        for broken in [&b""[..], &WHOLE[..40], b"[]"] {
            assert!(decide(&seen(broken, wrong())).unwrap_err().contains("not known to be whole"));
        }
        assert!(decide(&seen(br#"{"version":5}"#, wrong())).is_err());
        for (lineage, serial, fits) in
            [(Some("l"), Some(5), true), (Some("m"), None, false), (None, Some(6), false), (None, Some(4), true)]
        {
            let expected = Expected { lineage: lineage.map(str::to_owned), serial };
            let decided = fix(&seen(WHOLE, wrong()), &expected);
            assert_eq!(decided.is_ok(), fits, "{expected:?}");
        }
        let held = FoundLock::Held(LockInfo::parse(br#"{"ID":"x","Who":"ci@runner"}"#).unwrap());
        for (lock, dead) in [(held.clone(), false), (held, true), (FoundLock::Malformed(String::new()), false)] {
            assert!(decide(&Seen { lock: Some(Held { lock, dead }), ..seen(WHOLE, wrong()) }).is_err());
        }
    }
}
