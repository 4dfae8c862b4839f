//! What a command found, on stdout.

use std::io::{self, Write as _};

use crate::commands::Failure;
use crate::text::harmless;

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

/// JSON that a terminal and a CI can be shown, too: what [`printable`](crate::text::printable) replaces is escaped, so that the value stays what
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
}
