//! Every block of code is what its language takes, and every command line of tfguard's can be typed.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use pulldown_cmark::Event;
use tfguard::cli::Cli;

use super::{Block, blocks, documents, events, text};
use crate::support::Tools;
use crate::templates::tools::{module, python, run};

/// What an angle bracket stands for.
const ID: &str = "5f0c1b8e-93a7-2d64-1e0f-8a7b6c5d4e3f";

/// Why a shell doesn't take a text, if it doesn't.
fn shell_refuses(shell: &str, script: &str) -> Option<String> {
    let mut child = Command::new(shell);
    child.args(["-n"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap_or_else(|error| panic!("{shell}: {error}"));
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn is_script(script: &str) -> Option<String> {
    let script = script.replace("<ID>", ID).replace("<LOCK_ID>", ID);
    ["sh", "bash"].iter().find_map(|shell| shell_refuses(shell, &script))
}

/// Runs a checker on a file with this text.
fn checked(text: &str, ending: &str, checker: impl FnOnce(&Path) -> Command) -> Option<String> {
    let file = tempfile::Builder::new().suffix(ending).tempfile().unwrap();
    std::fs::write(&file, text).unwrap();
    let output = run(&mut checker(file.path()));
    let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (!output.status.success()).then_some(words)
}

/// By the parser that also reads the templates.
fn parsed(kind: &str, text: &str) -> Option<String> {
    checked(text, "", |path| {
        let mut command = Command::new(python());
        command.args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/templates/parse.py"), kind]).arg(path);
        command
    })
}

fn is_yaml(text: &str, schema: Option<&str>) -> Option<String> {
    match schema {
        None => parsed("yaml", text),
        Some("kubernetes") => checked(text, ".yaml", |path| {
            module("kubernetes_validate", ["--strict".as_ref(), "--no-warn".as_ref(), path])
        }),
        Some(schema) => checked(text, ".yml", |path| {
            let schema = format!("vendor.{schema}");
            let options = ["--regex-variant", "nonunicode", "--builtin-schema", &schema];
            let mut command = module("check_jsonschema", options);
            command.arg(path);
            command
        }),
    }
}

/// A file of `[sections]` with `name = value` in them.
fn is_ini(text: &str) -> Option<String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let (mut lines, other) = lines.partition::<Vec<_>, _>(|line| line.starts_with('[') == line.ends_with(']'));
    lines.retain(|line| !line.starts_with('[') && !line.contains('='));
    lines.into_iter().chain(other).next().map(str::to_owned)
}

/// Why a block isn't what its language takes, if it isn't.
fn refused(block: &Block) -> Option<String> {
    let mut info = block.info.split_whitespace();
    match (info.next().unwrap_or_default(), info.next()) {
        // What a program prints.
        ("text", None) => None,
        ("sh" | "bash", None) => is_script(&block.text),
        ("diff", None) => {
            let side = |sign: char| -> String {
                let lines = block.text.lines().filter_map(|line| line.strip_prefix([sign, ' ']));
                lines.map(|line| format!("{}\n", line.trim_start())).collect()
            };
            is_script(&side('-')).or_else(|| is_script(&side('+')))
        }
        // Five fields of time, then a command.
        ("crontab", None) => block.text.lines().find_map(|line| is_script(line.splitn(6, ' ').nth(5)?)),
        ("json", None) => serde_json::from_str::<serde_json::Value>(&block.text).err().map(|error| error.to_string()),
        ("yaml", schema) => is_yaml(&block.text, schema),
        ("groovy", None) => parsed("groovy", &block.text),
        ("hcl", None) => checked(&block.text, ".tf", |path| {
            let mut command = Command::new(Tools::get().any_terraform());
            command.args(["fmt", "-check=false", "-write=false"]).arg(path);
            command
        }),
        ("ini", None) => is_ini(&block.text),
        ("toml", None) => checked(&block.text, ".toml", |path| {
            let mut command = Command::new(python());
            command.args(["-I", "-c", "import sys, tomllib; tomllib.load(open(sys.argv[1], 'rb'))"]).arg(path);
            command
        }),
        ("dockerfile", None) => {
            let known = ["#", "FROM ", "COPY ", "RUN ", "ENTRYPOINT ", "CMD ", "ENV ", "ARG ", "USER ", "WORKDIR "];
            let lines = block.text.replace("\\\n", " ");
            let unknown =
                lines.lines().find(|line| !line.is_empty() && !known.iter().any(|word| line.starts_with(word)));
            unknown.map(str::to_owned)
        }
        ("", _) => Some("it does not name its language; `text` is what a program prints".to_owned()),
        (other, _) => Some(format!("how is {other} checked?")),
    }
}

#[test]
fn every_snippet_is_what_its_language_takes() {
    let mut looked = 0;
    let mut wrong = Vec::new();
    for document in documents().into_iter().filter(|document| !document.ends_with("compatibility.md")) {
        for block in blocks(&text(&document)) {
            if let Some(why) = refused(&block) {
                wrong.push(format!("{}: ```{}\n{}{why}", document.display(), block.info, block.text));
            }
            looked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(looked > 60, "only {looked} were looked at");
}

/// That the checks above can fail at all.
#[test]
fn a_broken_snippet_is_refused() {
    for (info, text) in [
        ("", "x"),
        ("cobol", "x"),
        ("sh", "if true; then"),
        ("diff", "- true\n+ if true; then\n"),
        ("crontab", "* * * * * (true"),
        ("json", "{\"a\": }"),
        ("yaml", "a: [b"),
        ("yaml github-workflows", "on: push\njobs: {a: {stepz: []}}\n"),
        ("yaml kubernetes", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}\nspec: {backofLimit: 0}\n"),
        ("groovy", "pipeline { agent"),
        ("hcl", "import {"),
        ("ini", "[a]\nb\n"),
        ("toml", "a = \n"),
        ("dockerfile", "FROMM a\n"),
    ] {
        let block = Block { info: info.to_owned(), text: text.to_owned() };
        assert!(refused(&block).is_some(), "{info}: {text}");
    }
    let dash = |text: &str| Block { info: "diff".to_owned(), text: text.to_owned() };
    assert!(refused(&dash("- true\n+ exec true\n")).is_none());
}

/// The command lines of a text: the whole ones in blocks, and the parts of some that stand between the text's words.
fn command_lines(text: &str) -> (Vec<String>, Vec<String>) {
    // Where a command begins; elsewhere it is a word of a message or a comment.
    const BEFORE: [&str; 11] = ["", "$ ", "exec ", "- ", "run: ", "bash: ", "sh '", "&& ", "$(", "sudo -E ", "/bin/"];
    let mut whole = Vec::new();
    for block in blocks(text).into_iter().filter(|block| block.info != "text") {
        for line in block.text.replace("\\\n", " ").lines() {
            let contained = in_container(line);
            let line = contained.as_deref().unwrap_or(line);
            let begins = |at: &usize| {
                let before = &line[..*at];
                BEFORE.iter().any(|word| before.trim_start() == *word || (!word.is_empty() && before.ends_with(word)))
            };
            let at = line.match_indices("tfguard ").map(|(at, _)| at).find(begins);
            whole.extend(at.map(|at| line[at..].to_owned()));
        }
    }
    let inline = events(text).filter_map(|event| match event {
        // Not what it prints of its version.
        Event::Code(code)
            if code.starts_with("tfguard ")
                && !code["tfguard ".len()..].starts_with(|char: char| char.is_ascii_digit()) =>
        {
            Some(code.into_string())
        }
        _ => None,
    });
    let mut parts: Vec<_> = inline.collect();
    // In brackets is what may be left out.
    for lines in [&mut whole, &mut parts] {
        lines.retain(|line| !line.contains('['));
    }
    (whole, parts)
}

/// What a `docker run` of the image starts: the image's ENTRYPOINT with the arguments.
fn in_container(line: &str) -> Option<String> {
    let (_, behind) = line.split_once("docker run ")?.1.split_once("terraform-with-tfguard")?;
    let (_, arguments) = behind.split_once(' ').unwrap_or_default();
    let dockerfile = text("ci-templates/docker/Dockerfile");
    let entrypoint = dockerfile.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).expect("it has one");
    let entrypoint: Vec<String> = serde_json::from_str(entrypoint).expect("it is a list of words");
    Some(format!("{} {arguments}", entrypoint.join(" ")))
}

/// Why a command line can't be typed, if it can't. `is_part`: more belongs to it, which the text leaves out.
fn mistake(line: &str, is_part: bool) -> Option<String> {
    const ENDS: [&str; 7] = [" |", " &&", " > ", " >> ", ";", " # ", " 2>"];
    let end = ENDS.iter().filter_map(|end| line.find(end)).min();
    let mut typed = line[..end.unwrap_or(line.len())].to_owned();
    // What stands for something else.
    for (name, value) in [
        ("ID", ID),
        ("LOCK_ID", ID),
        ("DIR", "d"),
        ("COMMAND", "c"),
        ("DURATION", "4m"),
        ("FILE", "f"),
        ("SHELL", "bash"),
    ] {
        typed = typed.replace(&format!("<{name}>"), value);
    }
    // The quotes and brackets that end may have begun before it.
    let around = typed.trim_end_matches([';', ')', '\'', '"', '}', ' ']);
    let Ok(words) = shell_words::split(&typed).or_else(|_| shell_words::split(around)) else {
        return Some("its quotes".to_owned());
    };
    let words: Vec<_> = words.into_iter().filter(|word| word != "…").collect();
    let guarded = words.iter().skip_while(|word| *word != "--").skip(1);
    let programs = ["tfguard", "terraform"].map(|program| guarded.clone().filter(|word| *word == program).count());
    if programs[0] > 0 || programs[1] > 1 {
        return Some("a program within the one that is run already".to_owned());
    }
    let error = Cli::command().try_get_matches_from(words).err()?;
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    // The second is that of `tfguard` alone.
    let fine = matches!(error.kind(), DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | DisplayVersion)
        || (is_part && error.kind() == ErrorKind::MissingRequiredArgument);
    (!fine).then(|| error.to_string())
}

#[test]
fn every_command_line_can_be_typed() {
    let mut wrong = Vec::new();
    let mut tried = [0, 0];
    for document in documents() {
        let (whole, parts) = command_lines(&text(&document));
        tried = [tried[0] + whole.len(), tried[1] + parts.len()];
        let lines = whole.into_iter().map(|line| (line, false)).chain(parts.into_iter().map(|line| (line, true)));
        wrong.extend(lines.filter_map(|(line, is_part)| {
            mistake(&line, is_part).map(|why| format!("{}: {line}\n{why}", document.display()))
        }));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried[0] > 60 && tried[1] > 100, "only {tried:?} were tried");
    for line in ["tfguard locks --tabel x", "tfguard --grace 5 -- terraform apply", "tfguard unlock"] {
        assert!(mistake(line, false).is_some(), "{line}");
    }
    // The image runs tfguard and Terraform by itself.
    let in_image = |arguments| in_container(&format!("docker run -e A=b terraform-with-tfguard:1.2.3 {arguments}"));
    for (arguments, fine) in
        [("apply -input=false", true), ("terraform apply", false), ("tfguard --grace 5m -- terraform apply", false)]
    {
        assert_eq!(mistake(&in_image(arguments).unwrap(), false).is_none(), fine, "{arguments}");
    }
}

/// What the README tells people to run is what `.ci/run` runs.
#[test]
fn the_commands_of_the_readme_are_run() {
    let (_, section) =
        text("README.md").split_once("\n## Try it, test it\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let commands = blocks(&section).into_iter().next().unwrap().text;
    let ci = text(".ci/run");
    assert_eq!(commands.lines().count(), 2, "{commands}");
    for command in commands.lines() {
        assert!(ci.lines().any(|line| line.strip_prefix("run ") == Some(command)), "{command}");
    }
}
