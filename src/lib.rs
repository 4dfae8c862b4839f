//! tfguard runs Terraform in CI so that a cancelled job never leaves its state lock behind.

pub mod backend;
pub mod lock;
pub mod observe;
