//! Which CI system this is, what it calls this run, and what the run works on, for whom, and where. The variables are those that each documents.

use crate::model::{Origin, Provider, Run};
use crate::text::without_user;

/// Variables by which CI systems find processes to kill (Jenkins' walks, the orphan hunts of GitHub and Azure). tfguard
/// ends what it starts, so Terraform and the supervisor go without them.
pub const HUNTING_VARIABLES: &[&str] = &[
    "JENKINS_SERVER_COOKIE",
    "JENKINS_NODE_COOKIE",
    "HUDSON_COOKIE",
    "HUDSON_SERVER_COOKIE",
    "RUNNER_TRACKING_ID",
    "VSTS_PROCESS_LOOKUP_ID",
];

impl Run {
    /// Whether it tells its job from others at all: of a CI that is known by nothing but `CI`, all jobs are alike.
    #[must_use]
    pub fn names_its_job(&self) -> bool {
        self.url.is_some() || self.job.is_some()
    }

    /// Reads it from the environment; none outside a CI.
    pub fn detect(env: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let is = |name: &str, value: &str| get(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
        let run = |provider, url: Option<String>, job: &str, attempt: &str| {
            // It may be that of a server with a password.
            let url = url.map(without_user);
            Some(Self { provider, url, job: get(job), attempt: get(attempt) })
        };
        if is("GITHUB_ACTIONS", "true") {
            let url = (|| {
                if is_act(&env) {
                    return None;
                }
                Some(format!(
                    "{}/{}/actions/runs/{}",
                    get("GITHUB_SERVER_URL")?,
                    get("GITHUB_REPOSITORY")?,
                    get("GITHUB_RUN_ID")?
                ))
            })();
            run(Provider::GithubActions, url, "GITHUB_JOB", "GITHUB_RUN_ATTEMPT")
        } else if is("GITLAB_CI", "true") {
            run(Provider::Gitlab, get("CI_JOB_URL"), "CI_JOB_ID", "")
        } else if is("BUILDKITE", "true") {
            let url = get("BUILDKITE_BUILD_URL").map(|url| match get("BUILDKITE_JOB_ID") {
                Some(job) => format!("{url}#{job}"),
                None => url,
            });
            run(Provider::Buildkite, url, "BUILDKITE_JOB_ID", "BUILDKITE_RETRY_COUNT")
        } else if is("TF_BUILD", "true") {
            let url = (|| {
                let (collection, project) = (get("SYSTEM_COLLECTIONURI")?, get("SYSTEM_TEAMPROJECT")?);
                Some(format!("{collection}{project}/_build/results?buildId={}", get("BUILD_BUILDID")?))
            })();
            run(Provider::Azure, url, "SYSTEM_JOBID", "SYSTEM_JOBATTEMPT")
        } else if is("CIRCLECI", "true") {
            run(Provider::Circleci, get("CIRCLE_BUILD_URL"), "CIRCLE_WORKFLOW_JOB_ID", "")
        } else if ["JENKINS_URL", "JENKINS_SERVER_COOKIE", "JENKINS_NODE_COOKIE"].iter().any(|name| get(name).is_some())
        {
            run(Provider::Jenkins, get("BUILD_URL"), "BUILD_TAG", "")
        } else if get("CI").is_some_and(|value| value != "false" && value != "0") {
            run(Provider::Other, None, "", "")
        } else {
            None
        }
    }
}

/// Whether this is act itself, whose runs have no page: it numbers each of them 1. Gitea's and Forgejo's runners, built on
/// it, say who they are.
pub fn is_act(env: impl Fn(&str) -> Option<String>) -> bool {
    let is_set = |name: &str| env(name).is_some_and(|value| !value.is_empty());
    is_set("ACT") && !is_set("GITEA_ACTIONS") && !is_set("FORGEJO_ACTIONS")
}

/// How the job ended whose cleanup step this is, where the CI tells and it did not end by itself: GitLab's `after_script`
/// and Buildkite's hooks.
pub fn how_the_job_ended(env: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let is = |name: &str, value: &str| env(name).as_deref() == Some(value);
    if is("CI_JOB_STATUS", "timedout") || is("BUILDKITE_JOB_TIMED_OUT", "true") {
        Some("the CI ended the job at its time limit")
    } else if is("CI_JOB_STATUS", "canceled") || is("BUILDKITE_JOB_CANCELLED", "true") {
        Some("the CI cancelled the job")
    } else {
        None
    }
}

/// By provider in the order of [`crate::model::Provider`]; `GIT_COMMIT` is that of Jenkins' Git plugin.
const COMMITS: [&str; 6] =
    ["GITHUB_SHA", "CI_COMMIT_SHA", "BUILDKITE_COMMIT", "BUILD_SOURCEVERSION", "CIRCLE_SHA1", "GIT_COMMIT"];
/// `BUILD_USER_ID` is that of Jenkins' build user vars plugin.
const ACTORS: [&str; 7] = [
    "GITHUB_TRIGGERING_ACTOR",
    "GITHUB_ACTOR",
    "GITLAB_USER_LOGIN",
    "BUILDKITE_BUILD_CREATOR",
    "BUILD_REQUESTEDFOR",
    "CIRCLE_USERNAME",
    "BUILD_USER_ID",
];

impl Origin {
    /// Reads it from the environment.
    pub fn detect(env: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| names.iter().filter_map(|name| env(name)).find(|value| !value.is_empty());
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let on_jenkins = || Some(format!("{}#{}", get("NODE_NAME")?, get("EXECUTOR_NUMBER")?));
        let runner = get("RUNNER_NAME").or_else(on_jenkins).or_else(|| get("CIRCLE_NODE_INDEX"));
        // Buildkite says HEAD of a build for which nobody named a commit.
        Self { commit: first(&COMMITS).filter(|commit| commit != "HEAD"), actor: first(&ACTORS), runner }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Option<Run> {
        Run::detect(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn each_ci_is_known_by_its_own_variables() {
        type Case = (&'static [(&'static str, &'static str)], Option<(Provider, Option<&'static str>)>);
        let cases: &[Case] = &[
            (&[], None),
            (&[("CI", "false")], None),
            (&[("CI", "true")], Some((Provider::Other, None))),
            (
                &[
                    ("CI", "true"),
                    ("GITHUB_ACTIONS", "true"),
                    ("GITHUB_SERVER_URL", "https://github.com"),
                    ("GITHUB_REPOSITORY", "o/r"),
                    ("GITHUB_RUN_ID", "7"),
                ],
                Some((Provider::GithubActions, Some("https://github.com/o/r/actions/runs/7"))),
            ),
            (
                &[
                    ("GITHUB_ACTIONS", "true"),
                    ("ACT", "true"),
                    ("GITHUB_SERVER_URL", "https://github.com"),
                    ("GITHUB_REPOSITORY", "o/r"),
                    ("GITHUB_RUN_ID", "1"),
                ],
                Some((Provider::GithubActions, None)),
            ),
            (
                &[
                    ("GITHUB_ACTIONS", "true"),
                    ("ACT", "true"),
                    ("GITEA_ACTIONS", "true"),
                    ("GITHUB_SERVER_URL", "https://git.example"),
                    ("GITHUB_REPOSITORY", "o/r"),
                    ("GITHUB_RUN_ID", "5"),
                ],
                Some((Provider::GithubActions, Some("https://git.example/o/r/actions/runs/5"))),
            ),
            (
                &[("GITLAB_CI", "true"), ("CI_JOB_URL", "https://x/-/jobs/1")],
                Some((Provider::Gitlab, Some("https://x/-/jobs/1"))),
            ),
            (
                &[("JENKINS_NODE_COOKIE", "abc"), ("BUILD_URL", "http://me:hush@j/1/")],
                Some((Provider::Jenkins, Some("http://j/1/"))),
            ),
            (
                &[("BUILDKITE", "true"), ("BUILDKITE_BUILD_URL", "https://b/1"), ("BUILDKITE_JOB_ID", "j")],
                Some((Provider::Buildkite, Some("https://b/1#j"))),
            ),
            (
                &[
                    ("TF_BUILD", "True"),
                    ("SYSTEM_COLLECTIONURI", "https://a/"),
                    ("SYSTEM_TEAMPROJECT", "p"),
                    ("BUILD_BUILDID", "3"),
                ],
                Some((Provider::Azure, Some("https://a/p/_build/results?buildId=3"))),
            ),
            (&[("CIRCLECI", "true")], Some((Provider::Circleci, None))),
        ];
        for (variables, expected) in cases {
            let found = detect(variables);
            assert_eq!(found.as_ref().map(|run| (run.provider, run.url.as_deref())), *expected, "{variables:?}");
        }
    }

    #[test]
    fn the_cleanup_step_is_told_how_its_job_ended() {
        let told = |name: &str, value: &str| how_the_job_ended(|asked| (asked == name).then(|| value.to_owned()));
        for (name, value) in [("CI_JOB_STATUS", "canceled"), ("BUILDKITE_JOB_CANCELLED", "true")] {
            assert_eq!(told(name, value), Some("the CI cancelled the job"), "{name}");
        }
        for (name, value) in [("CI_JOB_STATUS", "timedout"), ("BUILDKITE_JOB_TIMED_OUT", "true")] {
            assert_eq!(told(name, value), Some("the CI ended the job at its time limit"), "{name}");
        }
        for (name, value) in
            [("CI_JOB_STATUS", "success"), ("CI_JOB_STATUS", "failed"), ("BUILDKITE_JOB_CANCELLED", "")]
        {
            assert_eq!(told(name, value), None, "{name}={value}");
        }
    }

    #[test]
    fn what_the_ci_tells_is_found_and_an_empty_variable_tells_nothing() {
        let detect = |variables: &[(&str, &str)]| {
            Origin::detect(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(detect(&[]), Origin::default());
        let github =
            [("GITHUB_SHA", "0a"), ("GITHUB_TRIGGERING_ACTOR", ""), ("GITHUB_ACTOR", "al"), ("RUNNER_NAME", "r")];
        assert_eq!(detect(&github), Origin { commit: text("0a"), actor: text("al"), runner: text("r") });
        let jenkins = [("GIT_COMMIT", "0b"), ("NODE_NAME", "built-in"), ("EXECUTOR_NUMBER", "3")];
        assert_eq!(detect(&jenkins), Origin { commit: text("0b"), actor: None, runner: text("built-in#3") });
        assert_eq!(detect(&jenkins[..2]).runner, None);
        assert_eq!(detect(&[("CIRCLE_NODE_INDEX", "1")]).runner, text("1"));
        assert_eq!(detect(&[("BUILDKITE_COMMIT", "HEAD")]), Origin::default());
    }
}
