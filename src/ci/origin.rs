//! What a CI run works on, for whom, and where.

use crate::model::Origin;

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
