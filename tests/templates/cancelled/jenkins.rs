//! Jenkins.

use super::cancel::*;
use crate::read::*;
use crate::simulators::*;

/// The `sh` scripts of a Jenkins template.
fn jenkins(template: &str) -> Vec<String> {
    groovy(template).into_iter().map(|(_, script)| script).collect()
}

#[test]
fn the_jenkins_pipeline() {
    let project = project();
    let scripts = jenkins("jenkins/Jenkinsfile");
    let mut variables = groovy_variables("jenkins/Jenkinsfile");
    let dir = project.work().display().to_string();
    variables.values_mut().for_each(|value| *value = value.replace("${WORKSPACE}", &dir));
    plan(Jenkins::Pipeline.start(Job::new(&project, the_one(&scripts, "terraform plan"))));
    let job = Job::new(&project, the_one(&scripts, "terraform apply")).cleanup(the_one(&scripts, "tfguard release"));
    let ended = cancel(&project, Jenkins::Pipeline.start(with_variables(job, &variables)));
    assert_interrupted_by_tfguard(&ended);
    assert_reported(&project, &["tfguard-junit.xml"]);
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

/// A Terraform that takes longer to end than Jenkins waits for a step: `post` waits for the supervisor to kill it.
#[test]
fn the_jenkins_pipeline_waits_for_what_outlives_its_step() {
    let project = hanging();
    let scripts = jenkins("jenkins/Jenkinsfile");
    plan(Jenkins::Pipeline.start(Job::new(&project, the_one(&scripts, "terraform plan"))));
    let job = Job::new(&project, the_one(&scripts, "terraform apply")).cleanup(the_one(&scripts, "tfguard release"));
    let job = with_variables(job, &groovy_variables("jenkins/Jenkinsfile")).env("TFGUARD_JUNIT", "");
    let ended = cancel_hanging(&project, Jenkins::Pipeline.start(job.env("TFGUARD_GRACE", "25s")));
    // Who tells what became of it, `post` or the front, which Jenkins does not kill, is chance.
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
}
