//! Prometheus' text format. One family has a sample for each lock, so that it can be written as the locks come.
//!
//! No two samples may have the same labels: a scraper then refuses all of them.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write};

use jiff::Timestamp;

use crate::commands::judged::JudgedLock;
use crate::commands::locks::{ListWriter, Summary, store_of_bucket, store_of_table};
use crate::model::LockPlace;
use crate::text::{shortened, with_escapes};

const CREATED: &str = "tfguard_lock_created_timestamp_seconds";
/// Of a label that others wrote, in characters.
const LONGEST: usize = 512;

pub struct Prometheus<W> {
    out: W,
    /// The labels that were written: their hashes, because there can be many.
    written: HashSet<u64>,
    hasher: RandomState,
}

impl<W: Write> Prometheus<W> {
    /// Begins the family of the locks.
    pub fn new(mut out: W) -> io::Result<Self> {
        family(&mut out, CREATED, "When a lock was asked for, by its holder's clock; NaN if it does not say")?;
        Ok(Self { out, written: HashSet::new(), hasher: RandomState::new() })
    }
}

impl<W: Write> ListWriter for Prometheus<W> {
    fn write(&mut self, lock: &JudgedLock) -> io::Result<()> {
        let info = lock.lock.info();
        // Of the foreign texts, their store bounds only the first and the last.
        let labels = labels(&[
            ("state", &lock.lock.state),
            ("id", &shortened(lock.lock.id().unwrap_or_default(), LONGEST)),
            ("operation", &shortened(info.map_or("", |info| &info.operation), LONGEST)),
            ("who", &shortened(info.map_or("", |info| &info.who), LONGEST)),
            ("run", &shortened(lock.run_page().unwrap_or_default(), LONGEST)),
            ("verdict", lock.judged.verdict.word()),
            ("stale", &lock.stale().join(",")),
            // Something without an ID can lie at both places of one state.
            ("place", &store_of(&lock.lock.first().place)),
        ]);
        // The same names at two endpoints.
        if !self.written.insert(self.hasher.hash_one(&labels)) {
            return Ok(());
        }
        match lock.since() {
            Some(since) => writeln!(self.out, "{CREATED}{labels} {}", since.as_second()),
            None => writeln!(self.out, "{CREATED}{labels} NaN"),
        }
    }

