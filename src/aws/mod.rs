//! Settings and environment become AWS clients.
//!
//! [`AwsClients`] talk to the endpoint, in the region and with the credentials that Terraform would use. They are built only
//! when a lock is looked at or released: nothing here runs while Terraform works.

mod answer;
mod attributes;
mod caller;
mod client;
mod credentials;
mod customer_key;
mod error;
mod given;
mod http;
mod paths;
mod profile;
mod s3;
mod surroundings;
mod web_identity;

pub use answer::StoreError;
pub(crate) use answer::understand;
pub(crate) use attributes::Attributes;
pub(crate) use caller::Caller;
pub(crate) use client::is_aws;
pub use client::{AwsClients, CredentialsEnd};
pub(crate) use customer_key::SseCustomerKey;
pub use error::BackendError;
pub(crate) use error::PlanFlaw;
pub(crate) use given::GivenSettings;
pub(crate) use profile::distrust_checkout;
pub use s3::S3Backend;
pub(crate) use s3::set;
pub use surroundings::Surroundings;
