//! What a Terraform that dies had made and not saved: real resources of the real AWS provider, where a mirror has it.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::Signal::SIGTERM;

use super::provider::project_of;
use super::*;

const APPLY_SLOWLY: [&str; 5] = ["apply", "-input=false", "-auto-approve", "-no-color", "-parallelism=4"];
/// Bounds a hang. The real provider, which says nothing for a while, has its time on a busy machine.
const LONG: Duration = Duration::from_secs(400);
const BUCKETS: usize = 8;
const ROLES: usize = 6;

/// Buckets, queues, and roles in a module, with keys that need care. All that they are called begins with `prefix`.
fn resources(prefix: &str) -> String {
    format!(
        r#"resource "aws_s3_bucket" "store" {{
  count  = {BUCKETS}
  bucket = "{prefix}-${{count.index}}"
}}
resource "aws_sqs_queue" "queue" {{
  for_each = toset([for at in range(3) : "it's \"${{at}}\": Creating... $${{x}}"])
  name     = "{prefix}-${{substr(md5(each.key), 0, 8)}}"
}}
module "roles" {{
  source   = "./roles"
  for_each = toset(["a b", "c.d"])
  prefix   = "{prefix}-${{md5(each.key)}}"
}}
"#
    )
}

const ROLE: &str = r#"variable "prefix" {}
resource "aws_iam_role" "role" {
  count              = 3 # in each of two modules
  name               = "${substr(var.prefix, 0, 50)}-${count.index}"
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = [] })
}
"#;

fn real(mirror: &Path) -> (Project<'static>, String) {
    let aws = Aws::shared();
    let prefix = aws.unique("made");
    let project = project_of(mirror, aws.url(), &resources(&prefix));
    std::fs::create_dir(project.work().join("roles")).unwrap();
    std::fs::write(project.work().join("roles/main.tf"), ROLE).unwrap();
    (project.init(&terraform()), prefix)
}

/// The IDs of what exists, as Terraform prints them.
fn existing(project: &Project, prefix: &str) -> BTreeSet<String> {
    let script = r#"
import boto3, json, sys
url, prefix = sys.argv[1:]
def client(name): return boto3.client(name, endpoint_url=url, region_name="us-east-1")
ids = [bucket["Name"] for bucket in client("s3").list_buckets()["Buckets"]]
ids += client("sqs").list_queues(QueueNamePrefix=prefix).get("QueueUrls", [])
for page in client("iam").get_paginator("list_roles").paginate(): ids += [role["RoleName"] for role in page["Roles"]]
print(json.dumps([id for id in ids if prefix + "-" in id]))
"#;
    let python = project.command(Tools::get().python());
    let listed = python.args(["-c", script, Aws::shared().url(), prefix]).run().expect_code(0);
    serde_json::from_str(&listed.out()).unwrap()
}

/// The IDs of what a state has.
fn saved(project: &Project) -> BTreeSet<String> {
    let state = project.state().unwrap_or_default();
    let resources = state["resources"].as_array().cloned().unwrap_or_default();
    let instances = resources.iter().flat_map(|resource| resource["instances"].as_array().cloned().unwrap_or_default());
    instances.map(|instance| instance["attributes"]["id"].as_str().unwrap().to_owned()).collect()
}

/// `(address, what became of it) → ID` of what the report says is not saved.
fn named(report: &Value) -> BTreeMap<(String, String), Option<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let unsaved = report["unsaved"].as_array().cloned().unwrap_or_default();
    let resources = unsaved.iter().flat_map(|unsaved| unsaved["resources"].as_array().cloned().unwrap());
    resources.map(|it| ((text(&it["address"]).unwrap(), text(&it["is"]).unwrap()), text(&it["id"]))).collect()
}

/// What came of one killed apply.
struct Count {
    made: usize,
    may_exist: usize,
    /// The same in words.
    told: String,
}

