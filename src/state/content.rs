//! What the bytes of a state say: whole or not, serial, lineage.
//!
//! Terraform (`internal/states/statefile/version4.go`) takes a missing field for an empty one, so a state without
//! `resources` for one without resources. No version of it writes such a state, so here every field has to be there. Only the
//! `provider` of a resource need not: OpenTofu writes it into the instances, where the provider has `for_each`.

use std::borrow::Cow;
use std::collections::HashMap;

use md5::{Digest as _, Md5};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::{Address, Flaw};
use crate::text::quote_hcl;

/// The format that Terraform since 0.12 and every OpenTofu write.
const VERSION: u64 = 4;

/// What a state of format version 4 says of itself. Shows nothing of its resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Counts the changes of this state.
    pub serial: u64,
    /// The same as long as it is the same state. Empty in what a first apply could not upload.
    pub lineage: String,
    /// The version of the Terraform or OpenTofu that wrote it.
    pub terraform_version: Option<String>,
    /// The number of its resources, where that can be seen.
    pub resources: Option<usize>,
    /// OpenTofu encrypted it: serial and lineage are in clear, the rest cannot be seen.
    pub encrypted: bool,
    /// The MD5 of its outputs and resources, where they can be seen.
    #[serde(skip)]
    pub body: Option<String>,
    /// The instances of its managed resources, where they can be seen.
    #[serde(skip)]
    pub instances: Vec<Instance>,
}

/// One instance of a resource. Never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its address, with the mark that Terraform prints of one that is deposed.
    pub address: String,
    /// By which Terraform prints which one it is: its attributes `id` and `name`.
    pub ids: [Option<String>; 2],
    /// Its creation failed half-way.
    pub tainted: bool,
}

#[derive(Deserialize)]
struct Fields<'a> {
    version: Option<Value>,
    serial: Option<Value>,
    lineage: Option<Value>,
    terraform_version: Option<Value>,
    encrypted_data: Option<IgnoredAny>,
    #[serde(borrow)]
    outputs: Option<&'a RawValue>,
    #[serde(borrow)]
    resources: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Resource<'a> {
    module: Option<String>,
    mode: String,
    r#type: String,
    name: String,
    #[serde(borrow)]
    instances: Vec<HashMap<Cow<'a, str>, &'a RawValue>>,
}

impl Resource<'_> {
    fn instances(self) -> impl Iterator<Item = Instance> {
        let module = self.module.filter(|module| !module.is_empty()).map(|module| module + ".").unwrap_or_default();
        let resource = format!("{module}{}.{}", self.r#type, self.name);
        let is_managed = self.mode == "managed";
        self.instances.into_iter().filter(move |_| is_managed).filter_map(move |instance| {
            let field = |name: &str| instance.get(name).map(|value| value.get());
            let text = |name: &str| serde_json::from_str::<String>(field(name)?).ok();
            let index = match (text("index_key"), field("index_key")) {
                (Some(key), _) => format!("[{}]", quote_hcl(&key)),
                (None, Some(number)) if number != "null" => format!("[{number}]"),
                _ => String::new(),
            };
            let (Address { text: address, .. }, _) = Address::read(&format!("{resource}{index}"))?;
            let deposed = text("deposed").filter(|key| !key.is_empty());
            let deposed = deposed.map(|key| format!(" (deposed object {key})")).unwrap_or_default();
            let ids = field("attributes").and_then(|attributes| serde_json::from_str(attributes).ok());
            let Ids { id, name } = ids.unwrap_or_default();
            let ids = [id, name].map(|id| id.and_then(|id| Some(id.as_str()?.to_owned())));
            Some(Instance { address: address + &deposed, ids, tainted: text("status").as_deref() == Some("tainted") })
        })
    }
}

#[derive(Default, Deserialize)]
struct Ids {
    id: Option<Value>,
    name: Option<Value>,
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
        let fields: Fields = serde_json::from_slice(bytes).map_err(|error| flaw(bytes, &error))?;
        let text = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        let encrypted = fields.encrypted_data.is_some() && fields.resources.is_none();
        let (mut resources, mut body, mut instances) = (None, None, Vec::new());
        let terraform_version = text(&fields.terraform_version);
        if !encrypted {
            match fields.version.as_ref().and_then(Value::as_u64).filter(|version| *version > 0) {
                Some(VERSION) => {}
                Some(version) => return Err(Flaw::OtherVersion { version }),
                None => return Err(wrong("version")),
            }
            terraform_version.as_ref().ok_or_else(|| wrong("terraform_version"))?;
            let outputs: (&str, HashMap<String, IgnoredAny>) = parsed(fields.outputs, "outputs")?;
            let all: (&str, Vec<Resource>) = parsed(fields.resources, "resources")?;
            resources = Some(all.1.len());
            body = Some(md5(&compact(&[outputs.0, all.0])));
            instances = all.1.into_iter().flat_map(Resource::instances).collect();
        }
        let serial = fields.serial.as_ref().and_then(Value::as_u64).ok_or_else(|| wrong("serial"))?;
        let lineage = text(&fields.lineage).ok_or_else(|| wrong("lineage"))?;
        Ok(Self { serial, lineage, terraform_version, resources, encrypted, body, instances })
    }
}

