//! What `init` recorded in a working directory, less everything that could be a secret.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::aws::Surroundings;
use crate::files;
use crate::terraform::args::data_dir;

/// The record has a few kilobytes; one that Terraform up to 1.8 wrote is a whole, empty, state.
const LARGEST: u64 = 1024 * 1024;

/// The traits by which a record of `init` shows which program wrote it. Holds no values of the backend's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitRecord {
    /// The backend's type, for instance `s3`.
    pub backend: Option<String>,
    /// The version of Terraform that wrote the record. Only Terraform from 1.9 on writes it.
    pub terraform_version: Option<String>,
    /// The names of all attributes that the backend's schema had.
    pub attributes: Vec<String>,
}

impl InitRecord {
    /// Reads the record of a working directory. None if there is none that can be understood.
    #[must_use]
    pub fn read(surroundings: &Surroundings) -> Option<Self> {
        #[derive(Deserialize)]
        struct Record {
            terraform_version: Option<String>,
            backend: Option<Backend>,
        }
        #[derive(Deserialize)]
        struct Backend {
            #[serde(rename = "type")]
            kind: String,
            config: Option<Map<String, Value>>,
        }
        let bytes = files::read_path(&data_dir(surroundings).join("terraform.tfstate"), LARGEST).ok()?;
        let Record { terraform_version, backend } = serde_json::from_slice(&bytes).ok()?;
        let (backend, config) = backend.map(|backend| (backend.kind, backend.config)).unzip();
        let config = config.flatten().unwrap_or_default();
        Some(Self { backend, terraform_version, attributes: config.keys().cloned().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<InitRecord> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".terraform")).unwrap();
        std::fs::write(dir.path().join(".terraform/terraform.tfstate"), text).unwrap();
        InitRecord::read(&Surroundings { dir: dir.path().to_owned(), env: Default::default() })
    }

    #[test]
    fn names_are_read_and_values_are_not() {
        let text = r#"{"version":3,"terraform_version":"1.9.8","backend":{"type":"s3","config":{"bucket":"b","secret_key":"hush","key":null,"insecure":false,"endpoints":{"s3":null}},"hash":1}}"#;
        let record = read(text).unwrap();
        assert_eq!((record.backend.as_deref(), record.terraform_version.as_deref()), (Some("s3"), Some("1.9.8")));
        assert_eq!(record.attributes.len(), 5);
        assert!(!format!("{record:?}").contains("hush"));
        assert_eq!(read(r#"{"version":3}"#), Some(InitRecord::default()));
    }

    #[test]
    fn what_is_no_record_tells_nothing() {
        for text in ["", "{", "[]", r#"{"backend":7}"#, r#"{"terraform_version":7}"#] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
