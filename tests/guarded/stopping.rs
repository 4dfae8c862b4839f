//! Cancelled runs: one interrupt, a grace, and a lock that is gone.

use super::*;
use nix::sys::signal::Signal::{self, *};

/// The lock was released by Terraform itself, after one interrupt.
#[track_caller]
fn assert_graceful(exit: Exit, what: &str) -> Exit {
    let exit = exit.expect_code(1);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{what}: {exit}");
    assert!(!exit.err().contains("Two interrupts"), "{what}: {exit}");
    assert!(exit.err().contains("released by Terraform"), "{what}: {exit}");
    exit
}

#[test]
fn each_signal_is_one_interrupt_on_every_version() {
    let signals = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];
    for (number, (version, terraform)) in Tools::get().terraforms().enumerate() {
        let project = project(Kind::Sleep).table().init(&terraform);
        for signal in [signals[number % 4], signals[(number + 1) % 4]] {
            let run = asleep(&project, &[]);
            run.signal(signal);
            assert_graceful(run.wait(SOON), &format!("{version} {signal}"));
            assert_clean(&project);
        }
    }
}

#[test]
fn many_signals_are_one_interrupt() {
    let project = table(Kind::Sleep);
    let volleys: [&[Signal]; 3] = [&[SIGINT, SIGTERM], &[SIGTERM; 10], &[SIGHUP, SIGINT, SIGQUIT, SIGTERM]];
    for volley in volleys {
        let run = asleep(&project, &[]);
        for signal in volley {
            run.signal_group(*signal);
        }
        assert_graceful(run.wait(SOON), &format!("{volley:?}"));
        assert_clean(&project);
    }
}

/// GNU `timeout` signals its child and then the whole group, and Terraform alone counts two. Its own timer is a SIGALRM.
#[test]
fn a_timeout_command_around_tfguard_is_one_interrupt() {
    let project = table(Kind::Sleep);
    let run = project.command("timeout").args(["600", TFGUARD, "--"]).arg(terraform()).args(APPLY).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGALRM);
    let exit = run.wait(SOON).expect_code(124);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert!(!exit.err().contains("Two interrupts"), "{exit}");
    assert_clean(&project);
}

/// As GitLab's docker executor does it: every process, the highest pid first.
#[test]
fn a_terraform_that_somebody_else_interrupted_is_not_interrupted_again() {
    for everybody in [false, true] {
        let project = table(Kind::HangInPlan);
        let run = hanging(&project, &["--grace", "3s", "--report", "report.json"], &APPLY);
        let pid = nix::unistd::Pid::from_raw(pid_of(&journal(&project)["child"]["id"]));
        nix::sys::signal::kill(pid, SIGTERM).unwrap();
        run.wait_for_stdout("Interrupt received.", SOON);
        if everybody {
            let supervisor = nix::unistd::Pid::from_raw(pid_of(&journal(&project)["supervisor"]));
            nix::sys::signal::kill(supervisor, SIGTERM).unwrap();
        }
        run.signal(SIGTERM);
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
        assert!(!exit.err().contains("Two interrupts"), "{exit}");
        assert!(exit.err().contains("was interrupted already"), "{exit}");
        assert_eq!(report(&project)["interrupt"]["by"], "somebody-else");
        assert_clean(&project);
    }
}

/// Guards against one that is looked for in its group alone.
#[test]
fn a_terraform_that_left_its_group_is_interrupted_once_and_killed_at_the_end_of_its_grace() {
    let leave = "import os, sys; os.setpgid(0, os.getpgid(os.getppid())); os.execv(sys.argv[1], sys.argv[1:])";
    let project = table(Kind::HangInPlan);
    let command = project.command(TFGUARD).args(["--grace", "3s", "--", "python3", "-c", leave]);
    let run = command.arg(terraform()).args(APPLY).new_group().start();
    project.wait_for_hang(SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert!(exit.err().contains("killing it"), "{exit}");
    assert_clean(&project);
}

/// Without `exec`, bash forwards nothing and dies of the SIGTERM.
#[test]
fn the_end_of_the_shell_around_tfguard_is_one_interrupt() {
    let project = table(Kind::Sleep);
    let script = format!("{TFGUARD} -- \"$0\" {}\ntrue", APPLY.join(" "));
    let run = project.command("bash").args(["-e", "-c", &script]).arg(terraform()).start();
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGTERM);
    run.wait(SOON).expect_signal(SIGTERM);
    assert_clean(&project);
}

#[test]
fn a_killed_front_is_one_interrupt_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let project = project(Kind::Sleep).table().init(&terraform);
        let run = asleep(&project, &["--report", "report.json"]);
        run.signal(SIGKILL);
        run.wait(SOON).expect_signal(SIGKILL);
        assert_clean(&project);
        let report = report(&project);
        assert_eq!(report["requests"][0]["kind"], "front-died", "{version}: {report:#}");
        assert_eq!(report["ending"]["code"], 1, "{version}: {report:#}");
        assert_eq!(report["locks"][0]["outcome"]["is"], "unlocked", "{version}: {report:#}");
    }
}

