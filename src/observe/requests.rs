//! The HTTP requests that take or release a lock, and their answers, and what they tell of the life of locks.
//!
//! The log has them in two formats, both at DEBUG:
//! * the AWS SDK for Go v2 under hashicorp/aws-sdk-go-base (`logger.go` and `logging/http.go`, v2.0.0-beta.35 to .72), in
//!   Terraform from 1.6 on and OpenTofu: one record with fields. Bodies are masked (see [`masked`]), those of objects
//!   are left out.
//! * the AWS SDK for Go v1 (`aws/client/logger.go`), in Terraform from 1.0 to 1.5: the message as it was sent, unmasked.

use std::collections::HashMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;
use serde::Deserialize;

use crate::model::{LOCKFILE_SUFFIX, LockClaim, LockInfo, LockKinds, LockTrace, Stage, bucket_and_key};
use crate::observe::hclog::{Level, Record, SDK_V1};
use crate::observe::ledger::Ledger;
use crate::observe::locks::{LockEvent, LoggedPlace, Refusal, Refused};
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
    /// Those that were not answered, and what was told of each. Nothing where it is about no lock.
    pending: Vec<(Call, Vec<Told>)>,
}

/// What a record told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Lock(LockEvent),
    Trace(TraceEvent),
}

impl Told {
    /// The same when the answer says that it was done. `answered`: the ETag of the object.
    fn done(mut self, answered: Option<String>) -> Self {
        match &mut self {
            Self::Trace(TraceEvent::Take { trace, done }) => (trace.etag, *done) = (answered, true),
            Self::Lock(LockEvent::Take { done, .. } | LockEvent::Release { done, .. })
            | Self::Trace(TraceEvent::Release { done, .. }) => *done = true,
        }
        self
    }
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
        Some(match read_exchange(record)? {
            Ok(Exchange::Sent(call, request)) => self.sent(call, *request, ledger, check_time),
            Ok(Exchange::Answered { call, success, etag }) => Ok(self.answered(&call, success, etag, ledger)),
            Err(refused) => Err(refused),
        })
    }

    fn sent(
        &mut self,
        call: Call,
        request: Request,
        ledger: &Ledger,
        check_time: impl Fn(Timestamp) -> Result<(), Refusal>,
    ) -> Result<Vec<Told>, Refused> {
        let told = match request {
            Request::Lock { info, path, state } => {
                let id = info.id.clone();
                let created: Result<Timestamp, _> = info.created.parse();
                let created = created.map_err(|_| Refusal::Created(info.created.chars().take(64).collect()));
                let claim = created.and_then(check_time).and_then(|()| self.claim(info, &path, state));
                let claim = claim.map_err(|reason| Refused::of(Some(&id), reason))?;
                vec![Told::Lock(LockEvent::Take { claim, done: false })]
            }
            Request::Unlock { path, id } => unlocked_by(&path, id.as_deref(), ledger)
                .map(|place| Told::Lock(LockEvent::Release { place, done: false }))
                .collect(),
            Request::LockFile(trace) => vec![Told::Trace(TraceEvent::Take { trace, done: false })],
            Request::UnlockFile { bucket, state_key } => {
                vec![Told::Trace(TraceEvent::Release { bucket, state_key, done: false })]
            }
            Request::Other => Vec::new(),
        };
        // A request that got no answer is repeated.
        let pending = (call, told.clone());
        self.pending.retain(|known| *known != pending);
        if self.pending.len() == MAX_PENDING {
            self.pending.remove(0);
        }
        self.pending.push(pending);
        Ok(told)
    }

    fn answered(&mut self, call: &Call, success: bool, etag: Option<String>, ledger: &Ledger) -> Vec<Told> {
        let (mut meant, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|(known, _)| known == call);
        self.pending = others;
        let only = meant.pop().filter(|_| meant.is_empty());
        // A refusal is no proof that the lock was not taken: the answer to an earlier attempt may be lost.
        let told = only.filter(|_| success).map(|(_, told)| told).unwrap_or_default();
        // It may be asked for anew by now.
        let still = |told: &Told| match told {
            Told::Lock(LockEvent::Release { place, .. }) => ledger.stage(place) == Some(Stage::Unlocking),
            _ => true,
        };
        told.into_iter().filter(still).map(|told| told.done(etag.clone())).collect()
    }

    fn claim(&self, info: LockInfo, path: &str, state: Option<(String, String)>) -> Result<LockClaim, Refusal> {
        let (bucket, state_key) = self.state(path, state)?;
        let found = LockClaim::of_found(info, &bucket, &state_key).map_err(Refusal::Id)?;
        Ok(LockClaim { kinds: LockKinds::DynamoDb, ..found })
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
            let (bucket, key) = bucket_and_key(path).ok_or(Refusal::PathMismatch)?;
            return Ok((bucket.to_owned(), key.to_owned()));
        }
        let mut fitting = self.states.iter().filter(|state| is_it(state));
        let state = fitting.next().ok_or(Refusal::MaskedPath)?;
        if fitting.any(|other| other != state) { Err(Refusal::MaskedPath) } else { Ok(state.clone()) }
    }
}