    fn end(&mut self, summary: &Summary, now: Timestamp) -> io::Result<()> {
        let out = &mut self.out;
        family(out, "tfguard_locks", "Locks, by whether their holder is proven to be alive or dead")?;
        for (verdict, count) in [("alive", summary.alive), ("dead", summary.dead), ("unknown", summary.unknown)] {
            writeln!(out, "tfguard_locks{} {count}", labels(&[("verdict", verdict)]))?;
        }
        family(out, "tfguard_stale_locks", "Locks that are stale")?;
        writeln!(out, "tfguard_stale_locks {}", summary.stale)?;
        family(out, "tfguard_place_up", "Whether a table, bucket or directory could be read to its end")?;
        // Names of directories that are no text can look the same.
        let mut places = BTreeMap::new();
        for place in &summary.places {
            *places.entry(labels(&[("place", &place.label)])).or_insert(true) &= place.error.is_none();
        }
        for (labels, up) in places {
            writeln!(out, "tfguard_place_up{labels} {}", u8::from(up))?;
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
        LockPlace::DynamoDb { table, .. } => store_of_table(table),
        LockPlace::Lockfile { bucket, .. } => store_of_bucket(bucket),
    }
}

/// Label values are foreign texts: what would end them, or steer whoever looks at them, does not get through, and no two
/// become the same.
fn labels(pairs: &[(&str, &str)]) -> String {
    let value = |text: &str| with_escapes(&text.replace("\\u", "\\u005cu")).replace('\\', "\\\\").replace('"', "\\\"");
    let pairs: Vec<_> = pairs.iter().map(|(name, text)| format!("{name}=\"{}\"", value(text))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::commands::judged::HalfSeen;
    use crate::commands::judged::SeenLock;
    use crate::commands::locks::Looked;
    use crate::model::Liveness;
    use crate::model::Sighting;
    use crate::session::Judged;
    use crate::text::harmless;

    /// Reads labels as the format has them: `name="value"`, in which `\\`, `\"` and `\n` are escaped.
    fn read(labels: &str) -> Option<Vec<(String, String)>> {
        let mut rest = labels.strip_prefix('{')?.strip_suffix('}')?;
        let mut pairs = Vec::new();
        while !rest.is_empty() {
            let (name, value) = rest.split_once("=\"")?;
            let mut read = String::new();
            let mut chars = value.chars();
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => read.push(match chars.next()? {
                        'n' => '\n',
                        char @ ('\\' | '"') => char,
                        _ => return None,
                    }),
                    char => read.push(char),
                }
            }
            pairs.push((name.to_owned(), read));
            rest = chars.as_str();
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        Some(pairs)
    }

    /// What the text of a label was made of.
    fn original(visible: &str) -> String {
        let mut text = String::new();
        let mut rest = visible;
        while let Some((before, after)) = rest.split_once("\\u") {
            text += before;
            text.push(char::from_u32(u32::from_str_radix(&after[..4], 16).unwrap()).unwrap());
            rest = &after[4..];
        }
        text + rest
    }

    /// Texts of characters that mean something here.
    fn hostile() -> impl Strategy<Value = String> {
        let char = prop_oneof![
            proptest::sample::select(
                &['\\', 'u', '0', '1', '#', '"', '\n', '\u{1}', '\u{202e}', '\u{7f}', '}', ','][..]
            ),
            any::<char>(),
        ];
        proptest::collection::vec(char, 0..12).prop_map(String::from_iter)
    }

    fn lock(key: &str, table: &str, endpoint: Option<&str>) -> JudgedLock {
        let place = LockPlace::DynamoDb {
            table: table.to_owned(),
            lock_id: key.to_owned(),
            region: "r".to_owned(),
            endpoint: endpoint.map(str::to_owned),
        };
        let half = HalfSeen { place, seen: Sighting::of_item(&HashMap::new()), expected: true };
        let lock = SeenLock { state: key.to_owned(), halves: vec![half] };
        let verdict = Liveness::Unknown { why: String::new() };
        JudgedLock {
            lock,
            judged: Judged { holder: None, verdict },
            now: Timestamp::UNIX_EPOCH,
            older_than: None,
            state_exists: None,
            notes: Vec::new(),
        }
    }

    /// Names and labels of all samples that are written of these.
    fn written(locks: &[JudgedLock], places: &[String]) -> Vec<String> {
        let mut out = Vec::new();
        let now = Timestamp::UNIX_EPOCH;
        let mut sheet = Prometheus::new(&mut out).unwrap();
        for lock in locks {
            sheet.write(lock).unwrap();
        }
        let places =
            places.iter().map(|place| Looked { place: place.clone(), label: place.clone(), error: None }).collect();
        sheet.end(&Summary { places, ..Summary::default() }, now).unwrap();
        let text = String::from_utf8(out).unwrap();
        let samples = text.split('\n').filter(|line| !line.is_empty() && !line.starts_with("# "));
        samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    }

    proptest! {
        /// Whatever somebody writes into a lock, it stays one value of one label on one line, and its own.
        #[test]
        fn a_value_is_read_as_it_was(text in hostile()) {
            let written = labels(&[("who", &text), ("place", "")]);
            let read = read(&written).unwrap();
            prop_assert!(written.chars().all(|char| harmless(char) == char) && !written.contains("##"));
            prop_assert_eq!(read.len(), 2);
            prop_assert_eq!(original(&read[0].1), text);
        }

        /// Guards against a file that a scraper refuses: no sample is there twice, and none is lost but where table and
        /// state have the same names at two endpoints.
        #[test]
        fn no_sample_is_there_twice(
            keys in proptest::collection::vec((hostile(), "[ab]", "[xy]"), 0..8),
            places in proptest::collection::vec(hostile(), 0..8),
        ) {
            let locks: Vec<_> = keys.iter().map(|(key, table, endpoint)| lock(key, table, Some(endpoint))).collect();
            let samples = written(&locks, &places);
            for sample in &samples {
                let at = sample.find('{').unwrap_or(sample.len());
                prop_assert!(sample[..at].chars().all(|char| char.is_ascii_lowercase() || char == '_'));
                prop_assert!(at == sample.len() || read(&sample[at..]).is_some());
            }
            let distinct: HashSet<_> = samples.iter().collect();
            prop_assert_eq!(distinct.len(), samples.len());
            let of = |family: &str| samples.iter().filter(|sample| sample.starts_with(family)).count();
            let names: HashSet<_> = keys.iter().map(|(key, table, _)| (key, table)).collect();
            prop_assert_eq!(of(CREATED), names.len());
            prop_assert_eq!(of("tfguard_place_up"), places.iter().collect::<HashSet<_>>().len());
        }
    }
}
