//! The options.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ValueEnum, ValueHint};

use crate::commands::target::Access;
use crate::text::duration;

/// The options of `tfguard locks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List the locks of this table
    ///
    /// A table is a name or an ARN. Separate several with commas, or repeat the option; so it is with --bucket and --chdir.
    #[arg(long = "table", value_name = "TABLE", value_delimiter = ',', value_parser = table, help_heading = "Places")]
    pub tables: Vec<String>,

    /// List the lockfiles in this bucket
    ///
    /// A prefix may follow, to list those below it: `my-states/network/`.
    #[arg(
        long = "bucket",
        value_name = "BUCKET",
        value_delimiter = ',',
        value_parser = bucket,
        help_heading = "Places"
    )]
    pub buckets: Vec<Below>,

    /// List the lock of this directory's state [default: .]
    ///
    /// The working directory is initialised: `terraform init` has run there. The default is for where neither table nor bucket
    /// is given.
    #[arg(
        long = "chdir",
        value_name = "DIR",
        value_delimiter = ',',
        value_hint = ValueHint::DirPath,
        help_heading = "Places"
    )]
    pub dirs: Vec<PathBuf>,

    /// Take this workspace of the directories
    ///
    /// Without it, the workspace is the one that Terraform would take there.
    #[arg(long, value_name = "NAME", help_heading = "Places")]
    pub workspace: Option<String>,

    /// Call a lock stale that is older
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Stale locks")]
    pub older_than: Option<Duration>,

    /// List only stale locks
    #[arg(long, help_heading = "Stale locks")]
    pub stale: bool,

    /// Exit with 122 if a stale lock was found
    #[arg(long, help_heading = "Stale locks")]
    pub fail: bool,

    /// Print table, json or prometheus
    #[arg(long, value_name = "FORMAT", default_value = "table", help_heading = "Output")]
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
