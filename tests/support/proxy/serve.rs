//! Takes requests, performs the steps of their rules, forwards.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::super::watched::Watched;
use super::rule::{Action, Match, Seen};

#[derive(Default)]
pub struct State {
    pub rules: Vec<Rule>,
    /// How many rules there have been.
    pub made: usize,
    pub seen: Vec<Seen>,
}

pub struct Rule {
    pub number: usize,
    pub matching: Match,
    pub actions: Vec<Action>,
    pub count: usize,
}

/// The proxy closes the connection instead of an answer.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed by a rule")
    }
}

impl std::error::Error for Closed {}

type Reply = Response<Full<Bytes>>;

pub async fn accept(listener: &TcpListener, upstream: SocketAddr, state: &Arc<Watched<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(state);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, upstream, Arc::clone(&state)));
            // An error is a client that went away, or one the rules want to have none.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, upstream: SocketAddr, state: Arc<Watched<State>>) -> Result<Reply, Closed> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let seen = Seen { method: parts.method, path, headers: parts.headers, body, done: Vec::new(), finished: false };
    let (index, actions) = state.change(|state| {
        state.seen.push(seen.clone());
        (state.seen.len() - 1, actions(&mut state.rules, &seen))
    });
    // A task of its own, because hyper drops this one when the client goes away.
    let work = tokio::spawn(async move {
        let note = |done: String| state.change(|state| state.seen[index].done.push(done));
        let reply = perform(&seen, actions, upstream, note).await;
        state.change(|state| state.seen[index].finished = true);
        reply
    });
    work.await.unwrap_or(Err(Closed))
}

/// The steps for a request. Every rule that fits counts it.
fn actions(rules: &mut [Rule], seen: &Seen) -> Vec<Action> {
    let mut chosen = None;
    for rule in rules.iter_mut().filter(|rule| rule.matching.fits(seen)) {
        rule.count += 1;
        if rule.matching.occurrences.as_ref().is_none_or(|range| range.contains(&rule.count)) {
            chosen.get_or_insert_with(|| rule.actions.clone());
        }
    }
    let mut actions = chosen.unwrap_or_default();
    if !actions.iter().any(|action| matches!(action, Action::Forward | Action::Answer(_) | Action::Close)) {
        actions.push(Action::Forward);
    }
    actions
}

async fn perform(
    seen: &Seen,
    actions: Vec<Action>,
    upstream: SocketAddr,
    note: impl Fn(String),
) -> Result<Reply, Closed> {
    let mut headers = seen.headers.clone();
    let mut reply = Err(Closed);
    for action in actions {
        match action {
            Action::Forward => match forward(seen, &headers, upstream).await {
                Ok(answer) => {
                    note(format!("forwarded: {}", answer.status().as_u16()));
                    reply = Ok(answer);
                }
                Err(error) => {
                    note(format!("not forwarded: {error}"));
                    reply = Err(Closed);
                }
            },
            Action::Delay(time) => {
                tokio::time::sleep(time).await;
                note(format!("delayed by {time:?}"));
            }
            Action::Hold(gate) => {
                gate.pass().await;
                note("held".to_owned());
            }
            Action::Open(gate) => {
                gate.release();
                note("opened".to_owned());
            }
            Action::Strip(name) => {
                let there = headers.remove(name).is_some();
                note(format!("{name} {}", if there { "stripped" } else { "not there" }));
            }
            Action::Answer(answer) => {
                note(format!("answered: {}", answer.status.as_u16()));
                let mut answered = Response::new(Full::from(answer.body));
                *answered.status_mut() = answer.status;
                let kind = HeaderValue::from_static(answer.content_type);
                answered.headers_mut().insert(CONTENT_TYPE, kind);
                reply = Ok(answered);
            }
            Action::Close => {
                note("closed".to_owned());
                reply = Err(Closed);
            }
        }
    }
    reply
}

/// These are about one connection and not about the message.
const HOP: [HeaderName; 4] = [CONNECTION, TRANSFER_ENCODING, EXPECT, HeaderName::from_static("keep-alive")];

async fn forward(
    seen: &Seen,
    headers: &HeaderMap,
    upstream: SocketAddr,
) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
    let mut request = Request::new(Full::new(seen.body.clone()));
    *request.method_mut() = seen.method.clone();
    *request.uri_mut() = seen.path.parse()?;
    *request.headers_mut() = headers.clone();
    for name in HOP {
        request.headers_mut().remove(name);
    }
    let stream = TcpStream::connect(upstream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (mut parts, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    for name in HOP {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, Full::new(body)))
}
