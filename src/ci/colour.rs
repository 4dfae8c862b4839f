//! Whether what tfguard writes is shown in colours.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use rustix::fs::FileType;

use crate::ci::system::System;
use crate::model::Environment;

/// Whether tfguard's messages on this stream have colours: on a terminal, and in the log of a CI that shows them.
/// `NO_COLOR` turns them off, `CLICOLOR_FORCE` on.
pub fn colours_messages(stream: impl AsFd + IsTerminal) -> bool {
    // Whoever started tfguard reads it: in a CI that is the job's log, or a script.
    let kind = rustix::fs::fstat(&stream).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let is_terminal = stream.is_terminal();
    let is_read = is_terminal || matches!(kind, Ok(FileType::Fifo | FileType::Socket));
    is_coloured(&Environment::own(), is_terminal, is_read)
}

/// The same for what a command found, which a script may read: a pipe in a CI gets no colours.
pub fn colours_results(stream: impl IsTerminal) -> bool {
    is_coloured(&Environment::own(), stream.is_terminal(), false)
}

/// `in_log`: where a CI may show it.
fn is_coloured(env: &Environment, on_terminal: bool, in_log: bool) -> bool {
    if env.has("NO_COLOR") {
        return false;
    }
    env.get("CLICOLOR_FORCE").is_some_and(|value| value != "0")
        || (on_terminal && env.get("TERM").is_some_and(|terminal| terminal != "dumb"))
        || (in_log && System::detect(env).is_some_and(|system| system.shows_colours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_those_who_see_them() {
        // Whether it is a terminal, and whether somebody reads it.
        const TERMINAL: (bool, bool) = (true, true);
        const PIPE: (bool, bool) = (false, true);
        const FILE: (bool, bool) = (false, false);
        for (variables, (on_terminal, is_read), messages, results) in [
            (&[("TERM", "xterm")][..], TERMINAL, true, true),
            (&[("TERM", "dumb")], TERMINAL, false, false),
            (&[], TERMINAL, false, false),
            (&[("TERM", "xterm")], PIPE, false, false),
            (&[("TERM", "xterm")], FILE, false, false),
            (&[("GITHUB_ACTIONS", "true")], PIPE, true, false),
            (&[("GITLAB_CI", "true")], PIPE, true, false),
            (&[("TF_BUILD", "True")], PIPE, true, false),
            (&[("BUILDKITE", "true")], TERMINAL, true, false),
            (&[("GITHUB_ACTIONS", "true")], FILE, false, false),
            (&[("JENKINS_URL", "http://j/")], PIPE, false, false),
            (&[("CI", "true")], PIPE, false, false),
            (&[("GITHUB_ACTIONS", "true"), ("NO_COLOR", "1")], PIPE, false, false),
            (&[("TERM", "xterm"), ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], TERMINAL, false, false),
            (&[("TERM", "xterm"), ("NO_COLOR", "")], TERMINAL, true, true),
            (&[("CLICOLOR_FORCE", "1")], FILE, true, true),
            (&[("CLICOLOR_FORCE", "0")], PIPE, false, false),
        ] {
            let env = variables.iter().copied().collect();
            let found = [is_read, false].map(|in_log| is_coloured(&env, on_terminal, in_log));
            assert_eq!(found, [messages, results], "{variables:?} {on_terminal} {is_read}");
        }
    }
}
