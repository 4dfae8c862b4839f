//! One shared file, rewritten so that the Rust SDK reads in it what Terraform's SDK for Go does.
//!
//! The SDK for Go forgives nearly everything (`internal/ini` there); the Rust SDK gives up a file at the first line that
//! it does not understand, drops what is not UTF-8, and ignores profiles with a blank or a letter such as `é` in the name.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

const BLANK: [char; 2] = [' ', '\t'];

/// The content of a shared file for the Rust SDK. `dir` is Terraform's directory, to which what profiles name is relative.
///
/// Left out is what the SDK for Go passes over: lines that are nothing, properties before the first section or without a
/// name. A line that begins with blanks is a property like any other, unless it stands below one without a value.
pub(super) fn rewritten(content: &[u8], dir: &Path) -> String {
    let content = String::from_utf8_lossy(content);
    let mut text = String::new();
    let mut in_section = false;
    // Whether the last property of this section has a value.
    let mut last: Option<bool> = None;
    for line in content.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || line.trim_start_matches(BLANK).starts_with(['#', ';']) {
            continue;
        }
        if let Some((kind, name)) = section(trimmed) {
            in_section = !name.is_empty();
            last = None;
            match kind {
                _ if !in_section => {}
                "" => _ = writeln!(text, "[{}]", alias(name)),
                // The name of a session is that of its token's file, too.
                "sso-session" => _ = writeln!(text, "[{kind} {name}]"),
                "profile" | "services" => _ = writeln!(text, "[{kind} {}]", alias(name)),
                // In a file of credentials, a name of several words.
                _ => _ = writeln!(text, "[{}]", alias(&format!("{kind} {name}"))),
            }
            continue;
        }
        if !in_section {
            continue;
        }
        let indented = line.starts_with(BLANK);
        let below = if indented { last } else { None };
        // What stands below another property has no comments.
        let whole = if indented { trimmed } else { without_comment(trimmed) };
        match (split(whole), below) {
            (None, Some(true)) => _ = writeln!(text, "  {trimmed}"),
            (None, _) => {}
            (Some((key, value)), Some(false)) if is_plain(&key) => _ = writeln!(text, "  {key} = {value}"),
            (Some(_), Some(false)) => {}
            (Some((key, value)), _) => {
                let value = value_of(&key, without_comment(&value).trim(), dir);
                last = is_plain(&key).then_some(!value.is_empty());
                if last.is_some() {
                    _ = writeln!(text, "{key} = {value}");
                }
            }
        }
    }
    text
}

/// The name by which the Rust SDK knows a profile: another one where it does not take the real one.
pub(super) fn alias(name: &str) -> Cow<'_, str> {
    if is_plain(name) {
        return name.into();
    }
    name.bytes().fold("tfguard:".to_owned(), |alias, byte| format!("{alias}{byte:02x}")).into()
}

/// Whether the Rust SDK takes this for a name (`validate_identifier` there). It drops properties with others.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || "_-/.%@:+".contains(char))
}

/// The kind and the name in a section's first line; the kind is empty where there is one word only.
fn section(line: &str) -> Option<(&str, &str)> {
    let line = line.split(['#', ';']).next().unwrap_or_default().trim();
    let inner = line.strip_prefix('[')?.strip_suffix(']')?.trim();
    Some(inner.split_once(BLANK).map_or(("", inner), |(kind, name)| (kind, name.trim_start_matches(BLANK))))
}

/// Name, in small letters, and value, without the quotes around it.
fn split(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once(['=', ':'])?;
    let value = value.trim();
    let quoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let value = quoted.filter(|inner| !inner.is_empty()).unwrap_or(value);
    Some((key.trim().to_lowercase(), value.replace("\\\"", "\"").replace("\\'", "'")))
}

fn without_comment(line: &str) -> &str {
    let starts = [" #", " ;", "\t#", "\t;"].into_iter().filter_map(|start| line.find(start));
    starts.min().map_or(line, |end| &line[..end])
}

/// A value as the Rust SDK needs it: names of profiles as it knows them, and nothing relative to tfguard's directory.
fn value_of<'a>(key: &str, value: &'a str, dir: &Path) -> Cow<'a, str> {
    match key {
        _ if value.is_empty() => value.into(),
        "source_profile" | "services" => alias(value),
        "web_identity_token_file" => dir.join(value).display().to_string().into(),
        "credential_process" => format!("cd {} && {value}", shell_words::quote(&dir.display().to_string())).into(),
        _ => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
    use aws_types::os_shim_internal::{Env, Fs};
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(content: &str, expected: &str) {
        assert_eq!(rewritten(content.as_bytes(), Path::new("/in fra")), expected, "{content:?}");
    }

    #[test]
    fn what_is_well_formed_stays_as_it_is() {
        let config = "[default]\nregion = r\n[profile a]\nsource_profile = b\nservices = x\n[sso-session s]\n\
            sso_region = r\n[services x]\ns3 =\n  endpoint_url = http://h:1/p\ndynamodb =\n  endpoint_url = http://h:2\n";
        check(config, &config.replace("=\n", "= \n"));
    }

    #[test]
    fn indented_properties_are_properties_unless_they_stand_below_an_empty_one() {
        check(
            "  [default]\n  a = 1\n\tB=2 # no\r\n\n  c = 3 4\n   more\n",
            "[default]\na = 1\nb = 2\nc = 3 4\n  more\n",
        );
        check(
            "[services x]\n  s3 =\n    Endpoint_URL = 'http://h'\n    = no\n    junk\n",
            "[services x]\ns3 = \n  endpoint_url = http://h\n",
        );
    }

    #[test]
    fn what_is_nothing_is_passed_over() {
        check("x = 1\njunk\n[]\ny = 2\n[a] junk\n[default] ; yes\n= v\njunk\nk : v;w\n", "[default]\nk = v;w\n");
        let latin = rewritten(b"# caf\xe9\n[default]\nk = v\n", Path::new("/"));
        assert_eq!(latin, "[default]\nk = v\n");
    }

    proptest! {
        /// One line that the SDK does not understand costs all of the file.
        #[test]
        fn the_sdk_understands_whatever_comes_of_a_file(content in "(\\[a|[a\\]] ?|[\\[\\]=:#; \\t\\n\\rab\"'\u{e9}-]){0,60}") {
            let text = rewritten(content.as_bytes(), Path::new("/x"));
            for kind in [EnvConfigFileKind::Config, EnvConfigFileKind::Credentials] {
                let files = EnvConfigFiles::builder().with_contents(kind, text.as_str()).build();
                let (fs, env) = (Fs::from_slice(&[]), Env::from_slice(&[]));
                let loaded = aws_config::profile::load(&fs, &env, &files, None).now_or_never().unwrap();
                prop_assert!(loaded.is_ok(), "{content:?} {text:?} {loaded:?}");
            }
        }
    }

    #[test]
    fn names_that_the_sdk_does_not_know_get_another_one() {
        check(
            "[profile  a b]\nsource_profile = c d\n[c d]\n",
            "[profile tfguard:612062]\nsource_profile = tfguard:632064\n[tfguard:632064]\n",
        );
        check("[profile é]\n", "[profile tfguard:c3a9]\n");
    }

    #[test]
    fn what_a_profile_names_is_relative_to_terraforms_directory() {
        check(
            "[a]\nweb_identity_token_file = tok\ncredential_process = ./p \"x y\"\n[b]\ncredential_process =\n",
            "[a]\nweb_identity_token_file = /in fra/tok\ncredential_process = cd '/in fra' && ./p \"x y\"\n\
             [b]\ncredential_process = \n",
        );
    }
}
