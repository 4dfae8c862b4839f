//! Which backend a Terraform directory uses, and with which endpoint, region and credentials Terraform talks to it.
//!
//! [`read_backend`] is pure reading. [`AwsClients`] is built only when a lock must be released: nothing here runs
//! while Terraform works.

mod args;
mod attributes;
mod client;
mod credentials;
mod discover;
mod error;
mod http;
mod paths;
mod role;
mod s3;

pub use args::{chdir, workspace};
pub use client::{AwsClients, Store};
pub use discover::{Backend, Surroundings, read_backend};
pub use error::BackendError;
pub use s3::S3Backend;
