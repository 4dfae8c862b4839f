//! Every command that takes a lock, killed over it: at the very end, when it is about to give the lock back.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::*;
use super::case::Case;
use super::cells::message;

/// Two resources, of which one can be imported, and something for the console.
const CONFIGURATION: &str = r#"resource "terraform_data" "work" {
  input = 42
}
resource "terraform_data" "imported" {}
"#;

/// A command, in an order in which each finds what it works on. None of them asks.
const COMMANDS: [&str; 14] = [
    "plan -input=false",
    "apply -input=false -auto-approve",
    "refresh -input=false",
    "console",
    "taint terraform_data.work",
    "untaint terraform_data.work",
    "state mv terraform_data.work terraform_data.moved",
    "state replace-provider -auto-approve terraform.io/builtin/terraform example.com/a/b",
    "state push -force pushed.tfstate",
    "state rm terraform_data.imported",
    "import -input=false terraform_data.imported x",
    "workspace new blue",
    "workspace delete blue",
    "destroy -input=false -auto-approve",
];

const MIGRATE: &str = "init -migrate-state -force-copy";

/// Kills each of them; what became of the locks.
pub fn every_command(case: &Case) -> String {
    let proxy = FaultProxy::start(case.aws.url());
    let project = case.project(Kind::Hcl(CONFIGURATION.to_owned())).endpoint(proxy.url()).init(&case.program);
    project.apply();
    let pulled = project.terraform(["state", "pull"]).run().expect_code(0).stdout;
    std::fs::write(project.work().join("pushed.tfstate"), pulled).expect("a file can be written");

    let mut seen = Seen::default();
    let mut try_it = |name: &str, command: &str, workspace: &str| {
        let killed =
            catch_unwind(AssertUnwindSafe(|| killed_over_its_lock(case, &project, &proxy, command, workspace)));
        seen.note(name, killed.map_err(message));
        forget(case, &project, &proxy);
    };
    for command in COMMANDS {
        let words = command.split(' ').take_while(|word| !word.starts_with('-') && !word.contains('.'));
        let words: Vec<_> = words.filter(|word| *word != "blue").collect();
        try_it(&words.join(" "), command, "default");
    }
    try_it("plan in a new workspace", "plan -input=false", "fresh");

    // An empty state is not moved.
    project.apply();
    let (block, aside) = (project.work().join("backend.tf"), project.work().join("backend.aside"));
    std::fs::rename(&block, &aside).expect("a file can be moved");
    try_it("init -migrate-state to a file", MIGRATE, "default");
    project.terraform(MIGRATE.split(' ')).run().expect_code(0);
    std::fs::rename(&aside, &block).expect("a file can be moved");
    // Nor one to where it is already.
    case.aws.delete_object(project.bucket(), &project.state_key());
    if case.table {
        case.aws.delete_item(project.table_name(), &format!("{}-md5", project.lock_id()));
    }
    try_it("init -migrate-state from a file", MIGRATE, "default");
    project.terraform(MIGRATE.split(' ')).run().expect_code(0);
    let text = std::fs::read_to_string(&block).expect("it is there");
    std::fs::write(&block, text.replace("network/prod", "network/moved")).expect("a file can be written");
    try_it("init -migrate-state to another key", MIGRATE, "default");
    seen.said()
}

/// What became of which commands.
#[derive(Default)]
struct Seen {
    /// The commands, by what was seen.
    kept: BTreeMap<String, Vec<String>>,
    /// Each with what was seen, in whole.
    short: Vec<(String, String)>,
}

impl Seen {
    fn note(&mut self, command: &str, seen: Result<String, String>) {
        match seen {
            Ok(text) => self.kept.entry(text).or_default().push(command.to_owned()),
            Err(text) => self.short.push((command.to_owned(), text)),
        }
    }

    /// Panics, with all of it, if any falls short.
    fn said(self) -> String {
        let names =
            |commands: &[String]| commands.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let mut groups: Vec<_> = self.kept.iter().collect();
        groups.sort_by_key(|(_, commands)| std::cmp::Reverse(commands.len()));
        let mut said: Vec<_> = groups
            .iter()
            .enumerate()
            .map(|(n, (text, commands))| match n {
                0 => format!("{} commands: {text}", commands.len()),
                _ => format!("{}: {text}", names(commands)),
            })
            .collect();
        if self.short.is_empty() {
            return said.join("; ");
        }
        let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        said.extend(self.short.iter().map(|(name, text)| format!("`{name}`: {}", first(text))));
        let whole: Vec<_> = self.short.iter().map(|(name, text)| format!("--- {name}: {text}")).collect();
        panic!("{}\n{}", said.join("; "), whole.join("\n"));
    }
}

/// Holds the request by which a guarded command gives its lock back, and kills the command.
fn killed_over_its_lock(case: &Case, project: &Project, proxy: &FaultProxy, command: &str, workspace: &str) -> String {
    let gate = Gate::new();
    if case.table {
        proxy.rule(Match::dynamodb("DeleteItem").nth(1), [gate.hold()]);
    }
    if case.lockfile {
        proxy.rule(Match::http("DELETE", ".tflock").nth(1), [gate.hold()]);
    }
    let before = proxy.seen().len();
    let run = project.tfguard(TFGUARD, [""; 0], command.split(' '));
    let run = if workspace == "default" { run } else { run.env("TF_WORKSPACE", workspace) };
    let run = run.stdin(Stdin::Bytes(b"1\n".to_vec())).start();
    while !gate.is_reached_within(Duration::from_millis(100)) {
        if run.has_ended() {
            let exit = run.wait(SOON).expect_code(0);
            let lock = [Match::dynamodb("PutItem").body("attribute_not_exists"), Match::http("PUT", ".tflock")];
            let asked = proxy.seen().split_off(before).iter().any(|seen| lock.iter().any(|lock| lock.fits(seen)));
            assert!(!asked, "not tried: it took a lock, and did not give it back\n{exit}");
            return "takes no lock".to_owned();
        }
    }
    let held = case.locks(project);
    assert!(!held.is_empty(), "not tried: it holds no lock");
    kill(pid_of(&journal(project)["child"]["id"]));
    // tfguard's own requests pass.
    proxy.clear_rules();
    let exit = run.wait(SOON);
    project.guard().assert_no_process_left(SOON);
    let seen = case.account(&held, &case.locks(project), &exit);
    // 121: what it died over needs a look.
    assert!(matches!(exit.code, Some(137 | 120 | 121)), "{seen}, but exit code {:?}\n{exit}", exit.code);
    seen
}

/// Removes what is left, so that the next one finds nothing.
fn forget(case: &Case, project: &Project, proxy: &FaultProxy) {
    proxy.clear_rules();
    project.guard().kill_all();
    for lock in case.locks(project).into_values() {
        case.delete_lock(project, &lock.path);
    }
    let _ = std::fs::remove_dir_all(project.sessions().join(".tfguard-sessions"));
}