fn parsed<'a, T: Deserialize<'a>>(field: Option<&'a RawValue>, name: &str) -> Result<(&'a str, T), Flaw> {
    let text = field.ok_or_else(|| wrong(name))?.get();
    Ok((text, serde_json::from_str(text).map_err(|_| wrong(name))?))
}

/// JSON without the space between its parts, of which OpenTofu writes less than Terraform.
fn compact(parts: &[&str]) -> Vec<u8> {
    let (mut in_string, mut escaped) = (false, false);
    let is_kept = |byte: &u8| {
        let kept = in_string || !byte.is_ascii_whitespace();
        in_string ^= *byte == b'"' && !escaped;
        escaped = in_string && *byte == b'\\' && !escaped;
        kept
    };
    parts.iter().flat_map(|part| part.bytes()).filter(is_kept).collect()
}

fn wrong(field: &str) -> Flaw {
    Flaw::NoState { reason: format!("its field `{field}` is missing or of an unexpected type") }
}

/// Without the text of the error, which can quote a value, and a value can be a secret.
fn flaw(bytes: &[u8], error: &serde_json::Error) -> Flaw {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => Flaw::CutOff { bytes: bytes.len() },
        Category::Data => Flaw::NoState { reason: "it isn't an object of a state's fields".to_owned() },
        Category::Syntax | Category::Io => Flaw::NoJson { line: error.line(), column: error.column() },
    }
}

/// An MD5 as Terraform writes it into the table.
pub fn md5(bytes: &[u8]) -> String {
    format!("{:032x}", u128::from_be_bytes(Md5::digest(bytes).into()))
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
        let content = Content::read(STATE.as_bytes()).unwrap();
        assert_eq!((content.serial, content.resources, content.encrypted), (7, Some(1), false));
        assert_eq!(content.lineage, "3f5c7b1e-0d2a-4c55-9b5e-1f1d3c6a7b88");
        // Serial and lineage are no part of what it holds.
        for same in [with("serial", json!(8)), with("lineage", json!(""))] {
            assert_eq!(read(&same).unwrap().body, read(&with("serial", json!(9))).unwrap().body);
        }
        // Nor is the space between its parts. That in a string is.
        let text = |from: &str, to: &str| Content::read(STATE.replace(from, to).as_bytes()).unwrap().body;
        assert_eq!(text(r#""value": "hush","#, r#""value"  :"hush","#), content.body);
        for other in ["hush ", r#"\\"#, r#"\" "#, "x"] {
            assert_ne!(text(r#""hush""#, &format!("\"{other}\"")), content.body);
        }
        assert_ne!(text(r#""hush""#, r#""\"  a""#), text(r#""hush""#, r#""\" a""#));
    }

    #[test]
    fn the_address_and_id_of_each_instance_are_known() {
        let resources = json!([
            {"mode": "managed", "type": "a", "name": "n", "provider": "p", "module": "module.m[\"x\"].module.y", "instances": [
                {"index_key": "it's \"${k}\"\n", "attributes": {"id": "1", "name": "one"}},
                {"index_key": 7, "attributes": {"name": "two"}, "status": "tainted"},
                {"index_key": 7, "deposed": "12345678", "attributes": {"id": 3}},
            ]},
            {"mode": "managed", "type": "b", "name": "n", "provider": "p", "instances": [{"attributes_flat": {"id": "4"}}]},
            {"mode": "data", "type": "c", "name": "n", "provider": "p", "instances": [{"attributes": {"id": "5"}}]},
        ]);
        let found = read(&with("resources", resources)).unwrap().instances;
        let found: Vec<_> = found.iter().map(|i| (i.address.as_str(), &i.ids, i.tainted)).collect();
        let ids = |id: Option<&str>, name: Option<&str>| [id, name].map(|id| id.map(str::to_owned));
        let module = "module.m[\"x\"].module.y.a.n";
        assert_eq!(
            found,
            [
                (&*format!(r#"{module}["it's \"$${{k}}\"\n"]"#), &ids(Some("1"), Some("one")), false),
                (&*format!("{module}[7]"), &ids(None, Some("two")), true),
                (&*format!("{module}[7] (deposed object 12345678)"), &ids(None, None), false),
                ("b.n", &ids(None, None), false),
            ]
        );
    }

    /// As OpenTofu 1.9 writes it of a provider with `for_each`.
    #[test]
    fn a_resource_whose_instances_name_their_providers_is_whole() {
        let resources = json!([{"mode": "managed", "type": "a", "name": "n", "instances": [
            {"index_key": "x", "attributes": {"id": "1"}, "instance_provider": "provider[\"p\"].by[\"x\"]"},
        ]}]);
        let content = read(&with("resources", resources)).unwrap();
        assert_eq!((content.resources, content.instances[0].address.as_str()), (Some(1), "a.n[\"x\"]"));
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
            ("resources", json!({})),
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
        for version in [3, 5] {
            let state = json!({"version": version, "serial": 2, "lineage": "l", "modules": []});
            assert_eq!(read(&state), Err(Flaw::OtherVersion { version }));
        }
        let encrypted = json!({"serial": 3, "lineage": "l", "meta": {"key_provider.pbkdf2.k": "e30="}, "encrypted_data": "c2VjcmV0", "encryption_version": "v0"});
        let content = read(&encrypted).unwrap();
        assert_eq!((content.encrypted, content.serial, content.lineage.as_str()), (true, 3, "l"));
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
