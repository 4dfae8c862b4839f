//! What is tried on each version with each kind of lock. Each says in few words what was seen, and panics where that is not
//! what is promised.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::Signal::*;

use super::super::*;
use super::case::Case;

/// How a panic's message is told.
pub fn message(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast::<String>().map(|text| *text);
    text.or_else(|panic| panic.downcast::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn kill_child(project: &Project) {
    kill(pid_of(&journal(project)["child"]["id"]));
}

/// One interrupt came, and no second one.
#[track_caller]
fn assert_one_interrupt(exit: &Exit) {
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "interrupts\n{exit}");
    assert!(!exit.out().contains("Two interrupts"), "two interrupts\n{exit}");
}

/// The program is killed in an apply.
pub fn killed(case: &Case) -> String {
    if case.is_before_1_0() {
        return killed_before_1_0(case);
    }
    let project = case.project(Kind::Sleep).init(&case.program);
    let run = case.asleep(&project, &["--report", "report.json"]);
    let held = case.locks(&project);
    kill_child(&project);
    let exit = run.wait(SOON);
    let seen = case.account(&held, &case.locks(&project), &exit);
    let exit = exit.expect_code(if case.is_logged() { 137 } else { 120 });
    let report = report(&project);
    assert_eq!(Some(report["locks"][0]["id"].as_str().unwrap_or_default()), held.keys().next().map(|id| &**id));
    if case.is_logged() {
        assert!(exit.err().contains(&format!("left by {}, deleted by tfguard", case.product)), "account\n{exit}");
        let halves = report["locks"][0]["halves"].as_array().expect("a lock has halves");
        assert_eq!(halves.len(), if case.table && case.lockfile { 2 } else { 1 }, "halves in the report\n{report}");
        assert!(halves.iter().all(|half| half["outcome"] == "deleted"), "{report}");
        case.assert_clean(&project);
        return seen;
    }
    assert!(exit.err().contains(&format!("tfguard unlock {}", held.keys().next().unwrap())), "command\n{exit}");
    assert_eq!(report["lock_left"], true, "{report}");
    format!("{seen}; `--evidence item`: {}", killed_with_item_evidence(case))
}

/// Of a Terraform before 1.0 nothing is learned, and that is said. It has no `terraform_data`, so it is killed in a plan.
fn killed_before_1_0(case: &Case) -> String {
    let project = case.project(Kind::HangInPlan).init(&case.program);
    let run = hanging(&project, &[], &PLAN);
    let held = case.locks(&project);
    assert_eq!(held.len(), 1, "a plan holds its lock");
    kill_child(&project);
    let exit = run.wait(SOON);
    assert_eq!(exit.err().matches("this is a Terraform before 1.0").count(), 1, "not said at its start\n{exit}");
    case.account(&held, &case.locks(&project), &exit)
}

/// The same, where deleting it was asked for although nothing logs it.
fn killed_with_item_evidence(case: &Case) -> String {
    let project = case.project(Kind::Sleep).init(&case.program);
    let run = case.asleep(&project, &["-v", "--evidence", "item", "--report", "report.json"]);
    run.wait_for_stderr("looked at the state's lock", SOON);
    kill_child(&project);
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!(report(&project)["locks"][0]["grade"], "item", "grade\n{exit}");
    assert!(exit.err().contains("judged by the lock's own text"), "account\n{exit}");
    case.assert_clean(&project);
    "deleted".to_owned()
}

/// A request to stop in an apply that can stop.
pub fn stopped(case: &Case) -> String {
    let project = case.project(Kind::Sleep).init(&case.program);
    let run = case.asleep(&project, &[]);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(1);
    assert_one_interrupt(&exit);
    if case.is_logged() {
        let told = format!("released by {}", case.product);
        assert_eq!(exit.err().matches(&told).count(), 1, "account\n{exit}");
    }
    case.assert_clean(&project);
    "unlocked by itself".to_owned()
}

/// A request to stop in an apply that cannot stop, and is killed after its grace.
pub fn cannot_stop(case: &Case) -> String {
    let project = case.project(Kind::HangInApply).init(&case.program);
    let run = hanging(&project, &["--grace", "3s"], &APPLY);
    let held = case.locks(&project);
    assert_eq!(held.len(), 1, "an apply holds its lock");
    run.signal(SIGTERM);
    let exit = run.wait(SOON);
    assert_one_interrupt(&exit);
    project.guard().assert_no_process_left(SOON);
    let seen = case.account(&held, &case.locks(&project), &exit);
    exit.expect_code(if case.is_logged() { 137 } else { 120 });
    seen
}

/// Both processes of tfguard and the program are killed; then comes the cleanup step.
pub fn everything_killed(case: &Case) -> String {
    const JOB: [(&str, &str); 3] = [("GITHUB_ACTIONS", "true"), ("GITHUB_RUN_ID", "1"), ("GITHUB_JOB", "apply")];
    let project = case.project(Kind::Sleep).init(&case.program);
    let run = project.tfguard(TFGUARD, [""; 0], APPLY).envs(JOB).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    let held = case.locks(&project);
    assert_eq!(held.len(), 1, "an apply holds its lock");
    let journal = journal(&project);
    run.kill_with_supervisor(&journal);
    kill(pid_of(&journal["child"]["id"]));
    let exit = project.command(TFGUARD).args(["release", "--wait", "1m"]).envs(JOB).run();
    let seen = case.account(&held, &case.locks(&project), &exit);
    exit.expect_code(if case.is_logged() { 0 } else { 120 });
    project.guard().assert_no_process_left(SOON);
    seen
}

/// Somebody else has the lock: another machine, and then a living run of this very user and machine, by which one is refused
/// at once, and another one waits for it when it is killed.
pub fn foreign_before(case: &Case) -> String {
    let project = case.project(Kind::Sleep).init(&case.program);
    let foreign = LockInfo::foreign(&project.lock_id());
    case.plant(&project, &foreign);
    let refused = |lock: &LockInfo| {
        let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run();
        assert_eq!(case.lock(&project).as_ref(), Some(lock), "the foreign lock is gone\n{exit}");
        assert!(exit.err().contains("Error acquiring the state lock"), "not refused\n{exit}");
        exit
    };
    let exit = refused(&foreign).expect_code(1);
    let is_named = |line: &str| line.starts_with("tfguard: ") && line.contains(&foreign.id);
    assert!(exit.err().lines().any(is_named), "stays, but its holder isn't named\n{exit}");
    case.delete_lock(&project, &foreign.path);

    let living = project.terraform(APPLY).new_group().start();
    living.wait_for_stdout("asleep", SOON);
    let lock = case.lock(&project).expect("an apply holds its lock");
    let exit = refused(&lock);
    assert_eq!(exit.code, Some(1), "stays, but is taken for the refused run's own\n{exit}");

    let wait = ["apply", "-input=false", "-auto-approve", "-no-color", "-lock-timeout=10m"];
    let run = project.tfguard(TFGUARD, [""; 0], wait).new_group().start();
    run.wait_for_stdout("Acquiring state lock", SOON);
    kill_child(&project);
    let exit = run.wait(SOON);
    assert_eq!(case.lock(&project), Some(lock), "the living run's lock is gone\n{exit}");
    assert_eq!(exit.code, Some(137), "stays, but is taken for the waiting run's own\n{exit}");
    "stays, holder named".to_owned()
}

/// Somebody unlocked by force and took the lock while ours was alive, on this very machine: all but the ID is as in ours.
pub fn foreign_swapped_in(case: &Case) -> String {
    let (exit, foreign) = swapped_in(case);
    assert!(exit.err().contains(&foreign.id), "stays, but its holder isn't named\n{exit}");
    if case.is_logged() { "stays, holder named" } else { "stays, named (120)" }.to_owned()
}

/// How such a run ends, and the lock that stays.
pub fn swapped_in(case: &Case) -> (Exit, LockInfo) {
    let project = case.project(Kind::Sleep).init(&case.program);
    let run = case.asleep(&project, &[]);
    let own = case.lock(&project).expect("it is locked");
    let foreign = LockInfo { id: LockInfo::foreign("").id, ..own };
    case.plant(&project, &foreign);
    kill_child(&project);
    let exit = run.wait(SOON);
    assert_eq!(case.lock(&project).as_ref(), Some(&foreign), "the foreign lock is gone\n{exit}");
    assert!(!exit.err().contains("deleted by tfguard"), "said to be deleted\n{exit}");
    // Where nothing is logged, it may well be the run's own.
    let code = if case.is_logged() { 137 } else { 120 };
    assert!(exit.code == Some(code), "stays, but exit code {:?}\n{exit}", exit.code);
    (exit, foreign)
}

/// The lock is taken by a program below a script that changes its directory; the program is killed.
pub fn below_a_script(case: &Case) -> String {
    let project = case.project(Kind::Sleep).init(&case.program);
    let (directory, name) = (case.program.parent().unwrap(), case.name());
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    let script = format!("cd '{}' && {name} {}; exit 3", project.work().display(), APPLY.join(" "));
    let run = project.command(TFGUARD).args(["--", "bash", "-c", &script]).current_dir("/").env("PATH", path);
    let run = run.new_group().start();
    run.wait_for_stdout("asleep", SOON);
    let held = case.locks(&project);
    assert_eq!(held.len(), 1, "an apply holds its lock");
    let inner = journal(&project);
    assert_eq!(inner["account"]["directory"], project.work().display().to_string());
    kill(pid_of(&inner["child"]["id"]));
    let exit = run.wait(SOON);
    let seen = case.account(&held, &case.locks(&project), &exit);
    exit.expect_code(if case.is_logged() { 3 } else { 120 });
    seen
}

/// The apply of a plan file is killed; with OpenTofu's encryption, too.
pub fn plan_file(case: &Case) -> String {
    let apply_plan = |encrypted: bool| {
        let project = case.project(Kind::Sleep);
        if encrypted {
            project.encrypt("plan");
        }
        let project = project.init(&case.program);
        project.terraform(["plan", "-input=false", "-no-color", "-out=tfplan"]).run().expect_code(0);
        let run = project.tfguard(TFGUARD, [""; 0], ["apply", "-input=false", "-no-color", "tfplan"]).start();
        run.wait_for_stdout("asleep", SOON);
        let held = case.locks(&project);
        assert_eq!(held.len(), 1, "an apply holds its lock");
        kill_child(&project);
        let exit = run.wait(SOON);
        case.account(&held, &case.locks(&project), &exit)
    };
    let plain = apply_plan(false);
    if case.product == Product::Terraform || case.minor() < 7 {
        return plain;
    }
    match catch_unwind(AssertUnwindSafe(|| apply_plan(true))) {
        Ok(encrypted) if encrypted == plain => format!("{plain}, also an encrypted one's"),
        Ok(encrypted) => format!("{plain}; encrypted: {encrypted}"),
        Err(panic) => panic!("{plain}; encrypted: {}", message(panic)),
    }
}

/// Terraform and OpenTofu are on `PATH`, and the program is called by its name; an OpenTofu that is called `terraform`, too.
pub fn both_on_path(case: &Case) -> String {
    let other = match case.product {
        Product::OpenTofu => Some(Tools::get().any_terraform()),
        _ => Tools::get().programs(Product::OpenTofu).last().map(|(_, program)| program),
    };
    let other = other.unwrap_or_else(|| panic!("not tried: there is no OpenTofu here"));
    let (own_name, other_name) = if case.name() == "tofu" { ("tofu", "terraform") } else { ("terraform", "tofu") };
    let dir = tempfile::tempdir().expect("a directory can be made");
    let link = |target: &std::path::Path, name: &str| {
        std::os::unix::fs::symlink(target, dir.path().join(name)).expect("a link can be made");
    };
    link(&case.program, own_name);
    link(&other, other_name);
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let project = case.project(Kind::Sleep).init(&case.program);
    let run = project.command(TFGUARD).arg("--").arg(own_name).args(APPLY).env("PATH", path).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    let held = case.locks(&project);
    assert_eq!(held.len(), 1, "an apply holds its lock");
    kill_child(&project);
    let exit = run.wait(SOON);
    let seen = case.account(&held, &case.locks(&project), &exit);
    let advised =
        exit.err().lines().any(|line| line.starts_with("tfguard: ") && line.contains(&format!("`{other_name} ")));
    assert!(!advised, "{seen}, but `{other_name}` is advised\n{exit}");
    if case.product == Product::Terraform {
        return seen;
    }
    match catch_unwind(AssertUnwindSafe(|| called_terraform(case))) {
        Ok(named) if named == seen => format!("{seen}, also if named `terraform`"),
        Ok(named) => format!("{seen}; named `terraform`: {named}"),
        Err(panic) => panic!("{seen}; named `terraform`: {}", message(panic)),
    }
}

/// Its name and its directory do not tell that it is an OpenTofu, but its log does.
pub fn called_terraform(case: &Case) -> String {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let terraform = dir.path().join("terraform");
    std::os::unix::fs::symlink(&case.program, &terraform).expect("a link can be made");
    let project = case.project(Kind::Sleep).init(&terraform);
    let run = case.asleep(&project, &[]);
    let held = case.locks(&project);
    kill_child(&project);
    let exit = run.wait(SOON);
    case.account(&held, &case.locks(&project), &exit)
}
