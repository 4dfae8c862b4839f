//! The half of a lock that is an item in a DynamoDB table.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;

use crate::aws::{StoreError, classify};
use crate::model::{Content, FoundLock, Holder, LEASE_ATTRIBUTE, Leased, LockClaim, Recorded, Sighting};
use crate::store::own::check_own;
use crate::store::{Claimed, NotClaimed};

/// The suffix of the item that holds the state's digest, not a lock (`stateIDSuffix` in Terraform's S3 client).
pub(crate) const DIGEST_SUFFIX: &str = "-md5";
/// The attribute that holds a state's digest (`Put` in the same).
const DIGEST: &str = "Digest";
/// The attribute that holds the holder's record, JSON as text. Terraform reads `LockID` and `Info` only.
const HOLDER: &str = "TfguardHolder";
/// All that a look at an item needs.
pub(crate) const ATTRIBUTES: &str = "LockID, Info, TfguardHolder, TfguardLease";
/// What a request about a claimed lock has to know of its item.
const CLAIMED: &str = "LockID, Info, TfguardHolder, TfguardLease, Digest";
/// How often a request about a claimed lock is tried on an item that changes between the look and the request.
const TRIES: u32 = 3;

/// An item's attributes by their names.
type Item = HashMap<String, AttributeValue>;

/// Attributes that a request must find as they were read, none where there was none.
pub(super) type Unchanged<'a> = [(&'static str, Option<&'a AttributeValue>)];

/// An item in a lock table.
///
/// It deletes, and writes beside `Info`, only under the condition that `Info`, which names the lock's ID, and the record
/// beside it are those that were just read and judged. A digest has no `Info`: where the name could be a digest's, what has
/// a `Digest` and what has no `Info` is left alone besides.
#[derive(Debug, Clone)]
pub struct TableStore {
    /// Doesn't retry where locks are deleted.
    pub(crate) client: Client,
    pub(crate) table: String,
    pub(crate) lock_id: String,
}

impl TableStore {
    pub(crate) fn key(&self) -> AttributeValue {
        AttributeValue::S(self.lock_id.clone())
    }

    /// Nothing is sent about an item that cannot be the claimed lock.
    fn check(&self, claim: &LockClaim) -> Result<(), StoreError> {
        if self.lock_id == claim.lock_id() {
            return Ok(());
        }
        Err(StoreError::Misdirected(format!("it is {}, the item is {}", claim.lock_id(), self.lock_id)))
    }

    /// Whether the item could be a digest by its name. A state whose key ends like that has its lock there, and then
    /// it has `Info`.
    fn may_be_digest(&self) -> bool {
        self.lock_id.ends_with(DIGEST_SUFFIX)
    }

    fn holds_digest(&self) -> StoreError {
        StoreError::Misdirected(format!("{} holds a digest, not a lock", self.lock_id))
    }

    /// As of [`crate::store::Store`].
    pub(crate) async fn look(&self) -> Result<Option<Sighting>, StoreError> {
        Ok(self.get(ATTRIBUTES).await?.as_ref().map(Sighting::of_item))
    }

    /// As of [`crate::store::Store`].
    pub(crate) async fn read(&self) -> Result<Option<FoundLock>, StoreError> {
        Ok(self.get("LockID, Info").await?.map(|item| Sighting::of_item(&item).lock))
    }

    /// As of [`crate::store::Store`]: deletes the item if its `Info` is the very one that was seen, or is still missing.
    pub(crate) async fn delete_seen(&self, seen: &Sighting) -> Result<Claimed<()>, StoreError> {
        let Content::Item { info, .. } = &seen.content else {
            return Err(StoreError::Misdirected("it was seen in a bucket".to_owned()));
        };
        if info.is_none() && self.may_be_digest() {
            return Err(self.holds_digest());
        }
        if self.delete_unchanged(&[("Info", info.as_ref())]).await? {
            return Ok(Ok(()));
        }
        Ok(Err(NotClaimed::NotThere(self.read().await?)))
    }

    /// As of [`crate::store::Store`].
    pub(crate) async fn delete_if(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
    ) -> Result<Claimed<()>, StoreError> {
        self.change(claim, session, None).await
    }

    /// As of [`crate::store::Store`].
    pub(crate) async fn annotate(&self, claim: &LockClaim, holder: &Holder) -> Result<Claimed<()>, StoreError> {
        let record = serde_json::to_string(holder).map_err(|error| StoreError::Refused(error.to_string()))?;
        self.change(claim, Some(holder), Some(record)).await
    }

    /// Reads the claimed lock, and deletes it, or writes its holder's `record` beside it, if it is still the same then.
    async fn change(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
        record: Option<String>,
    ) -> Result<Claimed<()>, StoreError> {
        for _ in 0..TRIES {
            let item = match self.claimed(claim, session).await? {
                Ok(item) => item,
                Err(other) => return Ok(Err(other)),
            };
            let unchanged = ["Info", HOLDER].map(|name| (name, item.get(name)));
            let is_done = match &record {
                None => self.delete_unchanged(&unchanged).await?,
                // Without the condition, an update that lands after the unlock would make an item that locks for ever.
                Some(record) => self.update_unchanged(&unchanged, HOLDER, Some(record.clone())).await?,
            };
            if is_done {
                return Ok(Ok(()));
            }
        }
        Err(StoreError::Conflict("the lock's item was written anew meanwhile".to_owned()))
    }

