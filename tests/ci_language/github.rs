//! GitHub Actions.

use super::*;

/// A step of a job, with files of its own as the runner makes them, in which somebody wrote before, without a line's end.
struct Step {
    output: PathBuf,
    summary: PathBuf,
}

impl Step {
    fn new(project: &Project, name: &str) -> Self {
        let output = file(project, &format!("{name}.output"), "mine=1");
        let summary = file(project, &format!("{name}.summary"), "*Mine*");
        Self { output, summary }
    }

    fn job(&self, run: Run) -> Run {
        run.envs([("GITHUB_ACTIONS", "true"), ("GITHUB_RUN_ID", "1"), ("GITHUB_JOB", "apply")])
            .env("GITHUB_OUTPUT", &self.output)
            .env("GITHUB_STEP_SUMMARY", &self.summary)
    }

    /// The step's outputs, of which each is a name, a delimiter and one line.
    fn outputs(&self) -> Vec<(String, String)> {
        let text = read(&self.output);
        let rest = text.strip_prefix("mine=1\n").expect("what was there is there");
        let mut lines = rest.lines();
        let mut outputs = Vec::new();
        let mut delimiters = Vec::new();
        while let Some(line) = lines.next() {
            if line.is_empty() {
                continue;
            }
            let (name, delimiter) = line.split_once("<<").expect("a value begins");
            outputs.push((name.to_owned(), lines.next().unwrap().to_owned()));
            assert_eq!(lines.next(), Some(delimiter));
            delimiters.push(delimiter);
        }
        assert!(delimiters.iter().all(|delimiter| delimiter.len() > 32), "{delimiters:?}");
        outputs
    }

    fn output(&self, name: &str) -> String {
        let outputs = self.outputs();
        outputs.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("{name}: {outputs:?}")).1.clone()
    }
}

/// The lines by which the runner would do something.
fn commands(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.trim_start().starts_with("::") || line.contains("##[")).collect()
}

#[test]
fn a_lock_that_is_left_and_released_by_the_cleanup_step_is_told_twice() {
    let (proxy, project) = denying();
    let apply = Step::new(&project, "apply");
    let (exit, id) = killed_apply(&project, &[], |run| apply.job(run));
    let exit = exit.expect_code(120);
    let (out, err) = (exit.out(), exit.err());
    assert_eq!(commands(&out), [""; 0], "stdout is Terraform's");
    let told = commands(&err);
    assert_eq!(told.len(), 1, "{exit}");
    let start = format!("::error title=tfguard%3A State lock left behind::lock {id} of {}", project.lock_id());
    assert!(told[0].starts_with(&start), "{exit}");
    let next = format!("tfguard unlock {id} --bucket {} ", project.bucket());
    assert!(told[0].contains(&next), "{exit}");
    assert_eq!(apply.output("tfguard-outcome"), "left");
    assert_eq!(apply.output("tfguard-lock-left"), "true");
    assert_eq!(apply.output("tfguard-lock-id"), id);
    let locks: Value = serde_json::from_str(&apply.output("tfguard-locks")).unwrap();
    assert_eq!(locks, serde_json::json!([{ "id": id, "state": project.lock_id(), "outcome": "left" }]));
    let summary = read(&apply.summary);
    assert!(summary.starts_with("*Mine*\n\n### "), "{summary}");
    assert!(summary.contains("somebody has to act"), "{summary}");
    assert!(summary.contains(&format!("<code>{}</code>", id.replace('-', "&#45;"))), "{summary}");

    proxy.clear_rules();
    let cleanup = Step::new(&project, "cleanup");
    let exit = cleanup.job(project.command(TFGUARD).arg("release")).run().expect_code(0);
    let err = exit.err();
    let told = commands(&err);
    assert_eq!(told.len(), 1, "{exit}");
    assert!(told[0].starts_with(&format!("::warning title=tfguard%3A State lock released::lock {id}")), "{exit}");
    assert!(told[0].contains("Next: run `terraform plan`"), "{exit}");
    assert_eq!(cleanup.output("tfguard-outcome"), "released");
    assert_eq!(cleanup.output("tfguard-lock-left"), "false");
    assert!(read(&cleanup.summary).contains("left by Terraform&#44; deleted by tfguard"));
    assert_eq!(apply.output("tfguard-outcome"), "left", "the files of the other step are its own");

    // There is nothing more to do.
    let idle = Step::new(&project, "idle");
    let exit = idle.job(project.command(TFGUARD).arg("release")).run().expect_code(0);
    assert_eq!((exit.err().as_str(), read(&idle.output).as_str()), ("", "mine=1"));
}

