//! Decisions without I/O: events and a time go in, actions come out.

pub(crate) mod lease;
mod run;

pub(crate) use run::{Action, Event, Finish, Machine, PATIENCE, Terms};
