//! Whatever texts a run meets, each CI reads what was meant and nothing more. The CI's own readers are rebuilt here from
//! their sources, where there is no library for the format.

use std::collections::HashMap;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{Account, Environment, Provider};
use crate::report::finding::{Finding, Outcome};

/// What would be more than text somewhere.
const HOSTILE: &[&str] = &[
    "\n",
    "\r",
    "\r\n",
    "%0A",
    "%25",
    "%AZP250A",
    "%3B",
    "%5D",
    "::error::x",
    "\n::add-mask::a",
    "##[add-mask]a",
    "##vso[task.complete result=Succeeded;]",
    "]",
    ";",
    ",",
    ":",
    "|",
    "\\|",
    "`",
    "```",
    "<!--",
    "&amp;",
    "<script>",
    "\"",
    "'",
    "$HOME",
    "$(id)",
    "\x1b[31m",
    "\x1b[0Ksection_end:0:tfguard_s\r\x1b[0K",
    "\0",
    "\u{7}",
    "\u{85}",
    "\u{2028}",
    "\u{202e}",
    "\u{fffe}",
    "<<",
    "EOF",
    "tfguard_0",
    "=",
    "    ",
    "# ",
    "- ",
    "1. ",
    "---",
    "> ",
    "[a](http://b)",
    "http://b",
    "@owner",
    "*a*",
    "_a_",
    "~~a~~",
    "--",
    "../",
];

fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => proptest::sample::select(HOSTILE).prop_map(str::to_owned),
        1 => ".{0,20}",
        1 => Just("x".repeat(1500)),
    ];
    proptest::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn outcome() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"is": "unlocked"})),
        Just(json!({"is": "released"})),
        Just(json!({"is": "gone"})),
        Just(json!({"is": "kept"})),
        hostile().prop_map(|why| json!({"is": "not-own", "why": why})),
        Just(json!({"is": "taken-away"})),
        hostile().prop_map(|why| json!({"is": "left", "why": why})),
    ]
}

fn lock() -> impl Strategy<Value = Value> {
    (outcome(), hostile(), hostile(), hostile(), hostile()).prop_map(|(outcome, bucket, key, operation, directory)| {
        json!({
            "id": "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "operation": operation, "who": "a@b", "version": "1.11.4",
            "bucket": bucket, "state_key": key, "kinds": "dynamodb", "stage": "held", "grade": "record", "places": [],
            "settings": {"directory": directory, "plan_file": null}, "outcome": outcome,
            "halves": [{"place": {"kind": "dynamodb", "table": "t", "lock_id": key, "region": "r", "endpoint": null},
                        "outcome": "not-ours", "holder": {"held": holder(&operation)}}],
        })
    })
}

fn holder(text: &str) -> Value {
    json!({"ID": text, "Operation": text, "Info": text, "Who": text, "Version": text, "Created": text, "Path": text})
}

fn other_lock() -> impl Strategy<Value = Value> {
    (hostile(), hostile(), hostile(), proptest::sample::select(&["free", "released", "foreign", "kept", "left", "unknown"][..]))
        .prop_map(|(id, why, command, outcome)| {
            json!({"backend": "gcs", "holder": holder(&id), "outcome": outcome, "why": why, "unclean": true, "command": command})
        })
}

fn refused() -> impl Strategy<Value = Value> {
    (hostile(), hostile()).prop_map(|(text, next)| {
        json!({"id": text, "lock": holder(&text), "holder": null, "verdict": "unknown", "why": text,
               "at": "2026-01-01T00:00:00Z", "next": next})
    })
}

fn state() -> impl Strategy<Value = Value> {
    (hostile(), any::<bool>()).prop_map(|(text, whole)| {
        let findings = if whole { json!([]) } else { json!([{"kind": "missing-but-digest", "stored": text}]) };
        json!({"bucket": text, "state_key": text, "verdict": null, "why": null, "serial": 1, "lineage": text,
               "findings": findings, "next": text})
    })
}

