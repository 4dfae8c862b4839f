//! How text for people looks: its width and its colours.

use std::io::{self, IsTerminal as _};

use anstyle::{AnsiColor, Style};

use crate::ci;
use crate::model::Liveness;

/// How text for people looks: how wide it is, and whether it has colours. Where stdout is not a terminal, lines have any
/// length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Page {
    /// In characters; none where any will do.
    pub width: Option<usize>,
    /// Whether it has colours.
    pub coloured: bool,
}

impl Page {
    /// That of stdout.
    pub fn of_stdout() -> Self {
        let typed = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let shown = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
        let width = io::stdout().is_terminal().then(|| typed.or_else(shown)).flatten().filter(|width| *width > 0);
        Self { width, coloured: ci::colours_results(io::stdout()) }
    }

    /// The same for a command, which is to be copied in one piece.
    pub fn endless(self) -> Self {
        Self { width: None, ..self }
    }

    /// A text in a style.
    pub fn paint(self, style: Style, text: &str) -> String {
        if self.coloured { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// A line of a list of names and values; a value that is too wide goes on below itself.
    pub fn entry(self, name: &str, value: &str, style: Style) -> String {
        let name = self.paint(Style::new().dimmed(), &format!("{name:<11}"));
        format!("  {name} {}\n", self.paint(style, &self.wrapped(14, value)))
    }

    /// A text that begins behind an indentation, with line ends between words where it is too wide. A word stays whole, so
    /// that it can be copied.
    pub fn wrapped(self, indent: usize, text: &str) -> String {
        let Some(width) = self.width else { return text.to_owned() };
        let (mut wrapped, mut at) = (String::new(), indent);
        for (number, word) in text.split(' ').enumerate() {
            let length = word.chars().count();
            if number > 0 && at + 1 + length > width {
                wrapped += &format!("\n{:indent$}", "");
                at = indent;
            } else if number > 0 {
                wrapped.push(' ');
                at += 1;
            }
            wrapped += word;
            at += length;
        }
        wrapped
    }
}

/// The colour of a verdict.
pub fn style_of(verdict: &Liveness) -> Style {
    match verdict {
        Liveness::Alive { .. } => AnsiColor::Green.on_default(),
        Liveness::Dead { .. } => AnsiColor::Red.on_default(),
        Liveness::Unknown { .. } => AnsiColor::Yellow.on_default(),
    }
}

/// The colour of what is wrong.
pub const WRONG: Style = AnsiColor::Red.on_default();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_too_wide_goes_on_below_itself_and_no_word_is_cut() {
        let narrow = Page { width: Some(24), coloured: false };
        let shown = narrow.entry("who", "a bb arn:aws:sts::123456789012:x c", Style::new());
        assert_eq!(shown, "  who         a bb\n              arn:aws:sts::123456789012:x\n              c\n");
        assert_eq!(Page::default().entry("who", "a bb", Style::new()), "  who         a bb\n");
        let coloured = Page { width: None, coloured: true }.entry("who", "a", WRONG);
        assert_eq!(coloured, "  \u{1b}[2mwho        \u{1b}[0m \u{1b}[31ma\u{1b}[0m\n");
    }
}
