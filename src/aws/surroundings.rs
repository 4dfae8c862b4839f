//! Where and with what environment a Terraform runs.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// Where and with what environment a Terraform runs. The environment can hold secrets: Debug does not show it.
#[derive(Clone)]
pub struct Surroundings {
    /// Its working directory, after `-chdir`.
    pub dir: PathBuf,
    /// Its environment.
    pub env: HashMap<OsString, OsString>,
}

impl Surroundings {
    /// A variable that is set, not empty and valid UTF-8.
    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        self.env.get(OsStr::new(name))?.to_str().filter(|value| !value.is_empty())
    }

    /// The home directory.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        Some(self.dir.join(self.var("HOME")?))
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("dir", &self.dir).finish_non_exhaustive()
    }
}
