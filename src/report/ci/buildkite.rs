//! Buildkite: what its agent is told to put on the build's page.

use crate::report::ci::markdown;
use crate::report::ci::summary::{Level, Summary};

/// An annotation of the build.
#[derive(Debug, PartialEq, Eq)]
pub struct Annotation {
    /// The arguments of `buildkite-agent`.
    pub args: [String; 5],
    /// The Markdown that it reads from its stdin.
    pub body: String,
}

/// The annotation for these runs, none if there is nothing to say of them. It belongs to the whole build, where other jobs
/// have theirs: `job` is this one's ID.
pub fn annotation(summaries: &[Summary], job: &str) -> Option<Annotation> {
    let style = match Summary::level_of(summaries)? {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Notice => "info",
    };
    let args = ["annotate", "--style", style, "--context", &format!("tfguard-{job}")].map(str::to_owned);
    Some(Annotation { args, body: markdown::section(summaries)? })
}
