//! A person at a terminal: the child has it, keys reach the child alone, and tfguard is a job of the shell's like any
//! other. Everything is on a real pseudo-terminal.

use std::time::Instant;

use crate::stage::*;
use crate::support::*;
use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use serde_json::json;

const CTRL_C: &[u8] = b"\x03";
const CTRL_Z: &[u8] = b"\x1a";

/// An interactive shell on a terminal, in which the actor's command line is `$a` and tfguard's `$t`.
struct Shell(Running);

impl Shell {
    fn start(stage: &Stage) -> Self {
        let run = stage.run("bash").args(["--norc", "--noprofile", "--noediting", "-i"]);
        let run = run.env("PS1", "$ ").env("TERM", "dumb").env("t", TFGUARD).env("TFGUARD_REPORT", "report");
        let actor: Vec<_> = stage.actor().into_iter().map(|word| word.into_string().unwrap()).collect();
        let run = run.env("a", actor.join(" ")).pty().start();
        run.wait_for_stdout("$ ", SOON);
        Self(run)
    }

    fn line(&mut self, line: &str) {
        self.0.write(line.as_bytes());
        self.0.write(b"\n");
    }

    fn key(&mut self, key: &[u8]) {
        self.0.write(key);
    }

    /// Waits for what is shown, which must not be part of what was typed: the terminal echoes that.
    #[track_caller]
    fn shows(&self, text: &str) {
        self.0.wait_for_stdout(text, SOON);
    }

    /// The shell has the terminal: it reads and does what is typed.
    #[track_caller]
    fn answers(&mut self, number: u32) {
        self.line(&format!("echo \"answer=$(({number}))=$?\""));
        self.shows(&format!("answer={number}="));
    }

    #[track_caller]
    fn ends(mut self) {
        self.line("exit 0");
        self.0.wait(SOON).expect_code(0);
    }
}

/// Waits until the child's group has the terminal's foreground.
#[track_caller]
fn wait_for_foreground(child: &Actor) {
    let deadline = Instant::now() + SOON;
    while child.ask("os.tcgetpgrp(0)") != child.group.as_raw() {
        assert!(Instant::now() < deadline, "never in the foreground");
        std::thread::yield_now();
    }
}

#[test]
fn the_child_has_the_terminal() {
    let stage = Stage::new();
    let mut run = stage.guarded(&[]).pty().start();
    let child = stage.enter();
    assert_eq!(child.parent, run.pid());
    assert_eq!(child.ask("[os.isatty(n) for n in range(3)]"), json!([true, true, true]));
    assert_eq!(child.ask("list(os.get_terminal_size(1))"), json!([80, 24]));
    assert_eq!(child.ask("os.tcgetpgrp(0)"), child.group.as_raw());
    child.perform("os.write(1, b'Enter a value: ')");
    run.wait_for_stdout("Enter a value: ", SOON);
    run.write(b"yes\n");
    assert_eq!(child.ask("os.read(0, 100).decode()"), "yes\n");
    child.exit(2);
    let exit = run.wait(SOON).expect_code(2);
    assert!(!exit.out().contains("tfguard"), "{exit}");
    stage.assert_clean();
}

#[test]
fn in_a_ci_a_terminal_changes_nothing() {
    for options in [&[][..], &["--detach"]] {
        let stage = Stage::new();
        let run = stage.guarded(options);
        let run = if options.is_empty() { run.env("CI", "true") } else { run };
        let run = run.pty().start();
        let child = stage.enter();
        assert_ne!(child.parent, run.pid());
        assert_eq!(child.ask("[os.isatty(1), os.isatty(2)]"), json!([false, false]));
        run.signal_group(SIGTERM);
        child.wait_for_signal(SIGINT);
        child.exit(0);
        run.wait(SOON).expect_code(0);
        assert_eq!(child.signals(), ["SIGINT"]);
        stage.assert_clean();
    }
}

