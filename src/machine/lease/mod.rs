//! The lease of a lock: a holder renews it, and whoever sees it not renewed for long enough deletes the lock.
//!
//! Two machines without I/O, shaped as the run's machine: [`holder::Holder`] renews the lease of one half of a lock and has
//! the child killed before anybody may take the lock; [`observer::Observer`] watches one half and deletes it once its holder
//! must be dead. They share no clock: each counts on its own, and only the rates may differ, by a hundredth at most.
//!
//! What they guarantee together is checked by an exhaustive search over both, in the tests.

use std::time::Duration;

pub(crate) mod holder;
pub(crate) mod observer;
mod times;

#[cfg(test)]
mod tests;

pub(crate) use times::Times;

/// A moment on this machine's `CLOCK_BOOTTIME`: the time passed since it booted, suspended or not.
pub(crate) type Moment = Duration;

/// A lock as a consistent read finds it. `I` is its ID, `V` the version of a beat.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sight<I, V> {
    /// The lock that is there.
    pub lock: I,
    /// The lease record beside it, if there is one that can be read. It may be another lock's.
    pub lease: Option<Lease<I, V>>,
}

/// A lease record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lease<I, V> {
    /// The lock it names.
    pub lock: I,
    /// Unlike that of any other beat of any holder.
    pub version: V,
    /// Those of the length in the record.
    pub times: Times,
}

impl<I: PartialEq, V> Sight<I, V> {
    /// The lease of this very lock.
    fn own_lease(&self) -> Option<&Lease<I, V>> {
        self.lease.as_ref().filter(|lease| lease.lock == self.lock)
    }
}

/// What the store answered to a conditional request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// It did it.
    Done,
    /// It did nothing: the condition was not met. A copy of the request may have been done before.
    Refused,
    /// It did nothing and will do nothing: the request was denied, or it was never sent.
    NotDone,
    /// No answer, or none that says which. It may yet do it.
    Unknown,
}
