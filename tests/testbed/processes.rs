//! What a test starts can be talked to, and ends.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Aws, Guard, Run, Stdin};
use crate::testbed::SOON;

#[test]
fn moto_ends_with_the_stdin_its_starter_held() {
    let guard = Guard::new();
    let [python, args @ ..] = Aws::server();
    let mut server = Run::new(python, &guard).args(args).stdin(Stdin::Open).start();
    server.wait_for_stdout("\n", SOON);
    assert!(!server.has_ended());
    server.close_stdin();
    server.wait(SOON).expect_code(0);
}

#[test]
fn the_guard_finds_and_kills_what_left_its_session() {
    let guard = Guard::new();
    // The sleep is nobody's child and in a session of its own; only the mark says whose it is.
    let script = "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo started";
    Run::new("sh", &guard).args(["-c", script]).run().expect_code(0);
    let gone = catch_unwind(AssertUnwindSafe(|| guard.assert_no_process_left(Duration::ZERO)));
    let message = *gone.expect_err("the sleep lives").downcast::<String>().expect("a panic's text");
    assert!(message.contains("sleep 600"), "{message}");
    let [line] = &guard.processes()[..] else { panic!("{:?}", guard.processes()) };
    let pid = line.split(' ').next().expect("a pid").to_owned();
    drop(guard);
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

#[test]
fn a_program_ends_even_if_its_output_is_held_open() {
    let guard = Guard::new();
    let script = "sleep 600 & printf out; printf err >&2; exit 3";
    let exit = Run::new("sh", &guard).args(["-c", script]).run().expect_code(3);
    assert_eq!((exit.out().as_str(), exit.err().as_str()), ("out", "err"));
    let exit = Run::new("cat", &guard).stdin(Stdin::Bytes(vec![b'x'; 1 << 20])).run().expect_code(0);
    assert_eq!(exit.stdout.len(), 1 << 20);
}

#[test]
fn keys_reach_the_foreground_of_a_terminal() {
    let guard = Guard::new();
    let script = "test -t 0 && test -t 1 && trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 1; done";
    let mut run = Run::new("sh", &guard).args(["-c", script]).pty().start();
    run.wait_for_stdout("ready", SOON);
    run.write(b"\x03");
    let exit = run.wait(SOON).expect_code(7);
    assert!(exit.out().contains("caught"), "{exit}");
}

#[test]
fn a_terminal_or_a_reader_can_go_away() {
    let guard = Guard::new();
    let script = "trap 'exit 9' HUP; echo ready; while :; do sleep 1; done";
    let mut run = Run::new("sh", &guard).args(["-c", script]).pty().start();
    run.wait_for_stdout("ready", SOON);
    run.hang_up();
    run.wait(SOON).expect_code(9);

    let mut run = Run::new("yes", &guard).start();
    run.wait_for_stdout("y\ny", SOON);
    run.hang_up();
    run.wait(SOON).expect_signal(Signal::SIGPIPE);
}
