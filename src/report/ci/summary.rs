//! A run's end as every CI is told it.

use crate::model::{Account, Ending, Unsaved};
use crate::report::finding::{Finding, Outcome};
use crate::text::{printable_command, shortened};

/// How much something matters to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It was taken care of.
    Notice,
    /// Somebody should look.
    Warning,
    /// Somebody has to act.
    Error,
}

impl Level {
    /// The word that GitHub and Azure have for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// How much a finding matters, and the title of its message; none for a lock of which all is well. `lock_left`: somebody has to
/// do something about a lock of the run.
fn judge(finding: &Finding, lock_left: bool) -> (Level, Option<&'static str>) {
    use Level::{Error, Notice, Warning};
    match finding.outcome {
        Outcome::Left => (Error, Some("State lock left behind")),
        Outcome::NeedsALook => (Error, Some("State needs a look")),
        Outcome::Unknown => (if lock_left { Error } else { Warning }, Some("State lock may be left")),
        Outcome::TakenAway => (Warning, Some("State lock taken away during the run")),
        Outcome::Kept => (Warning, Some("State lock kept")),
        // Where there is a next step, Terraform was refused it.
        Outcome::Foreign if finding.next.is_some() => (Warning, Some("State locked by somebody else")),
        Outcome::Foreign => (Notice, Some("State locked by somebody else")),
        Outcome::Released => (Notice, Some("State lock released")),
        Outcome::Unlocked | Outcome::Gone => (Notice, None),
    }
}

/// The end of a run. Its texts are single lines without control characters, whoever wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Names the run.
    pub session: String,
    /// Whether it just ended, with nothing to say of it.
    pub silent: bool,
    /// How the command ended.
    pub ending: String,
    /// Its locks, worst first.
    pub findings: Vec<Finding>,
    /// The resources that a state lacks, as many as a page can have.
    pub resources: Vec<String>,
    /// What to do if no lock needs somebody.
    pub next: Option<String>,
    /// Whether somebody has to do something about a lock.
    pub lock_left: bool,
    /// How much it matters.
    pub level: Level,
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// How much it matters.
    pub level: Level,
    /// A few words.
    pub title: &'static str,
    /// What happened to which lock, and the next step.
    pub text: String,
}

/// Of one text. GitHub shows 4096 characters of a message (actions/runner, `ExecutionContext.cs`).
const LONGEST: usize = 1000;
/// A page shows no more than so many of them: GitHub's takes a megabyte.
const MOST_RESOURCES: usize = 1000;
/// GitHub shows so many messages of a level for a step.
const MOST_MESSAGES: usize = 10;

impl Summary {
    /// The end of this run.
    pub fn of(account: &Account) -> Self {
        let mut findings = account.findings();
        let next = account.next(&findings).map(|next| line(&next));
        for finding in &mut findings {
            let Finding { id, state, line: says, details, next, .. } = finding;
            for detail in details.drain(..) {
                *says = format!("{says}; {detail}");
            }
            for text in [state, says].into_iter().chain(id).chain(next) {
                *text = line(text);
            }
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.outcome));
        let lock_left = account.lock_left();
        let lost = matches!(account.ending, Some(Ending::Unknown { .. } | Ending::StillAlive));
        let least = if next.is_some() || lost { Level::Warning } else { Level::Notice };
        let level = findings.iter().map(|finding| judge(finding, lock_left).0).fold(least, Level::max);
        Self {
            session: line(&account.session),
            silent: !account.is_noteworthy(),
            ending: line(&account.ending_line()),
            findings,
            resources: account
                .all_unsaved()
                .flat_map(Unsaved::lines)
                .take(MOST_RESOURCES)
                .map(|text| line(&text))
                .collect(),
            next,
            lock_left,
            level,
        }
    }

    /// How much the runs matter of which there is something to say; none if there is nothing.
    pub(crate) fn level_of(summaries: &[Self]) -> Option<Level> {
        summaries.iter().filter(|summary| !summary.silent).map(|summary| summary.level).max()
    }

    /// What there is to tell: one message for each lock that is not simply released, worst first, or one of how it ended.
    pub fn messages(&self) -> Vec<Message> {
        if self.silent {
            return Vec::new();
        }
        let mut messages: Vec<_> = self.findings.iter().filter_map(|finding| self.message(finding)).collect();
        if messages.is_empty() {
            let locks = self.findings.iter().map(|finding| finding.line.as_str());
            let text = std::iter::once(self.ending.as_str()).chain(locks).collect::<Vec<_>>().join("; ");
            messages.push(Message {
                level: self.level,
                title: "No state lock is left",
                text: self.with_next(text, None),
            });
        }
        if messages.len() > MOST_MESSAGES {
            let rest = messages.split_off(MOST_MESSAGES - 1);
            let text = format!("{} more locks: see the lines of tfguard in the log", rest.len());
            messages.push(Message { text, ..rest[0].clone() });
        }
        messages
    }

    fn message(&self, finding: &Finding) -> Option<Message> {
        let (level, title) = judge(finding, self.lock_left);
        // Its next step is the run's. What that of another lock asks for is not done for this one.
        let is_released = finding.outcome == Outcome::Released;
        let level = if is_released { self.level.min(Level::Warning) } else { level };
        Some(Message { level, title: title?, text: self.with_next(finding.line.clone(), finding.next.as_ref()) })
    }

    fn with_next(&self, text: String, next: Option<&String>) -> String {
        match next.or(self.next.as_ref()) {
            Some(next) => format!("{text}. Next: {next}"),
            None => text,
        }
    }
}

impl Message {
    /// A message with a text that anybody may have written.
    pub fn new(level: Level, title: &'static str, text: &str) -> Self {
        Self { level, title, text: line(text) }
    }
}

/// A text as one line of bounded length that steers no terminal and no page.
pub(crate) fn line(text: &str) -> String {
    printable_command(&shortened(text, LONGEST))
}
