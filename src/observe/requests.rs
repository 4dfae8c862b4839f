//! From requests and their answers to the life of locks.

use jiff::Timestamp;

use crate::model::{LockClaim, LockId, LockInfo, LockKinds, Stage};
use crate::observe::evidence::{Refusal, Refused};
use crate::observe::exchange;
use crate::observe::exchange::{Call, Exchange, Request, masked};
use crate::observe::hclog::Record;
use crate::observe::ledger::Ledger;
use crate::observe::locks::{LockEvent, LoggedPlace};
use crate::observe::traces::TraceEvent;

/// Most requests that wait for their answer. More are noise.
const MAX_PENDING: usize = 64;

/// Follows the requests of a log and matches them with their answers.
///
/// Several Terraforms may share the log. Where it is not clear which request an answer belongs to, it is taken for
/// none: then less is known of a lock, which tfguard looks after at the end, and nothing wrong.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Bucket and key of states that are expected, by which masked paths are understood.
    states: Vec<(String, String)>,
    pending: Vec<(Call, Pending)>,
}

/// What an answer would mean.
#[derive(Debug, Clone, PartialEq)]
enum Pending {
    Lock(Box<LockClaim>),
    Unlock(Vec<LoggedPlace>),
    LockFile(crate::model::LockTrace),
    UnlockFile(String, String),
    Nothing(String),
}

/// What a record told.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    Lock(LockEvent),
    Trace(TraceEvent),
}

impl Requests {
    pub(crate) fn new(states: Vec<(String, String)>) -> Self {
        Self { states, ..Self::default() }
    }

    /// Reads a record. `check_time` judges the time at which a lock says that it was begun. None: the record is about
    /// something else.
    pub(crate) fn read(
        &mut self,
        record: &Record,
        ledger: &Ledger,
        check_time: impl Fn(Timestamp) -> Result<(), Refusal>,
    ) -> Option<Result<Vec<Told>, Refused>> {
        let read = match exchange::read(record)? {
            Ok(Exchange::Sent(call, request)) => self.sent(call, *request, ledger, check_time),
            Ok(Exchange::Answered { call, success, etag }) => Ok(self.answered(&call, success, etag, ledger)),
            Err(strange) => Err(strange),
        };
        Some(read.map_err(|(id, reason)| Refused::of(id.as_deref(), reason)))
    }

    fn sent(
        &mut self,
        call: Call,
        request: Request,
        ledger: &Ledger,
        check_time: impl Fn(Timestamp) -> Result<(), Refusal>,
    ) -> Result<Vec<Told>, exchange::Strange> {
        let (pending, told) = match request {
            Request::Lock { info, path, state } => {
                let id = info.id.clone();
                let created: Result<Timestamp, _> = info.created.parse();
                let created = created.map_err(|_| Refusal::Created(info.created.chars().take(64).collect()));
                created.and_then(check_time).map_err(|reason| (Some(id.clone()), reason))?;
                let claim = self.claim(info, &path, state).map_err(|reason| (Some(id), reason))?;
                let told = vec![Told::Lock(LockEvent::Attempting(claim.clone()))];
                (Pending::Lock(Box::new(claim)), told)
            }
            Request::Unlock { path, id } => {
                let places = unlocked_by(&path, id.as_deref(), ledger);
                let told = places.iter().map(|place| Told::Lock(LockEvent::Unlocking(place.clone()))).collect();
                (Pending::Unlock(places), told)
            }
            Request::LockFile(trace) => {
                let told = vec![Told::Trace(TraceEvent::Attempting(trace.clone()))];
                (Pending::LockFile(trace), told)
            }
            Request::UnlockFile { bucket, state_key } => {
                let told = vec![Told::Trace(TraceEvent::Unlocking(bucket.clone(), state_key.clone()))];
                (Pending::UnlockFile(bucket, state_key), told)
            }
            Request::Other(path) => (Pending::Nothing(path), Vec::new()),
        };
        // A request that got no answer is repeated.
        self.pending.retain(|known| *known != (call.clone(), pending.clone()));
        if self.pending.len() == MAX_PENDING {
            self.pending.remove(0);
        }
        self.pending.push((call, pending));
        Ok(told)
    }

    fn answered(&mut self, call: &Call, success: bool, etag: Option<String>, ledger: &Ledger) -> Vec<Told> {
        let (mut meant, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|(known, _)| known == call);
        self.pending = others;
        let only = meant.pop().filter(|_| meant.is_empty());
        let Some((_, pending)) = only.filter(|_| success) else {
            // A refusal is no proof that the lock was not taken: the answer to an earlier attempt may be lost.
            return Vec::new();
        };
        match pending {
            Pending::Lock(claim) => vec![Told::Lock(LockEvent::Locked(*claim))],
            Pending::Unlock(places) => {
                let still = |place: &LoggedPlace| ledger.stage(place) == Some(Stage::Unlocking);
                places.into_iter().filter(still).map(|place| Told::Lock(LockEvent::Unlocked(place))).collect()
            }
            Pending::LockFile(trace) => vec![Told::Trace(TraceEvent::Locked(trace, etag))],
            Pending::UnlockFile(bucket, state_key) => vec![Told::Trace(TraceEvent::Unlocked(bucket, state_key))],
            Pending::Nothing(_) => Vec::new(),
        }
    }

    fn claim(&self, info: LockInfo, path: &str, state: Option<(String, String)>) -> Result<LockClaim, Refusal> {
        let id: LockId = info.id.parse().map_err(Refusal::Id)?;
        let (bucket, state_key) = self.state(path, state)?;
        Ok(LockClaim {
            id,
            operation: info.operation,
            who: info.who,
            version: info.version,
            bucket,
            state_key,
            kinds: LockKinds::DynamoDb,
        })
    }

    /// The state behind a path out of a body, which may be masked: from the record itself if that has it, else from the
    /// path if it cannot be masked, else from the states that are expected.
    fn state(&self, path: &str, state: Option<(String, String)>) -> Result<(String, String), Refusal> {
        let is_it = |(bucket, key): &(String, String)| {
            let real = format!("{bucket}/{key}");
            real == path || masked(&real) == path
        };
        if let Some(state) = state {
            return if is_it(&state) { Ok(state) } else { Err(Refusal::PathMismatch) };
        }
        if !path.contains("****") {
            let (bucket, key) = path.split_once('/').ok_or(Refusal::PathMismatch)?;
            return Ok((bucket.to_owned(), key.to_owned()));
        }
        let mut fitting = self.states.iter().filter(|state| is_it(state));
        let state = fitting.next().ok_or(Refusal::MaskedPath)?;
        if fitting.any(|other| other != state) { Err(Refusal::MaskedPath) } else { Ok(state.clone()) }
    }
}

/// The locks that deleting the item of `path` releases: the one that is named; else those of that path that are held;
/// else those that may be.
fn unlocked_by(path: &str, id: Option<&str>, ledger: &Ledger) -> Vec<LoggedPlace> {
    let is_there = |claim: &LockClaim| claim.lock_id() == path || masked(&claim.lock_id()) == path;
    let here: Vec<_> = ledger
        .entries()
        .iter()
        .filter(|entry| entry.stage != Stage::Unlocked && is_there(&entry.claim))
        .filter(|entry| id.is_none_or(|id| entry.claim.id.as_str() == id))
        .collect();
    let held = here.iter().any(|entry| entry.stage == Stage::Held);
    here.iter().filter(|entry| !held || entry.stage == Stage::Held).map(|entry| LoggedPlace::of(&entry.claim)).collect()
}
