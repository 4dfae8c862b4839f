//! A lock in words, for a person who has to decide about it.

use anstyle::Style;

use crate::commands::judged::JudgedLock;
use crate::commands::page::{Page, WRONG, style_of};
use crate::model::{FoundLock, Sighting};
use crate::report::operation;
use crate::text::{ago, printable};

/// A lock and its state, a line for each thing that is known of it.
pub fn lock(lock: &JudgedLock, page: Page) -> String {
    format!("state {}\n{}", printable(&lock.lock.state), lock_only(lock, page))
}

/// The lines of the lock.
pub fn lock_only(lock: &JudgedLock, page: Page) -> String {
    let mut text = String::new();
    let mut styled = |name: &str, value: &str, style| text += &page.entry(name, &printable(value), style);
    let verdict = &lock.judged.verdict;
    match (lock.lock.info(), lock.lock.defect()) {
        (Some(info), _) => {
            styled("lock", &info.id, Style::new().bold());
            styled("operation", &format!("{} by version {}", operation(&info.operation), info.version), Style::new());
            styled("who", &info.who, Style::new());
        }
        (None, defect) => {
            styled("lock", &format!("none: {}", defect.map_or("it has no ID", |defect| defect.told())), WRONG);
            if let FoundLock::Malformed(content) = &lock.lock.first().seen.lock
                && !content.is_empty()
            {
                styled("content", content, Style::new());
            }
        }
    }
    let mut line = |name: &str, value: &str| styled(name, value, Style::new());
    if let Some(since) = lock.since() {
        line("since", &ago(since, lock.now));
    }
    if let Some(holder) = &lock.judged.holder {
        line("run", &holder.to_string());
    }
    styled("verdict", &verdict.to_string(), style_of(verdict));
    let mut line = |name: &str, value: &str| styled(name, value, Style::new());
    for half in &lock.lock.halves {
        line("at", &half.place.to_string());
    }
    for note in lock.noteworthy() {
        line("note", &note);
    }
    text
}

/// What was seen in its place, in a few words.
pub fn in_a_line(seen: &Sighting) -> String {
    match (&seen.lock, seen.defect()) {
        (FoundLock::Held(info), None) => printable(&format!("lock {} by {} ({})", info.id, info.who, info.operation)),
        (_, defect) => defect.map_or("something without an ID", |defect| defect.told()).to_owned(),
    }
}
