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

pub use advice::{Site, Step, describe, step};
pub use content::{Content, Flaw};
pub use fix::{Fix, fix};
pub use judge::{StateFinding, Judgement, Relation, StateVerdict, is_at_odds, judge, relation};
pub use look::{Look, Looker, PATIENCE, errored};
pub use seen::{Errored, Expected, Held, Seen, StateObject, StoredDigest, md5};
pub use store::{DigestItem, DigestStore, StateStore, Written};
