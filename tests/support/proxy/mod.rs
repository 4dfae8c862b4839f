//! An HTTP proxy on loopback in front of moto that delays, drops, repeats, changes or answers chosen requests.

mod fault_proxy;
mod rule;
mod serve;

pub use fault_proxy::FaultProxy;
pub use rule::{Action, Answer, Gate, Match, Seen};
