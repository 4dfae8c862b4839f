//! The documents show what the binary prints.

use std::fs;
use std::path::Path;

use super::*;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// The blocks of a document, each with the line before it that is not empty.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    let mut before = String::new();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("```") {
            let indent = line.len() - line.trim_start().len();
            let block = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```"));
            let block: Vec<_> = block.map(|line| line.get(indent..).unwrap_or_default()).collect();
            blocks.push((before.clone(), block.join("\n")));
        } else if !line.trim().is_empty() {
            before = line.to_owned();
        }
    }
    blocks
}

/// Each policy in docs/iam.md is what the command above it prints.
#[test]
fn the_policies_in_the_document_are_those_that_are_printed() {
    let text = fs::read_to_string(docs().join("iam.md")).unwrap();
    let blocks = blocks(&text);
    let examples: Vec<_> = blocks.windows(2).filter(|pair| pair[0].1.starts_with("tfguard doctor")).collect();
    assert!(examples.len() >= 3);
    for pair in examples {
        let words = shell_words::split(&pair[0].1.replace("\\\n", " ")).unwrap();
        let guard = Guard::new();
        let exit = Run::new(TFGUARD, &guard).args(&words[1..]).envs(Aws::ENV).run().expect_code(0);
        let shown: Value = serde_json::from_str(&pair[1].1).unwrap_or_else(|error| panic!("{error}: {}", pair[1].1));
        assert_eq!(shown, json(&exit), "{words:?} prints\n{}", exit.out());
    }
}

/// Each permission is explained, and no other.
#[test]
fn the_document_tells_of_each_permission_what_it_is_for() {
    use tfguard::commands::doctor::On;
    use tfguard::commands::doctor::PERMISSIONS;
    let text = fs::read_to_string(docs().join("iam.md")).unwrap();
    let rows =
        text.lines().filter(|line| ["| `s3:", "| `dynamodb:", "| `kms:"].iter().any(|start| line.starts_with(start)));
    let told: Vec<_> = rows.map(str::to_owned).collect();
    let row = |permission: &tfguard::commands::doctor::Permission| {
        let on = match permission.on {
            On::Bucket => "bucket",
            On::State => "state",
            On::Lockfile => "lockfile",
            On::Unused => "unused names beside the lockfile, in a store that is not AWS's",
            On::Lease => "lease beside the lockfile",
            On::Table => "lock table",
            On::Items => "items of the state in the lock table",
            On::Key => "KMS key",
        };
        let needs: Vec<_> = permission.needed_by.iter().map(|need| format!("`{need}`")).collect();
        format!("| `{}` | {on} | {} |", permission.action, needs.join(", "))
    };
    assert_eq!(told, PERMISSIONS.iter().map(row).collect::<Vec<_>>());
}

/// Each check has its row, and no other has.
#[test]
fn the_document_tells_of_each_check() {
    use tfguard::commands::doctor::CHECKS;
    let text = fs::read_to_string(docs().join("doctor.md")).unwrap();
    let rows = text.split("## What it looks at").nth(1).unwrap().split("\n## ").next().unwrap().lines();
    let told: Vec<_> = rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let checks = CHECKS.iter().map(|check| check.id).chain(["granted", "missing", "untold"]);
    assert_eq!(told, checks.collect::<Vec<_>>());
}

/// The alert rules are what Prometheus reads, and ask for metrics that there are.
#[test]
fn the_alerts_in_the_document_can_be_parsed_and_ask_for_metrics_that_there_are() {
    const CHECK: &str = "
import json, re, sys
import promql_parser
from ruamel.yaml import YAML
rules = [rule for group in YAML(typ='safe', pure=True).load(sys.argv[1])['groups'] for rule in group['rules']]
for rule in rules:
    assert set(rule) <= {'alert', 'expr', 'for', 'labels', 'annotations'}, rule
    promql_parser.parse(rule['expr'])
print(json.dumps([[rule['alert'], rule['expr']] for rule in rules]))
";
    let text = fs::read_to_string(docs().join("monitoring.md")).unwrap();
    let rules = blocks(&text).into_iter().find(|(_, block)| block.starts_with("groups:")).unwrap().1;
    let packages = include_str!("../support/templates/alerting.txt");
    let python = Tools::get().venv("alerting", packages).unwrap_or_else(|why| panic!("rules cannot be read: {why}"));
    let guard = Guard::new();
    let read = json(&Run::new(python, &guard).args(["-I", "-c", CHECK, &rules]).run().expect_code(0));

    let aws = Aws::shared();
    let table = aws.unique("monitored");
    aws.create_table(&table);
    aws.plant_lock(&table, &LockInfo::foreign("states/prod.tfstate"));
    let locks =
        Run::new(TFGUARD, &guard).envs(Aws::ENV).args(["locks", "--format", "prometheus", "--older-than", "1s"]);
    let args = ["--table", &table, "--region", Aws::REGION, "--dynamodb-endpoint", aws.url()];
    let printed = locks.args(args).run().expect_code(0).out();
    let families: Vec<_> = printed.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let told: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("| `tfguard_")?.split('`').next()).collect();
    assert!(families.iter().all(|family| told.iter().any(|told| *family == format!("tfguard_{told}"))), "{families:?}");
    for rule in read.as_array().unwrap() {
        let words = rule[1].as_str().unwrap().split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        let metrics: Vec<_> = words.filter(|word| word.starts_with("tfguard_")).collect();
        assert!(!metrics.is_empty() && metrics.iter().all(|metric| families.contains(metric)), "{rule} {families:?}");
    }
}

