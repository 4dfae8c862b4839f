//! Servers that Terraform's `http` backend keeps its state on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::server::{Reply, Request, Server};

/// How a server keeps locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Keeps the lock as it was sent, and unlocks whatever the request says.
    Careless,
    /// As GitLab: its own words for user and time, the asker's for the rest; unlocks with the ID or without any.
    GitLab,
}

/// A state and its lock.
pub struct StateServer {
    server: Server,
    kept: Arc<Mutex<Kept>>,
    flavour: Flavour,
}

#[derive(Default)]
struct Kept {
    state: Option<Vec<u8>>,
    lock: Option<Value>,
    /// The next lock is taken, and nobody is told.
    loses_answer: bool,
}

/// The user that GitLab knows everybody by.
const GITLAB_USER: &str = "ci-bot";

impl StateServer {
    pub fn start(flavour: Flavour) -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = Arc::clone(&kept);
        Self { server: Server::start(move |request| answer(flavour, &mut lock(&shared), request)), kept, flavour }
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

    /// Puts a lock in the place of whatever is there.
    pub fn plant_lock(&self, info: Value) {
        lock(&self.kept).lock = Some(info);
    }

    pub fn remove_lock(&self) {
        lock(&self.kept).lock = None;
    }

    pub fn lose_the_next_locks_answer(&self) {
        lock(&self.kept).loses_answer = true;
    }

    /// How many requests asked to give a lock back.
    pub fn unlocks(&self) -> usize {
        let requests = self.server.requests();
        requests.iter().filter(|request| request.target == "/lock" && !is_lock(request)).count()
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
    let asked = if request.body.is_empty() { Value::Null } else { request.json() };
    let held = kept.lock.clone();
    if locks {
        let status = if held.is_some() { if flavour == Flavour::GitLab { 409 } else { 423 } } else { 200 };
        let lock = held.unwrap_or_else(|| made(flavour, &asked));
        kept.lock = Some(lock.clone());
        if std::mem::take(&mut kept.loses_answer) {
            return Reply::Close;
        }
        return match flavour {
            Flavour::GitLab => gitlab(status, &lock, &asked),
            Flavour::Careless => Reply::json(status, &lock),
        };
    }
    let is_own = held.is_some_and(|held| held["ID"] == asked["ID"]);
    let opens = flavour == Flavour::Careless || is_own || asked["ID"].is_null();
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
        Flavour::Careless => asked.clone(),
    }
}

fn gitlab(status: u16, lock: &Value, asked: &Value) -> Reply {
    let mut body = lock.clone();
    for field in ["Operation", "Info", "Version", "Path"] {
        body[field] = asked[field].clone();
    }
    Reply::json(status, &body)
}
