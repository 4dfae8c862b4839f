//! `tfguard inspect`: one state, its lock, its holder, its digest, and as whom all that was seen.

use std::time::Duration;

use anstyle::Style;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::aws::{Caller, StoreError};
use crate::commands::judged::{HalfLook, JudgedLock, Merged, Unread};
use crate::commands::page::{Page, WRONG};
use crate::commands::target::{State, Target};
use crate::commands::{Failure, Format, block_on, describe, print, print_json};
use crate::model::Environment;
use crate::session::Machine;
use crate::state::{DigestStore, StateObject, StateStore, StoredDigest, is_at_odds};
use crate::text::{duration, printable, printable_whole, utc, without_user};
use crate::{exit, state};

/// The options of `tfguard inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The state.
    #[command(flatten)]
    pub target: Target,

    /// Call the lock stale if it is older
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "State")]
    pub older_than: Option<Duration>,

    /// Print text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Output")]
    pub format: Format,
}

/// Looks; gives tfguard's exit code: 122 if the lock is stale, 125 if not all could be looked at.
///
/// # Errors
/// When the state is not known, or the result cannot be written.
pub fn run(args: &Args) -> Result<u8, Failure> {
    block_on(async {
        let state = args.target.state().await?;
        let found = Found::look(&state, args.older_than).await;
        let code = found.exit_code();
        match args.format {
            Format::Text => print(&found.text(&state, &args.target.command(&state, &["verify"])))?,
            Format::Json => print_json(&found.json(&state, code))?,
        }
        Ok(code)
    })
}

/// All that was found.
struct Found {
    now: Timestamp,
    caller: Caller,
    locks: Vec<JudgedLock>,
    /// What could not be read, and why.
    unread: Vec<Unread>,
    /// The same, where it is not known whether Terraform locks there.
    doubts: Vec<Unread>,
    /// None where it could not be read.
    object: Option<Option<StateObject>>,
    digest: StoredDigest,
}

impl Found {
    async fn look(state: &State, older_than: Option<Duration>) -> Self {
        let store = StateStore::new(&state.clients, &state.key);
        let digest = DigestStore::new(&state.clients, &state.key);
        let digest = async {
            match &digest {
                Some(digest) => digest.read().await.map(|item| item.digest),
                None => Ok(StoredDigest::NotKept),
            }
        };
        let (caller, looks, object, digest) =
            tokio::join!(state.clients.caller(), state.look_at_lock(), store.read(None), digest);
        let mut unread: Vec<_> = looks.iter().filter_map(HalfLook::unread).collect();
        let object = object.map_err(|error| {
            unread.push(Unread { what: format!("state s3://{}", state.lock_id()), error: Some(error) });
        });
        let object = object.ok();
        let digest = digest.unwrap_or_else(|error| {
            unread.push(Unread { what: "its digest".to_owned(), error: Some(error) });
            StoredDigest::NotKept
        });
        let machine = Machine::here(&Environment::own());
        let now = Timestamp::now();
        let mut merged = Merged::default();
        for half in looks.iter().filter_map(HalfLook::half) {
            merged.add(state.lock_id(), half);
        }
        let state_exists = object.as_ref().map(Option::is_some);
        let judged = merged
            .into_locks()
            .into_iter()
            .map(|lock| JudgedLock { state_exists, ..lock.judge(&machine, now, older_than) });
        let locks = judged.collect();
        let doubts = state.doubts(&looks);
        Self { now, caller, locks, unread, doubts, object, digest }
    }

    fn exit_code(&self) -> u8 {
        if self.locks.iter().any(|lock| !lock.stale().is_empty()) {
            exit::STALE_LOCK
        } else if self.unread.is_empty() {
            0
        } else {
            exit::TFGUARD_FAILED
        }
    }

    /// None where there is nothing to compare.
    fn digest_fits(&self) -> Option<bool> {
        Some(!is_at_odds(self.object.as_ref()?.as_ref(), Some(self.digest.md5()?)))
    }

