//! The templates in `ci-templates`, and the project's own pipelines: read by the parsers and schemas of their CI systems,
//! and their scripts, as they stand there, run around a real Terraform and cancelled.

mod action;
mod cancelled;
mod install;
mod packages;
mod promises;
mod read;
mod syntax;
pub mod tools;

use crate::{SOON, TFGUARD};
