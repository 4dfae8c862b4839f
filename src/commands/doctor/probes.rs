//! The requests that try what the credentials may do. Reading is done on the real names. What would write or delete
//! has a condition that cannot hold, and is sent for a name that nobody uses.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{ServerSideEncryption, Tag, Tagging};

use super::access::{Answer, Answers};
use super::bucket::BucketFacts;
use super::finding::Area::{Bucket, Table};
use super::finding::Finding;
use super::permissions::{Features, Need, On, needed};
use super::policy::UNUSED_ITEM;
use super::table::TableFacts;
use crate::lock::{SseCustomerKey, StoreError, lockfile_key, object_exists, understand};

/// No item meets it.
const IMPOSSIBLE: &str = "attribute_exists(LockID) AND attribute_not_exists(LockID)";
/// No object has this ETag: it is no MD5 and no multipart sum.
const IMPOSSIBLE_ETAG: &str = "\"tfguard-matches-nothing\"";

/// The state that is asked about.
#[derive(Debug)]
pub struct Place<'a> {
    /// Its bucket.
    pub bucket: &'a str,
    /// Its key.
    pub key: &'a str,
    /// The lock table.
    pub table: Option<&'a str>,
    /// What its settings ask for.
    pub features: Features,
    /// S3 is AWS's own, which keeps the condition of every conditional request.
    pub s3_of_aws: bool,
    /// Terraform asks for encryption when it writes: a bucket may deny all other writing.
    pub encrypts: bool,
    /// With this KMS key.
    pub kms_key: Option<&'a str>,
    /// The customer's key by which objects are encrypted: without it nobody may read them.
    pub customer_key: Option<&'a SseCustomerKey>,
}

/// What came of all requests: the answers, and what was found on the way.
pub async fn probe(
    place: &Place<'_>,
    dynamodb: &aws_sdk_dynamodb::Client,
    s3: &aws_sdk_s3::Client,
    (table, bucket): (Option<&TableFacts>, &BucketFacts),
) -> (Answers, Vec<Finding>) {
    let mut answers = Answers::default();
    let mut findings = Vec::new();
    let items = match place.table {
        Some(table) => Some(Items::ask(dynamodb, table, &format!("{}/{}", place.bucket, place.key)).await),
        None => None,
    };
    let objects = Objects::ask(s3, place).await;
    if items.as_ref().is_some_and(|items| items.ignores_conditions) {
        findings.push(
            Finding::problem(
                Table,
                "conditions",
                "this table's service carried out a delete whose condition cannot hold",
            )
            .why("neither Terraform's locks nor tfguard's deletes can be trusted there")
            .fix("use DynamoDB itself, or another kind of lock"),
        );
    }
    if objects.ignores_conditions && place.features.lockfile {
        findings.push(
            Finding::problem(Bucket, "conditions", "this store ignores the condition of a conditional delete")
                .why("tfguard does not delete a left lockfile there, because another one could have taken its place")
                .fix("read about --without-conditions in `tfguard --help` before you choose another way"),
        );
    }
    // A bucket or a table can have a key of which the backend block says nothing.
    let reading_said = objects.state.of_kms("kms:Decrypt").map(str::to_owned);
    let writing_said = objects.put.of_kms("kms:GenerateDataKey").map(str::to_owned);
    let table_key_said = items.as_ref().and_then(|items| items.get.of_kms("kms:Decrypt")).map(str::to_owned);
    let features = Features {
        kms: place.features.kms || reading_said.is_some() || writing_said.is_some(),
        table_kms: place.features.table_kms || table_key_said.is_some(),
        ..place.features
    };
    for permission in needed(features, Need::ALL) {
        let answer = match (permission.on, permission.action) {
            (On::Items, action) => items.as_ref().map(|items| items.answer(action)),
            (On::Table, "dynamodb:Scan") => items.as_ref().map(|items| items.scan.clone()),
            (On::Table, action) => table.map(|facts| match action {
                "dynamodb:DescribeTable" => Answer::of(&facts.described),
                "dynamodb:DescribeTimeToLive" => Answer::of(&facts.expires_by),
                _ => Answer::of(&facts.recovery),
            }),
            (On::Bucket, "s3:GetBucketVersioning") => Some(Answer::of(&bucket.versioning)),
            (On::Bucket, "s3:GetEncryptionConfiguration") => Some(Answer::of(&bucket.encryption)),
            (On::Bucket, "s3:GetBucketObjectLockConfiguration") => Some(Answer::of(&bucket.object_lock)),
            (On::Key, "kms:Decrypt") if objects.state_was_read => Some(Answer::Allowed),
            (On::Key, "kms:Decrypt") if let Some(detail) = &reading_said => Some(Answer::Denied(detail.clone())),
            (On::Key, "kms:GenerateDataKey") if let Some(detail) = &writing_said => {
                Some(Answer::Denied(detail.clone()))
            }
            (On::Key, _) => Some(Answer::NotAsked("only reading and writing objects shows it")),
            (On::TableKey, _) => items.as_ref().map(|items| match (&items.get, &table_key_said) {
                (Answer::Allowed, _) => Answer::Allowed,
                (_, Some(detail)) => Answer::Denied(detail.clone()),
                _ => Answer::NotAsked("only reading the table shows it"),
            }),
            (on, action) => Some(objects.answer(on, action)),
        };
        if let Some(answer) = answer {
            answers.list.push((*permission, answer));
        }
    }
    answers.unused_item = items.map(|items| items.unused);
    answers.unused_object = Some(objects.unused);
    (answers, findings)
}

