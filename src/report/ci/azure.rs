//! Azure Pipelines: logging commands.

use super::outputs::Outputs;
use super::{Level, Message, Summary};

/// A line that the agent makes an issue of the run. There are errors and warnings; a notice is a line of the log.
pub fn command(message: &Message) -> String {
    let kind = match message.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Notice => return String::new(),
    };
    let text = format!("tfguard: {}: {}", message.title, message.text);
    format!("##vso[task.logissue type={kind}]{}\n", escaped(&text))
}

/// Lines that make variables, for later steps as outputs of this one.
pub fn variables(summaries: &[Summary]) -> String {
    let outputs = Outputs::of(summaries);
    let values = [
        ("tfguardOutcome", outputs.outcome),
        ("tfguardLockLeft", if outputs.lock_left { "true" } else { "false" }),
        ("tfguardLockId", outputs.lock_id),
    ];
    let lines = values
        .map(|(name, value)| format!("##vso[task.setvariable variable={name};isOutput=true]{}\n", escaped(value)));
    lines.concat()
}

/// A text as the agent reads it back (azure-pipelines-agent, `CommandStringConvertor.cs`).
fn escaped(text: &str) -> String {
    text.replace('%', "%AZP25").replace(';', "%3B").replace('\r', "%0D").replace('\n', "%0A").replace(']', "%5D")
}
