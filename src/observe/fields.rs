//! The fields of a record in hclog's plain format.

use std::sync::LazyLock;

use regex_lite::Regex;

use crate::text::escaped;

/// Most fields of a record. Terraform's have some forty; each may take a look at the rest of the line.
const MOST: usize = 256;
/// So many bytes are looked at for them, all looks together: forty fields of 25 kB. What a run writes into its log itself must
/// not keep tfguard busy.
const MOST_LOOKED: usize = 1024 * 1024;

/// Fields gathered from a record's first line and its continuation lines.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) done: Vec<(String, String)>,
    pub(crate) torn: bool,
    looked: usize,
    /// The last field is a value of several lines, still open.
    multiline: bool,
}

impl Fields {
    /// Parses ` key=value` pairs; stops at the first thing that is none.
    pub(crate) fn inline(&mut self, mut text: &str) {
        loop {
            text = text.trim_start_matches(' ');
            if text.is_empty() || self.torn {
                return;
            }
            self.looked += text.len();
            if self.looked > MOST_LOOKED {
                self.torn = true;
                return;
            }
            match pair(text) {
                Some((key, value, rest)) if self.done.len() < MOST => {
                    self.done.push((key.to_owned(), value));
                    text = rest;
                }
                _ => self.torn = true,
            }
        }
    }

    /// Takes a continuation line: `  key=`, `  | a line of its value`, or two spaces and then further pairs.
    ///
    /// hclog writes a value's last line alike whether it ends with a newline or not, so that newline is lost. It leaves
    /// the quotes here as they are, so `\"` is what the value says; its other escapes, of control characters, cannot be
    /// told from a backslash of the value, which is far likelier in JSON. So the lines are taken as they stand.
    pub(crate) fn continuation(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("  ") else {
            // Raw text of a message with newlines, or of somebody else.
            self.multiline = false;
            return;
        };
        if let Some(value) = rest.strip_prefix("| ") {
            if let (true, Some((_, last))) = (self.multiline, self.done.last_mut()) {
                if !last.is_empty() {
                    last.push('\n');
                }
                last.push_str(value);
            }
        } else if rest.is_empty() || rest.starts_with(' ') {
            self.multiline = false;
            self.inline(rest);
        } else if let Some(key) = rest.strip_suffix('=').filter(|key| is_key(key)) {
            self.done.push((key.to_owned(), String::new()));
            self.multiline = true;
        }
    }
}

/// Cuts `message: key=value …` before the first thing that looks like a field.
pub(crate) fn split_message(text: &str) -> (&str, &str) {
    for (at, _) in text.match_indices(": ") {
        let tail = &text[at + 2..];
        let key = tail.bytes().take_while(is_of_key).count();
        if key > 0 && tail[key..].starts_with('=') {
            return (&text[..at], tail);
        }
    }
    // `message:` and nothing else: all its fields are on continuation lines.
    (text.strip_suffix(':').unwrap_or(text), "")
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| is_of_key(&byte))
}

fn is_of_key(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-@".contains(byte)
}

/// The first pair of `text`, its value decoded, and what follows.
///
/// hclog escapes quotes, but no backslashes: `\\"` is a backslash and an escaped quote. A list such as `["a b", 3]` has Go's
/// `strconv.Quote` inside. Elsewhere hclog writes no quote, so one there is a piece of another record.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    static PAIR: LazyLock<Regex> = LazyLock::new(|| {
        let quoted = r#""((?:[^"\\]|\\+"|\\+[^"\\])*)"(?: |$)"#;
        let list = r#"\[(?:[^\]"]|"(?:[^"\\]|\\.)*")*\]|\[[^ ]*"#;
        Regex::new(&format!(r#"(?s)^([\w.@-]+)=(?:{quoted}|({list})|([^ "]*)(?: |$))"#)).expect("a pattern")
    });
    let found = PAIR.captures(text)?;
    let value = match (found.get(2), found.get(3).or(found.get(4))) {
        (Some(quoted), _) => unescape(quoted.as_str()),
        (None, plain) => plain?.as_str().to_owned(),
    };
    Some((found.get(1)?.as_str(), value, &text[found.get(0)?.end()..]))
}

