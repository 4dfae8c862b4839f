//! `tfguard locks`: all locks of tables, buckets and directories; the stale ones among them.
//!
//! `gather` goes through the places and hands each lock to a `ListWriter`: one of `text` (a table or JSON) or `prometheus`.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ValueEnum, ValueHint};
use futures_util::TryFutureExt as _;
use jiff::Timestamp;

use crate::aws::Access;
use crate::commands::judged::JudgedLock;
use crate::commands::locks::gather::Gatherer;
use crate::commands::locks::prometheus::Prometheus;
use crate::commands::locks::text::{Json, Text};
use crate::commands::page::Page;
use crate::commands::{Failure, block_on};
use crate::exit;
use crate::model::{Environment, bucket_and_key};
use crate::session::Machine;
use crate::text::duration;

mod gather;
mod prometheus;
mod text;

/// The options of `tfguard locks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List the locks of this table
    ///
    /// A table is a name or an ARN. Separate several with commas, or repeat the option; so it is with --bucket and --chdir.
    #[arg(long, value_name = "TABLE", value_delimiter = ',', value_parser = table, help_heading = "Places")]
    pub table: Vec<String>,

    /// List the lockfiles in this bucket
    ///
    /// A prefix may follow, to list those below it: `my-states/network/`.
    #[arg(long, value_name = "BUCKET", value_delimiter = ',', value_parser = bucket, help_heading = "Places")]
    pub bucket: Vec<Below>,

    /// List the lock of this directory's state [default: .]
    ///
    /// The working directory is initialised: `terraform init` has run there. The default is for where neither table nor bucket
    /// is given.
    #[arg(long, value_name = "DIR", value_delimiter = ',', value_hint = ValueHint::DirPath, help_heading = "Places")]
    pub chdir: Vec<PathBuf>,

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
    let (bucket, prefix) = bucket_and_key(named).unwrap_or((named, ""));
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

/// Lists; gives tfguard's exit code.
///
/// # Errors
/// When the list cannot be written.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let machine = Machine::here(&Environment::own());
    let list = async {
        let list = writer(args.format, BufWriter::new(Stdout { to_the_end: args.fail }))?;
        Gatherer::new(args, &machine, list).gather().await
    };
    match block_on(list.map_err(Failure::Output)) {
        Ok(summary) => Ok(summary.exit_code(args.fail)),
        // Whoever read the list has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(failure) => Err(failure),
    }
}

/// Where the list goes. `to_the_end`: a reader that has gone is no reason to stop, because the exit code is asked for.
struct Stdout {
    to_the_end: bool,
}

impl Stdout {
    fn unless_gone<T>(&self, written: io::Result<T>, otherwise: T) -> io::Result<T> {
        match written {
            Err(error) if self.to_the_end && error.kind() == io::ErrorKind::BrokenPipe => Ok(otherwise),
            written => written,
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unless_gone(io::stdout().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unless_gone(io::stdout().flush(), ())
    }
}

fn writer(format: Format, out: impl Write + 'static) -> io::Result<Box<dyn ListWriter>> {
    Ok(match format {
        Format::Table => Box::new(Text::new(out, Page::of_stdout())),
        Format::Json => Box::new(Json::new(out)?),
        Format::Prometheus => Box::new(Prometheus::new(out)?),
    })
}

/// What a list is written to, lock by lock.
trait ListWriter {
    /// Writes a lock, or keeps it for a while.
    fn write(&mut self, lock: &JudgedLock) -> io::Result<()>;

    /// Writes what is left, and the end.
    fn end(&mut self, summary: &Summary, now: Timestamp) -> io::Result<()>;
}

/// A table as a label.
fn store_of_table(table: &str) -> String {
    format!("dynamodb:{table}")
}

/// A bucket as a label, whichever part of it was looked at.
fn store_of_bucket(bucket: &str) -> String {
    format!("s3:{bucket}")
}

/// What was found, in numbers.
#[derive(Debug, Clone, Default, serde::Serialize)]
struct Summary {
    /// All locks.
    locks: usize,
    /// Those that are stale.
    stale: usize,
    /// Those whose holder is proven to be alive.
    alive: usize,
    /// Those whose holder is proven to be dead.
    dead: usize,
    /// Those of which neither is proven.
    unknown: usize,
    /// Locks whose state object was not asked about, because there are so many.
    state_not_asked: usize,
    /// Where was looked.
    places: Vec<Looked>,
}

/// A place where was looked.
#[derive(Debug, Clone, serde::Serialize)]
struct Looked {
    /// The place, in words.
    place: String,
    /// The same as a label of a metric, which locks in it have, too.
    #[serde(skip)]
    label: String,
    /// Why it could not be read, or not all of it. None if it was.
    error: Option<String>,
}

impl Summary {
    /// The sums, for people. What was not read is never called free of locks.
    fn in_words(&self) -> String {
        let unread: Vec<_> = self.places.iter().filter(|place| place.error.is_some()).collect();
        let all = self.places.len();
        let unread = match unread[..] {
            [] => None,
            [only] => Some(format!("could not read {}", only.place)),
            _ => Some(format!("could not read {} of {all} places", unread.len())),
        };
        let plural = if self.locks == 1 { "lock" } else { "locks" };
        let found = match (self.locks, &unread) {
            (0, None) => Some("no locks".to_owned()),
            (0, Some(_)) => None,
            (locks, _) => Some(format!(
                "{locks} {plural}, {} stale; holders: {} alive, {} dead, {} unknown",
                self.stale, self.alive, self.dead, self.unknown
            )),
        };
        found.into_iter().chain(unread).collect::<Vec<_>>().join("; ")
    }

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
            let place = Looked { place: "table t".to_owned(), label: String::new(), error: error.map(str::to_owned) };
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
