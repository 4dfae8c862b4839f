//! A table for people: the oldest first, as far as that can be done without holding all.

use std::io;
use std::io::Write;
use std::time::Duration;

use anstyle::Style;
use jiff::Timestamp;

use crate::commands::describe::operation;
use crate::commands::judged::age_in_words;
use crate::commands::locks::sheet::{Row, Sheet, Summary};
use crate::commands::page::{Page, WRONG, style_of};
use crate::commands::to_json;
use crate::text::printable;

/// So many locks are sorted and aligned together.
const TOGETHER: usize = 1000;
/// A cell that is wider sticks out, so that one long name does not push all else away.
const WIDEST: usize = 80;
/// The narrowest a column becomes on a narrow terminal.
const NARROWEST: usize = 12;
const COLUMNS: [&str; 6] = ["STATE", "AGE", "OPERATION", "VERDICT", "LOCK ID", "HOLDER"];
const VERDICT: usize = 3;
const ID: usize = 4;
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
    fn all_columns(&self) -> Vec<String> {
        let mut cells = self.cells.to_vec();
        let who = cells.pop().into_iter().filter(|who| !who.is_empty());
        cells.push(who.chain(self.run.clone()).collect::<Vec<_>>().join(" "));
        cells
    }

    /// Without the ID, which is on a line of its own, to be copied.
    fn some_columns(&self) -> Vec<String> {
        let mut cells = self.cells.to_vec();
        cells.remove(ID);
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
        let mut rows: Vec<_> = lines.iter().map(Line::all_columns).collect();
        let mut widths = widths(&heading, &rows);
        let is_first = self.narrow.is_none();
        let is_too_wide = |width| total(&widths) > width;
        let narrow = *self.narrow.get_or_insert_with(|| page.width.is_some_and(is_too_wide));
        if narrow {
            heading.remove(ID);
            rows = lines.iter().map(Line::some_columns).collect();
            widths = self::widths(&heading, &rows);
            shrink(&mut widths, page.width.unwrap_or(usize::MAX));
        }
        if is_first {
            let heading = aligned(heading, &widths).join(GAP);
            writeln!(self.out, "{}", page.paint(Style::new().bold(), heading.trim_end()))?;
        }
        for (line, mut row) in lines.iter().zip(rows) {
            if narrow {
                cut(&mut row, &widths);
            }
            let mut row = aligned(row, &widths);
            row[VERDICT] = page.paint(line.style, &row[VERDICT]);
            writeln!(self.out, "{}", row.join(GAP).trim_end())?;
            if narrow {
                writeln!(self.out, "    lock {}", line.cells[ID])?;
                line.run.iter().try_for_each(|run| writeln!(self.out, "    run {run}"))?;
            }
            for note in &line.notes {
                writeln!(self.out, "    {}", page.wrapped(4, note))?;
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

/// Makes the columns fit: the first and the last, of states and holders, give what is missing.
fn shrink(widths: &mut [usize], width: usize) {
    let last = widths.len() - 1;
    let missing = |widths: &[usize]| total(widths).saturating_sub(width);
    widths[last] = widths[last].saturating_sub(missing(widths)).max(NARROWEST.min(widths[last]));
    widths[0] = widths[0].saturating_sub(missing(widths)).max(NARROWEST.min(widths[0]));
}

/// Cuts what is too wide: a state at its beginning, since its end tells it from others.
fn cut(row: &mut [String], widths: &[usize]) {
    for (column, (cell, width)) in row.iter_mut().zip(widths).enumerate() {
        let length = cell.chars().count();
        if length <= *width {
            continue;
        }
        let keep = width.saturating_sub(1);
        *cell = match column {
            0 => ['…'].into_iter().chain(cell.chars().skip(length - keep)).collect(),
            _ => cell.chars().take(keep).chain(['…']).collect(),
        };
    }
}

fn aligned(row: Vec<String>, widths: &[usize]) -> Vec<String> {
    row.into_iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect()
}

impl<W: Write> Sheet for Text<W> {
    fn write(&mut self, row: Row) -> io::Result<()> {
        let judged = &row.lock.judged;
        let lock = &row.lock.lock;
        let age = row.lock.age(row.now);
        let info = lock.info();
        let run = judged.holder.as_ref().and_then(|holder| holder.ci.as_ref()).and_then(|run| run.url.as_deref());
        let (verdict, style) = match lock.defect() {
            Some(defect) => (defect.word(), WRONG),
            None => (judged.verdict.word(), style_of(&judged.verdict)),
        };
        let cells = [
            lock.state.clone(),
            age.map_or_else(|| "?".to_owned(), age_in_words),
            info.map_or_else(|| "?".to_owned(), operation),
            verdict.to_owned(),
            lock.id().unwrap_or("none").to_owned(),
            info.map_or_else(String::new, |info| info.who.trim().to_owned()),
        ];
        let mut notes = Vec::new();
        if !row.stale.is_empty() {
            notes.push(format!("stale ({}): {}", row.stale.join(", "), judged.verdict.why()));
        }
        notes.extend(row.lock.noteworthy());
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
        assert_eq!(lines[1], "…/terraform.tfstate  3d 2h  apply      unknown  runner@buil…", "{narrow}");
        assert_eq!(lines[2..4], ["    lock 4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "    run https://ci/1"], "{narrow}");
        assert!(lines[5].starts_with("    "), "a note goes on below itself: {narrow}");
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
