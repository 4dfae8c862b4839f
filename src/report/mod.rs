//! What happened, for people and for programs.

pub mod ci;
mod finding;
mod text;

pub use finding::{Finding, Outcome, operation};
