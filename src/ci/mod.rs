//! What tfguard knows of the CI system it runs in: which one it is, what it leaves a cancelled job, when its time is up.
//! What it prints for it is in [`crate::report`].

mod ancestry;
mod container;
mod grace;
mod origin;
mod provider;
mod time_limit;

pub use ancestry::{Ancestor, Chain};
pub use container::is_in_container_of_a_job;
pub use grace::{LONG_ENOUGH, Surroundings, UNHURRIED, cleanup_grace, grace};
pub use provider::{HUNTING_VARIABLES, how_the_job_ended, is_act};
pub use time_limit::{TimeLeft, job_age, time_left};
