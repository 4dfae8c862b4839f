//! Paths in JSON: as text, and as bytes where they are no UTF-8, so that none is lost.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

/// For `#[serde(with)]` on a path.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => text.serialize(serializer),
        None => path.as_os_str().as_bytes().serialize(serializer),
    }
}

/// For `#[serde(with)]` on a path.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(PathBuf),
        Bytes(Vec<u8>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Text(path) => path,
        Written::Bytes(bytes) => OsString::from_vec(bytes).into(),
    })
}

/// The same for a path that may be missing.
pub mod option {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Written(#[serde(with = "super")] PathBuf);

    /// For `#[serde(with)]` on an optional path.
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.clone().map(Written).serialize(serializer)
    }

    /// For `#[serde(with)]` on an optional path.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Written>::deserialize(deserializer)?.map(|Written(path)| path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        #[serde(with = "super")]
        path: PathBuf,
        #[serde(with = "super::option")]
        maybe: Option<PathBuf>,
    }

    #[test]
    fn no_path_is_lost() {
        for bytes in [b"/a/b".to_vec(), b"/a/\xff b".to_vec(), "/\u{e4}".as_bytes().to_vec(), Vec::new()] {
            let path = PathBuf::from(OsString::from_vec(bytes));
            for maybe in [None, Some(path.clone())] {
                let both = Both { path: path.clone(), maybe };
                let text = serde_json::to_string(&both).unwrap();
                assert_eq!(serde_json::from_str::<Both>(&text).unwrap(), both, "{text}");
            }
        }
    }
}
