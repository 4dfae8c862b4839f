//! As much of Google Cloud Storage as Terraform's `gcs` backend uses: objects with generations, on loopback.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::aws::unique;
use super::server::{Reply, Request, Server};

/// A bucket.
pub struct GcsServer {
    server: Server,
    kept: Arc<Mutex<Kept>>,
}

struct Kept {
    bucket: String,
    objects: BTreeMap<String, (u64, Vec<u8>)>,
    generation: u64,
}

impl Kept {
    fn put(&mut self, name: &str, body: Vec<u8>) -> u64 {
        self.generation += 1;
        // The shape of real ones: microseconds.
        let generation = 1_732_075_882_000_000 + self.generation;
        self.objects.insert(name.to_owned(), (generation, body));
        generation
    }
}

const STATE: &str = "prod/default.tfstate";
const LOCK: &str = "prod/default.tflock";

impl GcsServer {
    pub fn start() -> Self {
        let kept = Kept { bucket: unique("states"), objects: BTreeMap::new(), generation: 0 };
        let kept = Arc::new(Mutex::new(kept));
        let shared = Arc::clone(&kept);
        let server =
            Server::start(move |request| answer(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), request));
        Self { server, kept }
    }

    /// The `terraform` block.
    pub fn backend(&self) -> String {
        format!(
            "terraform {{\n  backend \"gcs\" {{\n    bucket = \"{}\"\n    prefix = \"prod\"\n    access_token = \"x\"\n    \
             storage_custom_endpoint = \"{}/storage/v1/b\"\n  }}\n}}\n",
            self.kept().bucket,
            self.server.url()
        )
    }

    /// The lock as Terraform wrote it, and the generation of its object, which is its ID.
    pub fn lock(&self) -> Option<(String, Value)> {
        let (generation, body) = self.object(LOCK)?;
        Some((generation.to_string(), serde_json::from_slice(&body).expect("a lock is JSON")))
    }

    /// The state and its generation.
    pub fn state(&self) -> Option<(u64, Vec<u8>)> {
        self.object(STATE)
    }

    /// Puts a lock in the place of whatever is there.
    pub fn plant_lock(&self, info: &Value) {
        self.kept().put(LOCK, info.to_string().into_bytes());
    }

    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }

    fn object(&self, name: &str) -> Option<(u64, Vec<u8>)> {
        self.kept().objects.get(name).cloned()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(kept: &mut Kept, request: &Request) -> Reply {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let path = path.replace("%2F", "/");
    let query = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.replace("%2F", "/"))
    };
    let wanted: Option<u64> = query("ifGenerationMatch").and_then(|generation| generation.parse().ok());
    let unmet = |found: Option<u64>| wanted.is_some_and(|wanted| wanted != found.unwrap_or(0));
    let of = |kept: &Kept, name: &str| kept.objects.get(name).map(|(generation, _)| *generation);
    if let Some(name) = path.strip_prefix(&format!("/{}/", kept.bucket)) {
        return match kept.objects.get(name) {
            Some((generation, body)) => Reply::Answer {
                status: 200,
                headers: vec![
                    ("X-Goog-Generation", generation.to_string()),
                    ("Last-Modified", "Fri, 20 Nov 2026 04:11:22 GMT".to_owned()),
                ],
                body: body.clone(),
            },
            None => Reply::status(404),
        };
    }
    if path == format!("/upload/storage/v1/b/{}/o", kept.bucket) {
        let Some((name, body)) = upload(request, query("name")) else { return Reply::status(400) };
        if unmet(of(kept, &name)) {
            return error(412);
        }
        let generation = kept.put(&name, body);
        return Reply::json(200, &described(kept, &name, generation));
    }
    let objects = format!("/storage/v1/b/{}/o", kept.bucket);
    match (request.method.as_str(), path.strip_prefix(&format!("{objects}/"))) {
        ("GET", Some(name)) => {
            of(kept, name).map_or_else(|| error(404), |generation| Reply::json(200, &described(kept, name, generation)))
        }
        ("DELETE", Some(name)) if unmet(of(kept, name)) => error(412),
        ("DELETE", Some(name)) => kept.objects.remove(name).map_or_else(|| error(404), |_| Reply::status(204)),
        ("GET", None) if path == objects => Reply::json(200, &json!({"items": []})),
        _ => Reply::status(405),
    }
}

/// The name and the content of an object: the second of two parts, the first being its description.
fn upload(request: &Request, name: Option<String>) -> Option<(String, Vec<u8>)> {
    let boundary = format!("--{}", request.header("content-type")?.split_once("boundary=")?.1.trim_matches('"'));
    let text = String::from_utf8(request.body.clone()).ok()?;
    let mut parts = text.split(&boundary).skip(1).filter_map(|part| part.split_once("\r\n\r\n"));
    let described: Value = serde_json::from_str(parts.next()?.1.trim()).ok()?;
    let content = parts.next()?.1;
    let name = name.or_else(|| Some(described["name"].as_str()?.to_owned()))?;
    Some((name, content.strip_suffix("\r\n").unwrap_or(content).as_bytes().to_owned()))
}

fn described(kept: &Kept, name: &str, generation: u64) -> Value {
    json!({"kind": "storage#object", "bucket": kept.bucket, "name": name, "generation": generation.to_string(), "metageneration": "1"})
}

fn error(status: u16) -> Reply {
    let message =
        if status == 412 { "At least one of the pre-conditions you specified did not hold." } else { "No such object" };
    let reason = if status == 412 { "conditionNotMet" } else { "notFound" };
    Reply::json(
        status,
        &json!({"error": {"code": status, "message": message, "errors": [{"message": message, "reason": reason}]}}),
    )
}
