//! Terraform and OpenTofu as programs: their arguments, their directories, the wrappers around them.

mod args;
mod arguments;
mod backend;
mod flavour;
mod lockless;
mod plain_shell;
mod planfile;
mod purpose;
mod record;
mod shim;
mod terragrunt;
mod wrapper;

pub use args::workspace;
pub(crate) use args::{chdir, data_dir, plan_file};
pub(crate) use arguments::{lock_disabled, subcommand, with_lock_timeout};
pub use backend::{Backend, read_backend};
pub(crate) use backend::{read_backend_of, read_planned_backend};
pub(crate) use flavour::{Flavour, minor};
pub(crate) use lockless::takes_no_lock;
pub(crate) use planfile::read_planned_state;
pub(crate) use purpose::{INIT, Purpose};
pub(crate) use record::InitRecord;
pub(crate) use shim::{REAL_PROGRAM, ShimError, behind_links, link_into, path_without_links, real_program};
pub use shim::{called_for, make_links};
pub(crate) use terragrunt::{caches_of, unit_of};
pub(crate) use wrapper::{behind_wrapper, on_path};