/// A cleanup step that cannot wait any longer fails, and the run's page says why.
#[test]
fn a_run_that_is_not_finished_is_told() {
    let script = format!("terraform {}; exit 0", APPLY.join(" "));
    for below in [false, true] {
        let project = project(Kind::HangInApply);
        let step = Step::new(&project, "apply");
        let run = match below {
            false => project.tfguard(TFGUARD, ["--grace", "1h"], APPLY),
            true => project.command(TFGUARD).args(["--grace", "1h", "--", "sh", "-c", &script]),
        };
        let run = step.job(run).new_group().start();
        project.wait_for_hang(SOON);
        run.signal(SIGKILL);
        run.wait(SOON).expect_signal(SIGKILL);
        let cleanup = Step::new(&project, "cleanup");
        let exit = cleanup.job(project.command(TFGUARD).args(["release", "--wait", "2s"])).run().expect_code(120);
        let err = exit.err();
        let told = commands(&err);
        assert_eq!(told.len(), 1, "{exit}");
        assert!(told[0].starts_with("::warning title=tfguard%3A A run is not finished::"), "{exit}");
        assert!(told[0].contains("is not accounted for after 2s"), "{exit}");
        let held = project.lock().expect("an apply holds its lock");
        assert!(told[0].contains(&format!("(lock {} of ", held["ID"].as_str().unwrap())), "{exit}");
        assert!(project.lock().is_some(), "it is being stopped, and nothing is released before");
    }
}

/// The same where a lock stays on purpose: nobody is told that it will be released.
#[test]
fn a_lock_that_is_kept_in_a_run_that_is_not_finished_is_told() {
    let project = project(Kind::Sleep);
    let step = Step::new(&project, "apply");
    let script = format!("trap '' INT TERM; terraform {}; echo o''ver; exec sleep 600", APPLY.join(" "));
    let run = project.command(TFGUARD).args(["--grace", "1h", "--on-death", "keep", "--", "sh", "-c", &script]);
    let run = step.job(run).new_group().start();
    let journal = project.wait_for_known_lock(SOON);
    run.wait_for_stdout("asleep", SOON);
    kill(pid_of(&journal["child"]["id"]));
    run.wait_for_stdout("over", SOON);
    run.signal(SIGKILL);
    run.wait(SOON).expect_signal(SIGKILL);
    let cleanup = Step::new(&project, "cleanup");
    let exit = cleanup.job(project.command(TFGUARD).args(["release", "--wait", "2s"])).run().expect_code(120);
    let held = project.lock().expect("it is kept");
    let said =
        format!("(lock {} of {}, which stays, as --on-death says)", held["ID"].as_str().unwrap(), project.lock_id());
    assert!(commands(&exit.err()).iter().any(|told| told.contains(&said)), "{exit}");
}

#[test]
fn an_ordinary_run_has_outputs_and_says_nothing() {
    let project = project(Kind::Quick);
    let step = Step::new(&project, "apply");
    let exit = step.job(project.tfguard(TFGUARD, [""; 0], APPLY)).run().expect_code(0);
    assert_eq!(exit.err(), "");
    assert_eq!(commands(&exit.out()), [""; 0]);
    assert_eq!(step.output("tfguard-outcome"), "unlocked");
    assert_eq!(step.output("tfguard-lock-left"), "false");
    assert_eq!(read(&step.summary), "*Mine*");
}

#[test]
fn off_and_quiet_are_heeded() {
    let project = project(Kind::Quick);
    for (options, told, written) in [(&["--ci-messages", "off"][..], 0, false), (&["-q"], 0, true), (&[], 1, true)] {
        let step = Step::new(&project, "step");
        let run = project.command(TFGUARD).args(options).args(["--", "sh", "-c", "kill -9 $$"]);
        let exit = step.job(run).run().expect_code(137);
        assert_eq!(commands(&exit.err()).len(), told, "{options:?}: {exit}");
        assert_eq!(read(&step.output) != "mine=1", written, "{options:?}");
        assert_eq!(read(&step.summary) != "*Mine*", written, "{options:?}");
    }
}

