//! The test bed: real Terraforms, an AWS API on loopback, a proxy that injects faults, and processes that end with
//! their test.
//!
//! Nothing here depends on the test harness, so that an example can use it through `#[path]`.
//!
//! ```ignore
//! let aws = Aws::shared();
//! let project = Project::new(aws, Kind::Sleep).table().init(&Tools::get().any_terraform());
//! let run = project.terraform(["apply", "-auto-approve"]).start();
//! run.wait_for_stdout("asleep", Duration::from_secs(30));
//! run.signal(Signal::SIGKILL);
//! run.wait(Duration::from_secs(10));
//! assert!(project.lock().is_some());
//! ```

mod aws;
mod black_hole;
mod gcs_server;
mod guard;
mod iam;
mod lock_info;
mod program;
mod programs;
mod project;
mod provider;
mod proxy;
mod run;
mod server;
mod state_server;
mod tools;
mod watched;

pub use aws::{Aws, listening};
pub use black_hole::BlackHole;
pub use gcs_server::GcsServer;
pub use guard::{Guard, kill, kill_guards, pid_of};
pub use iam::Iam;
pub use lock_info::LockInfo;
pub use program::make_program;
pub use programs::Product;
pub use project::{Kind, Project, saying_yes, session_dirs};
pub use provider::aws_provider_mirror;
pub use proxy::{Action, Answer, FaultProxy, Gate, Match, Seen};
pub use run::{Exit, Run, Running, Stdin};
pub use server::{Reply, Server};
pub use state_server::{Flavour, StateServer};
pub use tools::{Tools, terraform_on_path};
pub use watched::Watched;

/// Says it, not by a macro, whose words the harness keeps to itself where a test passes.
pub fn skipped(what: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("SKIPPED: {what}\n").as_bytes());
}
