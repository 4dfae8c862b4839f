//! `tfguard verify`, and the same look by a guarded run after an unclean death: tried from outside through the binary,
//! on states that Terraform wrote and on states that something else did.

mod bed;
mod digest;
mod fix;
mod guarded;
mod states;

use crate::{SOON, TFGUARD};