/// Everything that exists and is not saved is named, with its ID if Terraform had said it; the blocks plan clean.
fn assert_all_is_named(project: &Project, prefix: &str, exit: &Exit, report: &Value) -> Count {
    let (exist, saved) = (existing(project, prefix), saved(project));
    let named = named(report);
    let made: BTreeSet<_> = named.iter().filter(|((_, is), _)| is == "made").filter_map(|(_, id)| id.clone()).collect();
    let said = |id: &String| {
        exit.out().lines().any(|line| line.contains("reation complete") && line.contains(&format!("[id={id}]")))
    };
    let lost: BTreeSet<_> = exist.difference(&saved).cloned().collect();
    let expected: BTreeSet<_> = lost.iter().filter(|id| said(id)).cloned().collect();
    assert_eq!(made, expected, "{exit} {report}");
    let may_exist = named.keys().filter(|(_, is)| is == "may-exist").count();
    assert!(lost.len() - made.len() <= may_exist, "{lost:?} {report}");
    assert_eq!(made.len() + may_exist, named.len(), "{report}");
    let (exist, saved, made, lost) = (exist.len(), saved.len(), made.len(), lost.len());
    let told =
        format!("{exist} exist, {saved} saved, {lost} not saved: {made} named with ID, {may_exist} as maybe there");
    Count { made, may_exist, told }
}

/// The blocks plan clean, are taken, and then nothing is left to be said.
fn assert_blocks_are_taken(project: &Project, prefix: &str, made: usize) {
    let verify = || project.command(TFGUARD).args(["verify", "--imports"]).run().expect_code(0).out();
    let blocks = verify();
    let active = |blocks: &str| blocks.lines().filter(|line| *line == "import {").count();
    assert_eq!(active(&blocks), made, "{blocks}");
    let lost: BTreeSet<_> = existing(project, prefix).difference(&saved(project)).cloned().collect();
    remove(project, lost.iter().filter(|id| !blocks.contains(&format!("\n  id = \"{id}\"\n}}"))));
    std::fs::write(project.work().join("recovered.tf"), &blocks).unwrap();
    let plan = project.terraform(PLAN).run().expect_code(0);
    let plan = plan.out().lines().find(|line| line.starts_with("Plan: ")).unwrap_or_default().to_owned();
    assert!(made == 0 || plan.starts_with(&format!("Plan: {made} to import, ")), "{plan}");
    assert!(plan.is_empty() || plan.ends_with(" to add, 0 to change, 0 to destroy."), "{plan}");
    project.apply();
    assert_eq!(verify(), "", "no comment, either");
    project.command(TFGUARD).args(["release"]).run().expect_code(0);
    assert!(sessions(project).is_empty(), "the state lacks nothing any more");
}

/// Removes, as a person would by hand, what exists and was not seen to be made.
fn remove<'a>(project: &Project, ids: impl Iterator<Item = &'a String>) {
    let script = r#"
import boto3, sys
url = sys.argv[1]
def client(name): return boto3.client(name, endpoint_url=url, region_name="us-east-1")
for id in sys.argv[2:]:
    if id.startswith("http"): client("sqs").delete_queue(QueueUrl=id)
    elif id.count("-") > 2: client("iam").delete_role(RoleName=id)
    else: client("s3").delete_bucket(Bucket=id)
"#;
    let python = project.command(Tools::get().python());
    python.args(["-c", script, Aws::shared().url()]).args(ids).run().expect_code(0);
}

/// A guarded apply that has said of this many resources that they are made, and the words that say it.
fn applying(project: &Project, made: usize, more: &[&str]) -> Running {
    let args = APPLY_SLOWLY.iter().chain(more);
    let run = project.tfguard(TFGUARD, ["--report", "report.json"], args).new_group().start();
    let begun = std::time::Instant::now();
    let has_come = |out: &str| out.contains(": Creating...") && out.matches(": Creation complete").count() >= made;
    while !has_come(&run.stdout()) {
        assert!(!run.has_ended() && begun.elapsed() < LONG, "{}", run.stdout());
        std::thread::sleep(Duration::from_millis(2));
    }
    run
}

fn tell(what: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{what}\n").as_bytes());
}

/// Another moment in each run of the tests.
fn moment(salt: u32) -> usize {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_micros();
    (now as usize + salt as usize) % (BUCKETS + ROLES)
}

fn kill_and_recover(more: &[&str]) {
    let Some(mirror) = aws_provider_mirror() else { return };
    let (project, prefix) = real(&mirror);
    let moment = moment(more.len() as u32);
    let run = applying(&project, moment, more);
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(LONG);
    let report = report(&project);
    let count = assert_all_is_named(&project, &prefix, &exit, &report);
    tell(&format!("killed after {moment} {more:?}: {}", count.told));
    // It may have saved all.
    if count.made + count.may_exist == 0 {
        exit.expect_code(137);
        assert!(sessions(&project).is_empty());
        return;
    }
    exit.expect_code(121);
    assert_blocks_are_taken(&project, &prefix, count.made);
}

