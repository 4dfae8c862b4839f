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

/// The Node script that setup-terraform puts on PATH dies of the first signal and Terraform with it.
#[test]
fn what_stands_behind_a_node_wrapper_is_run() {
    let project = table(Kind::Sleep);
    let bin = project.work().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(terraform(), bin.join("terraform-bin")).unwrap();
    std::fs::write(bin.join("terraform"), "#!/usr/bin/env node\nprocess.exit(99)\n").unwrap();
    std::fs::set_permissions(bin.join("terraform"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let run = project.command(TFGUARD).args(["--", "terraform"]).args(APPLY).env("PATH", path).start();
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(1);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert!(exit.err().contains("is the Node wrapper of a setup action"), "{exit}");
    assert_clean(&project);
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
    project.aws().plant_lock(project.table_name(), &foreign);
    let run = project.tfguard(TFGUARD, ["--lock-timeout", "1m"], APPLY).start();
    run.wait_for_stdout("Acquiring state lock", SOON);
    project.aws().delete_item(project.table_name(), &project.lock_id());
    run.wait(SOON).expect_code(0);
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

/// tfguard below tfguard, and a shim below a guarded script: one interrupt in all, whoever is asked to stop. Guards against
/// each of the two taking the Terraform for its own to interrupt. Terraform is stopped meanwhile: two signals that reach it
/// at once would be one to it, and what it says of the first one must not be what keeps the second one away.
#[test]
fn a_guard_below_a_guard_is_still_one_interrupt() {
    for below_a_script in [true, false] {
        for asked in [&["outer", "inner"][..], &["outer"], &["inner"]] {
            let project = table(Kind::Sleep);
            let links = project.work().join("links");
            project.command(TFGUARD).args(["shim", "--dir"]).arg(&links).run().expect_code(0);
            let guarded = project.command(TFGUARD).arg("--");
            let guarded = if below_a_script {
                let path = format!("{}:{}", links.display(), std::env::var("PATH").unwrap());
                let script = format!("terraform {}; exit $?", APPLY.join(" "));
                guarded.args(["sh", "-c", &script]).env("PATH", path).env("TFGUARD_TERRAFORM", terraform())
            } else {
                guarded.args([TFGUARD, "--"]).arg(terraform()).args(APPLY)
            };
            let run = guarded.env("TFGUARD_VERBOSE", "true").new_group().start();
            run.wait_for_stdout("asleep", SOON);
            let (outer, inner) = nested(&project);
            let terraform = pid_of(&inner["child"]["id"]);
            let signal = |pid, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
            signal(terraform, SIGSTOP);
            for (name, journal) in [("outer", &outer), ("inner", &inner)] {
                if asked.contains(&name) {
                    signal(pid_of(&journal["front"]), SIGTERM);
                }
            }
            for (name, journal) in [("outer", &outer), ("inner", &inner)] {
                if name == "inner" || asked.contains(&name) {
                    let program = journal["account"]["program"].as_str().unwrap();
                    run.wait_for_stderr(&format!("{program} interrupted; it has"), SOON);
                }
            }
            signal(terraform, SIGCONT);
            let exit = run.wait(SOON);
            let context = format!("{below_a_script} {asked:?}: {exit}");
            let sent = format!("SIGINT to process {terraform}\n");
            assert_eq!(exit.err().matches(&sent).count(), 1, "{context}");
            assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{context}");
            assert!(!exit.err().contains("Two interrupts"), "{context}");
            assert_clean(&project);
        }
    }
}

/// A guard below a guard, where the user's own log variables leave none for it. Guards against two interrupts by two that
/// do not see each other's log, and against a run that knows no lock.
#[test]
fn a_guard_without_a_log_of_its_own_leaves_the_command_to_the_one_above() {
    for kills in [false, true] {
        let project = table(Kind::Sleep);
        let guards = project.command(TFGUARD).args(["-v", "--", TFGUARD, "-v", "--"]).arg(terraform()).args(APPLY);
        let run = guards.env("TF_LOG", "debug").env("TF_LOG_PATH", "mine.log").new_group().start();
        run.wait_for_stdout("asleep", SOON);
        let terraform = pid_of(&journal(&project)["child"]["id"]);
        let exit = if kills {
            kill(terraform);
            run.wait(SOON).expect_code(137)
        } else {
            run.signal(SIGTERM);
            run.wait(SOON).expect_code(1)
        };
        assert!(exit.err().contains("which steps aside"), "{exit}");
        let sent = format!("SIGINT to process {terraform}\n");
        assert_eq!(exit.err().matches(&sent).count(), usize::from(!kills), "{exit}");
        assert_eq!(exit.err().contains("left by Terraform, deleted by tfguard"), kills, "{exit}");
        assert!(!exit.err().contains("Two interrupts"), "{exit}");
        assert_clean(&project);
    }
}

/// The journals of a run and of the one below it, whose command is Terraform, once both commands are in them.
fn nested(project: &Project) -> (Value, Value) {
    let began = std::time::Instant::now();
    loop {
        let journals = sessions(project).into_iter().map(|session| {
            let text = std::fs::read(session.join("journal.json")).expect("a session has a journal");
            serde_json::from_slice::<Value>(&text).expect("a journal is JSON")
        });
        let (inner, outer): (Vec<_>, Vec<_>) =
            journals.partition(|journal| journal["account"]["program"] == "terraform");
        assert_eq!((inner.len(), outer.len()), (1, 1), "two sessions");
        if [&inner, &outer].iter().all(|journals| journals[0]["child"].is_object()) {
            return (outer[0].clone(), inner[0].clone());
        }
        assert!(began.elapsed() < SOON, "no child: {outer:?} {inner:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
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
