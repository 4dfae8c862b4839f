//! Whatever asks for a stop, the child is interrupted once (P3), and every ending is accounted for (P4). The locks are
//! tested elsewhere; here the children are actors.

use std::io::Read as _;
use std::time::{Duration, Instant};

use crate::stage::*;
use nix::sys::signal::Signal::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;

/// Who asked for a stop: names of signals, kinds of anything else.
fn requests(report: &Value) -> Vec<&str> {
    let requests = report["requests"].as_array().unwrap();
    requests.iter().map(|request| request["name"].as_str().or(request["kind"].as_str()).unwrap()).collect()
}

const TERRAFORMS_WORDS: &str = "\\nInterrupt received.\\nPlease wait for Terraform to exit or data loss may occur.\\nGracefully shutting down...\\n";

#[test]
fn each_signal_that_a_ci_sends_is_one_interrupt() {
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        let stage = Stage::new();
        let run = stage.guarded(&["--report", "report"]).start();
        let child = stage.enter();
        run.signal(signal);
        child.wait_for_signal(SIGINT);
        child.exit(3);
        run.wait(SOON).expect_code(3);
        assert_eq!(child.signals(), ["SIGINT"], "{signal}");
        let report = stage.report("report");
        assert_eq!(requests(&report), [signal.as_str()]);
        assert_eq!(report["requests"][0]["from_pid"], std::process::id());
        assert_eq!(report["interrupt"]["by"], "tfguard");
        assert_eq!(report["ending"]["code"], 3);
        stage.guard.assert_no_process_left(SOON);
        stage.assert_clean();
    }
}

#[test]
fn more_requests_are_no_more_interrupts() {
    let stage = Stage::new();
    let run = stage.guarded(&["-v"]).start();
    let child = stage.enter();
    run.signal(SIGINT);
    run.signal(SIGTERM);
    for signal in [SIGINT, SIGTERM, SIGQUIT, SIGTERM] {
        run.signal(signal);
    }
    child.wait_for_signal(SIGINT);
    for signal in [SIGTERM, SIGINT, SIGQUIT, SIGTERM, SIGINT] {
        run.signal(signal);
    }
    // The last one, and the first of its kind: all others are counted by then.
    run.wait_for_stderr("stop requested", SOON);
    run.signal(SIGHUP);
    run.wait_for_stderr("stop requested again: SIGHUP", SOON);
    child.exit(0);
    run.wait(SOON).expect_code(0);
    assert_eq!(child.signals(), ["SIGINT"]);
    stage.guard.assert_no_process_left(SOON);
}

/// Guards against a child that is looked for in its group alone, and is neither interrupted nor killed.
#[test]
fn a_child_that_leaves_its_group_is_interrupted_once_and_killed_at_the_end_of_its_grace() {
    for leave in ["", "; os.setsid()"] {
        let stage = Stage::new();
        let run = stage.guarded(&["--grace", "1s", "--report", "report"]).start();
        let child = stage.enter();
        // The leader of a group cannot begin a session.
        child.perform(&format!("os.setpgid(0, os.getpgid(os.getppid())){leave}"));
        run.signal(SIGTERM);
        child.wait_for_signal(SIGINT);
        let exit = run.wait(SOON).expect_code(128 + 9);
        child.wait_for_end();
        assert!(exit.err().contains("interrupted; it has"), "{exit}");
        assert_eq!(child.signals(), ["SIGINT"]);
        let report = stage.report("report");
        assert_eq!(report["interrupt"]["by"], "tfguard");
        assert!(report["killed"].is_string());
        stage.guard.assert_no_process_left(SOON);
        stage.assert_clean();
    }
}

#[test]
fn a_signal_to_the_whole_group_of_the_step_reaches_the_child_as_one_interrupt() {
    let stage = Stage::new();
    let run = stage.script("\"$@\"; exit $?", &[]).new_group().start();
    let child = stage.enter();
    run.signal_group(SIGTERM);
    child.wait_for_signal(SIGINT);
    child.exit(0);
    stage.guard.assert_no_process_left(SOON);
    assert_eq!(child.signals(), ["SIGINT"]);
}

