//! The stores and the release against a real DynamoDB and S3 API on loopback, and against one that fails.

pub mod bed;
mod lease;
mod lockfile;
mod table;
