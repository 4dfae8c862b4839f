//! A lock in words, for a person who has to decide about it.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::commands::judged::{JudgedLock, age_in_words};
use crate::model::{FoundLock, Sighting};
use crate::text::printable;

/// A lock and its state, a line for each thing that is known of it.
pub fn lock(lock: &JudgedLock, now: Timestamp) -> String {
    format!("state {}\n{}", printable(&lock.lock.state), lock_only(lock, now))
}

/// The lines of the lock.
pub fn lock_only(lock: &JudgedLock, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<11} {}", printable(value));
    };
    match (lock.lock.info(), lock.lock.defect()) {
        (Some(info), _) => {
            line("lock", &info.id);
            line("operation", &format!("{} by version {}", info.operation, info.version));
            line("who", &info.who);
        }
        (None, defect) => {
            line("lock", &format!("none: {}", defect.map_or("it has no ID", |defect| defect.told())));
            if let FoundLock::Malformed(content) = &lock.lock.first.seen.lock
                && !content.is_empty()
            {
                line("content", content);
            }
        }
    }
    if let (Some(since), Some(age)) = (lock.since(), lock.age(now)) {
        line("since", &format!("{} ({} ago)", since.strftime("%Y-%m-%d %H:%M:%S UTC"), age_in_words(age)));
    }
    if let Some(holder) = &lock.judged.holder {
        line("run", &holder.to_string());
    }
    line("verdict", &lock.judged.verdict.to_string());
    for half in lock.lock.halves() {
        line("at", &half.place.to_string());
    }
    for note in lock.noteworthy() {
        line("note", &note);
    }
    text
}

/// The same, in a few words.
pub fn in_a_line(seen: &Sighting) -> String {
    match (&seen.lock, seen.defect()) {
        (FoundLock::Held(info), None) => printable(&format!("lock {} by {} ({})", info.id, info.who, info.operation)),
        (_, defect) => defect.map_or("something without an ID", |defect| defect.told()).to_owned(),
    }
}
