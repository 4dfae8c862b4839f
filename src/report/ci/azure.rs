//! Azure Pipelines: logging commands.

use crate::report::ci::summary::{Level, Message};

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

/// A text as the agent reads it back (azure-pipelines-agent, `CommandStringConvertor.cs`).
fn escaped(text: &str) -> String {
    text.replace('%', "%AZP25").replace(';', "%3B").replace('\r', "%0D").replace('\n', "%0A").replace(']', "%5D")
}
