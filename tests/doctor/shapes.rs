//! The doctor below processes that look like those of CI systems.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

struct Machine {
    guard: Guard,
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { guard: Guard::new(), dir }
    }

    /// A program of this name that starts its arguments and waits for them, as an agent does.
    fn program(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        make_program(&path, "#!/bin/sh\n\"$@\"\nexit $?\n");
        path.to_str().unwrap().to_owned()
    }

    /// What the doctor says in a script that an agent runs. In it, `doctor` is the doctor's command line.
    fn report(&self, agent: &[&str], script: &str, env: &[(&str, &str)]) -> Value {
        let step = self.dir.path().join("step.sh");
        let doctor = format!("{TFGUARD} doctor --format json --offline");
        fs::write(&step, script.replace("doctor", &doctor)).unwrap();
        let mut words: Vec<String> = agent.iter().map(|name| self.program(name)).collect();
        words.extend(["bash", "-e", step.to_str().unwrap()].map(str::to_owned));
        let run = Run::new(&words[0], &self.guard).args(&words[1..]).current_dir(self.dir.path());
        json(&run.env("TFGUARD_DIR", self.dir.path()).env("HOME", self.dir.path()).envs(env.iter().copied()).run())
    }
}

const GITHUB: (&str, &str) = ("GITHUB_ACTIONS", "true");

#[test]
fn the_shape_of_a_step_decides_whether_a_cancel_reaches_tfguard() {
    let machine = Machine::new();
    let of = |agent: &[&str], script: &str| {
        let report = machine.report(agent, script, &[GITHUB]);
        ["exec", "node", "pipe"].map(|id| severity(&report, id).unwrap().to_owned())
    };
    let (ok, warning) = ("ok", "warning");
    assert_eq!(of(&["Runner.Worker"], "exec doctor"), [ok, ok, ok]);
    assert_eq!(of(&["Runner.Worker"], "doctor\n:"), [warning, ok, ok]);
    // Once there is a reader, as one would be long before a run is cancelled.
    let pipeline = "mkfifo go; { read _ < go; exec doctor; } | { echo > go; exec cat; }";
    assert_eq!(of(&["Runner.Worker"], pipeline), [warning, ok, warning]);
    assert_eq!(of(&["Runner.Worker", "node"], "exec doctor"), [ok, warning, ok]);
}

/// Guards against a reader that is not seen because the shell that made the pipe has not let go of it yet.
#[test]
fn a_reader_is_seen_beside_whoever_made_the_pipe() {
    let machine = Machine::new();
    let script = format!(
        "exec {} -c 'import os, subprocess, sys\nr, w = os.pipe()\ncat = subprocess.Popen([\"cat\"], stdin=r)
subprocess.run(sys.argv[1:], stdout=w)\nos.close(w)\ncat.wait()' doctor",
        Tools::get().python().display()
    );
    let report = machine.report(&["Runner.Worker"], &script, &[GITHUB]);
    assert!(found(&report, "pipe").unwrap()["seen"].to_string().contains("cat reads"), "{report}");
}

#[test]
fn the_time_that_a_cancel_leaves_and_the_place_that_a_cleanup_step_sees_are_told() {
    let machine = Machine::new();
    let told = |env: &[(&str, &str)]| {
        let env = [&[GITHUB, ("RUNNER_ENVIRONMENT", "github-hosted")], env].concat();
        let report = machine.report(&["Runner.Worker"], "exec doctor", &env);
        ["grace", "session-shared"].map(|id| severity(&report, id).unwrap().to_owned())
    };
    assert_eq!(told(&[]), ["warning", "note"]);
    assert_eq!(told(&[("TFGUARD_CLEANUP_STEP", "no")]), ["warning", "note"]);
    let temp = machine.dir.path().to_str().unwrap();
    assert_eq!(told(&[("TFGUARD_CLEANUP_STEP", "true"), ("RUNNER_TEMP", temp)]), ["ok", "ok"]);
}

/// And it leaves none of its own.
#[test]
fn a_place_where_no_session_can_be_made_is_a_problem() {
    let machine = Machine::new();
    let of = |dir: &str| {
        let report = machine.report(&["Runner.Worker"], "exec doctor", &[("TFGUARD_DIR", dir)]);
        severity(&report, "session-place").unwrap().to_owned()
    };
    let place = machine.dir.path().join("place");
    fs::create_dir(&place).unwrap();
    assert_eq!(of(place.to_str().unwrap()), "ok");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    assert_eq!(of("/proc/self/no-such-place"), "problem");
}

#[test]
fn the_node_wrapper_of_a_setup_action_is_seen_and_called_by_its_name() {
    let machine = Machine::new();
    let path = format!("{}:{}", machine.dir.path().display(), std::env::var("PATH").unwrap());
    let program = |files: [(&str, &str); 2]| {
        for (name, text) in files {
            make_program(&machine.dir.path().join(name), text);
        }
        let report = machine.report(&["Runner.Worker"], "exec doctor", &[GITHUB, ("PATH", &path)]);
        let program = found(&report, "program").unwrap();
        (program["severity"].as_str().unwrap().to_owned(), program["seen"].as_str().unwrap().to_owned())
    };
    let (severity, seen) = program([("terraform", "#!/bin/sh\n"), ("tofu", "#!/bin/sh\n")]);
    assert!(severity == "ok" && seen.contains("terraform is "), "{seen}");
    let (severity, seen) = program([("tofu", "#!/usr/bin/env node\n"), ("tofu-bin", "#!/bin/sh\n")]);
    assert!(severity == "note" && seen.contains("Node wrapper, tofu is") && seen.contains("/tofu-bin"), "{seen}");
}
