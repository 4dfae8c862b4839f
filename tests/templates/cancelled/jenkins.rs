//! Jenkins.

use super::cancel::*;
use crate::simulators::*;
use crate::support::Kind;
use crate::templates::read::*;

/// The `sh` scripts of a Jenkins template.
fn jenkins(template: &str) -> Vec<String> {
    groovy(template).into_iter().map(|(_, script)| script).collect()
}

#[test]
fn the_jenkins_pipeline() {
    let project = project();
    let scripts = jenkins("jenkins/Jenkinsfile");
    plan(Jenkins::Pipeline.start(Job::new(&project, the_one(&scripts, "terraform plan"))));
    let job = Job::new(&project, the_one(&scripts, "terraform apply")).cleanup(the_one(&scripts, "tfguard release"));
    let job = with_variables(job, &groovy_variables("jenkins/Jenkinsfile"));
    let ended = cancel(&project, Jenkins::Pipeline.start(job));
    assert_interrupted_by_tfguard(&ended);
}

/// As a shared library's step runs it, here in a container.
#[test]
fn the_jenkins_step() {
    let project = project();
    let scripts = jenkins("jenkins/vars/tfguard.groovy");
    let apply = "terraform apply -input=false -auto-approve -no-color";
    let script = the_one(&scripts, "exec tfguard").replace("${options.command}", apply);
    let job = Job::new(&project, script).cleanup(the_one(&scripts, "tfguard release"));
    let ended = cancel(&project, Jenkins::Container.start(job.env("TFGUARD_CLEANUP_STEP", "1")));
    assert_interrupted_by_tfguard(&ended);
}

/// Guards against a branch of `parallel` whose release stops the healthy apply of the branch beside it: to Jenkins both are
/// one job, on one agent and in one workspace.
#[test]
fn the_jenkins_step_leaves_the_branch_beside_it_alone() {
    let hcl = "resource \"terraform_data\" \"work\" {
  provisioner \"local-exec\" {
    command = \"touch applies; until [ -e released ]; do sleep 0.1; done\"
  }
}
";
    let project = project_of(Kind::Hcl(hcl.to_owned()));
    let file = "jenkins/vars/tfguard.groovy";
    let scripts = jenkins(file);
    // What the step says of its place, as Groovy makes it of it in one branch and in the other.
    let text = text(file);
    let (place, _) = text.split_once("TFGUARD_DIR=").and_then(|(_, rest)| rest.split_once('"')).expect("a place");
    let of_branch = |branch: &str, script: &str| {
        let place = place.replace("${pwd(tmp: true)}", "$WORKSPACE_TMP").replace("${UUID.randomUUID()}", branch);
        assert!(!place.contains("${"), "{place}");
        format!("(TFGUARD_DIR=\"{place}\"; export TFGUARD_DIR; {script})")
    };
    let run = |command: &str| the_one(&scripts, "exec tfguard").replace("${options.command}", command);
    let release = the_one(&scripts, "tfguard release");
    let script = [
        format!("{} &", of_branch("a", &run("terraform apply -input=false -auto-approve -no-color"))),
        "until [ -e applies ]; do sleep 0.1; done".to_owned(),
        of_branch("b", &run("true")),
        of_branch("b", &release),
        "touch released".to_owned(),
        "wait $!".to_owned(),
        of_branch("a", &release),
        "ls \"$WORKSPACE_TMP\"".to_owned(),
    ];
    let ended = Jenkins::Pipeline.start(Job::new(&project, script.join("\n"))).finish();
    let log = ended.log();
    assert_eq!(ended.script.code, Some(0), "{log}");
    assert!(log.contains("Apply complete!") && !log.contains("stop requested"), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("tfguard-")), "an empty place is left: {log}");
}

/// A Terraform that takes longer to end than Jenkins waits for a step: `post` waits for the supervisor to kill it.
#[test]
fn the_jenkins_pipeline_waits_for_what_outlives_its_step() {
    let project = hanging();
    let scripts = jenkins("jenkins/Jenkinsfile");
    plan(Jenkins::Pipeline.start(Job::new(&project, the_one(&scripts, "terraform plan"))));
    let job = Job::new(&project, the_one(&scripts, "terraform apply")).cleanup(the_one(&scripts, "tfguard release"));
    let job = with_variables(job, &groovy_variables("jenkins/Jenkinsfile"));
    let ended = cancel_hanging(&project, Jenkins::Pipeline.start(job.env("TFGUARD_GRACE", "25s")));
    // Who tells what became of it, `post` or the front, which Jenkins does not kill, is chance.
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
}
