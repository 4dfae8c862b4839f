//! What `tfguard unlock` does, given what was asked for and what was seen. Pure.

use crate::commands::judged::{HalfLook, SeenLock, Unread};
use crate::model::{FoundLock, Liveness, LockId, Sighting};

/// What is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish<'a> {
    /// The lock with this ID.
    Lock(&'a str),
    /// What blocks the state and is no lock of it.
    Broken,
}

/// What was found for a wish.
#[derive(Debug)]
pub enum Finding<'a> {
    /// What is to be deleted.
    This(SeenLock),
    /// Nothing is there that fits, and nothing else either.
    NotLocked,
    /// Another thing is there.
    Other(&'a Sighting),
    /// Some of it could not be looked at, and the rest has not what is wished for.
    NotSeen(Unread),
}

/// Finds what is wished for among the halves of a state's lock. `state`: `<bucket>/<state key>`.
pub fn find<'a>(wish: Wish, state: &str, looks: &'a [HalfLook]) -> Finding<'a> {
    let fits = |seen: &Sighting| match wish {
        Wish::Lock(id) => seen.id() == Some(id) && !is_of_another(seen, state),
        Wish::Broken => is_broken(seen, state),
    };
    let halves: Vec<_> = looks.iter().filter_map(HalfLook::half).filter(|half| fits(&half.seen)).collect();
    if !halves.is_empty() {
        return Finding::This(SeenLock { state: state.to_owned(), halves });
    }
    if let Some(other) = looks.iter().find_map(HalfLook::found) {
        return Finding::Other(other);
    }
    looks.iter().find_map(HalfLook::unread).map_or(Finding::NotLocked, Finding::NotSeen)
}

/// Whether it blocks the state and is not a lock of it, or not one of Terraform's.
pub fn is_broken(seen: &Sighting, state: &str) -> bool {
    let is_terraforms = |id: &str| id.parse::<LockId>().is_ok();
    !seen.id().is_some_and(is_terraforms) || is_of_another(seen, state)
}

/// Whether a lock says itself that it is the lock of another state: a copy of a bucket has such.
pub fn is_of_another(seen: &Sighting, state: &str) -> bool {
    matches!(&seen.lock, FoundLock::Held(info) if !info.path.is_empty() && info.path != state)
}

/// Whether a person has to allow that it is deleted. None where its holder is proven to be alive: no option makes that
/// right. The age of a lock has no part in it.
pub fn needs_a_yes(wish: Wish, verdict: &Liveness) -> Option<bool> {
    match (verdict, wish) {
        (Liveness::Alive { .. }, _) => None,
        (Liveness::Dead { .. }, Wish::Lock(_)) => Some(false),
        _ => Some(true),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::aws::StoreError;
    use crate::model::LockPlace;

    const STATE: &str = "b/k";
    const ID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";

    /// What can be seen at a half.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum At {
        Nothing,
        Ours,
        OursWithoutPath,
        Another,
        Copied,
        Ghost,
        Broken,
        Denied,
    }

    const ALL: [At; 8] =
        [At::Nothing, At::Ours, At::OursWithoutPath, At::Another, At::Copied, At::Ghost, At::Broken, At::Denied];

    fn look(at: At, table: &str, expected: bool) -> HalfLook {
        let item = |info: Option<String>| {
            let info = info.map(|info| ("Info".to_owned(), AttributeValue::S(info)));
            Ok(Some(Sighting::of_item(&info.into_iter().collect::<HashMap<_, _>>())))
        };
        let lock = |id: &str, path: &str| item(Some(format!(r#"{{"ID":"{id}","Path":"{path}"}}"#)));
        let seen = match at {
            At::Nothing => Ok(None),
            At::Ours => lock(ID, STATE),
            At::OursWithoutPath => lock(ID, ""),
            At::Another => lock("5bb7d84c-f09d-7909-0219-02f6e8d9eeb4", STATE),
            At::Copied => lock(ID, "b/elsewhere"),
            At::Ghost => item(None),
            At::Broken => item(Some("{".to_owned())),
            At::Denied => Err(StoreError::Denied { action: "dynamodb:GetItem", detail: String::new() }),
        };
        let place = LockPlace::DynamoDb {
            table: table.to_owned(),
            lock_id: STATE.to_owned(),
            region: "r".to_owned(),
            endpoint: None,
        };
        HalfLook { place, seen, expected }
    }

    /// Every pair of halves, for every wish: only what was asked for is deleted, all of it, and nothing is called
    /// unlocked that was not seen to be.
    #[test]
    fn only_what_was_asked_for_is_found() {
        for (first, second, expected) in
            ALL.iter().flat_map(|first| ALL.iter().flat_map(move |second| [true, false].map(|e| (*first, *second, e))))
        {
            let looks = [look(first, "1", expected), look(second, "2", true)];
            for (wish, fits) in [
                (Wish::Lock(ID), &[At::Ours, At::OursWithoutPath][..]),
                (Wish::Broken, &[At::Copied, At::Ghost, At::Broken]),
                (Wish::Lock(""), &[]),
                (Wish::Lock("7bb7d84c-f09d-7909-0219-02f6e8d9eeb4"), &[]),
            ] {
                let wanted: Vec<_> = [(first, "1"), (second, "2")]
                    .iter()
                    .filter(|(at, _)| fits.contains(at))
                    .map(|(_, name)| *name)
                    .collect();
                let seen = |at: At| !matches!(at, At::Nothing | At::Denied);
                match find(wish, STATE, &looks) {
                    Finding::This(lock) => {
                        let tables: Vec<_> = lock
                            .halves
                            .iter()
                            .map(|half| match &half.place {
                                LockPlace::DynamoDb { table, .. } => table.as_str(),
                                LockPlace::Lockfile { .. } => "",
                            })
                            .collect();
                        assert_eq!(tables, wanted, "{first:?} {second:?} {wish:?}");
                    }
                    other => {
                        assert_eq!(wanted, [""; 0], "{first:?} {second:?} {wish:?}");
                        let unseen = (first == At::Denied && expected) || second == At::Denied;
                        match other {
                            Finding::Other(_) => assert!(seen(first) || seen(second)),
                            Finding::NotSeen(..) => assert!(unseen && !seen(first) && !seen(second)),
                            _ => assert!(!unseen && !seen(first) && !seen(second)),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_living_holder_is_never_robbed_and_only_a_dead_one_needs_no_question() {
        let why = String::new;
        for wish in [Wish::Lock(ID), Wish::Broken] {
            assert_eq!(needs_a_yes(wish, &Liveness::Alive { why: why() }), None);
            assert_eq!(needs_a_yes(wish, &Liveness::Unknown { why: why() }), Some(true));
        }
        assert_eq!(needs_a_yes(Wish::Lock(ID), &Liveness::Dead { why: why() }), Some(false));
        assert_eq!(needs_a_yes(Wish::Broken, &Liveness::Dead { why: why() }), Some(true));
    }
}
