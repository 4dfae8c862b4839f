//! The half of a lock that is an item in a DynamoDB table.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};

use super::sdk_error::understand;
use super::sighting::{Content, Sighting};
use super::{Annotation, Deletion, FoundLock, HeldLock, HolderStore, LockClaim, LockPlace, LockStore, StoreError};
use crate::holder::{Holder, Recorded};

/// The suffix of the item that holds the state's digest, not a lock (`stateIDSuffix` in Terraform's S3 client).
pub(crate) const DIGEST_SUFFIX: &str = "-md5";
/// The attribute that holds a state's digest (`Put` in the same).
const DIGEST: &str = "Digest";
/// The attribute that holds the holder's record, JSON as text. Terraform reads `LockID` and `Info` only.
const HOLDER: &str = "TfguardHolder";
/// All that a look at an item needs.
pub(super) const ATTRIBUTES: &str = "LockID, Info, TfguardHolder";

/// An item in a lock table.
///
/// It deletes, and writes beside `Info`, only under a condition on `Info` that names the lock's ID. A digest has no
/// `Info`: where the name could be a digest's, what has a `Digest` and what has no `Info` is left alone besides.
#[derive(Debug, Clone)]
pub struct TableStore {
    client: Client,
    table: String,
    lock_id: String,
    place: LockPlace,
}

impl TableStore {
    /// Opens the item of `place` with a client that is set up for the place's region and endpoint and does not retry.
    pub(crate) fn new(client: Client, table: String, lock_id: String, place: LockPlace) -> Self {
        Self { client, table, lock_id, place }
    }

    fn key(&self) -> AttributeValue {
        AttributeValue::S(self.lock_id.clone())
    }

    /// Nothing is sent about an item that cannot be the claimed lock.
    fn check(&self, claim: &LockClaim) -> Result<(), StoreError> {
        if self.lock_id == claim.lock_id() {
            return Ok(());
        }
        Err(StoreError::Misdirected { detail: format!("it is {}, the item is {}", claim.lock_id(), self.lock_id) })
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
    /// As of [`LockStore::delete_if`].
    pub async fn delete_seen(&self, seen: &Sighting) -> Result<Deletion, StoreError> {
        let Content::Item(info) = &seen.content else {
            return Err(StoreError::Misdirected { detail: "it was seen in a bucket".to_owned() });
        };
        if info.is_none() && self.may_be_digest() {
            return Err(self.holds_digest());
        }
        let answer = match info {
            Some(info) => {
                self.delete_where("Info = :info", HashMap::from([(":info".to_owned(), info.clone())])).await?
            }
            // The second half keeps the answer about nothing from being success.
            None => {
                self.delete_where("attribute_not_exists(Info) AND attribute_exists(LockID)", HashMap::new()).await?
            }
        };
        Ok(match answer {
            Ok(()) => Deletion::Deleted,
            Err(None) => Deletion::Absent,
            Err(Some(item)) => Deletion::NotOurs(found_in(&item)),
        })
    }

    /// Whether the item could be a digest by its name. A state whose key ends like that has its lock there, and then
    /// it has `Info`.
    fn may_be_digest(&self) -> bool {
        self.lock_id.ends_with(DIGEST_SUFFIX)
    }

    fn holds_digest(&self) -> StoreError {
        StoreError::Misdirected { detail: format!("{} holds a digest, not a lock", self.lock_id) }
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
            .map_err(|error| understand("dynamodb:GetItem", error))?;
        Ok(answer.item.filter(|item| !item.is_empty()))
    }

    /// One `DeleteItem` under a condition; the item as it was if the condition did not hold.
    async fn delete_where(
        &self,
        condition: &str,
        values: HashMap<String, AttributeValue>,
    ) -> Result<Result<(), Option<HashMap<String, AttributeValue>>>, StoreError> {
        let answer = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key("LockID", self.key())
            .condition_expression(self.guarded(condition))
            .set_expression_attribute_values(Some(values).filter(|values| !values.is_empty()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Ok(())),
            Err(error) => match error.as_service_error() {
                Some(DeleteItemError::ConditionalCheckFailedException(refused)) => {
                    Ok(Err(refused.item().filter(|item| !item.is_empty()).cloned()))
                }
                _ => Err(understand("dynamodb:DeleteItem", error)),
            },
        }
    }
}

impl LockStore for TableStore {
    fn place(&self) -> &LockPlace {
        &self.place
    }