/// The answers of a table about its items.
struct Items {
    get: Answer,
    unused: Answer,
    delete: Answer,
    put: Answer,
    update: Answer,
    scan: Answer,
    ignores_conditions: bool,
}

impl Items {
    async fn ask(client: &aws_sdk_dynamodb::Client, table: &str, lock_id: &str) -> Self {
        let key = |id: String| AttributeValue::S(id);
        let unused = format!("{lock_id}{UNUSED_ITEM}");
        let get = |id: String| {
            client.get_item().table_name(table).key("LockID", key(id)).projection_expression("LockID").send()
        };
        let denied_or = |error: StoreError| Answer::of_error(&error);
        let delete =
            client.delete_item().table_name(table).key("LockID", key(unused.clone())).condition_expression(IMPOSSIBLE);
        let delete = delete.send().await;
        let ignores_conditions = delete.is_ok();
        let delete = conditional("dynamodb:DeleteItem", delete.map(|_| ()));
        let (put, update) = if ignores_conditions {
            let why = "this service ignores conditions, so a request could really write";
            (Answer::NotAsked(why), Answer::NotAsked(why))
        } else {
            let put = client
                .put_item()
                .table_name(table)
                .item("LockID", key(unused.clone()))
                .condition_expression(IMPOSSIBLE);
            let put = conditional("dynamodb:PutItem", put.send().await.map(|_| ()));
            let update = client
                .update_item()
                .table_name(table)
                .key("LockID", key(unused.clone()))
                .update_expression("SET TfguardHolder = :holder")
                .set_expression_attribute_values(Some(HashMap::from([(
                    ":holder".to_owned(),
                    key("doctor".to_owned()),
                )])))
                .condition_expression(IMPOSSIBLE);
            (put, conditional("dynamodb:UpdateItem", update.send().await.map(|_| ())))
        };
        let scan = client.scan().table_name(table).limit(1).projection_expression("LockID").send().await;
        Self {
            get: get(lock_id.to_owned())
                .await
                .map_or_else(|error| denied_or(understand("dynamodb:GetItem", error)), |_| Answer::Allowed),
            unused: get(unused)
                .await
                .map_or_else(|error| denied_or(understand("dynamodb:GetItem", error)), |_| Answer::Allowed),
            delete,
            put,
            update,
            scan: scan.map_or_else(|error| denied_or(understand("dynamodb:Scan", error)), |_| Answer::Allowed),
            ignores_conditions,
        }
    }

    fn answer(&self, action: &str) -> Answer {
        match action {
            "dynamodb:GetItem" => &self.get,
            "dynamodb:DeleteItem" => &self.delete,
            "dynamodb:PutItem" => &self.put,
            _ => &self.update,
        }
        .clone()
    }
}

/// A request whose condition cannot hold: that it was refused for that shows that it was permitted.
fn conditional<E>(action: &'static str, result: Result<(), SdkError<E, HttpResponse>>) -> Answer
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match result {
        Ok(()) => Answer::Allowed,
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Answer::Allowed,
        Err(error) => Answer::of_error(&understand(action, error)),
    }
}

/// The answers of a bucket about its objects.
struct Objects {
    list: Answer,
    list_versions: Answer,
    state: Answer,
    state_version: Answer,
    lockfile: Answer,
    unused: Answer,
    put: Answer,
    delete: Answer,
    get_tags: Answer,
    put_tags: Answer,
    state_was_read: bool,
    ignores_conditions: bool,
}

