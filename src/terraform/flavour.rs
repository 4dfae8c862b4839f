//! Which product the command runs, and of which age, as far as that can be told without running anything.

use std::ffi::OsStr;

use crate::model::{Product, product};
use crate::terraform::directory::InitRecord;

/// What decides where the child's locks show: products and ages log them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// Terraform 1.6 or later: names each lock at INFO.
    Terraform,
    /// Terraform before 1.6: only dumps of the AWS SDK v1's requests show a lock, at DEBUG.
    OldTerraform,
    /// OpenTofu: only records of the AWS SDK v2's requests show a lock, at DEBUG; up to 1.10 none shows one in a table.
    OpenTofu,
    /// Anything else, for instance a script. Expected to run a recent Terraform.
    Unknown,
}

impl Flavour {
    /// Decides it from the program and what `init` recorded in its directory.
    ///
    /// The program's name speaks for itself where it is OpenTofu's. Otherwise the record speaks: its `terraform_version`
    /// (written by Terraform from 1.9 on, `internal/command/workdir/backend_state.go`), else which attributes the S3
    /// backend's schema had, because all of them are recorded, unset ones as `null`. A record may be older than
    /// the program, so the answer is where to look, no proof.
    #[must_use]
    pub fn decide(program: &OsStr, record: Option<&InitRecord>) -> Self {
        if product(program) == Some(Product::OpenTofu) {
            return Self::OpenTofu;
        }
        let Some(record) = record else { return Self::Unknown };
        if let Some(version) = &record.terraform_version {
            return Self::Unknown.corrected(Some((Product::Terraform, version)));
        }
        let has = |attribute| record.has(attribute);
        match record.backend.as_ref().and_then(|backend| backend.kind.as_deref()) {
            // Terraform never had the first, and dropped the flat attributes of a role in the version that brought
            // lockfiles (1.10), which OpenTofu did not.
            Some("s3") if has("lock_tags") || (has("use_lockfile") && has("role_arn")) => Self::OpenTofu,
            // Both products have it from 1.6 on.
            Some("s3") if !has("endpoints") => Self::OldTerraform,
            _ => Self::Unknown,
        }
    }

    /// The same, corrected by what a log says of the product and version that writes it.
    #[must_use]
    pub fn corrected(self, logged: Option<(Product, &str)>) -> Self {
        match logged {
            Some((Product::OpenTofu, _)) => Self::OpenTofu,
            Some((Product::Terraform, version)) => match minor(version) {
                Some(minor) if minor < (1, 6) => Self::OldTerraform,
                Some(_) => Self::Terraform,
                None => self,
            },
            None => self,
        }
    }
}

/// Major and minor number of a version such as `1.5.7` or `1.6.0-beta2`.
pub(crate) fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(backend: &str, version: Option<&str>, attributes: &[&str]) -> InitRecord {
        let config: serde_json::Map<_, _> = attributes.iter().map(|name| ((*name).to_owned(), ().into())).collect();
        let record =
            json!({"version": 3, "terraform_version": version, "backend": {"type": backend, "config": config}});
        serde_json::from_value(record).unwrap()
    }

    fn decide(program: &str, record: Option<&InitRecord>) -> Flavour {
        Flavour::decide(OsStr::new(program), record)
    }

    /// The attributes that tell versions apart, as their schemas have them.
    #[test]
    fn the_record_of_every_range_of_versions_is_told_apart() {
        let ranges: [(&str, Option<&str>, &[&str], Flavour); 9] = [
            ("Terraform 0.13 to 1.5", None, &["bucket", "endpoint", "role_arn"], Flavour::OldTerraform),
            ("Terraform 1.6 to 1.8", None, &["bucket", "endpoint", "endpoints", "role_arn"], Flavour::Unknown),
            ("Terraform 1.9", Some("1.9.8"), &["bucket", "endpoints", "role_arn"], Flavour::Terraform),
            ("Terraform 1.10 and later", Some("1.15.5"), &["bucket", "endpoints", "use_lockfile"], Flavour::Terraform),
            ("OpenTofu 1.6 to 1.9", None, &["bucket", "endpoints", "role_arn"], Flavour::Unknown),
            ("OpenTofu 1.10", None, &["endpoints", "role_arn", "use_lockfile"], Flavour::OpenTofu),
            ("OpenTofu 1.11", None, &["endpoints", "lock_tags", "use_lockfile"], Flavour::OpenTofu),
            ("Terraform 0.11", Some("0.11.14"), &["bucket", "lock_table"], Flavour::OldTerraform),
            ("nonsense", Some("new"), &["bucket"], Flavour::Unknown),
        ];
        for (name, version, attributes, flavour) in ranges {
            assert_eq!(decide("terraform", Some(&record("s3", version, attributes))), flavour, "{name}");
            assert_eq!(decide("deploy.sh", Some(&record("s3", version, attributes))), flavour, "{name}");
            assert_eq!(decide("tofu", Some(&record("s3", version, attributes))), Flavour::OpenTofu, "{name}");
        }
    }

    #[test]
    fn other_backends_and_missing_records_tell_nothing() {
        assert_eq!(decide("terraform", Some(&record("gcs", None, &["bucket"]))), Flavour::Unknown);
        assert_eq!(decide("terraform", None), Flavour::Unknown);
        assert_eq!(decide("/usr/bin/tofu", None), Flavour::OpenTofu);
    }

    #[test]
    fn the_log_knows_better() {
        for flavour in [Flavour::Terraform, Flavour::OldTerraform, Flavour::OpenTofu, Flavour::Unknown] {
            for (product, version, expected) in [
                (Product::OpenTofu, "1.6.0", Flavour::OpenTofu),
                (Product::Terraform, "1.5.7", Flavour::OldTerraform),
                (Product::Terraform, "1.6.0", Flavour::Terraform),
                (Product::Terraform, "", flavour),
            ] {
                assert_eq!(flavour.corrected(Some((product, version))), expected);
            }
            assert_eq!(flavour.corrected(None), flavour);
        }
    }
}
