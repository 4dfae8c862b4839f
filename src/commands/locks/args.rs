//! The options.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::cli::duration;
use crate::commands::Access;

/// The options of `tfguard locks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List the locks of this DynamoDB table; several are separated by commas, or each has a --table
    #[arg(long = "table", env = "TFGUARD_TABLE", value_name = "TABLE", value_delimiter = ',')]
    pub tables: Vec<String>,

    /// List the lockfiles of this bucket, or of those below a prefix of it; several as of --table
    #[arg(long = "bucket", env = "TFGUARD_BUCKET", value_name = "BUCKET[/PREFIX]", value_delimiter = ',')]
    pub buckets: Vec<String>,

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
