//! Settings and environment become AWS clients.
//!
//! [`AwsClients`] talk to the endpoint, in the region and with the credentials that Terraform would use. They are built only
//! when a lock is looked at or released: nothing here runs while Terraform works.

mod answer;
mod attributes;
mod client;
mod credentials;
mod given;
mod http;
mod paths;
mod profile;
mod s3;

pub use answer::StoreError;
pub(crate) use answer::{classify, within};
pub(crate) use attributes::{Attributes, set};
pub use client::{AwsClients, CredentialsEnd};
pub(crate) use client::{Caller, is_aws};
pub(crate) use given::{Access, GivenSettings};
pub use paths::Surroundings;
pub(crate) use profile::distrust_checkout;
pub use s3::{BackendError, S3Backend};
pub(crate) use s3::{PlanFlaw, SseCustomerKey};
