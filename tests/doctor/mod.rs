//! `tfguard doctor`, tried through the binary: with an API that enforces IAM, on tables and buckets that are not as
//! they should be, and below processes that look like those of CI systems. Each check alone is tried, right and wrong, in
//! `src/commands/doctor/checks/tests.rs`.

mod permissions;
mod places;
mod policies;
mod shapes;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::*;
use serde_json::Value;

use crate::{SOON, TFGUARD};
const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];

fn terraform() -> PathBuf {
    Tools::get().any_terraform()
}

/// What the doctor says in JSON.
#[track_caller]
fn json(exit: &Exit) -> Value {
    serde_json::from_str(&exit.out()).unwrap_or_else(|error| panic!("no JSON ({error}): {exit}"))
}

/// The severity of a finding; none if there is none.
fn severity<'a>(report: &'a Value, id: &str) -> Option<&'a str> {
    found(report, id)?["severity"].as_str()
}

fn found<'a>(report: &'a Value, id: &str) -> Option<&'a Value> {
    report["findings"].as_array()?.iter().find(|finding| finding["id"] == id)
}

/// The journal of the one session in a directory, once it names the child: the child may be at work, and its output be
/// shown, before the supervisor has written that down.
fn journal_of_child(sessions: &Path) -> (PathBuf, Value) {
    let start = Instant::now();
    loop {
        if let Some(session) = session_dirs(sessions).into_iter().next()
            && let Ok(text) = std::fs::read(session.join("journal.json"))
        {
            let journal: Value = serde_json::from_slice(&text).expect("a journal is JSON");
            if journal["child"]["id"]["pid"].is_i64() {
                return (session, journal);
            }
        }
        assert!(start.elapsed() < SOON, "no journal in {} names a child", sessions.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The doctor of a project.
fn doctor(project: &Project) -> Run {
    project.command(TFGUARD).args(["doctor", "--format", "json"])
}
