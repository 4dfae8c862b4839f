//! Where state locks live, and how tfguard deletes its own under the store's condition.
//!
//! * [`LockStore`]: one half of a lock, opened; [`Store`] is an item of a table or a lockfile.
//! * [`HolderStore`]: a store beside whose locks the record of who holds them can stand.
//! * [`release()`]: the one algorithm by which a lock is removed.

mod contested;
mod dynamodb;
mod listing;
mod lock_store;
mod lockfile;
mod locking;
mod open;
mod other_backend;
mod own;
mod probe;
mod release;
mod runner;
mod tags;

pub(crate) use contested::Contested;
pub(crate) use dynamodb::DIGEST_SUFFIX;
pub(crate) use listing::{BucketPages, TablePages};
pub use lock_store::{Annotation, Deletion, HolderStore, LockStore};
pub use lockfile::{Traced, UnconditionalDelete};
pub(crate) use lockfile::{read_body, unreadable};
pub(crate) use open::Reader;
pub use open::Store;
pub(crate) use other_backend::{Case, Permission, RefusedItself, Suspicion, left_by_move};
pub use own::Stranger;
pub(crate) use release::release_seen;
pub use release::{ReleaseTerms, Released, release};
