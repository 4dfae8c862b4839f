//! The CI systems: how each is told, what it calls a run, what that works on, for whom and where, and what it leaves a
//! cancelled job. The variables are those that each documents.

use crate::ci::grace::Surroundings;
use crate::model::{Environment, Origin, Provider, Run, Term};
use crate::text::without_user;

/// A CI system. An empty name is no variable.
pub struct System {
    provider: Provider,
    /// The variables any of which tells it, each with its value; `*` for any.
    known_by: &'static [(&'static str, &'static str)],
    /// The link to the run.
    url: fn(&Environment) -> Option<String>,
    job: &'static str,
    /// Which attempt at the job.
    attempt: &'static str,
    commit: &'static str,
    /// Who started the run; the first that is set counts.
    actors: &'static [&'static str],
    /// The directory that a later step of the same job can read.
    directory: &'static str,
    /// By these it finds processes to kill (Jenkins' walks, the orphan hunts of GitHub and Azure). tfguard ends what it
    /// starts, so Terraform and the supervisor go without them.
    hunts_by: &'static [&'static str],
    /// The variables and values that tell the job's cleanup step of a cancel, and of the job's time limit.
    cancelled: (&'static str, &'static str),
    timed_out: (&'static str, &'static str),
    /// Its log shows colours by itself.
    pub(super) shows_colours: bool,
    /// What it leaves between its first signal and the end.
    grace: fn(&Surroundings) -> Term,
}

/// One that tells nothing.
const UNKNOWN: System = System {
    provider: Provider::Other,
    known_by: &[],
    url: |_| None,
    job: "",
    attempt: "",
    commit: "",
    actors: &[],
    directory: "",
    hunts_by: &[],
    cancelled: ("", ""),
    timed_out: ("", ""),
    shows_colours: false,
    grace: |of| of.elsewhere(true),
};

/// All of them. The first that is told counts: several set `CI`, and Jenkins' variables reach what its builds start.
static SYSTEMS: [System; 7] = [
    System {
        provider: Provider::GithubActions,
        known_by: &[("GITHUB_ACTIONS", "true")],
        url: |env| {
            let page = format!("{}/{}", env.text("GITHUB_SERVER_URL")?, env.text("GITHUB_REPOSITORY")?);
            Some(format!("{page}/actions/runs/{}", env.text("GITHUB_RUN_ID")?)).filter(|_| !is_act(env))
        },
        job: "GITHUB_JOB",
        attempt: "GITHUB_RUN_ATTEMPT",
        commit: "GITHUB_SHA",
        actors: &["GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR"],
        directory: "RUNNER_TEMP",
        hunts_by: &["RUNNER_TRACKING_ID"],
        shows_colours: true,
        grace: |of| of.github(),
        ..UNKNOWN
    },
    System {
        provider: Provider::Gitlab,
        known_by: &[("GITLAB_CI", "true")],
        url: |env| env.text("CI_JOB_URL").map(str::to_owned),
        job: "CI_JOB_ID",
        commit: "CI_COMMIT_SHA",
        actors: &["GITLAB_USER_LOGIN"],
        directory: "CI_PROJECT_DIR",
        cancelled: ("CI_JOB_STATUS", "canceled"),
        timed_out: ("CI_JOB_STATUS", "timedout"),
        shows_colours: true,
        grace: |of| of.gitlab(),
        ..UNKNOWN
    },
    System {
        provider: Provider::Buildkite,
        known_by: &[("BUILDKITE", "true")],
        url: |env| {
            let job = env.text("BUILDKITE_JOB_ID").map(|job| format!("#{job}")).unwrap_or_default();
            Some(env.text("BUILDKITE_BUILD_URL")?.to_owned() + &job)
        },
        job: "BUILDKITE_JOB_ID",
        attempt: "BUILDKITE_RETRY_COUNT",
        commit: "BUILDKITE_COMMIT",
        actors: &["BUILDKITE_BUILD_CREATOR"],
        directory: "BUILDKITE_BUILD_CHECKOUT_PATH",
        cancelled: ("BUILDKITE_JOB_CANCELLED", "true"),
        timed_out: ("BUILDKITE_JOB_TIMED_OUT", "true"),
        shows_colours: true,
        grace: |of| of.buildkite(),
        ..UNKNOWN
    },
    System {
        provider: Provider::Azure,
        known_by: &[("TF_BUILD", "true")],
        url: |env| {
            let project = env.text("SYSTEM_COLLECTIONURI")?.to_owned() + env.text("SYSTEM_TEAMPROJECT")?;
            Some(format!("{project}/_build/results?buildId={}", env.text("BUILD_BUILDID")?))
        },
        job: "SYSTEM_JOBID",
        attempt: "SYSTEM_JOBATTEMPT",
        commit: "BUILD_SOURCEVERSION",
        actors: &["BUILD_REQUESTEDFOR"],
        directory: "AGENT_TEMPDIRECTORY",
        hunts_by: &["VSTS_PROCESS_LOOKUP_ID"],
        shows_colours: true,
        grace: |of| of.azure(),
        ..UNKNOWN
    },
    System {
        provider: Provider::Circleci,
        known_by: &[("CIRCLECI", "true")],
        url: |env| env.text("CIRCLE_BUILD_URL").map(str::to_owned),
        job: "CIRCLE_WORKFLOW_JOB_ID",
        commit: "CIRCLE_SHA1",
        actors: &["CIRCLE_USERNAME"],
        grace: |of| of.unhurried("CircleCI documents neither a signal nor a time"),
        ..UNKNOWN
    },
    // Its log has colours with a plugin only, which nothing tells of (`AnsiColor`).
    System {
        provider: Provider::Jenkins,
        known_by: &[("JENKINS_URL", "*"), ("JENKINS_SERVER_COOKIE", "*"), ("JENKINS_NODE_COOKIE", "*")],
        url: |env| env.text("BUILD_URL").map(str::to_owned),
        job: "BUILD_TAG",
        // Of the Git plugin, and of the build user vars plugin.
        commit: "GIT_COMMIT",
        actors: &["BUILD_USER_ID"],
        directory: "WORKSPACE_TMP",
        hunts_by: &["JENKINS_SERVER_COOKIE", "JENKINS_NODE_COOKIE", "HUDSON_COOKIE", "HUDSON_SERVER_COOKIE"],
        grace: |of| of.jenkins(),
        ..UNKNOWN
    },
    System { known_by: &[("CI", "*")], ..UNKNOWN },
];

