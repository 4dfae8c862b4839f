//! What tfguard says in the language of the CI it runs in, so that a tired person sees in the CI's own pages what became
//! of which lock, and the next command.
//!
//! Everything passes through a [`Summary`], whose texts are one line each and free of control characters; `language` and
//! `outputs` turn it into text, purely, and escape what that CI would take for more than text. [`Publisher`] writes it.

mod language;
mod markdown;
mod outputs;
mod publisher;
mod summary;

pub use publisher::{Publisher, set_outputs};
pub use summary::{Level, Message, Summary};

#[cfg(test)]
mod tests;