/// timeout(1) signals what it started, and then its own group, which what it started belongs to.
#[test]
fn under_gnu_timeout() {
    let stage = Stage::new();
    let run = stage.script("exec timeout 600 \"$@\"", &["--report", "report"]).start();
    let child = stage.enter();
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    child.exit(5);
    run.wait(SOON).expect_code(5);
    assert_eq!(child.signals(), ["SIGINT"]);
    assert!(requests(&stage.report("report")).iter().all(|name| *name == "SIGTERM"));
}

/// `ps` and `top` show whose process it is.
#[test]
fn the_supervisor_is_called_tfguard_in_a_list_of_processes() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    let shown = |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", child.parent)).unwrap();
    assert_eq!(shown("comm"), "tfguard\n");
    assert!(shown("cmdline").starts_with("tfguard\0"));
    child.exit(0);
    run.wait(SOON).expect_code(0);
}

#[test]
fn the_death_of_the_front_is_a_request_to_stop_and_lets_go_of_the_ci() {
    let stage = Stage::new();
    let mut run = stage.guarded(&["--report", "report"]).hand_stdout().start();
    let mut stdout = run.take_stdout();
    let child = stage.enter();
    run.signal(SIGKILL);
    // The end of the pipe: nobody holds it although the child lives.
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(!child.is_gone());
    run.wait(SOON).expect_signal(SIGKILL);
    child.wait_for_signal(SIGINT);
    child.exit(0);
    stage.guard.assert_no_process_left(SOON);
    assert_eq!(child.signals(), ["SIGINT"]);
    let report = stage.report("report");
    assert_eq!(requests(&report), ["front-died"]);
    assert_eq!(report["exit_code"], 0);
    let [session] = stage.session_dirs().try_into().unwrap();
    assert!(session.join("journal.json").exists() && !session.join("terraform.log").exists(), "it may hold secrets");
}

/// `run: tfguard -- terraform apply` below `sh -e`, without `exec`.
#[test]
fn the_death_of_the_process_that_started_tfguard_is_a_request_to_stop() {
    for signal in [SIGTERM, SIGKILL] {
        let stage = Stage::new();
        let run = stage.script("\"$@\"; exit $?", &["--report", "report"]).start();
        let child = stage.enter();
        run.signal(signal);
        run.wait(SOON).expect_signal(signal);
        child.wait_for_signal(SIGINT);
        child.exit(0);
        stage.guard.assert_no_process_left(SOON);
        assert_eq!(child.signals(), ["SIGINT"]);
        assert_eq!(requests(&stage.report("report")), ["parent-died"]);
    }
}

/// Starts tfguard in the background of a shell that dies; the child lives on.
fn orphaned(stage: &Stage, script: &str, options: &[&str]) -> (Pid, Actor) {
    let run = stage.script(script, options).start();
    let child = stage.enter();
    run.wait_for_stdout("\n", SOON);
    let front = run.stdout().trim().parse().expect("the shell says what it started");
    run.signal(SIGKILL);
    run.wait(SOON).expect_signal(SIGKILL);
    (Pid::from_raw(front), child)
}

#[test]
fn outliving_the_parent_can_be_asked_for() {
    let stage = Stage::new();
    let (front, child) = orphaned(&stage, "\"$@\" & echo $!; wait", &["--outlive-parent", "--report", "report"]);
    kill(front, SIGTERM).unwrap();
    child.wait_for_signal(SIGINT);
    child.exit(0);
    stage.guard.assert_no_process_left(SOON);
    assert_eq!(child.signals(), ["SIGINT"]);
    assert_eq!(requests(&stage.report("report")), ["SIGTERM"], "not the parent's death");
}

#[test]
fn below_nohup_outside_a_ci_neither_hangup_nor_the_parents_death_counts() {
    let stage = Stage::new();
    let (front, child) = orphaned(&stage, "nohup \"$@\" & echo $!; wait", &["--report", "report"]);
    kill(front, SIGHUP).unwrap();
    kill(front, SIGTERM).unwrap();
    child.wait_for_signal(SIGINT);
    child.exit(0);
    stage.guard.assert_no_process_left(SOON);
    assert_eq!(child.ignored, ["SIGHUP"]);
    assert_eq!(requests(&stage.report("report")), ["SIGTERM"]);
}

