//! What can be wrong with a backend's settings.

use std::io::{self};
use std::path::PathBuf;

/// Why the backend of a directory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The file cannot be read.
    #[error(
        "cannot read the backend's settings in {path}: {source}. Run `terraform init` in that directory, as the user who runs tfguard"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no JSON: cut off or overwritten.
    #[error("{path} is not what `terraform init` writes ({reason}). Run `terraform init` again")]
    Torn {
        /// The file.
        path: PathBuf,
        /// What is wrong, without any of its content.
        reason: String,
    },
    /// The file has a format that this tfguard does not know.
    #[error("{path} has format version {version}; this tfguard knows version 3. Use a newer tfguard")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// `init` moves a state to this backend and has not recorded its settings.
    #[error(
        "`terraform init` records the backend that it moves a state to when all is over, so its region, table and \
         endpoints are not known"
    )]
    NotRecorded,
    /// The plan file that is applied does not tell its backend, and no other place does.
    #[error("the backend, and so the place of the lock, is in the plan file {path}, and {flaw}")]
    PlanFile {
        /// The plan file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: PlanFlaw,
    },
    /// The settings contradict themselves or lack something.
    #[error("the S3 backend's setting `{setting}` cannot be used: {reason}")]
    Unusable {
        /// The attribute or environment variable.
        setting: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The claim names a state that this backend does not store.
    #[error("the lock is for {lock_id}, which this backend does not store; tfguard does not know where its lock lives")]
    ForeignState {
        /// `<bucket>/<state key>`.
        lock_id: String,
    },
    /// The settings that are there now are not those with which the lock was taken.
    #[error(
        "it was taken in {place}, and what the directory is configured for leads elsewhere; if a plan file was applied, only that has the settings"
    )]
    Elsewhere {
        /// Where it was taken.
        place: String,
    },
    /// The settings are not those that were there when the Terraform started.
    #[error(
        "the backend that {dir} is configured for now isn't the one that it was configured for when Terraform started, \
         so the lock is looked for in neither", dir = .dir.display()
    )]
    Swapped {
        /// The directory.
        dir: PathBuf,
    },
    /// The settings that are there now are not those with which the lock was taken, although they lead to it.
    #[error(
        "in {directory} the backend's settings are not those with which the lock was taken: {settings} changed, so they are \
         not used"
    )]
    Changed {
        /// Where they are.
        directory: PathBuf,
        /// Their names.
        settings: String,
    },
    /// A cleanup step does not follow a file of the checkout, which may have been changed since the run began.
    #[error(
        "{path} is in the checkout and says `{property}`: a cleanup step runs no command and sends no token by such a file"
    )]
    InCheckout {
        /// The shared file.
        path: PathBuf,
        /// The property.
        property: String,
    },
    /// The claim names a half of a lock for which the backend has no setting.
    #[error(
        "Terraform took a lock of a kind for which the backend's settings have no {setting}; was the directory initialised anew meanwhile?"
    )]
    NoSuchHalf {
        /// The attribute that is missing.
        setting: &'static str,
    },
}

/// Why a plan file does not tell its backend. Shows nothing of its content, which can hold keys.
#[derive(Debug, thiserror::Error)]
pub enum PlanFlaw {
    /// The system refused.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// A pipe or a device.
    #[error("it is no regular file, so only Terraform could read it")]
    NoFile,
    /// OpenTofu's encryption of plans is on.
    #[error("OpenTofu has encrypted it, and only OpenTofu has the key")]
    Encrypted,
    /// No plan, or that of a run in HCP Terraform.
    #[error("it is no plan of this machine's Terraform or OpenTofu")]
    NoPlan,
    /// Cut off, overwritten, or forged.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Larger than any plan tfguard is made for.
    #[error("it is too large to be looked through")]
    TooLarge,
}
