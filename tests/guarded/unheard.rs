//! An account that nobody hears, because what read it is gone: the cleanup step gives it.

use super::cleanup::{job, release};
use super::*;

/// A guarded apply with its output as `script` wants it, which has `"$@"` for tfguard. It hangs.
fn start(project: &Project, script: &str) -> Running {
    let command = [TFGUARD, "--", "terraform"].into_iter().chain(APPLY);
    let run = job(project.command("bash").args(["-c", script, "bash"]).args(command), "1").new_group().start();
    project.wait_for_hang(SOON);
    run
}

fn kill_terraform(project: &Project) {
    kill(pid_of(&journal(project)["child"]["id"]));
}

const SAID: &str = "left by Terraform, deleted by tfguard";

#[test]
fn the_cleanup_step_says_what_a_run_said_to_nobody() {
    let gone = "\"$@\" 2>&1 | sh -c 'read first'; exit 0";
    let deleted = "\"$@\" > log 2>&1; exit 0";
    for script in [gone, deleted] {
        let project = table(Kind::HangInApply);
        let run = start(&project, script);
        if script == deleted {
            std::fs::remove_file(project.work().join("log")).unwrap();
        }
        kill_terraform(&project);
        let exit = run.wait(SOON).expect_code(0);
        assert_eq!((exit.out(), exit.err()), (String::new(), String::new()), "{script}");
        assert_eq!(sessions(&project).len(), 1, "{script}");
        let summary = project.work().join("summary");
        std::fs::write(&summary, "").unwrap();
        let exit = release(&project, "1").env("GITHUB_STEP_SUMMARY", &summary).run().expect_code(0);
        assert!(exit.err().contains("terraform died of SIGKILL") && exit.err().contains(SAID), "{script}: {exit}");
        assert!(std::fs::read_to_string(summary).unwrap().contains("deleted by tfguard"), "{script}");
        assert_eq!(sessions(&project), [] as [PathBuf; 0], "{script}");
        let again = release(&project, "1").run().expect_code(0);
        assert_eq!((again.out(), again.err()), (String::new(), String::new()), "{script}");
        assert_clean(&project);
    }
}

/// What can be heard is said once: by a file, also one without a name, as programs capture output.
#[test]
fn what_is_heard_is_not_said_again() {
    let unnamed = "exec 3<>log; rm log; \"$@\" >&3 2>&1; exec cat < /dev/fd/3";
    for script in ["\"$@\" > log 2>&1; exec cat log", unnamed, "\"$@\" | sh -c 'read first'; exit 0"] {
        let project = table(Kind::HangInApply);
        let run = start(&project, script);
        kill_terraform(&project);
        let exit = run.wait(SOON).expect_code(0);
        assert!(format!("{exit}").contains(SAID), "{script}: {exit}");
        assert_eq!(sessions(&project), [] as [PathBuf; 0], "{script}");
        assert_clean(&project);
    }
}

/// A reader that leaves early is nothing to be told of.
#[test]
fn an_ordinary_run_without_a_reader_leaves_no_session() {
    let project = table(Kind::Quick);
    let command = [TFGUARD, "--", "terraform"].into_iter().chain(APPLY);
    let script = "\"$@\" 2>&1 | true; exit 0";
    job(project.command("bash").args(["-c", script, "bash"]).args(command), "1").run().expect_code(0);
    assert_eq!(sessions(&project), [] as [PathBuf; 0]);
    assert_clean(&project);
}
