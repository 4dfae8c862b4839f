//! `tfguard doctor`: looks before anybody needs it. Facts are gathered first; each row of [`CHECKS`] judges them without
//! I/O. The permissions have a table of their own, [`PERMISSIONS`], from which the policy is printed, too.
//!
//! It changes nothing: a request that would write has a condition that cannot hold, or is about what is not there, and
//! names what nobody uses.

mod checks;
mod facts;
mod permissions;
mod probes;
mod run;

pub use checks::{Area, CHECKS, Check, Finding, Severity};
pub use permissions::{On, PERMISSIONS, Permission};
pub use run::{Args, run};
