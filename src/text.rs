//! Text for people and for a shell: quoting, durations, what a terminal or a CI may be shown.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use regex_lite::Regex;

/// A word as a shell takes it, in the same bytes: quoted where it has to be. What a terminal or a CI would not show as
/// it is (a line end, what turns the direction of writing, `##`) is written as `$'\ooo'`, which bash, ksh, zsh and
/// POSIX.1-2024 know.
pub fn quote(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./:@+,".contains(byte);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.bytes().all(|byte| is_plain(&byte)) => text.to_owned(),
        Some(text) if text.chars().all(|char| harmless(char) == char) && !text.contains("##") => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => {
            let shown = |byte: &u8| match byte {
                byte if is_plain(byte) || *byte == b' ' => char::from(*byte).to_string(),
                byte => format!("\\{byte:03o}"),
            };
            format!("$'{}'", word.as_bytes().iter().map(shown).collect::<String>())
        }
    }
}

/// A text as HCL quotes it (`toHCLQuotedString` in Terraform's `internal/addrs/instance_key.go`). What a terminal or a CI would
/// not show as it is, or take for an order, is escaped.
pub fn quote_hcl(text: &str) -> String {
    let text = text.replace('\\', r"\\").replace('"', "\\\"");
    let text = text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
    format!("\"{}\"", with_escapes(&text.replace("${", "$${").replace("%{", "%%{")))
}

/// A text within quotes, of JSON or HCL, with `\uXXXX` for what steers a terminal or gives a CI an order.
pub fn with_escapes(text: &str) -> String {
    let (mut escaped, mut before) = (String::with_capacity(text.len()), None);
    for char in text.chars() {
        let is_order = before.replace(char) == Some('#') && char == '#';
        if is_order || harmless(char) != char {
            // All of them are of the basic plane.
            escaped += &format!("\\u{:04x}", u32::from(char));
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// An error whose hint has a line of its own, as sentences in a line.
pub fn in_a_line(error: &str) -> String {
    error.replace("\nhint: ", ". ")
}

/// Words as one command line.
pub fn join(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    words.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Says which command to run, and in which directory if that is known.
pub fn run_in(directory: Option<&Path>, command: &str) -> String {
    format!("run in {}: {command}", directory.map_or_else(|| "its directory".to_owned(), quote))
}

/// `tfguard unlock` of a lock by its ID, or of what has none of Terraform's.
pub fn unlock(id: Option<&str>, flags: &[String]) -> String {
    let words = ["tfguard", "unlock", id.unwrap_or("--broken")];
    join(words.into_iter().chain(flags.iter().map(String::as_str)))
}

/// An address as it may be written down and shown: without its user information, which can be a password (P7).
pub fn without_user(url: String) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => url,
    }
}

/// A character as it may be shown: itself, or U+FFFD for one that controls something, ends a line, is not to be seen, turns the
/// direction of writing, or cannot be written in XML.
pub fn harmless(char: char) -> char {
    let is_unseen =
        matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let is_harmful = is_unseen || char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}');
    if is_harmful { char::REPLACEMENT_CHARACTER } else { char }
}

/// A text that gives a CI no orders: GitHub's runner and Azure's agent take `##[…]` and `##vso[…]` for such
/// wherever in a line they are, and GitHub's `::…::` where a line begins so (actions/runner, `ActionCommand.cs`;
/// azure-pipelines-agent, `Command.cs`).
pub fn without_commands(text: &str) -> String {
    // Of three in a row the first pass leaves two.
    let text = text.replace("##", "# #").replace("##", "# #");
    let indent = text.len() - text.trim_start().len();
    match text[indent..].strip_prefix("::") {
        Some(rest) => format!("{}: :{rest}", &text[..indent]),
        None => text,
    }
}

/// A duration, or what fits the place tfguard runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Chosen by tfguard.
    Auto,
    /// Chosen by the user.
    Fixed(Duration),
}

impl std::str::FromStr for Setting {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        duration(text).map(Self::Fixed)
    }
}

/// Reads a duration. jiff takes more (ISO 8601, fractions); what is promised is `90s`, `5m`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, DurationError> {
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| *duration <= LONGEST)
        .ok_or(DurationError)
}

/// A longer time than any CI gives, short enough that no sum of such times overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A text that is no duration.
#[derive(Debug, thiserror::Error)]
#[error("write a duration such as `90s`, `5m` or `1h30m` (a year at most), or `auto` where that is offered")]
pub struct DurationError;

/// A duration as people write it.
pub fn describe(duration: Duration) -> String {
    let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    format!("{:#}", SignedDuration::from_millis(millis))
}

