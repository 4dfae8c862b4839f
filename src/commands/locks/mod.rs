//! `tfguard locks`: all locks of tables, buckets and directories; the stale ones among them.

mod gather;
mod json;
mod prometheus;
mod sheet;
mod text;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;

use super::{Access, Failure, block_on};
use crate::cli::duration;
use crate::exit;
use crate::holder::Machine;
use gather::Gatherer;

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

/// Lists; gives tfguard's exit code.
///
/// # Errors
/// When the list cannot be written.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let machine = Machine::here(|name| std::env::var_os(name));
    let sheet = sheet::new(args.format, io::stdout());
    let listed = block_on(Gatherer::new(args, &machine, Timestamp::now(), sheet).gather());
    match listed {
        Ok(summary) => Ok(summary.exit_code(args.fail)),
        // Whoever read the list has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(failure) => Err(failure),
    }
}

/// What was found, in numbers.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Summary {
    /// All locks.
    pub locks: usize,
    /// Those that are stale.
    pub stale: usize,
    /// Those whose holder is alive, dead, and neither for sure.
    pub alive: usize,
    /// See [`Self::alive`].
    pub dead: usize,
    /// See [`Self::alive`].
    pub unknown: usize,
    /// Locks whose state object was not asked about, because there are so many.
    pub state_not_asked: usize,
    /// Where was looked.
    pub places: Vec<Looked>,
}

/// A place where was looked.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Looked {
    /// The place, in words.
    pub place: String,
    /// Why it could not be read, or not all of it. None if it was.
    pub error: Option<String>,
}

impl Summary {
    fn exit_code(&self, fail: bool) -> u8 {
        if fail && self.stale > 0 {
            exit::STALE_LOCK
        } else if self.places.iter().any(|place| place.error.is_some()) {
            exit::TFGUARD_FAILED
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_lock_is_told_before_a_place_that_could_not_be_read() {
        let summary = |stale, error: Option<&str>| {
            let place = Looked { place: "table t".to_owned(), error: error.map(str::to_owned) };
            Summary { stale, places: vec![place], ..Summary::default() }
        };
        for (stale, error, fail, code) in [
            (0, None, true, 0),
            (1, None, false, 0),
            (1, None, true, 122),
            (0, Some("denied"), true, 125),
            (1, Some("denied"), true, 122),
            (1, Some("denied"), false, 125),
        ] {
            assert_eq!(summary(stale, error).exit_code(fail), code, "{stale} {error:?} {fail}");
        }
    }
}
