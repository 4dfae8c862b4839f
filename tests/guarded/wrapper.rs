//! The Node wrapper that setup-terraform and setup-opentofu put on PATH: it dies of the first signal and Terraform with it. A
//! stand-in, since the setup actions are no packages.

use super::*;
use nix::sys::signal::Signal::*;

/// A wrapped program, in a directory of its own on PATH, and a step's file of outputs.
struct Step {
    bin: PathBuf,
    outputs: PathBuf,
}

impl Step {
    fn new(project: &Project, name: &str, real: &Path) -> Self {
        let bin = project.work().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(real, bin.join(format!("{name}-bin"))).unwrap();
        // In place of Node, which need not be here.
        for (file, text) in [
            (name, "#!/usr/bin/env node\n"),
            ("node", "#!/bin/sh\necho the wrapper ran\nwrapper=$1; shift; exec \"$wrapper-bin\" \"$@\"\n"),
        ] {
            make_program(&bin.join(file), text);
        }
        let outputs = project.work().join("outputs");
        std::fs::write(&outputs, "mine=1\n").unwrap();
        Self { bin, outputs }
    }

    fn run(&self, run: Run) -> Run {
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap());
        run.env("PATH", path).env("GITHUB_OUTPUT", &self.outputs)
    }

    fn tfguard(&self, project: &Project, words: &str) -> Run {
        self.run(project.command(TFGUARD)).arg("--").args(words.split(' '))
    }

    /// What the step set since the last call, as the official runner and act read it.
    fn outputs(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.outputs).unwrap();
        std::fs::write(&self.outputs, "mine=1\n").unwrap();
        let mut lines = text.strip_prefix("mine=1\n").expect("what was there is there").split_inclusive('\n');
        let mut outputs = Vec::new();
        while let Some(line) = lines.next() {
            let (name, delimiter) = line.split_once("<<").unwrap_or_else(|| panic!("{line:?} in {text}"));
            assert!(delimiter.len() > 32, "{delimiter}");
            let value: String = lines.by_ref().take_while(|line| *line != delimiter).collect();
            outputs.push((name.to_owned(), value.strip_suffix('\n').unwrap().to_owned()));
        }
        outputs
    }

    /// The same, without tfguard's own.
    #[track_caller]
    fn wrapper_outputs(&self) -> [String; 3] {
        let outputs = self.outputs();
        ["stdout", "stderr", "exitcode"].map(|name| {
            let found: Vec<_> = outputs.iter().filter(|(found, _)| found == name).collect();
            assert_eq!(found.len(), 1, "{name} in {outputs:?}");
            found[0].1.clone()
        })
    }
}

/// Guards against outputs and an exit code that are not those of what was typed.
#[test]
fn what_stands_behind_a_node_wrapper_is_run_and_the_step_is_the_wrappers() {
    let project = table(Kind::Quick);
    let step = Step::new(&project, "terraform", &terraform());
    // Changes: an error for a step, which the wrapper makes a success.
    let plan = step.tfguard(&project, "terraform plan -input=false -no-color -detailed-exitcode").run().expect_code(0);
    assert!(plan.err().contains("is the Node wrapper of a setup action") && !plan.out().contains("::"), "{plan}");
    let [stdout, stderr, code] = step.wrapper_outputs();
    assert_eq!((stdout, stderr.as_str(), code.as_str()), (plan.out(), "", "2"));

    // Both streams in one: the outputs tell them apart. An error is the wrapper's 1, and an annotation.
    let line = format!("{TFGUARD} -- terraform import -no-color terraform_data.none x 2>&1");
    let failed = step.run(project.command("sh")).args(["-c", &line]).run().expect_code(1);
    assert!(failed.out().ends_with("::error::Terraform exited with code 1.\n"), "{failed}");
    let [stdout, stderr, code] = step.wrapper_outputs();
    assert!(stderr.contains("Error: ") && !stdout.contains("Error: ") && code == "1", "{stdout}{stderr}{code}");

    // Below a script, too.
    let script = "terraform plan -input=false -detailed-exitcode; echo \"code $?\"";
    let script = step.run(project.command(TFGUARD)).args(["--", "sh", "-c", script]).run().expect_code(0);
    assert!(script.out().ends_with("code 0\n"), "{script}");
    assert_eq!(step.wrapper_outputs()[2], "2");
    assert_clean(&project);
}

#[test]
fn a_command_without_a_lock_is_the_wrappers_own() {
    let project = table(Kind::Quick);
    let step = Step::new(&project, "terraform", &terraform());
    let version = step.tfguard(&project, "terraform version").run().expect_code(0);
    assert!(version.out().starts_with("the wrapper ran\nTerraform v"), "{version}");
    assert_eq!(version.err(), "");
    assert!(step.outputs().is_empty());
    assert_clean(&project);
}

#[test]
fn a_killed_terraform_of_a_wrapper_has_the_outputs_and_its_own_code() {
    let project = table(Kind::Sleep);
    let step = Step::new(&project, "terraform", &terraform());
    let run = step.tfguard(&project, &format!("terraform {}", APPLY.join(" "))).start();
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(1);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert_eq!(step.wrapper_outputs()[2], "1");

    let run = step.tfguard(&project, &format!("terraform {}", APPLY.join(" "))).start();
    run.wait_for_stdout("asleep", SOON);
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert!(!exit.out().contains("::error::"), "{exit}");
    let [stdout, stderr, code] = step.wrapper_outputs();
    assert_eq!((stdout, stderr.as_str(), code.as_str()), (exit.out(), "", "137"));
    assert_clean(&project);
}

/// What is read for it has a bound.
#[test]
fn of_a_long_output_the_end_is_an_output_of_the_step() {
    let project = table(Kind::Quick);
    let lines = "seq -f 'line %.0f of a long plan, with text' 500000";
    let program = project.work().join("long");
    make_program(&program, &format!("#!/bin/sh\n{lines}\n"));
    let step = Step::new(&project, "tofu", &program);
    let exit = step.tfguard(&project, "tofu plan").run().expect_code(0);
    let [stdout, _, code] = step.wrapper_outputs();
    let (first, rest) = stdout.split_once('\n').unwrap();
    assert!(first.starts_with("[tfguard: the first ") && exit.err().contains("the step's output `stdout`"), "{exit}");
    assert!(rest.starts_with("line ") && exit.out().ends_with(rest) && rest.len() <= 16 * 1024 * 1024, "{first}");
    assert!(rest.len() > 16 * 1024 * 1024 - 100 && code == "0");
    assert_clean(&project);
}

#[test]
fn an_opentofu_behind_its_wrapper_is_called_so() {
    let Some((version, tofu)) = Tools::get().programs(Product::OpenTofu).last() else { return };
    let project = project(Kind::Quick).table().init(&tofu);
    let step = Step::new(&project, "tofu", &tofu);
    let failed = step.tfguard(&project, "tofu import terraform_data.none x").run().expect_code(1);
    assert!(failed.out().ends_with("::error::OpenTofu exited with code 1.\n"), "{version}: {failed}");
    assert_eq!(step.wrapper_outputs()[2], "1");
    assert_clean(&project);
}
