//! Whether a state is whole: what `tfguard verify` looks at, how it judges, what it advises.
//!
//! ```text
//! bytes ─▶ Content ─┐
//! Looker (S3,       ├─▶ Seen ─▶ judge() ─▶ Judgement ─▶ steps()
//! DynamoDB, locks) ─┤     └──▶ fix() ─▶ DigestStore::replace()
//! errored() ────────┘
//! ```

mod advice;
mod content;
mod finding;
mod fix;
mod judge;
mod look;
mod seen;
mod store;

pub use advice::{Site, Step, describe, steps};
pub use content::{Content, Flaw, Format};
pub use finding::{Finding, Note, Relation};
pub use fix::{Fix, Refusal, fix};
pub use judge::{Judgement, Verdict, is_at_odds, judge, relation, way_back};
pub use look::{Look, Looker, PATIENCE, errored};
pub use seen::{Errored, Expected, Seen, StateObject, StoredDigest, Version, Versions, md5};
pub use store::{DigestItem, DigestStore, StateStore, Written};
