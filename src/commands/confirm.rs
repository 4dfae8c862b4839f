//! A question before something is changed.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::model;

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `yes`, in full.
    Yes,
    /// Anything else.
    No,
    /// Nobody can be asked: stdin or stderr is no terminal, or it is a CI's.
    NobodyThere,
}

/// Asks on the terminal. Only `yes` is a yes, as Terraform has it. The terminals of CI systems have nobody before them.
#[must_use]
pub fn confirm(question: &str) -> Answer {
    let in_ci = model::Run::detect(|name| std::env::var(name).ok()).is_some();
    if in_ci || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Answer::NobodyThere;
    }
    let mut line = String::new();
    let asked = write!(io::stderr(), "tfguard: {question} Only `yes` will be accepted: ");
    match asked.and_then(|()| io::stdin().lock().read_line(&mut line)) {
        Ok(_) if line.trim() == "yes" => Answer::Yes,
        _ => Answer::No,
    }
}
