//! A cancelled `terraform apply`, without tfguard and with it, on a real Terraform.
//!
//! `cargo run --example demo` needs cargo and python3 and no AWS account: Terraform and moto, which plays the AWS API
//! on loopback, come from the Python package index, once. Every line marked `✓` was checked by the program itself,
//! which ends with a non-zero status at the first that does not hold. It leaves no process and no file behind.

#[allow(dead_code, unused_imports)] // The demo uses a part of it.
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::iterator::Signals;
use support::{Aws, Exit, Guard, Kind, Project, Running, Tools};

/// Longer than anything here takes, so it only bounds a hang.
const SOON: Duration = Duration::from_secs(90);
/// Between the two signals of a cancelled step. GitHub Actions waits 7.5 seconds (`ProcessInvoker.cs`).
const PAUSE: Duration = Duration::from_secs(1);

fn main() {
    clean_up_when_interrupted();
    println!("Getting ready: Terraform, a lock table on loopback and tfguard itself (the first time takes minutes).");
    let terraform = Tools::get().any_terraform();
    let aws = Aws::start();
    let tfguard = build_tfguard();
    println!(
        "Three jobs run `terraform apply` and are cancelled as GitHub Actions cancels a step: SIGINT to the step's own"
    );
    println!(
        "process and nobody else, a little later SIGTERM, and at the end of the job SIGKILL to what is left of it."
    );

    let began = Instant::now();
    let without = without_tfguard(&aws, &terraform, &tfguard);
    let graceful = with_tfguard(&aws, &terraform, &tfguard);
    let killed = with_tfguard_and_an_apply_that_cannot_stop(&aws, &terraform, &tfguard);

    heading("In short");
    for (run, exit, lock) in [
        ("without tfguard", without, "left behind, and every later run fails"),
        ("with tfguard", graceful, "released by Terraform, interrupted once"),
        ("with tfguard, apply stuck", killed, "deleted by tfguard, once Terraform was dead"),
    ] {
        println!("  {run:<26} step exits {exit:<4} lock {lock}");
    }
    println!("\nEvery ✓ was checked. Took {:.0} s.", began.elapsed().as_secs_f32());
}

/// What everybody knows: the shell passes no signal on, the job ends, Terraform is killed, its lock stays.
fn without_tfguard(aws: &Aws, terraform: &Path, tfguard: &Path) -> i32 {
    heading("1. Without tfguard");
    let project = Project::new(aws, Kind::Sleep).table().init(terraform);
    let step = start(&project, tfguard, "terraform apply -input=false -auto-approve -no-color");
    step.wait_for_stdout("asleep", SOON);
    let held = show_lock(&project);
    check("Terraform is applying and holds the lock", held.is_some());
    cancel(&step);
    let exit = step.wait(SOON);
    check("the step is over", exit.signal == Some(Signal::SIGTERM as i32));
    let orphans = end_of_job(&project);
    check("its Terraform was still running and is killed with the job", orphans.contains(&"terraform".to_owned()));
    project.guard().assert_no_process_left(SOON);
    let left = show_lock(&project);
    check("the lock is left behind", left == held && left.is_some());
    let plan = plan(&project);
    check("the next plan fails", plan.code == Some(1) && plan.err().contains("Error acquiring the state lock"));
    128 + Signal::SIGTERM as i32
}

/// The same cancellation of the same apply.
fn with_tfguard(aws: &Aws, terraform: &Path, tfguard: &Path) -> i32 {
    heading("2. With tfguard");
    let project = Project::new(aws, Kind::Sleep).table().init(terraform);
    let step = start(&project, tfguard, "exec tfguard -- terraform apply -input=false -auto-approve -no-color");
    step.wait_for_stdout("asleep", SOON);
    check("Terraform is applying and holds the lock", show_lock(&project).is_some());
    cancel(&step);
    let exit = step.wait(SOON);
    show_tfguard(&exit);
    check("Terraform was interrupted, once", interrupted_once(&exit));
    check("Terraform released its lock itself", exit.err().contains("released by Terraform"));
    clean_afterwards(&project, &exit, 1)
}

