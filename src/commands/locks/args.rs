//! The options.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::commands::target::Access;
use crate::text::duration;

/// The options of `tfguard locks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List the locks of this DynamoDB table; several are separated by commas, or each has a --table
    #[arg(long = "table", env = "TFGUARD_TABLE", value_name = "TABLE", value_delimiter = ',', value_parser = table)]
    pub tables: Vec<String>,

    /// List the lockfiles of this bucket, or of those below a prefix of it; several as of --table
    #[arg(
        long = "bucket",
        env = "TFGUARD_BUCKET",
        value_name = "BUCKET[/PREFIX]",
        value_delimiter = ',',
        value_parser = bucket
    )]
    pub buckets: Vec<Below>,

    /// List the lock of this initialised working directory's state; several as of --table [default: of this one, where
    /// neither table nor bucket is given]
    #[arg(long = "chdir", env = "TFGUARD_CHDIR", value_name = "DIR", value_delimiter = ',')]
    pub dirs: Vec<PathBuf>,

    /// The workspace of the directories [default: as Terraform has it there]
    #[arg(long, env = "TFGUARD_WORKSPACE", value_name = "NAME")]
    pub workspace: Option<String>,

    /// A lock that is older than this is stale by that alone
    #[arg(long, env = "TFGUARD_OLDER_THAN", value_name = "DURATION", value_parser = duration)]
    pub older_than: Option<Duration>,

    /// List only stale locks
    #[arg(long, env = "TFGUARD_STALE")]
    pub stale: bool,

    /// Exit with 122 if a stale lock was found
    #[arg(long, env = "TFGUARD_FAIL")]
    pub fail: bool,

    /// How the list looks
    #[arg(long, env = "TFGUARD_FORMAT", value_name = "FORMAT", default_value = "table")]
    pub format: Format,

    /// How AWS is reached.
    #[command(flatten)]
    pub access: Access,
}

/// A bucket, or what lies below a prefix of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// The bucket's name or ARN.
    pub bucket: String,
    /// Empty for all of it.
    pub prefix: String,
}

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

fn table(name: &str) -> Result<String, &'static str> {
    if name.is_empty() { Err("a table has a name") } else { Ok(name.to_owned()) }
}

fn bucket(named: &str) -> Result<Below, &'static str> {
    let named = named.strip_prefix("s3://").unwrap_or(named);
    let (bucket, prefix) = named.split_once('/').unwrap_or((named, ""));
    if bucket.is_empty() {
        return Err("a bucket has a name");
    }
    Ok(Below { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// How the list looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// One JSON document.
    Json,
    /// Prometheus' text format, for a file that its node exporter reads.
    Prometheus,
}
