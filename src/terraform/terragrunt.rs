//! Terragrunt's cache: the directory that it copies a unit to, and runs Terraform in, where the unit has a `source`.

use std::path::{Path, PathBuf};

/// The cache's name (`options.go`, `TerragruntCacheDir`).
const CACHE: &str = ".terragrunt-cache";
/// A unit's configuration.
const CONFIGURATION: &str = "terragrunt.hcl";
/// Caches of one unit are not looked at beyond these.
const MOST: usize = 64;

/// The unit to which a directory in a cache belongs; none where it is not in one.
#[must_use]
pub fn unit_of(directory: &Path) -> Option<&Path> {
    directory.ancestors().find(|above| above.file_name().is_some_and(|name| name == CACHE))?.parent()
}

/// The directories in which Terragrunt has initialised a unit: `.terragrunt-cache/<hash>/<hash>` or, with a path in the
/// source, below that. None where `directory` is not a unit.
#[must_use]
pub fn caches_of(directory: &Path) -> Option<Vec<PathBuf>> {
    if !directory.join(CONFIGURATION).is_file() {
        return None;
    }
    let mut found = Vec::new();
    collect(&directory.join(CACHE), 6, &mut found);
    Some(found)
}

fn collect(directory: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    if depth == 0 || found.len() >= MOST {
        return;
    }
    if directory.join(".terraform/terraform.tfstate").is_file() {
        found.push(directory.to_owned());
        return;
    }
    let below = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect(&entry.path(), depth - 1, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_and_its_caches_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let unit = dir.path().join("live/network");
        let cache = unit.join(".terragrunt-cache/a/b/modules/vpc");
        std::fs::create_dir_all(cache.join(".terraform")).unwrap();
        std::fs::write(cache.join(".terraform/terraform.tfstate"), "{}").unwrap();
        assert_eq!(caches_of(&unit), None, "without a configuration it is no unit");
        std::fs::write(unit.join("terragrunt.hcl"), "").unwrap();
        assert_eq!(caches_of(&unit), Some(vec![cache.clone()]));
        assert_eq!(unit_of(&cache), Some(unit.as_path()));
        assert_eq!(unit_of(&unit), None);
    }
}
