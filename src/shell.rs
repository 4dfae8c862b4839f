//! Commands that people copy into a shell.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::say::harmless;

/// A word as a shell takes it, in the same bytes: quoted where it has to be. What a terminal or a CI would not show as
/// it is (a line end, what turns the direction of writing, `##`) is written as `$'\ooo'`, which bash, ksh, zsh and
/// POSIX.1-2024 know.
#[must_use]
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

/// Words as one command line.
#[must_use]
pub fn join(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    words.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// The order to run a command in a directory, if that is known.
#[must_use]
pub fn run_in(directory: Option<&Path>, command: &str) -> String {
    format!("run in {}: {command}", directory.map_or_else(|| "its directory".to_owned(), quote))
}

/// `tfguard unlock` of a lock by its ID, or of what is no lock.
#[must_use]
pub fn unlock(id: Option<&str>, flags: &[String]) -> String {
    let command = match id {
        None => vec!["--broken"],
        // It is somebody's text, and would be taken for an option.
        Some(id) if id.starts_with('-') => {
            let before = flags.iter().map(String::as_str);
            return join(["tfguard", "unlock"].into_iter().chain(before).chain(["--", id]));
        }
        Some(id) => vec![id],
    };
    join(["tfguard", "unlock"].into_iter().chain(command).chain(flags.iter().map(String::as_str)))
}

/// An address as it may be written down and shown: without its user information, which can be a password (P7).
#[must_use]
pub fn without_user(url: String) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => url,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

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
    fn an_id_is_never_an_option() {
        let flags = ["--workspace".to_owned(), "blue".to_owned()];
        assert_eq!(unlock(Some("a"), &flags), "tfguard unlock a --workspace blue");
        assert_eq!(unlock(Some("--broken"), &flags), "tfguard unlock --workspace blue -- --broken");
        assert_eq!(unlock(None, &[]), "tfguard unlock --broken");
    }
}