/// Jenkins starts every step below nohup, and means nothing by it.
#[test]
fn below_nohup_in_a_ci_the_parents_death_counts() {
    let stage = Stage::new();
    let script = "BUILD_TAG=t JENKINS_URL=u nohup \"$@\" & echo $!; wait";
    let (_, child) = orphaned(&stage, script, &["--report", "report"]);
    child.wait_for_signal(SIGINT);
    child.exit(0);
    stage.guard.assert_no_process_left(SOON);
    assert_eq!(requests(&stage.report("report")), ["parent-died"]);
}

/// As the steps of Jenkins have it, and whatever a shell starts with `&`.
#[test]
fn signals_that_are_ignored_on_entry_count_and_the_child_can_be_interrupted() {
    for signal in [SIGINT, SIGQUIT] {
        let stage = Stage::new();
        let run = stage.script("trap '' INT QUIT; exec \"$@\"", &[]).start();
        let child = stage.enter();
        run.signal(signal);
        child.wait_for_signal(SIGINT);
        child.exit(0);
        run.wait(SOON).expect_code(0);
        assert_eq!(child.signals(), ["SIGINT"]);
        assert!(!child.ignored.contains(&"SIGINT".to_owned()), "{:?}", child.ignored);
    }
}

/// GitLab's docker executor: SIGTERM to every process there is, the highest pid first.
#[test]
fn who_is_interrupted_by_somebody_else_is_not_interrupted_again() {
    for front_first in [false, true] {
        let stage = Stage::new();
        let run = stage.guarded(&["-v", "--report", "report"]).start();
        let child = stage.enter();
        child.perform(&format!("on[15] = 'os.write(1, b\"{}\")'", TERRAFORMS_WORDS.replace('\\', "\\\\")));
        kill(child.pid, SIGTERM).unwrap();
        run.wait_for_stdout("Gracefully shutting down...", SOON);
        let mut guards = [child.parent, run.pid()];
        if front_first {
            guards.reverse();
        }
        for process in guards {
            kill(process, SIGTERM).unwrap();
        }
        run.wait_for_stderr("was interrupted already", SOON);
        // A third round must not make it an interrupt either.
        run.signal(SIGHUP);
        run.wait_for_stderr("again: SIGHUP", SOON);
        child.exit(1);
        let exit = run.wait(SOON).expect_code(1);
        assert!(exit.out().contains("Gracefully shutting down...\n"), "{exit}");
        assert_eq!(child.signals(), ["SIGTERM"]);
        let report = stage.report("report");
        assert_eq!(report["interrupt"]["by"], "somebody-else");
        stage.guard.assert_no_process_left(SOON);
    }
}

/// Guards against a supervisor that had no turn for a while, and interrupts who has said meanwhile that it was interrupted.
#[test]
fn a_supervisor_that_was_stopped_while_it_looked_looks_once_more() {
    // Of tfguard's look where everybody is signalled.
    const LOOK: Duration = Duration::from_secs(5);
    let stage = Stage::new();
    let run = stage.guarded(&["-v"]).start();
    let child = stage.enter();
    child.perform(&format!("on[2] = 'os.write(1, b\"{}\")'", TERRAFORMS_WORDS.replace('\\', "\\\\")));
    kill(child.parent, SIGTERM).unwrap();
    run.wait_for_stderr("stop requested", SOON);
    kill(child.parent, SIGSTOP).unwrap();
    kill(child.pid, SIGINT).unwrap();
    run.wait_for_stdout("Gracefully shutting down...", SOON);
    // Nothing tells that it is over: who looks is stopped.
    std::thread::sleep(LOOK);
    kill(child.parent, SIGCONT).unwrap();
    run.wait_for_stderr("; it has", SOON);
    child.exit(1);
    let exit = run.wait(SOON).expect_code(1);
    assert!(exit.err().contains("was interrupted already"), "{exit}");
    assert_eq!(child.signals(), ["SIGINT"]);
    stage.guard.assert_no_process_left(SOON);
}

