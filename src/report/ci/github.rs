//! GitHub Actions: workflow commands, step outputs, the job's summary.

use crate::report::ci::outputs::Outputs;
use crate::report::ci::summary::{Level, Message, Summary};

/// A line that the runner makes an annotation of the run.
pub fn command(message: &Message) -> String {
    let name = match message.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Notice => "notice",
    };
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

/// What is added to the file of `GITHUB_OUTPUT`. `delimiter` is a word that nobody could have guessed.
pub fn outputs(summaries: &[Summary], delimiter: &str) -> String {
    let outputs = Outputs::of(summaries);
    let values = [
        ("tfguard-outcome", outputs.outcome.to_owned()),
        ("tfguard-lock-left", outputs.lock_left.to_string()),
        ("tfguard-lock-id", outputs.lock_id().to_owned()),
        ("tfguard-locks", outputs.locks.to_string()),
    ];
    assignments(&values, delimiter)
}

/// Names and values in the form that every runner takes, with lines in the values.
pub fn assignments(values: &[(&str, String)], delimiter: &str) -> String {
    // If somebody could guess it all the same, it is not the one.
    let mut delimiter = delimiter.to_owned();
    while values.iter().any(|(_, value)| value.contains(&delimiter)) {
        delimiter.push('_');
    }
    // No empty line between them: act, and the runners that share its parser, refuse a file that has one.
    values.iter().map(|(name, value)| format!("{name}<<{delimiter}\n{value}\n{delimiter}\n")).collect()
}
