//! A table for people: the oldest first, as far as that can be done without holding all.

use std::io;
use std::io::Write;
use std::time::Duration;

use anstyle::Style;
use jiff::Timestamp;

use crate::commands::judged::JudgedLock;
use crate::commands::locks::{ListWriter, Summary};
use crate::commands::page::{Page, WRONG, style_of};
use crate::commands::to_json;
use crate::report::operation;
use crate::text::{age_in_words, printable};

/// So many locks are sorted and aligned together.
const TOGETHER: usize = 1000;
/// A cell that is wider sticks out, so that one long name does not push all else away.
const WIDEST: usize = 80;
/// The narrowest that the states become on a narrow terminal.
const NARROWEST: usize = 12;
const COLUMNS: [&str; 6] = ["STATE", "AGE", "OPERATION", "VERDICT", "LOCK ID", "HOLDER"];
const VERDICT: usize = 3;
/// What is on lines of its own on a narrow terminal, to be copied.
const ID: usize = 4;
const HOLDER: usize = 5;
const GAP: &str = "  ";

pub struct Text<W> {
    out: W,
    page: Page,
    lines: Vec<Line>,
    /// Whether the page is too narrow for all columns. The first lines decide.
    narrow: Option<bool>,
}

struct Line {
    age: Option<Duration>,
    cells: [String; 6],
    /// A link to the holder's run.
    run: Option<String>,
    style: Style,
    notes: Vec<String>,
}

impl Line {
    fn row(&self) -> Vec<String> {
        let mut cells = self.cells.to_vec();
        let holder = [Some(&self.cells[HOLDER]).filter(|who| !who.is_empty()), self.run.as_ref()];
        cells[HOLDER] = holder.into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        cells
    }
}

impl<W: Write> Text<W> {
    pub fn new(out: W, page: Page) -> Self {
        Self { out, page, lines: Vec::new(), narrow: None }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut lines = std::mem::take(&mut self.lines);
        // What does not tell its age is not a lock, and comes first.
        lines.sort_by_key(|line| std::cmp::Reverse(line.age.unwrap_or(Duration::MAX)));
        let page = self.page;
        let mut heading = COLUMNS.map(str::to_owned).to_vec();
        let mut rows: Vec<_> = lines.iter().map(Line::row).collect();
        let mut widths = widths(&heading, &rows);
        let is_first = self.narrow.is_none();
        let width = page.width.unwrap_or(usize::MAX);
        let narrow = *self.narrow.get_or_insert(total(&widths) > width);
        if narrow {
            for row in rows.iter_mut().chain([&mut heading]) {
                row.truncate(ID);
            }
            widths.truncate(ID);
            widths[0] = widths[0].saturating_sub(total(&widths).saturating_sub(width)).max(NARROWEST.min(widths[0]));
        }
        if is_first {
            let heading = aligned(heading, &widths).join(GAP);
            writeln!(self.out, "{}", page.paint(Style::new().bold(), heading.trim_end()))?;
        }
        for (line, mut row) in lines.iter().zip(rows) {
            if narrow {
                row[0] = the_end_of(&row[0], widths[0]);
            }
            let mut row = aligned(row, &widths);
            row[VERDICT] = page.paint(line.style, &row[VERDICT]);
            writeln!(self.out, "{}", row.join(GAP).trim_end())?;
            let mut below = Vec::new();
            if narrow {
                let [.., id, who] = &line.cells;
                below.push(format!("lock {id}"));
                below.extend((!who.is_empty()).then(|| format!("by {who}")));
                below.extend(line.run.iter().map(|run| format!("run {run}")));
            }
            for text in below.iter().chain(&line.notes) {
                writeln!(self.out, "    {}", page.wrapped(4, text))?;
            }
        }
        self.out.flush()
    }
}

fn widths(heading: &[String], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count().min(WIDEST));
        cells.chain([heading[column].chars().count()]).max().unwrap_or_default()
    };
    (0..heading.len()).map(width).collect()
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1)
}

/// A state that is cut at its beginning, since its end tells it from others.
fn the_end_of(state: &str, width: usize) -> String {
    match state.chars().count() {
        length if length <= width => state.to_owned(),
        length => std::iter::once('…').chain(state.chars().skip(length + 1 - width)).collect(),
    }
}

fn aligned(row: Vec<String>, widths: &[usize]) -> Vec<String> {
    row.into_iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect()
}

