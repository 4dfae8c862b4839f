//! One JSON document, written as the locks come.

use std::io::{self, Write};

use jiff::Timestamp;

use crate::commands::locks::sheet::{Row, Sheet};
use crate::commands::locks::summary::Summary;
use crate::commands::output::to_json;

/// The version of this format.
const SCHEMA: u32 = 1;

pub struct Json<W> {
    out: W,
    begun: bool,
}

impl<W: Write> Json<W> {
    pub fn new(out: W) -> Self {
        Self { out, begun: false }
    }

    fn begin(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        write!(self.out, "{{\"schema\":{SCHEMA},\"locks\":[")
    }
}

impl<W: Write> Sheet for Json<W> {
    fn write(&mut self, row: Row) -> io::Result<()> {
        let separator = if self.begun { ",\n" } else { "\n" };
        self.begin()?;
        self.out.write_all(separator.as_bytes())?;
        self.out.write_all(to_json(&row.lock.view(row.older_than, row.now))?.as_bytes())
    }

    fn end(&mut self, summary: &Summary, now: Timestamp) -> io::Result<()> {
        self.begin()?;
        writeln!(self.out, "\n],\"looked_at\":\"{now}\",\"summary\":{}}}", to_json(summary)?)?;
        self.out.flush()
    }
}
