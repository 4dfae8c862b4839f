//! What tfguard knows of the CI system it runs in: which one it is, what it leaves a cancelled job, when its time is up.
//! What it prints for it is in [`crate::report`].

mod ancestry;
mod colour;
mod grace;
mod system;
mod time_limit;

pub use ancestry::{Ancestor, Chain};
pub use colour::{colours_messages, colours_results};
pub use grace::{LONG_ENOUGH, Surroundings, UNHURRIED, cleanup_grace, is_in_container_of_a_job};
pub use system::{directories, directory_of, grace, how_the_job_ended, hunting_variables, is_act};
pub use time_limit::{TimeLeft, job_age, time_left};
