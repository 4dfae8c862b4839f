//! How CI systems end jobs: each cancels as its own source says it does, with the same signals to the same processes in
//! the same order at the same intervals, with the variables, shells, process groups and descriptors that a job has there.
//!
//! ```ignore
//! let job = Job::new(&project, "exec tfguard -- terraform apply -auto-approve").cleanup("tfguard release --wait 1m");
//! let started = GitHub::default().start(job);
//! started.log().wait_for_stdout("asleep", SOON);
//! let ended = started.cancel();
//! ```
//!
//! None of them looks at what it runs, so whatever a pipeline can say can be tried in each. What a CI leaves running is
//! left running: whether anything is, is for the test to ask.

mod azure;
mod buildkite;
mod container;
mod docker;
mod github;
mod gitlab;
mod jenkins;
mod job;
mod ladder;
mod processes;
mod systemd;

pub use azure::{Azure, Task};
pub use buildkite::Buildkite;
pub use container::Container;
pub use docker::DockerStop;
pub use github::{GitHub, Shell};
pub use gitlab::{GitLabDocker, GitLabKubernetes, GitLabShell, GitLabSteps, GitLabUser};
pub use jenkins::Jenkins;
pub use job::{Ended, Job, Started};
pub use systemd::Systemd;
