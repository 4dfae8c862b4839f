//! A guard for each Terraform, and one around them that keeps the run together.

use std::time::Instant;

use super::*;
use nix::sys::signal::Signal::*;

/// A script that applies in each project's directory.
fn script(projects: &[&Project], join: &str) -> String {
    let apply = |project: &&Project| format!("(cd '{}' && terraform {})", project.work().display(), APPLY.join(" "));
    projects.iter().map(apply).collect::<Vec<_>>().join(join)
}

fn guarded(project: &Project, options: &[&str], script: &str) -> Run {
    project.command(TFGUARD).args(options).args(["--", "bash", "-c", script])
}

/// Waits until somebody has the project's lock.
#[track_caller]
fn wait_for_lock(project: &Project) -> Value {
    let begun = Instant::now();
    loop {
        if let Some(lock) = project.lock() {
            return lock;
        }
        assert!(begun.elapsed() < SOON, "nobody took the lock");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// tfguard below tfguard, and a shim below a guarded script: one interrupt in all, whoever is asked to stop. Terraform is
/// stopped meanwhile: two signals that reach it at once would be one to it.
#[test]
fn a_guard_below_a_guard_is_still_one_interrupt() {
    for below_a_script in [true, false] {
        for asked in [&["outer", "inner"][..], &["outer"], &["inner"]] {
            let project = table(Kind::Sleep);
            let links = project.work().join("links");
            project.command(TFGUARD).args(["shim", "--dir"]).arg(&links).run().expect_code(0);
            let path = format!("{}:{}", links.display(), std::env::var("PATH").unwrap());
            let command = project.command(TFGUARD).arg("--");
            let command = if below_a_script {
                command.args(["sh", "-c", &format!("terraform {}; exit $?", APPLY.join(" "))])
            } else {
                command.args([TFGUARD, "--", "terraform"]).args(APPLY)
            };
            let command = command.env("PATH", path).env("TFGUARD_TERRAFORM", terraform());
            let run = command.env("TFGUARD_VERBOSE", "true").new_group().start();
            run.wait_for_stdout("asleep", SOON);
            let inner = journal(&project);
            let outer = outer_journal(&project);
            assert_eq!(inner["account"]["program"], "terraform");
            assert_ne!(outer["account"]["program"], "terraform");
            let terraform = pid_of(&inner["child"]["id"]);
            let signal = |pid, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
            signal(terraform, SIGSTOP);
            for (name, journal) in [("outer", &outer), ("inner", &inner)] {
                if asked.contains(&name) {
                    signal(pid_of(&journal["front"]), SIGTERM);
                }
            }
            run.wait_for_stderr("terraform interrupted; it has", SOON);
            signal(terraform, SIGCONT);
            let exit = run.wait(SOON);
            let context = format!("{below_a_script} {asked:?}: {exit}");
            let sent = format!("SIGINT to process {terraform}\n");
            assert_eq!(exit.err().matches(&sent).count(), 1, "{context}");
            assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{context}");
            assert!(!exit.err().contains("Two interrupts"), "{context}");
            assert_clean(&project);
        }
    }
}

/// One account of all, by the outermost guard, and nothing from the others.
#[test]
fn an_ordinary_script_is_left_alone_and_told_of_once() {
    let projects = [table(Kind::Quick), table(Kind::Quick)];
    let [first, second] = &projects;
    let script = format!("out=$( {} ) && echo \"$out\"; {}", script(&[first], ""), script(&[second], ""));
    let exit = guarded(first, &["--report", "report.json"], &format!("({script}) 2>&1")).run().expect_code(0);
    assert!(!exit.out().contains("tfguard") && exit.err().is_empty(), "{exit}");
    let report = report(first);
    assert_eq!(report["locks"].as_array().unwrap().len(), 2, "{report:#}");
    assert_eq!(report["terraforms"].as_array().unwrap().len(), 2, "{report:#}");
    assert!(!first.sessions().join(".tfguard-sessions").exists());
    projects.iter().for_each(assert_clean);
}

/// All are asked at once, and have one grace.
#[test]
fn all_guards_are_asked_at_once() {
    let projects = [table(Kind::Sleep), table(Kind::HangInApply), table(Kind::Sleep)];
    let all: Vec<&Project> = projects.iter().collect();
    let script = format!("{} & wait; exit 3", script(&all, " & "));
    // Enough for a busy machine to end what can end.
    let run = guarded(&projects[0], &["--grace", "15s"], &script).start();
    projects.iter().for_each(|project| drop(wait_for_lock(project)));
    projects[1].wait_for_hang(SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 3, "{exit}");
    assert_eq!(exit.err().matches("released by Terraform").count(), 2, "{exit}");
    assert_eq!(exit.err().matches("left by Terraform, deleted by tfguard").count(), 1, "{exit}");
    projects.iter().for_each(assert_clean);
}

/// The guard is killed, supervisor and front: the one around it takes its place.
#[test]
fn the_outer_guard_finishes_what_a_killed_inner_one_left() {
    let project = table(Kind::HangInApply);
    let script = format!("{}; exit 3", script(&[&project], ""));
    let run = guarded(&project, &["--grace", "3s"], &script).start();
    project.wait_for_hang(SOON);
    let inner = project.wait_for_known_lock(SOON);
    kill_guards(&[&inner]);
    let exit = run.wait(SOON);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_eq!(exit.err().matches("was killed; this process takes its place").count(), 1, "{exit}");
    assert_clean(&project);
}

/// Everything of tfguard is killed, then Terraform: the cleanup step accounts for the sessions within.
#[test]
fn the_cleanup_step_finishes_guards_within_guards() {
    for kills_terraform in [false, true] {
        let project = table(Kind::HangInApply);
        let script = format!("{}; exit 3", script(&[&project], ""));
        let run = guarded(&project, &[], &script).start();
        project.wait_for_hang(SOON);
        let inner = project.wait_for_known_lock(SOON);
        let outer = outer_journal(&project);
        kill_guards(&[&outer, &inner]);
        if kills_terraform {
            kill(pid_of(&inner["child"]["id"]));
        }
        drop(run);
        assert!(project.lock().is_some(), "nobody is there to release it");
        let release = project.command(TFGUARD).args(["release", "--wait", "20s"]).run().expect_code(0);
        assert!(release.err().contains("left by Terraform, deleted by tfguard"), "{release}");
        assert!(!project.sessions().join(".tfguard-sessions").exists());
        assert_clean(&project);
    }
}

/// A lock that an inner guard could not release is tried again by the cleanup step, in its own session.
#[test]
fn a_lock_left_within_is_tried_again() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).table().endpoint(proxy.url()).init(&terraform());
    let denied = || [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))];
    proxy.rule(Match::dynamodb("DeleteItem"), denied());
    let run = guarded(&project, &[], &format!("{}; exit 0", script(&[&project], ""))).start();
    run.wait_for_stdout("asleep", SOON);
    let inner = project.wait_for_known_lock(SOON);
    kill(pid_of(&inner["child"]["id"]));
    let exit = run.wait(SOON).expect_code(120);
    assert!(exit.err().contains("NOT released"), "{exit}");
    proxy.clear_rules();

    // Not while something of it may live, whatever the outer session says.
    let [inner] = std::fs::read_dir(session(&project).join("inner"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("journal.json"))
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let text = std::fs::read_to_string(&inner).unwrap();
    let mut journal: Value = serde_json::from_str(&text).unwrap();
    journal["account"]["survivors"] = serde_json::json!(["terraform (7)"]);
    std::fs::write(&inner, journal.to_string()).unwrap();
    project.command(TFGUARD).args(["release", "--wait", "4s"]).run().expect_code(120);
    assert!(project.lock().is_some(), "a process of that run may be alive");
    std::fs::write(&inner, text).unwrap();

    let release = project.command(TFGUARD).arg("release").run().expect_code(0);
    assert!(release.err().contains("left by Terraform, deleted by tfguard"), "{release}");
    assert_clean(&project);
}

