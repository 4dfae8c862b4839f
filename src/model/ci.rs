//! The CI run that a guarded run belongs to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The CI systems that tfguard knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// GitHub Actions, and what looks like it (Gitea, Forgejo, act).
    GithubActions,
    Gitlab,
    Jenkins,
    Buildkite,
    Azure,
    Circleci,
    /// Another one that sets `CI`, or one that a later tfguard knows.
    #[serde(other)]
    Other,
}

/// The run of a CI system in which tfguard works. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub provider: Provider,
    /// A link to the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Which attempt at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
}

/// The change that a CI run works on and who started it. The variables are those that each CI documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Who started the run, by the CI's name for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The runner, where the CI's names for the job do not tell jobs apart that run at the same time: those of a matrix
    /// on GitHub, parallel branches on Jenkins, parallel nodes on CircleCI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<String>,
}

/// A time that a run goes by, and why it is what it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// The time.
    #[serde(rename = "seconds", with = "seconds")]
    pub duration: Duration,
    /// Why, in words.
    pub why: String,
}

/// For `#[serde(with)]`.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
