//! Scripts that run Terraforms: what was true of the first is not of the next, and what ends a script ends no Terraform.

use std::time::Instant;

use super::*;
use nix::sys::signal::Signal::*;

/// What runs after a plan may change anything, and is not cut short as a plan is.
#[test]
fn what_a_script_does_after_its_plan_has_the_whole_grace() {
    let project = table(Kind::Quick);
    // Known to be over by its lock, and by its own word.
    for lock in ["", "-lock=false"] {
        let script = format!("terraform {} {lock}; echo as''leep; exec sleep 600", PLAN.join(" "));
        let run = project.command(TFGUARD).args(["--grace", "1h", "--", "sh", "-c", &script]).start();
        run.wait_for_stdout("asleep", SOON);
        run.signal(SIGTERM);
        let exit = run.wait(SOON);
        assert!(exit.err().contains("it has 1h to end gracefully"), "{lock}: {exit}");
        assert_clean(&project);
    }
}

/// Guards against killing a living Terraform without a word because its script died.
#[test]
fn a_terraform_whose_script_is_killed_is_interrupted_and_has_its_grace() {
    let project = table(Kind::Sleep);
    let script = format!("terraform {}; echo over", APPLY.join(" "));
    let run = project.command(TFGUARD).args(["--report", "report.json", "--", "sh", "-c", &script]).start();
    run.wait_for_stdout("asleep", SOON);
    kill(pid_of(&outer_journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(128 + 9);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert!(exit.err().contains("released by Terraform") && !exit.err().contains("killing it"), "{exit}");
    assert_eq!(report(&project)["requests"][0]["kind"], "child-died");
    assert_clean(&project);
}

/// A trap may pass on what Terraform has already.
#[test]
fn terraforms_in_the_background_of_a_script_release_their_own_locks() {
    for trap in ["", "trap 'kill -INT $p' INT TERM; ", "trap 'kill $(jobs -p)' EXIT; ", "trap 'kill 0' INT TERM; "] {
        let project = table(Kind::Sleep);
        let script = format!("{trap}terraform {} & p=$!; wait $p; wait $p", APPLY.join(" "));
        let run = project.command(TFGUARD).args(["--", "bash", "-c", &script]).start();
        run.wait_for_stdout("asleep", SOON);
        run.signal(SIGTERM);
        let exit = run.wait(SOON);
        assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{trap}: {exit}");
        assert!(!exit.out().contains("Two interrupts") && !exit.err().contains("Two interrupts"), "{trap}: {exit}");
        assert!(exit.err().contains("released by Terraform"), "{trap}: {exit}");
        assert_clean(&project);
    }
}

/// Guards against a second interrupt, and against a lock that is left without a word, where a script gives its Terraform a
/// log of its own, which its guard leaves to it.
#[test]
fn a_terraform_with_a_log_of_its_own_has_one_interrupt_and_its_grace() {
    for logs in ["TF_LOG=debug TF_LOG_PATH=own.log", "-u TF_LOG_PATH"] {
        for trap in ["trap 'kill -INT $p' INT TERM; ", "trap 'kill $p' TERM; "] {
            let project = table(Kind::Sleep);
            let script = format!("{trap}env {logs} terraform {} & p=$!; wait $p; wait $p", APPLY.join(" "));
            let run = project.command(TFGUARD).args(["--", "bash", "-c", &script]).start();
            run.wait_for_stdout("asleep", SOON);
            run.signal(SIGTERM);
            let exit = run.wait(SOON);
            assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{logs} {trap}: {exit}");
            assert!(!exit.err().contains("killing it"), "{logs} {trap}: {exit}");
            assert!(exit.err().contains("released by Terraform"), "{logs} {trap}: {exit}");
            assert_clean(&project);
        }
    }
}

/// Guards against a second interrupt where a file has Terraform's word for the first: its guard hears it all the same.
#[test]
fn what_terraform_says_into_a_file_is_heard_too() {
    for redirected in ["> out.txt 2>&1", ">> out.txt"] {
        let project = table(Kind::HangInPlan);
        let out = project.work().join("out.txt");
        std::fs::write(&out, "Interrupt received.\nPlease wait for Terraform to exit or data loss may occur.\n")
            .unwrap();
        let script = format!("terraform {} {redirected}; exit 7", APPLY.join(" "));
        let run = project.command(TFGUARD).args(["--grace", "5s", "--", "bash", "-c", &script]).start();
        project.wait_for_hang(SOON);
        let interrupts = || std::fs::read_to_string(&out).unwrap().matches("Interrupt received.").count();
        let before = interrupts();
        let [terraform] = project.terraforms()[..] else { panic!("{:?}", project.guard().processes()) };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(terraform), SIGINT).unwrap();
        let deadline = Instant::now() + SOON;
        while interrupts() == before {
            assert!(Instant::now() < deadline, "{redirected}: no interrupt");
            std::thread::sleep(Duration::from_millis(20));
        }
        run.signal(SIGTERM);
        let exit = run.wait(SOON);
        let said = std::fs::read_to_string(&out).unwrap();
        assert!(!said.contains("Two interrupts"), "{redirected}: {said}\n{exit}");
        assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{redirected}: {exit}");
        assert_clean(&project);
    }
}