/// The locks that deleting the item of `path` releases: the one that is named; else those of that path that are held;
/// else those that may be.
fn unlocked_by(path: &str, id: Option<&str>, ledger: &Ledger) -> impl Iterator<Item = LoggedPlace> {
    let is_there = |claim: &LockClaim| claim.lock_id() == path || masked(&claim.lock_id()) == path;
    let here: Vec<_> = ledger
        .entries()
        .iter()
        .filter(|entry| entry.stage != Stage::Unlocked && is_there(&entry.claim))
        .filter(|entry| id.is_none_or(|id| entry.claim.id.as_str() == id))
        .collect();
    let held = here.iter().any(|entry| entry.stage == Stage::Held);
    let released = here.into_iter().filter(move |entry| !held || entry.stage == Stage::Held);
    released.map(|entry| LoggedPlace::of(&entry.claim))
}

/// Terraform's condition for a lock to be new.
const NEW: &str = "attribute_not_exists(LockID)";

/// What kind of request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    PutItem,
    DeleteItem,
    PutObject,
    DeleteObject,
}

/// By what a request and its answer are matched. The logs of OpenTofu and of the SDK v1 have nothing better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    /// What both records say of their surroundings: the table or object, and the ID that Terraform gives an operation.
    context: String,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// An item for a lock, under the condition that there is none.
    Lock {
        info: LockInfo,
        /// The item's key, as the body has it: perhaps masked.
        path: String,
        /// Bucket and key of the state, where the record has them beside the body.
        state: Option<(String, String)>,
    },
    /// A lock's item, deleted; or a digest, by whose key no lock is known.
    Unlock {
        /// The item's key, perhaps masked.
        path: String,
        /// The lock that is meant, where the request is conditional (OpenTofu 1.10 and later).
        id: Option<String>,
    },
    /// A lockfile, under the condition that there is none.
    LockFile(LockTrace),
    /// A lockfile, deleted.
    UnlockFile { bucket: String, state_key: String },
    /// Another item: a digest.
    Other,
}

/// One record of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exchange {
    Sent(Call, Box<Request>),
    Answered { call: Call, success: bool, etag: Option<String> },
}

/// Reads a record. None: it is about something else, or part of it is missing.
fn read_exchange(record: &Record) -> Option<Result<Exchange, Refused>> {
    if record.torn || record.level != Level::Debug {
        return None;
    }
    match (record.logger.as_str(), record.message.as_str()) {
        ("backend-s3", "HTTP Request Sent") => sent(record),
        ("backend-s3", "HTTP Response Received") => answered(record).map(Ok),
        (SDK_V1, message) => dumped(record, message),
        _ => None,
    }
}

