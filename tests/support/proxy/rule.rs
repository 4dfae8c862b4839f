//! What is done with which requests.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use tokio::sync::watch;

use super::super::watched::Watched;

/// Which requests a rule is for. Everything that is set has to fit.
#[derive(Clone, Debug, Default)]
pub struct Match {
    method: Option<Method>,
    path: Option<String>,
    target: Option<String>,
    body: Option<String>,
    headers: Vec<(&'static str, String)>,
    pub(super) occurrences: Option<RangeInclusive<usize>>,
}

impl Match {
    pub fn any() -> Self {
        Self::default()
    }

    /// A DynamoDB operation: `PutItem`, `GetItem`, `DeleteItem`, …
    pub fn dynamodb(operation: &str) -> Self {
        Self { target: Some(operation.to_owned()), ..Self::default() }
    }

    /// A request by method and a part of path and query: `("PUT", ".tflock")`.
    pub fn http(method: &str, path: &str) -> Self {
        let method = method.parse().expect("a method");
        Self { method: Some(method), path: Some(path.to_owned()), ..Self::default() }
    }

    /// Only with this text in the body: `attribute_not_exists` marks the request that takes a lock in DynamoDB.
    pub fn body(mut self, text: &str) -> Self {
        self.body = Some(text.to_owned());
        self
    }

    /// Only with this text in a header; empty: only with the header.
    pub fn header(mut self, name: &'static str, text: &str) -> Self {
        self.headers.push((name, text.to_owned()));
        self
    }

    /// Only the `n`th that fits, counted from 1 when the rule was made.
    pub fn nth(self, n: usize) -> Self {
        self.occurrences(n..=n)
    }

    /// Only these, counted from 1 when the rule was made.
    pub fn occurrences(mut self, range: RangeInclusive<usize>) -> Self {
        self.occurrences = Some(range);
        self
    }

    pub fn fits(&self, seen: &Seen) -> bool {
        self.method.as_ref().is_none_or(|method| *method == seen.method)
            && self.path.as_ref().is_none_or(|part| seen.path.contains(part.as_str()))
            && self.target.as_ref().is_none_or(|operation| seen.operation() == Some(operation))
            && self.body.as_ref().is_none_or(|part| seen.text().contains(part.as_str()))
            && self
                .headers
                .iter()
                .all(|(name, part)| seen.header(name).is_some_and(|value| value.contains(part.as_str())))
    }
}

/// A step of what is done with a request. A rule's steps run in order; if none of them is [`Self::Forward`],
/// [`Self::Answer`] or [`Self::Close`], the request is forwarded after them. What is said last is what the client
/// gets: `[Forward, Forward]` sends a request twice, `[Forward, Close]` loses the answer.
///
/// The steps go on when the client is gone, as a request on its way to AWS would.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends it on and keeps the answer.
    Forward,
    /// Waits.
    Delay(Duration),
    /// Waits for the test.
    Hold(Gate),
    /// Lets go on what another rule holds there, without the test having to be awake.
    Open(Gate),
    /// Takes a header away before it is sent on: without `If-Match` the store acts like one that ignores it.
    Strip(&'static str),
    /// Answers by itself.
    Answer(Answer),
    /// Closes the connection without a word.
    Close,
}

/// Holds requests until the test lets them go.
#[derive(Clone)]
pub struct Gate {
    arrived: Arc<Watched<usize>>,
    open: watch::Sender<bool>,
}

impl Gate {
    pub fn new() -> Self {
        Self { arrived: Arc::default(), open: watch::Sender::new(false) }
    }

    /// The step that waits here.
    pub fn hold(&self) -> Action {
        Action::Hold(self.clone())
    }

    /// The step that opens it.
    pub fn open(&self) -> Action {
        Action::Open(self.clone())
    }

    /// Waits until `count` requests have come here. Panics after `timeout`.
    #[track_caller]
    pub fn wait_for(&self, count: usize, timeout: Duration) {
        self.arrived
            .wait(timeout, |arrived| (*arrived >= count).then_some(()))
            .unwrap_or_else(|| panic!("{} of {count} requests came within {timeout:?}", *self.arrived.get()));
    }

    /// Whether a request has come here, or comes within `timeout`.
    pub fn is_reached_within(&self, timeout: Duration) -> bool {
        self.arrived.wait(timeout, |arrived| (*arrived > 0).then_some(())).is_some()
    }

    /// Lets all go on, also those that come later.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    pub(super) async fn pass(&self) {
        let mut open = self.open.subscribe();
        self.arrived.change(|arrived| *arrived += 1);
        // The sender lives in `self`.
        let _ = open.wait_for(|open| *open).await;
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self.open.borrow() { "open" } else { "closed" })
    }
}

/// An answer that does not come from moto.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let status = StatusCode::from_u16(status).expect("a status");
        Self { status, content_type: "text/plain", body: body.into() }
    }

    /// An error of DynamoDB, which answers 400 to all that is the client's fault, throttling and missing permissions
    /// included (DynamoDB Developer Guide, "Error handling with DynamoDB"): `ProvisionedThroughputExceededException`,
    /// `ThrottlingException`, `AccessDeniedException`, `ResourceNotFoundException`, `ExpiredTokenException`; and 500
    /// to `InternalServerError`.
    pub fn dynamodb(kind: &str, message: &str) -> Self {
        let status = if kind == "InternalServerError" { 500 } else { 400 };
        let space = match kind {
            "AccessDeniedException" | "ExpiredTokenException" | "ThrottlingException" => "com.amazon.coral.service",
            _ => "com.amazonaws.dynamodb.v20120810",
        };
        let body = serde_json::json!({ "__type": format!("{space}#{kind}"), "message": message });
        Self { content_type: "application/x-amz-json-1.0", ..Self::new(status, body.to_string()) }
    }

    /// An error of S3: `(403, "AccessDenied")`, `(412, "PreconditionFailed")`, `(409, "ConditionalRequestConflict")`,
    /// `(501, "NotImplemented")`, `(503, "SlowDown")`, …
    pub fn s3(status: u16, code: &str, message: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
             <RequestId>TESTBED</RequestId></Error>"
        );
        Self { content_type: "application/xml", ..Self::new(status, body) }
    }
}

impl From<Answer> for Action {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// A request the proxy has seen.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    /// With the query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What was done up to now, in order: `held`, `forwarded: 200`, `closed`, …
    pub done: Vec<String>,
    /// Nothing more will be done.
    pub finished: bool,
}

impl Seen {
    /// The DynamoDB operation: what follows the point in `x-amz-target`.
    pub fn operation(&self) -> Option<&str> {
        Some(self.header("x-amz-target")?.rsplit_once('.')?.1)
    }

    /// A header's value; `None` also if it is no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
