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
    let plain = Style::new();
    let verdict = &lock.judged.verdict;
    let mut entries = match lock.lock.held() {
        Ok(info) => vec![
            ("lock", info.id.clone(), plain.bold()),
            ("operation", format!("{} by version {}", operation(&info.operation), info.version), plain),
            ("who", info.who.clone(), plain),
        ],
        Err(defect) => vec![("lock", format!("none: {}", defect.told()), WRONG)],
    };
    if let FoundLock::Malformed(content) = &lock.lock.first().seen.lock
        && !content.is_empty()
    {
        entries.push(("content", content.clone(), plain));
    }
    entries.extend(lock.since().map(|since| ("since", ago(since, lock.now), plain)));
    entries.extend(lock.judged.holder.as_ref().map(|holder| ("run", holder.to_string(), plain)));
    entries.push(("verdict", verdict.to_string(), style_of(verdict)));
    entries.extend(lock.lock.halves.iter().map(|half| ("at", half.place.to_string(), plain)));
    entries.extend(lock.noteworthy().into_iter().map(|note| ("note", note, plain)));
    entries.iter().map(|(name, value, style)| page.entry(name, &printable(value), *style)).collect()
}

/// What was seen in its place, in a few words.
pub fn in_a_line(seen: &Sighting) -> String {
    match seen.held() {
        Ok(info) => printable(&format!("lock {} by {} ({})", info.id, info.who, info.operation)),
        Err(defect) => defect.told().to_owned(),
    }
}
