//! Runs that hold several locks, or halves of one: each is released where it lives, by its own condition.

mod halves;
mod init;
mod scripts;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::*;
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;

use crate::{SOON, TFGUARD};
const APPLY: &str = "apply -input=false -auto-approve -no-color";

fn terraform() -> PathBuf {
    Tools::get().any_terraform()
}

fn project(kind: Kind) -> Project<'static> {
    Project::new(Aws::shared(), kind)
}

/// The Terraforms that were started for a project and are alive.
fn terraforms(project: &Project) -> Vec<Pid> {
    project.terraforms().into_iter().map(Pid::from_raw).collect()
}

/// Kills them with a signal that nothing can stop; how many.
fn kill_terraforms(project: &Project) -> usize {
    terraforms(project).into_iter().filter(|pid| kill(*pid, SIGKILL).is_ok()).count()
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < SOON, "no {what} within {SOON:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn report(project: &Project) -> Value {
    let text = std::fs::read(project.work().join("report.json")).expect("a report was written");
    serde_json::from_slice(&text).expect("a report is JSON")
}

/// Of each lock in the report, in order: what it was taken for, what became of it, and of its halves.
fn outcomes(project: &Project) -> Vec<(String, String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let report = report(project);
    let locks = report["locks"].as_array().expect("a report has locks");
    locks
        .iter()
        .map(|lock| {
            let halves = lock["halves"].as_array().expect("a lock has halves");
            let halves = halves.iter().map(|half| text(&half["outcome"])).collect();
            (text(&lock["operation"]), text(&lock["outcome"]["is"]), halves)
        })
        .collect()
}