prop_compose! {
    fn account()(
        locks in proptest::collection::vec(lock(), 0..13),
        states in proptest::collection::vec(state(), 0..3),
        refused in proptest::option::of(refused()),
        other_locks in proptest::collection::vec(other_lock(), 0..2),
        [program, session] in [hostile(), hostile()],
        ending in prop_oneof![
            Just(json!({"kind": "exited", "code": 0, "at": "2026-01-01T00:00:00Z"})),
            Just(json!({"kind": "died", "signal": 9, "at": "2026-01-01T00:00:00Z"})),
            Just(json!({"kind": "still-alive"})),
        ],
        stopped in any::<bool>(),
    ) -> Account {
        let requests = if stopped { vec![json!({"at": "2026-01-01T00:00:00Z", "kind": "front-died"})] } else { vec![] };
        serde_json::from_value(json!({
            "tfguard": "0.1.0", "session": session, "started": "2026-01-01T00:00:00Z", "ended": null,
            "ci": null, "program": program, "directory": "/w", "ending": ending,
            "requests": requests, "interrupt": null, "killed": null, "phase": "applying", "survivors": [],
            "locks": locks, "states": states, "refused": refused, "other_locks": other_locks, "troubles": [],
        })).unwrap()
    }
}

fn publisher(provider: Provider) -> Publisher {
    Publisher::new(Some(provider), &Environment::default(), false, None)
}

fn after(provider: Provider, summary: &Summary) -> String {
    publisher(provider).around(summary, Timestamp::UNIX_EPOCH).1
}

/// actions/runner, `ActionCommand.TryParseV2`: name, properties, data.
fn read_command(line: &str) -> Option<(String, HashMap<String, String>, String)> {
    let unescape = |text: &str, more: &[(&str, &str)]| {
        [("%0D", "\r"), ("%0A", "\n")]
            .iter()
            .chain(more)
            .chain(&[("%25", "%")])
            .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    };
    let (info, data) = line.trim_start().strip_prefix("::")?.split_once("::")?;
    let (name, properties) = info.split_once(' ').unwrap_or((info, ""));
    let properties = properties.split(',').filter_map(|pair| pair.split_once('='));
    let properties = properties.map(|(key, value)| (key.to_owned(), unescape(value, &[("%3A", ":"), ("%2C", ",")])));
    Some((name.to_owned(), properties.collect(), unescape(data, &[])))
}

/// actions/runner, `FileCommandManager.cs`, `EnvFileKeyValuePairs`.
fn read_outputs(text: &str) -> Vec<(String, String)> {
    let mut lines = text.split('\n').filter(|line| !line.is_empty());
    let mut outputs = Vec::new();
    while let Some(line) = lines.next() {
        let (equals, heredoc) = (line.find('=').unwrap_or(usize::MAX), line.find("<<").unwrap_or(usize::MAX));
        if equals < heredoc {
            outputs.push((line[..equals].to_owned(), line[equals + 1..].to_owned()));
        } else {
            let (key, delimiter) = line.split_once("<<").expect("a line is name=value or begins a value");
            let value: Vec<_> = lines.by_ref().take_while(|line| *line != delimiter).collect();
            outputs.push((key.to_owned(), value.join("\n")));
        }
    }
    outputs
}

