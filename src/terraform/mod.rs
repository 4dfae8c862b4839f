//! Terraform and OpenTofu as programs: their arguments, their directories, the wrappers around them.

mod arguments;
mod backend;
mod directory;
mod flavour;
mod log_variables;
mod plain_shell;
mod planfile;
mod program;
mod terragrunt;

pub(crate) use arguments::{INIT, Purpose, chdir, lock_disabled, plan_file, takes_no_lock, with_lock_timeout};
pub use backend::{Backend, read_backend};
pub(crate) use backend::{read_backend_of, read_likely_backend, read_planned_backend, starting_backend};
pub use directory::workspace;
pub(crate) use directory::{InitRecord, data_dir};
pub(crate) use flavour::{Flavour, minor};
pub(crate) use log_variables::{asks_for_debug, log_variables, log_variables_of_user, without_outer_log};
pub(crate) use planfile::read_planned_state;
pub(crate) use program::{
    REAL_PROGRAM, ShimError, behind_links, behind_wrapper, link_into, on_path, path_without_links, real_program,
};
pub use program::{called_for, make_links};
pub(crate) use terragrunt::{caches_of, unit_of};
