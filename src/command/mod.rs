//! The command as it was given: which program it really is, and what its arguments say of locking.

mod arguments;
mod flavour;
mod lockless;
mod purpose;
mod shim;
mod terragrunt;
mod wrapper;

pub use arguments::{Product, lock_disabled, product, subcommand, with_lock_timeout};
pub use flavour::Flavour;
pub(crate) use flavour::minor;
pub use lockless::takes_no_lock;
pub use purpose::{INIT, MIGRATION, Purpose};
pub use shim::{ShimError, behind_links, called_for, link_into, make_links, path_without_links, real_program};
pub use terragrunt::{caches_of, unit_of};
pub use wrapper::{behind_wrapper, on_path};
