//! What the doctor found: each finding says what was seen, why it matters and how to mend it.

use std::borrow::Cow;

use serde::Serialize;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    #[value(skip)]
    Ok,
    /// Good to know.
    #[value(skip)]
    Note,
    /// Locks may be left behind, or something will be missing when it is needed.
    Warning,
    /// Terraform or the release of its locks will not work.
    Problem,
}

/// What a finding is about. Findings are shown in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// Which process a cancel reaches, and what follows.
    Signals,
    /// The place of tfguard's sessions.
    Session,
    /// What this machine's system offers.
    Machine,
    /// The Terraform that would run.
    Terraform,
    /// The backend's settings and Terraform's environment.
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

impl Area {
    /// The heading above its findings.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Signals => "Signals: what a cancel does here",
            Self::Session => "Session directory",
            Self::Machine => "This machine",
            Self::Terraform => "Terraform",
            Self::Settings => "Settings",
            Self::Credentials => "Credentials and clock",
            Self::Table => "Lock table",
            Self::Bucket => "Bucket",
            Self::Permissions => "Permissions",
        }
    }
}

type Text = Cow<'static, str>;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, for programs: it stays the same from version to version.
    pub id: &'static str,
    /// What it is about.
    pub area: Area,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub seen: Text,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Text>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Text>,
}

impl Finding {
    /// A finding without reason and remedy.
    pub fn new(area: Area, id: &'static str, severity: Severity, seen: impl Into<Text>) -> Self {
        Self { id, area, severity, seen: seen.into(), why: None, fix: None }
    }

    /// Something that is as it should be.
    pub fn ok(area: Area, id: &'static str, seen: impl Into<Text>) -> Self {
        Self::new(area, id, Severity::Ok, seen)
    }

    /// Something that is good to know.
    pub fn note(area: Area, id: &'static str, seen: impl Into<Text>) -> Self {
        Self::new(area, id, Severity::Note, seen)
    }

    /// Something that will hurt one day.
    pub fn warning(area: Area, id: &'static str, seen: impl Into<Text>) -> Self {
        Self::new(area, id, Severity::Warning, seen)
    }

    /// Something that does not work.
    pub fn problem(area: Area, id: &'static str, seen: impl Into<Text>) -> Self {
        Self::new(area, id, Severity::Problem, seen)
    }

    /// The same, with why it matters.
    #[must_use]
    pub fn why(self, why: impl Into<Text>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    /// The same, with how to mend it.
    #[must_use]
    pub fn fix(self, fix: impl Into<Text>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}
