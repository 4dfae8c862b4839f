//! Runs a program as a CI or a terminal does, and awaits what it says and how it ends.

mod builder;
mod exit;
mod running;
mod stream;

pub use builder::{Run, Stdin};
pub use exit::Exit;
pub use running::Running;
