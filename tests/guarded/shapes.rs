//! Shapes of a run: other directories, workspaces, scripts, both halves of a lock.

use super::*;
use nix::sys::signal::Signal::*;

/// Kills Terraform in its sleep and expects its lock to be deleted.
#[track_caller]
fn assert_released(project: &Project, run: Running) {
    assert!(project.lock().is_some());
    kill(pid_of(&journal(project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(project);
}

#[test]
fn the_backend_is_found_behind_chdir() {
    let project = table(Kind::Sleep);
    let chdir = format!("-chdir={}", project.work().display());
    let run = project.tfguard(TFGUARD, [""; 0], [&[chdir.as_str()], &APPLY[..]].concat()).current_dir("/").start();
    run.wait_for_stdout("asleep", SOON);
    assert_released(&project, run);
}

#[test]
fn the_backend_is_found_in_another_data_directory() {
    let project = table(Kind::Sleep);
    std::fs::rename(project.work().join(".terraform"), project.work().join("data")).unwrap();
    let run = project.tfguard(TFGUARD, [""; 0], APPLY).env("TF_DATA_DIR", "data").start();
    run.wait_for_stdout("asleep", SOON);
    assert_released(&project, run);
}

#[test]
fn the_lock_of_a_workspace_is_released() {
    let project = project(Kind::Sleep).table().workspace("staging").init(&terraform());
    let run = asleep(&project, &[]);
    assert_released(&project, run);
}

/// A script that changes directories: the backend is that of the directory in which the Terraform ran.
#[test]
fn the_lock_of_a_terraform_below_a_script_is_released() {
    let project = table(Kind::Sleep);
    let script = format!("cd {} && terraform {}", project.work().display(), APPLY.join(" "));
    let run = project.command(TFGUARD).args(["--", "sh", "-c", &format!("{script}; exit 7")]).current_dir("/").start();
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGTERM);
    // Terraform was interrupted once and so was the shell, which then went no further.
    let exit = run.wait(SOON);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert_clean(&project);
}

#[test]
fn a_killed_terraform_below_a_script_is_accounted_for() {
    let project = table(Kind::HangInApply);
    let script = format!("cd {} && terraform {}; exit 7", project.work().display(), APPLY.join(" "));
    let run = project.command(TFGUARD).args(["--grace", "2s", "--", "sh", "-c", &script]).current_dir("/").start();
    project.wait_for_hang(SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}

/// A state with a lockfile and a table: both halves, each by its own condition.
#[test]
fn both_halves_of_a_dual_lock_are_released() {
    let project = project(Kind::Sleep).table().lockfile().init(&terraform());
    let run = asleep(&project, &["--report", "report.json"]);
    assert!(project.lock_in_bucket().is_some());
    kill(pid_of(&journal(&project)["child"]["id"]));
    run.wait(SOON).expect_code(137);
    let report = report(&project);
    let halves = report["locks"][0]["halves"].as_array().unwrap();
    assert_eq!(halves.len(), 2, "{report:#}");
    assert!(halves.iter().all(|half| half["outcome"] == "deleted"), "{report:#}");
    assert_eq!(project.lock_in_bucket(), None);
    assert_clean(&project);
}

#[test]
fn a_run_without_a_backend_is_simply_supervised() {
    let project = table(Kind::Quick);
    project.tfguard(TFGUARD, [""; 0], ["fmt"]).run().expect_code(0);
    project.tfguard(TFGUARD, [""; 0], ["version"]).run().expect_code(0);
    std::fs::remove_file(project.work().join("backend.tf")).unwrap();
    std::fs::remove_dir_all(project.work().join(".terraform")).unwrap();
    project.terraform(["init", "-input=false"]).run().expect_code(0);
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(0);
    assert_eq!(exit.err(), "");
}

#[test]
fn lock_false_is_told_of_or_refused() {
    let project = table(Kind::Quick);
    let lockless = [&APPLY[..], &["-lock=false"]].concat();
    let exit = project.tfguard(TFGUARD, [""; 0], &lockless).run().expect_code(0);
    assert!(exit.err().contains("-lock=false (on the command line): Terraform takes no lock"), "{exit}");
    let refused = project.tfguard(TFGUARD, ["--forbid-lock-false"], &lockless).run().expect_code(125);
    assert_eq!(refused.out(), "");
    let refused = project.tfguard(TFGUARD, ["--forbid-lock-false"], APPLY).env("TF_CLI_ARGS", "-lock=0").run();
    assert!(refused.expect_code(125).err().contains("in TF_CLI_ARGS"));
    project.tfguard(TFGUARD, ["--forbid-lock-false"], APPLY).run().expect_code(0);
}

#[test]
fn a_lock_timeout_makes_terraform_wait() {
    let project = table(Kind::Quick);
    let foreign = LockInfo::foreign(&project.lock_id());
    let waited = || {
        project.aws().plant_lock(project.table_name(), &foreign);
        let run = project.tfguard(TFGUARD, ["--lock-timeout", "1m"], APPLY).start();
        run.wait_for_stdout("Acquiring state lock", SOON);
        project.aws().delete_item(project.table_name(), &project.lock_id());
        run.wait(SOON)
    };
    // Terraform waits no longer where the lock goes between its two requests, of which the second asks whose it is.
    let went_between = |exit: &Exit| exit.err().contains("unexpected end of JSON input");
    let exit = std::iter::repeat_with(waited).take(5).find(|exit| !went_between(exit)).unwrap();
    exit.expect_code(0);
    assert_clean(&project);
}

/// Called by Terraform's name, tfguard guards the real one further down PATH, and never itself.
#[test]
fn a_shim_guards_the_real_terraform() {
    let project = table(Kind::Sleep);
    let links = project.work().join("links");
    let made = project.command(TFGUARD).args(["shim", "--dir"]).arg(&links).run().expect_code(0).out();
    assert_eq!(made.lines().count(), 2, "{made}");
    project.command(TFGUARD).args(["shim", "--dir"]).arg(&links).run().expect_code(0);
    let rest = std::env::var("PATH").unwrap();
    let real = terraform();
    let path = format!("{0}:{0}:{1}:{rest}", links.display(), real.parent().unwrap().display());

    let version = project.command(links.join("terraform")).arg("version").env("PATH", &path).run().expect_code(0);
    assert!(version.out().starts_with("Terraform v"), "{version}");
    let run = project.command(links.join("terraform")).args(APPLY).env("PATH", &path).start();
    run.wait_for_stdout("asleep", SOON);
    assert!(project.lock().is_some());
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);

    let alone = links.display().to_string();
    let exit = project.command(links.join("terraform")).arg("plan").env("PATH", &alone).run().expect_code(127);
    assert!(exit.err().contains("TFGUARD_TERRAFORM"), "{exit}");
    let named = project.command(links.join("tofu")).arg("version").env("PATH", &alone).env("TFGUARD_TERRAFORM", &real);
    // The launcher of a provisioned Terraform finds its interpreter by itself.
    named.run().expect_code(0);
    let exit = project.command(links.join("tofu")).arg("version").env("TFGUARD_TERRAFORM", links.join("tofu")).run();
    assert!(exit.expect_code(127).err().contains("which is not a program that tfguard could guard"));
}

/// What takes no lock costs nothing: it takes tfguard's place.
#[test]
fn a_command_without_a_lock_takes_tfguards_place() {
    let project = table(Kind::Quick);
    project.apply();
    let run = project.tfguard(TFGUARD, [""; 0], ["output", "-raw", "answer"]).start();
    let exit = run.wait(SOON).expect_code(0);
    assert_eq!((exit.out().as_str(), exit.err().as_str()), ("42", ""));
    assert!(!project.sessions().join(".tfguard-sessions").exists());
    let report = project.tfguard(TFGUARD, ["--report", "report.json"], ["output", "-raw", "answer"]).run();
    assert_eq!(report.expect_code(0).out(), "42");
    assert_eq!(super::report(&project)["exit_code"], 0);
}
