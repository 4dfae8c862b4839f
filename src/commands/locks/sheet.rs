//! What a list is written to, whatever it looks like.

use std::io;
use std::time::Duration;

use jiff::Timestamp;

use crate::commands::judged::JudgedLock;
use crate::exit;

/// A lock on its way to the list.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub lock: &'a JudgedLock,
    /// Why it is stale.
    pub stale: &'a [&'static str],
    /// The age from which on it would be.
    pub older_than: Option<Duration>,
    /// The time at which was looked.
    pub now: Timestamp,
}

/// A table as a label.
pub fn store_of_table(table: &str) -> String {
    format!("dynamodb:{table}")
}

/// A bucket as a label, whichever part of it was looked at.
pub fn store_of_bucket(bucket: &str) -> String {
    format!("s3:{bucket}")
}

/// Something that a list is written to, lock by lock.
pub trait Sheet {
    /// Writes a lock, or keeps it for a while.
    fn write(&mut self, row: Row) -> io::Result<()>;

    /// Writes what is left, and the end.
    fn end(&mut self, summary: &Summary, now: Timestamp) -> io::Result<()>;
}

/// What was found, in numbers.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Summary {
    /// All locks.
    pub locks: usize,
    /// Those that are stale.
    pub stale: usize,
    /// Those whose holder is alive, dead, and neither for sure.
    pub alive: usize,
    /// See [`Self::alive`].
    pub dead: usize,
    /// See [`Self::alive`].
    pub unknown: usize,
    /// Locks whose state object was not asked about, because there are so many.
    pub state_not_asked: usize,
    /// Where was looked.
    pub places: Vec<Looked>,
}

/// A place where was looked.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Looked {
    /// The place, in words.
    pub place: String,
    /// The same as a label of a metric, which locks in it have, too.
    #[serde(skip)]
    pub label: String,
    /// Why it could not be read, or not all of it. None if it was.
    pub error: Option<String>,
}

impl Summary {
    /// The sums, for people. What was not read is never called free of locks.
    pub(crate) fn in_words(&self) -> String {
        let unread: Vec<_> = self.places.iter().filter(|place| place.error.is_some()).collect();
        let all = self.places.len();
        let unread = match unread[..] {
            [] => None,
            [only] => Some(format!("could not read {}", only.place)),
            _ => Some(format!("could not read {} of {all} places", unread.len())),
        };
        let plural = if self.locks == 1 { "lock" } else { "locks" };
        let found = match (self.locks, &unread) {
            (0, None) => Some("no locks".to_owned()),
            (0, Some(_)) => None,
            (locks, _) => Some(format!(
                "{locks} {plural}, {} stale; holders: {} alive, {} dead, {} unknown",
                self.stale, self.alive, self.dead, self.unknown
            )),
        };
        found.into_iter().chain(unread).collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn exit_code(&self, fail: bool) -> u8 {
        if fail && self.stale > 0 {
            exit::STALE_LOCK
        } else if self.places.iter().any(|place| place.error.is_some()) {
            exit::TFGUARD_FAILED
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_lock_is_told_before_a_place_that_could_not_be_read() {
        let summary = |stale, error: Option<&str>| {
            let place = Looked { place: "table t".to_owned(), label: String::new(), error: error.map(str::to_owned) };
            Summary { stale, places: vec![place], ..Summary::default() }
        };
        for (stale, error, fail, code) in [
            (0, None, true, 0),
            (1, None, false, 0),
            (1, None, true, 122),
            (0, Some("denied"), true, 125),
            (1, Some("denied"), true, 122),
            (1, Some("denied"), false, 125),
        ] {
            assert_eq!(summary(stale, error).exit_code(fail), code, "{stale} {error:?} {fail}");
        }
    }
}
