//! What the CI is told of a run, tried from outside: real Terraforms whose locks are left or released, and what is then on
//! stderr and in the files that a CI reads.

mod files;
mod github;
mod others;

use std::path::{Path, PathBuf};

use crate::support::*;
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::Value;

use crate::{SOON, TFGUARD};
const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];

fn project(kind: Kind) -> Project<'static> {
    Project::new(Aws::shared(), kind).table().init(&Tools::get().any_terraform())
}

/// A service that denies the delete.
fn denying() -> (FaultProxy, Project<'static>) {
    denying_to(|project| project)
}

/// The same for a project with more.
fn denying_to(project: impl FnOnce(Project<'static>) -> Project<'static>) -> (FaultProxy, Project<'static>) {
    let proxy = FaultProxy::start(Aws::shared().url());
    let more = project(Project::new(Aws::shared(), Kind::HangInApply).table());
    let project = more.endpoint(proxy.url()).init(&Tools::get().any_terraform());
    proxy.rule(Match::dynamodb("DeleteItem"), [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))]);
    (proxy, project)
}

/// A guarded apply that has to be killed, to its end; and the ID of its lock.
fn killed_apply(project: &Project, options: &[&str], job: impl FnOnce(Run) -> Run) -> (Exit, String) {
    let options: Vec<_> = ["--grace", "1s"].iter().chain(options).collect();
    let run = job(project.tfguard(TFGUARD, options, APPLY)).new_group().start();
    project.wait_for_hang(SOON);
    let lock = project.lock().expect("an apply holds its lock");
    let id = lock["ID"].as_str().expect("a lock has an ID").to_owned();
    run.signal(SIGTERM);
    (run.wait(SOON), id)
}

/// A command that just dies, without a Terraform.
fn dying(project: &Project, script: &str) -> Run {
    project.command(TFGUARD).args(["--", "sh", "-c", &format!("{script}; kill -9 $$")])
}

/// A file in the project's directory with this content.
fn file(project: &Project, name: &str, content: &str) -> PathBuf {
    let path = project.work().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[track_caller]
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the file was written")
}
