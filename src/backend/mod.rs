//! Which backend a Terraform directory uses, and with which endpoint, region and credentials Terraform talks to it.
//!
//! [`read_backend`] and [`read_planned_backend`] are pure reading. [`AwsClients`] is built only when a lock must be
//! released: nothing here runs while Terraform works.

mod args;
mod attributes;
mod caller;
mod client;
mod credentials;
mod discover;
mod error;
mod given;
mod http;
mod paths;
mod plain_shell;
mod planfile;
mod profile;
mod record;
mod s3;
mod web_identity;

pub use args::{chdir, plan_file, workspace};
pub use caller::{Caller, Identity};
pub use client::{AwsClients, CredentialsEnd, Reader, Store};
pub use discover::{Backend, Surroundings, read_backend, read_backend_of, read_planned_backend};
pub use error::BackendError;
pub use given::GivenSettings;
pub use planfile::{PlanFlaw, read_planned_state};
pub use profile::distrust_checkout;
pub use record::InitRecord;
pub use s3::S3Backend;
