//! A check, what the facts answer to it, and what is told of that.

use serde::Serialize;

use crate::aws::StoreError;
use crate::commands::doctor::facts::Facts;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    #[value(skip)]
    Ok,
    /// Good to know, or it could not be looked at.
    #[value(skip)]
    Note,
    /// Locks may be left behind, or something will be missing when it is needed.
    Warning,
    /// Terraform or the release of its locks will not work.
    Problem,
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// What stands between the CI and tfguard, and how much time a cancel leaves.
    Signals,
    /// The place of tfguard's sessions.
    Session,
    /// The program that would run.
    Terraform,
    /// Which state it is, and how it is locked.
    Settings,
    /// Who asks AWS.
    Credentials,
    /// The lock table.
    Table,
    /// The bucket of state and lockfile.
    Bucket,
    /// What the credentials may do.
    Permissions,
}

/// What the facts answer to a check, with what stands for `{}` in its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is as it should be.
    Right(String),
    /// It is not.
    Wrong(String),
    /// It could not be looked at, for this reason.
    Unknown(String),
}

impl Answer {
    /// Of what is right or wrong, with its detail.
    pub fn of(right: bool, detail: impl Into<String>) -> Option<Self> {
        Some(if right { Self::Right(detail.into()) } else { Self::Wrong(detail.into()) })
    }

    /// Of what a service told; what it refused to tell is unknown.
    pub fn told<T>(told: &Result<T, StoreError>, judge: impl FnOnce(&T) -> Option<Self>) -> Option<Self> {
        told.as_ref().map_or_else(|error| Some(Self::Unknown(error.to_string())), judge)
    }
}

/// One thing that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name, for programs: it stays the same from version to version.
    pub id: &'static str,
    /// What it is about.
    pub area: Area,
    /// What is asked: the sentence if it is so.
    pub right: &'static str,
    /// The sentence if it is not, and why that matters.
    pub wrong: &'static str,
    /// How bad it is then.
    pub severity: Severity,
    /// What to do then.
    pub remedy: &'static str,
    /// What the facts answer; none where the question does not arise.
    pub answer: fn(&Facts) -> Option<Answer>,
}

/// What is told of one thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check.
    pub id: &'static str,
    /// What it is about.
    pub area: Area,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub seen: String,
    /// Why it matters, or cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    /// What is to be told.
    #[must_use]
    pub fn finding(&self, facts: &Facts) -> Option<Finding> {
        let (severity, seen, why, fix) = match (self.answer)(facts)? {
            Answer::Right(detail) => (Severity::Ok, self.right.replace("{}", &detail), None, None),
            Answer::Wrong(detail) => {
                (self.severity, self.wrong.replace("{}", &detail), None, Some(self.remedy.replace("{}", &detail)))
            }
            Answer::Unknown(why) => {
                (Severity::Note, format!("cannot be told: {}", self.right.replace("{}", "…")), Some(why), None)
            }
        };
        Some(Finding { id: self.id, area: self.area, severity, seen, why, fix })
    }
}
