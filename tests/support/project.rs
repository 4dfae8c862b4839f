//! A directory with a Terraform configuration whose state is in S3, on loopback.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::aws::Aws;
use super::black_hole::BlackHole;
use super::guard::Guard;
use super::run::{Exit, Run};

/// What an apply of the configuration does. No kind needs a provider from outside.
pub enum Kind {
    /// Makes one resource and the output `answer` (`42`) at once.
    Quick,
    /// Says `asleep` while it applies and sleeps for ten minutes. An interrupt ends the sleep.
    Sleep,
    /// Prints this many numbered lines while it applies.
    Chatty(u32),
    /// Hangs while it plans, whatever it is asked ([`Project::wait_for_hang`]).
    HangInPlan,
    /// Makes one resource, then hangs while it applies ([`Project::wait_for_hang`]).
    HangInApply,
    /// This configuration, less the backend.
    Hcl(String),
}

/// A configuration and its state's bucket, table and lock, used by nobody else. What runs in it ends with it.
pub struct Project<'a> {
    // First, so that its processes end before their directory.
    guard: Guard,
    dir: TempDir,
    aws: &'a Aws,
    hole: BlackHole,
    terraform: PathBuf,
    bucket: String,
    table: Option<String>,
    lockfile: bool,
    versioned: bool,
    key: String,
    workspace: Option<String>,
    endpoint: String,
    dynamodb_endpoint: String,
    backend: String,
    old_names: bool,
}

impl<'a> Project<'a> {
    /// A state without any lock; see [`Self::table`] and [`Self::lockfile`]. Nothing is made before [`Self::init`].
    pub fn new(aws: &'a Aws, kind: Kind) -> Self {
        let dir = tempfile::Builder::new().prefix("tfguard-test-").tempdir().expect("a directory can be made");
        let hole = BlackHole::start();
        for name in ["work", "home", "tmp", "tfguard"] {
            fs::create_dir(dir.path().join(name)).expect("a directory can be made");
        }
        fs::write(dir.path().join("work/main.tf"), configuration(kind, &hole)).expect("a file can be written");
        Self {
            guard: Guard::new(),
            dir,
            aws,
            hole,
            terraform: PathBuf::new(),
            bucket: aws.unique("states"),
            table: None,
            lockfile: false,
            versioned: false,
            key: "network/prod.tfstate".to_owned(),
            workspace: None,
            endpoint: aws.url().to_owned(),
            dynamodb_endpoint: aws.dynamodb_url().to_owned(),
            backend: String::new(),
            old_names: false,
        }
    }

    /// Locks in a DynamoDB table of its own.
    pub fn table(mut self) -> Self {
        self.table = Some(self.aws.unique("locks"));
        self
    }

    /// Locks by a lockfile (Terraform 1.10 and later).
    pub fn lockfile(mut self) -> Self {
        self.lockfile = true;
        self
    }

    /// The bucket keeps versions.
    pub fn versioned(mut self) -> Self {
        self.versioned = true;
        self
    }

    /// The state's key, `network/prod.tfstate` unless said otherwise.
    pub fn key(mut self, key: &str) -> Self {
        self.key = key.to_owned();
        self
    }

    /// Made and selected by [`Self::init`].
    pub fn workspace(mut self, name: &str) -> Self {
        self.workspace = Some(name.to_owned());
        self
    }

    /// Where Terraform finds S3 and DynamoDB: a [`super::FaultProxy`] instead of moto itself.
    pub fn endpoint(mut self, url: &str) -> Self {
        self.endpoint = url.to_owned();
        self.dynamodb_endpoint = url.to_owned();
        self
    }

    /// More lines for the backend block.
    pub fn backend(mut self, hcl: &str) -> Self {
        self.backend = hcl.to_owned();
        self
    }

    /// The backend block has the names that Terraform up to 1.5 knows.
    pub fn old_names(mut self) -> Self {
        self.old_names = true;
        self
    }

    /// Makes bucket and table, and runs this Terraform's `init`. Panics if that fails.
    pub fn init(mut self, terraform: &Path) -> Self {
        self.terraform = terraform.to_owned();
        self.aws.create_bucket(&self.bucket, self.versioned);
        if let Some(table) = &self.table {
            self.aws.create_table(table);
        }
        fs::write(self.work().join("backend.tf"), self.backend_block()).expect("a file can be written");
        self.terraform(["init", "-input=false", "-no-color"]).run().expect_code(0);
        if let Some(name) = &self.workspace {
            self.terraform(["workspace", "new", "-no-color", name]).run().expect_code(0);
        }
        self
    }

