//! Each CI's own language: what its log or its pages make of a line.

use crate::report::ci::markdown;
use crate::report::ci::summary::{Level, Message, Summary};

/// GitHub Actions: a line that the runner makes an annotation of the run.
pub fn github_command(message: &Message) -> String {
    let name = message.level.name();
    format!("::{name} title={}::{}\n", property(&format!("tfguard: {}", message.title)), data(&message.text))
}

/// A text as @actions/core writes it behind a command (`packages/core/src/command.ts`).
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The same, as the value of a property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Azure Pipelines: a line that the agent makes an issue of the run. There are errors and warnings; a notice is a line of the log.
pub fn azure_command(message: &Message) -> String {
    if message.level == Level::Notice {
        return String::new();
    }
    let text = format!("tfguard: {}: {}", message.title, message.text);
    format!("##vso[task.logissue type={}]{}\n", message.level.name(), azure_text(&text))
}

/// A text as the agent reads it back (azure-pipelines-agent, `CommandStringConvertor.cs`).
fn azure_text(text: &str) -> String {
    text.replace('%', "%AZP25").replace(';', "%3B").replace('\r', "%0D").replace('\n', "%0A").replace(']', "%5D")
}

/// GitLab: what opens a section of the log around tfguard's own words, and what closes it; empty if there is nothing to say.
/// `now`: seconds since 1970.
pub fn gitlab_section(summary: &Summary, now: i64) -> (String, String) {
    let Some(Message { level, title, text }) = summary.messages().into_iter().next() else { return Default::default() };
    let colour = match level {
        Level::Error => "\x1b[31;1m",
        Level::Warning => "\x1b[33;1m",
        Level::Notice => "\x1b[1m",
    };
    // Each run of a job has its own.
    let allowed = |char: &char| char.is_ascii_alphanumeric() || *char == '-';
    let name = format!("tfguard_{}", summary.session.chars().filter(allowed).collect::<String>());
    let opens =
        format!("\x1b[0Ksection_start:{now}:{name}[collapsed=false]\r\x1b[0K{colour}tfguard: {title}\x1b[0m: {text}\n");
    (opens, format!("\x1b[0Ksection_end:{now}:{name}\r\x1b[0K\n"))
}

/// Buildkite: an annotation of the build.
#[derive(Debug, PartialEq, Eq)]
pub struct Annotation {
    /// The arguments of `buildkite-agent`.
    pub args: [String; 5],
    /// The Markdown that it reads from its stdin.
    pub body: String,
}

/// The annotation for these runs, none if there is nothing to say of them. It belongs to the whole build, where other jobs
/// have theirs: `job` is this one's ID.
pub fn buildkite_annotation(summaries: &[Summary], job: &str) -> Option<Annotation> {
    let style = match Summary::level_of(summaries)? {
        Level::Notice => "info",
        level => level.name(),
    };
    let args = ["annotate", "--style", style, "--context", &format!("tfguard-{job}")].map(str::to_owned);
    Some(Annotation { args, body: markdown::section(summaries)? })
}