impl System {
    /// The one in which this runs; none outside a CI.
    pub fn detect(env: &Environment) -> Option<&'static Self> {
        let is_told = |(name, wanted): &(&str, &str)| match env.text(name) {
            // It is what people set who want no CI.
            Some(value) if *wanted == "*" => *name != "CI" || (value != "false" && value != "0"),
            Some(value) => value.eq_ignore_ascii_case(wanted),
            None => false,
        };
        SYSTEMS.iter().find(|system| system.known_by.iter().any(is_told))
    }
}

/// The grace that fits the place.
pub fn grace(of: &Surroundings) -> Term {
    System::detect(of.env).map_or_else(|| of.elsewhere(false), |system| (system.grace)(of))
}

/// The variables that name a directory which a later step of the same job can read.
pub fn directories() -> impl Iterator<Item = &'static str> {
    SYSTEMS.iter().map(|system| system.directory).filter(|name| !name.is_empty())
}

/// That of a CI system.
pub fn directory_of(provider: Provider) -> Option<&'static str> {
    let system = SYSTEMS.iter().find(|system| system.provider == provider)?;
    Some(system.directory).filter(|name| !name.is_empty())
}

/// The variables by which CI systems find processes to kill.
pub fn hunting_variables() -> impl Iterator<Item = &'static str> {
    SYSTEMS.iter().flat_map(|system| system.hunts_by).copied()
}

impl Run {
    /// Whether it tells its job from others at all: of a CI that is known by nothing but `CI`, all jobs are alike.
    pub fn names_its_job(&self) -> bool {
        self.url.is_some() || self.job.is_some()
    }

    /// Reads it from the environment; none outside a CI.
    pub fn detect(env: &Environment) -> Option<Self> {
        let System { provider, url, job, attempt, .. } = System::detect(env)?;
        // It may be that of a server with a password.
        let url = url(env).map(without_user);
        let [job, attempt] = [job, attempt].map(|name| env.text(name).map(str::to_owned));
        Some(Self { provider: *provider, url, job, attempt })
    }
}

/// Whether this is act itself, whose runs have no page: it numbers each of them 1. Gitea's and Forgejo's runners, built on
/// it, say who they are.
pub fn is_act(env: &Environment) -> bool {
    env.has("ACT") && !env.has("GITEA_ACTIONS") && !env.has("FORGEJO_ACTIONS")
}

/// How the job ended whose cleanup step this is, where the CI tells and it did not end by itself: GitLab's `after_script`
/// and Buildkite's hooks.
pub fn how_the_job_ended(env: &Environment) -> Option<&'static str> {
    let is = |(name, value): (&str, &str)| env.text(name) == Some(value);
    if SYSTEMS.iter().any(|system| is(system.timed_out)) {
        Some("the CI ended the job at its time limit")
    } else if SYSTEMS.iter().any(|system| is(system.cancelled)) {
        Some("the CI cancelled the job")
    } else {
        None
    }
}

impl Origin {
    /// Reads it from the environment.
    pub fn detect(env: &Environment) -> Self {
        let get = |name: &str| env.text(name).map(str::to_owned);
        let on_jenkins = || Some(format!("{}#{}", get("NODE_NAME")?, get("EXECUTOR_NUMBER")?));
        Self {
            // Buildkite says HEAD of a build for which nobody named a commit.
            commit: SYSTEMS.iter().find_map(|system| get(system.commit)).filter(|commit| commit != "HEAD"),
            actor: SYSTEMS.iter().flat_map(|system| system.actors).find_map(|name| get(name)),
            runner: get("RUNNER_NAME").or_else(on_jenkins).or_else(|| get("CIRCLE_NODE_INDEX")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Option<Run> {
        Run::detect(&variables.iter().copied().collect())
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
        let told = |name: &str, value: &str| how_the_job_ended(&[(name, value)].into_iter().collect());
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
        let detect = |variables: &[(&str, &str)]| Origin::detect(&variables.iter().copied().collect());
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