    fn backend_block(&self) -> String {
        let Self { bucket, key, endpoint, dynamodb_endpoint, backend, .. } = self;
        let table = self.table.as_ref().map(|table| format!("dynamodb_table = {table:?}")).unwrap_or_default();
        // Not even named where it is off: Terraform before 1.10 does not know it.
        let lockfile = if self.lockfile { "use_lockfile = true" } else { "" };
        let places = if self.old_names {
            format!(
                "force_path_style = true
    endpoint = {endpoint:?}
    dynamodb_endpoint = {dynamodb_endpoint:?}
    sts_endpoint = {endpoint:?}"
            )
        } else {
            format!(
                "use_path_style = true
    skip_requesting_account_id = true
    endpoints = {{
      s3 = {endpoint:?}
      dynamodb = {dynamodb_endpoint:?}
      sts = {endpoint:?}
    }}"
            )
        };
        format!(
            r#"terraform {{
  backend "s3" {{
    bucket = {bucket:?}
    key = {key:?}
    region = "{region}"
    {table}
    {lockfile}
    skip_credentials_validation = true
    skip_metadata_api_check = true
    skip_region_validation = true
    {places}
    {backend}
  }}
}}
"#,
            region = Aws::REGION
        )
    }

    /// Terraform in the project's directory.
    pub fn terraform<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        self.command(&self.terraform).args(args)
    }

    /// `terraform apply`, without a question, to its end; panics unless it works.
    pub fn apply(&self) -> Exit {
        self.terraform(["apply", "-input=false", "-auto-approve", "-no-color"]).run().expect_code(0)
    }

    /// tfguard (its path is `env!("CARGO_BIN_EXE_tfguard")`) with these options and the project's Terraform with
    /// these arguments behind `--`.
    pub fn tfguard<O: AsRef<OsStr>, A: AsRef<OsStr>>(
        &self,
        tfguard: &str,
        options: impl IntoIterator<Item = O>,
        terraform: impl IntoIterator<Item = A>,
    ) -> Run {
        self.command(tfguard).args(options).arg("--").arg(&self.terraform).args(terraform)
    }

    /// Any program in the project's directory and environment: its Terraform first on `PATH`, AWS credentials,
    /// [`Self::sessions`], and nothing of the machine's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Run {
        let inside = |name: &str| self.dir.path().join(name);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = self.terraform.parent().into_iter().map(Path::to_path_buf);
        let path = std::env::join_paths(own.chain(std::env::split_paths(&path))).expect("PATH was one before");
        Run::new(program, &self.guard)
            .current_dir(self.work())
            .envs(Aws::ENV)
            .envs([("HOME", inside("home")), ("TMPDIR", inside("tmp")), ("TFGUARD_DIR", self.sessions())])
            .envs([("AWS_EC2_METADATA_DISABLED", "true"), ("CHECKPOINT_DISABLE", "1")])
            .env("PATH", path)
    }

    /// Pastes a command that tfguard printed into a plain shell, which has none of a run's variables. Questions are answered
    /// with yes.
    #[track_caller]
    pub fn paste(&self, tfguard: &str, dir: &Path, command: &str) -> Exit {
        let script = format!("{}\n{command}", saying_yes(tfguard));
        self.command("bash").args(["-c", &script]).current_dir(dir).run()
    }

    /// Has OpenTofu encrypt what it writes: a `plan`, or the `state`.
    pub fn encrypt(&self, what: &str) {
        let block = format!(
            r#"terraform {{
  encryption {{
    key_provider "pbkdf2" "k" {{
      passphrase = "correct-horse-battery-staple"
    }}
    method "aes_gcm" "m" {{
      keys = key_provider.pbkdf2.k
    }}
    {what} {{
      method = method.aes_gcm.m
    }}
  }}
}}"#
        );
        std::fs::write(self.work().join("encryption.tf"), block).expect("a file can be written");
    }

    /// The directory Terraform runs in.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// The directory for tfguard's sessions.
    pub fn sessions(&self) -> PathBuf {
        self.dir.path().join("tfguard")
    }

    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    pub fn aws(&self) -> &'a Aws {
        self.aws
    }

    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The lock table's name. Panics if the project has none.
    pub fn table_name(&self) -> &str {
        self.table.as_deref().expect("the project has a lock table")
    }

    /// The key of the selected workspace's state.
    pub fn state_key(&self) -> String {
        match &self.workspace {
            Some(name) => format!("env:/{name}/{}", self.key),
            None => self.key.clone(),
        }
    }

    /// `bucket/key` of the selected workspace's state: the `LockID` in DynamoDB, the `Path` of its lock.
    pub fn lock_id(&self) -> String {
        format!("{}/{}", self.bucket, self.state_key())
    }

    /// The lock in the table, if there is one.
    pub fn lock(&self) -> Option<serde_json::Value> {
        self.aws.lock(self.table_name(), &self.lock_id())
    }

    /// The lock in the bucket, if there is one.
    pub fn lock_in_bucket(&self) -> Option<serde_json::Value> {
        self.aws.lockfile(&self.lock_id())
    }

    /// The state, if there is one.
    pub fn state(&self) -> Option<serde_json::Value> {
        let object = self.aws.object(&self.bucket, &self.state_key())?;
        Some(serde_json::from_slice(&object.body).expect("a state is JSON"))
    }

    /// The Terraforms that were started for this project and are alive, by their names; tfguard's own links are none.
    pub fn terraforms(&self) -> Vec<i32> {
        let lines = self.guard().processes();
        let pids = lines.iter().filter_map(|line| line.split_once(' ')?.0.parse::<i32>().ok());
        let is_terraform = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let program = fs::read_link(format!("/proc/{pid}/exe"));
            matches!(name.trim(), "terraform" | "tofu")
                && program.is_ok_and(|program| program.file_name().is_some_and(|name| name != "tfguard"))
        };
        pids.filter(is_terraform).collect()
    }

    /// Waits until the journal of the project's one guard of a Terraform is as wanted: what Terraform logged is in it a
    /// little after Terraform went on. Below another guard it is the inner one's. Panics after `timeout`.
    #[track_caller]
    pub fn wait_for_journal(
        &self,
        timeout: Duration,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let start = Instant::now();
        loop {
            let sessions = session_dirs(&self.sessions()).into_iter().map(innermost);
            let journals: Vec<_> = sessions.filter_map(|session| fs::read(session.join("journal.json")).ok()).collect();
            let journal = match &journals[..] {
                [journal] => serde_json::from_slice(journal).expect("a journal is JSON"),
                journals => serde_json::json!(format!("{} journals", journals.len())),
            };
            if wanted(&journal) {
                return journal;
            }
            assert!(start.elapsed() < timeout, "not within {timeout:?}: {journal:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the journal names a lock, and returns it.
    #[track_caller]
    pub fn wait_for_known_lock(&self, timeout: Duration) -> serde_json::Value {
        self.wait_for_journal(timeout, |journal| journal["account"]["locks"][0]["id"].is_string())
    }

    /// Waits until Terraform hangs in [`Kind::HangInPlan`] or [`Kind::HangInApply`].
    pub fn wait_for_hang(&self, timeout: Duration) {
        self.hole.wait_for_connection(timeout);
    }
}

/// The session of the one guard below a session's, or of the one below that; the session itself where there is none.
fn innermost(session: PathBuf) -> PathBuf {
    let below = fs::read_dir(session.join("inner")).into_iter().flatten().flatten().map(|entry| entry.path());
    match below.collect::<Vec<_>>().as_slice() {
        [inner] => innermost(inner.clone()),
        _ => session,
    }
}

fn configuration(kind: Kind, hole: &BlackHole) -> String {
    let local_exec = |command: &str| {
        format!(
            r#"resource "terraform_data" "work" {{
  provisioner "local-exec" {{
    command = {command:?}
  }}
}}
"#
        )
    };
    let hang = |depends_on: &str| {
        format!(
            r#"data "terraform_remote_state" "silent" {{
  backend = "http"
  config = {{
    address = "{}"
  }}
  {depends_on}
}}
"#,
            hole.url()
        )
    };
    match kind {
        Kind::Quick => r#"resource "terraform_data" "work" {
  input = 42
}
output "answer" {
  value = terraform_data.work.output
}
"#
        .to_owned(),
        // In two parts, because Terraform shows the command before it starts it. The sleep takes the shell's place: an
        // interrupt kills it and leaves no orphan that holds the output.
        Kind::Sleep => local_exec("echo as''leep; exec sleep 600"),
        Kind::Chatty(lines) => local_exec(&format!("seq -f 'line %.0f' {lines}")),
        Kind::HangInPlan => hang(""),
        Kind::HangInApply => {
            format!("resource \"terraform_data\" \"work\" {{}}\n{}", hang("depends_on = [terraform_data.work]"))
        }
        Kind::Hcl(text) => text,
    }
}

/// The directories of tfguard's sessions in a place for them.
pub fn session_dirs(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.join(".tfguard-sessions")).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("a directory can be read").path());
    paths.filter(|path| path.is_dir()).collect()
}

/// A function of bash's that calls tfguard and answers its questions with yes.
pub fn saying_yes(tfguard: &str) -> String {
    format!(
        r#"tfguard() {{
  case "$*" in unlock\ *|verify\ *--fix-digest*) set -- "$1" --yes "${{@:2}}";; esac
  {tfguard} "$@"
}}"#
    )
}