/// azure-pipelines-agent, `Command.TryParse`: name, properties, data.
fn read_vso(line: &str) -> Option<(String, HashMap<String, String>, String)> {
    let unescape = |text: &str| {
        let tokens = [("%3B", ";"), ("%0D", "\r"), ("%0A", "\n"), ("%5D", "]"), ("%AZP25", "%")];
        tokens.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    };
    let (info, data) = line[line.find("##vso[")? + 6..].split_once(']')?;
    let (name, properties) = info.split_once(' ').unwrap_or((info, ""));
    let properties = properties.split(';').filter_map(|pair| pair.split_once('='));
    let properties = properties.map(|(key, value)| (key.to_owned(), unescape(value)));
    Some((name.to_owned(), properties.collect(), unescape(data)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn texts_are_single_lines_that_steer_nothing(account in account()) {
        let summary = Summary::of(&account);
        let findings = summary.findings.iter().flat_map(|finding| {
            [Some(&finding.state), Some(&finding.line), finding.id.as_ref(), finding.next.as_ref()]
        });
        let own = [Some(&summary.session), Some(&summary.ending), summary.next.as_ref()];
        for text in findings.chain(own).flatten() {
            let steers = |char: char| char.is_control() || ['\u{2028}', '\u{202e}', '\u{fffe}'].contains(&char);
            prop_assert!(!text.contains(steers));
            prop_assert!(text.chars().count() <= 1001);
        }
        prop_assert!(summary.findings.is_sorted_by_key(|finding| std::cmp::Reverse(finding.outcome)));
        prop_assert_eq!(summary.messages().is_empty(), summary.silent);
        prop_assert!(summary.messages().len() <= 10);
        let left = account.lock_left() || account.state_needs_a_look();
        prop_assert_eq!(summary.level == Level::Error, left);
        prop_assert_eq!(summary.messages().iter().any(|message| message.level == Level::Error), left);
    }

    #[test]
    fn github_reads_the_messages_and_nothing_else(account in account()) {
        let summary = Summary::of(&account);
        let text = after(Provider::GithubActions, &summary);
        prop_assert!(text.is_empty() || text.ends_with('\n'));
        let messages = summary.messages();
        prop_assert_eq!(text.split_inclusive(['\n', '\r']).count(), messages.len());
        for (line, message) in text.lines().zip(messages) {
            let (name, properties, data) = read_command(line).unwrap();
            let expected = match message.level {
                Level::Error => "error",
                Level::Warning => "warning",
                Level::Notice => "notice",
            };
            prop_assert_eq!(name, expected);
            prop_assert_eq!(properties, HashMap::from([("title".to_owned(), format!("tfguard: {}", message.title))]));
            prop_assert_eq!(data, message.text);
        }
    }

    #[test]
    fn a_quiet_run_tells_what_somebody_should_look_at(account in account()) {
        let summary = Summary::of(&account);
        let quiet = Publisher::new(Some(Provider::GithubActions), &Environment::default(), true, None);
        let told = quiet.around(&summary, Timestamp::UNIX_EPOCH).1;
        let worth = summary.messages().into_iter().filter(|message| message.level > Level::Notice);
        prop_assert_eq!(told, worth.map(|message| language::github_command(&message)).collect::<String>());
    }

    #[test]
    fn github_reads_four_outputs(accounts in proptest::collection::vec(account(), 1..3)) {
        let summaries: Vec<_> = accounts.iter().map(Summary::of).collect();
        // After a line of somebody else's without an end, and before one of theirs.
        let text = format!("mine=1\n{}yours=2", outputs::for_github(&summaries, "tfguard_0"));
        let outputs = read_outputs(&text);
        let names: Vec<_> = outputs.iter().map(|(name, _)| name.as_str()).collect();
        let expected = ["mine", "tfguard-outcome", "tfguard-lock-left", "tfguard-lock-id", "tfguard-locks", "yours"];
        prop_assert_eq!(names, expected);
        prop_assert_eq!(&outputs[0].1, "1");
        prop_assert_eq!(&outputs[2].1, &accounts.iter().any(Account::lock_left).to_string());
        let locks: Vec<Value> = serde_json::from_str(&outputs[4].1).unwrap();
        let findings = summaries.iter().flat_map(|summary| &summary.findings);
        prop_assert_eq!(locks.len(), findings.filter(|finding| finding.outcome != Outcome::NeedsALook).count());
    }

    #[test]
    fn azure_reads_the_issues(account in account()) {
        let summary = Summary::of(&account);
        let text = after(Provider::Azure, &summary);
        let lines: Vec<_> = text.split_inclusive(['\n', '\r']).map(|line| read_vso(line.strip_suffix('\n').unwrap()).unwrap()).collect();
        let issues: Vec<_> =
            summary.messages().into_iter().filter(|message| message.level > Level::Notice).collect();
        prop_assert_eq!(lines.len(), issues.len());
        for ((name, properties, data), message) in lines.iter().zip(&issues) {
            prop_assert_eq!(name, "task.logissue");
            let kind = if message.level == Level::Error { "error" } else { "warning" };
            prop_assert_eq!(properties, &HashMap::from([("type".to_owned(), kind.to_owned())]));
            prop_assert_eq!(data, &format!("tfguard: {}: {}", message.title, message.text));
        }
    }

    /// The pattern by which GitLab knows a section has a carriage return and an escape in it.
    #[test]
    fn gitlab_sees_one_section(account in account()) {
        let summary = Summary::of(&account);
        let (start, end) = publisher(Provider::Gitlab).around(&summary, Timestamp::UNIX_EPOCH);
        prop_assert_eq!(start.is_empty(), summary.silent);
        prop_assert_eq!(end.is_empty(), summary.silent);
        if !summary.silent {
            let name = start.strip_prefix("\x1b[0Ksection_start:0:").unwrap().split('[').next().unwrap();
            prop_assert!(name.chars().all(|char| char.is_ascii_alphanumeric() || "_-".contains(char)));
            prop_assert_eq!(end, format!("\x1b[0Ksection_end:0:{name}\r\x1b[0K\n"));
            prop_assert_eq!(start.matches('\r').count(), 1);
            prop_assert_eq!(start.matches('\n').count(), 1);
            prop_assert_eq!(start.matches('\x1b').count(), 4);
        }
    }

    /// gitlab, `parse_dotenv_artifact_service.rb`, and what a shell does to a value.
    #[test]
    fn variables_are_plain_words(accounts in proptest::collection::vec(account(), 0..3)) {
        let summaries: Vec<_> = accounts.iter().map(Summary::of).collect();
        let text = outputs::dotenv(&summaries);
        prop_assert_eq!(text.matches('\n').count(), 4);
        for line in text.lines() {
            let (name, value) = line.split_once('=').unwrap();
            prop_assert!(name.chars().all(|char| char.is_ascii_uppercase() || char == '_'));
            prop_assert!(value.chars().all(|char| char.is_ascii_alphanumeric() || "-_.:/@,".contains(char)));
        }
        prop_assert!(text.len() < 5 * 1024);
    }

    #[test]
    fn markdown_is_a_heading_and_a_table_of_the_locks(accounts in proptest::collection::vec(account(), 1..3)) {
        use pulldown_cmark::{Event, Options, Parser, Tag};
        let summaries: Vec<_> = accounts.iter().map(Summary::of).collect();
        let Some(text) = markdown::section(&summaries) else {
            prop_assert!(summaries.iter().all(|summary| summary.silent));
            return Ok(());
        };
        let (mut rows, mut cells, mut headings) = (0, 0, 0);
        let mut words = String::new();
        for event in Parser::new_ext(&text, Options::all()) {
            match event {
                Event::Start(Tag::TableRow) => rows += 1,
                Event::Start(Tag::TableCell) => cells += 1,
                Event::Start(Tag::Heading { .. }) => headings += 1,
                Event::Start(Tag::Paragraph | Tag::Table(_) | Tag::TableHead) | Event::End(_) => {}
                Event::Text(text) => words += &text,
                Event::InlineHtml(html) => prop_assert!(["<code>", "</code>"].contains(&&*html), "{html}"),
                other => prop_assert!(false, "{other:?} in {text}"),
            }
        }
        let told: Vec<_> = summaries.iter().filter(|summary| !summary.silent).collect();
        let findings: Vec<&Finding> = told.iter().flat_map(|summary| &summary.findings).collect();
        let tables = told.iter().filter(|summary| !summary.findings.is_empty()).count();
        prop_assert_eq!((headings, rows, cells), (1, findings.len(), (findings.len() + tables) * 4));
        for finding in findings {
            prop_assert!(words.contains(finding.line.trim()), "{:?} in {words:?}", finding.line);
        }
    }

    #[test]
    fn buildkites_agent_is_called_with_words_of_our_own(accounts in proptest::collection::vec(account(), 1..3)) {
        let summaries: Vec<_> = accounts.iter().map(Summary::of).collect();
        let annotation = language::buildkite_annotation(&summaries, "job");
        prop_assert_eq!(annotation.is_none(), summaries.iter().all(|summary| summary.silent));
        if let Some(annotation) = annotation {
            let ours = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
            prop_assert!(annotation.args.iter().all(|arg| arg.chars().all(ours)));
            prop_assert!(!annotation.body.is_empty());
        }
    }
}

/// What a tired person reads first.
#[test]
fn the_first_message_says_what_happened_to_which_lock_and_the_next_command() {
    let account = |outcome: Value, phase: &str| -> Account {
        serde_json::from_value(json!({
            "tfguard": "0.1.0", "session": "s", "started": "2026-01-01T00:00:00Z", "ended": null, "ci": null,
            "program": "terraform", "directory": "/w", "ending": {"kind": "died", "signal": 9, "at": "2026-01-01T00:00:00Z"},
            "requests": [], "interrupt": null, "killed": null, "phase": phase, "survivors": [], "troubles": [],
            "locks": [{
                "id": "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "operation": "OperationTypeApply", "who": "a@b",
                "version": "1.11.4", "bucket": "states", "state_key": "prod", "kinds": "dynamodb", "stage": "held",
                "grade": "record", "places": [], "settings": {"directory": "/builds/net", "plan_file": null},
                "outcome": outcome, "halves": [],
            }],
        }))
        .unwrap()
    };
    let first = |outcome, phase| after(Provider::GithubActions, &Summary::of(&account(outcome, phase)));
    let lock = "lock 4bb7d84c-f09d-7909-0219-02f6e8d9eeb4 of states/prod (OperationTypeApply)";
    assert_eq!(
        first(json!({"is": "left", "why": "denied"}), "applying"),
        format!(
            "::error title=tfguard%3A State lock left behind::{lock}: NOT released: denied. Next: once you are sure that \
             no Terraform of this run is alive, run in /builds/net: tfguard unlock \
             4bb7d84c-f09d-7909-0219-02f6e8d9eeb4\n"
        )
    );
    assert_eq!(
        first(json!({"is": "released"}), "applying"),
        format!(
            "::warning title=tfguard%3A State lock released::{lock}: left by Terraform, deleted by tfguard. Next: run \
             `terraform plan`; what was being changed when it died may be missing from the state\n"
        )
    );
    assert_eq!(
        first(json!({"is": "released"}), "planning"),
        format!("::notice title=tfguard%3A State lock released::{lock}: left by Terraform, deleted by tfguard\n")
    );
    // Nothing died, and nothing is to be done.
    let mut ended = account(json!({"is": "released"}), "applying");
    ended.ending = Some(serde_json::from_value(json!({"kind": "exited", "code": 1, "at": ended.started})).unwrap());
    assert_eq!(Summary::of(&ended).next, None);
    // Somebody should look, also where tfguard is to be quiet.
    let kept = Summary::of(&account(json!({"is": "kept"}), "planning"));
    assert_eq!((kept.level, kept.messages()[0].level), (Level::Warning, Level::Warning));
    assert_eq!(
        first(json!({"is": "unlocked"}), "planning"),
        format!(
            "::notice title=tfguard%3A No state lock is left::terraform died of SIGKILL; {lock}: released by Terraform\n"
        )
    );
}

/// A script that removes the lock it is told must never be told somebody else's.
#[test]
fn the_lock_of_somebody_else_is_told_to_people_and_not_as_an_output() {
    let account: Account = serde_json::from_value(json!({
        "tfguard": "0.1.0", "session": "s", "started": "2026-01-01T00:00:00Z", "ended": null, "ci": null,
        "program": "terraform", "directory": "/w", "ending": {"kind": "exited", "code": 1, "at": "2026-01-01T00:00:00Z"},
        "requests": [], "interrupt": null, "killed": null, "phase": "unknown", "survivors": [], "troubles": [],
        "locks": [], "refused": {
            "id": "4bb7d84c", "lock": null, "holder": null, "verdict": "alive", "why": "it works",
            "at": "2026-01-01T00:00:00Z", "next": "wait",
        },
    }))
    .unwrap();
    let summaries = [Summary::of(&account)];
    let told = after(Provider::GithubActions, &summaries[0]);
    assert!(told.starts_with("::warning title=tfguard%3A State locked by somebody else::"), "{told}");
    assert!(told.contains("4bb7d84c") && told.ends_with(". Next: wait\n"), "{told}");
    let outputs: HashMap<_, _> = read_outputs(&outputs::for_github(&summaries, "tfguard_0")).into_iter().collect();
    assert_eq!((&*outputs["tfguard-outcome"], &*outputs["tfguard-lock-id"]), ("foreign", ""));
    assert!(outputs::dotenv(&summaries).ends_with("LOCK_ID=\nTFGUARD_RESULT_LOCK_IDS=\n"));
}