#[test]
fn what_a_killed_apply_had_made_is_named_and_can_be_imported() {
    kill_and_recover(&[]);
}

#[test]
fn so_is_what_it_told_as_events() {
    kill_and_recover(&["-json"]);
}

/// As when a container ends: the provider dies of it, too, and Terraform ends in its own way.
#[test]
fn what_was_in_flight_when_everybody_was_terminated_is_named() {
    let Some(mirror) = aws_provider_mirror() else { return };
    let (project, prefix) = real(&mirror);
    let run = applying(&project, moment(7), &[]);
    for process in project.guard().processes() {
        let pid: i32 = process.split_whitespace().next().unwrap().parse().unwrap();
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), SIGTERM);
    }
    let exit = run.wait(LONG);
    let report = report(&project);
    let count = assert_all_is_named(&project, &prefix, &exit, &report);
    tell(&format!("everybody terminated, Terraform ended by {}: {}", report["ending"], count.told));
    // It may have saved all.
    if count.made + count.may_exist == 0 {
        return;
    }
    assert_blocks_are_taken(&project, &prefix, count.made);
}

/// A provider gives up what is in flight when it is told to stop: that alone may be named.
#[test]
fn of_an_orderly_end_only_what_its_provider_gave_up_is_named() {
    let Some(mirror) = aws_provider_mirror() else { return };
    let (project, prefix) = real(&mirror);
    let run = applying(&project, moment(11), &[]);
    run.signal(SIGTERM);
    let exit = run.wait(LONG);
    let report = report(&project);
    let count = assert_all_is_named(&project, &prefix, &exit, &report);
    for (address, _) in named(&report).into_keys() {
        assert!(exit.err().contains(&format!("with {address},")), "Terraform says that it failed: {address} {exit}");
    }
    tell(&format!("orderly end: {}", count.told));
    assert_eq!(count.made, 0);
    exit.expect_code(if count.may_exist > 0 { 121 } else { 1 });
}

#[test]
fn of_an_orderly_end_nothing_is_named() {
    let Some(mirror) = aws_provider_mirror() else { return };
    let bucket = Aws::shared().unique("made");
    let resources = format!(
        r#"resource "aws_s3_bucket" "made" {{
  bucket = "{bucket}"
}}
resource "terraform_data" "work" {{
  depends_on = [aws_s3_bucket.made]
  provisioner "local-exec" {{
    command = "echo as''leep; exec sleep 600"
  }}
}}
"#
    );
    let project = project_of(&mirror, Aws::shared().url(), &resources).init(&terraform());
    let run = project.tfguard(TFGUARD, ["--report", "report.json"], APPLY).new_group().start();
    run.wait_for_stdout("asleep", LONG);
    run.signal(SIGTERM);
    let exit = run.wait(LONG).expect_code(1);
    assert_eq!(report(&project)["unsaved"], Value::Null, "{exit}");
    assert!(!exit.err().contains("lack"), "{exit}");
    assert!(saved(&project).contains(&bucket));
    assert!(sessions(&project).is_empty());
}

/// A Terraform whose local command does what a provider would make it do, as far as tfguard can see that: it writes these
/// lines to its output, and if `logged`, to its log what that has of them. Then it hangs.
fn stand_in(lines: &str, logged: bool) -> Project<'static> {
    let begun = lines.lines().filter_map(|line| line.split_once(": Creating...")).map(|(address, _)| address);
    let log: String =
        begun.map(|address| format!("2026-11-28T19:18:18.059Z [INFO]  Starting apply for {address}\n")).collect();
    let project = project(Kind::Hcl(
        r#"resource "terraform_data" "work" {
  provisioner "local-exec" {
    command = "cat lines; cat lines >> /proc/$PPID/fd/1; cat log >> \"$TF_LOG_PATH\"; echo as''leep; exec sleep 600"
  }
}
"#
        .to_owned(),
    ));
    let project = project.table().init(&terraform());
    std::fs::write(project.work().join("lines"), lines).unwrap();
    std::fs::write(project.work().join("log"), if logged { log } else { String::new() }).unwrap();
    project
}

fn killed(project: &Project) -> Exit {
    let run = project.tfguard(TFGUARD, ["--report", "report.json"], APPLY).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    kill(pid_of(&journal(project)["child"]["id"]));
    run.wait(SOON)
}

