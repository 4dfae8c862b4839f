//! State locks: what they say, where they live, and how tfguard deletes its own by condition.
//!
//! * [`LockClaim`]: a lock that tfguard holds to be its own child's, with everything a store can check it against.
//! * [`LockPlace`]: where one half of a lock lives, fit for the journal.
//! * [`LockStore`]: one such place, opened; [`TableStore`] and [`LockfileStore`] are the two kinds of it.
//! * [`release()`]: the one algorithm by which a lock is removed.

mod claim;
mod dynamodb;
mod info;
mod lockfile;
mod place;
mod release;
mod sdk_error;
mod store;

pub use claim::{LockClaim, LockKinds, LockTrace};
pub use dynamodb::TableStore;
pub use info::{FoundLock, InvalidLockId, LockId, LockInfo};
pub(crate) use lockfile::lockfile_key;
pub use lockfile::{LockfileStore, SseCustomerKey, Traced, UnconditionalDelete};
pub use place::LockPlace;
pub use release::{ReleaseTerms, Released, release};
pub(crate) use sdk_error::{no_credentials, told};
pub use store::{Deletion, LockStore, StoreError};
