//! The stores and the release against a real DynamoDB and S3 API on loopback, and against one that fails.

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod lockfile;
mod table;
