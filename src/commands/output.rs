//! What a command found, on stdout.

use std::io::{self, Write as _};

use super::Failure;
use crate::say::{harmless, without_commands};

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// When stdout cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// A text of somebody else's making, fit for a terminal: control characters, line ends too, and those that turn the
/// direction of the text are replaced, what would give an order to a CI does not, and what is very long is cut.
#[must_use]
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 512;
    let mut shown: String = text.chars().take(LONGEST).map(harmless).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    without_commands(&shown)
}

/// JSON that a terminal and a CI can be shown, too: what [`printable`] replaces is escaped, so that the value stays what
/// it is.
///
/// # Errors
/// When the value cannot be written as JSON.
pub fn to_json(value: &impl serde::Serialize) -> io::Result<String> {
    let text = serde_json::to_string(value)?;
    if !text.contains("##") && text.chars().all(|char| harmless(char) == char) {
        return Ok(text);
    }
    // Such characters stand in strings only, and all of them are of the basic plane.
    let mut before = None;
    Ok(text.chars().fold(String::with_capacity(text.len()), |mut escaped, char| {
        if harmless(char) == char && (char, before.replace(char)) != ('#', Some('#')) {
            escaped.push(char)
        } else {
            escaped += &format!("\\u{:04x}", u32::from(char))
        }
        escaped
    }))
}

/// The same as [`printable`] for a text that must not be cut.
pub(crate) fn printable_whole(text: &str) -> String {
    without_commands(&printable_command(text))
}

/// The same for a command to run, which is to stay what it is.
pub(super) fn printable_command(text: &str) -> String {
    text.chars().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_the_value_and_steers_nothing() {
        let text = "a\u{1b}[2J\n\u{9b}\u{202e}\u{7f}ä𝄞 # ##[a] ###";
        let json = to_json(&text).unwrap();
        assert!(json.chars().all(|char| harmless(char) == char) && !json.contains("##"), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn what_could_steer_a_terminal_is_replaced() {
        assert_eq!(printable("runner@büild-7"), "runner@büild-7");
        assert_eq!(
            printable("a\u{1b}[2Jb\r\nc\u{9b}d\u{202e}e\u{7f}"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}"
        );
        assert_eq!(printable(&"x".repeat(600)).chars().count(), 513);
    }
}
