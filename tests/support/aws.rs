//! An AWS API on loopback: moto with DynamoDB, S3 and STS, or what else serves one of them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};

use super::lock_info::LockInfo;
use super::tools::Tools;

const SERVER: &str = include_str!("templates/moto_serve.py");

/// An item of a DynamoDB table.
pub type Item = HashMap<String, AttributeValue>;

/// One process that serves an AWS API, moto unless said otherwise, and clients for it. It ends when this is dropped; moto also
/// when this process ends in any way.
///
/// Everything blocks, so it is not for use inside an async runtime. What AWS refuses panics: a test has to arrange
/// things that work, and to look at what is there.
pub struct Aws {
    url: String,
    dynamodb_url: String,
    // Holds the server's stdin, whose end is moto's.
    server: Child,
    runtime: tokio::runtime::Runtime,
    dynamodb: aws_sdk_dynamodb::Client,
    s3: aws_sdk_s3::Client,
}

/// An S3 object as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub body: Vec<u8>,
    pub etag: String,
    /// In a versioned bucket.
    pub version: Option<String>,
}

impl Aws {
    pub const REGION: &str = "us-east-1";

    /// The credentials moto takes (it takes any).
    pub const ENV: [(&str, &str); 2] =
        [("AWS_ACCESS_KEY_ID", "AKIATESTBEDTESTBED00"), ("AWS_SECRET_ACCESS_KEY", "testbed")];

