//! Whether Terraform says, on its stdout or stderr, that it was interrupted.

use memchr::memmem;

/// Bytes kept from one chunk to the next: more than any text that is looked for, with what must stand around it.
const OVERLAP: usize = 512;

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
    for at in memmem::find_iter(text, b" received.") {
        let (before, after) = (&text[..at], &text[at + b" received.".len()..]);
        if let Some(before) = before.strip_suffix(b"Two interrupts") {
            found.twice |= prefixed || begins(before) && skip_words(after, &["Exiting", "immediately."]).is_some();
        } else if let Some(before) = before.strip_suffix(b"Interrupt") {
            found.received |= prefixed
                || begins(before)
                    && skip_words(after, &["Please", "wait", "for"])
                        .and_then(|rest| skip_words(rest, &["Terraform"]).or_else(|| skip_words(rest, &["OpenTofu"])))
                        .is_some_and(|rest| skip_words(rest, &["to", "exit"]).is_some());
        }
    }
}

/// Whether a line, or the message of a `-json` line, begins after `before`.
fn begins(mut before: &[u8]) -> bool {
    while let Some(rest) = before.strip_suffix(br"\n") {
        before = rest;
    }
    // Inside a string of JSON these quotes would have backslashes.
    if let Some(rest) = before.strip_suffix(br#""@message":""#) {
        return matches!(rest.last(), Some(b'{' | b','));
    }
    while let Some(rest) = strip_colour(before) {
        before = rest;
    }
    before.last() == Some(&b'\n')
}

/// Takes an SGR sequence such as `ESC [ 0 ; 1 m` off the end.
fn strip_colour(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_suffix(b"m")?;
    while let [head @ .., b'0'..=b'9' | b';'] = rest {
        rest = head;
    }
    rest.strip_suffix(b"\x1b[")
}

/// What follows these words, if `text` begins with them, each after white space, which may be escaped as in JSON.
fn skip_words<'a>(mut text: &'a [u8], words: &[&str]) -> Option<&'a [u8]> {
    for word in words {
        let spaced = text;
        while let Some(rest) = text
            .strip_prefix(br"\n")
            .or_else(|| text.strip_prefix(b" "))
            .or_else(|| text.strip_prefix(b"\r"))
            .or_else(|| text.strip_prefix(b"\n"))
        {
            text = rest;
        }
        if text.len() == spaced.len() {
            return None;
        }
        text = text.strip_prefix(word.as_bytes())?;
    }
    Some(text)
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
