//! The locks of a run: where each lives, who holds it, and its release once its Terraform is dead.

pub(crate) mod again;
pub(crate) mod annotate;
pub(crate) mod locate;
pub(crate) mod release;
pub(crate) mod states;
pub(crate) mod traced;
pub(crate) mod unlogged;
