//! Whether Terraform says, on its stdout or stderr, that it was interrupted.

use std::sync::LazyLock;

use memchr::memmem;
use regex_lite::Regex;

/// Bytes kept from one chunk to the next: more than any text that is looked for, with what must stand around it.
const OVERLAP: usize = 512;

/// Of these as many are looked at before and behind the words. Half of what is kept.
const AROUND: usize = OVERLAP / 2;

/// Before the words a line begins, or the message of a `-json` line: inside a string of JSON its quotes would have
/// backslashes.
static BEGINS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?:\n(?:\x1b\[[0-9;]*m)*|[{,]"@message":")(?:\\n)*(?:Two interrupts|Interrupt)$"#));
/// What follows the first interrupt's words.
static ONCE: LazyLock<Regex> = LazyLock::new(|| words("Please wait for (?:Terraform|OpenTofu) to exit"));
/// What follows those of the second.
static TWICE: LazyLock<Regex> = LazyLock::new(|| words("Exiting immediately[.]"));

/// A pattern of words, each after white space, which may be escaped as in JSON.
fn words(words: &str) -> Regex {
    pattern(&words.split(' ').fold("^".to_owned(), |words, word| words + r"(?:\\n|[ \r\n])+" + word))
}

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern")
}

/// What Terraform said of interrupts so far. Facts never go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interrupts {
    /// `Interrupt received.`: it has counted one interrupt and is ending gracefully.
    pub received: bool,
    /// `Two interrupts received.`: it has counted two and ends without waiting for what it started.
    pub twice: bool,
}

/// Looks for Terraform's words about interrupts in one of its output streams.
///
/// The words are those of `internal/command/views/operation.go` (Terraform 0.15 to 1.15; OpenTofu names itself in
/// them), printed by themselves or as the message of a `-json` line. They count only at the beginning of a line or
/// message, since a command that Terraform runs may print them too, after `resource (local-exec): `. They may be
/// wrapped, coloured and chopped anywhere.
#[derive(Debug)]
pub struct InterruptScanner {
    tail: Vec<u8>,
    found: Interrupts,
    /// The words count wherever they stand: what runs several Terraforms prefixes their lines, as Terragrunt does.
    prefixed: bool,
}

impl InterruptScanner {
    /// A scanner of one stream. `prefixed`: its lines may have something before Terraform's words.
    pub fn new(prefixed: bool) -> Self {
        // A stream begins with a line.
        Self { tail: b"\n".to_vec(), found: Interrupts::default(), prefixed }
    }

    /// Takes the next bytes of the stream; returns what was found in it so far.
    pub fn feed(&mut self, chunk: &[u8]) -> Interrupts {
        // What lies across the border, then what lies within.
        self.tail.extend_from_slice(&chunk[..chunk.len().min(OVERLAP)]);
        scan(&self.tail, self.prefixed, &mut self.found);
        if chunk.len() > OVERLAP {
            scan(chunk, self.prefixed, &mut self.found);
            self.tail.clear();
            self.tail.extend_from_slice(&chunk[chunk.len() - OVERLAP..]);
        } else {
            let excess = self.tail.len().saturating_sub(OVERLAP);
            self.tail.drain(..excess);
        }
        self.found
    }
}

