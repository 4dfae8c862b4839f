//! `terraform apply <plan file>`: the lock is where the plan says, whatever the directory is configured for. And without
//! one it is where the directory was configured for when it was taken.

use std::path::PathBuf;

use crate::support::*;
use nix::sys::signal::Signal::SIGTERM;

use crate::{SOON, TFGUARD};
const APPLY_PLAN: [&str; 4] = ["apply", "-input=false", "-no-color", "tfplan"];
const CI: [(&str, &str); 4] =
    [("GITHUB_ACTIONS", "true"), ("GITHUB_REPOSITORY", "o/r"), ("GITHUB_RUN_ID", "1"), ("GITHUB_JOB", "j")];

fn terraform() -> PathBuf {
    Tools::get().any_terraform()
}

/// A plan of a state with a lock table, in a directory that was configured for another table of the same bucket and key
/// afterwards, where somebody else holds a lock.
struct Planned {
    project: Project<'static>,
    /// What stands before the directory's configured store, where nobody has business.
    elsewhere: FaultProxy,
    other_table: String,
    foreign: LockInfo,
}

impl Planned {
    fn new(kind: Kind, terraform: PathBuf, endpoint: &str) -> Self {
        let aws = Aws::shared();
        let project = Project::new(aws, kind).table().endpoint(endpoint).init(&terraform);
        project.terraform(["plan", "-input=false", "-no-color", "-out=tfplan"]).run().expect_code(0);
        let elsewhere = FaultProxy::start(aws.url());
        let other_table = aws.unique("locks");
        aws.create_table(&other_table);
        let block = project.work().join("backend.tf");
        let text = std::fs::read_to_string(&block).unwrap();
        let text = text.replace(project.table_name(), &other_table).replace(endpoint, elsewhere.url());
        std::fs::write(&block, text).unwrap();
        project.terraform(["init", "-reconfigure", "-input=false", "-no-color"]).run().expect_code(0);
        let foreign = LockInfo::foreign(&project.lock_id());
        aws.plant_lock(&other_table, &foreign);
        Self { project, elsewhere, other_table, foreign }
    }

    #[track_caller]
    fn assert_other_table_untouched(&self, requests_before: usize) {
        let lock = self.project.aws().lock(&self.other_table, &self.project.lock_id());
        assert_eq!(lock, Some(serde_json::to_value(&self.foreign).unwrap()), "the other table's lock stays");
        assert_eq!(self.elsewhere.seen().len(), requests_before, "nobody was asked about the directory's backend");
    }

    /// Kills Terraform in its sleep and expects the lock in the plan's table to be deleted, and nothing else.
    #[track_caller]
    fn assert_released(&self, run: Running) {
        let before = self.elsewhere.seen().len();
        run.wait_for_stdout("asleep", SOON);
        assert!(self.project.lock().is_some(), "the plan's table has the lock");
        // Below a script tfguard knows of a Terraform only what it saw while that was alive.
        wait_for_place(&self.project);
        kill_terraform(&self.project);
        let exit = run.wait(SOON);
        assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
        assert_eq!(self.project.lock(), None, "{exit}");
        self.assert_other_table_untouched(before);
        self.project.guard().assert_no_process_left(SOON);
    }
}

/// Kills the project's one Terraform.
#[track_caller]
fn kill_terraform(project: &Project) {
    let terraforms = project.terraforms();
    let [terraform] = terraforms[..] else { panic!("one Terraform of {:?}", project.guard().processes()) };
    kill(terraform);
}

/// Waits until the journal of the project's one session says where the lock is.
fn wait_for_place(project: &Project) {
    project.wait_for_journal(SOON, |journal| journal["account"]["locks"][0]["places"][0].is_object());
}

#[test]
fn the_lock_is_deleted_where_the_plan_says_on_every_version() {
    for version in Tools::VERSIONS {
        let Some(terraform) = Tools::get().terraform(version) else { continue };
        let planned = Planned::new(Kind::Sleep, terraform, Aws::shared().url());
        let run = planned.project.tfguard(TFGUARD, [""; 0], APPLY_PLAN).start();
        planned.assert_released(run);
    }
}

#[test]
fn a_directory_that_was_never_initialised_does_not_matter() {
    let planned = Planned::new(Kind::Sleep, terraform(), Aws::shared().url());
    std::fs::remove_dir_all(planned.project.work().join(".terraform")).unwrap();
    let run = planned.project.tfguard(TFGUARD, [""; 0], APPLY_PLAN).start();
    planned.assert_released(run);
}

/// The plan's path is one of `-chdir`, and comes from a variable.
#[test]
fn the_plan_is_found_behind_chdir_and_variables() {
    let planned = Planned::new(Kind::Sleep, terraform(), Aws::shared().url());
    let chdir = format!("-chdir={}", planned.project.work().display());
    let run = planned.project.tfguard(TFGUARD, [""; 0], [chdir.as_str(), "apply", "-no-color"]).current_dir("/");
    let run = run.env("TF_CLI_ARGS_apply", "-input=false -parallelism 3 ./tfplan").start();
    planned.assert_released(run);
}

/// The shell's own directory is configured for the state too, as if it had been the one.
#[test]
fn the_plan_counts_below_a_script_too() {
    let planned = Planned::new(Kind::Sleep, terraform(), Aws::shared().url());
    let script = format!("terraform {}; exit 7", APPLY_PLAN.join(" "));
    let run = planned.project.command(TFGUARD).args(["--", "sh", "-c", &script]).start();
    planned.assert_released(run);
}