/// A run that had no descriptors left knows nothing of the guards below it. A cleanup step that cannot delete their lock, either,
/// keeps the session for the next one.
#[test]
fn a_lock_left_within_stays_known_where_the_run_could_not_look_inside() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).table().endpoint(proxy.url()).init(&terraform());
    proxy.rule(Match::dynamodb("DeleteItem"), [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))]);
    let run = guarded(&project, &[], &format!("{}; exit 0", script(&[&project], ""))).start();
    run.wait_for_stdout("asleep", SOON);
    let inner = project.wait_for_known_lock(SOON);
    kill(pid_of(&inner["child"]["id"]));
    run.wait(SOON).expect_code(120);
    let path = session(&project).join("journal.json");
    let mut journal: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    journal["account"]["terraforms"] = serde_json::json!([]);
    journal["account"]["other_locks"] = serde_json::json!([{
        "backend": "unknown", "holder": null, "outcome": "unknown", "why": "Too many open files", "unclean": true,
        "command": null, "terraform": null,
    }]);
    std::fs::write(&path, journal.to_string()).unwrap();
    project.command(TFGUARD).args(["release", "--wait", "4s"]).run().expect_code(120);
    assert!(project.lock().is_some(), "tfguard may not delete it");

    proxy.clear_rules();
    // What the run could not see stays unknown.
    let release = project.command(TFGUARD).arg("release").run().expect_code(120);
    assert!(release.err().contains("left by Terraform, deleted by tfguard"), "{release}");
    assert_eq!(project.lock(), None, "{release}");
    assert_clean(&project);
}

