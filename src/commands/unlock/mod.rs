//! `tfguard unlock`: deletes one lock, by condition, after a look at whether its holder lives.
//!
//! `decide` says what is to be deleted and whether it may be, without I/O; `carry_out` looks, shows, asks and deletes;
//! `report` is the record of it.

mod args;
mod carry_out;
mod decide;

pub use args::Args;
pub use carry_out::run;
