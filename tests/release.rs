//! `tfguard release` beside whatever is left of a run. Its locks are tested elsewhere; here the children are actors.

use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use crate::stage::*;
use crate::support::*;
use nix::sys::signal::Signal::{SIGCONT, SIGINT, SIGSTOP};
use nix::unistd::Pid;
use serde_json::Value;

fn release(stage: &Stage, wait: &str) -> Run {
    stage.run(TFGUARD).args(["release", "--wait", wait])
}

fn journal(stage: &Stage) -> Value {
    let [session] = stage.session_dirs().try_into().expect("one session");
    serde_json::from_slice(&std::fs::read(session.join("journal.json")).expect("a journal")).expect("it is JSON")
}

/// Guards against a cleanup step that ended before it had shown what nobody else had.
#[test]
fn what_nobody_has_read_is_shown_to_its_end() {
    let stage = Stage::new();
    let mut run = stage.guarded(&[]).hand_stdout().start();
    let mut pipe = run.take_stdout();
    let child = stage.enter();
    child.perform("sent = b''.join(b'%07d\\n' % number for number in range(500000))");
    child.perform("for at in range(0, len(sent), 65536): os.write(1, sent[at:at + 65536])");
    run.kill_with_supervisor(&journal(&stage));
    child.exit(0);
    stage.guard.assert_no_process_left(SOON);
    let mut shown = Vec::new();
    pipe.read_to_end(&mut shown).unwrap();
    let mut cleanup = release(&stage, "1m").hand_stdout().start();
    let mut pipe = cleanup.take_stdout();
    // More than enough for one that does not wait for its reader.
    assert!(!cleanup.ends_within(Duration::from_secs(4)), "the rest of the output is still to be read");
    let mut rest = Vec::new();
    pipe.read_to_end(&mut rest).unwrap();
    cleanup.wait(SOON).expect_code(0);
    let sent: Vec<u8> = (0..500_000).flat_map(|number| format!("{number:07}\n").into_bytes()).collect();
    assert!(sent.starts_with(&shown) && sent.ends_with(&rest), "{} {}", shown.len(), rest.len());
    assert!(shown.len() + rest.len() >= sent.len(), "{} {}", shown.len(), rest.len());
    stage.assert_clean();
}

/// Guards against waiting for ever for somebody who holds the session and does not say who it is: a supervisor on a full
/// disk, a child that does not come to be its command.
#[test]
fn who_does_not_name_himself_is_awaited_no_longer_than_told() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    run.kill_with_supervisor(&journal(&stage));
    let [session] = stage.session_dirs().try_into().unwrap();
    let claim = File::open(session.join("tfguard-session")).unwrap();
    claim.lock().unwrap();
    let exit = release(&stage, "1s").run().expect_code(120);
    assert!(exit.err().contains("warning: "), "{exit}");
    assert_eq!(child.signals(), [""; 0]);
    drop(claim);
    let cleanup = release(&stage, "1m").start();
    child.wait_for_signal(SIGINT);
    child.exit(0);
    cleanup.wait(SOON).expect_code(0);
    stage.assert_clean();
}

/// Guards against a step with no time to wait that killed at once what nobody supervises.
#[test]
fn who_waits_for_nothing_kills_nothing() {
    for wait in ["option", "variable"] {
        let stage = Stage::new();
        let run = stage.guarded(&[]).start();
        let child = stage.enter();
        run.kill_with_supervisor(&journal(&stage));
        let release = || stage.run(TFGUARD).arg("release");
        let hasty =
            if wait == "option" { release().args(["--wait", "0s"]) } else { release().env("TFGUARD_WAIT", "0s") };
        let exit = hasty.run().expect_code(120);
        assert!(exit.err().contains("nobody supervises it") && exit.err().contains("tfguard release"), "{exit}");
        child.perform("'it is alive'");
        assert_eq!(child.signals(), [""; 0], "{wait}");
        let cleanup = release().args(["--wait", "1m"]).start();
        child.wait_for_signal(SIGINT);
        child.exit(0);
        cleanup.wait(SOON).expect_code(0);
        stage.assert_clean();
    }
}

