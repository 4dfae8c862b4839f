//! What the bytes of a state say: whole or not, which format, serial, lineage.
//!
//! The rules are those by which Terraform itself reads a state (`internal/states/statefile/read.go` and `version4.go`)
//! and stricter in one respect: Terraform takes fields that are missing for empty ones, and so a state without
//! `resources` for one without resources, and would create everything anew. No version of it writes such a state.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The format that Terraform since 0.12 and every OpenTofu write.
const VERSION: u64 = 4;

/// What a state says of itself. Holds nothing of its resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its format.
    pub format: Format,
    /// Counts the changes of this state.
    pub serial: Option<u64>,
    /// The same as long as it is the same state; empty where a very old Terraform wrote it.
    pub lineage: Option<String>,
    /// The version of the Terraform or OpenTofu that wrote it.
    pub terraform_version: Option<String>,
    /// The number of its resources, where that can be seen.
    pub resources: Option<usize>,
}

/// The format of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "version", rename_all = "kebab-case")]
pub enum Format {
    /// Version 4, whole.
    Current,
    /// Version 1 to 3, which Terraform before 0.12 wrote and later ones still read. Only the JSON was looked at.
    Legacy(u64),
    /// OpenTofu's encryption of states is on: serial and lineage are in clear, the rest cannot be seen.
    Encrypted,
    /// A version that this tfguard does not know; nothing more can be said.
    Unknown(u64),
}

/// Why some bytes are no state. Shows nothing of them, since a state can hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Flaw {
    /// No bytes at all.
    #[error("it is empty (0 bytes)")]
    Empty,
    /// The JSON ends in the midst of a value.
    #[error("it is cut off after {bytes} bytes")]
    CutOff {
        /// Its length.
        bytes: usize,
    },
    /// No JSON.
    #[error("it is no JSON (line {line}, column {column})")]
    NoJson {
        /// Where it ceases to be.
        line: usize,
        /// Where it ceases to be.
        column: usize,
    },
    /// JSON, but not what Terraform writes.
    #[error("it is JSON, but no state: {reason}")]
    NoState {
        /// What is missing or has an unexpected type.
        reason: String,
    },
    /// Larger than any state tfguard is made for.
    #[error("it is larger than {limit} bytes, too large to be looked through")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

/// The fields that are looked at before the format is known. Everything else is skipped, but has to be JSON.
#[derive(Deserialize)]
struct Sniff {
    version: Option<Value>,
    serial: Option<Value>,
    lineage: Option<Value>,
    terraform_version: Option<Value>,
    encryption_version: Option<Value>,
    encrypted_data: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Version4 {
    #[expect(dead_code, reason = "to be there, and a text")]
    terraform_version: String,
    serial: u64,
    lineage: String,
    #[expect(dead_code, reason = "to be there, and an object")]
    outputs: Fields,
    resources: Vec<Resource>,
}

/// An object of whatever.
struct Fields;

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Skip;
        impl<'de> Visitor<'de> for Skip {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Fields)
            }
        }
        deserializer.deserialize_map(Skip)
    }
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "to be there, and of the right type")]
struct Resource {
    mode: String,
    r#type: String,
    name: String,
    provider: String,
    instances: Vec<Instance>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "to be of the right type where it is there")]
struct Instance {
    attributes: Option<Fields>,
    status: Option<String>,
}

