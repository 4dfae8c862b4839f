//! The half of a lock that is an item in a DynamoDB table.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;

use crate::aws::{StoreError, classify};
use crate::model::{Content, FoundLock, HeldLock, Holder, LockClaim, Recorded, Sighting};
use crate::store::{Claimed, NotClaimed};

/// The suffix of the item that holds the state's digest, not a lock (`stateIDSuffix` in Terraform's S3 client).
pub(crate) const DIGEST_SUFFIX: &str = "-md5";
/// The attribute that holds a state's digest (`Put` in the same).
const DIGEST: &str = "Digest";
/// The attribute that holds the holder's record, JSON as text. Terraform reads `LockID` and `Info` only.
const HOLDER: &str = "TfguardHolder";
/// What a request about a claimed lock has to know of its item.
const CLAIMED: &str = "LockID, Info, TfguardHolder, TfguardLease, Digest";
/// How often such a request is tried on an item that changes between the look and the request.
const TRIES: u32 = 3;
/// All that a look at an item needs.
pub(crate) const ATTRIBUTES: &str = "LockID, Info, TfguardHolder, TfguardLease";

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
    fn key(&self) -> AttributeValue {
        AttributeValue::S(self.lock_id.clone())
    }

    /// Nothing is sent about an item that cannot be the claimed lock.
    fn check(&self, claim: &LockClaim) -> Result<(), StoreError> {
        if self.lock_id == claim.lock_id() {
            return Ok(());
        }
        Err(StoreError::Misdirected(format!("it is {}, the item is {}", claim.lock_id(), self.lock_id)))
    }

    /// Reads the item, consistently, for a person to look at.
    ///
    /// # Errors
    /// When the table could not be asked.
    pub async fn look(&self) -> Result<Option<Sighting>, StoreError> {
        Ok(self.get(ATTRIBUTES).await?.map(|item| Sighting::of_item(&item)))
    }

    /// Deletes the item if its `Info` is the very one that was seen, or is still missing.
    ///
    /// # Errors
    /// As of [`crate::store::LockStore::delete_if`].
    pub async fn delete_seen(&self, seen: &Sighting) -> Result<Claimed<()>, StoreError> {
        let Content::Item { info, .. } = &seen.content else {
            return Err(StoreError::Misdirected("it was seen in a bucket".to_owned()));
        };
        if info.is_none() && self.may_be_digest() {
            return Err(self.holds_digest());
        }
        let deleted = match info {
            Some(info) => {
                self.delete_where("Info = :info", HashMap::from([(":info".to_owned(), info.clone())])).await?
            }
            // The second half keeps the answer about nothing from being success.
            None => {
                self.delete_where("attribute_not_exists(Info) AND attribute_exists(LockID)", HashMap::new()).await?
            }
        };
        if deleted {
            return Ok(Ok(()));
        }
        Ok(Err(NotClaimed::NotThere(self.read().await?)))
    }

    /// Whether the item could be a digest by its name. A state whose key ends like that has its lock there, and then
    /// it has `Info`.
    fn may_be_digest(&self) -> bool {
        self.lock_id.ends_with(DIGEST_SUFFIX)
    }

    fn holds_digest(&self) -> StoreError {
        StoreError::Misdirected(format!("{} holds a digest, not a lock", self.lock_id))
    }

    /// A condition, for an item that is no digest.
    fn guarded(&self, condition: &str) -> String {
        if self.may_be_digest() {
            format!("{condition} AND attribute_not_exists({DIGEST})")
        } else {
            condition.to_owned()
        }
    }

    async fn get(&self, attributes: &str) -> Result<Option<HashMap<String, AttributeValue>>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .key("LockID", self.key())
            .consistent_read(true)
            .projection_expression(attributes)
            .send()
            .await
            .map_err(|error| classify("dynamodb:GetItem", error))?;
        Ok(answer.item.filter(|item| !item.is_empty()))
    }

    /// One `DeleteItem` under a condition; false if the condition did not hold.
    pub(super) async fn delete_where(
        &self,
        condition: &str,
        values: HashMap<String, AttributeValue>,
    ) -> Result<bool, StoreError> {
        let answer = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key("LockID", self.key())
            .condition_expression(self.guarded(condition))
            .set_expression_attribute_values(Some(values).filter(|values| !values.is_empty()))
            .send()
            .await;
        is_done("dynamodb:DeleteItem", answer)
    }

    /// One `UpdateItem` under a condition; false if the condition did not hold.
    pub(super) async fn update_where(
        &self,
        condition: &str,
        change: &str,
        values: HashMap<String, AttributeValue>,
    ) -> Result<bool, StoreError> {
        let request = self.client.update_item().table_name(&self.table).key("LockID", self.key());
        let answer = request
            .update_expression(change)
            .condition_expression(self.guarded(condition))
            .set_expression_attribute_values(Some(values))
            .send()
            .await;
        is_done("dynamodb:UpdateItem", answer)
    }

    /// Reads the item, if it is the claimed lock and can be the session's; what is there otherwise.
    pub(super) async fn claimed(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
    ) -> Result<Claimed<HashMap<String, AttributeValue>>, StoreError> {
        self.check(claim)?;
        let Some(item) = self.get(CLAIMED).await? else { return Ok(Err(NotClaimed::NotThere(None))) };
        let held = HeldLock::in_item(&item);
        if !held.lock.is_of(claim) {
            return Ok(Err(NotClaimed::NotThere(Some(held.lock))));
        }
        if self.may_be_digest() && item.contains_key(DIGEST) {
            return Err(self.holds_digest());
        }
        Ok(match session.map(|session| held.check_own(session)) {
            Some(Err(stranger)) => Err(NotClaimed::NotOwn(stranger)),
            _ => Ok(item),
        })
    }

    /// As of [`crate::store::LockStore`].
    pub(crate) async fn delete_if(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
    ) -> Result<Claimed<()>, StoreError> {
        self.change(claim, session, None).await
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
            let (condition, mut values) = unchanged(&item);
            let is_done = match &record {
                None => self.delete_where(&condition, values).await?,
                // Without the condition, an update that lands after the unlock would make an item that locks for ever.
                Some(record) => {
                    values.insert(":new".to_owned(), AttributeValue::S(record.clone()));
                    self.update_where(&condition, &format!("SET {HOLDER} = :new"), values).await?
                }
            };
            if is_done {
                return Ok(Ok(()));
            }
        }
        Err(StoreError::Conflict("the lock's item was written anew meanwhile".to_owned()))
    }

    /// As of [`crate::store::LockStore`].
    pub(crate) async fn read(&self) -> Result<Option<FoundLock>, StoreError> {
        Ok(self.get("LockID, Info").await?.as_ref().map(found_in))
    }

    /// As of [`crate::store::Store`].
    pub(crate) async fn annotate(&self, claim: &LockClaim, holder: &Holder) -> Result<Claimed<()>, StoreError> {
        let record = serde_json::to_string(holder).map_err(|error| StoreError::Refused(error.to_string()))?;
        self.change(claim, Some(holder), Some(record)).await
    }

    /// As of [`crate::store::Store`].
    pub(crate) async fn read_held(&self) -> Result<Option<HeldLock>, StoreError> {
        let item = self.get(ATTRIBUTES).await?;
        Ok(item.as_ref().map(HeldLock::in_item))
    }
}

