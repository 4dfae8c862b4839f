//! GitLab's runner (gitlab-org/gitlab-runner). What all its executors have in common: the script that it generates around
//! the job's lines (`shells/bash.go`), and the job's variables.

mod docker;
mod kubernetes;
mod shell;

use std::ffi::OsString;
use std::time::Duration;

pub use docker::GitLabDocker;
pub use kubernetes::GitLabKubernetes;
pub use shell::{GitLabShell, GitLabSteps, GitLabUser};

use super::Job;

/// What an `after_script` has (`RUNNER_AFTER_SCRIPT_TIMEOUT`).
const AFTER_SCRIPT: Duration = Duration::from_secs(5 * 60);

/// The variables of a job. Which kind of executor it is, `more` tells.
fn variables(job: &Job, more: (&str, &str)) -> Vec<(String, OsString)> {
    let url = format!("https://gitlab.example/group/project/-/jobs/{}", job.id());
    let started = jiff::Timestamp::now().to_string();
    let texts = [
        ("CI", "true"),
        ("GITLAB_CI", "true"),
        ("CI_JOB_ID", job.id()),
        ("CI_JOB_URL", &url),
        ("CI_JOB_NAME", "apply"),
        ("CI_JOB_TIMEOUT", "3600"),
        ("CI_JOB_STARTED_AT", &started),
        more,
    ];
    let texts = texts.map(|(name, value)| (name.to_owned(), value.into()));
    texts.into_iter().chain([("CI_PROJECT_DIR".to_owned(), job.project().work().into_os_string())]).collect()
}

/// The script that the runner makes of a job's lines. Both shells put a TERM off until their foreground command has ended.
/// `begin` is what an executor adds.
fn generated(job: &Job, variables: &[(String, OsString)], begin: &str, lines: &str) -> String {
    let mut body = String::from("\n");
    let own = job.variables().iter().map(|(name, value)| (name.to_string_lossy().into_owned(), value.clone()));
    let path = ("PATH".to_owned(), job.path());
    for (name, value) in variables.iter().cloned().chain(own).chain([path]) {
        body += &format!("export {name}={}\n", quoted(&value.to_string_lossy()));
    }
    body += &format!("cd {}\n{lines}\n", quoted(&job.project().work().to_string_lossy()));
    format!(
        "#!/usr/bin/env bash\n\n\
         trap 'exit 1' TERM\n\n\
         {begin}\
         case \"$(set -o)\" in *pipefail*) set -o pipefail ;; esac\n\
         set -o errexit +o noclobber\n\
         (trap 'exit 1' TERM; eval {}) < /dev/null\n\
         exit 0\n",
        quoted(&body)
    )
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
