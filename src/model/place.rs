//! Where one half of a lock lives.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where one half of a lock lives. Holds no secret, so it may go into the journal, messages and reports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LockPlace {
    /// An item in a DynamoDB table.
    #[serde(rename = "dynamodb")]
    DynamoDb {
        /// The table's name or ARN.
        table: String,
        /// The partition key `LockID` of the item: `<bucket>/<state key>`.
        lock_id: String,
        /// The table's region.
        region: String,
        /// The endpoint, where it is not that of AWS for the region.
        endpoint: Option<String>,
    },
    /// An object beside the state.
    Lockfile {
        /// The bucket.
        bucket: String,
        /// The object's key: `<state key>.tflock`.
        key: String,
        /// The bucket's region.
        region: String,
        /// The endpoint, where it is not that of AWS for the region.
        endpoint: Option<String>,
    },
}

impl fmt::Display for LockPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, region) = match self {
            Self::DynamoDb { table, lock_id, region, endpoint } => {
                write!(f, "item {lock_id} of DynamoDB table {table}")?;
                (endpoint, region)
            }
            Self::Lockfile { bucket, key, region, endpoint } => {
                write!(f, "object s3://{bucket}/{key}")?;
                (endpoint, region)
            }
        };
        match endpoint {
            Some(endpoint) => write!(f, " ({region}, {endpoint})"),
            None => write!(f, " ({region})"),
        }
    }
}

/// Terraform's suffix of a lockfile: `lockFileSuffix` in its S3 client.
pub(crate) const LOCKFILE_SUFFIX: &str = ".tflock";

/// The key of the lockfile beside a state.
pub(crate) fn lockfile_key(state_key: &str) -> String {
    format!("{state_key}{LOCKFILE_SUFFIX}")
}
