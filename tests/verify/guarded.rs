//! The same look by a guarded run, after an unclean death.

use std::path::{Path, PathBuf};

use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};

use crate::support::{
    Action, Answer, Aws, Exit, FaultProxy, Gate, Kind, LockInfo, Match, Product, Project, Running, Tools, session_dirs,
};
use crate::verify::bed::md5;
use crate::verify::{SOON, TFGUARD};

const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];
const REPORT: [&str; 2] = ["--report", "report.json"];

/// An apply that has uploaded its state and waits to write the digest.
struct Writing {
    proxy: FaultProxy,
    project: Project<'static>,
    gate: Gate,
    run: Running,
}

impl Writing {
    /// `then`: what becomes of the digest once [`Self::gate`] is opened.
    fn begin(project: impl FnOnce(Project<'static>) -> Project<'static>, args: &[&str], then: Action) -> Self {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = project(Project::new(Aws::shared(), Kind::Quick)).table().endpoint(proxy.url());
        let project = project.init(&Tools::get().any_terraform());
        project.apply();
        let changed = std::fs::read_to_string(project.work().join("main.tf")).unwrap().replace("42", "43");
        std::fs::write(project.work().join("main.tf"), changed).unwrap();
        project.terraform(["plan", "-input=false", "-out=plan.tfplan"]).run().expect_code(0);
        let gate = Gate::new();
        proxy.rule(Match::dynamodb("PutItem").body("-md5"), [gate.hold(), then]);
        let run = project.tfguard(TFGUARD, REPORT, args).start();
        gate.wait_for(1, SOON);
        Self { proxy, project, gate, run }
    }

    fn kill_terraform(&self) {
        kill(&self.project, "child");
    }
}

fn sessions(project: &Project) -> Vec<PathBuf> {
    session_dirs(&project.sessions())
}

fn kill(project: &Project, who: &str) {
    let journal = std::fs::read(sessions(project)[0].join("journal.json")).unwrap();
    let journal: Value = serde_json::from_slice(&journal).unwrap();
    let process = if who == "child" { &journal["child"]["id"] } else { &journal[who] };
    crate::support::kill(crate::support::pid_of(process));
}

fn report(project: &Project) -> Value {
    serde_json::from_slice(&std::fs::read(project.work().join("report.json")).unwrap()).unwrap()
}

/// Runs the command that the last words of a run name.
fn run_next(project: &Project, exit: &Exit, more: &str) -> Exit {
    let err = exit.err();
    let (_, next) = err.rsplit_once("run in ").unwrap_or_else(|| panic!("{exit}"));
    let (dir, command) = next.lines().next().unwrap().split_once(": tfguard ").unwrap_or_else(|| panic!("{exit}"));
    let script = format!("cd {dir} && {TFGUARD} {command} {more}");
    project.command("sh").args(["-c", &script]).run()
}

fn state_md5(project: &Project) -> String {
    md5(&project.aws().object(project.bucket(), &project.state_key()).unwrap().body)
}

/// The whole story: Terraform dies between state and digest, the run says so, the digest is put right, Terraform works.
#[test]
fn a_terraform_that_died_before_the_digest_leaves_a_state_that_needs_a_look() {
    let Writing { proxy, project, gate, run } = Writing::begin(|project| project, &APPLY, Action::Close);
    kill(&project, "child");
    let exit = run.wait(SOON).expect_code(121);
    gate.release();
    proxy.clear_rules();
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert!(exit.err().contains("needs a look: it is not the state whose digest is in the table"), "{exit}");
    assert_eq!(project.lock(), None);
    let report = report(&project);
    assert_eq!((&report["exit_code"], &report["lock_left"]), (&json!(121), &json!(false)));
    let state = &report["states"][0];
    assert_eq!((&state["verdict"], &state["findings"][0]["kind"]), (&json!("needs-a-look"), &json!("digest-differs")));
    assert_eq!(state["findings"][0]["actual"], state_md5(&project));
    assert_eq!((&state["bucket"], &state["state_key"]), (&json!(project.bucket()), &json!(project.state_key())));

    project.terraform(["plan", "-input=false"]).run().expect_code(1);
    run_next(&project, &exit, "").expect_code(121);
    run_next(&project, &exit, "--fix-digest --yes").expect_code(0);
    project.terraform(["plan", "-input=false"]).run().expect_code(0);
}

/// A request of the dead Terraform that is still on its way is waited for.
#[test]
fn a_digest_that_arrives_after_the_death_is_no_trouble() {
    let writing = Writing::begin(|project| project, &APPLY, Action::Forward);
    let proxy = &writing.proxy;
    // tfguard's: Terraform has read all that it reads.
    let second_look = Gate::new();
    proxy.rule(Match::dynamodb("GetItem").body("-md5").nth(2), [second_look.hold()]);
    writing.kill_terraform();
    second_look.wait_for(1, SOON);
    writing.gate.release();
    proxy.wait_for(|seen| seen.finished && seen.operation() == Some("PutItem") && seen.done[0] == "held", SOON);
    second_look.release();
    let exit = writing.run.wait(SOON).expect_code(137);
    assert!(!exit.err().contains("needs a look"), "{exit}");
    assert_eq!(report(&writing.project)["states"][0]["verdict"], "whole");
}

/// Somebody else took the lock as soon as it was free. What they are at is not broken.
#[test]
fn a_successor_at_work_is_not_taken_for_a_broken_state() {
    let writing = Writing::begin(|project| project, &APPLY, Action::Close);
    let (proxy, project) = (&writing.proxy, &writing.project);
    let deleted = Gate::new();
    proxy.rule(Match::dynamodb("DeleteItem"), [Action::Forward, deleted.hold()]);
    writing.kill_terraform();
    deleted.wait_for(1, SOON);
    let lock = LockInfo::foreign(&project.lock_id());
    project.aws().plant_lock(project.table_name(), &lock);
    deleted.release();
    let exit = writing.run.wait(SOON).expect_code(137);
    writing.gate.release();
    assert!(!exit.err().contains("needs a look"), "{exit}");
    assert_eq!(report(project)["states"][0]["verdict"], "being-written");
    assert!(project.lock().is_some(), "the successor's lock stays");
}

/// What cannot be looked at changes nothing.
#[test]
fn a_look_that_is_denied_changes_no_exit_code() {
    let writing = Writing::begin(|project| project, &APPLY, Action::Close);
    let denied = Answer::s3(403, "AccessDenied", "no");
    writing.proxy.rule(Match::http("GET", "prod.tfstate?x-id"), [Action::from(denied)]);
    writing.kill_terraform();
    let exit = writing.run.wait(SOON).expect_code(137);
    writing.gate.release();
    assert!(!exit.err().contains("needs a look") && !exit.err().contains("looked at"), "{exit}");
    let report = report(&writing.project);
    assert_eq!(report["states"][0]["verdict"], Value::Null);
    assert!(report["states"][0]["why"].as_str().unwrap().contains("Grant s3:GetObject"), "{report:#}");
}

/// The lock that is left says more than the state: its exit code stands, and both are said.
#[test]
fn a_lock_that_is_left_comes_first() {
    let writing = Writing::begin(|project| project, &APPLY, Action::Close);
    let denied = Answer::dynamodb("AccessDeniedException", "no");
    writing.proxy.rule(Match::dynamodb("DeleteItem"), [Action::from(denied)]);
    writing.kill_terraform();
    let exit = writing.run.wait(SOON).expect_code(120);
    writing.gate.release();
    assert!(exit.err().contains("NOT released") && exit.err().contains("needs a look"), "{exit}");
    let err = exit.err();
    assert!(err.find("tfguard unlock") < err.find("tfguard verify"), "{exit}");

    // The cleanup step may do what the run might not.
    writing.proxy.clear_rules();
    let exit = writing.project.command(TFGUARD).arg("release").run().expect_code(121);
    assert!(exit.err().contains("deleted by tfguard") && exit.err().contains("needs a look"), "{exit}");
    assert_eq!(writing.project.lock(), None);
}

/// The command that is shown leads to the state that was looked at: of a plan file, and of another workspace.
#[test]
fn the_next_command_finds_the_state_again() {
    let of_plan = ["apply", "-input=false", "-no-color", "plan.tfplan"];
    type Setting = fn(Project<'static>) -> Project<'static>;
    let cases: [(&[&str], Setting); 2] = [(&of_plan, |project| project), (&APPLY, |project| project.workspace("blue"))];
    for (args, setting) in cases {
        let Writing { proxy, project, gate, run } = Writing::begin(setting, args, Action::Close);
        kill(&project, "child");
        let exit = run.wait(SOON).expect_code(121);
        gate.release();
        proxy.clear_rules();
        // Whatever the directory is set up for now.
        if args == of_plan {
            std::fs::remove_dir_all(project.work().join(".terraform")).unwrap();
        } else {
            std::fs::write(project.work().join(".terraform/environment"), "default").unwrap();
        }
        let said = run_next(&project, &exit, "--format json").expect_code(121);
        let said: Value = serde_json::from_str(&said.out()).unwrap();
        assert_eq!(
            (&said["key"], &said["findings"][0]["kind"]),
            (&json!(project.state_key()), &json!("digest-differs"))
        );
    }
}

/// A plan file tells of which state it was made, so that another one in its place is noticed.
#[test]
fn another_state_than_the_plan_was_made_of_needs_a_look() {
    let of_plan = ["apply", "-input=false", "-no-color", "plan.tfplan"];
    for (field, other, kind) in [("lineage", json!("another"), "other-lineage"), ("serial", json!(0), "older-serial")] {
        let writing = Writing::begin(|project| project, &of_plan, Action::Close);
        let project = &writing.project;
        let mut state = project.state().unwrap();
        state[field] = other;
        let state = state.to_string();
        let mut item = project.aws().item(project.table_name(), &format!("{}-md5", project.lock_id())).unwrap();
        item.insert("Digest".to_owned(), aws_sdk_dynamodb::types::AttributeValue::S(md5(state.as_bytes())));
        project.aws().put_object(project.bucket(), &project.state_key(), state.into());
        project.aws().put_item(project.table_name(), item);
        writing.kill_terraform();
        let exit = writing.run.wait(SOON).expect_code(121);
        writing.gate.release();
        assert_eq!(report(project)["states"][0]["findings"][0]["kind"], kind, "{exit}");
        assert_eq!(report(project)["states"][0]["findings"].as_array().unwrap().len(), 1, "{exit}");
        writing.proxy.clear_rules();
        let said = run_next(project, &exit, "--format json").expect_code(121);
        assert!(said.out().contains(kind), "the command that is shown looks for the same: {said}");
    }
}

/// The cleanup step says it too, where nobody was left to whom the run could.
#[test]
fn the_cleanup_step_says_it_too() {
    let writing = Writing::begin(|project| project, &APPLY, Action::Close);
    kill(&writing.project, "front");
    writing.kill_terraform();
    writing.run.wait(SOON).expect_signal(SIGKILL);
    // Outside a CI, a run that is alive is no cleanup step's.
    writing.project.guard().assert_no_process_left(SOON);
    writing.gate.release();
    let exit = writing.project.command(TFGUARD).arg("release").run().expect_code(121);
    assert!(exit.err().contains("needs a look"), "{exit}");
    assert!(sessions(&writing.project).is_empty());
}

/// Nobody is left of the run, and this machine knows it: the lock is no sign of a writer at work.
#[test]
fn the_lock_of_a_dead_holder_is_no_excuse() {
    let Writing { proxy, project, gate, run } = Writing::begin(|project| project, &APPLY, Action::Close);
    let journal = project.wait_for_known_lock(SOON);
    run.kill_with_supervisor(&journal);
    kill(&project, "child");
    project.guard().assert_no_process_left(SOON);
    gate.release();
    proxy.clear_rules();
    assert!(project.lock().is_some());
    let verify = |options: &[&str]| project.command(TFGUARD).arg("verify").args(options).run();
    let exit = verify(&[]).expect_code(121);
    assert!(exit.out().contains("What is wrong"), "{exit}");
    let exit = verify(&["--fix-digest", "--yes"]).expect_code(121);
    assert!(exit.out().contains("Nothing was written"), "any lock stands in the way: {exit}");
    let exit = project.command(TFGUARD).arg("release").run().expect_code(121);
    assert!(exit.err().contains("needs a look"), "{exit}");
    verify(&["--fix-digest", "--yes"]).expect_code(0);
}

/// The steps are pasted into a plain shell, where another workspace is selected: they are about the state that was looked
/// at all the same. A state in the wrong workspace is a disaster.
#[test]
fn the_steps_are_about_their_own_workspace_wherever_they_are_pasted() {
    let project =
        Project::new(Aws::shared(), Kind::Quick).table().workspace("blue").init(&Tools::get().any_terraform());
    project.apply();
    project.terraform(["workspace", "select", "default"]).run().expect_code(0);
    let work = project.work();
    let chdir = work.to_str().unwrap();
    let paste = |dir: &Path, exit: &Exit, command: &str| {
        let out = exit.out();
        let line = out.lines().find(|line| line.contains(command)).unwrap_or_else(|| panic!("{exit}"));
        project.paste(TFGUARD, dir, line).expect_code(0);
    };
    for (dir, options, variable) in [
        (work.as_path(), &["--workspace", "blue"][..], ""),
        (&work, &[], "blue"),
        (Path::new("/"), &["--workspace", "blue", "--chdir", chdir], ""),
    ] {
        let mut state = project.state().expect("blue has a state");
        let serial = state["serial"].as_u64().unwrap() + 1;
        state["serial"] = serial.into();
        state["outputs"] = json!({"mark": {"value": serial, "type": "number"}});
        std::fs::write(work.join("errored.tfstate"), state.to_string()).unwrap();
        let verify = || {
            let run = project.command(TFGUARD).arg("verify").args(options).current_dir(dir);
            run.env("TF_WORKSPACE", variable).run().expect_code(121)
        };
        paste(dir, &verify(), "state push");
        assert!(project.state().unwrap()["serial"].as_u64() >= Some(serial), "{options:?}");

        std::fs::remove_file(work.join("errored.tfstate")).unwrap();
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let item = [("LockID", text(&format!("{}-md5", project.lock_id()))), ("Digest", text(&"0".repeat(32)))];
        project.aws().put_item(project.table_name(), item.map(|(name, value)| (name.to_owned(), value)).into());
        paste(dir, &verify(), "--fix-digest");
        let digest = project.aws().digest(project.table_name(), &project.lock_id());
        assert_eq!(digest, Some(state_md5(&project)), "{options:?}");
    }
    assert!(project.aws().object(project.bucket(), "network/prod.tfstate").is_none(), "default has no state");

    // A directory that is set up for another state is no place for this one.
    std::fs::write(work.join("errored.tfstate"), project.state().unwrap().to_string()).unwrap();
    let flags = ["--bucket", project.bucket(), "--key", "other.tfstate", "--region", Aws::REGION, "--path-style"];
    let url = project.aws().url();
    let run = project.command(TFGUARD).args(["verify", "--chdir", "."]).args(flags).args(["--s3-endpoint", url]);
    let exit = run.run().expect_code(121);
    let commands: Vec<_> =
        exit.out().lines().map(str::trim).filter(|line| line.contains("terraform")).map(str::to_owned).collect();
    assert!(
        commands.iter().all(|line| line.starts_with("To do: ") || line.starts_with(char::is_numeric)),
        "only in words: {commands:#?}"
    );
}

/// An apply whose state cannot be uploaded, so that `errored.tfstate` lies there: the first one of its state.
fn unable_to_upload() -> (FaultProxy, Project<'static>) {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = Project::new(Aws::shared(), Kind::Quick).table().endpoint(proxy.url());
    let project = project.init(&Tools::get().any_terraform());
    proxy.rule(Match::http("PUT", "prod.tfstate?x-id"), [Action::from(Answer::s3(403, "AccessDenied", "no"))]);
    (proxy, project)
}

fn paste(project: &Project, exit: &Exit, command: &str) -> Exit {
    let out = exit.out();
    let line = out.lines().find(|line| line.contains(command)).unwrap_or_else(|| panic!("{exit}"));
    project.paste(TFGUARD, &project.work(), line)
}

/// Terraform cannot upload its state nor unlock: it leaves errored.tfstate, and what is advised leads back. Terraform
/// compares what a first apply left with nothing, so that is not to be pushed once there is another state.
#[test]
fn a_state_that_terraform_could_not_upload_is_found_and_pushed() {
    let (proxy, project) = unable_to_upload();
    // It says so itself, and unlocks: an ordinary end, which stays as it is.
    project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
    let file = project.work().join("errored.tfstate");
    std::fs::remove_file(&file).unwrap();

    let denied = Answer::dynamodb("AccessDeniedException", "no");
    proxy.rule(Match::dynamodb("DeleteItem").nth(1), [Action::from(denied)]);
    let exit = project.tfguard(TFGUARD, REPORT, APPLY).run().expect_code(121);
    assert!(exit.err().contains("is a state that Terraform could not upload"), "{exit}");
    assert_eq!(report(&project)["states"][0]["findings"][0]["relation"], "newer");
    proxy.clear_rules();

    // So it is where Terraform could not read either that there was no state.
    let mut left = std::fs::read_to_string(&file).unwrap();
    let whole: Value = serde_json::from_str(&left).unwrap();
    left = left.replace(whole["lineage"].as_str().unwrap(), "").replace(r#""serial": 1"#, r#""serial": 0"#);
    std::fs::write(&file, left).unwrap();
    let exit = run_next(&project, &exit, "").expect_code(121);
    paste(&project, &exit, "terraform state push").expect_code(0);
    let verify = || project.command(TFGUARD).arg("verify").run();
    let exit = verify().expect_code(0);
    assert!(exit.out().contains("has the content of the state that is there"), "{exit}");
    project.terraform(["plan", "-input=false", "-detailed-exitcode"]).run().expect_code(0);

    // A successor's.
    let changed = std::fs::read_to_string(project.work().join("main.tf")).unwrap().replace("42", "43");
    std::fs::write(project.work().join("main.tf"), changed).unwrap();
    project.apply();
    let exit = verify().expect_code(121);
    assert!(!exit.out().contains("state push"), "{exit}");
    let compared = paste(&project, &exit, "terraform state pull | diff").expect_code(1);
    assert!(compared.out().contains("43"), "{compared}");
}

/// The lock that is left keeps others out until the state is there: it is the last to go.
#[test]
fn what_could_not_be_uploaded_is_pushed_under_the_lock_that_is_left() {
    let (proxy, project) = unable_to_upload();
    let denied = Answer::dynamodb("AccessDeniedException", "no");
    proxy.rule(Match::dynamodb("DeleteItem"), [Action::from(denied)]);
    let exit = project.tfguard(TFGUARD, REPORT, APPLY).run().expect_code(120);
    assert!(exit.err().contains("keep the lock") && !exit.err().contains("tfguard unlock"), "{exit}");
    proxy.clear_rules();

    let exit = run_next(&project, &exit, "").expect_code(121);
    paste(&project, &exit, "terraform state push -lock=false").expect_code(0);
    assert_eq!(project.lock(), None);
    let seen = proxy.seen();
    let last = |is: fn(&crate::support::Seen) -> bool| seen.iter().rposition(is);
    let pushed = last(|seen| seen.method == "PUT" && seen.path.contains("prod.tfstate?x-id"));
    assert!(pushed.is_some() && pushed < last(|seen| seen.operation() == Some("DeleteItem")), "{seen:#?}");
    project.command(TFGUARD).arg("verify").run().expect_code(0);
    project.terraform(["plan", "-input=false", "-detailed-exitcode"]).run().expect_code(0);
}

/// OpenTofu takes no encrypted file, so what is advised decrypts it first.
#[test]
fn an_encrypted_file_is_decrypted_before_it_is_pushed() {
    // Encryption came with 1.7.
    for (version, tofu) in Tools::get().programs(Product::OpenTofu).filter(|(version, _)| !version.starts_with("1.6."))
    {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = Project::new(Aws::shared(), Kind::Quick).table().workspace("blue").endpoint(proxy.url());
        let work = project.work();
        project.encrypt("state");
        let project = project.init(&tofu);
        proxy.rule(Match::http("PUT", "prod.tfstate?x-id"), [Action::from(Answer::s3(403, "AccessDenied", "no"))]);
        project.terraform(APPLY).run().expect_code(1);
        proxy.clear_rules();
        let refused = project.terraform(["state", "push", "errored.tfstate"]).run().expect_code(1);
        assert!(refused.err().contains("encrypted"), "{version}: {refused}");

        std::fs::create_dir(work.join("decrypt")).unwrap();
        std::fs::copy(work.join("encryption.tf"), work.join("decrypt/encryption.tf")).unwrap();
        let exit = project.command(TFGUARD).arg("verify").run().expect_code(121);
        paste(&project, &exit, "tofu -chdir=decrypt").expect_code(0);
        project.command(TFGUARD).arg("verify").run().expect_code(0);
        project.terraform(["plan", "-input=false", "-detailed-exitcode"]).run().expect_code(0);
    }
}

/// One that lies there since another run is none of this run's.
#[test]
fn what_another_run_left_does_not_change_this_ones_exit_code() {
    let project = Project::new(Aws::shared(), Kind::Sleep).table().init(&Tools::get().any_terraform());
    std::fs::write(project.work().join("errored.tfstate"), "{").unwrap();
    let run = project.tfguard(TFGUARD, REPORT, APPLY).start();
    run.wait_for_stdout("asleep", SOON);
    kill(&project, "child");
    let exit = run.wait(SOON).expect_code(137);
    assert!(!exit.err().contains("needs a look"), "{exit}");
    assert_eq!(report(&project)["states"][0]["verdict"], "whole");
    project.command(TFGUARD).arg("verify").run().expect_code(121);
}
