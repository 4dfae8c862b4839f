//! State locks: what they say, where they live, and how tfguard deletes its own by condition.
//!
//! * [`LockClaim`]: a lock that tfguard holds to be its own child's, with everything a store can check it against.
//! * [`LockPlace`]: where one half of a lock lives, fit for the journal.
//! * [`LockStore`]: one such place, opened; [`TableStore`] and [`LockfileStore`] are the two kinds of it.
//! * [`Sighting`]: what is in such a place, as a person is shown it.
//! * [`HolderStore`]: a store beside whose locks the record of who holds them can stand.
//! * [`TablePages`], [`BucketPages`]: all locks there are.
//! * [`release()`]: the one algorithm by which a lock is removed.

mod claim;
mod dynamodb;
mod info;
mod listing;
mod lockfile;
mod own;
mod place;
mod release;
mod sdk_error;
mod sighting;
mod store;

pub use claim::{LockClaim, LockKinds, LockTrace};
pub(crate) use dynamodb::DIGEST_SUFFIX;
pub use dynamodb::TableStore;
pub use info::{FoundLock, InvalidLockId, LockId, LockInfo};
pub(crate) use listing::object_exists;
pub use listing::{BucketPages, Page, TablePages};
pub use lockfile::{LockfileStore, SseCustomerKey, Traced, UnconditionalDelete};
pub(crate) use lockfile::{LOCKFILE_SUFFIX as LOCKFILE_SUFFIX, lockfile_key, read_body, unreadable};
pub use own::{CLOCK_SLACK, Stranger};
pub use place::LockPlace;
pub use release::{ReleaseTerms, Released, release, release_seen};
pub(crate) use sdk_error::{no_credentials, told, understand};
pub use sighting::{Defect, Sighting};
pub use store::{Annotation, Deletion, HeldLock, HolderStore, LockStore, StoreError};
