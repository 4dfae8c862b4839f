//! The IAM actions: what each is needed for and on what. The policy is made of it, and the credentials are judged by it.

use serde::Serialize;

/// What an action is done to. A policy has one statement for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// The bucket itself.
    Bucket,
    /// The object of the state.
    State,
    /// The object of the lockfile, and names beside it that nobody uses.
    Lockfile,
    /// Of these only the names that nobody uses: in a store that is not AWS's, a small object of that name shows whether
    /// deletes keep their condition.
    Unused,
    /// The lock table as a whole.
    Table,
    /// The state's items in the lock table: lock and digest.
    Items,
    /// The KMS keys that encrypt objects or table.
    Key,
}

impl On {
    /// As people know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bucket => "the bucket",
            Self::State => "the state's object",
            Self::Lockfile => "the lockfile",
            Self::Unused => "unused names beside the lockfile",
            Self::Table => "the lock table",
            Self::Items => "the state's items in the lock table",
            Self::Key => "the KMS key",
        }
    }
}

/// Whose work a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Audience {
    /// The role of the pipelines that run Terraform under tfguard.
    Pipeline,
    /// The role of the people who look at locks and clear them by hand.
    Operator,
}

/// One action on one kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Permission {
    /// The IAM action, for instance `dynamodb:DeleteItem`.
    pub action: &'static str,
    /// What it is done to.
    pub on: On,
    /// What needs it: `terraform` itself, the `release` of a lock that a dead Terraform left, `annotate` (the record of
    /// who holds a lock), or one of tfguard's commands.
    pub needed_by: &'static [&'static str],
}

impl Permission {
    /// Whether it is needed for one of these.
    #[must_use]
    pub fn is_for(&self, needs: &[&str]) -> bool {
        self.needed_by.iter().any(|need| needs.contains(need))
    }
}

const fn of(action: &'static str, on: On, needed_by: &'static [&'static str]) -> Permission {
    Permission { action, on, needed_by }
}

/// All of them. `Prober::ask` has an arm for each that is tried.
pub const PERMISSIONS: &[Permission] = &[
    of("s3:ListBucket", On::Bucket, &["terraform", "release", "locks", "inspect", "unlock", "verify"]),
    of("s3:ListBucketVersions", On::Bucket, &["verify"]),
    of("s3:GetBucketVersioning", On::Bucket, &["doctor"]),
    of("s3:GetEncryptionConfiguration", On::Bucket, &["doctor"]),
    of("s3:GetObject", On::State, &["terraform", "locks", "inspect", "verify"]),
    of("s3:PutObject", On::State, &["terraform"]),
    of("s3:GetObjectVersion", On::State, &["verify"]),
    of("s3:GetObject", On::Lockfile, &["terraform", "release", "annotate", "locks", "inspect", "unlock"]),
    of("s3:PutObject", On::Lockfile, &["terraform"]),
    of("s3:DeleteObject", On::Lockfile, &["terraform", "release", "unlock"]),
    of("s3:GetObjectTagging", On::Lockfile, &["annotate", "locks", "inspect", "unlock"]),
    of("s3:PutObjectTagging", On::Lockfile, &["annotate"]),
    of("s3:PutObjectVersionTagging", On::Lockfile, &["annotate"]),
    // Pipelines may anyhow, as they may write lockfiles.
    of("s3:PutObject", On::Unused, &["unlock"]),
    of("dynamodb:DescribeTable", On::Table, &["doctor"]),
    of("dynamodb:DescribeTimeToLive", On::Table, &["doctor"]),
    of("dynamodb:DescribeContinuousBackups", On::Table, &["doctor"]),
    of("dynamodb:Scan", On::Table, &["locks"]),
    of("dynamodb:GetItem", On::Items, &["terraform", "release", "locks", "inspect", "unlock", "verify"]),
    of("dynamodb:PutItem", On::Items, &["terraform", "fix-digest"]),
    of("dynamodb:DeleteItem", On::Items, &["terraform", "release", "unlock"]),
    of("dynamodb:UpdateItem", On::Items, &["annotate"]),
    // A table's key asks for it for writing, too (aws-cdk#10010).
    of(
        "kms:Decrypt",
        On::Key,
        &["terraform", "release", "annotate", "locks", "inspect", "unlock", "verify", "fix-digest"],
    ),
    of("kms:GenerateDataKey", On::Key, &["terraform"]),
];

/// The state whose permissions are looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// The bucket, or the ARN of an access point.
    pub bucket: String,
    /// The key of the state.
    pub key: String,
    /// The lock table's name or ARN, where the state is locked in one.
    pub table: Option<String>,
    /// Whether the state is locked by a lockfile.
    pub lockfile: bool,
    /// Whether S3 is not AWS's own.
    pub foreign_store: bool,
    /// Whether holders are recorded.
    pub annotate: bool,
    /// The IDs, ARNs or aliases of the KMS keys that encrypt objects and table.
    pub kms_keys: Vec<String>,
    /// The region of bucket and table.
    pub region: String,
    /// The program that its directory is set up by, where that tells.
    pub program: Option<&'static str>,
    /// Whether the version that set it up knows lockfiles, where that tells.
    pub knows_lockfiles: Option<bool>,
}

impl Subject {
    /// The permissions that are needed in one role.
    pub fn needed(&self, audience: Audience) -> impl Iterator<Item = &'static Permission> {
        let needs: &[&str] = match audience {
            Audience::Pipeline if self.annotate => &["terraform", "release", "annotate"],
            Audience::Pipeline => &["terraform", "release"],
            Audience::Operator => &["locks", "inspect", "unlock", "verify", "fix-digest", "doctor"],
        };
        PERMISSIONS.iter().filter(move |permission| {
            permission.is_for(needs)
                && match permission.on {
                    On::Bucket | On::State => true,
                    On::Lockfile => self.lockfile,
                    On::Unused => self.lockfile && self.foreign_store,
                    On::Table | On::Items => self.table.is_some(),
                    On::Key => !self.kms_keys.is_empty(),
                }
        })
    }
}