/// What needs somebody to act is said however quiet tfguard is to be.
#[test]
fn a_lock_that_is_left_is_named_quietly_too() {
    let (_proxy, project) = denying();
    let step = Step::new(&project, "apply");
    let (exit, id) = killed_apply(&project, &["-q"], |run| step.job(run));
    let exit = exit.expect_code(120);
    let err = exit.err();
    let words: Vec<_> = err.lines().filter_map(|line| line.strip_prefix("tfguard: ")).collect();
    let says = |start: &str, what: &str| words.iter().any(|line| line.starts_with(start) && line.contains(what));
    let warning = "\u{1b}[1m\u{1b}[33mwarning:\u{1b}[0m ";
    assert!(says(&format!("{warning}lock {id} of "), "NOT released"), "{exit}");
    assert!(says(&format!("{warning}next: "), &format!("tfguard unlock {id}")), "{exit}");
    assert!(words.iter().all(|line| line.starts_with(warning)), "{exit}");
    assert_eq!(commands(&err).len(), 1, "{exit}");
}

/// A command is one only at the beginning of a line, and the command that was run need not have ended its last one.
#[test]
fn commands_begin_a_line_whatever_was_printed_last() {
    let project = project(Kind::Quick);
    let step = Step::new(&project, "step");
    for (printed, mixed) in [
        ("printf half", true),
        ("printf half >&2", true),
        ("printf half; echo whole >&2", true),
        ("printf half", false),
        ("printf half >&2", false),
    ] {
        let run = if mixed {
            // One pipe for both streams, as the runner gives it.
            let script = format!("exec \"$0\" -- sh -c '{printed}; kill -9 $$' 2>&1");
            project.command("sh").args(["-c", &script, TFGUARD])
        } else {
            dying(&project, printed)
        };
        let exit = step.job(run).run().expect_code(137);
        let text = exit.out() + &exit.err();
        assert_eq!(text.matches("half").count(), 1, "{exit}");
        assert_eq!(commands(&text).len(), 1, "{printed}: {exit}");
        assert!(!text.contains("\n\n"), "no line is wasted: {exit}");
    }
    // On a terminal nobody knows what was printed last.
    let script = ["--attach", "--", "sh", "-c", "printf half; kill -9 $$"];
    let exit = step.job(project.command(TFGUARD).args(script).pty()).run().expect_code(137);
    assert_eq!(commands(&exit.out()).len(), 1, "{exit}");
}

/// What the command prints is its own. What tfguard says of it is not to be taken for anything else.
#[test]
fn names_do_not_become_commands() {
    let project = project(Kind::Quick);
    for (name, printed) in [
        ("a\n::error::b", "a"),
        ("::add-mask::c", "::add-mask::c"),
        ("##[add-mask]d", "# #[add-mask]d"),
        ("e|`<b>|@f%0A", "e|`<b>|@f%0A"),
    ] {
        let step = Step::new(&project, "step");
        let program = project.work().join(name);
        make_program(&program, "#!/bin/sh\nkill -9 $$\n");
        let exit = step.job(project.command(TFGUARD).arg("--").arg(&program)).run().expect_code(137);
        let err = exit.err();
        assert!(err.contains(printed), "{exit}");
        let told = commands(&err);
        assert_eq!(told.len(), 1, "{exit}");
        assert!(told[0].starts_with("::notice title=tfguard%3A No state lock is left::"), "{exit}");
        assert_eq!(step.outputs().len(), 4);
        let summary = read(&step.summary);
        assert!(!summary[..].contains(['`', '<', '@', '|']), "{summary}");
    }
}

/// The runner's files are the runner's: where they cannot be written, that is nobody's trouble.
#[test]
fn files_that_are_not_there_are_passed_over() {
    let project = project(Kind::Quick);
    let gone = project.work().join("gone/output");
    let directory = project.work();
    nix::unistd::mkfifo(&project.work().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [gone, directory, project.work().join("fifo")] {
        let run = |options: &[&str]| {
            let run = project.command(TFGUARD).args(options).args(["--", "sh", "-c", "kill -9 $$"]);
            let run = run.envs([("GITHUB_ACTIONS", "true")]);
            run.env("GITHUB_OUTPUT", &path).env("GITHUB_STEP_SUMMARY", &path).run().expect_code(137)
        };
        let exit = run(&[]);
        assert!(!exit.err().contains("GITHUB_"), "{exit}");
        let exit = run(&["-v"]);
        for variable in ["(GITHUB_OUTPUT)", "(GITHUB_STEP_SUMMARY)"] {
            assert_eq!(exit.err().matches(variable).count(), 1, "{exit}");
        }
        assert!(!project.work().join("gone").exists());
    }
}