impl Objects {
    async fn ask(client: &aws_sdk_s3::Client, place: &Place<'_>) -> Self {
        let (bucket, key) = (place.bucket, place.key);
        let lockfile = lockfile_key(key);
        let unused = format!("{lockfile}.tfguard-doctor");
        let list = client.list_objects_v2().bucket(bucket).prefix(key).max_keys(1).send().await;
        let versions = client.list_object_versions().bucket(bucket).prefix(key).max_keys(1).send().await;
        // One byte shows it; the rest can hold secrets.
        let get = || {
            let request = client.get_object().bucket(bucket).key(key).range("bytes=0-0");
            match place.customer_key {
                Some(key) => request
                    .sse_customer_algorithm("AES256")
                    .sse_customer_key(key.base64())
                    .sse_customer_key_md5(key.md5()),
                None => request,
            }
        };
        let state = get().send().await;
        let state_was_read = state.is_ok();
        let lock = object_exists(client, bucket, &lockfile, place.customer_key).await;
        let beside = client.head_object().bucket(bucket).key(&unused).send().await;
        // The version of an object that was made before the bucket kept versions.
        let version = get().version_id("null").send().await;
        let delete = client.delete_object().bucket(bucket).key(&unused).if_match(IMPOSSIBLE_ETAG).send().await;
        let ignores_conditions = delete.is_ok();
        let put = if place.s3_of_aws {
            let put = client.put_object().bucket(bucket).key(&unused).if_match(IMPOSSIBLE_ETAG).body(Vec::new().into());
            // In Terraform's order (`PutObject` in its S3 client).
            let put = match (place.encrypts, place.kms_key, place.customer_key) {
                (false, ..) => put,
                (true, Some(key), _) => put.server_side_encryption(ServerSideEncryption::AwsKms).ssekms_key_id(key),
                (true, None, Some(key)) => {
                    put.sse_customer_algorithm("AES256").sse_customer_key(key.base64()).sse_customer_key_md5(key.md5())
                }
                (true, None, None) => put.server_side_encryption(ServerSideEncryption::Aes256),
            };
            missing("s3:PutObject", put.send().await.map(|_| ()))
        } else {
            Answer::NotAsked(
                "a store that is not AWS's could ignore the condition and really write; the first `terraform plan` shows it",
            )
        };
        let get_tags = client.get_object_tagging().bucket(bucket).key(&unused).send().await;
        // On an object that is not there, it cannot be carried out.
        let tag = Tag::builder().key("tfguard").value("doctor").build();
        let put_tags = match tag.and_then(|tag| Tagging::builder().tag_set(tag).build()) {
            Ok(tags) => {
                let put = client.put_object_tagging().bucket(bucket).key(&unused).tagging(tags).send().await;
                missing("s3:PutObjectTagging", put.map(|_| ()))
            }
            Err(error) => Answer::Failed(error.to_string()),
        };
        Self {
            list: missing("s3:ListBucket", list.map(|_| ())),
            list_versions: missing("s3:ListBucketVersions", versions.map(|_| ())),
            state: missing("s3:GetObject", state.map(|_| ())),
            state_version: missing("s3:GetObjectVersion", version.map(|_| ())),
            lockfile: Answer::of(&lock),
            unused: missing("s3:GetObject", beside.map(|_| ())),
            put,
            delete: missing("s3:DeleteObject", delete.map(|_| ())),
            get_tags: missing("s3:GetObjectTagging", get_tags.map(|_| ())),
            put_tags,
            state_was_read,
            ignores_conditions,
        }
    }

    fn answer(&self, on: On, action: &str) -> Answer {
        match (on, action) {
            (On::Bucket, "s3:ListBucket") => self.list.clone(),
            (On::Bucket, "s3:ListBucketVersions") => self.list_versions.clone(),
            (On::State, "s3:GetObject") => self.state.clone(),
            (On::State, "s3:GetObjectVersion") => self.state_version.clone(),
            (On::Lockfile, "s3:GetObject") => self.lockfile.clone(),
            (On::Lockfile, "s3:DeleteObject") => self.delete.clone(),
            (On::Lockfile, "s3:GetObjectTagging") => self.get_tags.clone(),
            (On::Lockfile, "s3:PutObjectTagging") => self.put_tags.clone(),
            (On::Lockfile, "s3:PutObject") => self.put.clone(),
            (On::State, "s3:PutObject") => {
                Answer::NotAsked("it would have to be tried on the state itself; the first `terraform apply` shows it")
            }
            (On::Unused, _) => {
                Answer::NotAsked("it would really write; it is needed where a lockfile is to be deleted")
            }
            _ => Answer::NotAsked("nothing harmless shows it"),
        }
    }
}

/// A request for something that is not there, or that its condition keeps from being done: any answer but a denial
/// shows that it was permitted.
fn missing<E>(action: &'static str, result: Result<(), SdkError<E, HttpResponse>>) -> Answer
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Err(error) = result else { return Answer::Allowed };
    // Not found, in conflict, condition not met, range that cannot be.
    let status = error.raw_response().map(|raw| raw.status().as_u16());
    if matches!(status, Some(404 | 409 | 412 | 416)) && error.code() != Some("NoSuchBucket") {
        return Answer::Allowed;
    }
    Answer::of_error(&understand(action, error))
}
