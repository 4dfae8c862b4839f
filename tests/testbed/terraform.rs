//! Real Terraforms take locks, and leave them, as the product has to expect.

use std::io::{BufRead, BufReader};

use nix::sys::signal::Signal;

use crate::support::{Kind, LockInfo, Tools};
use crate::testbed::{APPLY, SOON, project, terraform};

#[test]
fn every_terraform_applies_with_its_kinds_of_lock() {
    for (version, terraform) in Tools::get().terraforms() {
        let lockfile = !matches!(version, "1.6.6" | "1.8.4" | "1.9.8");
        let new = project(Kind::Quick).table();
        let project = if lockfile { new.lockfile() } else { new }.init(&terraform);
        let said = project.terraform(["version"]).run().expect_code(0).out();
        assert_eq!(said.lines().next(), Some(&*format!("Terraform v{version}")));
        assert_eq!(project.apply().err(), "", "no warning of the machine's configuration");
        assert_eq!(project.terraform(["output", "-raw", "answer"]).run().expect_code(0).out(), "42");
        assert_eq!(project.state().expect("a state")["terraform_version"], version);
        assert_eq!(project.aws().locks(project.table_name()), []);
        assert_eq!(project.aws().keys(project.bucket(), ""), [project.state_key()]);
        assert_eq!(project.aws().digest(project.table_name(), &project.lock_id()).map(|md5| md5.len()), Some(32));
    }
}

/// The launcher of the wheels' library must not change what signals do: Python has handlers of its own.
#[test]
fn every_terraform_is_one_process_that_signals_reach() {
    for (version, terraform) in Tools::get().terraforms() {
        let project = project(Kind::Sleep).table().init(&terraform);
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let run = project.terraform(APPLY).new_group().start();
            run.wait_for_stdout("asleep", SOON);
            assert!(project.lock().is_some(), "{version}");
            let processes = project.guard().processes();
            assert_eq!(processes.len(), 2, "{version} and the sleep: {processes:?}");
            assert!(processes.iter().any(|line| line.starts_with(&format!("{} ", run.pid()))), "{processes:?}");
            run.signal(signal);
            let exit = run.wait(SOON).expect_code(1);
            assert!(exit.out().contains("Interrupt received."), "{version} {signal}: {exit}");
            assert!(project.lock().is_none(), "{version} {signal}");
        }
        let run = project.terraform(APPLY).start();
        run.wait_for_stdout("asleep", SOON);
        run.signal(Signal::SIGHUP);
        run.wait(SOON).expect_signal(Signal::SIGHUP);
        assert!(project.lock().is_some(), "{version}");
    }
}

/// As the binary does; Python ignores SIGPIPE and would pass that on.
#[test]
fn every_terraform_dies_with_the_reader_of_its_stdout() {
    for (version, terraform) in Tools::get().terraforms() {
        let project = project(Kind::Chatty(10_000)).table().init(&terraform);
        let mut run = project.terraform(APPLY).hand_stdout().start();
        let mut lines = BufReader::new(run.take_stdout()).lines().map(|line| line.expect("a pipe can be read"));
        assert!(lines.any(|line| line.contains("line 1")), "{version}: {}", run.stderr());
        drop(lines);
        run.wait(SOON).expect_signal(Signal::SIGPIPE);
        assert!(project.lock().is_some(), "{version}");
    }
}

#[test]
fn sigkill_leaves_both_locks_and_foreign_locks_refuse() {
    let project = project(Kind::Sleep).table().lockfile().versioned().workspace("blue").init(&terraform());
    let run = project.terraform(APPLY).start();
    run.wait_for_stdout("asleep", SOON);
    run.signal(Signal::SIGKILL);
    run.wait(SOON).expect_signal(Signal::SIGKILL);
    let lock = project.lock().expect("nobody removed it");
    assert_eq!(lock["Path"], project.lock_id());
    assert_eq!(project.lock_in_bucket(), Some(lock));

    let (aws, foreign) = (project.aws(), LockInfo::foreign(&project.lock_id()));
    aws.delete_object(project.bucket(), &format!("{}.tflock", project.state_key()));
    aws.plant_lock(project.table_name(), &foreign);
    let refused = project.terraform(APPLY).run().expect_code(1);
    assert!(refused.err().contains(&foreign.id), "{refused}");
    assert!(project.lock_in_bucket().is_none());
    aws.delete_item(project.table_name(), &project.lock_id());
    aws.plant_lockfile(&foreign);
    let refused = project.terraform(APPLY).run().expect_code(1);
    assert!(refused.err().contains(&foreign.id), "{refused}");
    assert!(project.lock().is_none());
    assert_eq!(project.lock_in_bucket().expect("it stays")["ID"], foreign.id);
}

#[test]
fn an_interrupt_does_not_end_what_hangs_and_a_second_one_leaks_the_lock() {
    let planning = project(Kind::HangInPlan).table().init(&terraform());
    let run = planning.terraform(APPLY).start();
    planning.wait_for_hang(SOON);
    run.signal(Signal::SIGINT);
    run.wait_for_stdout("Interrupt received.", SOON);
    run.signal(Signal::SIGINT);
    run.wait(SOON).expect_code(1);
    assert!(planning.lock().is_some());

    let applying = project(Kind::HangInApply).table().init(&terraform());
    let run = applying.terraform(APPLY).start();
    applying.wait_for_hang(SOON);
    run.signal(Signal::SIGINT);
    run.wait_for_stdout("Stopping operation...", SOON);
    assert!(run.stdout().contains("Creation complete"), "{}", run.stdout());
    assert!(!run.has_ended());
    assert!(applying.lock().is_some());
}
