//! What comes from outside, changed as nobody writes it: cut, flipped, repeated, nested deep, with huge numbers. Nothing
//! panics, and no ID is read that does not stand there. More of it with `PROPTEST_CASES`; what a unit test can reach alone
//! (plan files, tags, durations) has its own.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use regex_lite::Regex;
use tfguard::aws::Surroundings;
use tfguard::model::{Account, Environment, LockInfo, Recorded};
use tfguard::observe::{Believed, Expectations, InterruptScanner, Observer, PrintedRefusal, Resources};
use tfguard::session::{Journal, SessionDir, SessionFile};
use tfguard::terraform::{read_backend, workspace};

const ID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";

/// A change of a text.
#[derive(Debug, Clone)]
enum Mutation {
    /// What follows is missing.
    Cut(Index),
    /// A piece is missing.
    Remove(Index, usize),
    /// One bit is another.
    Flip(Index, u8),
    /// A piece is there many times.
    Repeat(Index, usize, usize),
    /// A piece is somewhere else, too.
    Copy(Index, usize, Index),
    /// A word is there that means something to a reader.
    Insert(Index, &'static str),
    /// What opens, and perhaps closes, stands around a place.
    Nest(Index, usize, &'static str, &'static str),
    /// The next number is another.
    Number(Index, &'static str),
}

/// None of them is part of an escape that could spell an ID.
const WORDS: [&str; 24] = [
    "\n",
    "\r\n",
    "\0",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    " ",
    ": ",
    "=",
    "\u{1b}[31m",
    "│ ",
    "\u{202e}",
    "  | ",
    "Lock Info:\n  ID:        x\n",
    "Error acquiring the state lock\n",
    "\nInterrupt received.\nPlease wait for Terraform to exit\n",
    " tf_backend.lock.id=",
    " tf_backend.operation=Lock",
    "2026-11-20T05:59:16.043Z [INFO]  backend-s3: ",
    "2026-11-20T05:59:16.043Z [DEBUG] backend-s3: HTTP Request Sent: ",
    "null",
];
const NESTS: [(&str, &str); 5] = [("[", "]"), ("{\"a\":", "}"), ("\"", ""), (": ", ""), (" a=[", "")];
const NUMBERS: [&str; 6] = ["-1", "0", "1e999", "18446744073709551616", "99999999999999999999999999999999", "0.5"];

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = any::<Index>;
    let piece = 1..2_000_usize;
    let mutation = prop_oneof![
        1 => at().prop_map(Mutation::Cut),
        2 => (at(), piece.clone()).prop_map(|(at, length)| Mutation::Remove(at, length)),
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        2 => (at(), piece.clone(), 2..60_usize).prop_map(|(at, length, times)| Mutation::Repeat(at, length, times)),
        2 => (at(), piece, at()).prop_map(|(at, length, to)| Mutation::Copy(at, length, to)),
        4 => (at(), select(&WORDS[..])).prop_map(|(at, word)| Mutation::Insert(at, word)),
        1 => (at(), prop_oneof![1..5_usize, 1_000..30_000_usize], select(&NESTS[..]))
            .prop_map(|(at, depth, (open, close))| Mutation::Nest(at, depth, open, close)),
        2 => (at(), select(&NUMBERS[..])).prop_map(|(at, number)| Mutation::Number(at, number)),
    ];
    vec(mutation, 1..6)
}

fn mutated(text: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut text = text.to_vec();
    for mutation in mutations {
        if text.is_empty() {
            break;
        }
        let place = |at: &Index| at.index(text.len());
        let piece = |at: &Index, length: &usize| place(at)..text.len().min(place(at) + length);
        match mutation {
            Mutation::Cut(at) => text.truncate(at.index(text.len())),
            Mutation::Remove(at, length) => drop(text.drain(piece(at, length))),
            Mutation::Flip(at, bit) => {
                let at = place(at);
                text[at] ^= 1 << bit;
            }
            Mutation::Repeat(at, length, times) => {
                let piece = piece(at, length);
                let more = text[piece.clone()].repeat(*times);
                text.splice(piece, more);
            }
            Mutation::Copy(at, length, to) => {
                let (more, to) = (text[piece(at, length)].to_vec(), place(to));
                text.splice(to..to, more);
            }
            Mutation::Insert(at, word) => {
                let at = place(at);
                text.splice(at..at, word.bytes());
            }
            Mutation::Nest(at, depth, open, close) => {
                let at = place(at);
                text.splice(at..at, format!("{}1{}", open.repeat(*depth), close.repeat(*depth)).bytes());
            }
            Mutation::Number(at, number) => {
                let at = place(at);
                let Some(begin) = text[at..].iter().position(u8::is_ascii_digit).map(|more| at + more) else {
                    continue;
                };
                let length = text[begin..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                text.splice(begin..begin + length, number.bytes());
            }
        }
    }
    text
}

/// Whether an ID stands in a text as a word of its own.
fn stands_in(id: &str, text: &[u8]) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    memmem(text, id.as_bytes()).any(|at| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        !is_part(before) && !is_part(text.get(at + id.len()))
    })
}