#[test]
fn who_does_not_end_within_the_grace_is_killed_with_its_group() {
    let stage = Stage::new();
    let run = stage.guarded(&["--grace", "1s", "--report", "report"]).start();
    let child = stage.enter();
    let other = child.start_another(&stage, "");
    run.signal(SIGTERM);
    run.wait(SOON).expect_code(128 + 9);
    child.wait_for_end();
    other.wait_for_end();
    let report = stage.report("report");
    assert_eq!(report["interrupt"]["by"], "tfguard");
    assert_eq!(report["ending"]["signal"], 9);
    assert!(report["killed"].is_string());
    stage.guard.assert_no_process_left(SOON);
    stage.assert_clean();
}

/// Also where the command makes a success of it, as Terragrunt does. (A Terraform that succeeds was done: its code counts.)
#[test]
fn a_deadline_gives_its_own_code() {
    for (ends_with, expected) in [(1, 124), (0, 124)] {
        let stage = Stage::new();
        let run = stage.guarded(&["--deadline", "6s", "--report", "report"]).start();
        let child = stage.enter();
        child.wait_for_signal(SIGINT);
        child.exit(ends_with);
        run.wait(SOON).expect_code(expected);
        assert_eq!(child.signals(), ["SIGINT"]);
        assert_eq!(requests(&stage.report("report")), ["deadline"]);
        stage.assert_clean();
    }
}

#[test]
fn the_front_takes_the_place_of_a_dead_supervisor() {
    let stage = Stage::new();
    let run = stage.guarded(&["-v", "--report", "report"]).start();
    let child = stage.enter();
    child.perform("os.write(1, b'before\\n')");
    kill(child.parent, SIGKILL).unwrap();
    run.wait_for_stderr("takes its place", SOON);
    child.perform("os.write(1, b'after\\n')");
    run.wait_for_stdout("before\nafter\n", SOON);
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    run.signal(SIGINT);
    run.wait_for_stderr("again: SIGINT", SOON);
    child.perform("os.write(2, b'last')");
    child.exit(0);
    let exit = run.wait(SOON).expect_code(125);
    assert!(exit.err().contains("its exit code is lost"), "{exit}");
    assert!(exit.err().contains("last"), "{exit}");
    assert_eq!(child.signals(), ["SIGINT"]);
    assert_eq!(requests(&stage.report("report")), ["SIGTERM", "SIGINT"]);
    stage.guard.assert_no_process_left(SOON);
    stage.assert_clean();
}

#[test]
fn a_supervisor_killed_after_the_interrupt_leaves_one_that_does_not_repeat_it() {
    let stage = Stage::new();
    let run = stage.guarded(&["-v"]).start();
    let child = stage.enter();
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    kill(child.parent, SIGKILL).unwrap();
    run.wait_for_stderr("takes its place", SOON);
    run.signal(SIGHUP);
    run.wait_for_stderr("again: SIGHUP", SOON);
    child.exit(0);
    run.wait(SOON).expect_code(125);
    assert_eq!(child.signals(), ["SIGINT"]);
    stage.guard.assert_no_process_left(SOON);
}

#[test]
fn a_front_whose_run_was_finished_by_the_cleanup_step_says_so() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    child.perform("os.write(1, b'before')");
    run.signal(SIGSTOP);
    crate::support::kill(child.parent.as_raw());
    let release = stage.run(TFGUARD).arg("release").start();
    child.wait_for_signal(SIGINT);
    child.exit(1);
    release.wait(SOON).expect_code(0);
    run.signal(SIGCONT);
    let exit = run.wait(SOON).expect_code(125);
    assert!(exit.err().contains("`tfguard release` took the place"), "{exit}");
    assert_eq!(exit.out(), "before");
    stage.assert_clean();
}

/// Guards against a grace that begins anew, too.
#[test]
fn the_grace_goes_on_below_the_front_that_took_over() {
    let stage = Stage::new();
    let run = stage.guarded(&["--grace", "30s"]).start();
    let child = stage.enter();
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    // After 15 seconds.
    run.wait_for_stderr("of 30s left", SOON);
    let begun = Instant::now();
    kill(child.parent, SIGKILL).unwrap();
    run.wait(SOON).expect_code(125);
    assert!(begun.elapsed() < Duration::from_secs(26), "{:?}", begun.elapsed());
    child.wait_for_end();
    assert_eq!(child.signals(), ["SIGINT"]);
    stage.guard.assert_no_process_left(SOON);
}