impl Content {
    /// Reads a state.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn read(bytes: &[u8]) -> Result<Self, Flaw> {
        if bytes.is_empty() {
            return Err(Flaw::Empty);
        }
        let sniff: Sniff = serde_json::from_slice(bytes).map_err(|error| flaw(bytes, &error))?;
        let text = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        let content = |format| Self {
            format,
            serial: sniff.serial.as_ref().and_then(Value::as_u64),
            lineage: text(&sniff.lineage),
            terraform_version: text(&sniff.terraform_version),
            resources: None,
        };
        // OpenTofu's own sign (`IsEncryptionPayload` in its `internal/encryption/base.go`).
        if text(&sniff.encryption_version).is_some_and(|version| !version.is_empty()) {
            let missing = |field| Flaw::NoState { reason: format!("it is encrypted and has no {field}") };
            return match (&sniff.encrypted_data, content(Format::Encrypted)) {
                (None, _) => Err(missing("encrypted_data")),
                (_, Self { serial: None, .. }) => Err(missing("serial")),
                (_, Self { lineage: None, .. }) => Err(missing("lineage")),
                (_, content) => Ok(content),
            };
        }
        match sniff.version.as_ref().map(Value::as_u64) {
            None => Err(Flaw::NoState { reason: "it has no version".to_owned() }),
            Some(None | Some(0)) => Err(Flaw::NoState { reason: "its version is no positive number".to_owned() }),
            Some(Some(VERSION)) => {
                let state: Version4 = serde_json::from_slice(bytes).map_err(|error| flaw(bytes, &error))?;
                Ok(Self {
                    serial: Some(state.serial),
                    lineage: Some(state.lineage),
                    resources: Some(state.resources.len()),
                    ..content(Format::Current)
                })
            }
            Some(Some(version @ 1..VERSION)) => Ok(content(Format::Legacy(version))),
            Some(Some(version)) => Ok(content(Format::Unknown(version))),
        }
    }

    /// Whether it is known to be whole, as far as that can be seen.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !matches!(self.format, Format::Unknown(_))
    }

    /// Its lineage, if it has one.
    #[must_use]
    pub fn lineage(&self) -> Option<&str> {
        self.lineage.as_deref().filter(|lineage| !lineage.is_empty())
    }
}

