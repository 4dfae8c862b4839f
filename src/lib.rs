//! tfguard runs Terraform in CI so that a cancelled job never leaves its state lock behind.
//!
//! One folder is one room, and a room imports only from rooms below it in this list (`docs/architecture.md` has the
//! picture): `cli` and `commands`, what people type; `run`, the guarded run; `report`, what it tells; `state`,
//! whether a state is whole; `machine`, decisions without I/O; `store`, where locks live; `observe`, what Terraform
//! says of itself; `terraform`, its arguments and directories; `aws`, clients; `session`, what outlives a process;
//! `ci`, the CI systems; `model`, what all of them talk about.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("tfguard needs Linux on x86-64 or aarch64: it is built on pidfds, inotify and /proc");

pub mod aws;
pub mod ci;
pub mod cli;
pub mod commands;
pub mod exit;
mod files;
pub mod log;
mod machine;
pub mod model;
pub mod observe;
mod paths;
pub mod report;
pub mod run;
pub mod session;
mod state;
pub mod store;
pub mod terraform;
mod text;
