//! Servers that Terraform's `http` backend keeps its state on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Certificates, Reply, Request, Server};

/// How a server keeps locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Keeps the lock as it was sent, and unlocks only with its ID.
    Strict,
    /// Unlocks whatever the request says.
    Careless,
    /// As GitLab: its own words for user and time, the asker's for the rest; unlocks with the ID or without any.
    GitLab,
}

/// What goes wrong with requests for the lock, or to give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Never answers.
    Silent,
    /// Answers 200 with a web page to everything that is not about the lock, and this status to what is.
    Status(u16),
    /// Says that it is locked, and no more.
    Nonsense,
    /// Takes the next lock and does not say so.
    LosesLockAnswer,
    /// Does not see the next unlock.
    LosesUnlock,
    /// Does the next unlock and does not say so.
    LosesUnlockAnswer,
    /// Fails at every unlock.
    FailsUnlocks,
    /// Does the next unlock and does not say so, and fails at all that follow.
    LosesUnlockAnswerAndFails,
}

/// A state and its lock.
pub struct StateServer {
    server: Server,
    kept: Arc<Mutex<Kept>>,
    flavour: Flavour,
}

struct Kept {
    state: Option<Vec<u8>>,
    lock: Option<Value>,
    fault: Fault,
}

/// `user` and `secret`, as HTTP's basic authentication has them.
const AUTHORIZATION: &str = "Basic dXNlcjpzZWNyZXQ=";

/// The user that GitLab knows everybody by.
pub const GITLAB_USER: &str = "ci-bot";

impl StateServer {
    pub fn start(flavour: Flavour) -> Self {
        let kept = Arc::new(Mutex::new(Kept { state: None, lock: None, fault: Fault::None }));
        let shared = Arc::clone(&kept);
        Self { server: Server::start(move |request| answer(flavour, &mut lock(&shared), request)), kept, flavour }
    }

    /// One that talks TLS to the bearer of a certificate, and wants a password.
    pub fn start_guarded() -> (Self, Certificates) {
        let kept = Arc::new(Mutex::new(Kept { state: None, lock: None, fault: Fault::None }));
        let shared = Arc::clone(&kept);
        let (server, certificates) = Server::start_tls(move |request| {
            if request.header("authorization") == Some(AUTHORIZATION) {
                answer(Flavour::Strict, &mut lock(&shared), request)
            } else {
                Reply::status(401)
            }
        });
        (Self { server, kept, flavour: Flavour::Strict }, certificates)
    }

    /// The `terraform` block.
    pub fn backend(&self) -> String {
        let url = self.server.url();
        let methods =
            if self.flavour == Flavour::GitLab { "lock_method = \"POST\"\n    unlock_method = \"DELETE\"" } else { "" };
        format!(
            "terraform {{\n  backend \"http\" {{\n    address = \"{url}/state\"\n    lock_address = \"{url}/lock\"\n    \
             unlock_address = \"{url}/lock\"\n    retry_max = 0\n    {methods}\n  }}\n}}\n"
        )
    }