/// Later than Terraform takes to begin its work.
#[test]
fn the_deadline_stops_by_itself() {
    let project = table(Kind::Sleep);
    let exit = project.tfguard(TFGUARD, ["--deadline", "20s"], APPLY).start().wait(SOON).expect_code(124);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert!(exit.err().contains("--deadline reached"), "{exit}");
    assert_clean(&project);
}

/// A killed plan loses nothing, so it does not get the grace of an apply.
#[test]
fn a_plan_that_hangs_has_a_short_grace() {
    for command in [&PLAN[..], &APPLY] {
        let project = table(Kind::HangInPlan);
        let run = hanging(&project, &["--grace", "1h"], command);
        run.signal(SIGTERM);
        let exit = run.wait(SOON).expect_code(137);
        assert!(exit.err().contains("it has 10s to end gracefully"), "{exit}");
        assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
        assert_clean(&project);
    }
}

/// Guards against an option that does nothing without a word.
#[test]
fn where_nobody_tells_when_the_credentials_end_that_is_said() {
    let project = project(Kind::Sleep).table().init(&terraform());
    for token in [true, false] {
        let run = project.tfguard(TFGUARD, ["-v", "--before-expiry", "1h"], APPLY).new_group();
        let run = if token { run.env("AWS_SESSION_TOKEN", "t") } else { run }.start();
        let said = if token { "--before-expiry does nothing" } else { "the AWS credentials do not end" };
        run.wait_for_stderr(said, SOON);
        run.wait_for_stdout("asleep", SOON);
        run.signal(SIGINT);
        let exit = run.wait(SOON).expect_code(1);
        assert_eq!(exit.err().contains("does nothing"), token, "{exit}");
    }
}

/// The token that gave them was removed, and they are valid.
#[test]
fn credentials_whose_source_is_gone_are_kept_for_the_release() {
    let profile = "profile = \"kept\"\n    shared_config_files = [\"aws.conf\"]";
    let project = project(Kind::Sleep).table().backend(profile);
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(7200);
    let credentials = format!(
        "{{\"Version\":1,\"AccessKeyId\":\"AKIATESTBEDTESTBED00\",\"SecretAccessKey\":\"x\",\"SessionToken\":\"t\",\
         \"Expiration\":\"{end}\"}}"
    );
    let source = project.work().join("credentials.json");
    std::fs::write(&source, credentials).unwrap();
    let config = format!("[profile kept]\nregion = us-east-1\ncredential_process = /bin/cat {}\n", source.display());
    std::fs::write(project.work().join("aws.conf"), config).unwrap();
    let project = project.init(&terraform());
    let run = project.tfguard(TFGUARD, ["-v"], APPLY).new_group();
    let run = run.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").start();
    run.wait_for_stderr("recorded beside item", SOON);
    std::fs::remove_file(&source).unwrap();
    let journal = project.wait_for_journal(SOON, |journal| journal["child"].is_object());
    kill(pid_of(&journal["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}

/// Once the credentials have ended, Terraform can save no state and nobody can unlock.
#[test]
fn the_end_of_the_credentials_stops_in_time_if_asked() {
    let profile = "profile = \"ending\"\n    shared_config_files = [\"aws.conf\"]";
    let project = project(Kind::Sleep).table().backend(profile);
    let script = "#!/bin/sh\nprintf '{\"Version\":1,\"AccessKeyId\":\"AKIATESTBEDTESTBED00\",\"SecretAccessKey\":\"x\",\
                  \"SessionToken\":\"t\",\"Expiration\":\"%s\"}' \"$(cat expiration)\"\n";
    let at = |seconds| (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds)).to_string();
    let write = |name: &str, text: &str| std::fs::write(project.work().join(name), text).unwrap();
    write("credentials.sh", script);
    let process = project.work().join("credentials.sh");
    write(
        "aws.conf",
        &format!("[profile ending]\nregion = us-east-1\ncredential_process = /bin/sh {}\n", process.display()),
    );
    write("expiration", &at(7200));
    let without_keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    let project = project.init(&terraform());
    // Later than Terraform takes to begin its work.
    std::fs::write(project.work().join("expiration"), at(3620)).unwrap();
    let mut run = project.tfguard(TFGUARD, ["--before-expiry", "1h", "--deadline", "2h"], APPLY);
    for name in without_keys {
        run = run.env_remove(name);
    }
    let exit = run.start().wait(SOON).expect_code(124);
    assert!(exit.err().contains("before the deadline: make them last longer"), "{exit}");
    assert!(exit.err().contains("stop requested: the AWS credentials end at"), "{exit}");
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert_clean(&project);
}
