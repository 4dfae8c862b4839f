//! A table for people: the oldest first, as far as that can be done without holding all.

use std::fmt::Write as _;
use std::io;
use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;

use crate::commands::judged::age_in_words;
use crate::commands::locks::sheet::{Row, Sheet, Summary};
use crate::commands::to_json;
use crate::text::printable;

/// So many locks are sorted and aligned together.
const TOGETHER: usize = 1000;
/// A cell that is wider sticks out, so that one long name does not push all else away.
const WIDEST: usize = 80;
const COLUMNS: [&str; 6] = ["STATE", "AGE", "OPERATION", "VERDICT", "LOCK ID", "HOLDER"];

pub struct Text<W> {
    out: W,
    lines: Vec<Line>,
    begun: bool,
}

struct Line {
    age: Option<Duration>,
    cells: [String; 6],
    notes: Vec<String>,
}

impl<W: Write> Text<W> {
    pub fn new(out: W) -> Self {
        Self { out, lines: Vec::new(), begun: false }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut lines = std::mem::take(&mut self.lines);
        // What does not tell its age is no lock, and comes first.
        lines.sort_by_key(|line| std::cmp::Reverse(line.age.unwrap_or(Duration::MAX)));
        let heading = (!std::mem::replace(&mut self.begun, true)).then_some(COLUMNS.map(str::to_owned));
        let mut widths = COLUMNS.map(|name| name.chars().count());
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(&line.cells) {
                *width = (*width).max(cell.chars().count().min(WIDEST));
            }
        }
        let row = |cells: &[String; 6]| {
            let mut text = String::new();
            for (width, cell) in widths.iter().zip(cells) {
                let _ = write!(text, "{cell:width$}  ");
            }
            text.truncate(text.trim_end().len());
            text
        };
        if let Some(heading) = heading {
            writeln!(self.out, "{}", row(&heading))?;
        }
        for line in &lines {
            writeln!(self.out, "{}", row(&line.cells))?;
            for note in &line.notes {
                writeln!(self.out, "    {note}")?;
            }
        }
        self.out.flush()
    }
}

impl<W: Write> Sheet for Text<W> {
    fn write(&mut self, row: Row) -> io::Result<()> {
        let judged = &row.lock.judged;
        let lock = &row.lock.lock;
        let age = row.lock.age(row.now);
        let info = lock.info();
        let run = judged.holder.as_ref().and_then(|holder| holder.ci.as_ref()).and_then(|run| run.url.as_deref());
        let who = info.map_or("", |info| &info.who);
        let cells = [
            lock.state.clone(),
            age.map_or_else(|| "?".to_owned(), age_in_words),
            info.map_or_else(|| "?".to_owned(), |info| info.operation.clone()),
            lock.defect().map_or_else(|| judged.verdict.word().to_owned(), |defect| defect.word().to_owned()),
            lock.id().unwrap_or("none").to_owned(),
            [who, run.unwrap_or_default()].join(" ").trim().to_owned(),
        ];
        let mut notes = Vec::new();
        if !row.stale.is_empty() {
            notes.push(format!("stale ({}): {}", row.stale.join(", "), judged.verdict.why()));
        }
        notes.extend(row.lock.noteworthy());
        let notes = notes.iter().map(|note| printable(note)).collect();
        self.lines.push(Line { age, cells: cells.map(|cell| printable(&cell)), notes });
        if self.lines.len() >= TOGETHER { self.flush() } else { Ok(()) }
    }

    fn end(&mut self, summary: &Summary, _: Timestamp) -> io::Result<()> {
        if !self.lines.is_empty() {
            self.flush()?;
        }
        let unread = match summary.places.iter().filter(|place| place.error.is_some()).count() {
            0 => String::new(),
            count => format!("; {count} of {} places NOT read", summary.places.len()),
        };
        if summary.locks == 0 {
            writeln!(self.out, "no locks{unread}")?;
        } else {
            writeln!(
                self.out,
                "{} {}, {} stale; holders: {} alive, {} dead, {} unknown{unread}",
                summary.locks,
                if summary.locks == 1 { "lock" } else { "locks" },
                summary.stale,
                summary.alive,
                summary.dead,
                summary.unknown
            )?;
        }
        self.out.flush()
    }
}

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