/// The same cancellation of an apply that waits for a server that never answers, which no interrupt can end.
fn with_tfguard_and_an_apply_that_cannot_stop(aws: &Aws, terraform: &Path, tfguard: &Path) -> i32 {
    heading("3. With tfguard, and an apply that cannot stop");
    let project = Project::new(aws, Kind::HangInApply).table().init(terraform);
    let options = "--grace 3s";
    let command = format!("exec tfguard {options} -- terraform apply -input=false -auto-approve -no-color");
    let step = start(&project, tfguard, &command);
    project.wait_for_hang(SOON);
    let held = show_lock(&project).expect("an apply holds its lock");
    cancel(&step);
    let exit = step.wait(SOON);
    show_tfguard(&exit);
    check("Terraform was interrupted, once", interrupted_once(&exit));
    check("it did not end within its grace and was killed", exit.err().contains("was killed"));
    let id = held["ID"].as_str().expect("a lock has an ID");
    check(
        "tfguard deleted the lock that Terraform left, and named it",
        exit.err().contains(id) && exit.err().contains("left by Terraform, deleted by tfguard"),
    );
    println!("  (what hangs is taken out of the configuration, so that the next plan can end)");
    std::fs::write(project.work().join("main.tf"), "resource \"terraform_data\" \"work\" {}\n")
        .expect("a file can be written");
    clean_afterwards(&project, &exit, 128 + Signal::SIGKILL as i32)
}

/// What has to be so after a guarded run, however it ended. Gives the step's exit code.
fn clean_afterwards(project: &Project, exit: &Exit, code: i32) -> i32 {
    check(&format!("the step exits with {code}"), exit.code == Some(code));
    check("no lock is left", show_lock(project).is_none());
    project.guard().assert_no_process_left(SOON);
    check("no process is left", project.guard().processes().is_empty());
    check("the next plan works", plan(project).code == Some(0));
    code
}

/// Runs a command the way GitHub Actions does, as the script of `bash -e`, with `tfguard` and `terraform` on `PATH`.
fn start(project: &Project, tfguard: &Path, command: &str) -> Running {
    say("$", command);
    std::fs::write(project.work().join("step.sh"), format!("{command}\n")).expect("a file can be written");
    let mut run = project.command("bash").args(["-e", "step.sh"]);
    // The one that was just built comes before one that is installed.
    let path = tfguard.parent().map(Path::to_owned).into_iter().chain(path_of(run.command()));
    run.env("PATH", std::env::join_paths(path).expect("PATH was one before"))
        .envs([("CI", "true"), ("GITHUB_ACTIONS", "true"), ("RUNNER_TRACKING_ID", &tracking_id(project))])
        .start()
}

/// The directories on the `PATH` that a command will have.
fn path_of(command: &Command) -> Vec<PathBuf> {
    let path = command.get_envs().find_map(|(name, value)| if name == "PATH" { value } else { None });
    std::env::split_paths(path.unwrap_or_default()).collect()
}

/// Cancels a step as GitHub Actions does: its process alone receives SIGINT, and SIGTERM if it has not ended by then.
fn cancel(step: &Running) {
    say("cancel:", "SIGINT to the step's process, SIGTERM a second later");
    step.signal(Signal::SIGINT);
    // The pause is the CI's, not a wait for something to happen.
    std::thread::sleep(PAUSE);
    if !step.has_ended() {
        step.signal(Signal::SIGTERM);
    }
}

/// At the end of a job GitHub Actions kills every process that still carries the job's mark. Gives their names.
fn end_of_job(project: &Project) -> Vec<String> {
    let mark = tracking_id(project);
    kill_all(|env| env.get(OsStr::new("RUNNER_TRACKING_ID")).is_some_and(|id| *id == *mark))
}

