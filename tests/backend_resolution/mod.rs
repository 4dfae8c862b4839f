//! Where tfguard sends its requests, and as whom: for each way to configure the S3 backend, what a real Terraform sends
//! is compared with what tfguard sends for the same directory and environment.

mod bed;
mod credentials;
mod encryption;
mod endpoints;
mod instance;
mod settings;
mod sso;
