//! All tests from outside: the built binary on real Terraforms, and the library's public parts. One binary, so that the AWS
//! SDK is linked once, and so that tests that wait can wait side by side.

mod backend_resolution;
mod bounds;
mod cancellation;
mod chaos;
mod ci_language;
mod command_line;
mod crash;
mod dependencies;
mod descriptors;
mod doctor;
mod documents;
mod fuzz;
mod grace;
mod guarded;
mod holder;
mod house;
mod logs;
mod operator;
mod planfile;
mod reclaim;
mod release;
mod requests;
mod session_directory;
mod several_locks;
mod simulators;
mod stage;
mod stopping;
mod stores;
mod support;
mod templates;
mod terminal;
mod testbed;
mod threats;
mod transparency;
mod unlogged;
mod verify;

use std::time::Duration;

/// The binary under test.
pub const TFGUARD: &str = env!("CARGO_BIN_EXE_tfguard");
/// What it answers to `--version`.
pub const VERSION: &str = concat!("tfguard ", env!("CARGO_PKG_VERSION"), " (", env!("TFGUARD_BUILD"), ")\n");
/// Longer than anything here takes, also on a machine that is out of breath, so it only bounds a hang.
pub const SOON: Duration = Duration::from_secs(240);