/// Kills the processes with such an environment. Gives their names.
fn kill_all(such: impl Fn(&HashMap<OsString, OsString>) -> bool) -> Vec<String> {
    let mut killed = Vec::new();
    for process in procfs::process::all_processes().expect("/proc can be read").flatten() {
        let Ok(stat) = process.stat() else { continue };
        if process.environ().is_ok_and(|env| such(&env)) && kill(Pid::from_raw(process.pid), Signal::SIGKILL).is_ok() {
            killed.push(stat.comm);
        }
    }
    killed
}

/// An interrupt of the demo kills what it started. Then it has nothing left to wait for, fails, and cleans up.
fn clean_up_when_interrupted() {
    let mut signals = Signals::new(TERM_SIGNALS).expect("signals can be handled");
    let guard = Guard::new();
    let (name, mark) = guard.env();
    let own = mark.split_inclusive('-').next().unwrap_or_default().to_owned();
    std::thread::spawn(move || {
        signals.forever().next();
        for _ in 0..5 {
            kill_all(|env| env.get(OsStr::new(name)).is_some_and(|mark| mark.to_string_lossy().starts_with(&own)));
            std::thread::sleep(Duration::from_secs(1));
        }
        std::process::exit(130);
    });
}

fn tracking_id(project: &Project) -> String {
    format!("github_{}", project.bucket())
}

fn plan(project: &Project) -> Exit {
    say("$", "terraform plan");
    let exit = project.terraform(["plan", "-input=false", "-no-color"]).run();
    let text = if exit.code == Some(0) { exit.out() } else { exit.err() };
    let telling = ["Error acquiring", "Plan: ", "No changes."];
    for line in text.lines().filter(|line| telling.iter().any(|words| line.contains(words))) {
        say("|", line.trim_start_matches(['│', ' ']));
    }
    exit
}

/// Shows what is in the lock table.
fn show_lock(project: &Project) -> Option<serde_json::Value> {
    let lock = project.lock();
    match &lock {
        Some(lock) => {
            let text = |name: &str| lock[name].as_str().unwrap_or_default().to_owned();
            say("lock table:", &format!("{} {} by {}", text("ID"), text("Operation"), text("Who")));
        }
        None => say("lock table:", "no lock"),
    }
    lock
}

/// Shows tfguard's own words.
fn show_tfguard(exit: &Exit) {
    for line in exit.err().lines().filter(|line| line.starts_with("tfguard: ")) {
        say("|", line);
    }
}

fn interrupted_once(exit: &Exit) -> bool {
    exit.out().matches("Interrupt received.").count() == 1 && !exit.err().contains("Two interrupts received")
}

/// Builds tfguard in the profile of this example; gives its path.
fn build_tfguard() -> PathBuf {
    let exe = std::env::current_exe().expect("a running program has a path");
    let profile = exe.ancestors().nth(2).and_then(Path::file_name).and_then(OsStr::to_str);
    let profile = profile.filter(|name| *name != "debug").unwrap_or("dev");
    let output = Command::new(env!("CARGO"))
        // With the example, so that cargo picks the same features of the dependencies and builds none a second time.
        .args(["build", "--quiet", "--profile", profile, "--bin", "tfguard", "--example", "demo"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "tfguard cannot be built; the reason is above");
    let messages = String::from_utf8_lossy(&output.stdout);
    let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let path = built
        .filter(|message| message["target"]["name"] == "tfguard")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    path.expect("cargo tells where it put tfguard")
}

/// Says that something is so, or ends the demo because it is not.
#[track_caller]
fn check(claim: &str, holds: bool) {
    assert!(holds, "not so: {claim}");
    println!("  {} {claim}", paint("32", "✓"));
}

fn heading(text: &str) {
    println!("\n{}", paint("1", text));
}

fn say(label: &str, text: &str) {
    println!("  {} {text}", paint("2", label));
}

/// Colours a text on a terminal.
fn paint(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