/// Guards against the word that a run is being stopped where nobody has heard the request.
#[test]
fn a_supervisor_that_does_not_answer_is_said_to_be_silent() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    let supervisor = pid_of(&journal(&stage)["supervisor"]);
    nix::sys::signal::kill(Pid::from_raw(supervisor), SIGSTOP).unwrap();
    let exit = release(&stage, "1s").run().expect_code(120);
    assert!(exit.err().contains(&format!("kill -CONT {supervisor}")), "{exit}");
    assert!(!exit.err().contains("tfguard ends it"), "{exit}");
    assert_eq!(child.signals(), [""; 0]);
    nix::sys::signal::kill(Pid::from_raw(supervisor), SIGCONT).unwrap();
    child.wait_for_signal(SIGINT);
    let exit = release(&stage, "1s").run().expect_code(120);
    assert!(exit.err().contains("tfguard ends it"), "{exit}");
    child.exit(1);
    run.wait(SOON).expect_code(1);
    assert_eq!(child.signals(), ["SIGINT"]);
    stage.assert_clean();
}

/// Guards against asking one run after the other: a CI does not give each of them its whole grace.
#[test]
fn all_runs_of_a_job_are_asked_at_once() {
    let stage = Stage::new();
    let started = [(); 2].map(|()| {
        let run = stage.guarded(&["--report", "report"]).start();
        (run, stage.enter())
    });
    let cleanup = release(&stage, "1m").start();
    for (_, child) in &started {
        child.wait_for_signal(SIGINT);
    }
    for (run, child) in started {
        child.exit(1);
        run.wait(SOON).expect_code(1);
        assert_eq!(child.signals(), ["SIGINT"]);
        assert_eq!(stage.report("report")["requests"].as_array().unwrap().len(), 1, "asked once");
    }
    cleanup.wait(SOON).expect_code(0);
    stage.assert_clean();
}

/// Guards against silence where nobody reads what the run itself says, as of a GitHub step in a container: its front,
/// quicker than the cleanup step, took the session away.
#[test]
fn who_asked_for_the_stop_tells_what_came_of_it() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    let cleanup = release(&stage, "1m").start();
    child.wait_for_signal(SIGINT);
    cleanup.signal(SIGSTOP);
    child.exit(1);
    let told = run.wait(SOON).expect_code(1);
    cleanup.signal(SIGCONT);
    let cleanup = cleanup.wait(SOON).expect_code(0);
    for exit in [told, cleanup] {
        assert!(exit.err().contains("ended with exit code 1"), "{exit}");
    }
    stage.assert_clean();
}

/// Guards against two that supervise: a cleanup step had taken the session before its supervisor came to it.
#[test]
fn a_supervisor_that_comes_second_starts_nothing() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    run.kill_with_supervisor(&journal(&stage));
    child.exit(0);
    let [session] = stage.session_dirs().try_into().unwrap();
    for name in ["child", "terraform.log"] {
        std::fs::remove_file(session.join(name)).unwrap();
    }
    let claim = File::open(session.join("tfguard-session")).unwrap();
    claim.lock().unwrap();
    let second = stage.run(TFGUARD).arg("--supervise").arg(&session).arg("").args(["--", "touch", "ran"]);
    second.run().expect_code(125);
    assert!(!stage.work().join("ran").exists());
    drop(claim);
}

/// A run of which nothing lives, and which has said something.
fn left(stage: &Stage) -> std::path::PathBuf {
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    child.perform("os.write(1, b'some output\\n')");
    run.kill_with_supervisor(&journal(stage));
    child.exit(0);
    stage.guard.assert_no_process_left(SOON);
    let [session] = stage.session_dirs().try_into().unwrap();
    session
}

