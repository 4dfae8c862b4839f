//! Where the settings of a lock's backend are, and the flags by which people find its state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::aws::S3Backend;
use crate::model::{LockClaim, LockKinds, Settings};
use crate::observe::Asked;
use crate::terraform::unit_of;

impl Settings {
    /// The settings of a backend in whose directory a Terraform works.
    pub(crate) fn of(backend: &S3Backend, state_key: &str, directory: PathBuf, plan_file: Option<PathBuf>) -> Self {
        // Else the directory tells them. Terragrunt's cache may be gone when somebody needs it.
        let whole = plan_file.is_some() || unit_of(&directory).is_some();
        Self {
            flags: backend.flags_of(state_key, whole),
            directory,
            plan_file,
            anywhere: backend.flags_anywhere(state_key),
            path_style: backend.uses_path_style(),
            digests: backend.digests.clone(),
        }
    }

    /// The settings of a plan file that was applied and cannot be read. What the log does not tell, a person has to put into the
    /// flags: what the directory is set up for says nothing of the plan.
    pub(crate) fn of_plan(plan: &Path, claim: &LockClaim, asked: &[Asked]) -> Self {
        let asked = |by_table| {
            asked.iter().find(move |asked| asked.lock_id == claim.lock_id() && asked.table.is_some() == by_table)
        };
        let request = asked(true).or_else(|| asked(false));
        let mut flags = vec!["--bucket", &claim.bucket, "--key", &claim.state_key, "--region"];
        flags.push(request.map_or("REGION", |asked| &asked.region));
        if claim.kinds != LockKinds::Lockfile {
            flags.extend(["--table", request.and_then(|asked| asked.table.as_deref()).unwrap_or("TABLE")]);
        }
        Self {
            directory: plan.parent().map(Path::to_owned).unwrap_or_default(),
            plan_file: Some(plan.to_owned()),
            flags: flags.into_iter().map(str::to_owned).collect(),
            anywhere: Vec::new(),
            path_style: false,
            digests: BTreeMap::new(),
        }
    }
}
