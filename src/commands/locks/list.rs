//! From the options to the list.

use std::io;

use jiff::Timestamp;

use crate::commands::locks::args::Args;
use crate::commands::locks::gather::Gatherer;
use crate::commands::locks::sheet;
use crate::commands::{Failure, block_on};
use crate::session::Machine;

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