impl HeldLock {
    /// The lock in an item of a lock table, which has at least the attributes `Info` and `TfguardHolder` if they are
    /// there.
    pub fn in_item(item: &HashMap<String, AttributeValue>) -> Self {
        let lock = found_in(item);
        let recorded = match (&lock, item.get(HOLDER)) {
            (FoundLock::Held(info), Some(AttributeValue::S(record))) => Recorded::read(record, &info.id),
            (_, None) => Recorded::Nothing,
            _ => Recorded::Foreign("the record of its holder is not as tfguard writes it".to_owned()),
        };
        Self { lock, recorded }
    }
}

/// The condition that lock and record are those of the item that was read, with its values.
fn unchanged(item: &HashMap<String, AttributeValue>) -> (String, HashMap<String, AttributeValue>) {
    let mut values = HashMap::new();
    let conditions = ["Info", HOLDER].map(|name| match item.get(name) {
        Some(value) => {
            values.insert(format!(":{name}"), value.clone());
            format!("{name} = :{name}")
        }
        None => format!("attribute_not_exists({name})"),
    });
    (conditions.join(" AND "), values)
}

/// Whether a conditional request was carried out; false if its condition did not hold.
fn is_done<T, E>(action: &'static str, answer: Result<T, SdkError<E, HttpResponse>>) -> Result<bool, StoreError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(false),
        Err(error) => Err(classify(action, error)),
    }
}

fn found_in(item: &HashMap<String, AttributeValue>) -> FoundLock {
    match item.get("Info") {
        Some(AttributeValue::S(info)) => FoundLock::read(info.as_bytes()),
        _ => FoundLock::Malformed(String::new()),
    }
}