/// Guards against a release that fails (125) over a file that is there for convenience. Only the journal decides.
#[test]
fn a_damaged_file_stops_no_release() {
    for (name, content) in [
        ("progress", &[0xff; 16][..]),
        ("progress", b"x"),
        ("child", b"\xff\xff"),
        ("supervisor.stderr", b"\xff"),
        ("stdout", b"some output\n\xff"),
        ("journal.spare", b""),
        ("release.lock", b"x"),
    ] {
        let stage = Stage::new();
        let session = left(&stage);
        std::fs::write(session.join(name), content).unwrap();
        let exit = release(&stage, "1m").run().expect_code(0);
        assert!(name != "progress" || exit.out() == "some output\n", "{name} {exit}");
        stage.assert_clean();
    }
}

/// Guards against a cleanup step that waits for ever for somebody to write to a FIFO.
#[test]
fn nothing_is_waited_for_that_is_not_a_file() {
    for (name, code) in [
        ("journal.json", 125),
        ("tfguard-session", 125),
        ("terraform.log", 0),
        ("stdout", 0),
        ("progress", 0),
        ("child", 0),
        ("release.lock", 0),
        ("supervisor.stderr", 0),
    ] {
        let stage = Stage::new();
        let session = left(&stage);
        let path = session.join(name);
        let _ = std::fs::remove_file(&path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let exit = release(&stage, "1s").start().wait(SOON);
        if name == "terraform.log" {
            // Whether its Terraform lives can be known by that file alone.
            assert_ne!(exit.err(), "", "{exit}");
        } else {
            let exit = exit.expect_code(code);
            assert!(code == 0 || exit.err().contains(path.to_str().unwrap()), "{name} {exit}");
            assert_eq!(session.exists(), code != 0, "{name} {exit}");
        }
    }
}

/// Guards the sessions that come after one that cannot be read.
#[test]
fn one_session_that_cannot_be_read_does_not_hide_the_others() {
    let stage = Stage::new();
    let session = left(&stage);
    std::fs::remove_file(session.join("journal.json")).unwrap();
    nix::unistd::mkfifo(&session.join("journal.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    let cleanup = release(&stage, "1m").start();
    child.wait_for_signal(SIGINT);
    child.exit(1);
    run.wait(SOON).expect_code(1);
    cleanup.wait(SOON).expect_code(125);
    assert_eq!(stage.session_dirs(), [session]);
}

/// A program that the kernel does not tell its boot ID.
fn without_boot_id(run: Run) -> Run {
    let script = "mount --bind /dev/null /proc/sys/kernel/random/boot_id && exec \"$@\"";
    run.args(["-rm", "sh", "-c", script, "sh"])
}

/// Guards against taking another machine's run for a dead one of this machine where both hide their boot IDs.
#[test]
fn without_a_boot_id_only_a_living_supervisor_is_known() {
    let stage = Stage::new();
    if without_boot_id(stage.run("unshare")).arg("true").run().code != Some(0) {
        // Not by a macro, whose words the harness keeps to itself where a test passes.
        let words = b"SKIPPED: no user and mount namespaces here, so nothing is tried of hidden boot IDs\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), words);
        return;
    }
    let hidden = |stage: &Stage| without_boot_id(stage.run("unshare")).arg(TFGUARD);
    let run = hidden(&stage).arg("--").args(stage.actor()).start();
    let child = stage.enter();
    let cleanup = hidden(&stage).args(["release", "--wait", "1m"]).start();
    child.wait_for_signal(SIGINT);
    child.exit(1);
    cleanup.wait(SOON).expect_code(0);
    run.wait(SOON).expect_code(1);
    stage.assert_clean();

    let run = hidden(&stage).arg("--").args(stage.actor()).start();
    let child = stage.enter();
    run.kill_with_supervisor(&journal(&stage));
    child.exit(1);
    let exit = hidden(&stage).args(["release", "--wait", "1m"]).run();
    assert!(exit.err().contains("cannot be known from here"), "{exit}");
    assert_eq!(stage.session_dirs().len(), 1, "{exit}");
}
