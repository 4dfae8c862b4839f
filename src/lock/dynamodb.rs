//! The half of a lock that is an item in a DynamoDB table.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};

use super::sdk_error::understand;
use super::{Deletion, FoundLock, LockClaim, LockPlace, LockStore, StoreError};

/// The suffix of the item that holds the state's digest, not a lock.
const DIGEST_SUFFIX: &str = "-md5";

/// An item in a lock table.
///
/// It never writes, and deletes only under a condition on `Info` that names the lock's ID.
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
            .condition_expression(condition)
            .set_expression_attribute_values(Some(values))
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
        if self.lock_id != claim.lock_id() {
            return Err(StoreError::Misdirected {
                detail: format!("it is {}, the item is {}", claim.lock_id(), self.lock_id),
            });
        }
        if self.lock_id.ends_with(DIGEST_SUFFIX) {
            return Err(StoreError::Misdirected { detail: format!("{} holds a digest, not a lock", self.lock_id) });
        }
        let text = |name: &str, value: String| (name.to_owned(), AttributeValue::S(value));
        // Inside a JSON string every quote is escaped, so `"ID":"` occurs only where it is the field itself.
        let refused = self
            .delete_where(
                "contains(Info, :id) AND contains(Info, :who) AND contains(Info, :operation)",
                HashMap::from([
                    text(":id", format!(r#""ID":"{}""#, claim.id)),
                    text(":who", format!(r#""Who":{}"#, go_json(&claim.who))),
                    text(":operation", format!(r#""Operation":{}"#, go_json(&claim.operation))),
                ]),
            )
            .await?;
        let item = match refused {
            Ok(()) => return Ok(Deletion::Deleted),
            Err(None) => return Ok(Deletion::Absent),
            Err(Some(item)) => item,
        };
        let found = found_in(&item);
        if !found.is_of(claim) {
            return Ok(Deletion::NotOurs(found));
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
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .key("LockID", self.key())
            .consistent_read(true)
            .projection_expression("LockID, Info")
            .send()
            .await
            .map_err(|error| understand("dynamodb:GetItem", error))?;
        Ok(answer.item().filter(|item| !item.is_empty()).map(found_in))
    }
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
