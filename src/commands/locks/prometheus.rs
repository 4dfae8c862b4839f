//! Prometheus' text format. One family has a sample for each lock, so that it can be written as the locks come.

use std::io::{self, Write};

use jiff::Timestamp;

use super::Summary;
use super::sheet::{Row, Sheet};
use crate::commands::printable;
use crate::lock::LockPlace;

const CREATED: &str = "tfguard_lock_created_timestamp_seconds";

pub struct Prometheus<W> {
    out: W,
    begun: bool,
}

impl<W: Write> Prometheus<W> {
    pub fn new(out: W) -> Self {
        Self { out, begun: false }
    }

    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            family(&mut self.out, CREATED, "When a lock was asked for, by its holder's clock; NaN if it does not say")?;
        }
        Ok(())
    }
}

impl<W: Write> Sheet for Prometheus<W> {
    fn write(&mut self, row: Row) -> io::Result<()> {
        self.begin()?;
        let lock = row.lock;
        let info = lock.lock.info();
        let words: Vec<_> = row.stale.iter().map(|stale| stale.word()).collect();
        let run = lock.judged.holder.as_ref().and_then(|holder| holder.ci.as_ref()).and_then(|run| run.url.as_deref());
        let labels = labels(&[
            ("state", &lock.lock.state),
            ("id", lock.lock.id().unwrap_or_default()),
            ("operation", info.map_or("", |info| &info.operation)),
            ("who", info.map_or("", |info| &info.who)),
            ("run", run.unwrap_or_default()),
            ("verdict", lock.judged.verdict.word()),
            ("stale", &words.join(",")),
            // Something without an ID can lie at both places of one state.
            ("place", &store_of(&lock.lock.first.place)),
        ]);
        match lock.since() {
            Some(since) => writeln!(self.out, "{CREATED}{labels} {}", since.as_second()),
            None => writeln!(self.out, "{CREATED}{labels} NaN"),
        }
    }

    fn end(&mut self, summary: &Summary, now: Timestamp) -> io::Result<()> {
        self.begin()?;
        let out = &mut self.out;
        family(out, "tfguard_locks", "Locks, by whether their holder is proven to be alive or dead")?;
        for (verdict, count) in [("alive", summary.alive), ("dead", summary.dead), ("unknown", summary.unknown)] {
            writeln!(out, "tfguard_locks{} {count}", labels(&[("verdict", verdict)]))?;
        }
        family(out, "tfguard_stale_locks", "Locks that are stale")?;
        writeln!(out, "tfguard_stale_locks {}", summary.stale)?;
        family(out, "tfguard_place_up", "Whether a table, bucket or directory could be read to its end")?;
        for place in &summary.places {
            let up = u8::from(place.error.is_none());
            writeln!(out, "tfguard_place_up{} {up}", labels(&[("place", &place.place)]))?;
        }
        family(out, "tfguard_locks_timestamp_seconds", "When this was looked at")?;
        writeln!(out, "tfguard_locks_timestamp_seconds {}", now.as_second())?;
        out.flush()
    }
}

fn family(out: &mut impl Write, name: &str, help: &str) -> io::Result<()> {
    writeln!(out, "# HELP {name} {help}.\n# TYPE {name} gauge")
}

fn store_of(place: &LockPlace) -> String {
    match place {
        LockPlace::DynamoDb { table, .. } => format!("dynamodb:{table}"),
        LockPlace::Lockfile { bucket, .. } => format!("s3:{bucket}"),
    }
}

/// Label values are foreign texts: what would end them, or steer whoever looks at them, does not get through.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| printable(value).replace('\\', "\\\\").replace('"', "\\\"");
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever somebody writes into a lock, it stays one value of one label on one line.
        #[test]
        fn a_value_cannot_end_its_label(text in any::<String>()) {
            let written = labels(&[("who", &text)]);
            let inner = written.strip_prefix("{who=\"").and_then(|rest| rest.strip_suffix("\"}")).unwrap();
            let mut escaped = false;
            for char in inner.chars() {
                prop_assert!(!char.is_control());
                prop_assert!(escaped || char != '"');
                prop_assert!(!escaped || matches!(char, '"' | '\\'));
                escaped = !escaped && char == '\\';
            }
            prop_assert!(!escaped);
        }
    }
}