fn scan(text: &[u8], prefixed: bool, found: &mut Interrupts) {
    let is_match = |pattern: &Regex, text: &[u8]| pattern.is_match(&String::from_utf8_lossy(text));
    for at in memmem::find_iter(text, b" received.") {
        let (before, after) = (&text[at.saturating_sub(AROUND)..at], &text[at + b" received.".len()..]);
        let after = &after[..after.len().min(AROUND)];
        let (is_found, follows) = if before.ends_with(b"Two interrupts") {
            (&mut found.twice, &TWICE)
        } else if before.ends_with(b"Interrupt") {
            (&mut found.received, &ONCE)
        } else {
            continue;
        };
        *is_found = *is_found || prefixed || is_match(follows, after) && is_match(&BEGINS, before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: &str = "\nInterrupt received.\nPlease wait for Terraform to exit or data loss may occur.\nGracefully shutting down...\n";
    const TWICE: &str = "\nTwo interrupts received. Exiting immediately. Note that data loss may have occurred.\n";

    /// The answer, which must not depend on where the text is cut.
    fn look(text: &str) -> (bool, bool) {
        let whole = InterruptScanner::new(false).feed(text.as_bytes());
        for cut in 0..=text.len() {
            let mut scanner = InterruptScanner::new(false);
            scanner.feed(&text.as_bytes()[..cut]);
            assert_eq!(scanner.feed(&text.as_bytes()[cut..]), whole, "cut at {cut}");
        }
        let mut bytewise = InterruptScanner::new(false);
        let last = text.bytes().map(|byte| bytewise.feed(&[byte])).last();
        assert_eq!(last.unwrap_or_default(), whole);
        (whole.received, whole.twice)
    }

    #[test]
    fn terraforms_own_words_count() {
        let json = |text: &str| {
            format!("{{\"@level\":\"info\",\"@message\":{},\"type\":\"log\"}}\n", serde_json::Value::from(text))
        };
        for text in [
            ONCE.to_owned(),
            format!("x: Creating...{ONCE}"),
            ONCE.trim_start().to_owned(),
            ONCE.replace("Terraform", "OpenTofu"),
            ONCE.replace('\n', "\r\n"),
            // As wrapped for a narrow terminal.
            ONCE.replace("wait for ", "wait for\n").replace("to exit", "to\nexit"),
            ONCE.replace("Interrupt", "\x1b[0m\x1b[1;33mInterrupt"),
            json(ONCE),
            json(ONCE.trim()),
        ] {
            assert_eq!(look(&text), (true, false), "{text:?}");
        }
        for text in [
            TWICE.to_owned(),
            TWICE.replace("may have ", "may have\n"),
            TWICE.replace("received. ", "received.\r\n"),
            json(TWICE),
        ] {
            assert_eq!(look(&text), (false, true), "{text:?}");
        }
        assert_eq!(look(&format!("{ONCE}{TWICE}")), (true, true));
    }

    #[test]
    fn the_same_words_from_elsewhere_do_not() {
        let prefixed =
            |prefix: &str| format!("{ONCE}{TWICE}").lines().map(|line| format!("{prefix}{line}\n")).collect::<String>();
        let quoted = serde_json::Value::from(format!("{{\"@message\":{}}}", serde_json::Value::from(ONCE)));
        for text in [
            prefixed("x (local-exec): "),
            prefixed("\x1b[0m\x1b[1mx (local-exec):\x1b[0m \x1b[0m"),
            prefixed("      "),
            prefixed("│ "),
            "Interrupt received.\n".to_owned(),
            "Interrupt received.\nPlease wait for the lift to exit\n".to_owned(),
            "Two interrupts received.\n".to_owned(),
            "{\"@message\":\"x (local-exec): Interrupt received.\\nPlease wait for Terraform to exit\"}".to_owned(),
            "{\"output\":\"Interrupt received.\\nPlease wait for Terraform to exit\"}".to_owned(),
            format!("{{\"@message\":\"said\",\"output\":{quoted}}}"),
        ] {
            assert_eq!(look(&text), (false, false), "{text:?}");
        }
    }

    #[test]
    fn nothing_is_lost_in_a_flood_and_little_is_kept() {
        let mut scanner = InterruptScanner::new(false);
        let flood = b"x (local-exec): Interrupt received.\n".repeat(2000);
        for _ in 0..50 {
            assert_eq!(scanner.feed(&flood), Interrupts::default());
        }
        assert!(scanner.tail.capacity() <= 8 * OVERLAP);
        assert!(scanner.feed(ONCE.as_bytes()).received);
        assert!(scanner.feed(&flood).received);
    }
}