/// However early it is killed: either the command was run and its output is here, or it was not and tfguard says so.
#[test]
fn a_supervisor_killed_at_once() {
    for _ in 0..15 {
        let stage = Stage::new();
        let run = stage.tfguard(&[], ["sh", "-c", "echo ran > ran; echo out"]).start();
        let supervisor = loop {
            let found = stage.guard.processes().into_iter().find(|line| line.contains("--supervise"));
            if found.is_some() || run.has_ended() {
                break found;
            }
        };
        if let Some(line) = supervisor {
            let pid = line.split(' ').next().unwrap().parse().unwrap();
            let _ = kill(Pid::from_raw(pid), SIGKILL);
        }
        let exit = run.wait(SOON);
        stage.guard.assert_no_process_left(SOON);
        let ran = stage.work().join("ran").exists();
        match exit.code {
            Some(0) => assert!(ran && exit.out() == "out\n", "{exit}"),
            Some(125) if exit.err().contains("nothing was run") => assert!(!ran, "{exit}"),
            Some(125) => assert!(ran && exit.out() == "out\n" && exit.err().contains("lost"), "{exit}"),
            _ => panic!("{exit}"),
        }
        stage.assert_clean();
    }
}

#[test]
fn without_front_and_supervisor_the_child_goes_on_untouched() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    // Stopped first, so that it does not see the front die.
    kill(child.parent, SIGSTOP).unwrap();
    run.signal(SIGKILL);
    kill(child.parent, SIGKILL).unwrap();
    run.wait(SOON).expect_signal(SIGKILL);
    child.perform("os.write(1, b'still here'); os.write(2, b'and here')");
    assert_eq!(child.signals(), [] as [&str; 0]);
    let [session] = stage.session_dirs().try_into().unwrap();
    assert_eq!(std::fs::read_to_string(session.join("stdout")).unwrap(), "still here");
    assert_eq!(std::fs::read_to_string(session.join("stderr")).unwrap(), "and here");
    child.exit(0);
    stage.guard.assert_no_process_left(SOON);
}

#[test]
fn a_stopped_front_does_not_keep_the_supervisor_from_its_work() {
    let stage = Stage::new();
    let run = stage.guarded(&["--deadline", "6s"]).start();
    let child = stage.enter();
    run.signal(SIGSTOP);
    child.wait_for_signal(SIGINT);
    let supervisor = Other::new(child.parent);
    child.exit(1);
    supervisor.wait_for_end();
    run.signal(SIGCONT);
    run.wait(SOON).expect_code(124);
    stage.assert_clean();
}

/// A CI log that nobody reads stalls neither the interrupt nor, once the child is gone, a second request to stop.
#[test]
fn a_stop_waits_for_no_reader() {
    let stage = Stage::new();
    let mut run = stage.guarded(&[]).hand_stdout().start();
    let stdout = run.take_stdout();
    let child = stage.enter();
    child.perform("os.write(1, b'x' * 1000000)");
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    let supervisor = Other::new(child.parent);
    child.exit(4);
    supervisor.wait_for_end();
    assert!(!run.has_ended(), "the rest of the output is still to be read");
    run.signal(SIGTERM);
    run.wait(SOON).expect_code(4);
    drop(stdout);
    stage.assert_clean();
}

/// Guards against a signal that comes when all is over, and once cost the rest of the output and the words about the end.
#[test]
fn a_request_at_the_end_loses_no_output() {
    for _ in 0..6 {
        let stage = Stage::new();
        let run = stage.guarded(&[]).start();
        let child = stage.enter();
        run.signal(SIGSTOP);
        let supervisor = Other::new(child.parent);
        child.order_last("os.write(1, b'x' * 20_000_000); os.kill(os.getpid(), 9)");
        supervisor.wait_for_end();
        run.signal(SIGTERM);
        run.signal(SIGCONT);
        let exit = run.wait(SOON).expect_code(128 + 9);
        assert_eq!(exit.stdout.len(), 20_000_000);
        assert!(exit.err().contains("died of SIGKILL"), "{exit}");
        stage.assert_clean();
    }
}

