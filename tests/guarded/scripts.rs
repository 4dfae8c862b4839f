//! Scripts that run one Terraform after the other: what was true of the first is not of the next.

use super::*;
use nix::sys::signal::Signal::*;

/// What runs after a plan may change anything, and is not cut short as a plan is.
#[test]
fn what_a_script_does_after_its_plan_has_the_whole_grace() {
    let project = table(Kind::Quick);
    // Known to be over by its lock, and by its own word.
    for lock in ["", "-lock=false"] {
        let script = format!("terraform {} {lock}; echo as''leep; exec sleep 600", PLAN.join(" "));
        let run = project.command(TFGUARD).args(["--grace", "1h", "--", "sh", "-c", &script]).start();
        run.wait_for_stdout("asleep", SOON);
        run.signal(SIGTERM);
        let exit = run.wait(SOON);
        assert!(exit.err().contains("it has 1h to end gracefully"), "{lock}: {exit}");
        assert_clean(&project);
    }
}
