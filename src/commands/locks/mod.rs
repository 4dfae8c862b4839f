//! `tfguard locks`: all locks of tables, buckets and directories; the stale ones among them.
//!
//! `gather` goes through the places and hands each lock to a `sheet`: one of `text` (a table or JSON) or `prometheus`.

use std::io;
use std::io::BufWriter;

use jiff::Timestamp;

use crate::commands::locks::gather::Gatherer;
use crate::commands::locks::prometheus::Prometheus;
use crate::commands::locks::sheet::Sheet;
use crate::commands::locks::text::{Json, Text};
use crate::commands::page::Page;
use crate::commands::{Failure, block_on};
use crate::session::Machine;

mod args;
mod gather;
mod prometheus;
mod sheet;
mod text;

pub use args::{Args, Format};

/// Lists; gives tfguard's exit code.
///
/// # Errors
/// When the list cannot be written.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let machine = Machine::here(|name| std::env::var_os(name));
    let out = BufWriter::new(io::stdout());
    let sheet: Box<dyn Sheet> = match args.format {
        Format::Table => Box::new(Text::new(out, Page::of_stdout())),
        Format::Json => Box::new(Json::new(out)),
        Format::Prometheus => Box::new(Prometheus::new(out)),
    };
    let listed = block_on(Gatherer::new(args, &machine, Timestamp::now(), sheet).gather());
    match listed {
        Ok(summary) => Ok(summary.exit_code(args.fail)),
        // Whoever read the list has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(failure) => Err(failure),
    }
}
