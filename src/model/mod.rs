//! What all rooms talk about, without I/O.

mod account;
mod ci;
mod claim;
mod evidence;
mod holder;
mod intent;
mod lock;
mod other_lock;
mod phase;
mod place;
mod policy;
mod process;
mod product;
mod refused;
mod sighting;
mod state;
mod state_finding;
mod stop;
mod verdict;

pub use account::Account;
pub(crate) use account::{
    Ending, Half, HalfOutcome, Interrupt, InterruptedBy, LockAccount, LockOutcome, Requested, Settings, TraceAccount,
};
pub(crate) use ci::{Origin, Provider, Run, Term};
pub(crate) use claim::MIGRATION;
pub use claim::{LockClaim, LockKinds, LockTrace};
pub(crate) use evidence::Entry;
pub use evidence::{Grade, Stage, TraceEntry};
pub(crate) use holder::SCHEMA;
pub use holder::{Holder, Recorded};
pub(crate) use intent::{Baseline, Intent};
pub(crate) use lock::{CLOCK_SLACK, InvalidLockId, LockId};
pub use lock::{FoundLock, LockInfo};
pub(crate) use other_lock::{OtherLock, OtherOutcome};
pub use phase::Phase;
pub(crate) use place::{LOCKFILE_SUFFIX, LockPlace, lockfile_key};
pub(crate) use policy::{CiMessages, Evidence, OnDeath, WithoutConditions};
pub(crate) use process::{ChildRecord, ProcessId, World};
pub use product::Product;
pub(crate) use product::product;
pub(crate) use refused::RefusedLock;
pub use sighting::HeldLock;
pub(crate) use sighting::{Content, Defect, Sighting};
pub(crate) use state::StateAccount;
pub(crate) use state_finding::{Flaw, Relation, StateFinding, StateVerdict};
pub(crate) use stop::StopRequest;
pub(crate) use verdict::{Boot, Facts, Liveness, Log, Processes, Session, judge};
