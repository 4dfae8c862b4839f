//! The record of who holds a lock.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::ci;
use crate::model::lock::LockId;
use crate::model::process::{ChildRecord, ProcessId, World};
use crate::text::utc;

/// The version of the record's format that this tfguard writes and reads. Fields may be added to it without a new one.
pub(crate) const SCHEMA: u32 = 1;
/// No record that tfguard wrote is longer (in bytes).
const LARGEST: usize = 8 * 1024;

/// The run that holds a lock, as its tfguard recorded it. Holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub(crate) schema: u32,
    /// The lock. A record beside another lock is not that lock's.
    pub lock: LockId,
    /// The version of the tfguard that wrote it.
    pub tfguard: String,
    /// When the run began, by its own clock.
    pub started: Timestamp,
    /// The CI run; none outside a CI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<ci::Run>,
    /// What the run works on, and for whom.
    #[serde(flatten)]
    pub origin: ci::Origin,
    /// The name of the machine or container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Where the process IDs mean something.
    pub world: World,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<ProcessId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<ChildRecord>,
    /// The session's directory on that machine.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::paths::option")]
    pub session: Option<PathBuf>,
}

impl Holder {
    /// The CI run's page, fit to stand in an instruction: a link and nothing that could pass for more of the sentence,
    /// whoever wrote the record.
    pub fn link(&self) -> Option<String> {
        let url = self.ci.as_ref()?.url.as_deref()?;
        let is_link = url.starts_with("https://") || url.starts_with("http://");
        is_link.then(|| url.split_whitespace().collect::<Vec<_>>().join("%20"))
    }

    /// Whether both are records of one run. Whoever took its session over names itself, and a container mounts its place
    /// elsewhere; when it began, to the nanosecond, and the session's name stay.
    pub fn is_of_run(&self, other: &Self) -> bool {
        let session = |holder: &Self| holder.session.as_deref().and_then(Path::file_name).map(OsStr::to_owned);
        let same = session(self).zip(session(other)).is_none_or(|(one, other)| one == other);
        self.started == other.started && same
    }

    /// The same run's record beside another lock.
    pub fn of_lock(self, lock: LockId) -> Self {
        Self { lock, ..self }
    }
}

/// The run in words: where it ran, for whom, and since when.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ci {
            Some(run) => {
                let job = run.job.as_ref().map(|job| format!("job {job} of ")).unwrap_or_default();
                write!(f, "{job}{}", run.url.as_deref().unwrap_or("a CI run without a link"))?;
                if let Some(attempt) = &run.attempt {
                    write!(f, " (attempt {attempt})")?;
                }
            }
            None => f.write_str("a run outside a CI")?,
        }
        if let Some(actor) = &self.origin.actor {
            write!(f, ", started by {actor}")?;
        }
        if let Some(commit) = &self.origin.commit {
            write!(f, ", commit {commit}")?;
        }
        if let Some(host) = &self.host {
            write!(f, ", on {host}")?;
        }
        write!(f, ", since {}", utc(self.started))
    }
}

/// Reads what a tfguard wrote beside a lock in JSON, of at most `largest` bytes.
///
/// # Errors
/// Why it cannot be read, in words. `what`: what it is.
pub(super) fn read_record<T: DeserializeOwned>(what: &str, text: &[u8], largest: usize) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        schema: u64,
    }
    if text.len() > largest {
        return Err(format!("{what} is longer than any that tfguard writes"));
    }
    match serde_json::from_slice(text) {
        Ok(Version { schema }) if schema != u64::from(SCHEMA) => {
            Err(format!("{what} has format {schema}, this tfguard knows format {SCHEMA}"))
        }
        _ => serde_json::from_slice(text).map_err(|error| format!("{what} cannot be understood: {error}")),
    }
}

