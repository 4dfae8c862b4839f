//! GitLab, in each of its executors.

use std::os::unix::fs::PermissionsExt as _;

use super::cancel::*;
use crate::install::{can_download, checksum, package, serve};
use crate::read::*;
use crate::simulators::*;
use crate::support::*;

/// What GitLab's template collects.
const REPORTS: &[&str] = &["tfguard.env", "tfguard-annotations.json", "tfguard-junit.xml"];

/// A job of GitLab's template: its scripts, with what the hidden job that it extends has, and its variables.
fn gitlab<'a>(project: &'a Project, name: &str, release: &Server) -> Job<'a> {
    let jobs = yaml("gitlab/tfguard.yml");
    let base = &jobs[".tfguard"];
    assert_eq!(jobs[name]["extends"], ".tfguard");
    let lines = [strings(&base["before_script"]), strings(&jobs[name]["script"])].concat().join("\n");
    let job = Job::new(project, lines).cleanup(strings(&base["after_script"]).join("\n"));
    let mut variables = variables(&base["variables"]);
    variables.insert("TFGUARD_INSTALL_URL".to_owned(), format!("{}/{}", release.url(), package().name));
    variables.insert("TFGUARD_INSTALL_SHA256".to_owned(), checksum());
    // As the runner expands them.
    let dir = project.work().display().to_string();
    variables.values_mut().for_each(|value| *value = value.replace("$CI_PROJECT_DIR", &dir));
    with_variables(job, &variables)
}

#[test]
fn the_gitlab_template_in_the_shell_executor() {
    if !can_download() {
        return;
    }
    let (project, release) = (project(), serve(|_| None));
    plan(GitLabShell.start(gitlab(&project, ".tfguard-plan", &release)));
    let ended = cancel(&project, GitLabShell.start(gitlab(&project, ".tfguard-apply", &release)));
    assert_interrupted_by_tfguard(&ended);
    assert_reported(&project, REPORTS);
}

#[test]
fn the_gitlab_template_in_containers() {
    let (project, release) = (project(), serve(|_| None));
    if !can_download() || !Container::permitted(&Job::new(&project, "")) {
        return;
    }
    plan(GitLabShell.start(gitlab(&project, ".tfguard-plan", &release)));
    let ended = cancel(&project, GitLabKubernetes.start(gitlab(&project, ".tfguard-apply", &release)));
    assert!(ended.log().contains("stop requested"), "{}", ended.log());
    assert_reported(&project, REPORTS);
    plan(GitLabShell.start(gitlab(&project, ".tfguard-plan", &release)));
    let ended = cancel(&project, GitLabDocker::default().start(gitlab(&project, ".tfguard-apply", &release)));
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    assert_reported(&project, REPORTS);
}

/// What is in the file is the ID token, and nobody else can read it.
#[test]
fn the_gitlab_template_keeps_an_id_token_for_the_cleanup() {
    if !can_download() {
        return;
    }
    let project = Project::new(Aws::shared(), Kind::Quick).table().init(&Tools::get().any_terraform());
    let release = serve(|_| None);
    let file = project.work().join(".aws-id-token");
    let job = gitlab(&project, ".tfguard-plan", &release);
    plan(GitLabShell.start(job.env("AWS_ID_TOKEN", "a.b.c").env("AWS_WEB_IDENTITY_TOKEN_FILE", &file)));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a.b.c");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// The container goes away with everything in it, and `after_script` releases, in another one.
#[test]
fn the_gitlab_template_releases_what_a_container_left() {
    let (project, release) = (hanging(), serve(|_| None));
    if !can_download() || !Container::permitted(&Job::new(&project, "")) {
        return;
    }
    plan(GitLabShell.start(gitlab(&project, ".tfguard-plan", &release)));
    let ended = cancel_hanging(&project, GitLabDocker::default().start(gitlab(&project, ".tfguard-apply", &release)));
    assert!(ended.cleanup[0].err().contains("left by Terraform, deleted by tfguard"), "{}", ended.log());
    assert_reported(&project, REPORTS);
}
