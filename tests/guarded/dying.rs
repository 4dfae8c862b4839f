//! Terraforms, fronts and supervisors that die.

use super::*;
use nix::sys::signal::Signal::{self, *};

#[test]
fn the_lock_of_a_killed_terraform_is_deleted_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let project = project(Kind::Sleep).table().init(&terraform);
        let run = asleep(&project, &["--report", "report.json"]);
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(137);
        assert!(exit.err().contains("died of SIGKILL"), "{version}: {exit}");
        assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{version}: {exit}");
        assert_eq!(report(&project)["locks"][0]["halves"][0]["outcome"], "deleted", "{version}");
        assert_clean(&project);
    }
}

/// Guards against a lock that is left because it is taken for a digest: the key of its state ends as those of digests do.
/// With OpenTofu, whose lock is known by its request, too.
#[test]
fn a_lock_whose_key_ends_as_digests_do_is_known_recorded_and_deleted() {
    let tofu = Tools::get().programs(Product::OpenTofu).last().map(|(_, tofu)| tofu);
    std::thread::scope(|scope| {
        for program in [terraform()].into_iter().chain(tofu) {
            scope.spawn(move || {
                let project = project(Kind::Sleep).table().key("net/prod-md5").init(&program);
                let run = project.tfguard(TFGUARD, ["-v"], APPLY).new_group().start();
                run.wait_for_stderr("recorded beside item", SOON);
                kill(pid_of(&journal(&project)["child"]["id"]));
                let exit = run.wait(SOON).expect_code(137);
                assert!(exit.err().contains(", deleted by tfguard"), "{exit}");
                assert_eq!(project.aws().items(project.table_name()), [], "{exit}");
                project.guard().assert_no_process_left(SOON);
            });
        }
    });
}

#[test]
fn a_terraform_that_cannot_stop_is_killed_after_its_grace_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let project = project(Kind::HangInApply).table().init(&terraform);
        let run = hanging(&project, &["--grace", "3s"], &APPLY);
        run.signal(SIGTERM);
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{version}: {exit}");
        assert!(exit.err().contains("did not end in time and was killed"), "{version}: {exit}");
        assert!(exit.err().contains("run `terraform plan`"), "{version}: {exit}");
        assert_clean(&project);
    }
}

/// Guards against a lock that is left, or a crash that is taken for "changes present": both end with exit code 2.
#[test]
fn what_gos_runtime_ends_is_a_crash_and_its_lock_is_deleted() {
    let signal_child = |project: &Project, signal: Signal| {
        let child = nix::unistd::Pid::from_raw(pid_of(&journal(project)["child"]["id"]));
        nix::sys::signal::kill(child, signal).expect("it is alive");
    };
    let crashed = |project: &Project, run: Running, signal: Signal| {
        signal_child(project, signal);
        let exit = run.wait(SOON).expect_code(2);
        assert!(
            exit.err().contains("terraform crashed (exit code 2, which is not \"changes present\" here)"),
            "{exit}"
        );
        assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
        assert_clean(project);
    };
    // What a provisioner started lives on, in Terraform's group.
    let project = table(Kind::Sleep);
    crashed(&project, asleep(&project, &[]), SIGQUIT);
    let project = table(Kind::HangInApply);
    crashed(&project, hanging(&project, &[], &APPLY), SIGABRT);
    let project = table(Kind::HangInPlan);
    crashed(&project, hanging(&project, &[], &[&PLAN[..], &["-detailed-exitcode"]].concat()), SIGABRT);
    // Only the log tells.
    let project = table(Kind::HangInPlan);
    let command = [&PLAN[..], &["-detailed-exitcode"]].concat();
    let run = project.tfguard(TFGUARD, [""; 0], &command).env("GOTRACEBACK", "none").new_group().start();
    project.wait_for_hang(SOON);
    crashed(&project, run, SIGQUIT);
    // Only the output tells.
    let project = table(Kind::HangInPlan);
    let run = hanging(&project, &[], &[&PLAN[..], &["-detailed-exitcode", "-lock=false"]].concat());
    signal_child(&project, SIGQUIT);
    let exit = run.wait(SOON).expect_code(2);
    assert!(exit.err().contains("terraform crashed"), "{exit}");
    project.guard().assert_no_process_left(SOON);
}