#[test]
fn each_ctrl_c_reaches_the_child_once_and_is_no_request_of_tfguards() {
    let stage = Stage::new();
    let mut run = stage.guarded(&["--report", "report"]).pty().start();
    let child = stage.enter();
    run.write(CTRL_C);
    child.wait_for_signals(1);
    run.write(CTRL_C);
    child.wait_for_signals(2);
    child.exit(1);
    run.wait(SOON).expect_code(1);
    assert_eq!(child.signals(), ["SIGINT", "SIGINT"]);
    assert_eq!(stage.report("report")["requests"], json!([]));
}

#[test]
fn a_child_that_dies_of_ctrl_c() {
    let stage = Stage::new();
    let mut run = stage.tfguard(&[], ["sh", "-c", "echo ready; exec cat"]).pty().start();
    run.wait_for_stdout("ready", SOON);
    run.write(CTRL_C);
    run.wait(SOON).expect_code(128 + 2);
    stage.guard.assert_no_process_left(SOON);
    stage.assert_clean();
}

#[test]
fn a_signal_to_tfguards_group_is_one_interrupt() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).pty().start();
    let child = stage.enter();
    run.signal_group(SIGTERM);
    run.signal_group(SIGINT);
    child.wait_for_signal(SIGINT);
    run.signal_group(SIGTERM);
    child.exit(1);
    run.wait(SOON).expect_code(1);
    assert_eq!(child.signals(), ["SIGINT"]);
}

#[test]
fn ctrl_z_stops_both_and_fg_continues_them() {
    let stage = Stage::new();
    let mut shell = Shell::start(&stage);
    shell.line("$t -- $a");
    let child = stage.enter();
    for round in 1..=2 {
        shell.key(CTRL_Z);
        shell.answers(round);
        shell.line("jobs -s");
        shell.shows("Stopped");
        assert_eq!([stat(child.pid, 0), stat(child.parent, 0)], ["T", "T"]);
        shell.line("fg");
        wait_for_foreground(&child);
    }
    shell.key(CTRL_C);
    child.wait_for_signal(SIGINT);
    child.exit(3);
    shell.line("echo \"code=$?\"");
    shell.shows("code=3");
    assert_eq!(child.signals(), ["SIGINT"]);
    assert_eq!(stage.report("report")["requests"], json!([]));
    shell.ends();
    stage.assert_clean();
}

/// Guards against a stop of tfguard alone, which the shell never sees of a script that is in between.
#[test]
fn ctrl_z_stops_a_script_that_runs_tfguard() {
    let stage = Stage::new();
    let mut shell = Shell::start(&stage);
    shell.line("sh -c '$t -- $a; echo \"code=$?\"'");
    let child = stage.enter();
    shell.key(CTRL_Z);
    shell.shows("Stopped");
    shell.line("fg");
    wait_for_foreground(&child);
    child.exit(4);
    shell.shows("code=4");
    shell.ends();
}

/// Guards against a stop that nobody saw, because the child was quicker than who looks for it: the terminal was dead.
#[test]
fn a_child_that_stops_at_once() {
    let stage = Stage::new();
    let mut shell = Shell::start(&stage);
    for round in 1..=5 {
        shell.line(&format!("$t -- sh -c 'kill -TSTP $$; echo went=$((6 * 7)).{round}'"));
        shell.answers(round);
        shell.line("fg");
        shell.shows(&format!("went=42.{round}"));
    }
    shell.ends();
}

/// Guards against a child that stays stopped for ever where there is no shell (ssh, docker) to continue tfguard.
#[test]
fn ctrl_z_does_nothing_where_nobody_could_continue() {
    let stage = Stage::new();
    let mut run = stage.guarded(&[]).pty().start();
    let child = stage.enter();
    run.write(CTRL_Z);
    run.write(CTRL_C);
    child.wait_for_signal(SIGINT);
    child.exit(1);
    run.wait(SOON).expect_code(1);
}