    /// The server all tests of this process share; each uses buckets and tables of its own.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Aws> = LazyLock::new(Aws::start);
        &SHARED
    }

    /// Starts a server and waits until it listens.
    pub fn start() -> Self {
        let [python, args @ ..] = Self::server();
        let (server, url) = listening(Command::new(python).args(args).env_clear());
        Self::at(server, &url, &url)
    }

    /// The stores that a process serves.
    pub fn at(server: Child, s3_url: &str, dynamodb_url: &str) -> Self {
        Self {
            url: s3_url.to_owned(),
            dynamodb_url: dynamodb_url.to_owned(),
            server,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be built"),
            dynamodb: Self::dynamodb_at(dynamodb_url),
            s3: Self::s3_at(s3_url),
        }
    }

    /// The server's command line. It prints its port and serves until its stdin ends.
    pub fn server() -> [&'static OsStr; 4] {
        [Tools::get().python().as_os_str(), "-I".as_ref(), "-c".as_ref(), SERVER.as_ref()]
    }

    /// A client of the server behind `url` (a [`super::FaultProxy`]) that tries once.
    pub fn dynamodb_at(url: &str) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(credentials())
            .region(Region::from_static(Self::REGION))
            .endpoint_url(url)
            .retry_config(RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http());
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    /// As [`Self::dynamodb_at`].
    pub fn s3_at(url: &str) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(credentials())
            .region(Region::from_static(Self::REGION))
            .endpoint_url(url)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http());
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// Where S3 and STS are: `http://127.0.0.1:port`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where DynamoDB is, the same unless somebody else plays it.
    pub fn dynamodb_url(&self) -> &str {
        &self.dynamodb_url
    }

    pub fn dynamodb(&self) -> &aws_sdk_dynamodb::Client {
        &self.dynamodb
    }

    pub fn s3(&self) -> &aws_sdk_s3::Client {
        &self.s3
    }

    /// Waits for a request of [`Self::dynamodb`] or [`Self::s3`].
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    #[track_caller]
    fn must<T, E: std::error::Error>(&self, future: impl Future<Output = Result<T, E>>) -> T {
        match self.block_on(future) {
            Ok(answer) => answer,
            Err(error) => panic!("moto refused: {}", DisplayErrorContext(&error)),
        }
    }

    /// A name nobody else uses, valid for a table and for a bucket.
    pub fn unique(&self, prefix: &str) -> String {
        unique(prefix)
    }

    /// A lock table as Terraform wants it: the string key `LockID`.
    pub fn create_table(&self, name: &str) {
        let attribute = AttributeDefinition::builder().attribute_name("LockID").attribute_type(ScalarAttributeType::S);
        let key = KeySchemaElement::builder().attribute_name("LockID").key_type(KeyType::Hash);
        self.must(
            self.dynamodb
                .create_table()
                .table_name(name)
                .billing_mode(BillingMode::PayPerRequest)
                .attribute_definitions(attribute.build().expect("complete"))
                .key_schema(key.build().expect("complete"))
                .send(),
        );
    }

    /// All items of a table: locks and digests.
    pub fn items(&self, table: &str) -> Vec<Item> {
        let pages = self.dynamodb.scan().table_name(table).consistent_read(true).into_paginator().items().send();
        self.must(pages.collect::<Result<Vec<_>, _>>())
    }

    /// The items of a table that are no digests.
    pub fn locks(&self, table: &str) -> Vec<Item> {
        self.items(table).into_iter().filter(|item| !string(item, "LockID").ends_with("-md5")).collect()
    }

    /// One item as it is.
    pub fn item(&self, table: &str, lock_id: &str) -> Option<Item> {
        let key = AttributeValue::S(lock_id.to_owned());
        self.must(self.dynamodb.get_item().table_name(table).key("LockID", key).consistent_read(true).send()).item
    }

    pub fn put_item(&self, table: &str, item: Item) {
        self.must(self.dynamodb.put_item().table_name(table).set_item(Some(item)).send());
    }

    pub fn delete_item(&self, table: &str, lock_id: &str) {
        let key = AttributeValue::S(lock_id.to_owned());
        self.must(self.dynamodb.delete_item().table_name(table).key("LockID", key).send());
    }

    /// The `Info` of the lock of a state, if it is locked. `lock_id` is `bucket/key`.
    pub fn lock(&self, table: &str, lock_id: &str) -> Option<serde_json::Value> {
        let item = self.item(table, lock_id)?;
        Some(serde_json::from_str(&string(&item, "Info")).expect("a lock's Info is JSON"))
    }

    /// The MD5 sum Terraform keeps of the state, in hexadecimal.
    pub fn digest(&self, table: &str, lock_id: &str) -> Option<String> {
        Some(string(&self.item(table, &format!("{lock_id}-md5"))?, "Digest"))
    }

    /// Locks a state in the table, as `lock.path`, for somebody else.
    pub fn plant_lock(&self, table: &str, lock: &LockInfo) {
        let text = |value: String| AttributeValue::S(value);
        let item = [("LockID", text(lock.path.clone())), ("Info", text(lock.json()))];
        self.put_item(table, item.map(|(name, value)| (name.to_owned(), value)).into());
    }

    /// Locks a state by a lockfile, as `lock.path`, for somebody else; the object's ETag.
    pub fn plant_lockfile(&self, lock: &LockInfo) -> String {
        let (bucket, key) = lock.path.split_once('/').expect("a lock's path is bucket/key");
        self.put_object(bucket, &format!("{key}.tflock"), lock.json().into_bytes())
    }

    /// The lockfile of a state, if it is locked by one. `path` is `bucket/key`.
    pub fn lockfile(&self, path: &str) -> Option<serde_json::Value> {
        let (bucket, key) = path.split_once('/').expect("a lock's path is bucket/key");
        let object = self.object(bucket, &format!("{key}.tflock"))?;
        Some(serde_json::from_slice(&object.body).expect("a lockfile is JSON"))
    }

    pub fn create_bucket(&self, name: &str, versioned: bool) {
        self.must(self.s3.create_bucket().bucket(name).send());
        if versioned {
            let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            self.must(self.s3.put_bucket_versioning().bucket(name).versioning_configuration(on).send());
        }
    }

    pub fn object(&self, bucket: &str, key: &str) -> Option<Object> {
        let answer = match self.block_on(self.s3.get_object().bucket(bucket).key(key).send()) {
            Ok(answer) => answer,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => {
                return None;
            }
            Err(error) => panic!("moto refused: {}", DisplayErrorContext(&error)),
        };
        let body = self.block_on(answer.body.collect()).expect("the body can be read").to_vec();
        Some(Object { body, etag: answer.e_tag.expect("an object has an ETag"), version: answer.version_id })
    }

    /// The new object's ETag.
    pub fn put_object(&self, bucket: &str, key: &str, body: Vec<u8>) -> String {
        let put = self.s3.put_object().bucket(bucket).key(key).body(body.into());
        self.must(put.send()).e_tag.expect("an object has an ETag")
    }

    pub fn delete_object(&self, bucket: &str, key: &str) {
        self.must(self.s3.delete_object().bucket(bucket).key(key).send());
    }

    /// The keys of a bucket that begin with `prefix`.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let pages = self.s3.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
        let pages = self.must(pages.collect::<Result<Vec<_>, _>>());
        pages.iter().flat_map(|page| page.contents()).filter_map(|object| object.key.clone()).collect()
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Starts a server that prints the port on which it listens, and serves until its stdin ends; it, and its address.
pub fn listening(command: &mut Command) -> (Child, String) {
    let server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut server = server.unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().display()));
    let mut port = String::new();
    let stdout = server.stdout.take().expect("it is a pipe");
    BufReader::new(stdout).read_line(&mut port).expect("its output can be read");
    assert!(!port.is_empty(), "{} did not start; its reason is above", command.get_program().display());
    (server, format!("http://127.0.0.1:{}", port.trim()))
}

fn credentials() -> Credentials {
    Credentials::new(Aws::ENV[0].1, Aws::ENV[1].1, None, None, "test bed")
}

/// A name nobody else uses on this machine, whatever the server: a Terraform of another test that works on a bucket of the
/// same name may hold the same lock, as far as tfguard can see.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A string attribute; empty if there is none.
fn string(item: &Item, name: &str) -> String {
    item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default()
}
