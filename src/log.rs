//! tfguard's own words: where they go and how they look. Child output never passes through here.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::text::{harmless, without_commands};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    /// What needs somebody to act.
    Quiet,
    /// And what happened to a run that did not just succeed.
    Normal,
    /// And why.
    Verbose,
}

type Take = dyn Fn(String) + Send + Sync;

/// Makes tfguard's words come out, in colours if `coloured`. Called once in a process; a second call changes nothing.
pub fn set_up(format: LogFormat, volume: Volume, coloured: bool) {
    COLOURED.store(coloured && format == LogFormat::Text, Ordering::Relaxed);
    let level = match volume {
        Volume::Quiet => LevelFilter::WARN,
        Volume::Normal => LevelFilter::INFO,
        Volume::Verbose => LevelFilter::DEBUG,
    };
    // The AWS crates speak through tracing too; their words are not for the users of tfguard.
    let ours = Targets::new().with_target("tfguard", level);
    let registry = tracing_subscriber::registry().with(ours);
    let _ = match format {
        LogFormat::Text => {
            registry.with(tracing_subscriber::fmt::layer().event_format(Prefixed).with_writer(Lines)).try_init()
        }
        LogFormat::Json => registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false).with_writer(Lines))
            .try_init(),
    };
}

/// Whether lines get colours.
static COLOURED: AtomicBool = AtomicBool::new(false);

/// Lines of tfguard's, this process's or another one's, as this process shows them: a level has its colour.
#[must_use]
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
    set_through(Some(Box::new(take)));
}

/// From now on lines go straight to stderr again.
pub fn directly() {
    set_through(None);
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
        None => to_stderr(&text),
    }
}

fn set_through(take: Option<Box<Take>>) {
    *THROUGH.write().unwrap_or_else(PoisonError::into_inner) = take;
}

/// Writes straight to stderr. That it is gone or full is nothing that could be told to anybody.
fn to_stderr(line: &str) {
    let _ = io::stderr().write_all(line.as_bytes());
}

struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// One event on its way out.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !MUTED.load(Ordering::Relaxed) {
            raw(painted(&without_commands(&String::from_utf8_lossy(&self.0))));
        }
    }
}

/// `tfguard: ` before each line, and the level where it is no mere information.
struct Prefixed;

impl<S, N> FormatEvent<S, N> for Prefixed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        for (number, line) in message.0.lines().enumerate() {
            writeln!(writer, "{PREFIX}{}{}", if number == 0 { level } else { "" }, printable(line))?;
        }
        Ok(())
    }
}

/// Texts of other people's making (a lock's holder, a service's answer) must not steer terminals, pages or CI logs.
fn printable(line: &str) -> String {
    line.chars().map(harmless).collect()
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
