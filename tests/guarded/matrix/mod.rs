//! The matrix: each version of Terraform and OpenTofu that can be had, with each kind of lock, in everything that can happen to
//! it. `docs/compatibility.md` is written by it.
//!
//! ```text
//! TFGUARD_TEST_TOOLS=all cargo test --locked --test tfguard -- --ignored matrix
//! TFGUARD_TEST_MATRIX='OpenTofu 1.12' cargo test --locked --test tfguard -- --ignored --nocapture matrix
//! ```
//!
//! The second one tries only the rows, or cells, with these words in their names (several sets of words are parted by `;`),
//! and writes nothing. `real_programs` tries the same cells, but for the slow ones, on what was built for the CI.

mod case;
pub mod cells;
mod commands;
mod document;
mod stores;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use super::*;
pub use case::Case;
use document::{Cell, Row, Seen};
use stores::Store;

/// What is tried, in the order of the table.
const COLUMNS: [Column; 10] = [
    Column { name: "child killed", try_it: cells::killed },
    Column { name: "stopped gracefully", try_it: cells::stopped },
    Column { name: "cannot stop", try_it: cells::cannot_stop },
    Column { name: "everything killed, then `release`", try_it: cells::everything_killed },
    Column { name: "foreign lock before", try_it: cells::foreign_before },
    Column { name: "foreign lock swapped in", try_it: cells::foreign_swapped_in },
    Column { name: "below a script", try_it: cells::below_a_script },
    Column { name: "plan file", try_it: cells::plan_file },
    Column { name: "both programs on `PATH`", try_it: cells::both_on_path },
    Column { name: "every command that locks", try_it: commands::every_command },
];

/// How many are tried at once. Most of the time they wait.
const WORKERS: usize = 6;

/// A column of the table.
#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    try_it: fn(&Case) -> String,
}

#[test]
#[ignore = "the whole matrix takes half an hour; see docs/compatibility.md"]
fn matrix() {
    let only = std::env::var("TFGUARD_TEST_MATRIX").ok().filter(|only| !only.is_empty());
    let stores = Store::all();
    let rows = Case::all().into_iter().map(|case| Row::new("moto", case));
    let others = stores.iter().flat_map(|store| store.cases().into_iter().map(|case| Row::new(&store.name, case)));
    let mut rows: Vec<Row> = rows.chain(others).collect();

    let wanted = |row: &Row, column: &Column| {
        let is_tried = match &*row.store {
            "moto" => !row.case.is_before_1_0() || column.name == "child killed",
            // What a store answers doesn't depend on what else the program does.
            _ => {
                column.name == "child killed"
                    || column.name == "cannot stop"
                    || column.name.contains("foreign")
                    || column.name.starts_with("everything")
            }
        };
        let name = format!("{} {} {}", row.case, row.store, column.name);
        let fits = |words: &str| words.split(' ').all(|word| name.contains(word));
        is_tried && only.as_ref().is_none_or(|only| only.split(';').any(fits))
    };
    let mut tasks = Vec::new();
    // Taken from the end, so the longest come first.
    for (number, row) in rows.iter().enumerate() {
        tasks.extend(COLUMNS.into_iter().filter(|column| wanted(row, column)).map(|column| (number, column)));
    }
    tasks.sort_by_key(|(_, column)| COLUMNS.iter().position(|other| other.name == column.name));
    let (tasks, seen) = (Mutex::new(tasks), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((number, column)) = { tasks.lock().unwrap().pop() } {
                    let case = &rows[number].case;
                    let tried = catch_unwind(AssertUnwindSafe(|| (column.try_it)(case))).map_err(cells::message);
                    document::tell(&rows[number], column.name, &tried);
                    seen.lock().unwrap().push((number, Cell { column: column.name, seen: Seen::of(tried) }));
                }
            });
        }
    });
    for (number, cell) in seen.into_inner().unwrap() {
        rows[number].cells.push(cell);
    }
    rows.retain(|row| !row.cells.is_empty());
    assert!(!rows.is_empty(), "nothing has these words in its name");

    let columns = COLUMNS.map(|column| column.name);
    let document = document::write(&columns, &rows);
    document::print(&document);
    if only.is_none() && std::env::var("TFGUARD_TEST_TOOLS").is_ok_and(|tools| tools == "all") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
        std::fs::write(path, document).expect("the document can be written");
    }
    let short = rows.iter().flat_map(|row| &row.cells).filter(|cell| !cell.seen.is_kept).count();
    assert_eq!(short, 0, "{short} cells fall short of what is promised; what was seen is above");
}