#[test]
fn an_applied_plan_leaves_nothing_to_do() {
    let planned = Planned::new(Kind::Quick, terraform(), Aws::shared().url());
    let before = planned.elsewhere.seen().len();
    let exit = planned.project.tfguard(TFGUARD, [""; 0], APPLY_PLAN).run().expect_code(0);
    assert_eq!(exit.err(), "");
    assert_eq!(planned.project.lock(), None);
    planned.assert_other_table_untouched(before);
}

/// What cannot be read is no reason to look elsewhere: the lock stays, and people are told.
#[test]
fn a_plan_that_cannot_be_read_any_more_leaves_the_lock() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let script = format!("terraform {}; exit 7", APPLY_PLAN.join(" "));
    for (content, reason, below_a_script) in [
        (r#"{"meta":{},"encrypted_data":"AAAA","encryption_version":"v0"}"#, "OpenTofu has encrypted it", false),
        ("PK\u{3}\u{4}torn", "it is damaged", false),
        // Of the script's own directory, which is configured for the state, nothing follows.
        ("PK\u{3}\u{4}torn", "it is damaged", true),
    ] {
        let planned = Planned::new(Kind::HangInApply, terraform(), proxy.url());
        let (project, before) = (&planned.project, planned.elsewhere.seen().len());
        proxy.clear_rules();
        let gate = Gate::new();
        proxy.rule(Match::any(), [gate.hold()]);
        let run = match below_a_script {
            false => project.tfguard(TFGUARD, ["--grace", "1s"], APPLY_PLAN),
            true => project.command(TFGUARD).args(["--grace", "1s", "--", "sh", "-c", &script]),
        };
        let run = run.start();
        // Terraform has the plan open, and tfguard has not heard of a lock.
        gate.wait_for(1, SOON);
        std::fs::write(project.work().join("other"), content).unwrap();
        std::fs::rename(project.work().join("other"), project.work().join("tfplan")).unwrap();
        gate.release();
        project.wait_for_hang(SOON);
        let id = project.lock().expect("Terraform holds its lock")["ID"].as_str().unwrap().to_owned();
        run.signal(SIGTERM);
        let exit = run.wait(SOON).expect_code(120);
        assert!(exit.err().contains(reason) && exit.err().contains("tfplan"), "{exit}");
        assert!(exit.err().contains(&format!("tfguard unlock {id} --bucket ")), "{exit}");
        assert!(project.lock().is_some(), "{exit}");
        planned.assert_other_table_untouched(before);
        project.guard().assert_no_process_left(SOON);
    }
}

/// The journal says which plan it was, and where the lock is, so that the cleanup step need not guess when everybody is dead.
#[test]
fn the_cleanup_step_looks_where_the_plan_says_too() {
    for plan_is_gone in [false, true] {
        let planned = Planned::new(Kind::HangInApply, terraform(), Aws::shared().url());
        let (project, before) = (&planned.project, planned.elsewhere.seen().len());
        let run = project.tfguard(TFGUARD, [""; 0], APPLY_PLAN).envs(CI).start();
        project.wait_for_hang(SOON);
        wait_for_place(project);
        assert!(project.guard().kill_all());
        run.wait(SOON);
        assert!(project.lock().is_some(), "nobody was left to release it");
        if plan_is_gone {
            std::fs::remove_file(project.work().join("tfplan")).unwrap();
        }
        let exit = project.command(TFGUARD).args(["release", "--wait", "1m"]).envs(CI).run();
        // It says where the lock is, too.
        assert_eq!((exit.code, project.lock()), (Some(0), None), "{exit}");
        planned.assert_other_table_untouched(before);
    }
}

/// Between the run and its cleanup step somebody configures the directory for another table.
#[test]
fn a_directory_that_is_configured_anew_does_not_lead_elsewhere() {
    let aws = Aws::shared();
    let project = Project::new(aws, Kind::HangInApply).table().init(&terraform());
    let run =
        project.tfguard(TFGUARD, [""; 0], ["apply", "-input=false", "-auto-approve", "-no-color"]).envs(CI).start();
    project.wait_for_hang(SOON);
    wait_for_place(&project);
    assert!(project.guard().kill_all());
    run.wait(SOON);
    let lock = project.lock().expect("nobody was left to release it");
    let other_table = aws.unique("locks");
    aws.create_table(&other_table);
    let block = project.work().join("backend.tf");
    let before = std::fs::read_to_string(&block).unwrap();
    let configure = |text: &str| {
        std::fs::write(&block, text).unwrap();
        project.terraform(["init", "-reconfigure", "-input=false", "-no-color"]).run().expect_code(0);
    };
    configure(&before.replace(project.table_name(), &other_table));
    let release = || project.command(TFGUARD).args(["release", "--wait", "1m"]).envs(CI).run();
    let foreign = LockInfo { id: lock["ID"].as_str().unwrap().to_owned(), ..LockInfo::foreign(&project.lock_id()) };
    aws.plant_lock(&other_table, &foreign);
    let exit = release().expect_code(0);
    assert!(exit.err().contains("lead elsewhere") && exit.err().contains(project.table_name()), "{exit}");
    assert_eq!(project.lock(), None, "where it was taken: {exit}");
    assert!(aws.lock(&other_table, &project.lock_id()).is_some(), "{exit}");
}