    async fn delete_if(&self, claim: &LockClaim) -> Result<Deletion, StoreError> {
        self.check(claim)?;
        let refused = self.delete_where(IS_CLAIMED, claimed(claim)).await?;
        let item = match refused {
            Ok(()) => return Ok(Deletion::Deleted),
            Err(None) => return Ok(Deletion::Absent),
            Err(Some(item)) => item,
        };
        let found = found_in(&item);
        if !found.is_of(claim) {
            return Ok(Deletion::NotOurs(found));
        }
        if self.may_be_digest() && item.contains_key(DIGEST) {
            return Err(self.holds_digest());
        }
        // The claimed lock by its content, but not by its bytes: written by an encoder with other escapes. Then the
        // condition is its very text, which was just seen to carry the ID.
        let Some(info) = item.get("Info") else {
            return Ok(Deletion::NotOurs(found));
        };
        let exact = HashMap::from([(":info".to_owned(), info.clone())]);
        Ok(match self.delete_where("Info = :info", exact).await? {
            Ok(()) => Deletion::Deleted,
            Err(None) => Deletion::Absent,
            Err(Some(item)) => Deletion::NotOurs(found_in(&item)),
        })
    }

    async fn read(&self) -> Result<Option<FoundLock>, StoreError> {
        Ok(self.get("LockID, Info").await?.as_ref().map(found_in))
    }
}

impl HolderStore for TableStore {
    async fn annotate(&self, claim: &LockClaim, holder: &Holder) -> Result<Annotation, StoreError> {
        self.check(claim)?;
        let record =
            serde_json::to_string(holder).map_err(|error| StoreError::Refused { detail: error.to_string() })?;
        let mut values = claimed(claim);
        values.insert(":holder".to_owned(), AttributeValue::S(record));
        // Without the condition, an update that lands after the unlock would make an item that locks for ever.
        let answer = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("LockID", self.key())
            .update_expression(format!("SET {HOLDER} = :holder"))
            .condition_expression(self.guarded(IS_CLAIMED))
            .set_expression_attribute_values(Some(values))
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Annotation::Written),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(Annotation::NotThere),
                _ => Err(understand("dynamodb:UpdateItem", error)),
            },
        }
    }

    async fn read_held(&self) -> Result<Option<HeldLock>, StoreError> {
        let item = self.get(ATTRIBUTES).await?;
        Ok(item.as_ref().map(HeldLock::in_item))
    }
}

impl HeldLock {
    /// The lock in an item of a lock table, which has at least the attributes `Info` and `TfguardHolder` if they are
    /// there.
    #[must_use]
    pub fn in_item(item: &HashMap<String, AttributeValue>) -> Self {
        let lock = found_in(item);
        let recorded = match (&lock, item.get(HOLDER)) {
            (FoundLock::Held(info), Some(AttributeValue::S(record))) => Recorded::read(record, &info.id),
            (_, None) => Recorded::Nothing,
            _ => Recorded::Foreign("the record of its holder is none that tfguard writes".to_owned()),
        };
        Self { lock, recorded }
    }
}

/// That `Info` is the claimed lock's, with the values of [`claimed`].
const IS_CLAIMED: &str = "contains(Info, :id) AND contains(Info, :who) AND contains(Info, :operation)";

/// Inside a JSON string every quote is escaped, so `"ID":"` occurs only where it is the field itself.
fn claimed(claim: &LockClaim) -> HashMap<String, AttributeValue> {
    let text = |name: &str, value: String| (name.to_owned(), AttributeValue::S(value));
    HashMap::from([
        text(":id", format!(r#""ID":"{}""#, claim.id)),
        text(":who", format!(r#""Who":{}"#, go_json(&claim.who))),
        text(":operation", format!(r#""Operation":{}"#, go_json(&claim.operation))),
    ])
}

fn found_in(item: &HashMap<String, AttributeValue>) -> FoundLock {
    match item.get("Info") {
        Some(AttributeValue::S(info)) => FoundLock::read(info.as_bytes()),
        _ => FoundLock::Malformed(String::new()),
    }
}

/// A string as Go's `json.Marshal` writes it, quotes included: HTML characters and the line separators of JavaScript
/// are escaped beside what JSON asks for (`appendString` in Go's `encoding/json`).
fn go_json(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                json.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => json.push(character),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strings_are_written_as_go_writes_them() {
        assert_eq!(go_json("root@vm"), r#""root@vm""#);
        assert_eq!(go_json(r#"a"b\c<&>d"#), r#""a\"b\\c\u003c\u0026\u003ed""#);
        assert_eq!(go_json("\n\r\t\u{1}\u{7f}\u{2028}ä"), "\"\\n\\r\\t\\u0001\u{7f}\\u2028ä\"");
    }

    proptest! {
        #[test]
        fn what_go_writes_means_the_same_to_others(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&go_json(&text)).unwrap(), text);
        }

        /// The condition looks for `"ID":"…"` in the whole of `Info`: no other field can hold that text.
        #[test]
        fn no_field_can_pass_for_the_id(text in ".*", id in "[0-9a-f]{8}") {
            let claimed = format!(r#""ID":"{id}""#);
            for hidden in [text.clone(), claimed.clone(), format!("{text}{claimed}{text}"), format!("\\{claimed}")] {
                prop_assert!(!go_json(&hidden).contains(&claimed));
            }
        }
    }
}
