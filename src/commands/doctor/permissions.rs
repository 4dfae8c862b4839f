//! The catalogue of IAM actions: what each is needed for and on what. The policy is made of it, and the probes are
//! judged by it.

use serde::Serialize;

/// What an action is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Terraform's own work with its state and its lock.
    Terraform,
    /// The release of a lock that a dead Terraform left, by the guarded run and by `tfguard release`.
    Release,
    /// The record of who holds a lock.
    Annotate,
    /// `tfguard locks`.
    Locks,
    /// `tfguard inspect`.
    Inspect,
    /// `tfguard unlock`.
    Unlock,
    /// `tfguard verify`.
    Verify,
    /// `tfguard verify --fix-digest`.
    FixDigest,
    /// `tfguard doctor`, to say more.
    Doctor,
}

impl Need {
    /// Every one.
    pub const ALL: &[Self] = &[Terraform, Release, Annotate, Locks, Inspect, Unlock, Verify, FixDigest, Doctor];

    /// As people know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Terraform => "Terraform",
            Self::Release => "the release of left locks",
            Self::Annotate => "the record of who holds a lock",
            Self::Locks => "tfguard locks",
            Self::Inspect => "tfguard inspect",
            Self::Unlock => "tfguard unlock",
            Self::Verify => "tfguard verify",
            Self::FixDigest => "tfguard verify --fix-digest",
            Self::Doctor => "tfguard doctor",
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

impl Audience {
    /// What is done in this role.
    #[must_use]
    pub fn needs(self) -> &'static [Need] {
        match self {
            Self::Pipeline => &[Need::Terraform, Need::Release, Need::Annotate],
            Self::Operator => &[Need::Locks, Need::Inspect, Need::Unlock, Need::Verify, Need::FixDigest, Need::Doctor],
        }
    }
}

/// What an action is done to. A policy has one statement for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
    /// The KMS key that encrypts the objects.
    Key,
    /// The KMS key that encrypts the lock table.
    TableKey,
}

/// One action on one kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Permission {
    /// The IAM action, for instance `dynamodb:DeleteItem`.
    pub action: &'static str,
    /// What it is done to.
    pub on: On,
    /// What needs it.
    pub needed_by: &'static [Need],
}

/// What the state's settings ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// It is locked in a table.
    pub table: bool,
    /// It is locked by a lockfile.
    pub lockfile: bool,
    /// Holders are recorded.
    pub annotate: bool,
    /// Its objects are encrypted with a KMS key of one's own.
    pub kms: bool,
    /// So is its table.
    pub table_kms: bool,
    /// Its objects are written with an ACL.
    pub acl: bool,
    /// Its state is written with tags (OpenTofu's `state_tags`).
    pub state_tags: bool,
    /// Its lockfile is written with tags (OpenTofu's `lock_tags`).
    pub lock_tags: bool,
    /// S3 is not AWS's own.
    pub foreign_store: bool,
}

use Need::{Annotate, Doctor, FixDigest, Inspect, Locks, Release, Terraform, Unlock, Verify};

const CATALOGUE: &[Permission] = &[
    of("s3:ListBucket", On::Bucket, &[Terraform, Release, Locks, Inspect, Unlock, Verify]),
    of("s3:ListBucketVersions", On::Bucket, &[Verify]),
    of("s3:GetBucketVersioning", On::Bucket, &[Doctor]),
    of("s3:GetEncryptionConfiguration", On::Bucket, &[Doctor]),
    of("s3:GetBucketObjectLockConfiguration", On::Bucket, &[Doctor]),
    of("s3:GetObject", On::State, &[Terraform, Locks, Inspect, Verify]),
    of("s3:PutObject", On::State, &[Terraform]),
    of("s3:PutObjectAcl", On::State, &[Terraform]),
    of("s3:PutObjectTagging", On::State, &[Terraform]),
    of("s3:GetObjectVersion", On::State, &[Verify]),
    of("s3:GetObject", On::Lockfile, &[Terraform, Release, Annotate, Locks, Inspect, Unlock]),
    of("s3:PutObject", On::Lockfile, &[Terraform]),
    of("s3:PutObjectAcl", On::Lockfile, &[Terraform]),
    of("s3:DeleteObject", On::Lockfile, &[Terraform, Release, Unlock]),
    of("s3:PutObject", On::Unused, &[Release, Unlock]),
    of("s3:GetObjectTagging", On::Lockfile, &[Annotate, Locks, Inspect, Unlock]),
    of("s3:PutObjectTagging", On::Lockfile, &[Annotate]),
    // The same where Terraform needs it too.
    of("s3:PutObjectTagging", On::Lockfile, &[Terraform, Annotate]),
    of("s3:PutObjectVersionTagging", On::Lockfile, &[Annotate]),
    of("dynamodb:DescribeTable", On::Table, &[Doctor]),
    of("dynamodb:DescribeTimeToLive", On::Table, &[Doctor]),
    of("dynamodb:DescribeContinuousBackups", On::Table, &[Doctor]),
    of("dynamodb:Scan", On::Table, &[Locks]),
    of("dynamodb:GetItem", On::Items, &[Terraform, Release, Locks, Inspect, Unlock, Verify]),
    of("dynamodb:PutItem", On::Items, &[Terraform, FixDigest]),
    of("dynamodb:DeleteItem", On::Items, &[Terraform, Release, Unlock]),
    of("dynamodb:UpdateItem", On::Items, &[Annotate]),
    of("kms:Decrypt", On::Key, &[Terraform, Release, Annotate, Locks, Inspect, Unlock, Verify]),
    of("kms:GenerateDataKey", On::Key, &[Terraform]),
    // For writing too (aws-cdk#10010).
    of("kms:Decrypt", On::TableKey, &[Terraform, Release, Annotate, Locks, Inspect, Unlock, Verify, FixDigest]),
];

const fn of(action: &'static str, on: On, needed_by: &'static [Need]) -> Permission {
    Permission { action, on, needed_by }
}

/// The permissions that are needed for any of `needs` where the state is set up with these features.
pub fn needed<'a>(features: Features, needs: &'a [Need]) -> impl Iterator<Item = &'static Permission> + 'a {
    CATALOGUE.iter().filter(move |permission| {
        let is_there = match permission.on {
            On::Bucket | On::State => true,
            On::Lockfile => features.lockfile,
            On::Unused => features.lockfile && features.foreign_store,
            On::Table | On::Items => features.table,
            On::Key => features.kms,
            On::TableKey => features.table && features.table_kms,
        };
        let is_set = match (permission.on, permission.action) {
            (_, "s3:PutObjectAcl") => features.acl,
            (On::State, "s3:PutObjectTagging") => features.state_tags,
            (On::Lockfile, "s3:PutObjectTagging") => features.lock_tags == permission.needed_by.contains(&Terraform),
            _ => true,
        };
        let wanted = |need: &&Need| needs.contains(need) && (features.annotate || **need != Annotate);
        is_there && is_set && permission.needed_by.iter().any(|need| wanted(&need))
    })
}
