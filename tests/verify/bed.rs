//! A state with a digest, named by flags, so that no Terraform has to be there.

use aws_sdk_dynamodb::types::AttributeValue;
use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use crate::TFGUARD;
use crate::support::{Aws, Exit, FaultProxy, Guard, Run, Tools, saying_yes};

pub const LINEAGE: &str = "3f5c7b1e-0d2a-4c55-9b5e-1f1d3c6a7b88";
/// What has to be encoded, and as it is of a workspace.
pub const KEY: &str = "env:/blue+green/net work/prod.tfstate";

/// A state of its own behind a proxy.
pub struct Bed {
    pub aws: &'static Aws,
    pub proxy: FaultProxy,
    pub guard: Guard,
    pub dir: tempfile::TempDir,
    pub bucket: String,
    pub table: String,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(false)
    }

    pub fn versioned() -> Self {
        Self::with(true)
    }

    fn with(versioned: bool) -> Self {
        let aws = Aws::shared();
        let bed = Self {
            aws,
            proxy: FaultProxy::start(aws.url()),
            guard: Guard::new(),
            dir: tempfile::tempdir().unwrap(),
            bucket: aws.unique("verify-states"),
            table: aws.unique("verify-locks"),
        };
        aws.create_bucket(&bed.bucket, versioned);
        aws.create_table(&bed.table);
        bed
    }

    /// Puts an object there and no digest; its version.
    pub fn put(&self, body: impl Into<Vec<u8>>) -> Option<String> {
        self.aws.put_object(&self.bucket, KEY, body.into());
        self.aws.object(&self.bucket, KEY).unwrap().version
    }

    /// Puts an object there and its digest; its version.
    pub fn write(&self, body: impl Into<Vec<u8>>) -> Option<String> {
        let body = body.into();
        self.put_digest(&md5(&body));
        self.put(body)
    }

    pub fn put_digest(&self, digest: &str) {
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let item = [("LockID", text(&format!("{}-md5", self.lock_id()))), ("Digest", text(digest))];
        self.aws.put_item(&self.table, item.map(|(name, value)| (name.to_owned(), value)).into());
    }

    pub fn digest(&self) -> Option<String> {
        self.aws.digest(&self.table, &self.lock_id())
    }

    pub fn lock_id(&self) -> String {
        format!("{}/{KEY}", self.bucket)
    }

    /// `tfguard verify` of this state.
    pub fn verify(&self, options: &[&str]) -> Run {
        let url = self.proxy.url();
        Run::new(TFGUARD, &self.guard)
            .current_dir(self.dir.path())
            .envs(Aws::ENV)
            .envs([("HOME", self.dir.path()), ("TFGUARD_DIR", self.dir.path())])
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .args(["verify", "--bucket", &self.bucket, "--key", KEY, "--region", Aws::REGION, "--table", &self.table])
            .args(["--s3-endpoint", url, "--dynamodb-endpoint", url, "--path-style"])
            .args(options)
    }

    /// The commands that it advises.
    #[track_caller]
    pub fn steps(&self, options: &[&str]) -> Vec<String> {
        let (_, said) = self.json(options);
        let steps = said["steps"].as_array().unwrap().iter();
        steps.map(|step| step["run"].as_str().unwrap_or_else(|| panic!("{said:#}")).to_owned()).collect()
    }

    /// Runs one as a person who pastes it, with the real AWS CLI.
    pub fn paste(&self, command: &str) -> Exit {
        let aws = format!("aws() {{ '{}' -m awscli \"$@\"; }}", Tools::get().aws_cli().display());
        let script = format!("{aws}\n{}\n{command}", saying_yes(TFGUARD));
        Run::new("bash", &self.guard)
            .current_dir(self.dir.path())
            .envs(Aws::ENV)
            .envs([("HOME", self.dir.path()), ("TFGUARD_DIR", self.dir.path())])
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .args(["-c", &script])
            .run()
    }

    /// What it says as JSON, with its exit code.
    #[track_caller]
    pub fn json(&self, options: &[&str]) -> (i32, Value) {
        json_of(self.verify(options).args(["--format", "json"]).run())
    }
}

#[track_caller]
pub fn json_of(exit: Exit) -> (i32, Value) {
    let said: Value = serde_json::from_str(&exit.out()).unwrap_or_else(|error| panic!("{error}: {exit}"));
    assert_eq!(Some(&said["exit_code"]), exit.code.map(Value::from).as_ref(), "{exit}");
    (exit.code.unwrap(), said)
}

/// The kinds of what was found.
pub fn kinds(said: &Value) -> Vec<&str> {
    said["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap()).collect()
}

pub fn md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A whole state.
pub fn state(serial: u64) -> String {
    state_of(LINEAGE, serial)
}

pub fn state_of(lineage: &str, serial: u64) -> String {
    json!({
        "version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": lineage,
        "outputs": {"password": {"value": "hush", "type": "string", "sensitive": true}},
        "resources": [], "check_results": null,
    })
    .to_string()
}
