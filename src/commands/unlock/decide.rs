//! What `tfguard unlock` does, given what was asked for and what was seen. Pure.

use crate::commands::judged::HalfSeen;
use crate::commands::looked::HalfLook;
use crate::holder::Verdict;
use crate::lock::{FoundLock, LockInfo, Sighting, StoreError};

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
    /// The halves to delete: at least one.
    These(HalfSeen, Vec<HalfSeen>),
    /// Nothing is there that fits, and nothing else either.
    NotLocked,
    /// Another thing is there.
    Other(&'a Sighting),
    /// Some of it could not be looked at, and the rest has not what is wished for.
    NotSeen(&'a StoreError),
}

/// Finds what is wished for among the halves of a state's lock. `state`: `<bucket>/<state key>`.
pub fn find<'a>(wish: Wish, state: &str, looks: &'a [HalfLook]) -> Finding<'a> {
    let fits = |seen: &Sighting| match wish {
        Wish::Lock(id) => seen.id() == Some(id) && !is_of_another(seen, state),
        Wish::Broken => seen.defect().is_some() || is_of_another(seen, state),
    };
    let mut fitting = looks.iter().filter(|look| look.found().is_some_and(fits)).filter_map(HalfLook::half);
    if let Some(first) = fitting.next() {
        return Finding::These(first, fitting.collect());
    }
    if let Some(other) = looks.iter().find_map(HalfLook::found) {
        return Finding::Other(other);
    }
    match looks.iter().find_map(HalfLook::failure) {
        Some(error) => Finding::NotSeen(error),
        None => Finding::NotLocked,
    }
}

/// Whether a lock says itself that it is the lock of another state: a copy of a bucket has such.
pub fn is_of_another(seen: &Sighting, state: &str) -> bool {
    let info: Option<&LockInfo> = match &seen.lock {
        FoundLock::Held(info) => Some(info),
        FoundLock::Malformed(_) => None,
    };
    info.is_some_and(|info| !info.path.is_empty() && info.path != state)
}

/// Whether it may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Its holder is proven to be dead.
    Given,
    /// A person has to say so.
    ToBeAsked,
    /// Its holder is proven to be alive: no option makes that right.
    Refused,
}

/// Decides by the holder. The age of a lock has no part in it.
pub fn permission(wish: Wish, verdict: &Verdict) -> Permission {
    match (verdict, wish) {
        (Verdict::Alive { .. }, _) => Permission::Refused,
        (Verdict::Dead { .. }, Wish::Lock(_)) => Permission::Given,
        _ => Permission::ToBeAsked,
    }
}