/// The options that were typed hold for each Terraform; what is the outermost guard's alone does not reach them.
#[test]
fn options_hold_for_each_terraform() {
    let project = table(Kind::Sleep);
    let apply = script(&[&project], "");
    let lockless = format!("{apply} -lock=false").replace(") -lock=false", " -lock=false)");
    let exit = guarded(&project, &["--forbid-lock-false"], &lockless).run().expect_code(125);
    assert!(exit.err().contains("is forbidden by --forbid-lock-false"), "{exit}");
    let run = guarded(&project, &["--on-death", "keep", "--report", "report.json"], &apply).start();
    run.wait_for_stdout("asleep", SOON);
    kill(pid_of(&project.wait_for_known_lock(SOON)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.err().contains("left in place, as --on-death says"), "{exit}");
    assert!(project.lock().is_some());
}

/// The deadline is the run's, whatever the script makes of it. It is later than Terraform takes to begin its work.
#[test]
fn a_deadline_counts_for_the_whole_run() {
    let project = table(Kind::Sleep);
    let script = format!("{}; exit 0", script(&[&project], ""));
    let exit = guarded(&project, &["--deadline", "20s"], &script).run().expect_code(124);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert_clean(&project);
}

/// What passes the links by is interrupted once and released as far as the log tells; of what tells nothing it is said
/// that nobody knows.
#[test]
fn a_terraform_called_by_a_path_is_not_forgotten() {
    let by_path = format!("'{}' {}", terraform().display(), APPLY.join(" "));
    for (environment, known) in [("", true), ("env -u TF_TEMP_LOG_PATH ", false)] {
        let project = table(Kind::Sleep);
        let run = guarded(&project, &["--report", "report.json"], &format!("{environment}{by_path}; exit 3")).start();
        run.wait_for_stdout("asleep", SOON);
        run.signal(SIGTERM);
        let exit = run.wait(SOON);
        assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{environment}: {exit}");
        assert_clean(&project);
        assert_eq!(exit.err().contains("released by Terraform"), known, "{environment}: {exit}");
        // Nobody has the lock now: that is seen, so nothing is unknown.
        assert_eq!(exit.code, Some(3), "{environment}: {exit}");

        let project = table(Kind::HangInApply);
        let run = guarded(
            &project,
            &["--grace", "2s", "--report", "report.json"],
            &format!("{environment}{by_path}; exit 3"),
        );
        let run = run.start();
        project.wait_for_hang(SOON);
        run.signal(SIGTERM);
        let exit = run.wait(SOON);
        if known {
            assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{environment}: {exit}");
            assert_clean(&project);
        } else {
            assert_eq!(exit.code, Some(120), "{environment}: {exit}");
            assert!(exit.err().contains("ran unguarded") && exit.err().contains("is unknown"), "{environment}: {exit}");
            assert!(project.lock().is_some(), "it is not tfguard's to delete: {exit}");
            assert_eq!(report(&project)["lock_left"], true);
        }
    }
}

/// A stand-in for Terragrunt 0.67, which the module proxy does not serve: it opens Terraform's log, as its logging library
/// does, prefixes what its Terraforms say, and ends at the first SIGCHLD after a signal, whoever is still at work.
const TERRAGRUNT_0_67: &str = r#"
import os, signal, subprocess, sys, threading
log = open(os.environ.get("TF_LOG_PATH") or os.devnull, "a")
stopping = False
def stop(number, frame):
    global stopping
    stopping = True
def child(number, frame):
    if stopping: os._exit(1)
def copy(unit):
    for line in unit.stdout: os.write(1, b"[unit] " + line)
units = [subprocess.Popen(["terraform", *sys.argv[2:]], cwd=unit, stdout=subprocess.PIPE) for unit in sys.argv[1].split(":")]
for number, handler in [(signal.SIGINT, stop), (signal.SIGTERM, stop), (signal.SIGCHLD, child)]: signal.signal(number, handler)
for unit in units: threading.Thread(target=copy, args=[unit], daemon=True).start()
while any(unit.poll() is None for unit in units): signal.pause()
"#;

/// Terraforms whose output has no reader any more keep their grace, and what they say is shown.
#[test]
fn a_terragrunt_that_drops_its_terraforms_leaves_no_lock() {
    let projects = [table(Kind::Sleep), table(Kind::HangInApply)];
    let [first, second] = &projects;
    let units = format!("{}:{}", first.work().display(), second.work().display());
    let python = Tools::get().python().to_owned();
    let run = first.command(TFGUARD).args(["--grace", "15s", "--"]).arg(python).args(["-c", TERRAGRUNT_0_67, &units]);
    let run = run.args(APPLY).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    second.wait_for_hang(SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON);
    let said = format!("{}{}", exit.out(), exit.err());
    assert_eq!(said.matches("Interrupt received.").count(), 2, "{exit}");
    assert!(!said.contains("Two interrupts"), "{exit}");
    assert_eq!(exit.err().matches("released by Terraform").count(), 1, "{exit}");
    assert_eq!(exit.err().matches("left by Terraform, deleted by tfguard").count(), 1, "{exit}");
    projects.iter().for_each(assert_clean);
}

/// A project whose apply is interrupted once it is at work, and a command that applies it by Terraform's path.
fn interrupted_at_work() -> (Project<'static>, String) {
    let hcl = r#"resource "terraform_data" "work" {
  provisioner "local-exec" {
    command = "touch at-work; exec sleep 600"
  }
}
"#;
    let project = table(Kind::Hcl(hcl.to_owned()));
    // The shell becomes Terraform.
    let script = format!(
        "cd '{}'\n(until [ -e at-work ]; do sleep 0.1; done; kill -INT $$) &\nexec '{}' {}\n",
        project.work().display(),
        terraform().display(),
        APPLY.join(" ")
    );
    let path = project.work().join("apply.sh");
    std::fs::write(&path, script).unwrap();
    (project, format!("sh '{}' || true", path.display()))
}

