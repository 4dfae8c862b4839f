//! Where state locks live, and how tfguard deletes its own under the store's condition.
//!
//! * [`Store`]: one half of a lock, opened, an item of a table or a lockfile, with the record of its holder;
//!   [`LockStore`] is what the release needs of it.
//! * [`release()`]: the one algorithm by which a lock is removed.

use crate::aws::StoreError;
pub use crate::model::UnconditionalDelete;
use crate::model::{FoundLock, Holder, LockClaim};

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

/// One half of a lock, reachable. Each call sends its request once and is bounded in time by the caller; dropping the
/// future gives the request up, though the server may still carry it out.
#[allow(async_fn_in_trait, reason = "its futures are sent to other threads as those of Store only")]
pub trait LockStore {
    /// Deletes the lock if, at that very moment and by the server's own judgement, it is the claimed one, and, where a
    /// session claims it, if the session's Terraform can have taken it. `session`: the record that it writes beside its
    /// locks; none where a person decides.
    ///
    /// # Errors
    /// When the store could not be asked, or its answer is not known.
    async fn delete_if(&self, claim: &LockClaim, session: Option<&Holder>) -> Result<Claimed<()>, StoreError>;

    /// Reads the lock, consistently.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    async fn read(&self) -> Result<Option<FoundLock>, StoreError>;
}

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
