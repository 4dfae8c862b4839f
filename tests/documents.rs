//! The documents and the binary speak of the same options, variables, files and fields. That each command line in them can
//! be typed is tried in `tests/doctor/policies.rs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use serde_json::Value;
use tfguard::cli::Cli;
use tfguard::model::Account;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every document, by its path from the root of the project.
fn documents() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs =
        docs.map(|name| Path::new("docs").join(name)).filter(|path| path.extension().is_some_and(|end| end == "md"));
    docs.chain(["README.md".into(), "CHANGELOG.md".into()]).collect()
}

/// The words of a text that begin with `start` and go on with these characters, first a letter.
fn words(text: &str, start: &str, more: fn(char) -> bool) -> BTreeSet<String> {
    let own = |before: &str| !before.ends_with(|char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_');
    let found = text.match_indices(start).filter(|(at, _)| own(&text[..*at])).map(|(at, _)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|char| !more(char)).unwrap_or(rest.len());
        format!("{start}{}", &rest[..end])
    });
    found.filter(|word| word[start.len()..].starts_with(|char: char| char.is_ascii_alphabetic())).collect()
}

fn flags(text: &str) -> BTreeSet<String> {
    words(text, "--", |char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-')
}

fn variables(text: &str) -> BTreeSet<String> {
    words(text, "TFGUARD_", |char| char.is_ascii_uppercase() || char.is_ascii_digit() || char == '_')
}

/// Each command's name (empty for a run), and its options: the flag and the variable.
fn options() -> Vec<(String, String, Option<String>)> {
    let cli = Cli::command();
    let runs = std::iter::once(("", &cli));
    let commands = runs.chain(cli.get_subcommands().map(|command| (command.get_name(), command)));
    let options = commands.flat_map(|(name, command)| {
        command.get_arguments().filter(|option| !option.is_hide_set()).filter_map(move |option| {
            let variable = option.get_env().map(|variable| variable.to_str().unwrap().to_owned());
            Some((name.to_owned(), format!("--{}", option.get_long()?), variable))
        })
    });
    let options: Vec<_> = options.filter(|(_, flag, _)| flag != "--help" && flag != "--version").collect();
    assert!(options.len() > 60, "{options:?}");
    options
}

#[test]
fn every_option_has_the_variable_that_the_readme_promises() {
    for (command, flag, variable) in options() {
        let promised = format!("TFGUARD_{}", flag[2..].to_uppercase().replace('-', "_"));
        // TFGUARD_DIR is the directory for sessions.
        let promised = ((&*command, &*flag) != ("shim", "--dir")).then_some(promised);
        assert_eq!(variable, promised, "{command} {flag}");
    }
}

#[test]
fn every_option_is_in_the_document_of_its_command() {
    for (command, flag, variable) in options() {
        let documents: &[&str] = match &*command {
            "" | "shim" => &["README.md"],
            "release" => &["README.md", "docs/holder.md"],
            "locks" | "inspect" | "unlock" => &["docs/operator.md"],
            "verify" => &["docs/verify.md", "docs/operator.md"],
            "doctor" => &["docs/doctor.md", "docs/iam.md", "docs/operator.md"],
            other => panic!("which document is that of {other}?"),
        };
        // Those of all commands are in the README.
        let of_all = ["--log-format", "--verbose", "--quiet"].contains(&&*flag);
        let text = if of_all { text("README.md") } else { documents.iter().map(text).collect() };
        let named = flags(&text).contains(&flag) || (of_all && variables(&text).contains(&variable.unwrap()));
        assert!(named, "{command} {flag} is in none of {documents:?}");
    }
}

#[test]
fn every_option_and_variable_of_the_documents_is_there() {
    let mut known: BTreeSet<String> =
        options().into_iter().flat_map(|(_, flag, variable)| [Some(flag), variable]).flatten().collect();
    // Other programs', and what all programs have.
    known.extend(
        ["--all", "--collector", "--example", "--tf-path", "--path", "--release", "--stop-timeout", "--help"]
            .into_iter()
            .chain(["--ignored", "--locked", "--test"])
            .map(str::to_owned),
    );
    // Of tfguard itself, of what it writes, of the templates, of the tests.
    known.extend(["DIR", "SESSION", "TERRAFORM", "TESTBED"].map(|name| format!("TFGUARD_{name}")));
    known.extend(["MATRIX", "PROVIDERS", "TOOLS"].map(|name| format!("TFGUARD_TEST_{name}")));
    known.extend(["OUTCOME", "LOCK_LEFT", "LOCK_ID", "LOCK_IDS"].map(|name| format!("TFGUARD_RESULT_{name}")));
    known.extend(["URL", "SHA256", "DIR"].map(|name| format!("TFGUARD_INSTALL_{name}")));
    let mut texts: Vec<_> = documents().iter().map(text).collect();
    let mut dirs = vec![root().join("ci-templates")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                dirs.push(entry);
            } else {
                // Their flags are those of many programs.
                texts.push(variables(&text(entry)).into_iter().collect::<Vec<_>>().join(" "));
            }
        }
    }
    for word in texts.iter().flat_map(|text| flags(text).into_iter().chain(variables(text))) {
        assert!(known.contains(&word), "{word}");
    }
}

#[test]
fn every_exit_code_is_in_the_readme() {
    let readme = text("README.md");
    let codes = tfguard::exit::TABLE.lines().filter_map(|line| line.trim().split("  ").next());
    let codes = codes.flat_map(|codes| codes.split(" / ")).filter(|code| code.parse::<u8>().is_ok());
    let codes: BTreeSet<_> = codes.collect();
    assert!(codes.len() >= 8, "{codes:?}");
    for code in codes {
        let row = |line: &str| {
            line.strip_prefix("| ")
                .is_some_and(|row| row.split(" | ").next().unwrap().split(", ").any(|found| found == code))
        };
        assert!(readme.lines().any(row), "{code}");
    }
}

/// The anchors of a document's headings, as GitHub and GitLab make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |char: &char| char.is_alphanumeric() || " -_".contains(*char);
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        for link in text(&document).split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()) {
            if link.starts_with("https://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            assert!(root().join(&target).exists(), "{}: {link}", document.display());
            assert!(anchor.is_empty() || anchors(&text(&target)).contains(anchor), "{}: {link}", document.display());
            links += 1;
        }
    }
    assert!(links > 40, "only {links} were looked at");
}

/// The report that the document shows is, field by field, one that is written.
#[test]
fn the_report_in_the_document_is_one() {
    let document = text("docs/report.md");
    let (_, example) = document.split_once("```json\n").expect("there is an example");
    let shown: Value = serde_json::from_str(example.split("```").next().unwrap()).expect("it is JSON");
    let account: Account = serde_json::from_value(shown.clone()).expect("it is an account");
    let written = serde_json::to_value(account.report()).unwrap();
    assert_eq!(shown, written);
    let fields = written.as_object().unwrap().keys().filter(|field| *field != "schema");
    for field in fields {
        assert!(document.contains(&format!("`{field}`")), "{field}");
    }
}
