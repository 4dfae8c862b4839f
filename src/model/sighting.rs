//! A lock as a person is shown it, with what it takes to delete exactly that.

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use serde::Serialize;

use crate::model::holder::Recorded;
use crate::model::lease::Leased;
use crate::model::lock::{FoundLock, LockInfo};

/// What was seen at a lock's place at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// The lock, or what blocks like one.
    pub lock: FoundLock,
    /// What stands beside it about its holder.
    pub recorded: Recorded,
    /// What is in the place of its lease.
    pub leased: Leased,
    /// When it was written, by the store's clock. Only S3 tells.
    pub written: Option<Timestamp>,
    pub(crate) content: Content,
}

/// What the condition of a delete names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    /// Attributes of an item, which need not be texts: `Info`, none in a ghost, and that of the lease.
    Item { info: Option<AttributeValue>, lease: Option<AttributeValue> },
    /// An object's ETag, and the SHA-256 of its bytes in base64.
    Object { etag: Option<String>, sha256: String },
}

/// What makes something block like a lock without being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Defect {
    /// An item without `Info`: somebody updated the item of a lock that was released meanwhile. Terraform takes it for
    /// a lock, does not wait for its end, and `force-unlock` cannot remove it.
    Ghost,
    /// A lockfile without a byte.
    Empty,
    /// A text that is no lock by Terraform's format, or has no ID.
    Malformed,
}

impl Sighting {
    /// The lock, or why what is there is none.
    pub fn held(&self) -> Result<&LockInfo, Defect> {
        match (&self.lock, &self.content) {
            (FoundLock::Held(info), _) if !info.id.is_empty() => Ok(info),
            (_, Content::Item { info: None, .. }) => Err(Defect::Ghost),
            (FoundLock::Malformed(text), Content::Object { .. }) if text.is_empty() => Err(Defect::Empty),
            _ => Err(Defect::Malformed),
        }
    }

    /// The lock's ID, if it has one.
    pub fn id(&self) -> Option<&str> {
        Some(&self.held().ok()?.id)
    }

    /// What is there, as a text, of what is no lock. None of what is empty.
    pub fn content(&self) -> Option<String> {
        let text = match (&self.lock, &self.content) {
            _ if self.id().is_some() => return None,
            (_, Content::Item { info: Some(AttributeValue::S(text)), .. }) => {
                text.chars().take(FoundLock::SHOWN).collect()
            }
            (_, Content::Item { info: Some(other), .. }) => {
                format!("{other:?}").chars().take(FoundLock::SHOWN).collect()
            }
            (FoundLock::Held(info), _) => serde_json::to_string(info).unwrap_or_default(),
            (FoundLock::Malformed(text), _) => text.clone(),
        };
        (!text.is_empty()).then_some(text)
    }
}

impl Defect {
    /// One word for it: `ghost`, `empty` or `malformed`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ghost => "ghost",
            Self::Empty => "empty",
            Self::Malformed => "malformed",
        }
    }

    /// What it is, as a clause.
    pub fn told(self) -> &'static str {
        match self {
            Self::Ghost => "an item without Info, left by an update that came after the unlock",
            Self::Empty => "an empty lockfile",
            Self::Malformed => "something that isn't a lock in Terraform's format",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_item(info: Option<AttributeValue>) -> Sighting {
        let key = ("LockID".to_owned(), AttributeValue::S("b/k".to_owned()));
        Sighting::of_item(&[key].into_iter().chain(info.map(|info| ("Info".to_owned(), info))).collect())
    }

    #[test]
    fn locks_are_told_from_what_only_blocks_like_one() {
        let text = |text: &str| Some(AttributeValue::S(text.to_owned()));
        let cases = [
            (None, Some(Defect::Ghost)),
            (text(""), Some(Defect::Malformed)),
            (text("{"), Some(Defect::Malformed)),
            (text(r#"{"ID":""}"#), Some(Defect::Malformed)),
            (Some(AttributeValue::N("7".to_owned())), Some(Defect::Malformed)),
            (text(r#"{"ID":"x"}"#), None),
        ];
        for (info, expected) in cases {
            let seen = of_item(info.clone());
            assert_eq!(seen.held().err(), expected, "{info:?}");
            let empty = info.is_none() || info == text("");
            assert_eq!(seen.content().is_some(), expected.is_some() && !empty, "{info:?}");
        }
        let content = Content::Object { etag: None, sha256: String::new() };
        let object = |text: &[u8]| Sighting {
            lock: FoundLock::read(text),
            recorded: Recorded::Nothing,
            leased: Leased::Nothing,
            written: None,
            content: content.clone(),
        };
        assert_eq!(object(b"").held().err(), Some(Defect::Empty));
        assert_eq!(object(b"x").held().err(), Some(Defect::Malformed));
        assert_eq!(object(br#"{"ID":"x"}"#).held().err(), None);
    }
}