fn memmem<'a>(text: &'a [u8], word: &'a [u8]) -> impl Iterator<Item = usize> {
    text.windows(word.len()).enumerate().filter(move |(_, window)| *window == word).map(|(at, _)| at)
}

#[track_caller]
fn assert_written(id: &str, text: &[u8]) {
    assert!(stands_in(id, text), "{id} does not stand in {}", String::from_utf8_lossy(text));
}

/// The logs and outputs of real Terraforms and OpenTofus.
static FIXTURES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/logs");
    let below = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = below.flat_map(|dir| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()));
    let mut read: Vec<_> = files.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect();
    read.sort();
    read
});

fn fixture(end: &'static str) -> impl Strategy<Value = &'static [u8]> {
    let found: Vec<_> = FIXTURES.iter().filter(|(name, _)| name.contains(end)).map(|(_, text)| &text[..]).collect();
    assert!(found.len() >= 9, "{end}");
    select(found)
}

/// An account with a lock, as the documents show one.
fn account() -> Account {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/report.md")).unwrap();
    let (_, example) = page.split_once("```json\n").expect("there is an example");
    serde_json::from_str(example.split("```").next().unwrap()).unwrap()
}

proptest! {
    /// Log records, and the requests in the logs of OpenTofu and of Terraform before 1.6.
    #[test]
    fn a_log_tells_no_lock_that_does_not_stand_in_it(
        log in fixture(".log"),
        mutations in mutations(),
        cut in any::<Index>(),
    ) {
        let log = mutated(log, &mutations);
        let believed = Believed { records: true, requests: true, states: vec![("tfstate".into(), "1.5.7/apply.tfstate".into())] };
        let started: Timestamp = "2026-11-19T00:00:00Z".parse().unwrap();
        let now = "2026-11-30T00:00:00Z".parse().unwrap();
        let mut observer = Observer::new(believed, Expectations { started, nodename: None });
        let (one, two) = log.split_at(if log.is_empty() { 0 } else { cut.index(log.len()) });
        for piece in [one, two] {
            observer.feed(piece, now);
        }
        observer.finish(now);
        for entry in observer.ledger().entries() {
            assert_written(entry.claim.id.as_str(), &log);
        }
    }

    /// What Terraform prints: who holds the lock, that it was interrupted, what it makes.
    #[test]
    fn an_output_names_no_holder_that_does_not_stand_in_it(output in fixture(".std"), mutations in mutations()) {
        let output = mutated(output, &mutations);
        let _ = InterruptScanner::new(false).feed(&output);
        let mut resources = Resources::default();
        resources.feed(&output);
        let _ = resources.to_be_saved();
        let text = String::from_utf8_lossy(&output);
        if let Some(holder) = PrintedRefusal::find(&text).and_then(|refusal| refusal.holder) {
            // A colour in the midst of it goes.
            let colour = Regex::new("\u{1b}\\[[^@-~]*[@-~]?").unwrap();
            prop_assert!(colour.replace_all(&text, "").contains(&holder.id), "{:?} in {text}", holder.id);
        }
    }

    #[test]
    fn a_lock_has_the_id_that_stands_in_it(mutations in mutations()) {
        let whole = format!(
            r#"{{"ID":"{ID}","Operation":"OperationTypeApply","Info":"","Who":"root@vm","Version":"1.11.4","Created":"2026-11-20T04:11:21.810982632Z","Path":"tfstate/terraform.tfstate"}}"#
        );
        let text = mutated(whole.as_bytes(), &mutations);
        if let Ok(info) = LockInfo::parse(&text) {
            // What is no text in a field that nobody reads harms nobody.
            let value: serde_json::Value = serde_json::from_str(&String::from_utf8_lossy(&text)).unwrap();
            // Two of one name are an error, or the other one could be meant.
            prop_assert_eq!(value["ID"].as_str(), Some(info.id.as_str()));
        }
    }

    #[test]
    fn a_record_beside_a_lock_is_of_that_lock_or_none(mutations in mutations()) {
        let whole = format!(
            r#"{{"schema":1,"lock":"{ID}","tfguard":"0.1.0","started":"2026-11-20T04:11:21Z","ci":{{"provider":"gitlab","url":"https://gitlab.example.com/a/-/jobs/7","job":"7"}},"commit":"0a1b","actor":"alice","runner":"r","host":"runner-7","world":{{"boot_id":"b","pid_namespace":4026531836}},"supervisor":{{"pid":10,"start_ticks":4000000000}},"session":"/builds/a/s"}}"#
        );
        prop_assert!(Recorded::read(&whole, ID).holder().is_some(), "the record is a good one");
        let text = String::from_utf8_lossy(&mutated(whole.as_bytes(), &mutations)).into_owned();
        if let Some(holder) = Recorded::read(&text, ID).holder() {
            prop_assert_eq!(holder.lock.to_string(), ID);
            assert_written(ID, text.as_bytes());
        }
    }

    #[test]
    fn a_journal_names_no_lock_that_does_not_stand_in_it(mutations in mutations()) {
        let place = tempfile::tempdir().unwrap();
        let session = SessionDir::create(&[("TFGUARD_DIR", place.path())].into_iter().collect()).unwrap();
        Journal::new(account()).write(&session).unwrap();
        let path = session.path_of(SessionFile::Journal);
        let whole = fs::read(&path).unwrap();
        prop_assert!(!Journal::read(&session).unwrap().account.locks.is_empty());
        let text = mutated(whole.trim_ascii_end(), &mutations);
        fs::write(&path, &text).unwrap();
        if let Ok(journal) = Journal::read(&session) {
            for lock in &journal.account.locks {
                assert_written(lock.claim.id.as_str(), &text);
            }
            // Whoever is named in it: nobody is there, or it is known that it is another.
            for process in [journal.front, journal.supervisor].into_iter().flatten() {
                let _ = (process.is_alive(), process.started());
            }
        }
    }

    #[test]
    fn a_backend_record_is_read_or_refused_without_a_word_of_its_secrets(mutations in mutations()) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".terraform")).unwrap();
        let whole = r#"{"version":3,"terraform_version":"1.13.5","backend":{"type":"s3","config":{"bucket":"b","key":"k","region":"eu-west-1","secret_key":"hushhush","assume_role":{"role_arn":"arn:aws:iam::1:role/r","duration":"1h"},"max_retries":5,"use_lockfile":true},"hash":1}}"#;
        let text = mutated(whole.as_bytes(), &mutations);
        for name in ["terraform.tfstate", "environment"] {
            fs::write(dir.path().join(".terraform").join(name), &text).unwrap();
        }
        let surroundings = Surroundings { dir: dir.path().to_owned(), env: Environment::default() };
        let told = match read_backend(&surroundings) {
            Ok(backend) => format!("{backend:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        prop_assert!(!told.contains("hushhush"), "{told}");
        let _ = workspace(&surroundings);
    }
}