    fn text(&self, state: &State, verify: &str) -> String {
        let page = Page::of_stdout();
        let mut text = format!("state {}\n", page.paint(Style::new().bold(), &printable(&state.lock_id())));
        let mut line = |name: &str, value: &str| text += &page.entry(name, &printable(value), Style::new());
        if let (Some(workspace), Some(dir)) = (&state.workspace, &state.dir) {
            line("workspace", &format!("{workspace}, of {}", dir.display()));
        }
        line("reached as", &self.access(state));
        match &self.object {
            Some(Some(object)) => line("object", &state::describe(object)),
            Some(None) => line("object", "none yet"),
            None => {}
        }
        let fits = self.digest_fits();
        let digest = match (fits, self.digest.md5()) {
            (Some(false), _) if self.locks.is_empty() => Some(format!("does NOT fit: run `{verify}`")),
            (Some(false), _) => Some(format!("does not fit, but a write may be under way: `{verify}` waits for it")),
            // The state could not be read.
            (None, Some(md5)) => Some(md5.to_owned()),
            _ => state::describe_digest(self.object.as_ref().and_then(Option::as_ref), &self.digest),
        };
        if let Some(digest) = digest {
            let style = if fits == Some(false) { WRONG } else { Style::new() };
            text += &page.endless().entry("digest", &printable_whole(&digest), style);
        }
        if self.locks.is_empty() && self.unread.is_empty() {
            text += &page.entry("lock", "not locked", Style::new());
        }
        for lock in &self.locks {
            text += &describe::lock_only(lock, page);
            let stale = lock.stale();
            if !stale.is_empty() {
                text += &page.entry("stale", &stale.join(", "), WRONG);
            }
        }
        text + &self.unread_in_words(page)
    }

    /// What was not read: each error once, whatever it is that it hides.
    fn unread_in_words(&self, page: Page) -> String {
        let all = self.unread.iter().map(|unread| (unread, true)).chain(self.doubts.iter().map(|doubt| (doubt, false)));
        let mut groups: Vec<(Option<&StoreError>, bool, Vec<&str>)> = Vec::new();
        for (Unread { what, error }, matters) in all {
            match groups.iter_mut().find(|(known, ..)| known.is_some() && *known == error.as_ref()) {
                Some((.., hidden)) => hidden.push(what),
                None => groups.push((error.as_ref(), matters, vec![what])),
            }
        }
        let mut text = String::new();
        for (error, matters, hidden) in groups {
            let (name, style) = if matters { ("NOT READ", WRONG) } else { ("not read", Style::new()) };
            let why = error.map(|error| format!(": {error}")).unwrap_or_default();
            text += &page.entry(name, &printable_whole(&(hidden.join(", ") + &why)), style);
            if let Some(hint) = error.and_then(StoreError::hint) {
                text += &page.endless().entry("hint", &printable_whole(&hint), Style::new());
            }
        }
        text
    }

    fn access(&self, state: &State) -> String {
        let caller = &self.caller;
        let mut words = vec![match (&caller.identity, &caller.key_id) {
            (Some(identity), _) => format!("{} (account {})", identity.arn, identity.account),
            (None, Some(id)) => format!("key {id}"),
            (None, None) => "nobody".to_owned(),
        }];
        let is_told = |trouble: &&String| {
            self.unread.iter().filter_map(|unread| unread.error.as_ref()).any(|error| error.to_string() == **trouble)
        };
        words.extend(caller.trouble.iter().filter(|trouble| !is_told(trouble)).cloned());
        words.extend(caller.expires.map(|end| format!("until {}", utc(end))));
        words.push(state.backend.region().to_owned());
        words.extend(state.backend.s3_endpoint().map(|url| format!("S3 at {}", without_user(url))));
        words.extend(state.backend.dynamodb_endpoint().map(|url| format!("DynamoDB at {}", without_user(url))));
        words.join(", ")
    }

    /// Documented in `docs/operator.md`.
    fn json(&self, state: &State, exit_code: u8) -> Value {
        let in_words = |unread: &[Unread]| unread.iter().map(Unread::to_string).collect::<Vec<_>>();
        json!({
            "schema": 1,
            "exit_code": exit_code,
            "bucket": state.bucket(),
            "key": state.key,
            "workspace": state.workspace,
            "region": state.backend.region(),
            "table": state.backend.table(),
            "s3_endpoint": state.backend.s3_endpoint().map(without_user),
            "dynamodb_endpoint": state.backend.dynamodb_endpoint().map(without_user),
            "credentials": self.caller,
            "looked_at": self.now,
            "locks": self.locks.iter().map(|lock| lock.view()).collect::<Vec<_>>(),
            "object": self.object,
            "digest": self.digest,
            "digest_fits": self.digest_fits(),
            "unseen": in_words(&self.unread),
            "doubts": in_words(&self.doubts),
        })
    }
}
