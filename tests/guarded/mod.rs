//! The guarded run on real Terraforms: what is promised of locks, tried from outside through the binary.

mod before_1_0;
mod cleanup;
mod dying;
mod faults;
mod foreign;
mod matrix;
mod nested;
mod opentofu;
mod ordinary;
mod provider;
mod real_programs;
mod scripts;
mod shapes;
mod stopping;
mod terragrunt;
mod unheard;
mod unsaved;
mod users;
mod wrapper;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::*;
use serde_json::Value;

use crate::{SOON, TFGUARD};
const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];
const PLAN: [&str; 3] = ["plan", "-input=false", "-no-color"];
/// What every AWS request of tfguard's has in its `User-Agent`.
const OUR_AGENT: &str = "aws-sdk-rust";

fn terraform() -> PathBuf {
    Tools::get().any_terraform()
}

fn project(kind: Kind) -> Project<'static> {
    Project::new(Aws::shared(), kind)
}

/// A project with a lock table, initialised.
fn table(kind: Kind) -> Project<'static> {
    project(kind).table().init(&terraform())
}

/// A guarded apply, already asleep.
fn asleep<'a>(project: &Project<'a>, options: &[&str]) -> Running {
    let run = project.tfguard(TFGUARD, options, APPLY).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    assert!(project.lock().is_some(), "an apply holds its lock");
    run
}

/// A guarded command that hangs and cannot be stopped gracefully.
fn hanging<'a>(project: &Project<'a>, options: &[&str], command: &[&str]) -> Running {
    let run = project.tfguard(TFGUARD, options, command).new_group().start();
    project.wait_for_hang(SOON);
    run
}

/// The journal of the project's one session, once the command is in it: the supervisor writes it down when it has started,
/// and what it started may be quicker.
fn journal(project: &Project) -> Value {
    session(project);
    project.wait_for_journal(SOON, |journal| journal["child"].is_object())
}

/// The journal of the outermost guard.
fn outer_journal(project: &Project) -> Value {
    let text = std::fs::read(session(project).join("journal.json")).expect("a session has a journal");
    serde_json::from_slice(&text).expect("a journal is JSON")
}

fn session(project: &Project) -> PathBuf {
    let sessions: Vec<_> = sessions(project);
    assert_eq!(sessions.len(), 1, "one session: {sessions:?}");
    sessions[0].clone()
}

/// The sessions that are there.
fn sessions(project: &Project) -> Vec<PathBuf> {
    session_dirs(&project.sessions())
}

fn report(project: &Project) -> Value {
    let text = std::fs::read(project.work().join("report.json")).expect("a report was written");
    serde_json::from_slice(&text).expect("a report is JSON")
}

/// What must be true after every guarded run, however it ended.
#[track_caller]
fn assert_clean(project: &Project) {
    project.guard().assert_no_process_left(SOON);
    assert_eq!(project.lock(), None, "the lock is gone");
    assert_whole(project);
}

/// The state, if there is one, is what its digest says.
#[track_caller]
fn assert_whole(project: &Project) {
    use md5::{Digest as _, Md5};
    if let Some(object) = project.aws().object(project.bucket(), &project.state_key()) {
        let md5: String = Md5::digest(&object.body).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(project.aws().digest(project.table_name(), &project.lock_id()), Some(md5), "digest and state fit");
    }
}