/// A lock is stuck, and somebody tired does what the runbook says, line by line.
#[test]
fn the_runbook_frees_a_stuck_state() {
    use nix::sys::signal::SIGKILL;
    let project = Project::new(Aws::shared(), Kind::Sleep).table().lockfile().init(&terraform());
    let run = project.terraform(APPLY).start();
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGKILL);
    run.wait(SOON).expect_signal(SIGKILL);
    let id = project.lock().unwrap()["ID"].as_str().unwrap().to_owned();
    let text = fs::read_to_string(docs().join("runbook.md")).unwrap();
    let steps = blocks(text.split("## It happens again").next().unwrap());
    let lines: Vec<_> =
        steps.iter().flat_map(|(_, block)| block.lines()).filter(|line| line.starts_with("tfguard ")).collect();
    let mut did = Vec::new();
    // What has no ID is for other cases.
    for line in lines.into_iter().filter(|line| !line.contains("--broken")) {
        let words = shell_words::split(&line.replace("<ID>", &id)).unwrap();
        let is_deletion = words[1] == "unlock" && !words.contains(&"--dry-run".to_owned());
        // Where it asks, somebody says yes.
        let yes = is_deletion.then_some("--yes");
        let exit = project.command(TFGUARD).args(&words[1..]).args(yes).run().expect_code(0);
        assert!(words[1] != "inspect" || exit.out().contains(&id), "{exit}");
        let there = project.lock().is_some();
        assert_eq!(there, project.lock_in_bucket().is_some());
        assert_eq!(there, !did.contains(&"delete") && !is_deletion, "{line}: {exit}");
        did.push(if is_deletion { "delete" } else { "look" });
    }
    assert!(did.contains(&"delete") && did.last() == Some(&"look"), "{did:?}");
    project.terraform(["plan", "-input=false", "-no-color"]).run().expect_code(0);
}

/// What a directory's backend block says, and what people add, is in the policy that is printed.
#[test]
fn the_settings_of_a_directory_are_in_its_policy() {
    let key = "arn:aws:kms:eu-central-1:111122223333:key/12345678-1234-4234-8234-123456789012";
    let project = Project::new(Aws::shared(), Kind::Quick).table().lockfile();
    let project = project.backend(&format!(r#"kms_key_id = "{key}""#)).init(&terraform());
    let print = |args: &[&str]| project.command(TFGUARD).args(["doctor", "--iam-policy"]).args(args).run();
    let printed = |args: &[&str]| print(args).expect_code(0).out();
    // In every workspace: object, lockfile, and the items of lock and digest.
    for of_any in ["/env:/*/network/prod.tfstate", "tflock*", "prod.tfstate-md5"] {
        let there = printed(&[]).lines().filter(|line| line.contains("/env:/*/") && line.contains(of_any)).count();
        assert!(there > 0, "{of_any}: {}", printed(&[]));
    }
    assert!(printed(&[]).contains(key));
    let with_more = printed(&["--kms-key", "1", "--kms-key", "2"]);
    assert!([key, ":key/1\"", ":key/2\""].iter().all(|key| with_more.contains(key)), "{with_more}");
    assert!(print(&["--kms-key", "alias/x"]).expect_code(2).err().contains("describe-key"));
    let by_flags = printed(&["--bucket", "b", "--key", "k", "--region", Aws::REGION]);
    assert!(!by_flags.contains("kms:") && !by_flags.contains("/env:/"), "{by_flags}");
}