#[test]
fn a_script_and_what_it_runs_are_interrupted_once_each() {
    let stage = Stage::new();
    let script = r#"trap 'echo trapped' INT; "$@"; echo "after $?"; exit 7"#;
    let command = ["sh", "-c", script, "sh"].map(Into::into).into_iter().chain(stage.actor());
    let run = stage.tfguard(&["-v"], command.collect::<Vec<_>>()).start();
    let actor = stage.enter();
    run.signal(SIGTERM);
    actor.wait_for_signal(SIGINT);
    run.signal(SIGHUP);
    run.wait_for_stderr("again: SIGHUP", SOON);
    actor.exit(4);
    let exit = run.wait(SOON).expect_code(7);
    assert_eq!(exit.out(), "trapped\nafter 4\n", "{exit}");
    assert_eq!(actor.signals(), ["SIGINT"]);
    stage.guard.assert_no_process_left(SOON);
}

/// A Terraform is known by the log that it has open.
const OPEN_LOG: &str = "log = open(os.environ['TF_TEMP_LOG_PATH'], 'a')
log.write('2026-01-01T00:00:00.000Z [INFO]  Terraform version: 1.11.4\\n')
log.flush()";

#[test]
fn below_a_script_each_terraform_is_interrupted_once_and_providers_are_not() {
    let stage = Stage::new();
    let script = r#"trap 'echo trapped' INT; "$@"; "$@"; exit 7"#;
    let command = ["sh", "-c", script, "sh"].map(Into::into).into_iter().chain(stage.actor());
    let run = stage.tfguard(&["-v"], command.collect::<Vec<_>>()).start();
    let first = stage.enter();
    first.perform(OPEN_LOG);
    let provider = first.start_another(&stage, "");
    run.signal(SIGTERM);
    first.wait_for_signal(SIGINT);
    provider.exit(0);
    first.exit(1);
    // The script goes on to its next command all the same.
    let second = stage.enter();
    second.perform(OPEN_LOG);
    second.wait_for_signal(SIGINT);
    run.signal(SIGHUP);
    run.wait_for_stderr("again: SIGHUP", SOON);
    second.exit(1);
    let exit = run.wait(SOON).expect_code(7);
    assert_eq!(exit.out(), "trapped\n", "{exit}");
    assert_eq!(first.signals(), ["SIGINT"]);
    assert_eq!(second.signals(), ["SIGINT"]);
    assert_eq!(provider.signals(), [] as [&str; 0]);
    stage.guard.assert_no_process_left(SOON);
}