/// Guards against one that is killed in the midst of its apply without ever having been interrupted: what a provisioner
/// calls by a path writes to the same log, and was interrupted by somebody else.
#[test]
fn the_interrupt_of_a_terraform_inside_a_provisioner_is_not_that_of_the_one_around_it() {
    let (inner, apply) = interrupted_at_work();
    let outer = project(Kind::Hcl(format!(
        r#"resource "terraform_data" "inner" {{
  provisioner "local-exec" {{
    command = {apply:?}
  }}
}}
resource "terraform_data" "work" {{
  depends_on = [terraform_data.inner]
  provisioner "local-exec" {{
    command = "echo the inner one has ended; sleep 600"
  }}
}}
"#
    )))
    .table()
    .init(&terraform());
    let run = outer.tfguard(TFGUARD, ["-v", "--grace", "20s"], APPLY).new_group().start();
    run.wait_for_stdout("(local-exec): the inner one has ended", SOON);
    let log = std::fs::read_to_string(session(&outer).join("terraform.log")).unwrap();
    assert!(log.contains("Stop called"), "the inner one logs there: {log}");
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(1);
    assert_eq!(exit.out().matches("\nInterrupt received.").count(), 1, "{exit}");
    assert!(exit.err().contains("terraform interrupted; it has"), "{exit}");
    assert_clean(&outer);
    assert_clean(&inner);
}

/// The same of one that a script calls by a path before the next.
#[test]
fn the_interrupt_of_one_that_a_script_called_before_is_not_that_of_the_next() {
    let ((before, first), next) = (interrupted_at_work(), table(Kind::HangInApply));
    let second = format!("'{}' '-chdir={}' {}", terraform().display(), next.work().display(), APPLY.join(" "));
    let script = format!("{first}; {second}");
    let run = guarded(&next, &["--grace", "5s"], &script).new_group().start();
    next.wait_for_hang(SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON);
    assert_eq!(exit.out().matches("\nInterrupt received.").count(), 2, "one each: {exit}");
    assert_clean(&next);
    assert_clean(&before);
}

