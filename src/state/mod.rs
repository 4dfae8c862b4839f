//! Whether a state is whole: what `tfguard verify` looks at, how it judges, what it advises.
//!
//! ```text
//! bytes ─▶ Content ─┐
//! Looker (S3,       ├─▶ Seen ─▶ judge() ─▶ Judgement ─▶ step()
//! DynamoDB, lock) ──┤     └──▶ fix() ─▶ DigestStore::replace()
//! errored() ────────┘
//! ```

mod advice;
mod content;
mod fix;
mod judge;
mod look;
mod seen;
mod store;
mod unsaved;

pub(crate) use advice::{Site, Step, describe, describe_digest, step};
pub(crate) use content::Content;
pub(crate) use fix::{Fix, fix};
pub(crate) use judge::{Judgement, is_at_odds};
pub(crate) use look::{Look, Looker, PATIENCE, errored};
pub(crate) use seen::{Errored, Expected, Seen, StateObject, StoredDigest};
pub(crate) use store::{DigestStore, StateStore};
pub(crate) use unsaved::{compare, imports};