/// Guards against a trap that passes the interrupt on to a Terraform that has it already, which then drops its work.
#[test]
fn a_trap_that_passes_the_interrupt_on_gives_no_second_one() {
    for trap in ["trap 'kill -INT $one $two' INT TERM", "trap 'kill $(jobs -p)' EXIT", "trap 'kill 0' INT"] {
        let stage = Stage::new();
        let script = format!(r#"{trap}; "$@" & one=$!; "$@" & two=$!; wait $one; wait $two; exit 7"#);
        let command = ["bash", "-c", &script, "bash"].map(Into::into).into_iter().chain(stage.actor());
        let run = stage.tfguard(&["-v", "--grace", "10m"], command.collect::<Vec<_>>()).start();
        let both = [stage.enter(), stage.enter()];
        both.iter().for_each(|actor| actor.perform(OPEN_LOG));
        run.signal(SIGTERM);
        both.iter().for_each(|actor| actor.wait_for_signal(SIGINT));
        run.signal(SIGHUP);
        run.wait_for_stderr("again: SIGHUP", SOON);
        let [first, second] = both;
        first.exit(0);
        second.perform("os.write(1, b'still at work')");
        second.exit(0);
        let exit = run.wait(SOON);
        assert_eq!(exit.out(), "still at work", "{exit}");
        assert_eq!(
            (first.signals(), second.signals()),
            (vec!["SIGINT".to_owned()], vec!["SIGINT".to_owned()]),
            "{trap}"
        );
        stage.guard.assert_no_process_left(SOON);
    }
}

/// Guards against killing an apply at the first moment of its grace, because its script has ended.
#[test]
fn terraforms_that_outlive_their_script_keep_their_grace() {
    let stage = Stage::new();
    let script = r#""$@" & "$@" & wait"#;
    let command = ["sh", "-c", script, "sh"].map(Into::into).into_iter().chain(stage.actor());
    let run = stage.tfguard(&["--grace", "10m"], command.collect::<Vec<_>>()).start();
    let both = [stage.enter(), stage.enter()];
    both.iter().for_each(|actor| actor.perform(OPEN_LOG));
    run.signal(SIGTERM);
    both.iter().for_each(|actor| actor.wait_for_signal(SIGINT));
    crate::support::kill(both[0].parent.as_raw());
    run.wait_for_stderr("waiting for a Terraform", SOON);
    let [first, second] = both;
    first.exit(0);
    second.perform("os.write(1, b'still at work')");
    second.exit(0);
    let exit = run.wait(SOON).expect_code(128 + 9);
    assert_eq!(exit.out(), "still at work", "{exit}");
    assert!(!exit.err().contains("killing"), "{exit}");
    assert_eq!((first.signals(), second.signals()), (vec!["SIGINT".to_owned()], vec!["SIGINT".to_owned()]));
    stage.guard.assert_no_process_left(SOON);
}

/// The end of their grace is theirs too.
#[test]
fn terraforms_that_outlive_their_script_are_killed_after_their_grace() {
    let stage = Stage::new();
    let script = r#""$@" & wait"#;
    let command = ["sh", "-c", script, "sh"].map(Into::into).into_iter().chain(stage.actor());
    let run = stage.tfguard(&["--grace", "5s"], command.collect::<Vec<_>>()).start();
    let actor = stage.enter();
    actor.perform(OPEN_LOG);
    run.signal(SIGTERM);
    run.wait_for_stderr("interrupted; it has 5s", SOON);
    crate::support::kill(actor.parent.as_raw());
    let exit = run.wait(SOON).expect_code(128 + 9);
    assert!(exit.err().contains("has not ended within its grace of 5s: killing it"), "{exit}");
    stage.guard.assert_no_process_left(SOON);
}

/// Guards against a Terraform that was killed at the end of its grace and never interrupted, because one that ran before
/// it in the same script had been.
#[test]
fn the_interrupt_of_one_that_is_gone_is_not_that_of_the_next() {
    let stage = Stage::new();
    let command = ["sh", "-c", "\"$@\"; \"$@\"; exit 7", "sh"].map(Into::into).into_iter().chain(stage.actor());
    let run = stage.tfguard(&["-v"], command.collect::<Vec<_>>()).start();
    let first = stage.enter();
    first.perform(OPEN_LOG);
    first.perform(&format!("os.write(1, b\"{TERRAFORMS_WORDS}\" + b'and more\\n' * 1000)"));
    first.exit(1);
    let second = stage.enter();
    second.perform(OPEN_LOG);
    run.signal(SIGTERM);
    second.wait_for_signal(SIGINT);
    run.signal(SIGHUP);
    run.wait_for_stderr("again: SIGHUP", SOON);
    second.exit(1);
    run.wait(SOON);
    assert_eq!(second.signals(), ["SIGINT"]);
    stage.guard.assert_no_process_left(SOON);
}

/// Guards against a Terraform that a script started while nobody supervised it, and that was taken for interrupted.
#[test]
fn who_takes_over_after_the_interrupt_interrupts_those_that_came_since() {
    let stage = Stage::new();
    let script = r#"trap : INT; "$@"; "$@"; exit 7"#;
    let command = ["sh", "-c", script, "sh"].map(Into::into).into_iter().chain(stage.actor());
    let run = stage.tfguard(&[], command.collect::<Vec<_>>()).start();
    let first = stage.enter();
    first.perform(OPEN_LOG);
    run.signal(SIGTERM);
    first.wait_for_signal(SIGINT);
    let [session] = stage.session_dirs().try_into().unwrap();
    let journal: Value = serde_json::from_slice(&std::fs::read(session.join("journal.json")).unwrap()).unwrap();
    run.kill_with_supervisor(&journal);
    first.exit(1);
    let second = stage.enter();
    second.perform(OPEN_LOG);
    let release = stage.run(TFGUARD).args(["release", "-v"]).start();
    second.wait_for_signal(SIGINT);
    second.exit(1);
    release.wait(SOON);
    assert_eq!(first.signals(), ["SIGINT"]);
    assert_eq!(second.signals(), ["SIGINT"]);
    stage.guard.assert_no_process_left(SOON);
}

#[test]
fn after_a_stop_nothing_of_the_group_is_left_but_a_daemon_is() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    let left = child.start_another(&stage, "");
    let daemon = child.start_another(&stage, "start_new_session=True");
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    child.exit(0);
    run.wait(SOON).expect_code(0);
    left.wait_for_end();
    assert_eq!(daemon.ask("6 * 7"), 42);
    assert_eq!(daemon.signals(), [] as [&str; 0]);
}

