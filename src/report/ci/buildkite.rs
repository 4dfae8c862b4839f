//! Buildkite: what its agent is told to put on the build's page.

use super::outputs::Outputs;
use super::{Level, Summary, markdown};

/// A call of `buildkite-agent`: its arguments and what it reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    pub args: Vec<String>,
    pub input: String,
}

/// The calls for runs of which there is something to say. `job` and `step` are the job's ID and the step's key: what is
/// annotated and noted belongs to the whole build, where other jobs do the same.
pub fn calls(summaries: &[Summary], job: &str, step: &str) -> Vec<Call> {
    let told: Vec<_> = summaries.iter().filter(|summary| !summary.silent).cloned().collect();
    let Some(level) = told.iter().map(|summary| summary.level).max() else { return Vec::new() };
    let style = match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Notice => "info",
    };
    let call = |args: &[&str], input: String| Call { args: args.iter().map(|arg| (*arg).to_owned()).collect(), input };
    let outputs = Outputs::of(&told);
    let context = format!("tfguard-{job}");
    let mut calls = vec![call(&["annotate", "--style", style, "--context", &context], markdown::section(&told))];
    let mut note = |name: &str, value: &str| {
        // As input, so that no value is taken for an option. An empty one is refused.
        if !value.is_empty() {
            calls.push(call(&["meta-data", "set", &format!("tfguard:{step}:{name}")], value.to_owned()));
        }
    };
    note("outcome", outputs.outcome);
    note("lock-id", outputs.lock_id);
    calls
}