const MADE: &str = "aws_s3_bucket.a: Creating...\naws_s3_bucket.a: Creation complete after 0s [id=a-1]\n";

#[test]
fn what_its_log_does_not_tell_becomes_no_import() {
    let project = stand_in(MADE, false);
    let exit = killed(&project).expect_code(121);
    assert!(exit.err().contains("NOT SURE"), "{exit}");
    let report = report(&project);
    assert_eq!(
        report["unsaved"][0]["resources"].as_array().unwrap().len(),
        1,
        "what the provisioner printed counts not"
    );
    let blocks = project.command(TFGUARD).args(["verify", "--imports"]).run().expect_code(0).out();
    assert!(blocks.contains("id = \"a-1\"") && blocks.lines().all(|line| line.starts_with("# ")), "{blocks}");
}

/// The page, with what Terraform printed there.
#[test]
fn the_page_says_what_is_so() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/after-a-kill.md")).unwrap();
    let block = |language: &str, number: usize| {
        let opening = format!("\n```{language}\n");
        page.split(&opening).nth(number).unwrap().split("```").next().unwrap().to_owned()
    };
    let project = stand_in(&block("text", 2), true);
    let exit = killed(&project).expect_code(121);
    for line in block("text", 3).lines() {
        let line = line.replace("acme-states/network/prod.tfstate", &project.lock_id());
        assert!(exit.err().contains(&line), "{line}: {exit}");
    }
    let verify = block("sh", 1);
    let next = format!("run in {}: {}", project.work().display(), verify.trim());
    assert!(exit.err().contains(&next), "{next}: {exit}");
    let command = |args: &[&str]| project.command(TFGUARD).args(args).run();
    assert_eq!(command(&["verify", "--imports"]).expect_code(0).out(), block("hcl", 1));
    assert_eq!(command(&["verify", "--imports", "--from", "report.json"]).expect_code(0).out(), block("hcl", 1));
    // Of a state that is not in S3, or not known, it is all there is.
    let mut elsewhere = report(&project);
    elsewhere["unsaved"][0]["state"] = Value::Null;
    std::fs::write(project.work().join("elsewhere.json"), elsewhere.to_string()).unwrap();
    std::fs::create_dir(project.work().join("empty")).unwrap();
    for directory in [".", "empty"] {
        let uncompared = command(&["verify", "--imports", "--from", "elsewhere.json", "--chdir", directory]);
        assert_eq!(uncompared.expect_code(0).out(), block("hcl", 1));
    }
    // Without being asked for them, a cleanup step keeps what is needed to print them.
    let release = command(&["release"]).expect_code(121);
    assert!(!release.out().contains("import {"), "{release}");
    let release = command(&["release", "--imports"]).expect_code(0);
    assert_eq!(release.out(), block("hcl", 1));
    assert!(sessions(&project).is_empty());
    let nothing = command(&["verify", "--imports"]).expect_code(125);
    assert!(nothing.err().contains("hint: tfguard verify --imports --from"), "{nothing}");
}

/// Where the supervisor dies, too, who takes its place reads the output again.
#[test]
fn what_a_dead_supervisor_had_read_is_read_again() {
    let project = stand_in(MADE, true);
    let run = project.tfguard(TFGUARD, ["--report", "report.json"], APPLY).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    let journal = journal(&project);
    kill(pid_of(&journal["supervisor"]));
    kill(pid_of(&journal["child"]["id"]));
    run.wait(SOON).expect_code(121);
    let named = named(&report(&project));
    assert_eq!(
        named.into_iter().collect::<Vec<_>>(),
        [(("aws_s3_bucket.a".into(), "made".into()), Some("a-1".into()))]
    );
}

/// At a terminal nobody but the person there has what Terraform printed.
#[test]
fn of_a_terminal_it_is_said_that_nothing_is_known() {
    let project = stand_in(MADE, true);
    let run = project.tfguard(TFGUARD, ["--report", "report.json", "--attach"], APPLY).pty().start();
    run.wait_for_stdout("asleep", SOON);
    kill(pid_of(&journal(&project)["child"]["id"]));
    run.wait(SOON).expect_code(137);
    let report = report(&project);
    let unseen = report["unsaved"][0]["unseen"][0].as_str().unwrap();
    assert!(unseen.contains("its output went past tfguard"), "{report}");
}
