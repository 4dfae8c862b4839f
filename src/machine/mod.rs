//! Decisions without I/O: events and a time go in, actions come out.

#[allow(dead_code, unused_imports, reason = "the run and the commands take it up in the next commits")]
pub(crate) mod lease;
mod run;

pub(crate) use run::{Action, Event, Finish, Machine, PATIENCE, Terms};
