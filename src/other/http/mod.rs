//! The `http` backend's lock: who has it, and giving back a dead Terraform's.

mod requests;
mod settle;

pub use requests::LockServer;
pub use settle::{Decision, Settled, settle};