/// The text of a `serde_json` error can quote a value, and a value can be a secret. The name of a missing field is none.
fn flaw(bytes: &[u8], error: &serde_json::Error) -> Flaw {
    use serde_json::error::Category;
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        Category::Eof => Flaw::CutOff { bytes: bytes.len() },
        Category::Data => {
            let text = error.to_string();
            let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split_once('`'));
            let what = missing.map_or_else(
                || "a field has an unexpected type or value".to_owned(),
                |(field, _)| format!("the field `{field}` is missing"),
            );
            Flaw::NoState { reason: format!("{what} (line {line}, column {column})") }
        }
        Category::Syntax | Category::Io => Flaw::NoJson { line, column },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// As Terraform 1.11 writes it.
    const STATE: &str = r#"{
  "version": 4,
  "terraform_version": "1.11.4",
  "serial": 7,
  "lineage": "3f5c7b1e-0d2a-4c55-9b5e-1f1d3c6a7b88",
  "outputs": {
    "answer": {
      "value": "hush",
      "type": "string"
    }
  },
  "resources": [
    {
      "mode": "managed",
      "type": "terraform_data",
      "name": "work",
      "provider": "provider[\"terraform.io/builtin/terraform\"]",
      "instances": [
        {
          "schema_version": 0,
          "attributes": {
            "id": "5c4d", "input": {"value": 42, "type": "number"}
          },
          "sensitive_attributes": [],
          "status": "tainted"
        }
      ]
    }
  ],
  "check_results": null
}
"#;

    fn without(field: &str) -> Value {
        let mut state: Value = serde_json::from_str(STATE).unwrap();
        state.as_object_mut().unwrap().remove(field).unwrap();
        state
    }

    fn with(field: &str, value: Value) -> Value {
        let mut state: Value = serde_json::from_str(STATE).unwrap();
        state[field] = value;
        state
    }

    fn read(state: &Value) -> Result<Content, Flaw> {
        Content::read(state.to_string().as_bytes())
    }

    #[test]
    fn a_whole_state_says_what_it_is() {
        let expected = Content {
            format: Format::Current,
            serial: Some(7),
            lineage: Some("3f5c7b1e-0d2a-4c55-9b5e-1f1d3c6a7b88".to_owned()),
            terraform_version: Some("1.11.4".to_owned()),
            resources: Some(1),
        };
        assert_eq!(Content::read(STATE.as_bytes()), Ok(expected));
        let empty = json!({"version": 4, "terraform_version": "1.9.8", "serial": 0, "lineage": "", "outputs": {}, "resources": []});
        let content = read(&empty).unwrap();
        assert_eq!((content.resources, content.lineage()), (Some(0), None));
    }

    #[test]
    fn wherever_it_is_cut_off_it_is_not_whole() {
        // The last byte is the newline after it.
        for end in 0..STATE.len() - 1 {
            let expected = if end == 0 { Flaw::Empty } else { Flaw::CutOff { bytes: end } };
            assert_eq!(Content::read(&STATE.as_bytes()[..end]), Err(expected));
        }
        let twice = STATE.repeat(2);
        assert!(matches!(Content::read(twice.as_bytes()), Err(Flaw::NoJson { .. })));
    }

    #[test]
    fn every_field_that_terraform_writes_has_to_be_there_and_of_its_type() {
        for field in ["version", "terraform_version", "serial", "lineage", "outputs", "resources"] {
            let Err(Flaw::NoState { reason }) = read(&without(field)) else { panic!("{field}") };
            assert!(reason.contains(field), "{field}: {reason}");
        }
        for (field, wrong) in [
            ("version", json!("4")),
            ("version", json!(0)),
            ("version", json!(4.5)),
            ("serial", json!(-1)),
            ("serial", json!("hush")),
            ("lineage", json!(null)),
            ("outputs", json!(["hush"])),
            ("resources", json!(null)),
            ("resources", json!({})),
            ("resources", json!(["hush"])),
            ("resources", json!([{"mode": 7, "type": "t", "name": "n", "provider": "p", "instances": []}])),
            ("resources", json!([{"mode": "data", "type": "t", "name": "n", "provider": "p"}])),
            ("resources", json!([{"mode": "data", "type": "t", "name": "n", "provider": "p", "instances": ["hush"]}])),
        ] {
            let Err(error @ Flaw::NoState { .. }) = read(&with(field, wrong.clone())) else {
                panic!("{field} {wrong}")
            };
            assert!(!error.to_string().contains("hush"), "{error}");
        }
        for other in ["[]", "null", "7", "\"state\""] {
            assert!(matches!(Content::read(other.as_bytes()), Err(Flaw::NoState { .. })), "{other}");
        }
    }

    #[test]
    fn other_formats_are_told_apart() {
        for (version, format) in [(1, Format::Legacy(1)), (3, Format::Legacy(3)), (5, Format::Unknown(5))] {
            let content = read(&json!({"version": version, "serial": 2, "lineage": "l", "modules": []})).unwrap();
            assert_eq!((content.format, content.serial, content.lineage()), (format, Some(2), Some("l")));
        }
        let encrypted = json!({"serial": 3, "lineage": "l", "meta": {"key_provider.pbkdf2.k": "e30="}, "encrypted_data": "c2VjcmV0", "encryption_version": "v0"});
        let content = read(&encrypted).unwrap();
        assert_eq!((content.format, content.serial, content.lineage()), (Format::Encrypted, Some(3), Some("l")));
        for field in ["serial", "lineage", "encrypted_data"] {
            let mut less = encrypted.clone();
            less.as_object_mut().unwrap().remove(field);
            assert!(matches!(read(&less), Err(Flaw::NoState { .. })), "{field}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_nothing_of_them_is_shown(junk in prop::collection::vec(any::<u8>(), 1..64), at in 0..STATE.len()) {
            let mut bytes = STATE.as_bytes().to_vec();
            bytes.splice(at..at, junk);
            if let Err(error) = Content::read(&bytes) {
                prop_assert!(!error.to_string().contains("hush"));
            }
        }
    }
}
