//! Which process a cancel of this CI job would reach, told from where the doctor itself runs.

mod chain;
mod delivery;
mod look;

pub use chain::Chain;
#[cfg(test)]
pub use chain::Stdout;
pub use delivery::{Job, findings};
pub use look::look;