impl<W: Write> ListWriter for Text<W> {
    fn write(&mut self, lock: &JudgedLock) -> io::Result<()> {
        let (judged, age, stale, run) = (&lock.judged, lock.age(), lock.stale(), lock.run_page());
        let mut notes = Vec::new();
        if !stale.is_empty() {
            notes.push(format!("stale ({}): {}", stale.join(", "), judged.verdict.why()));
        }
        notes.extend(lock.noteworthy());
        let lock = &lock.lock;
        let info = lock.info();
        let (verdict, style) = match lock.held() {
            Err(defect) => (defect.word(), WRONG),
            Ok(_) => (judged.verdict.word(), style_of(&judged.verdict)),
        };
        let cells = [
            lock.state.clone(),
            age.map_or_else(|| "?".to_owned(), age_in_words),
            info.map_or_else(|| "?".to_owned(), |info| operation(&info.operation)),
            verdict.to_owned(),
            lock.id().unwrap_or("none").to_owned(),
            info.map_or_else(String::new, |info| info.who.trim().to_owned()),
        ];
        let notes = notes.iter().map(|note| printable(note)).collect();
        let cells = cells.map(|cell| printable(&cell));
        self.lines.push(Line { age, cells, run: run.map(printable), style, notes });
        if self.lines.len() >= TOGETHER { self.flush() } else { Ok(()) }
    }

    fn end(&mut self, summary: &Summary, _: Timestamp) -> io::Result<()> {
        if !self.lines.is_empty() {
            self.flush()?;
        }
        writeln!(self.out, "{}", summary.in_words())?;
        self.out.flush()
    }
}

/// The version of this format.
const SCHEMA: u32 = 1;

pub struct Json<W> {
    out: W,
    /// What stands before the next lock.
    separator: &'static str,
}

impl<W: Write> Json<W> {
    /// Begins the document.
    pub fn new(mut out: W) -> io::Result<Self> {
        write!(out, "{{\"schema\":{SCHEMA},\"locks\":[")?;
        Ok(Self { out, separator: "\n" })
    }
}

impl<W: Write> ListWriter for Json<W> {
    fn write(&mut self, lock: &JudgedLock) -> io::Result<()> {
        write!(self.out, "{}{}", self.separator, to_json(&lock.view())?)?;
        self.separator = ",\n";
        Ok(())
    }

    fn end(&mut self, summary: &Summary, now: Timestamp) -> io::Result<()> {
        writeln!(self.out, "\n],\"looked_at\":\"{now}\",\"summary\":{}}}", to_json(summary)?)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(width: Option<usize>) -> String {
        let mut out = Vec::new();
        let mut text = Text::new(&mut out, Page { width, coloured: false });
        let id = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";
        for (state, who) in
            [("states/network/production/terraform.tfstate", "runner@build-7f9c4-abcdef"), ("s/k", "a@b")]
        {
            let cells = [state, "3d 2h", "apply", "unknown", id, who].map(str::to_owned);
            let notes = vec!["it ran on build-7, which is another machine, or this one before a restart".to_owned()];
            let run = Some("https://ci/1".to_owned());
            text.lines.push(Line { age: None, cells, run, style: Style::new(), notes });
        }
        text.flush().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_narrow_terminal_gets_lines_that_fit_and_ids_that_can_be_copied() {
        let narrow = shown(Some(60));
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        let lines: Vec<_> = narrow.lines().collect();
        assert_eq!(lines[1], "…ork/production/terraform.tfstate  3d 2h  apply      unknown", "{narrow}");
        let below = ["lock 4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "by runner@build-7f9c4-abcdef", "run https://ci/1"];
        assert_eq!(lines[2..5], below.map(|line| format!("    {line}")), "{narrow}");
        assert!(lines[6].starts_with("    "), "a note goes on below itself: {narrow}");
    }

    #[test]
    fn a_pipe_and_a_wide_terminal_get_all_of_it_in_a_line() {
        for width in [None, Some(200)] {
            let wide = shown(width);
            let whole = "states/network/production/terraform.tfstate  3d 2h  apply      unknown  \
                         4bb7d84c-f09d-7909-0219-02f6e8d9eeb4  runner@build-7f9c4-abcdef https://ci/1";
            assert_eq!(wide.lines().nth(1), Some(whole), "{wide}");
            assert_eq!(wide.lines().count(), 5, "{wide}");
        }
    }
}
