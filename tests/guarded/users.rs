//! Another user's processes, which tfguard may not signal: `sudo terraform`.

use super::*;
use nix::sys::signal::Signal::*;

/// Who runs tfguard: the user `daemon`, by its numbers.
const USER: &str = "1";

/// A stand-in for `sudo`: it runs a command as root, and sends on to it what it is sent, but not by its own group.
/// `sudo full` becomes root altogether, "so that the user cannot kill us" (sudo's `src/sudo.c`); `sudo half` can be
/// signalled by who called it.
const SUDO: &str = r#"
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static pid_t child;
static void pass_on(int number, siginfo_t *from, void *context) {
    (void)context;
    if (from->si_code != SI_USER || getpgid(from->si_pid) != getpgrp()) kill(child, number);
}
int main(int count, char **words) {
    struct sigaction action = {0};
    int status;
    if (count < 3) return 1;
    action.sa_sigaction = pass_on;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    if (!strcmp(words[1], "full") && setresuid(0, 0, 0)) return 1;
    child = fork();
    if (!child) {
        if (setresgid(0, 0, 0) || setresuid(0, 0, 0)) _exit(1);
        execvp(words[2], words + 2);
        _exit(127);
    }
    sigaction(SIGINT, &action, 0);
    sigaction(SIGTERM, &action, 0);
    while (waitpid(child, &status, 0) < 0) ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
"#;

/// Makes the stand-in, and gives the project to the user. None where this cannot be tried.
fn sudo(project: &Project) -> Option<PathBuf> {
    let all = project.work().parent().unwrap().to_owned();
    let (sudo, source) = (all.join("sudo"), all.join("sudo.c"));
    std::fs::write(&source, SUDO).unwrap();
    let root = nix::unistd::geteuid().is_root();
    let made = root && project.command("cc").arg("-o").args([&sudo, &source]).run().code == Some(0);
    let works = made && {
        project.command("chown").args(["-R", USER]).arg(&all).run().expect_code(0);
        project.command("chown").arg("0:0").arg(&sudo).run().expect_code(0);
        project.command("chmod").arg("4755").arg(&sudo).run().expect_code(0);
        let said = as_user(project, &sudo).args(["half", "id", "-u"]).run();
        said.code == Some(0)
            && said.out() == "0\n"
            && as_user(project, terraform()).arg("version").run().code == Some(0)
    };
    if !works {
        skipped("another user's Terraform: it needs root, a C compiler, setuid, and programs that others may run");
    }
    works.then_some(sudo)
}

fn as_user(project: &Project, program: impl AsRef<std::ffi::OsStr>) -> Run {
    let user = ["--reuid", USER, "--regid", USER, "--clear-groups"];
    project.command("setpriv").args(user).arg(program)
}

fn guarded(project: &Project, sudo: &Path, way: &str, options: &[&str]) -> Running {
    let run = as_user(project, TFGUARD).args(options).arg("--").arg(sudo).arg(way).arg(terraform()).args(APPLY);
    run.new_group().start()
}

#[test]
fn the_nearest_process_that_may_be_signalled_passes_the_interrupt_on() {
    let project = table(Kind::Sleep);
    let Some(sudo) = sudo(&project) else { return };
    let run = guarded(&project, &sudo, "half", &[]);
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON);
    assert_eq!(exit.out().matches("\nInterrupt received.").count(), 1, "{exit}");
    assert!(!exit.err().contains("cannot be interrupted"), "{exit}");
    assert_clean(&project);
}

/// Nothing is claimed to have been done, what lives is named, and its lock stays until it is gone.
#[test]
fn a_terraform_that_may_not_be_signalled_is_told_of_and_keeps_its_lock() {
    for below_a_shell in [false, true] {
        let project = table(Kind::Sleep);
        let Some(sudo) = sudo(&project) else { return };
        let options = ["--grace", "1s", "--lease", "3m"];
        out_of_reach(
            &project,
            if below_a_shell {
                below_shell(&project, &format!("{} full", sudo.display()), &options)
            } else {
                guarded(&project, &sudo, "full", &options)
            },
        );
    }
}

