//! Whether what tfguard writes is shown in colours.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use rustix::fs::FileType;

use crate::ci::system::System;
use crate::model::Environment;

/// Where text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Onto {
    Terminal,
    /// Whoever started tfguard reads it. In a CI that is the job's log, or a script.
    Pipe,
    File,
}

/// Whether tfguard's messages on this stream have colours: on a terminal, and in the log of a CI that shows them.
/// `NO_COLOR` turns them off, `CLICOLOR_FORCE` on.
pub fn colours_messages(stream: impl AsFd + IsTerminal) -> bool {
    is_coloured(&Environment::own(), onto(stream), true)
}

/// The same for what a command found, which a script may read: a pipe in a CI gets no colours.
pub fn colours_results(stream: impl AsFd + IsTerminal) -> bool {
    is_coloured(&Environment::own(), onto(stream), false)
}

fn onto(stream: impl AsFd + IsTerminal) -> Onto {
    let kind = rustix::fs::fstat(&stream).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        _ if stream.is_terminal() => Onto::Terminal,
        Ok(FileType::Fifo | FileType::Socket) => Onto::Pipe,
        _ => Onto::File,
    }
}

fn is_coloured(env: &Environment, onto: Onto, in_ci: bool) -> bool {
    if env.has("NO_COLOR") {
        return false;
    }
    if env.get("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
        return true;
    }
    if onto == Onto::Terminal && env.get("TERM").is_some_and(|terminal| terminal != "dumb") {
        return true;
    }
    in_ci && onto != Onto::File && System::detect(env).is_some_and(|system| system.shows_colours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_those_who_see_them() {
        use Onto::{File, Pipe, Terminal};
        for (variables, onto, messages, results) in [
            (&[("TERM", "xterm")][..], Terminal, true, true),
            (&[("TERM", "dumb")], Terminal, false, false),
            (&[], Terminal, false, false),
            (&[("TERM", "xterm")], Pipe, false, false),
            (&[("TERM", "xterm")], File, false, false),
            (&[("GITHUB_ACTIONS", "true")], Pipe, true, false),
            (&[("GITLAB_CI", "true")], Pipe, true, false),
            (&[("TF_BUILD", "True")], Pipe, true, false),
            (&[("BUILDKITE", "true")], Terminal, true, false),
            (&[("GITHUB_ACTIONS", "true")], File, false, false),
            (&[("JENKINS_URL", "http://j/")], Pipe, false, false),
            (&[("CI", "true")], Pipe, false, false),
            (&[("GITHUB_ACTIONS", "true"), ("NO_COLOR", "1")], Pipe, false, false),
            (&[("TERM", "xterm"), ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], Terminal, false, false),
            (&[("TERM", "xterm"), ("NO_COLOR", "")], Terminal, true, true),
            (&[("CLICOLOR_FORCE", "1")], File, true, true),
            (&[("CLICOLOR_FORCE", "0")], Pipe, false, false),
        ] {
            let env = variables.iter().copied().collect();
            let found = [true, false].map(|in_ci| is_coloured(&env, onto, in_ci));
            assert_eq!(found, [messages, results], "{variables:?} {onto:?}");
        }
    }
}
