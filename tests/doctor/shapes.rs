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
fn the_shape_of_a_step_decides_who_hears_of_a_cancel() {
    let machine = Machine::new();
    let agent = ["Runner.Worker"];
    let of = |agent: &[&str], script: &str| {
        let report = machine.report(agent, script, &[GITHUB]);
        let severity = |id| severity(&report, id).map(str::to_owned);
        (severity("cancel-receiver"), severity("pipe"))
    };
    let (ok, warning) = (Some("ok".to_owned()), Some("warning".to_owned()));
    assert_eq!(of(&agent, "exec doctor"), (ok, None));
    assert_eq!(of(&agent, "doctor\n:"), (warning.clone(), None));
    // Once there is a reader, as one would be long before a run is cancelled.
    let pipeline = "mkfifo go; { read _ < go; exec doctor; } | { echo > go; exec cat; }";
    assert_eq!(of(&agent, pipeline), (warning.clone(), warning.clone()));
    assert_eq!(of(&["Runner.Worker", "node"], "exec doctor"), (warning, None));
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
    assert_eq!(report["processes"]["stdout"]["reader"]["name"], "cat", "{report}");
}

#[test]
fn a_job_put_into_a_container_from_outside_hears_nothing() {
    let machine = Machine::new();
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let possible = Run::new(unshare[0], &machine.guard).args(&unshare[1..]).arg("true").run().code == Some(0);
    if !possible {
        // Not by a macro, whose words the harness keeps to itself where a test passes.
        let words = b"SKIPPED: this machine permits no PID namespaces, so the doctor is not tried in containers\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), words);
        return;
    }
    let contained = |script: &str| {
        let script = format!("{} {script}", unshare.join(" "));
        machine.report(&["Runner.Worker"], &script, &[])
    };
    let first = contained("doctor");
    assert_eq!(severity(&first, "cancel-receiver"), Some("ok"), "{first}");
    let below = contained("sh -c 'doctor; :'");
    assert_eq!(severity(&below, "cancel-receiver"), Some("warning"), "{below}");
    assert!(below["processes"]["contained"] == true, "{below}");
}

#[test]
fn an_ignored_signal_is_no_problem() {
    let machine = Machine::new();
    let python = Tools::get().python().display();
    let ignored =
        "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nos.execvp(sys.argv[1], sys.argv[1:])";
    let report = machine.report(&["Runner.Worker"], &format!("exec {python} -c '{ignored}' doctor"), &[GITHUB]);
    assert_eq!(severity(&report, "ignored"), Some("note"), "{report}");
}

#[test]
fn a_cleanup_step_and_the_place_that_it_sees_are_looked_for() {
    let machine = Machine::new();
    let report = machine.report(&["Runner.Worker"], "exec doctor", &[GITHUB]);
    assert_eq!(severity(&report, "cleanup-step"), Some("warning"));
    assert_eq!(severity(&report, "session-place"), Some("note"), "{report}");
    let temp = machine.dir.path().to_str().unwrap();
    let env = [GITHUB, ("TFGUARD_CLEANUP_STEP", "true"), ("RUNNER_TEMP", temp)];
    let report = machine.report(&["Runner.Worker"], "exec doctor", &env);
    assert_eq!((severity(&report, "cleanup-step"), severity(&report, "session-place")), (Some("ok"), Some("ok")));
}

#[test]
fn sessions_are_told_by_whether_somebody_of_them_lives() {
    let machine = Machine::new();
    let of = |id| severity(&machine.report(&["Runner.Worker"], "exec doctor", &[]), id).map(str::to_owned);
    let run = Run::new(TFGUARD, &machine.guard).args(["--", "sh", "-c", "echo up; exec sleep 600"]);
    let run = run.env("TFGUARD_DIR", machine.dir.path()).new_group().start();
    run.wait_for_stdout("up", SOON);
    let (session, journal) = journal_of_child(machine.dir.path());
    assert_eq!((of("session-running").as_deref(), of("session-left")), (Some("note"), None));
    // Without front and supervisor the child goes on.
    run.kill_with_supervisor(&journal);
    kill(pid_of(&journal["child"]["id"]));
    machine.guard.assert_no_process_left(SOON);
    assert_eq!((of("session-running"), of("session-left").as_deref()), (None, Some("warning")));
    fs::write(session.join("journal.json"), "{").unwrap();
    assert_eq!(of("session-elsewhere").as_deref(), Some("note"));
}

/// Guards against findings about another version than that which runs in the directory.
#[test]
fn a_version_manager_decides_by_the_directory() {
    let machine = Machine::new();
    let terraform = machine.dir.path().join("terraform");
    make_program(&terraform, "#!/bin/sh\necho \"{\\\"terraform_version\\\":\\\"$(cat .terraform-version)\\\"}\"\n");
    let path = format!("{}:{}", machine.dir.path().display(), std::env::var("PATH").unwrap());
    let other = machine.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    for (dir, version) in [(machine.dir.path(), "1.9.8"), (&other, "1.13.5")] {
        fs::write(dir.join(".terraform-version"), version).unwrap();
        let env = [("PATH", path.as_str()), ("TFGUARD_CHDIR", dir.to_str().unwrap())];
        let report = machine.report(&["Runner.Worker"], "exec doctor", &env);
        assert!(found(&report, "program").unwrap()["seen"].to_string().contains(version), "{report}");
    }
}

#[test]
fn the_node_wrapper_of_a_setup_action_is_seen_and_passed_by() {
    let machine = Machine::new();
    for (name, text) in [
        ("terraform", "#!/usr/bin/env node\n"),
        ("terraform-bin", "#!/bin/sh\necho '{\"terraform_version\":\"1.9.8\"}'\n"),
    ] {
        make_program(&machine.dir.path().join(name), text);
    }
    let path = format!("{}:{}", machine.dir.path().display(), std::env::var("PATH").unwrap());
    let report = machine.report(&["Runner.Worker"], "exec doctor", &[GITHUB, ("PATH", &path)]);
    let program = found(&report, "program").unwrap();
    assert!(program["severity"] == "note" && program["seen"].to_string().contains("Terraform 1.9.8"), "{program}");
    assert!(program["why"].to_string().contains("Node wrapper"), "{program}");
}
