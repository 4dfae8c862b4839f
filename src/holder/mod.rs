//! Who holds a lock, and whether they are alive.
//!
//! * [`Holder`]: the record of the run that holds a lock, written beside the lock by that run's tfguard.
//! * [`Recorded`]: what was found beside a lock: such a record, none, or one that this tfguard cannot use.
//! * [`Liveness`]: alive, dead or unknown, and why. Alive and dead are *proven*, never guessed: not by a lock's age, not
//!   by a host's name.
//! * [`Machine`]: what this machine knows, by which locks are judged: `Machine::here(env).judge(&info, &recorded)`.

mod facts;
mod record;
pub(crate) mod tags;
mod verdict;

pub use facts::{Judged, Machine};
pub use record::{Holder, Recorded};
pub use verdict::{Boot, Facts, Log, Processes, Session, Liveness, judge};
