//! act, on the host and without a container: at one SIGINT it kills the step at once, and runs its `if: always()` steps.

use std::path::Path;

use nix::sys::signal::Signal;

use super::*;
use crate::TFGUARD;

/// A job of one guarded apply, and one more step.
fn job(project: &Project, act: &Path, then: &str) -> Run {
    let workflow = format!(
        "on: push
jobs:
  apply:
    runs-on: host
    steps:
      - id: apply
        working-directory: {work}
        run: exec {TFGUARD} -- {APPLY}
      - if: always()
        run: {then}
",
        work = project.work().display(),
    );
    std::fs::write(project.work().join("workflow.yml"), workflow).expect("a file can be written");
    let args = ["push", "--workflows", "workflow.yml", "--platform", "host=-self-hosted", "--no-cache-server"];
    let mut run = project.command(act).args(args);
    // The steps have no other environment, not even the mark of the test's processes. A session's place is the runner's.
    let environment: Vec<_> = run.command().get_envs().filter(|(name, _)| *name != "TFGUARD_DIR").collect();
    let environment = environment.into_iter().filter_map(|(name, value)| Some((name.display(), value?.display())));
    let environment: Vec<_> = environment.map(|(name, value)| format!("--env={name}={value}")).collect();
    run = run.args(environment);
    run
}

fn project(kind: Kind) -> Project<'static> {
    Project::new(Aws::shared(), kind).table().init(&Tools::get().any_terraform())
}

#[test]
fn a_step_of_act() {
    for (version, act) in Tools::get().programs(Product::Act) {
        let project = project(Kind::Sleep);
        let run = job(&project, &act, &format!("{TFGUARD} release --wait 1m")).start();
        run.wait_for_stdout("asleep", SOON);
        assert!(project.lock().is_some(), "{version}");
        run.signal(Signal::SIGINT);
        let exit = run.wait(SOON);
        let said = format!("{}{}", exit.out(), exit.err());
        assert_eq!(said.matches("Interrupt received.").count(), 1, "{version}: {exit}");
        assert!(said.contains("released by Terraform"), "{version}: {exit}");
        project.guard().assert_no_process_left(SOON);
        assert_eq!(project.lock(), None, "{version}: {exit}");
    }
}

/// Guards against a file of outputs that act, unlike GitHub's own runner, does not take.
#[test]
fn a_successful_step_of_act_has_its_outputs() {
    for (version, act) in Tools::get().programs(Product::Act) {
        let project = project(Kind::Quick);
        let then = r#"'echo "left is ${{ steps.apply.outputs.tfguard-lock-left }}, ${{ steps.apply.outputs.tfguard-outcome }}"'"#;
        let exit = job(&project, &act, then).run().expect_code(0);
        assert!(exit.out().contains("left is false, unlocked"), "{version}: {exit}");
        project.guard().assert_no_process_left(SOON);
        assert_eq!(project.lock(), None, "{version}: {exit}");
    }
}

/// act has no page for a summary, and no run that a link could lead to.
#[test]
fn what_happened_in_act_is_in_its_log_and_links_to_no_run() {
    let kill = "resource \"terraform_data\" \"work\" {\n  provisioner \"local-exec\" {\n    command = \"kill -9 $PPID\"\n  }\n}\n";
    for (version, act) in Tools::get().programs(Product::Act) {
        let project = project(Kind::Hcl(kill.to_owned()));
        let report = project.work().join("report.json");
        let job = job(&project, &act, "'true'").arg(format!("--env=TFGUARD_REPORT={}", report.display()));
        let exit = job.run().expect_code(1);
        assert!(exit.out().contains("| tfguard: lock ") && exit.out().contains("::warning"), "{version}: {exit}");
        assert!(!exit.out().contains("Summary -"), "{version}: {exit}");
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        assert!(report["ci"].is_object() && report["ci"]["url"].is_null(), "{version}: {report:#}");
        assert_eq!(project.lock(), None, "{version}: {exit}");
    }
}

/// The outputs of a setup action's wrapper, of many lines, are read by act.
#[test]
fn the_outputs_of_a_wrapper_are_read_in_act() {
    for (version, act) in Tools::get().programs(Product::Act) {
        let project = project(Kind::Quick);
        let bin = project.work().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(Tools::get().any_terraform(), bin.join("terraform-bin")).unwrap();
        make_program(&bin.join("terraform"), "#!/usr/bin/env node\n");
        let then = r#"'echo "code ${{ steps.apply.outputs.exitcode }}, ${{ contains(steps.apply.outputs.stdout, ''Apply complete!'') }}"'"#;
        let path = format!("--env=PATH={}:{}", bin.display(), std::env::var("PATH").unwrap());
        let exit = job(&project, &act, then).arg(path).run().expect_code(0);
        assert!(exit.out().contains("code 0, true"), "{version}: {exit}");
    }
}
