//! What happened, for people and for programs.

pub mod ci;
mod finding;
mod locks;
mod states;
mod text;

pub use finding::{Finding, Outcome, operation};
