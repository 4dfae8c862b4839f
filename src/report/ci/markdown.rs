//! The end of runs as a section of Markdown, for the pages of GitHub and Buildkite.

use std::fmt::Write as _;

use crate::report::ci::summary::{Level, Summary};

/// Of the runs of which there is something to say: a heading, how each ended, a table of its locks, the next steps. None if
/// there is nothing to say.
pub fn section(summaries: &[Summary]) -> Option<String> {
    let (mark, heading) = match Summary::level_of(summaries)? {
        Level::Error => ("❌", "somebody has to act"),
        Level::Warning => ("⚠️", "have a look"),
        Level::Notice => ("ℹ️", "taken care of"),
    };
    let mut text = format!("### {mark} tfguard: {heading}\n\n");
    for summary in summaries.iter().filter(|summary| !summary.silent) {
        let _ = write!(text, "{}\n\n", plain(&summary.ending));
        if !summary.findings.is_empty() {
            text += "| State | Lock | What became of it | Next |\n| --- | --- | --- | --- |\n";
            for finding in &summary.findings {
                let id = finding.id.as_deref().map(code).unwrap_or_default();
                let next = finding.next.as_deref().map(code).unwrap_or_default();
                let (state, line) = (code(&finding.state), plain(&finding.line));
                let _ = writeln!(text, "| {state} | {id} | {line} | {next} |");
            }
            text.push('\n');
        }
        for resource in &summary.resources {
            let _ = writeln!(text, "- {}", plain(resource));
        }
        if !summary.resources.is_empty() {
            text.push('\n');
        }
        if let Some(next) = &summary.next {
            let _ = write!(text, "Next: {}\n\n", code(next));
        }
    }
    Some(text)
}

/// A text of which Markdown and HTML take nothing for more than text: each mark is an entity, which CommonMark never
/// takes for structure, and so is each space that would indent.
fn plain(text: &str) -> String {
    let mut before = ' ';
    text.chars().fold(String::new(), |mut plain, char| {
        if char.is_ascii_punctuation() || (char == ' ' && before == ' ') {
            let _ = write!(plain, "&#{};", u32::from(char));
        } else {
            plain.push(char);
        }
        before = char;
        plain
    })
}

/// The same, to be copied. As an element and not between backticks, where entities are not read and a table's `|` cannot
/// be written for sure.
fn code(text: &str) -> String {
    format!("<code>{}</code>", plain(text))
}