/// A version manager's program for the `system`'s version: it runs the next one on PATH, less its own directory, and so finds
/// the link that called it. A stand-in.
#[test]
fn a_program_that_looks_path_up_again_is_called_once() {
    let manager_of = |call: &str| {
        format!(
            "#!/bin/sh
own=$(dirname \"$0\"); echo run >> \"$own/runs\"; [ $(wc -l < \"$own/runs\") -lt 9 ] || exit 99
IFS=:; for dir in $PATH; do
  if [ \"$dir\" != \"$own\" ] && [ -x \"$dir/terraform\" ]; then {call}; fi
done
"
        )
    };
    // With both of its logs taken, Terraform has none for a guard.
    let own_logs = |run: Run| run.env("TF_LOG", "error").env("TF_TEMP_LOG_PATH", "/dev/null");
    for (shim, executes, logs) in
        [(false, true, false), (false, false, false), (true, true, false), (true, false, false), (true, true, true)]
    {
        let project = table(Kind::Sleep);
        let [manager, real, links] = ["manager", "real", "links"].map(|name| project.work().join(name));
        for dir in [&manager, &real] {
            std::fs::create_dir(dir).unwrap();
        }
        let call = if executes { r#"exec "$dir/terraform" "$@""# } else { r#""$dir/terraform" "$@"; exit $?"# };
        make_program(&manager.join("terraform"), &manager_of(call));
        std::os::unix::fs::symlink(terraform(), real.join("terraform")).unwrap();
        project.command(TFGUARD).args(["shim", "--dir"]).arg(&links).run().expect_code(0);
        let path = format!("{}:{}:{}", manager.display(), real.display(), std::env::var("PATH").unwrap());
        let run = if shim {
            let path = format!("{}:{path}", links.display());
            project.command(links.join("terraform")).args(APPLY).env("PATH", path)
        } else {
            guarded(&project, &[], &format!("terraform {}; exit $?", APPLY.join(" "))).env("PATH", path)
        };
        let run = if logs { own_logs(run) } else { run }.start();
        run.wait_for_stdout("asleep", SOON);
        run.signal(SIGTERM);
        let exit = run.wait(SOON).expect_code(1);
        let runs = std::fs::read_to_string(manager.join("runs")).unwrap().lines().count();
        let context = format!("{shim} {executes} {runs}: {exit}");
        assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{context}");
        assert!(runs <= 2 && (logs || exit.err().contains("released by Terraform")), "{context}");
        assert_clean(&project);
    }
}

/// A Terraform that a Terraform calls is another one, with a guard and a lock of its own.
#[test]
fn a_terraform_that_a_guarded_terraform_calls_has_its_own_guard() {
    let below = table(Kind::Sleep);
    let apply = format!("cd '{}' && terraform {}", below.work().display(), APPLY.join(" "));
    let hcl = format!(
        "resource \"terraform_data\" \"x\" {{\n  provisioner \"local-exec\" {{\n    command = {apply:?}\n  }}\n}}\n"
    );
    let project = table(Kind::Hcl(hcl));
    let run = guarded(&project, &[], &format!("terraform {}", APPLY.join(" "))).start();
    let lock = wait_for_lock(&below);
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON);
    // The upper one kills what it waits for.
    assert!(exit.err().contains(lock["ID"].as_str().unwrap()), "{exit}");
    assert_eq!(exit.out().matches("Interrupt received.").count(), 2, "{exit}");
    [&project, &below].into_iter().for_each(assert_clean);
}

/// Guards against silence over a lock where the next job's `git clean -ffdx` removed the sessions: the guard around the other
/// one cannot read what became of it.
#[test]
fn a_guard_whose_session_was_removed_tells_itself_what_it_left() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).table().endpoint(proxy.url()).init(&terraform());
    let run = guarded(&project, &[], &format!("terraform {}; exit 7", APPLY.join(" "))).start();
    run.wait_for_stdout("asleep", SOON);
    let child = pid_of(&project.wait_for_known_lock(SOON)["child"]["id"]);
    let begun = Instant::now();
    // A session may be written to just then.
    while std::fs::remove_dir_all(project.sessions().join(".tfguard-sessions")).is_err() {
        assert!(begun.elapsed() < SOON, "the sessions cannot be removed");
    }
    let denied = || [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))];
    proxy.rule(Match::dynamodb("DeleteItem"), denied());
    kill(child);
    let exit = run.wait(SOON).expect_code(7);
    let id = project.lock().expect("nobody may delete it")["ID"].as_str().unwrap().to_owned();
    assert!(exit.err().contains("NOT released") && exit.err().contains(&format!("tfguard unlock {id}")), "{exit}");
    assert!(exit.err().contains("the session's directory was removed"), "{exit}");
    project.guard().assert_no_process_left(SOON);
}
