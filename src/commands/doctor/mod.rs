//! `tfguard doctor`: looks before anybody needs it. What it looks at is gathered first (place, signals, program, table,
//! bucket, probes); what follows is decided by functions without I/O. It changes nothing: each request that would write
//! has a condition that cannot hold, and a name that nobody uses.

mod access;
mod bucket;
mod credentials;
mod finding;
mod permissions;
mod place;
mod policy;
mod probes;
mod program;
mod render;
mod run;
mod settings;
mod signals;
mod table;

pub use access::{Access as PermissionAccess, Tried};
pub use finding::{Area, Finding, Severity};
pub use permissions::{Audience, Features, Need, On, Permission, needed};
pub use policy::{KeyPattern, Policy, Subject};
pub use run::{Args, run};