/// Guards against a tfguard that takes the terminal from the shell when its child stops or ends in the background.
#[test]
fn in_the_background_the_terminal_stays_with_the_shell() {
    let stage = Stage::new();
    let mut shell = Shell::start(&stage);
    shell.line("$t -- $a");
    let child = stage.enter();
    shell.key(CTRL_Z);
    shell.shows("Stopped");
    shell.line("bg");
    assert_eq!(child.ask("6 * 7"), 42);
    shell.answers(1);
    // A read from the background stops it.
    child.begin("os.read(0, 100).decode()");
    child.wait_until_stopped();
    shell.answers(2);
    shell.line("jobs -s");
    shell.answers(3);
    shell.line("fg");
    shell.line("typed");
    assert_eq!(child.answer(), "typed\n");
    shell.key(CTRL_Z);
    child.wait_until_stopped();
    shell.answers(4);
    shell.line("bg");
    assert_eq!(child.ask("6 * 7"), 42);
    child.exit(0);
    shell.line("wait");
    shell.answers(5);
    assert_eq!(child.signals(), [] as [&str; 0]);
    shell.ends();
    stage.guard.assert_no_process_left(SOON);
}

/// Guards against a child that can never read because it was started in the background. (Nobody tells tfguard of
/// `fg` while it runs; the terminal is the child's once the child wants it.)
#[test]
fn fg_gives_the_terminal_to_a_child_that_was_started_in_the_background() {
    let stage = Stage::new();
    let mut shell = Shell::start(&stage);
    shell.line("$t -- $a &");
    let child = stage.enter();
    shell.answers(1);
    shell.line("fg");
    shell.line("typed");
    child.begin("os.read(0, 100).decode()");
    assert_eq!(child.answer(), "typed\n");
    assert_eq!(child.ask("os.tcgetpgrp(0)"), child.group.as_raw());
    shell.key(CTRL_C);
    child.wait_for_signal(SIGINT);
    child.exit(3);
    shell.line("echo \"code=$?\"");
    shell.shows("code=3");
    assert_eq!(child.signals(), ["SIGINT"]);
    shell.ends();
}

#[test]
fn the_shell_has_the_terminal_back_when_nothing_could_be_run() {
    let stage = Stage::new();
    let mut shell = Shell::start(&stage);
    shell.line("$t -- no-such-command");
    shell.line("echo \"code=$?\"");
    shell.shows("code=127");
    shell.answers(1);
    shell.ends();
    stage.assert_clean();
}

/// A terminal that hangs up sends SIGHUP to all of its foreground, which would kill a Terraform at once.
#[test]
fn a_hang_up_is_one_interrupt() {
    // tfguard leads the session, or a script does.
    for script in ["exec \"$@\"", "\"$@\"; exit 0"] {
        let stage = Stage::new();
        let holder = stage.run(&stage.actor()[0]).args(&stage.actor()[1..]).start();
        let terminal = stage.enter();
        let words = ["sh", "-c", script, "sh", TFGUARD, "--report", "report", "--"].map(str::to_owned);
        let actor = stage.actor().into_iter().map(|word| word.into_string().unwrap());
        let command = json!(words.into_iter().chain(actor).collect::<Vec<_>>());
        terminal.perform(&format!("import pty\npid, master = pty.fork()\nif pid == 0: os.execvp('sh', {command})"));
        let child = stage.enter();
        assert_eq!(child.ask("os.isatty(0)"), true);
        terminal.perform("os.close(master)");
        child.wait_for_signal(SIGINT);
        let tfguard = Other::new(child.parent);
        child.exit(0);
        tfguard.wait_for_end();
        assert_eq!(child.signals(), ["SIGINT"], "{script}");
        let report = stage.report("report");
        assert!(!report["requests"].as_array().unwrap().is_empty());
        assert_eq!(report["exit_code"], 0);
        terminal.exit(0);
        holder.wait(SOON).expect_code(0);
        stage.guard.assert_no_process_left(SOON);
        stage.assert_clean();
    }
}
