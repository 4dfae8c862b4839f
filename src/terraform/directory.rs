//! What is in a working directory's `.terraform`: the selected workspace, and what `init` recorded.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::aws::{BackendError, Surroundings};
use crate::files;

/// The directory in which Terraform keeps its own data: `TF_DATA_DIR`, else `.terraform`.
pub(crate) fn data_dir(surroundings: &Surroundings) -> PathBuf {
    surroundings.dir.join(surroundings.env.path("TF_DATA_DIR").unwrap_or(Path::new(".terraform")))
}

/// No file with the name of a workspace has more bytes.
const LARGEST_NAME: u64 = 64 * 1024;

/// The selected workspace: `TF_WORKSPACE`, else the file `environment` in Terraform's data directory, else `default`.
pub fn workspace(surroundings: &Surroundings) -> String {
    if let Some(named) = surroundings.env.text("TF_WORKSPACE") {
        return named.to_owned();
    }
    let recorded = files::read_path(&data_dir(surroundings).join("environment"), LARGEST_NAME).unwrap_or_default();
    match String::from_utf8(recorded).unwrap_or_default().trim() {
        "" => "default".to_owned(),
        name => name.to_owned(),
    }
}

/// A record of `init` has a few kilobytes.
const LARGEST_RECORD: u64 = 16 * 1024 * 1024;

/// What `init` recorded: `terraform.tfstate` in Terraform's data directory. Can hold secrets.
#[derive(Deserialize)]
pub struct InitRecord {
    pub(super) version: Value,
    /// The version of Terraform that wrote the record. Only Terraform from 1.9 on writes it.
    pub(super) terraform_version: Option<String>,
    pub(super) backend: Option<RecordedBackend>,
    pub(super) state_store: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct RecordedBackend {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) config: Option<Value>,
}

impl InitRecord {
    /// The record of a working directory. None if there is none that can be understood.
    #[must_use]
    pub fn of(surroundings: &Surroundings) -> Option<Self> {
        Self::read(&data_dir(surroundings).join("terraform.tfstate")).ok()?
    }

    /// None if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, BackendError> {
        let path = || path.to_owned();
        match files::read_path(&path(), LARGEST_RECORD) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| BackendError::Torn { path: path(), reason: without_content(&error) }),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(source) => Err(BackendError::Unreadable { path: path(), source }),
        }
    }

    /// Whether the backend's schema had an attribute. All are recorded, those that are not set as `null`.
    #[must_use]
    pub fn has(&self, attribute: &str) -> bool {
        let config = self.backend.as_ref().and_then(|backend| backend.config.as_ref());
        config.is_some_and(|config| config.get(attribute).is_some())
    }
}

/// What is wrong with a JSON text: the text of a `serde_json` error can quote a value, and a value can be a key.
pub(super) fn without_content(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let what = match error.classify() {
        Category::Eof => "it ends too early",
        Category::Syntax => "it isn't JSON",
        Category::Data => "a field is missing or has an unexpected type",
        Category::Io => "it cannot be read",
    };
    match error.line() {
        0 => what.to_owned(),
        line => format!("{what}, line {line}, column {}", error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<InitRecord> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".terraform")).unwrap();
        std::fs::write(dir.path().join(".terraform/terraform.tfstate"), text).unwrap();
        InitRecord::of(&Surroundings { dir: dir.path().to_owned(), env: Default::default() })
    }

    #[test]
    fn a_record_tells_its_version_and_its_attributes() {
        let text = r#"{"version":3,"terraform_version":"1.9.8","backend":{"type":"s3","config":{"bucket":"b","key":null},"hash":1}}"#;
        let record = read(text).unwrap();
        assert_eq!(record.terraform_version.as_deref(), Some("1.9.8"));
        assert!(record.has("bucket") && record.has("key") && !record.has("hash"));
        assert!(!read(r#"{"version":3}"#).unwrap().has("bucket"));
    }

    #[test]
    fn what_is_no_record_tells_nothing() {
        for text in ["", "{", "[]", r#"{"backend":7}"#, r#"{"terraform_version":7}"#] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_workspace_comes_from_the_environment_then_from_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let of = |env: &[(&str, &str)]| {
            let env = env.iter().copied().collect();
            workspace(&Surroundings { dir: dir.path().to_owned(), env })
        };
        assert_eq!(of(&[]), "default");
        std::fs::create_dir_all(dir.path().join(".terraform")).unwrap();
        std::fs::write(dir.path().join(".terraform/environment"), "blue\n").unwrap();
        std::fs::create_dir_all(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/environment"), " \n").unwrap();
        assert_eq!(of(&[]), "blue");
        assert_eq!(of(&[("TF_WORKSPACE", "")]), "blue");
        assert_eq!(of(&[("TF_WORKSPACE", "green")]), "green");
        assert_eq!(of(&[("TF_DATA_DIR", "data")]), "default");
    }
}
