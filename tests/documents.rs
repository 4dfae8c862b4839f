//! The documents say what is so: their links lead somewhere, their snippets are what their language takes, and they and the
//! binary speak of the same options, variables, exit codes and fields.

mod links;
mod monitoring;
mod snippets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
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

/// The pages of the book, by their paths from the root of the project.
fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    docs.map(|name| Path::new("docs").join(name))
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect()
}

/// Every document, by its path from the root of the project.
fn documents() -> Vec<PathBuf> {
    let above = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];
    pages().into_iter().chain(above.map(PathBuf::from)).collect()
}

/// A document's events, as a Git host and mdBook read it.
fn events(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

/// A block of code.
struct Block {
    /// The words behind the fence: the language first.
    info: String,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open = None;
    for event in events(text) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                open = Some(Block { info: info.into_string(), text: String::new() });
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => {
                open = Some(Block { info: String::new(), text: String::new() });
            }
            Event::Text(text) => {
                if let Some(block) = &mut open {
                    block.text.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
            _ => {}
        }
    }
    blocks
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

/// A job sets variables once for all its steps. What one command alone understands is therefore typed.
#[test]
fn every_option_of_a_run_has_the_variable_that_the_reference_promises_and_others_have_none() {
    for (command, flag, variable) in options() {
        let promised = format!("TFGUARD_{}", flag[2..].to_uppercase().replace('-', "_"));
        let has =
            command.is_empty() || [("release", "--wait"), ("doctor", "--no-annotate")].contains(&(&command, &flag));
        assert_eq!(variable, has.then_some(promised), "{command} {flag}");
    }
}

#[test]
fn every_option_is_in_the_document_of_its_command() {
    let reference = text("docs/reference.md");
    for (command, flag, variable) in options() {
        let documents: &[&str] = match &*command {
            "locks" | "inspect" | "unlock" => &["docs/operator.md"],
            "verify" => &["docs/verify.md", "docs/operator.md", "docs/after-a-kill.md"],
            "doctor" => &["docs/doctor.md", "docs/iam.md", "docs/operator.md"],
            _ => &["docs/reference.md", "docs/after-a-kill.md"],
        };
        // Those of all commands are in the reference.
        let of_all = ["--log-format", "--verbose", "--quiet"].contains(&&*flag);
        let named = match of_all {
            true => variables(&reference).contains(&variable.unwrap()),
            false => flags(&documents.iter().map(text).collect::<String>()).contains(&flag),
        };
        assert!(named, "{command} {flag} is in none of {documents:?}");
        if command.is_empty() {
            let variable = format!("TFGUARD_{}", flag[2..].to_uppercase().replace('-', "_"));
            assert!(variables(&reference).contains(&variable), "{variable} is not in the reference");
        }
    }
}

#[test]
fn every_option_and_variable_of_the_documents_is_there() {
    let mut known: BTreeSet<String> =
        options().into_iter().flat_map(|(_, flag, variable)| [Some(flag), variable]).flatten().collect();
    // What all programs have, and other programs' that the text speaks of.
    known.extend(["--help", "--version"].map(str::to_owned));
    known.extend(
        ["--all", "--collector", "--example", "--locked", "--path", "--release", "--stop-timeout", "--tf-path"]
            .into_iter()
            .chain(["--ignored", "--test"])
            .map(str::to_owned),
    );
    // Of tfguard itself, of what it writes, of the templates, of the tests.
    known.extend(["DIR", "SESSION", "TERRAFORM", "TESTBED"].map(|name| format!("TFGUARD_{name}")));
    known.extend(["MATRIX", "PROVIDERS", "STATIC", "STEPS", "TOOLS"].map(|name| format!("TFGUARD_TEST_{name}")));
    known.extend(["AT_ONCE", "SCHEDULES", "SEED", "SHOW"].map(|name| format!("TFGUARD_CHAOS_{name}")));
    known.extend(["OUTCOME", "LOCK_LEFT", "LOCK_ID", "LOCK_IDS"].map(|name| format!("TFGUARD_RESULT_{name}")));
    known.extend(["URL", "SHA256", "DIR", "REPOSITORY"].map(|name| format!("TFGUARD_INSTALL_{name}")));
    let mut texts: Vec<_> = documents().iter().map(|document| without_other_programs(&text(document))).collect();
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
    let told: BTreeSet<_> = texts.iter().flat_map(|text| flags(text).into_iter().chain(variables(text))).collect();
    let unknown: Vec<_> = told.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// A document without the flags of other programs, whose command lines stand in blocks.
fn without_other_programs(text: &str) -> String {
    let mut text = text.to_owned();
    for block in blocks(&text.clone()) {
        let lines = block.text.replace("\\\n", " ");
        for line in lines.lines().filter(|line| line.contains("cargo ") || !line.contains("tfguard")) {
            for word in line.split_whitespace().filter(|word| word.starts_with("--")) {
                text = text.replace(word, "");
            }
        }
    }
    text
}

#[test]
fn every_exit_code_is_in_the_reference() {
    let reference = text("docs/reference.md");
    let codes = tfguard::exit::TABLE.lines().filter_map(|line| line.trim().split("  ").next());
    let codes = codes.flat_map(|codes| codes.split(" / ")).filter(|code| code.parse::<u8>().is_ok());
    let codes: BTreeSet<_> = codes.collect();
    assert!(codes.len() >= 8, "{codes:?}");
    for code in codes {
        let row = |line: &str| {
            line.strip_prefix("| ")
                .is_some_and(|row| row.split(" | ").next().unwrap().split(", ").any(|found| found == code))
        };
        assert!(reference.lines().any(row), "{code}");
    }
}

/// The report that the document shows is, field by field, one that is written.
#[test]
fn the_report_in_the_document_is_one() {
    let document = text("docs/report.md");
    let example = blocks(&document).into_iter().find(|block| block.info == "json").expect("there is an example").text;
    let shown: Value = serde_json::from_str(&example).expect("it is JSON");
    let account: Account = serde_json::from_value(shown.clone()).expect("it is an account");
    let written = serde_json::to_value(account.report()).unwrap();
    assert_eq!(shown, written);
    let fields = written.as_object().unwrap().keys().filter(|field| *field != "schema");
    for field in fields {
        assert!(document.contains(&format!("`{field}`")), "{field}");
    }
}

/// Each file of the source that the architecture names, by its path in `src`.
#[test]
fn every_file_that_the_architecture_names_is_there() {
    let page = text("docs/architecture.md");
    let named = |event| match event {
        Event::Code(code) if code.ends_with(".rs") => Some(code.into_string()),
        _ => None,
    };
    let named: BTreeSet<_> = events(&page).filter_map(named).collect();
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|path| !root().join("src").join(path).is_file()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The picture in the README shows what the demo's recording says.
#[test]
fn the_picture_is_drawn_from_the_recording() {
    let mut check = std::process::Command::new("python3");
    let output =
        check.args(["docs/picture/make.py", "--check"]).current_dir(root()).output().expect("python3 can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
