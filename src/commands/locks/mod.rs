//! `tfguard locks`: all locks of tables, buckets and directories; the stale ones among them.
//!
//! `gather` goes through the places and hands each lock to a `sheet`, which is `text`, `json` or `prometheus`.

mod args;
mod gather;
mod json;
mod list;
mod prometheus;
mod sheet;
mod summary;
mod text;

pub use args::{Args, Format};
pub use list::run;
pub use summary::{Looked, Summary};
