//! What all schedules share: the API with its record, a checkout for each kind of lock, and who cleans up.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::recorder::Recorder;
use super::schedule::Kind;
use crate::TFGUARD;
use crate::support::{Aws, Guard, Run, aws_provider_mirror, listening};

/// The harness's own credentials, with which all others begin.
pub const CREDENTIALS: &str = "AKIACHAOS";

/// The credentials of a schedule, which no other has on this machine: by them its processes and requests are known. A run's
/// have four letters more.
pub fn new_credentials() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{}{:07}", credentials_here(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// With what the credentials of this process's schedules begin.
pub fn credentials_here() -> String {
    format!("{CREDENTIALS}{:07}", std::process::id())
}
pub const BUCKET: &str = "chaos";
pub const TABLE: &str = "chaos";
pub const KEY: &str = "chaos.tfstate";

/// Kills whatever has the directory in its environment and removes that, once its stdin has ended: also after an interrupt of
/// the tests, or their SIGKILL.
const JANITOR: &str = r#"
trap '' HUP INT TERM
cat > /dev/null
for _ in 1 2 3 4 5; do
    for file in $(grep -laF "$1" /proc/[0-9]*/environ 2> /dev/null); do
        pid=${file#/proc/}
        kill -9 "${pid%/environ}" 2> /dev/null
    done
    sleep 0.1
done
rm -rf "$1"
"#;

/// Finds the API by the environment.
const PROVIDER: &str = r#"terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}
provider "aws" {
  region                      = "us-east-1"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  s3_use_path_style           = true
}
"#;

pub struct Bed {
    pub recorder: Recorder,
    url: String,
    pub terraform: PathBuf,
    dir: TempDir,
    api: Child,
    janitor: Child,
}

impl Bed {
    /// With this real Terraform.
    pub fn new(terraform: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("tfguard-chaos-").tempdir().expect("a directory can be made");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let mut janitor = Command::new("sh");
        janitor.args(["-c", JANITOR, "sh"]).arg(dir.path()).stdin(Stdio::piped()).process_group(0);
        let janitor = janitor.spawn().expect("a shell can be started");
        for name in ["records", "bin"] {
            fs::create_dir(dir.path().join(name)).expect("a directory can be made");
        }
        let program = dir.path().join("bin/tfguard");
        if fs::hard_link(TFGUARD, &program).is_err() {
            fs::copy(TFGUARD, &program).expect("it can be copied");
        }
        fs::write(dir.path().join("api.py"), include_str!("api.py")).expect("a file can be written");
        let [python, args @ ..] = Aws::server();
        let mut server = Command::new(python);
        server.args(args).arg(dir.path().join("api.py")).env_clear().env("CHAOS_RECORDS", dir.path().join("records"));
        let (api, url) = listening(server.process_group(0));
        let bed = Self { recorder: Recorder::start(), url, terraform, dir, api, janitor };
        bed.s3(CREDENTIALS, "PUT", "", "");
        bed.dynamodb(
            CREDENTIALS,
            "CreateTable",
            &json!({
                "TableName": TABLE, "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{ "AttributeName": "LockID", "AttributeType": "S" }],
                "KeySchema": [{ "AttributeName": "LockID", "KeyType": "HASH" }],
            }),
        );
        for kind in Kind::ALL {
            bed.init(&bed.checkout(kind), "backend.tf", &backend(kind));
        }
        if let Some(mirror) = aws_provider_mirror() {
            let cli = format!("provider_installation {{\n  filesystem_mirror {{\n    path = {mirror:?}\n  }}\n}}\n");
            fs::write(bed.dir().join(".terraformrc"), cli).expect("a file can be written");
            bed.init(&bed.dir().join("provider"), "provider.tf", PROVIDER);
        }
        bed
    }

    fn init(&self, dir: &Path, name: &str, text: &str) {
        let guard = Guard::new();
        fs::create_dir(dir).expect("a directory can be made");
        fs::write(dir.join(name), text).expect("a file can be written");
        let init = self.command(&self.terraform, &guard, CREDENTIALS, &self.url).current_dir(dir);
        init.args(["init", "-input=false", "-no-color"]).run().expect_code(0);
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn tfguard(&self) -> PathBuf {
        self.dir().join("bin/tfguard")
    }

    /// An initialised directory.
    pub fn checkout(&self, kind: Kind) -> PathBuf {
        self.dir().join(format!("{kind:?}"))
    }

    /// A program with the environment of a job that has these credentials and finds the API at `url`.
    pub fn command(&self, program: &Path, guard: &Guard, credentials: &str, url: &str) -> Run {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = [self.dir().join("bin")].into_iter().chain(self.terraform.parent().map(Path::to_owned));
        let path = std::env::join_paths(own.chain(std::env::split_paths(&path))).expect("PATH was one before");
        Run::new(program, guard)
            .envs([("AWS_ACCESS_KEY_ID", credentials), ("AWS_SECRET_ACCESS_KEY", "chaos")])
            .envs([("AWS_ENDPOINT_URL_S3", url), ("AWS_ENDPOINT_URL_DYNAMODB", url)])
            .envs([("AWS_EC2_METADATA_DISABLED", "true"), ("CHECKPOINT_DISABLE", "1")])
            .envs([("HOME", self.dir()), ("CHAOS", self.dir())])
            .env("PATH", path)
    }

    /// What the API recorded of a schedule.
    pub fn take_records(&self, schedule: &str) -> Vec<Value> {
        let path = self.dir().join("records").join(schedule);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(|line| serde_json::from_str(line).expect("a record is JSON")).collect()
    }

    /// A request about an object of the bucket, past all faults; the answer.
    pub fn s3(&self, credentials: &str, method: &str, key: &str, body: &str) -> (u16, String) {
        let path = format!("/{BUCKET}/{key}");
        self.request(&format!("{method} {path}"), &head(credentials, "s3", "chaos", ""), body)
    }

    /// A request to DynamoDB, past all faults; the answer.
    pub fn dynamodb(&self, credentials: &str, operation: &str, body: &Value) -> Value {
        self.ask_dynamodb(credentials, "chaos", operation, body)
    }

    /// The same, for a culprit who calls itself what tfguard does.
    pub fn as_tfguard(&self, credentials: &str, operation: &str, body: &Value) -> Value {
        self.ask_dynamodb(credentials, "aws-sdk-rust", operation, body)
    }

    fn ask_dynamodb(&self, credentials: &str, agent: &str, operation: &str, body: &Value) -> Value {
        let target = format!("X-Amz-Target: DynamoDB_20120810.{operation}\r\n");
        let head = head(credentials, "dynamodb", agent, &target);
        let (status, answer) = self.request("POST /", &head, &body.to_string());
        assert_eq!(status, 200, "{operation}: {answer}");
        serde_json::from_str(&answer).unwrap_or_default()
    }

    fn request(&self, what: &str, head: &str, body: &str) -> (u16, String) {
        let address = self.url.strip_prefix("http://").expect("it is on loopback");
        let mut stream = TcpStream::connect(address).expect("the API listens");
        let length = body.len();
        let request = format!("{what} HTTP/1.1\r\nHost: {address}\r\n{head}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("the API reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the API answers");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no answer: {answer}")), body.to_owned())
    }
}

/// Headers of a request that looks signed, which is enough for moto.
fn head(credentials: &str, service: &str, agent: &str, more: &str) -> String {
    format!(
        "Connection: close\r\nUser-Agent: {agent}\r\n{more}\
         Authorization: AWS4-HMAC-SHA256 Credential={credentials}/20260101/us-east-1/{service}/aws4_request, \
         SignedHeaders=host, Signature=0\r\n"
    )
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.api.kill();
        let _ = self.api.wait();
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

fn backend(kind: Kind) -> String {
    let table = if kind == Kind::Lockfile { String::new() } else { format!("dynamodb_table = {TABLE:?}") };
    let lockfile = kind != Kind::Table;
    format!(
        r#"terraform {{
  backend "s3" {{
    bucket = {BUCKET:?}
    key = {KEY:?}
    region = "{region}"
    {table}
    use_lockfile = {lockfile}
    use_path_style = true
    skip_requesting_account_id = true
    skip_credentials_validation = true
    skip_metadata_api_check = true
    skip_region_validation = true
  }}
}}
"#,
        region = Aws::REGION
    )
}