/// An age in two units at most: `3d 4h`, `12m 5s`.
pub fn age_in_words(age: Duration) -> String {
    let seconds = age.as_secs();
    let (first, second) = match seconds {
        0..60 => return format!("{seconds}s"),
        60..3600 => ((seconds / 60, "m"), (seconds % 60, "s")),
        3600..86400 => ((seconds / 3600, "h"), (seconds % 3600 / 60, "m")),
        _ => ((seconds / 86400, "d"), (seconds % 86400 / 3600, "h")),
    };
    let of = |(count, unit): (u64, &str)| format!("{count}{unit}");
    if second.0 == 0 { of(first) } else { format!("{} {}", of(first), of(second)) }
}

/// A time, and how long ago it was. Clocks differ: what is still to come is as young as can be.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let age = now.duration_since(at).try_into().unwrap_or_default();
    format!("{} ({} ago)", utc(at), age_in_words(age))
}

/// A time, to the second.
pub fn utc(time: Timestamp) -> impl std::fmt::Display {
    time.strftime("%Y-%m-%d %H:%M:%S UTC")
}

/// A text of somebody else's making, fit for a terminal: control characters, line ends too, and those that turn the
/// direction of the text are replaced, what would give an order to a CI does not, and what is very long is cut.
pub fn printable(text: &str) -> String {
    printable_whole(&shortened(text, 512))
}

/// The same as [`printable`] for a text that must not be cut.
pub(crate) fn printable_whole(text: &str) -> String {
    without_commands(&printable_command(text))
}

/// The same for a command to run, which is to stay what it is.
pub(crate) fn printable_command(text: &str) -> String {
    text.chars().map(harmless).collect()
}

/// A text of at most so many characters, with an ellipsis where it was cut.
pub(crate) fn shortened(text: &str, longest: usize) -> Cow<'_, str> {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// What the variable of a flag says.
pub fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text.to_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Ok(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
        _ => Err("write true or false"),
    }
}

/// A line without its colours: the terminal's SGR sequences, such as `ESC [ 0 ; 1 m`.
pub fn without_colours(line: &str) -> Cow<'_, str> {
    static SGR: LazyLock<Regex> = LazyLock::new(|| Regex::new("\x1b\\[[0-9;]*m").expect("a pattern"));
    if line.contains('\x1b') { SGR.replace_all(line, "") } else { line.into() }
}

/// What an escape of Go or HCL means, read from behind its backslash.
pub fn escaped(chars: &mut std::str::Chars) -> Option<char> {
    let digits = match chars.next()? {
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        'a' => return Some('\u{7}'),
        'b' => return Some('\u{8}'),
        'f' => return Some('\u{c}'),
        'v' => return Some('\u{b}'),
        char @ ('"' | '\\') => return Some(char),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let number = chars.as_str().get(..digits)?;
    *chars = chars.as_str()[digits..].chars();
    // `from_str_radix` would take a sign.
    let is_number = number.bytes().all(|byte| byte.is_ascii_hexdigit());
    char::from_u32(u32::from_str_radix(number, 16).ok().filter(|_| is_number)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ages_are_told_in_two_units_at_most() {
        for (seconds, told) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (725, "12m 5s"), (3600, "1h"), (7265, "2h 1m"), (277_200, "3d 5h")]
        {
            assert_eq!(age_in_words(Duration::from_secs(seconds)), told);
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_read_as_it_is_written(millis in 0..=u64::try_from(LONGEST.as_millis()).unwrap()) {
            let written = Duration::from_millis(millis);
            prop_assert_eq!(duration(&describe(written)).ok(), Some(written), "{}", describe(written));
        }

        /// Whatever is taken for one is a year at most.
        #[test]
        fn no_text_is_too_strange_for_a_duration(
            text in "([0-9]{1,30}|[0-9]\\.[0-9]{1,20}|-|\\+| |P|T|ns|us|ms|s|m|h|d|w|mo|y|e|auto|ago|:|.){0,8}",
        ) {
            let read = duration(&text);
            prop_assert!(read.as_ref().map_or(true, |read| *read <= LONGEST), "{:?}", text);
            let set = text.parse::<Setting>();
            prop_assert!(set.is_ok() == (read.is_ok() || text == "auto"), "{:?}", text);
        }
    }

    #[test]
    fn a_shell_reads_what_was_written_and_nothing_of_it_controls_a_terminal() {
        for word in [
            &b"plain-1.2/x:y"[..],
            b"",
            b"a b",
            b"it's \"$HOME\" `id` $(id) !x {a,b} *?[z] ~ # ; & | < > \\ %1 =x ^",
            b"new\nline\r\t\x1b[31m\x7f it's \\n",
            b"##[add-mask]x",
            "ü 😀 \u{202e}x\u{200b}\u{a0}".as_bytes(),
            b"\xff\xfe",
        ] {
            let quoted = quote(OsStr::from_bytes(word));
            assert!(quoted.chars().all(|char| harmless(char) == char) && !quoted.contains("##"), "{quoted}");
            let shell = Command::new("bash").args(["-c", &format!("printf %s {quoted}")]).output().unwrap();
            assert_eq!(shell.stdout, word, "{quoted}");
        }
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
