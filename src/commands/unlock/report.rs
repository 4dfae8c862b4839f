//! The record of an unlock: who did what, and what came of it.

use jiff::Timestamp;
use serde::Serialize;

use crate::commands::judged::View;
use crate::model;
use crate::model::Half;
use crate::session::nodename;

/// The file of `tfguard unlock --report`. Documented in `docs/operator.md`.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// Version of this format.
    pub schema: u32,
    /// Always `unlock`.
    pub command: &'static str,
    /// tfguard's version.
    pub tfguard: &'static str,
    /// tfguard's exit code.
    pub exit_code: u8,
    /// When it began.
    pub started: Timestamp,
    /// When all was done.
    pub ended: Timestamp,
    /// Who did it.
    pub by: By,
    /// The state: `<bucket>/<state key>`.
    pub state: &'a str,
    /// The ID that was given. None with `--broken`.
    pub id: Option<&'a str>,
    /// What was there and was to be deleted. None if it was not there.
    pub lock: Option<View<'a>>,
    /// Who allowed it.
    pub consent: Consent,
    /// What came of it.
    pub outcome: Outcome,
    /// The same in words.
    pub why: String,
    /// What became of each half that was to be deleted.
    pub halves: Vec<Half>,
}

/// Who runs tfguard.
#[derive(Debug, Serialize)]
pub struct By {
    /// The user's name on this machine.
    user: Option<String>,
    /// The machine's name.
    host: Option<String>,
    /// The CI run.
    ci: Option<model::Run>,
}

impl By {
    /// Whoever runs this process.
    pub fn this_process() -> Self {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        Self { user, host: nodename(), ci: model::Run::detect(|name| std::env::var(name).ok()) }
    }
}

/// Who allowed the deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consent {
    /// It did not come to that.
    NotAsked,
    /// None was needed: the holder is proven to be dead.
    NotNeeded,
    /// `--yes`.
    ByOption,
    /// Somebody at the terminal said yes.
    Given,
    /// Somebody at the terminal did not say yes.
    Refused,
    /// There was no terminal to ask on.
    NobodyThere,
}

/// What came of an unlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is deleted.
    Deleted,
    /// It went away before it was deleted, or was not there.
    Gone,
    /// It would be deleted (`--dry-run`).
    WouldDelete,
    /// It stays, because tfguard or a person said so, or another one is there.
    Refused,
    /// It may still be there, against the intention.
    Left,
}
