//! A lock in words, for a person who has to decide about it.

use anstyle::Style;
use jiff::Timestamp;

use crate::commands::judged::{JudgedLock, age_in_words};
use crate::commands::page::{Page, WRONG, style_of};
use crate::model::{FoundLock, LockInfo, Sighting};
use crate::text::printable;

/// A lock and its state, a line for each thing that is known of it.
pub fn lock(lock: &JudgedLock, now: Timestamp, page: Page) -> String {
    format!("state {}\n{}", printable(&lock.lock.state), lock_only(lock, now, page))
}

/// The lines of the lock.
pub fn lock_only(lock: &JudgedLock, now: Timestamp, page: Page) -> String {
    let mut text = String::new();
    let mut styled = |name: &str, value: &str, style| text += &page.entry(name, &printable(value), style);
    let verdict = &lock.judged.verdict;
    match (lock.lock.info(), lock.lock.defect()) {
        (Some(info), _) => {
            styled("lock", &info.id, Style::new().bold());
            styled("operation", &format!("{} by version {}", operation(info), info.version), Style::new());
            styled("who", &info.who, Style::new());
        }
        (None, defect) => {
            styled("lock", &format!("none: {}", defect.map_or("it has no ID", |defect| defect.told())), WRONG);
            if let FoundLock::Malformed(content) = &lock.lock.first.seen.lock
                && !content.is_empty()
            {
                styled("content", content, Style::new());
            }
        }
    }
    let mut line = |name: &str, value: &str| styled(name, value, Style::new());
    if let (Some(since), Some(age)) = (lock.since(), lock.age(now)) {
        line("since", &format!("{} ({} ago)", since.strftime("%Y-%m-%d %H:%M:%S UTC"), age_in_words(age)));
    }
    if let Some(holder) = &lock.judged.holder {
        line("run", &holder.to_string());
    }
    styled("verdict", &verdict.to_string(), style_of(verdict));
    let mut line = |name: &str, value: &str| styled(name, value, Style::new());
    for half in lock.lock.halves() {
        line("at", &half.place.to_string());
    }
    for note in lock.noteworthy() {
        line("note", &note);
    }
    text
}

/// What the holder does, in a word: Terraform's `OperationTypeApply` is `apply`.
pub fn operation(info: &LockInfo) -> String {
    info.operation.strip_prefix("OperationType").map_or_else(|| info.operation.clone(), str::to_lowercase)
}

/// The same, in a few words.
pub fn in_a_line(seen: &Sighting) -> String {
    match (&seen.lock, seen.defect()) {
        (FoundLock::Held(info), None) => printable(&format!("lock {} by {} ({})", info.id, info.who, info.operation)),
        (_, defect) => defect.map_or("something without an ID", |defect| defect.told()).to_owned(),
    }
}
