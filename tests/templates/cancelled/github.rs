//! GitHub Actions.

use super::cancel::*;
use crate::simulators::*;
use crate::templates::action::Runner;
use crate::templates::read::*;
use crate::templates::tools::node;
use crate::templates::{SOON, TFGUARD};

/// The `run:` scripts of the only job of a workflow, and its variables.
fn github(template: &str) -> (Vec<String>, Variables) {
    let jobs = yaml(template)["jobs"].take();
    let job = jobs.as_object().unwrap().values().next().unwrap();
    let steps = job["steps"].as_array().unwrap();
    (steps.iter().filter_map(|step| step["run"].as_str()).map(str::to_owned).collect(), variables(&job["env"]))
}

/// The action's `main` before the steps, its `post` after them.
#[test]
fn the_github_workflow_with_the_action() {
    let project = project();
    let (scripts, variables) = github("github/terraform.yml");
    plan(GitHub::default().start(Job::new(&project, the_one(&scripts, "terraform plan"))));
    let runner = Runner::new();
    runner.main(&[("path", TFGUARD)]).start().wait(SOON).expect_code(0);
    let job = Job::new(&project, the_one(&scripts, "terraform apply")).cleanup(post(&runner));
    let job = with_variables(with_variables(job, &variables), &runner.told().env);
    let ended = cancel(&project, GitHub::default().start(job));
    assert_interrupted_by_tfguard(&ended);
}

/// A step that says `terraform`, which is the link that the action made: the runner's signals end at the shell, whose end is
/// what stops Terraform.
#[test]
fn a_github_step_without_tfguard_behind_the_actions_links() {
    let project = project();
    let runner = Runner::new();
    runner.main(&[("path", TFGUARD), ("shim", "true")]).start().wait(SOON).expect_code(0);
    let told = runner.told();
    let path = told.path.iter().rev().map(|dir| format!("{}:", dir.display())).collect::<String>();
    let script = format!("PATH='{path}'$PATH\nterraform apply -input=false -auto-approve -no-color\necho applied");
    let job = with_variables(Job::new(&project, script).cleanup(post(&runner)), &told.env);
    let ended = cancel(&project, GitHub::default().start(job));
    assert_interrupted_by_tfguard(&ended);
    assert!(!ended.script.out().contains("applied"), "{}", ended.log());
}

/// A Terraform that takes longer to end than the runner gives its step: the `post` waits for the supervisor to kill it.
#[test]
fn the_github_action_waits_for_what_outlives_its_step() {
    let project = hanging();
    let runner = Runner::new();
    runner.main(&[("path", TFGUARD), ("wait", "1m")]).start().wait(SOON).expect_code(0);
    let job = Job::new(&project, the_one(&github("github/steps.yml").0, "terraform apply")).cleanup(post(&runner));
    let started = GitHub::default().start(with_variables(job, &runner.told().env).env("TFGUARD_GRACE", "14s"));
    let ended = cancel_hanging(&project, started);
    assert_interrupted_by_tfguard(&ended);
    assert_deleted_by_tfguard(&ended);
}

/// What the runner starts after the job's steps.
fn post(runner: &Runner) -> String {
    let script = template(&format!("github/{}", string(&yaml("github/action.yml")["runs"]["post"])));
    let state = &runner.told().state;
    let state = state.iter().map(|(name, value)| format!("STATE_{name}='{value}' ")).collect::<String>();
    format!("{state}exec '{}' '{}'", node().display(), script.display())
}

#[test]
fn the_github_workflow_of_plain_steps() {
    let project = project();
    let (scripts, variables) = github("github/steps.yml");
    let job = Job::new(&project, the_one(&scripts, "terraform apply")).cleanup(the_one(&scripts, "tfguard release"));
    let ended = cancel(&project, GitHub::default().start(with_variables(job, &variables)));
    assert_interrupted_by_tfguard(&ended);
}
