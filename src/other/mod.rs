//! Locks of backends that, unlike S3, do not log what they lock: gcs, azurerm, http, kubernetes, oss, cos, oci.
//!
//! After an unclean death tfguard looks who holds the state ([`Case::look_after`]), by a second Terraform that is refused
//! the lock and says who has it. The lock is believed to be the dead child's only by all that it says
//! ([`crate::observe::item`]), and is then released by Terraform's own `force-unlock` with the ID that the backend wants. On
//! `http` it is only told: the `force-unlock` of that backend names no ID and opens whatever is there.
//!
//! [`PrintedRefusal`] reads what a Terraform says when it is refused a lock.

mod case;
mod contested;
mod locking;
mod probe;
mod refusal;
mod terraform;

pub use case::{Case, Permission, RefusedItself, Suspicion, left_by_move};
pub use contested::Contested;
pub use refusal::{PrintedHolder, PrintedRefusal};
