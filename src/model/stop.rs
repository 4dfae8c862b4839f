//! The requests to stop a run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Somebody wants the run to stop. Requests are counted, signals are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StopRequest {
    /// tfguard received a signal.
    Signal {
        /// The signal's name, such as `SIGTERM`.
        name: String,
        /// The sending process where the kernel tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_pid: Option<i32>,
        /// Whether the supervisor itself was hit, not only the front. Nobody knows its pid, so somebody is signalling
        /// every process there is (GitLab's docker executor does), Terraform among them.
        #[serde(default)]
        everybody: bool,
    },
    /// The front is gone: its control socket closed.
    FrontDied,
    /// A process that waited for tfguard is gone: its parent (`run: tfguard …` without `exec` on GitHub Actions), or one
    /// above that (the shell below the `su` of GitLab's shell executor).
    ParentDied,
    /// The cleanup step of the job, `tfguard release`, asks.
    Release,
    /// The guard around this one was asked to stop, and asks all guards below it.
    Outer {
        /// What is left until it kills; none where it could not say.
        left: Option<Duration>,
    },
    /// The child died over a lock, and a Terraform that it had started lives on (a script's).
    ChildDied,
    /// The time given by `--deadline` is over.
    Deadline,
    /// The backend's credentials are about to end (`--before-expiry`).
    CredentialsEnd {
        /// When they do.
        end: jiff::Timestamp,
    },
}

impl std::fmt::Display for StopRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal { name, from_pid: Some(pid), .. } => write!(f, "{name} from process {pid}"),
            Self::Signal { name, .. } => f.write_str(name),
            Self::FrontDied => f.write_str("the tfguard process of the CI step was killed"),
            Self::ParentDied => f.write_str("a process that waited for tfguard ended"),
            Self::Release => f.write_str("tfguard release"),
            Self::Outer { .. } => f.write_str("the tfguard around this one"),
            Self::ChildDied => f.write_str("the command died, and a Terraform that it had started is still at work"),
            Self::Deadline => f.write_str("--deadline reached"),
            Self::CredentialsEnd { end } => write!(f, "the AWS credentials end at {end:.0}"),
        }
    }
}