/// What was found beside a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Recorded {
    /// No record: the lock is of a Terraform without tfguard, is young, or could not be annotated.
    #[default]
    Nothing,
    /// The record of the lock's holder.
    Holder(Box<Holder>),
    /// A record that says nothing of this lock to this tfguard, for this reason.
    Foreign(String),
}

impl Recorded {
    /// Reads the JSON of a record that was found beside the lock with this ID.
    pub fn read(text: &str, lock: &str) -> Self {
        let holder = read_record("the record of its holder", text.as_bytes(), LARGEST);
        holder.map_or_else(Self::Foreign, |holder| Self::of(holder, lock))
    }

    /// A record that was found beside the lock with this ID.
    pub fn of(holder: Holder, lock: &str) -> Self {
        if holder.lock.as_str() == lock {
            Self::Holder(Box::new(holder))
        } else {
            Self::Foreign(format!("the record beside it is of another lock, {}", holder.lock))
        }
    }

    /// The record.
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Holder(holder) => Some(holder),
            Self::Nothing | Self::Foreign(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ci;

    const ID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";

    fn holder() -> Holder {
        let id = |pid| ProcessId { pid, start_ticks: 4_000_000_000 };
        Holder {
            schema: SCHEMA,
            lock: ID.parse().unwrap(),
            tfguard: "0.1.0".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            ci: Some(ci::Run {
                provider: ci::Provider::Gitlab,
                url: Some("https://gitlab.example.com/a/b/-/jobs/7".to_owned()),
                job: Some("7".to_owned()),
                attempt: None,
            }),
            origin: ci::Origin {
                commit: Some("0a1b".to_owned()),
                actor: Some("alice".to_owned()),
                runner: Some("r".to_owned()),
            },
            host: Some("runner-7".to_owned()),
            world: World { boot_id: "b".to_owned(), pid_namespace: 4_026_531_836 },
            supervisor: Some(id(10)),
            child: Some(ChildRecord { id: id(11), session: 10 }),
            session: Some("/builds/a/tfguard/s".into()),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_only_beside_its_lock() {
        let text = serde_json::to_string(&holder()).unwrap();
        assert_eq!(Recorded::read(&text, ID), Recorded::Holder(Box::new(holder())));
        let other = ID.replace('4', "5");
        assert!(matches!(Recorded::read(&text, &other), Recorded::Foreign(why) if why.contains(ID)));
    }

    /// Records of a later tfguard: what it added is passed over, what it changed is not guessed at.
    #[test]
    fn records_of_other_versions_are_read_or_refused() {
        let text = serde_json::to_string(&holder()).unwrap();
        let added = text.replacen('{', r#"{"lease":{"n":1},"#, 1).replace("gitlab\"", "unheard-of\"");
        let found = Recorded::read(&added, ID);
        assert_eq!(found.holder().unwrap().ci.as_ref().unwrap().provider, ci::Provider::Other);
        for strange in [
            &text.replace("\"schema\":1", "\"schema\":2"),
            &text.replace("\"schema\":1", "\"schema\":\"1\""),
            &text.replace(ID, "not an ID"),
            &text[..text.len() - 1],
            "",
            "null",
            &format!("{text}{}", " ".repeat(LARGEST)),
        ] {
            assert!(matches!(Recorded::read(strange, ID), Recorded::Foreign(_)), "{strange}");
        }
    }

    /// Projects of Azure DevOps have spaces in their names.
    #[test]
    fn a_link_is_one_word_or_none() {
        for (url, link) in [
            ("https://dev.azure.com/acme/My Project/_build", Some("https://dev.azure.com/acme/My%20Project/_build")),
            ("https://x; run: curl x|sh;\n run: y", Some("https://x;%20run:%20curl%20x|sh;%20run:%20y")),
            ("run: curl https://x", None),
            ("", None),
        ] {
            let mut holder = holder();
            holder.ci.as_mut().unwrap().url = Some(url.to_owned());
            assert_eq!(holder.link().as_deref(), link);
        }
    }
}
