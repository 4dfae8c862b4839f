//! What all rooms talk about, without I/O.

mod account;
mod address;
mod ci;
mod environment;
mod holder;
mod lease;
mod lock;
mod policy;
mod process;
mod sighting;
mod state;
mod unsaved;
mod verdict;

pub use account::{Account, Phase};
pub(crate) use account::{
    Ending, Half, HalfOutcome, Interrupt, InterruptedBy, LockAccount, LockOutcome, OtherLock, OtherOutcome,
    RefusedLock, Requested, Settings, StopRequest, TraceAccount,
};
pub use address::Address;
pub(crate) use ci::{Origin, Provider, Run, Term};
pub use environment::Environment;
pub(crate) use holder::SCHEMA;
pub use holder::{Holder, Recorded};
pub(crate) use lease::{Beat, Known, LeaseNote};
pub(crate) use lease::{LARGEST as LARGEST_LEASE, LEASE_ATTRIBUTE};
pub use lease::{Lease, LeaseVersion, Leased};
pub(crate) use lock::{
    CLOCK_SLACK, InvalidLockId, LEASE_SUFFIX, LOCKFILE_SUFFIX, LockId, LockPlace, MIGRATION, bucket_and_key,
    lockfile_key,
};
pub use lock::{Entry, FoundLock, Grade, LockClaim, LockInfo, LockKinds, LockTrace, Stage, Subject, TraceEntry};
pub use policy::UnconditionalDelete;
pub(crate) use policy::{Baseline, CiMessages, Evidence, Intent, OnDeath, StartingBackend};
pub use process::Product;
pub(crate) use process::{ChildRecord, ProcessId, World, product};
pub use sighting::Sighting;
pub(crate) use sighting::{Content, Defect};
pub(crate) use state::{Flaw, Relation, StateAccount, StateFinding, StateVerdict};
pub use unsaved::{Fate, Unsaved, UnsavedResource};
pub(crate) use verdict::{Boot, Facts, Liveness, Log, Processes, Session, judge};
