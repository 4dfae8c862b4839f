//! Where state locks live, and how tfguard deletes its own under the store's condition.
//!
//! * [`Store`]: one half of a lock, opened, an item of a table or a lockfile, with the record of its holder.
//! * [`release()`]: the one algorithm by which a lock is removed.

use crate::model::FoundLock;
pub use crate::model::UnconditionalDelete;

mod contested;
mod dynamodb;
mod lease;
mod lockfile;
mod open;
mod other_backend;
mod own;
mod probe;
mod release;
mod tags;

pub(crate) use contested::Contested;
pub(crate) use dynamodb::{DIGEST_SUFFIX, TableStore, is_done};
pub use lease::Leasehold;
pub use lockfile::Traced;
pub(crate) use lockfile::examination::IMPOSSIBLE_ETAG;
pub(crate) use lockfile::{read_body, unreadable};
pub use open::Store;
pub(crate) use other_backend::{Case, Permission, RefusedItself, Suspicion, left_by_move};
pub use own::Stranger;
pub(crate) use release::{APPEARS_WITHIN, LONGEST_ATTEMPT, LOOK_EVERY, RELEASE_BUDGET, release_seen};
pub use release::{ReleaseTerms, Released, release};

/// What came of a request about a claimed lock that was answered. The error: the lock is not there, or is not the session's,
/// and nothing was done.
pub type Claimed<T> = Result<T, NotClaimed>;

/// What there is in place of a claimed lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotClaimed {
    /// Nothing, or another lock.
    NotThere(Option<FoundLock>),
    /// The claimed lock is there, and is not one that the session's Terraform can have taken.
    NotOwn(Stranger),
}