    /// Reads the item, if it is the claimed lock and can be the session's; what is there otherwise.
    pub(super) async fn claimed(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
    ) -> Result<Claimed<Item>, StoreError> {
        self.check(claim)?;
        let Some(item) = self.get(CLAIMED).await? else { return Ok(Err(NotClaimed::NotThere(None))) };
        let Sighting { lock, recorded, .. } = Sighting::of_item(&item);
        if !lock.is_of(claim) {
            return Ok(Err(NotClaimed::NotThere(Some(lock))));
        }
        if self.may_be_digest() && item.contains_key(DIGEST) {
            return Err(self.holds_digest());
        }
        Ok(match session.map(|session| check_own(&lock, &recorded, session)) {
            Some(Err(stranger)) => Err(NotClaimed::NotOwn(stranger)),
            _ => Ok(item),
        })
    }

    /// Reads attributes of the item, consistently.
    pub(crate) async fn get(&self, attributes: &str) -> Result<Option<Item>, StoreError> {
        let request = self.client.get_item().table_name(&self.table).key("LockID", self.key());
        let answer = request.consistent_read(true).projection_expression(attributes).send().await;
        let item = answer.map_err(|error| classify("dynamodb:GetItem", error))?.item;
        Ok(item.filter(|item| !item.is_empty()))
    }

    /// One `DeleteItem`, if these attributes are unchanged; whether they were.
    pub(super) async fn delete_unchanged(&self, attributes: &Unchanged<'_>) -> Result<bool, StoreError> {
        let (condition, values) = self.condition(attributes);
        let request = self.client.delete_item().table_name(&self.table).key("LockID", self.key());
        let request = request.condition_expression(condition);
        let values = Some(values).filter(|values| !values.is_empty());
        is_done("dynamodb:DeleteItem", request.set_expression_attribute_values(values).send().await)
    }

    /// One `UpdateItem` that gives an attribute a `value`, or removes it, if these attributes are unchanged; whether they
    /// were.
    pub(super) async fn update_unchanged(
        &self,
        attributes: &Unchanged<'_>,
        name: &str,
        value: Option<String>,
    ) -> Result<bool, StoreError> {
        let (condition, mut values) = self.condition(attributes);
        let change = match value {
            Some(value) => {
                values.insert(":new".to_owned(), AttributeValue::S(value));
                format!("SET {name} = :new")
            }
            None => format!("REMOVE {name}"),
        };
        let request = self.client.update_item().table_name(&self.table).key("LockID", self.key());
        let request = request.update_expression(change).condition_expression(condition);
        is_done("dynamodb:UpdateItem", request.set_expression_attribute_values(Some(values)).send().await)
    }

    /// The condition that these attributes are unchanged, and that the item is there and isn't a digest; and its values.
    fn condition(&self, attributes: &Unchanged<'_>) -> (String, Item) {
        let mut values = Item::new();
        let mut conditions = Vec::new();
        for (name, value) in attributes {
            conditions.push(match value {
                Some(value) => {
                    values.insert(format!(":{name}"), (*value).clone());
                    format!("{name} = :{name}")
                }
                None => format!("attribute_not_exists({name})"),
            });
        }
        if self.may_be_digest() {
            conditions.push(format!("attribute_not_exists({DIGEST})"));
        }
        conditions.push("attribute_exists(LockID)".to_owned());
        (conditions.join(" AND "), values)
    }
}

impl Sighting {
    /// Reads an item of a lock table.
    pub fn of_item(item: &HashMap<String, AttributeValue>) -> Self {
        let lock = match item.get("Info") {
            Some(AttributeValue::S(info)) => FoundLock::read(info.as_bytes()),
            _ => FoundLock::Malformed(String::new()),
        };
        let recorded = match (&lock, item.get(HOLDER)) {
            (FoundLock::Held(info), Some(AttributeValue::S(record))) => Recorded::read(record, &info.id),
            (_, None) => Recorded::Nothing,
            _ => Recorded::Foreign("the record of its holder is not as tfguard writes it".to_owned()),
        };
        let leased = match &lock {
            FoundLock::Held(info) => Leased::of_attribute(item.get(LEASE_ATTRIBUTE), &info.id),
            FoundLock::Malformed(_) => Leased::Nothing,
        };
        let content = Content::Item { info: item.get("Info").cloned(), lease: item.get(LEASE_ATTRIBUTE).cloned() };
        Self { lock, recorded, leased, written: None, content }
    }
}

/// Whether a conditional request was carried out; false if its condition did not hold.
pub(crate) fn is_done<T, E>(
    action: &'static str,
    answer: Result<T, SdkError<E, HttpResponse>>,
) -> Result<bool, StoreError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(false),
        Err(error) => Err(classify(action, error)),
    }
}
