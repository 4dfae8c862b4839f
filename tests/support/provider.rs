//! The real AWS provider, where this machine has it.

use std::path::PathBuf;

const SOURCE: &str = "registry.terraform.io/hashicorp/aws";

/// A mirror that has it: `TFGUARD_TEST_PROVIDERS` names one, unpacked, else those that Terraform itself looks into. `None`, with a
/// word on stderr, where there is none.
pub fn aws_provider_mirror() -> Option<PathBuf> {
    let named = std::env::var_os("TFGUARD_TEST_PROVIDERS").map(PathBuf::from);
    let own = std::env::home_dir().map(|home| home.join(".terraform.d/plugins"));
    let shared = ["/usr/local/share/terraform/plugins", "/usr/share/terraform/plugins"].map(PathBuf::from);
    let found = named.into_iter().chain(own).chain(shared).find(|mirror| mirror.join(SOURCE).is_dir());
    if found.is_none() {
        super::skipped("no AWS provider: TFGUARD_TEST_PROVIDERS names no mirror that has it");
    }
    found
}
