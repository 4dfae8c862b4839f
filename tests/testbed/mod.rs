//! The proof of the test bed: it gives what the other tests build on.

mod processes;
mod proxy;
mod terraform;
mod tools;

use std::path::PathBuf;

use crate::SOON;
use crate::support::{Aws, Kind, Project, Tools};

const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];

fn project(kind: Kind) -> Project<'static> {
    Project::new(Aws::shared(), kind)
}

fn terraform() -> PathBuf {
    Tools::get().any_terraform()
}
