//! The command as it was given: which program it really is, and what its arguments say of locking.

mod arguments;
mod wrapper;

pub use arguments::{Product, lock_disabled, product, with_lock_timeout};
pub use wrapper::behind_wrapper;
