//! The proof of the test bed: it gives what the other tests build on.

mod processes;
mod proxy;
mod terraform;
mod tools;

use std::path::PathBuf;
use std::time::Duration;

use crate::support::{Aws, Kind, Project, Tools};

/// Longer than anything here takes, so it only bounds a hang.
const SOON: Duration = Duration::from_secs(60);

const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];

fn project(kind: Kind) -> Project<'static> {
    Project::new(Aws::shared(), kind)
}

fn terraform() -> PathBuf {
    Tools::get().any_terraform()
}
