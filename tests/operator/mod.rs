//! The commands that people run by hand, from outside, on a real API and locks of every kind.

mod bed;
mod list;
mod living;
mod unlocking;
mod words;