fn sent(record: &Record) -> Option<Result<Exchange, Refused>> {
    if let Some(target) = record.field("http.request.header.x_amz_target") {
        let operation = item_operation(target.strip_prefix("DynamoDB_20120810.")?)?;
        let state = record.field("tf_backend.s3.bucket").zip(record.field("tf_backend.s3.path"));
        let body = record.field("http.request.body").unwrap_or_default();
        let request = item_request(operation, body, state);
        return Some(request.map(|request| Exchange::Sent(Call::new(operation, record), Box::new(request))));
    }
    let (bucket, state_key) = lockfile(record)?;
    let (operation, request) = match record.field("http.method")? {
        "PUT" if record.field("http.request.header.if_none_match") == Some("*") => {
            let trace = LockTrace { bucket, state_key, sha256: checksum(record), etag: None };
            (Operation::PutObject, Request::LockFile(trace))
        }
        "DELETE" => (Operation::DeleteObject, Request::UnlockFile { bucket, state_key }),
        _ => return None,
    };
    Some(Ok(Exchange::Sent(Call::new(operation, record), Box::new(request))))
}

fn answered(record: &Record) -> Option<Exchange> {
    let status: u16 = record.field("http.status_code")?.parse().ok()?;
    // `PutItem` and `rpc.service=DynamoDB` with an older otelaws, `DynamoDB/PutItem` with a newer one.
    let method = record.field("rpc.method")?;
    let (service, method) = match method.split_once('/') {
        Some(both) => both,
        None => (record.field("rpc.service")?, method),
    };
    let operation = match (service, method) {
        ("DynamoDB", method) => item_operation(method)?,
        ("S3", "PutObject") => Operation::PutObject,
        ("S3", "DeleteObject") => Operation::DeleteObject,
        _ => return None,
    };
    let call = Call::new(operation, record);
    let etag = record.field("http.response.header.etag").map(str::to_owned);
    Some(Exchange::Answered { call, success: (200..300).contains(&status), etag })
}

/// `Request dynamodb/PutItem Details` and the HTTP message between two lines of dashes. The answer's body is another
/// record, which nobody needs.
fn dumped(record: &Record, message: &str) -> Option<Result<Exchange, Refused>> {
    let (side, operation) = message.strip_suffix(" Details")?.split_once(" dynamodb/")?;
    let operation = item_operation(operation)?;
    let call = Call { operation, context: String::new() };
    let mut lines = record.dump.0.lines().map(|line| line.trim_end_matches('\r'));
    lines.next()?.strip_prefix("---[ ")?;
    let first = lines.next()?;
    let body: Vec<_> = lines.by_ref().skip_while(|line| !line.is_empty()).skip(1).collect();
    let dashes = |line: &&str| !line.is_empty() && line.bytes().all(|byte| byte == b'-');
    // Without its last line the message is not whole.
    let end = body.iter().position(dashes);
    match side {
        "Request" => {
            let request = item_request(operation, &body[..end?].concat(), None);
            Some(request.map(|request| Exchange::Sent(call, Box::new(request))))
        }
        "Response" => {
            let status: u16 = first.split(' ').nth(1)?.parse().ok()?;
            end?;
            Some(Ok(Exchange::Answered { call, success: (200..300).contains(&status), etag: None }))
        }
        _ => None,
    }
}

