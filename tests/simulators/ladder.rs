//! What the runners of GitHub Actions and of Azure Pipelines do alike, having one origin.

use std::time::Duration;

use nix::sys::signal::Signal::{self, SIGKILL};

use super::{Job, processes};
use crate::support::{Exit, Running};

/// How long a runner waits for the output of a process that has ended.
const OUTPUT: Duration = Duration::from_secs(5);

/// Signals and the time after each, to the entry process alone, and so the kill, whatever the method in the sources is
/// called.
pub fn climb(entry: &Running, ladder: [(Signal, Duration); 2]) {
    for (signal, time) in ladder {
        entry.signal(signal);
        if entry.ends_within(time) {
            return;
        }
    }
    entry.signal(SIGKILL);
    entry.ends_within(OUTPUT);
}

/// A step has ended once its output has, too.
pub fn end(step: Running) -> Exit {
    step.closes_within(OUTPUT);
    step.wait(OUTPUT)
}

/// Runs what comes after the job's script, each in the time that all of it has.
pub fn clean_up(job: &Job, time: Duration, start: impl Fn(&str, &str) -> Running) -> Vec<Exit> {
    let steps = job.cleanups().iter().enumerate().map(|(number, script)| {
        let step = start(&format!("cleanup-{number}"), script);
        step.ends_within(time);
        end(step)
    });
    steps.collect()
}

/// Kills whoever still carries the job's variable.
pub fn hunt(variable: &str, value: &str) {
    for orphan in processes::with_variable(variable, value) {
        processes::signal(orphan, SIGKILL);
    }
}
