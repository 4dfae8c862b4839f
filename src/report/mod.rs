//! What happened, for people and for programs.

mod account;
pub mod ci;
mod finding;
mod other;
mod refused;
mod state;
mod text;

pub use account::{
    Account, Ending, Half, HalfOutcome, Interrupt, InterruptedBy, LockAccount, LockOutcome, Report, Requested,
    Settings, TraceAccount,
};
pub use finding::{Finding, Outcome};
pub use other::{OtherLock, OtherOutcome};
pub use refused::RefusedLock;
pub use state::StateAccount;