    /// The same settings as environment variables, for an empty block.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let url = self.server.url();
        let methods = if self.flavour == Flavour::GitLab { ["POST", "DELETE"] } else { ["LOCK", "UNLOCK"] };
        vec![
            ("TF_HTTP_ADDRESS", format!("{url}/state")),
            ("TF_HTTP_LOCK_ADDRESS", format!("{url}/lock")),
            ("TF_HTTP_UNLOCK_ADDRESS", format!("{url}/lock")),
            ("TF_HTTP_LOCK_METHOD", methods[0].to_owned()),
            ("TF_HTTP_UNLOCK_METHOD", methods[1].to_owned()),
            ("TF_HTTP_RETRY_MAX", "0".to_owned()),
        ]
    }

    pub fn lock(&self) -> Option<Value> {
        lock(&self.kept).lock.clone()
    }

    pub fn state(&self) -> Option<Vec<u8>> {
        lock(&self.kept).state.clone()
    }

    /// Puts a lock in the place of whatever is there.
    pub fn plant_lock(&self, info: Value) {
        lock(&self.kept).lock = Some(info);
    }

    pub fn remove_lock(&self) {
        lock(&self.kept).lock = None;
    }

    pub fn fault(&self, fault: Fault) {
        lock(&self.kept).fault = fault;
    }

    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }

    /// The requests that tfguard itself made.
    pub fn requests_of_tfguard(&self) -> Vec<Request> {
        let ours = |request: &Request| request.header("user-agent").is_some_and(|agent| agent.starts_with("tfguard/"));
        self.server.requests().into_iter().filter(ours).collect()
    }

    #[track_caller]
    pub fn wait_for_lock(&self, timeout: Duration) {
        self.server.wait_for(timeout, is_lock);
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_lock(request: &Request) -> bool {
    request.target == "/lock" && matches!(request.method.as_str(), "LOCK" | "POST")
}

fn answer(flavour: Flavour, kept: &mut Kept, request: &Request) -> Reply {
    if request.target == "/lock" {
        return answer_lock(flavour, kept, request);
    }
    match request.method.as_str() {
        "GET" => match &kept.state {
            Some(state) => Reply::Answer { status: 200, headers: Vec::new(), body: state.clone() },
            None => Reply::status(404),
        },
        "POST" => {
            kept.state = Some(request.body.clone());
            Reply::status(200)
        }
        _ => Reply::status(405),
    }
}

fn answer_lock(flavour: Flavour, kept: &mut Kept, request: &Request) -> Reply {
    let locks = is_lock(request);
    match kept.fault {
        Fault::Silent => return Reply::Silence,
        Fault::Status(status) => return Reply::Answer { status, headers: Vec::new(), body: b"<html>".to_vec() },
        Fault::Nonsense if locks => {
            return Reply::Answer { status: 423, headers: Vec::new(), body: b"<html>".to_vec() };
        }
        Fault::LosesUnlock if !locks => {
            kept.fault = Fault::None;
            return Reply::Close;
        }
        Fault::FailsUnlocks if !locks => return Reply::status(500),
        Fault::LosesUnlockAnswer | Fault::LosesUnlockAnswerAndFails if !locks => {
            let fails = kept.fault == Fault::LosesUnlockAnswerAndFails;
            kept.fault = if fails { Fault::FailsUnlocks } else { Fault::None };
            kept.lock = None;
            return Reply::Close;
        }
        _ => {}
    }
    let asked = if request.body.is_empty() { Value::Null } else { request.json() };
    let held = kept.lock.clone();
    if locks {
        let status = if held.is_some() { if flavour == Flavour::GitLab { 409 } else { 423 } } else { 200 };
        let lock = held.unwrap_or_else(|| made(flavour, &asked));
        kept.lock = Some(lock.clone());
        if kept.fault == Fault::LosesLockAnswer {
            kept.fault = Fault::None;
            return Reply::Close;
        }
        return match flavour {
            Flavour::GitLab => gitlab(status, &lock, &asked),
            Flavour::Strict | Flavour::Careless => Reply::json(status, &lock),
        };
    }
    let id = |lock: &Value| lock["ID"].clone();
    let fits = held.as_ref().is_some_and(|held| id(held) == id(&asked));
    let opens = match flavour {
        Flavour::Strict => fits,
        Flavour::Careless => true,
        Flavour::GitLab => fits || asked["ID"].is_null(),
    };
    if opens {
        kept.lock = None;
    }
    Reply::status(if opens { 200 } else { 409 })
}

/// The lock as it is kept.
fn made(flavour: Flavour, asked: &Value) -> Value {
    match flavour {
        Flavour::GitLab => {
            json!({"ID": asked["ID"], "Who": GITLAB_USER, "Created": jiff::Timestamp::now().to_string()})
        }
        Flavour::Strict | Flavour::Careless => asked.clone(),
    }
}

fn gitlab(status: u16, lock: &Value, asked: &Value) -> Reply {
    let mut body = lock.clone();
    for field in ["Operation", "Info", "Version", "Path"] {
        body[field] = asked[field].clone();
    }
    let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    match Reply::json(status, &body) {
        Reply::Answer { status, mut headers, body } => {
            headers.push(("Date", date));
            Reply::Answer { status, headers, body }
        }
        other => other,
    }
}