/// The same of one that does not log to the session, so that nobody knows of its lock.
#[test]
fn nor_is_one_forgotten_that_does_not_log() {
    let project = table(Kind::Sleep);
    let Some(sudo) = sudo(&project) else { return };
    let unlogged = format!("{} full env -u TF_TEMP_LOG_PATH", sudo.display());
    let run = below_shell(&project, &unlogged, &["--grace", "1s"]);
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(120);
    assert!(exit.err().contains("ran unguarded") && exit.err().contains("still alive: sudo ("), "{exit}");
    assert!(project.guard().kill_all());
}

fn below_shell(project: &Project, by: &str, options: &[&str]) -> Running {
    let script = format!("{by} {} {}; exit 1", terraform().display(), APPLY.join(" "));
    as_user(project, TFGUARD).args(options).args(["--", "bash", "-c", &script]).new_group().start()
}

fn out_of_reach(project: &Project, run: Running) {
    run.wait_for_stdout("asleep", SOON);
    run.wait_for_stderr("has a lease of 3m", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(120);
    let terraform = project.terraforms()[0];
    assert!(!exit.err().contains("interrupted; it has"), "{exit}");
    let told = format!("terraform ({terraform}), which is another user's, cannot be interrupted by this one");
    assert!(exit.err().contains(&told), "{exit}");
    assert!(exit.err().contains("processes of this run are still alive: sudo ("), "{exit}");
    assert!(exit.err().contains("a process of this run may still be alive"), "{exit}");
    assert_eq!(exit.out().matches("Interrupt received.").count(), 0, "{exit}");
    let release = || as_user(project, TFGUARD).args(["release", "--wait", "1m"]).run();
    let alive = release().expect_code(120);
    let item = project.aws().item(project.table_name(), &project.lock_id()).expect("it is at work");
    assert!(!item.contains_key("TfguardLease"), "nobody renews it, and nobody may take the lock: {item:?} {alive}");
    assert!(project.guard().kill_all());
    let exit = release().expect_code(0);
    assert!(exit.err().contains("deleted by tfguard"), "{exit}");
    assert_eq!(sessions(project), [] as [PathBuf; 0]);
    assert_clean(project);
}

/// What a provisioner started lives on, and cannot be killed, when Terraform has ended and released its lock.
#[test]
fn a_leftover_that_may_not_be_killed_is_named_and_not_waited_for() {
    let project = project(Kind::Hcl(String::new()));
    let Some(sudo) = sudo(&project) else { return };
    let start = format!("{} full sleep 600 >/dev/null 2>&1 </dev/null & echo asleep; sleep 600", sudo.display());
    let hcl = format!(
        "resource \"terraform_data\" \"work\" {{\n  provisioner \"local-exec\" {{\n    command = {start:?}\n  }}\n}}\n"
    );
    std::fs::write(project.work().join("main.tf"), hcl).unwrap();
    let project = project.table().init(&terraform());
    project.command("chown").args(["-R", USER]).arg(project.work()).run().expect_code(0);
    let run = as_user(&project, TFGUARD).args(["--report", "report.json", "--"]).arg(terraform()).args(APPLY);
    let run = run.new_group().start();
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(1);
    assert!(
        exit.err().contains("released by Terraform") && exit.err().contains("processes of this run are still alive: "),
        "{exit}"
    );
    let report = report(&project);
    let time = |at: &Value| at.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let waited = time(&report["ended"]).duration_since(time(&report["ending"]["at"]));
    assert!(waited < jiff::SignedDuration::from_secs(10), "{waited}");
    let release = || as_user(&project, TFGUARD).args(["release", "--wait", "10s"]).run().expect_code(0);
    let alive = release();
    assert!(alive.err().contains("processes of this run are still alive: "), "{alive}");
    assert_eq!(sessions(&project).len(), 1);
    assert!(project.guard().kill_all());
    release();
    assert_eq!(sessions(&project), [] as [PathBuf; 0]);
    assert_clean(&project);
}
