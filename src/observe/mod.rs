//! What Terraform says about itself: locks and phases from its log, interrupts from its output.
//!
//! All of it is pure: bytes, records and times go in, facts come out. [`Observer`] is the whole chain for one child:
//!
//! ```text
//! log bytes ─▶ hclog::Splitter ─▶ locks::read ─▶ locks::Expectations ─▶ Ledger ─▶ Left
//!                     ├─▶ requests::Requests ─────────┘   └──────────▶ Traces
//!                     └─────────▶ phase::Marker ─▶ PhaseTracker
//!                     └─ Starting apply ─┐
//! stdout ────────────────────────────────┴─▶ Resources
//! stdout, stderr ─▶ InterruptScanner
//! ```

mod fields;
mod hclog;
mod interrupt;
pub mod item;
mod ledger;
mod lines;
mod locks;
mod observer;
mod phase;
mod refusal;
mod requests;
mod resources;
mod traces;

pub use hclog::{Level, Record, Splitter};
pub use interrupt::{InterruptScanner, Interrupts};
pub use ledger::{Ending, Ledger, Left};
pub use locks::{Expectations, LockEvent, LoggedPlace, Refusal, Refused, read};
pub use observer::{Asked, Believed, Fact, Migration, Observer};
pub use phase::{Marker, PhaseTracker};
pub use refusal::{PrintedHolder, PrintedRefusal};
pub use resources::{Action, Change, End, Id, Resources};
