//! GitLab: a section of the job's log.

use crate::report::ci::summary::{Level, Summary};

/// What opens a section of the log around tfguard's own words. `now`: seconds since 1970.
pub fn section_start(summary: &Summary, now: i64) -> Option<String> {
    let first = summary.messages().into_iter().next()?;
    let colour = match first.level {
        Level::Error => "\x1b[31;1m",
        Level::Warning => "\x1b[33;1m",
        Level::Notice => "\x1b[1m",
    };
    let name = section_name(summary);
    let (title, text) = (first.title, first.text);
    Some(format!(
        "\x1b[0Ksection_start:{now}:{name}[collapsed=false]\r\x1b[0K{colour}tfguard: {title}\x1b[0m: {text}\n"
    ))
}

/// What closes it.
pub fn section_end(summary: &Summary, now: i64) -> String {
    format!("\x1b[0Ksection_end:{now}:{}\r\x1b[0K\n", section_name(summary))
}

/// Each run of a job has its own.
fn section_name(summary: &Summary) -> String {
    let allowed = |char: &char| char.is_ascii_alphanumeric() || *char == '-';
    format!("tfguard_{}", summary.session.chars().filter(allowed).collect::<String>())
}
