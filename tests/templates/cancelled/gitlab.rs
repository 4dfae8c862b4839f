//! GitLab, in each of its executors.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::cancel::*;
use crate::simulators::*;
use crate::support::*;
use crate::templates::install::{can_download, released, serve};
use crate::templates::read::*;

/// The variables that the template collects for later jobs tell of the run. Their file is removed.
#[track_caller]
fn assert_reported(project: &Project) {
    let file = project.work().join("tfguard.env");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("tfguard.env: {error}"));
    assert!(text.contains("TFGUARD_RESULT_LOCK_LEFT=false\n"), "{text}");
    std::fs::remove_file(file).unwrap();
}

/// One YAML over another: hashes are merged, all else is replaced.
fn merged(under: Value, over: &Value) -> Value {
    match (under, over) {
        (Value::Object(mut under), Value::Object(over)) => {
            for (name, value) in over {
                let there = under.remove(name).unwrap_or_default();
                under.insert(name.clone(), merged(there, value));
            }
            Value::Object(under)
        }
        (_, over) => over.clone(),
    }
}

/// A job with what it extends, the later over the earlier.
fn extended(jobs: &Value, name: &str) -> Value {
    let parents = match &jobs[name]["extends"] {
        Value::Null => Vec::new(),
        Value::String(parent) => vec![parent.clone()],
        parents => strings(parents),
    };
    let under = parents.iter().fold(Value::Null, |under, parent| merged(under, &extended(jobs, parent)));
    merged(under, &jobs[name])
}

/// A job of the example as GitLab puts it together: the file over what it includes, then what the job extends; the
/// variables of a job win over those of the file.
fn assembled(name: &str) -> Value {
    let jobs = merged(released("tfguard.gitlab-ci.yml"), &yaml("gitlab/example.gitlab-ci.yml"));
    assert!(string(&jobs["include"][0]["remote"]).ends_with("/tfguard.gitlab-ci.yml"));
    let job = extended(&jobs, name);
    let variables = merged(jobs["variables"].clone(), &job["variables"]);
    merged(job, &json!({ "variables": variables }))
}

/// A job of the example: its scripts and its variables.
fn gitlab<'a>(project: &'a Project, name: &str, release: &Server) -> Job<'a> {
    let template = assembled(name);
    let lines = [strings(&template["before_script"]), strings(&template["script"])].concat().join("\n");
    let job = Job::new(project, lines).cleanup(strings(&template["after_script"]).join("\n"));
    let mut variables = variables(&template["variables"]);
    variables.insert("TFGUARD_INSTALL_URL".to_owned(), release.url());
    // As the runner expands them.
    let dir = project.work().display().to_string();
    variables.values_mut().for_each(|value| *value = value.replace("$CI_PROJECT_DIR", &dir));
    let root = project.work().join(&variables["TF_ROOT"]);
    if !root.exists() {
        std::os::unix::fs::symlink(".", root).unwrap();
    }
    with_variables(job, &variables)
}

/// GitLab lets a variable of a job win over one that the including file sets for all jobs. So the template once planned
/// in the root of the repository, whatever directory was named.
#[test]
fn the_gitlab_template_heeds_the_variables_of_the_file_that_includes_it() {
    let own = yaml("gitlab/example.gitlab-ci.yml")["variables"].take();
    assert_eq!(own["TF_ROOT"], "production");
    for name in ["plan", "apply"] {
        let job = assembled(name);
        for (variable, value) in own.as_object().unwrap() {
            assert_eq!(&job["variables"][variable], value, "{name}");
        }
    }
}

#[test]
fn the_gitlab_template_in_the_shell_executor() {
    if !can_download() {
        return;
    }
    let (project, release) = (project(), serve(|_| None));
    plan(GitLabShell.start(gitlab(&project, "plan", &release)));
    let ended = cancel(&project, GitLabShell.start(gitlab(&project, "apply", &release)));
    assert_interrupted_by_tfguard(&ended);
    assert_reported(&project);
}

#[test]
fn the_gitlab_template_in_containers() {
    let (project, release) = (project(), serve(|_| None));
    if !can_download() || !Container::permitted(&Job::new(&project, "")) {
        return;
    }
    plan(GitLabShell.start(gitlab(&project, "plan", &release)));
    let ended = cancel(&project, GitLabKubernetes.start(gitlab(&project, "apply", &release)));
    assert!(ended.log().contains("stop requested"), "{}", ended.log());
    assert_reported(&project);
    plan(GitLabShell.start(gitlab(&project, "plan", &release)));
    let ended = cancel(&project, GitLabDocker::default().start(gitlab(&project, "apply", &release)));
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    assert_reported(&project);
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
    let job = gitlab(&project, "plan", &release);
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
    plan(GitLabShell.start(gitlab(&project, "plan", &release)));
    let ended = cancel_hanging(&project, GitLabDocker::default().start(gitlab(&project, "apply", &release)));
    assert_deleted_by_tfguard(&ended);
    assert_reported(&project);
}