#[test]
fn after_an_orderly_end_what_the_child_left_running_runs_on() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    let other = child.start_another(&stage, "");
    child.exit(0);
    run.wait(SOON).expect_code(0);
    assert_eq!(other.ask("6 * 7"), 42);
    assert_eq!(other.signals(), [] as [&str; 0]);
    stage.assert_clean();
}

#[test]
fn the_supervisor_is_out_of_the_cis_reach() {
    let cookies = [
        "JENKINS_SERVER_COOKIE",
        "JENKINS_NODE_COOKIE",
        "HUDSON_COOKIE",
        "HUDSON_SERVER_COOKIE",
        "RUNNER_TRACKING_ID",
        "VSTS_PROCESS_LOOKUP_ID",
    ];
    let stage = Stage::new();
    let run = stage.guarded(&[]).envs(cookies.map(|name| (name, "7"))).env("KEPT", "7").start();
    let child = stage.enter();
    let supervisor = child.parent;
    for process in [child.pid, supervisor] {
        let environ = environ(process);
        assert!(environ.contains(&"KEPT=7".to_owned()));
        for name in cookies {
            assert!(!environ.iter().any(|entry| entry.starts_with(&format!("{name}="))), "{name}: {environ:?}");
        }
    }
    let front = run.pid();
    assert_ne!(stat(supervisor, 1), front.to_string(), "its parent");
    assert_ne!(stat(supervisor, 2), stat(front, 2), "its group");
    assert_ne!(stat(supervisor, 3), stat(front, 3), "its session");
    assert_eq!(stat(supervisor, 3), child.session.to_string());
    assert_eq!(child.group, child.pid);
    child.exit(0);
    run.wait(SOON).expect_code(0);
    stage.guard.assert_no_process_left(SOON);
}

/// Guards against a Terraform that nobody guards: a script was killed while what it had started was still to become one.
#[test]
fn what_a_killed_script_leaves_in_its_group_is_killed() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    let left = child.start_another(&stage, "");
    let daemon = child.start_another(&stage, "start_new_session=True");
    crate::support::kill(child.pid.as_raw());
    run.wait(SOON).expect_code(128 + 9);
    left.wait_for_end();
    assert_eq!(daemon.ask("6 * 7"), 42);
}

/// Guards against a parent that blocks every signal, and one that ignores SIGCHLD, which are both inherited.
#[test]
fn what_the_parent_blocks_and_ignores_is_heard() {
    let stage = Stage::new();
    let code = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); os.execv(sys.argv[1], sys.argv[1:])";
    let run = stage.run("python3").args(["-c", code, TFGUARD, "--"]).args(stage.actor()).start();
    let child = stage.enter();
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    child.exit(7);
    run.wait(SOON).expect_code(7);
    stage.assert_clean();
}

/// Whoever sees nothing happen for a while cancels again.
#[test]
fn between_interrupt_and_kill_it_is_said_how_long_is_left() {
    let stage = Stage::new();
    let run = stage.guarded(&["--grace", "10m"]).start();
    let child = stage.enter();
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    run.wait_for_stderr(" of 10m left\n", SOON);
    child.exit(0);
    let exit = run.wait(SOON).expect_code(0);
    let said: Vec<_> = exit.err().lines().filter(|line| line.contains(" is finishing: ")).map(str::to_owned).collect();
    assert!(said[0].starts_with("tfguard: ") && said[0].contains(" is finishing: 9m "), "{exit}");
}
