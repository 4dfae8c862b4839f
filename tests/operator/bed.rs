//! A table and a bucket with locks of every kind, and tfguard beside them.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use serde_json::Value;

use crate::support::{Aws, Exit, FaultProxy, Guard, LockInfo, Run};

pub use crate::{SOON, TFGUARD};
pub const OWN: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";

/// A table, a bucket, a directory; used by nobody else. tfguard reaches them through a proxy.
pub struct Bed {
    pub aws: &'static Aws,
    pub proxy: FaultProxy,
    pub guard: Guard,
    pub dir: tempfile::TempDir,
    pub table: String,
    pub bucket: String,
}

impl Bed {
    pub fn new() -> Self {
        let aws = Aws::shared();
        let bed = Self {
            aws,
            proxy: FaultProxy::start(aws.url()),
            guard: Guard::new(),
            dir: tempfile::tempdir().unwrap(),
            table: aws.unique("operator-locks"),
            bucket: aws.unique("operator-states"),
        };
        aws.create_table(&bed.table);
        aws.create_bucket(&bed.bucket, false);
        bed
    }

    /// tfguard with the flags by which it reaches the bed.
    pub fn tfguard(&self, words: &[&str]) -> Run {
        Run::new(TFGUARD, &self.guard)
            .current_dir(self.dir.path())
            .envs(Aws::ENV)
            .env("HOME", self.dir.path())
            .args(words)
            .args(reach(self.proxy.url()))
    }

    /// A command about one state of the bed, both halves of its lock.
    pub fn about(&self, key: &str, words: &[&str]) -> Run {
        self.tfguard(words).args(["--bucket", &self.bucket, "--key", key, "--table", &self.table])
    }

    pub fn path(&self, key: &str) -> String {
        format!("{}/{key}", self.bucket)
    }

    /// A lock of somebody on the state with this key.
    pub fn lock(&self, key: &str, id: &str) -> LockInfo {
        LockInfo { id: id.to_owned(), ..LockInfo::foreign(&self.path(key)) }
    }

    pub fn in_table(&self, lock: &LockInfo) {
        self.aws.plant_lock(&self.table, lock);
    }

    /// Locks a state by both halves.
    pub fn in_both(&self, lock: &LockInfo) {
        self.in_table(lock);
        self.aws.plant_lockfile(lock);
    }

    /// An item with these texts beside its key.
    pub fn item(&self, lock_id: &str, attributes: &[(&str, &str)]) {
        let key = ("LockID", lock_id);
        let text = |(name, value): (&str, &str)| (name.to_owned(), AttributeValue::S(value.to_owned()));
        self.aws.put_item(&self.table, [key].iter().chain(attributes).copied().map(text).collect());
    }

    pub fn object(&self, key: &str, body: &str) {
        self.aws.put_object(&self.bucket, key, body.as_bytes().to_vec());
    }

    /// What is left: keys of items and of objects, sorted.
    pub fn left(&self) -> (Vec<String>, Vec<String>) {
        let items = self.aws.items(&self.table);
        let mut items: Vec<_> = items.iter().map(|item| item["LockID"].as_s().unwrap().clone()).collect();
        items.sort_unstable();
        (items, self.aws.keys(&self.bucket, ""))
    }

    /// Many items at once.
    pub fn many(&self, locks: impl Iterator<Item = LockInfo>) {
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let requests: Vec<_> = locks
            .map(|lock| {
                let item: HashMap<_, _> =
                    [("LockID".to_owned(), text(&lock.path)), ("Info".to_owned(), text(&lock.json()))].into();
                let put = PutRequest::builder().set_item(Some(item)).build().unwrap();
                WriteRequest::builder().put_request(put).build()
            })
            .collect();
        for some in requests.chunks(25) {
            let sent = self.aws.dynamodb().batch_write_item().request_items(&self.table, some.to_vec()).send();
            assert!(self.aws.block_on(sent).unwrap().unprocessed_items.unwrap_or_default().is_empty());
        }
    }

    /// Every delete has a condition, and nothing else is written, but what examines whether conditions are kept.
    #[track_caller]
    pub fn assert_only_conditional_deletes(&self) {
        for request in self.proxy.seen() {
            let examined = request.path.contains(".tfguard-");
            match (request.method.as_str(), request.operation()) {
                (_, Some("GetItem" | "Scan")) | ("GET" | "HEAD", None) => {}
                (_, Some("DeleteItem")) => assert!(request.text().contains("ConditionExpression"), "{request:?}"),
                ("DELETE", None) => assert!(request.header("if-match").is_some(), "{request:?}"),
                ("PUT", None) => assert!(examined && request.header("if-none-match").is_some(), "{request:?}"),
                _ => panic!("{request:?}"),
            }
        }
    }

    /// It did nothing but read.
    #[track_caller]
    pub fn assert_only_read(&self) {
        for request in self.proxy.seen() {
            let reads = matches!(request.operation(), Some("GetItem" | "Scan"))
                || (request.operation().is_none() && ["GET", "HEAD"].contains(&request.method.as_str()));
            assert!(reads, "{request:?}");
        }
    }
}

/// The flags by which everything is found at this address.
pub fn reach(url: &str) -> [&str; 7] {
    ["--region", Aws::REGION, "--s3-endpoint", url, "--dynamodb-endpoint", url, "--path-style"]
}

/// What it wrote, as JSON.
#[track_caller]
pub fn json(exit: &Exit) -> Value {
    serde_json::from_slice(&exit.stdout).unwrap_or_else(|error| panic!("{error}: {exit}"))
}
