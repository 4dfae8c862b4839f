//! What happened, for people and for programs.

mod account;
mod text;

pub use account::{
    Account, Ending, Half, HalfOutcome, Interrupt, InterruptedBy, LockAccount, LockOutcome, Report, Requested, Settings,
};
