//! tfguard's own words: where they go and how they look. Child output never passes through here.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::text::{printable_command, without_commands};

type Take = dyn Fn(String) + Send + Sync;

/// Makes tfguard's words come out down to a level, in colours if `coloured`: warnings need somebody to act, information is what
/// happened to a run that did not just succeed, debug is why. Called once in a process; a second call changes nothing.
pub fn set_up(format: LogFormat, level: LevelFilter, coloured: bool) {
    COLOURED.store(coloured && format == LogFormat::Text, Ordering::Relaxed);
    let _ = tracing::subscriber::set_global_default(Messages { level, format });
}

/// Whether lines get colours.
static COLOURED: AtomicBool = AtomicBool::new(false);

/// Lines of tfguard's, this process's or another one's, as this process shows them: a level has its colour.
pub fn painted(lines: &str) -> String {
    if COLOURED.load(Ordering::Relaxed) { paint(lines) } else { lines.to_owned() }
}

fn paint(lines: &str) -> String {
    let paint_line = |line: &str| {
        LEVELS
            .iter()
            .find_map(|(level, style)| {
                let said = line.strip_prefix(PREFIX)?.strip_prefix(level)?;
                Some(format!("{PREFIX}{style}{}{style:#} {said}", level.trim_end()))
            })
            .unwrap_or_else(|| line.to_owned())
    };
    lines.split_inclusive('\n').map(paint_line).collect()
}

const PREFIX: &str = "tfguard: ";
const LEVELS: [(&str, Style); 3] = [
    ("error: ", AnsiColor::Red.on_default().bold()),
    ("warning: ", AnsiColor::Yellow.on_default().bold()),
    ("hint: ", AnsiColor::Cyan.on_default().bold()),
];

/// Where lines go once the front has a relay, or the supervisor a front.
static THROUGH: RwLock<Option<Box<Take>>> = RwLock::new(None);

/// From now on lines go to `take`.
pub fn through(take: impl Fn(String) + Send + Sync + 'static) {
    *THROUGH.write().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(take));
}

/// From now on lines go straight to stderr again.
pub fn directly() {
    *THROUGH.write().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Whether tfguard's own lines are kept back.
static MUTED: AtomicBool = AtomicBool::new(false);

/// Keeps tfguard's own lines back, or lets them out again. A guard below another one leaves the telling to that one: what
/// calls Terraform may read its output together with its stderr.
pub fn mute(muted: bool) {
    MUTED.store(muted, Ordering::Relaxed);
}

/// Writes text as it is, in the order of the lines.
pub fn raw(text: String) {
    if text.is_empty() {
        return;
    }
    match &*THROUGH.read().unwrap_or_else(PoisonError::into_inner) {
        Some(take) => take(text),
        // That stderr is gone or full is nothing that could be told to anybody.
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Takes what is said through `tracing`.
struct Messages {
    level: LevelFilter,
    format: LogFormat,
}

impl Subscriber for Messages {
    /// The AWS crates speak through tracing too; their words are not for the users of tfguard.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().split("::").next() == Some("tfguard")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        if MUTED.load(Ordering::Relaxed) {
            return;
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = event.metadata().level();
        let text = match self.format {
            LogFormat::Text => prefixed(level, &message.0),
            LogFormat::Json => {
                let message = serde_json::Value::String(message.0);
                format!("{{\"timestamp\":\"{:.6}\",\"level\":\"{level}\",\"message\":{message}}}\n", Timestamp::now())
            }
        };
        raw(painted(&without_commands(&text)));
    }

    // tfguard has no spans, and those of others are not enabled.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// `tfguard: ` before each line, and the level where it is no mere information. Texts of other people's making (a lock's holder, a
/// service's answer) must not steer terminals, pages or CI logs.
fn prefixed(level: &Level, message: &str) -> String {
    let level = match *level {
        Level::ERROR => "error: ",
        Level::WARN => "warning: ",
        _ => "",
    };
    let lines = message.lines().enumerate();
    lines
        .map(|(number, line)| format!("{PREFIX}{}{}\n", if number == 0 { level } else { "" }, printable_command(line)))
        .collect()
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// How tfguard's own messages look on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines that begin with `tfguard: `.
    Text,
    /// A JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_its_colour_at_the_beginning_of_a_line_alone() {
        let plain = "tfguard: error: no region\ntfguard: hint: give --region\ntfguard: ends\nerror: of Terraform\n";
        let painted = paint(plain);
        assert_eq!(
            painted,
            "tfguard: \u{1b}[1m\u{1b}[31merror:\u{1b}[0m no region\n\
             tfguard: \u{1b}[1m\u{1b}[36mhint:\u{1b}[0m give --region\n\
             tfguard: ends\nerror: of Terraform\n"
        );
        assert_eq!(paint(&painted), painted, "once");
    }

    #[test]
    fn words_of_others_give_no_orders_to_a_ci() {
        for (text, expected) in [
            ("##[add-mask]a", "# #[add-mask]a"),
            ("x ###vso[task.complete]", "x # # #vso[task.complete]"),
            ("a # b #[c] \u{e4}#", "a # b #[c] \u{e4}#"),
            ("::error::a", ": :error::a"),
            (" \u{a0}::error::a", " \u{a0}: :error::a"),
            ("a ::error::b", "a ::error::b"),
        ] {
            assert_eq!(without_commands(text), expected);
        }
    }
}
