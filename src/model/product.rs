//! Terraform and OpenTofu.

use std::ffi::OsStr;
use std::path::Path;

/// The programs whose arguments tfguard understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// HashiCorp's.
    Terraform,
    /// The Linux Foundation's.
    OpenTofu,
}

/// Which product a program is, by its name: also `terraform-bin`, `terraform1.5`, `tofu_1.9.0`, but not `terraform-docs`.
#[must_use]
pub fn product(program: &OsStr) -> Option<Product> {
    let name = Path::new(program).file_name()?.to_str()?;
    let (product, rest) = match (name.strip_prefix("terraform"), name.strip_prefix("tofu")) {
        (Some(rest), _) => (Product::Terraform, rest),
        (_, Some(rest)) => (Product::OpenTofu, rest),
        _ => return None,
    };
    let version = rest.trim_start_matches(['-', '_', '.', 'v']);
    let is_version = version.starts_with(|first: char| first.is_ascii_digit())
        && version.chars().all(|char| char.is_ascii_digit() || char == '.');
    (rest.is_empty() || rest == "-bin" || is_version).then_some(product)
}
