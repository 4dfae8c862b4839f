//! Who holds a lock: the record beside it, and what is made of it.

mod annotation;
mod judged;
mod lease;
mod refused;
mod stores;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::*;
use serde_json::Value;

use crate::{SOON, TFGUARD};
const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];
/// What every AWS request of tfguard's has in its `User-Agent`.
const OUR_AGENT: &str = "aws-sdk-rust";
/// The attribute that holds the record.
const ATTRIBUTE: &str = "TfguardHolder";

fn terraform() -> PathBuf {
    Tools::get().any_terraform()
}

fn project(kind: Kind) -> Project<'static> {
    Project::new(Aws::shared(), kind)
}

/// A job of GitHub Actions, in the workflow run of this number.
fn job(run: Run, number: &str) -> Run {
    run.envs([
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_SERVER_URL", "https://github.com"),
        ("GITHUB_REPOSITORY", "owner/repository"),
        ("GITHUB_RUN_ID", number),
        ("GITHUB_RUN_ATTEMPT", "2"),
        ("GITHUB_JOB", "apply"),
        ("RUNNER_NAME", "one"),
        ("GITHUB_SHA", "0a1b2c"),
        ("GITHUB_ACTOR", "alice"),
    ])
}

/// The journal of the project's one session.
fn journal(project: &Project) -> Value {
    let sessions = session_dirs(&project.sessions());
    assert_eq!(sessions.len(), 1, "one session: {sessions:?}");
    let text = std::fs::read(sessions[0].join("journal.json")).expect("a session has a journal");
    serde_json::from_slice(&text).expect("a journal is JSON")
}
