//! What a list is written to, whatever it looks like.

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use jiff::Timestamp;

use crate::commands::judged::{JudgedLock, Stale};
use crate::commands::locks::args::Format;
use crate::commands::locks::json::Json;
use crate::commands::locks::prometheus::Prometheus;
use crate::commands::locks::summary::Summary;
use crate::commands::locks::text::Text;

/// A lock on its way to the list.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The lock.
    pub lock: &'a JudgedLock,
    /// Why it is stale.
    pub stale: &'a [Stale],
    /// The age from which on it would be.
    pub older_than: Option<Duration>,
    /// The time at which was looked.
    pub now: Timestamp,
}

/// Something that a list is written to, lock by lock.
pub trait Sheet {
    /// Writes a lock, or keeps it for a while.
    fn write(&mut self, row: Row) -> io::Result<()>;

    /// Writes what is left, and the end.
    fn end(&mut self, summary: &Summary, now: Timestamp) -> io::Result<()>;
}

/// An empty list.
pub fn new(format: Format, out: impl Write + 'static) -> Box<dyn Sheet> {
    let out = BufWriter::new(out);
    match format {
        Format::Table => Box::new(Text::new(out)),
        Format::Json => Box::new(Json::new(out)),
        Format::Prometheus => Box::new(Prometheus::new(out)),
    }
}