fn item_operation(name: &str) -> Option<Operation> {
    match name {
        "PutItem" => Some(Operation::PutItem),
        "DeleteItem" => Some(Operation::DeleteItem),
        _ => None,
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ItemBody {
    condition_expression: Option<String>,
    item: HashMap<String, Attribute>,
    key: HashMap<String, Attribute>,
    expression_attribute_values: HashMap<String, Attribute>,
}

#[derive(Deserialize)]
struct Attribute {
    #[serde(rename = "S")]
    text: Option<String>,
}

fn item_request(operation: Operation, body: &str, state: Option<(&str, &str)>) -> Result<Request, Refused> {
    // A body that is not understood is still a request: its answer must not be taken for another's.
    // Behind a long one comes `[truncated...]`, on a line of its own.
    let body = serde_json::Deserializer::from_str(body).into_iter::<ItemBody>().next();
    let mut body = body.and_then(Result::ok).unwrap_or_default();
    let mut text = |attributes: fn(&mut ItemBody) -> &mut HashMap<String, Attribute>, name: &str| {
        attributes(&mut body).remove(name).and_then(|attribute| attribute.text)
    };
    if operation == Operation::DeleteItem {
        let path = text(|body| &mut body.key, "LockID").unwrap_or_default();
        if path.is_empty() {
            return Ok(Request::Other);
        }
        let info = text(|body| &mut body.expression_attribute_values, ":info");
        let id = info.and_then(|info| LockInfo::parse(info.as_bytes()).ok()).map(|info| info.id);
        return Ok(Request::Unlock { path, id });
    }
    let path = text(|body| &mut body.item, "LockID").unwrap_or_default();
    // A digest has none. Its name tells nothing: the key of a state may end as those of digests do.
    let Some(info) = text(|body| &mut body.item, "Info") else {
        return Ok(Request::Other);
    };
    if body.condition_expression.as_deref() != Some(NEW) {
        return Ok(Request::Other);
    }
    let info = LockInfo::parse(info.as_bytes()).map_err(|_| Refused::of(None, Refusal::NoLock))?;
    if info.path != path {
        return Err(Refused::of(Some(&info.id), Refusal::PathMismatch));
    }
    let state = state.map(|(bucket, key)| (bucket.to_owned(), key.to_owned()));
    Ok(Request::Lock { info, path, state })
}

impl Call {
    fn new(operation: Operation, record: &Record) -> Self {
        let [one, other] = match operation {
            Operation::PutItem | Operation::DeleteItem => ["aws.dynamodb.table_names", "aws.region"],
            Operation::PutObject | Operation::DeleteObject => ["aws.s3.bucket", "aws.s3.key"],
        };
        let context = [one, other, "tf_backend.req_id"].map(|key| record.field(key).unwrap_or_default()).join("\n");
        Self { operation, context }
    }
}

/// Bucket and state key of the lockfile that a record is about.
fn lockfile(record: &Record) -> Option<(String, String)> {
    let state_key = record.field("aws.s3.key")?.strip_suffix(LOCKFILE_SUFFIX)?;
    Some((record.field("aws.s3.bucket")?.to_owned(), state_key.to_owned()))
}

/// The SHA-256 of an object that is uploaded, in base64: the checksum that the object is given, else the one under the
/// request's signature, which is no checksum where the body is not signed.
fn checksum(record: &Record) -> Option<String> {
    let given = record.field("http.request.header.x_amz_checksum_sha256");
    if let Some(given) = given.filter(|given| BASE64_STANDARD.decode(given).is_ok_and(|sum| sum.len() == 32)) {
        return Some(given.to_owned());
    }
    let signed = record.field("http.request.header.x_amz_content_sha256")?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let sum: Vec<u8> = signed.as_bytes().chunks(2).map(byte).collect::<Option<_>>()?;
    (signed.len() == 64).then(|| BASE64_STANDARD.encode(sum))
}

/// What aws-sdk-go-base makes of a text inside a body (`MaskAWSSecretKeys` in its `logging/aws.go`): of any run of
/// exactly 40 base64 characters only the first and last four stay. (It masks AWS's own IDs too, in a way that is not
/// needed here: a path with one in it is not recognised, and not believed.)
pub(crate) fn masked(text: &str) -> String {
    const SECRET: usize = 40;
    const SHOWN: usize = 4;
    let mut bytes = text.as_bytes().to_vec();
    let of_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"/+=".contains(byte);
    for run in bytes.chunk_by_mut(|one, other| of_base64(one) == of_base64(other)) {
        if run.len() == SECRET && of_base64(&run[0]) {
            run[SHOWN..SECRET - SHOWN].fill(b'*');
        }
    }
    // Only whole ASCII characters were replaced.
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_forty_are_masked_and_no_others() {
        for (text, expected) in [
            ("a".repeat(39), "a".repeat(39)),
            ("a".repeat(41), "a".repeat(41)),
            (format!("{}-{}", "a".repeat(40), "b"), format!("aaaa{}aaaa-b", "*".repeat(32))),
            (format!("é{}", "/".repeat(40)), format!("é////{}////", "*".repeat(32))),
            ("-".repeat(40), "-".repeat(40)),
        ] {
            assert_eq!(masked(&text), expected);
            assert_eq!(masked(&expected), expected, "what is masked stays as it is");
        }
    }
}
