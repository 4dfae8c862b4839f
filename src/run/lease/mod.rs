//! Leases: who holds a lock renews one, and who waits for a lock sees whether its lease has run out.

pub(crate) mod expiry;
pub(crate) mod holder;
pub(crate) mod reclaim;
