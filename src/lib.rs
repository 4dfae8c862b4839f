//! tfguard runs Terraform in CI so that a cancelled job never leaves its state lock behind.
//!
//! The binary's parts, one folder a concern. [`run`] is the guarded run (front, supervisor, child), [`observe`] reads
//! what Terraform says about itself, [`command`] reads its arguments, [`backend`] and [`lock`] find a lock and delete
//! it by condition, [`other`] does so for the backends that do not log their locks, [`holder`] tells who holds a lock
//! and whether they live, [`session`] holds everything that has to outlive a process, [`report`] tells people and
//! programs what happened. [`commands`] is what people run by hand.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("tfguard needs Linux on x86-64 or aarch64: it is built on pidfds, inotify and /proc");

pub mod backend;
pub mod ci;
pub mod cli;
pub mod command;
pub mod commands;
pub mod exit;
mod files;
pub mod holder;
pub mod lock;
pub mod observe;
pub mod other;
mod paths;
pub mod report;
pub mod run;
pub mod say;
pub mod session;
pub mod shell;
pub mod verify;