/// Undoes hclog's `writeEscapedForOutput`. What is none of its escapes stays, since it writes backslashes as they are.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escape.chars();
        match escaped(&mut chars).filter(|_| !escape.starts_with('\\')) {
            Some(char) => {
                out.push(char);
                rest = chars.as_str();
            }
            None => {
                out.push('\\');
                rest = escape;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inline(text: &str) -> (Vec<(String, String)>, bool) {
        let mut fields = Fields::default();
        fields.inline(text);
        (fields.done, fields.torn)
    }

    /// hclog's `writeEscapedForOutput` with `escapeQuotes`, for what `strconv.IsPrint` and Rust agree on.
    fn quote(value: &str) -> String {
        let mut out = String::from("\"");
        for char in value.chars() {
            match char {
                '"' => out.push_str("\\\""),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                '\x07' => out.push_str("\\a"),
                '\u{7f}' => out.push_str("\\u007f"),
                char if char < ' ' => out.push_str(&format!("\\x{:02x}", u32::from(char))),
                '\u{feff}' => out.push_str("\\ufeff"),
                '\u{e0001}' => out.push_str("\\U000e0001"),
                char => out.push(char),
            }
        }
        out + "\""
    }

    proptest! {
        #[test]
        fn quoted_values_survive(values in prop::collection::vec(r#"([ -\[\]-~"é€\t\r\x07\x01\x7f\u{feff}\u{e0001}=]|: ){0,12}"#, 1..5)) {
            let text: String = values
                .iter()
                .enumerate()
                .map(|(n, value)| format!(" key.{n}={}", quote(value)))
                .collect();
            let expected: Vec<_> =
                values.iter().enumerate().map(|(n, value)| (format!("key.{n}"), value.clone())).collect();
            prop_assert_eq!(inline(&text), (expected, false));
        }

        #[test]
        fn no_text_makes_it_panic(text in r#"[ -~\\"=:xuU0-9\[\]é\n]{0,60}"#) {
            let mut fields = Fields::default();
            fields.inline(split_message(&text).1);
            text.lines().for_each(|line| fields.continuation(line));
            unescape(&text);
        }
    }

    #[test]
    fn lists_and_backslashes_are_kept_as_written() {
        let (fields, torn) = inline(r#" a=["x y", "q\"]"] b=[3, 4] c=DOMAIN\user@host d="a\\"b" e=[open f="C:\qux x""#);
        assert!(!torn);
        let values: Vec<_> = fields.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, [r#"["x y", "q\"]"]"#, "[3, 4]", r"DOMAIN\user@host", "a\\\"b", "[open", r"C:\qux x",]);
    }

    #[test]
    fn a_pair_that_is_none_ends_the_fields() {
        for text in ["a=1 b", "a=1 =2", "a=1 b=\"open", "a=1 b=\"x\"y=2", "a=1 b=x\"y", "a=1 b c=2"] {
            assert_eq!(inline(text), (vec![("a".to_owned(), "1".to_owned())], true), "{text}");
        }
    }

    /// Guards against a line that takes seconds: of those that have no end, and of what could begin the fields, each would be
    /// looked for to the end of the line.
    #[test]
    fn a_long_line_is_read_once_and_not_once_for_each_of_its_words() {
        for word in ["a=[ ", "a=[\"x ", "a=1 "] {
            let (fields, torn) = inline(&word.repeat(16 * 1024));
            assert!(torn && fields.len() <= MOST, "{word:?}: {} fields", fields.len());
            let mut fields = Fields::default();
            fields.inline(&word.repeat(16 * 1024));
            assert!(fields.looked <= MOST_LOOKED + 16 * 1024 * word.len(), "{word:?}: {}", fields.looked);
        }
        for word in [": ", ": a ", ": =", ": a b="] {
            let text = word.repeat(1024 * 1024);
            assert!(split_message(&text).0.len() >= text.trim_end().len() - 1, "{word}");
        }
    }

    #[test]
    fn a_message_ends_where_its_fields_begin() {
        for (text, message, tail) in [
            ("Locked: a.b=1 c=2", "Locked", "a.b=1 c=2"),
            ("failed: not a field: k=v", "failed: not a field", "k=v"),
            ("no fields: at all", "no fields: at all", ""),
            ("HTTP Request Sent:", "HTTP Request Sent", ""),
        ] {
            assert_eq!(split_message(text), (message, tail));
        }
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(r"a\q\x4\u12\x+1\"), r"a\q\x4\u12\x+1\");
        assert_eq!(unescape(r#"\"\n\x41\u00e9\U0001f600\ud800"#), "\"\nAé😀\\ud800");
    }
}