/// A lock that is released must be usable: the next run takes it and applies.
#[test]
fn the_next_run_works() {
    let project = table(Kind::HangInApply);
    let run = hanging(&project, &["--grace", "3s"], &APPLY);
    run.signal(SIGINT);
    run.wait(SOON).expect_code(137);
    std::fs::write(project.work().join("main.tf"), "resource \"terraform_data\" \"work\" {}\n").unwrap();
    project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(0);
    assert_clean(&project);
}

#[test]
fn on_death_keeps_what_it_is_told_to() {
    for (policy, kind, command, kept) in [
        ("keep", Kind::HangInApply, &APPLY[..], true),
        ("keep-apply", Kind::HangInApply, &APPLY[..], true),
        ("keep-apply", Kind::HangInPlan, &PLAN[..], false),
        ("keep", Kind::HangInPlan, &PLAN[..], true),
    ] {
        let project = table(kind);
        let run = hanging(&project, &["--grace", "3s", "--on-death", policy], command);
        run.signal(SIGTERM);
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(project.lock().is_some(), kept, "{policy} {command:?}: {exit}");
        assert_eq!(exit.err().contains("left in place, as --on-death says"), kept, "{exit}");
        assert_eq!(exit.err().contains("tfguard unlock"), kept, "{exit}");
        project.aws().delete_item(project.table_name(), &project.lock_id());
        assert_clean(&project);
    }
}

/// The front takes the supervisor's place, with its output, its stop requests and its release.
#[test]
fn a_killed_supervisor_is_replaced() {
    let project = table(Kind::Sleep);
    let run = asleep(&project, &[]);
    kill(pid_of(&journal(&project)["supervisor"]));
    run.wait_for_stderr("takes its place", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(125);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert!(exit.err().contains("released by Terraform"), "{exit}");
    assert!(exit.err().contains("exit code is lost"), "{exit}");
    assert_clean(&project);
}

#[test]
fn a_supervisor_killed_after_the_interrupt_is_replaced_by_one_that_sends_no_second() {
    let project = table(Kind::HangInApply);
    let run = hanging(&project, &["--grace", "10s"], &APPLY);
    run.signal(SIGTERM);
    run.wait_for_stdout("Interrupt received.", SOON);
    kill(pid_of(&journal(&project)["supervisor"]));
    let exit = run.wait(SOON).expect_code(125);
    assert!(!exit.err().contains("Two interrupts"), "{exit}");
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}

/// As if a machine's out-of-memory killer went through the job: whoever is left finishes the work.
#[test]
fn front_or_supervisor_killed_at_any_moment_leave_no_lock() {
    let project = table(Kind::Sleep);
    for (number, victim) in ["front", "supervisor"].into_iter().cycle().take(12).enumerate() {
        let run = project.tfguard(TFGUARD, ["--grace", "5s"], APPLY).new_group().start();
        // Moments spread over start, init, plan and apply.
        std::thread::sleep(Duration::from_millis(u64::try_from(number).unwrap() * 150));
        // A session may be too young for a journal.
        let journal = sessions(&project).first().and_then(|session| std::fs::read(session.join("journal.json")).ok());
        let journal: Value = journal.map(|text| serde_json::from_slice(&text).unwrap()).unwrap_or_default();
        if !journal[victim].is_null() {
            kill(pid_of(&journal[victim]));
        }
        if victim == "supervisor" {
            run.signal(SIGTERM);
        } else {
            run.signal(SIGKILL);
        }
        let exit = run.wait(SOON);
        assert!(!exit.err().contains("Two interrupts"), "{exit}");
        assert_clean(&project);
        for session in sessions(&project) {
            std::fs::remove_dir_all(session).unwrap();
        }
    }
}

/// The script goes on after its Terraform's death and ends by itself; the orphan of that Terraform once kept the lock.
#[test]
fn the_orphans_of_a_terraform_that_died_below_a_script_do_not_keep_its_lock() {
    let project = table(Kind::Sleep);
    let script = format!("terraform {}; exit 7", APPLY.join(" "));
    let run = project.command(TFGUARD).args(["--", "sh", "-c", &script]).start();
    run.wait_for_stdout("asleep", SOON);
    let [terraform] = project.terraforms()[..] else { panic!("one Terraform: {:?}", project.guard().processes()) };
    kill(terraform);
    let exit = run.wait(SOON).expect_code(7);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}
