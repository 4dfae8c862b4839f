//! The IAM actions: what each is needed for and on what. The policy is made of it, and the credentials are judged by it.

use serde::Serialize;
use serde_json::{Value, json};

use crate::model::{LEASE_SUFFIX, LOCKFILE_SUFFIX};
use crate::store::DIGEST_SUFFIX;

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
    /// Of these only the object of the lock's lease.
    Lease,
    /// The lock table as a whole.
    Table,
    /// The state's items in the lock table: lock and digest.
    Items,
    /// The KMS keys that encrypt objects or table.
    Key,
}

impl On {
    /// As people know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bucket => "the bucket",
            Self::State => "the state's object",
            Self::Lockfile => "the lockfile",
            Self::Unused => "unused names beside the lockfile",
            Self::Lease => "the lease beside the lockfile",
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
    pub on: On,
    /// What needs it: `terraform` itself, the `release` of a lock that a dead Terraform left, `annotate` (the record of
    /// who holds a lock), `lease` (runs with `--lease` or `--reclaim`), `unlock-expired` (`unlock --expired`), or one of
    /// tfguard's commands.
    pub needed_by: &'static [&'static str],
}

impl Permission {
    /// Whether it is needed for one of these.
    pub fn is_for(&self, needs: &[&str]) -> bool {
        self.needed_by.iter().any(|need| needs.contains(need))
    }
}

const fn of(action: &'static str, on: On, needed_by: &'static [&'static str]) -> Permission {
    Permission { action, on, needed_by }
}

/// All of them, by what they are done to. `Prober::ask` has an arm for each that is tried.
pub const PERMISSIONS: &[Permission] = &[
    of("s3:ListBucket", On::Bucket, &["terraform", "release", "locks", "inspect", "unlock", "verify"]),
    of("s3:ListBucketVersions", On::Bucket, &["verify"]),
    of("s3:GetBucketVersioning", On::Bucket, &["doctor"]),
    of("s3:GetEncryptionConfiguration", On::Bucket, &["doctor"]),
    of("s3:GetObject", On::State, &["terraform", "locks", "inspect", "verify"]),
    of("s3:PutObject", On::State, &["terraform"]),
    of("s3:GetObjectVersion", On::State, &["verify"]),
    of("s3:GetObject", On::Lockfile, &["terraform", "release", "annotate", "lease", "locks", "inspect", "unlock"]),
    of("s3:PutObject", On::Lockfile, &["terraform", "lease"]),
    of("s3:DeleteObject", On::Lockfile, &["terraform", "release", "lease", "unlock"]),
    of("s3:GetObjectTagging", On::Lockfile, &["annotate", "locks", "inspect", "unlock"]),
    of("s3:PutObjectTagging", On::Lockfile, &["annotate"]),
    of("s3:PutObjectVersionTagging", On::Lockfile, &["annotate"]),
    // Pipelines may anyhow, as they may write lockfiles.
    of("s3:PutObject", On::Unused, &["unlock"]),
    of("s3:PutObject", On::Lease, &["unlock-expired"]),
    of("dynamodb:DescribeTable", On::Table, &["doctor"]),
    of("dynamodb:DescribeTimeToLive", On::Table, &["doctor"]),
    of("dynamodb:DescribeContinuousBackups", On::Table, &["doctor"]),
    of("dynamodb:Scan", On::Table, &["locks"]),
    of("dynamodb:GetItem", On::Items, &["terraform", "release", "lease", "locks", "inspect", "unlock", "verify"]),
    of("dynamodb:PutItem", On::Items, &["terraform", "fix-digest"]),
    of("dynamodb:DeleteItem", On::Items, &["terraform", "release", "lease", "unlock"]),
    of("dynamodb:UpdateItem", On::Items, &["annotate", "lease"]),
    // A table's key asks for it for writing, too (aws-cdk#10010).
    of(
        "kms:Decrypt",
        On::Key,
        &["terraform", "release", "annotate", "lease", "locks", "inspect", "unlock", "verify", "fix-digest"],
    ),
    of("kms:GenerateDataKey", On::Key, &["terraform", "lease", "unlock-expired"]),
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
    /// Whether locks have leases.
    pub lease: bool,
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
        let (always, lease): (&[&str], _) = match audience {
            Audience::Pipeline if self.annotate => (&["terraform", "release", "annotate"], "lease"),
            Audience::Pipeline => (&["terraform", "release"], "lease"),
            Audience::Operator => (&["locks", "inspect", "unlock", "verify", "fix-digest", "doctor"], "unlock-expired"),
        };
        PERMISSIONS.iter().filter(move |permission| {
            (permission.is_for(always) || (self.lease && permission.is_for(&[lease])))
                && match permission.on {
                    On::Bucket | On::State => true,
                    On::Lockfile | On::Lease => self.lockfile,
                    On::Unused => self.lockfile && self.foreign_store,
                    On::Table | On::Items => self.table.is_some(),
                    On::Key => !self.kms_keys.is_empty(),
                }
        })
    }
}

/// Behind the key of a lock's item, and of a lockfile: one that nobody uses.
pub const UNUSED: &str = ".tfguard-doctor";

/// What a policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The state, and what it needs.
    pub subject: Subject,
    /// The keys of the state, one or also those of its other workspaces, as patterns of IAM.
    pub keys: Vec<String>,
    /// The account of table and key; any where it is not given.
    pub account: Option<String>,
}

impl Policy {
    /// The document for one role: a statement for each kind of thing, none with more actions than are needed.
    pub fn document(&self, audience: Audience) -> Value {
        let needed: Vec<_> = self.subject.needed(audience).collect();
        let statements = needed.chunk_by(|one, next| one.on == next.on);
        let statements: Vec<_> = statements.map(|of_one| self.statement(audience, of_one)).collect();
        json!({ "Version": "2012-10-17", "Statement": statements })
    }

    /// The statement for permissions on one kind of thing.
    fn statement(&self, audience: Audience, permissions: &[&Permission]) -> Value {
        let on = permissions[0].on;
        let actions: Vec<_> = permissions.iter().map(|permission| permission.action).collect();
        let table = || vec![self.arn("dynamodb", "table/", self.subject.table.as_deref().unwrap_or_default())];
        let (name, resource) = match on {
            On::Bucket => ("Bucket", vec![self.bucket()]),
            On::State => ("State", self.objects("")),
            // With the star go the names that nobody uses, on which tfguard tries whether a delete is permitted and
            // keeps its condition.
            On::Lockfile => ("Lockfile", self.objects(".tflock*")),
            On::Unused => ("Examination", self.objects(".tflock.tfguard-*")),
            On::Lease => ("Lease", self.objects(&format!("{LOCKFILE_SUFFIX}{LEASE_SUFFIX}"))),
            On::Table => ("LockTable", table()),
            On::Items => ("LockItems", table()),
            On::Key => ("Key", self.subject.kms_keys.iter().map(|key| self.arn("kms", "key/", key)).collect()),
        };
        let mut statement =
            json!({ "Sid": format!("{audience:?}{name}"), "Effect": "Allow", "Action": actions, "Resource": resource });
        if on == On::Items {
            statement["Condition"] = json!({ "ForAllValues:StringLike": { "dynamodb:LeadingKeys": self.items() } });
        }
        statement
    }

    fn bucket(&self) -> String {
        match &self.subject.bucket {
            point if point.starts_with("arn:") => point.clone(),
            bucket => format!("arn:{}:s3:::{bucket}", self.partition()),
        }
    }

    fn objects(&self, suffix: &str) -> Vec<String> {
        let objects = if self.subject.bucket.starts_with("arn:") { "/object" } else { "" };
        self.keys.iter().map(|key| format!("{}{objects}/{key}{suffix}", self.bucket())).collect()
    }

    /// Lock, digest, and the key that is never used, on which the doctor tries what is permitted.
    fn items(&self) -> Vec<String> {
        let items = |key: &String| {
            let suffixes: &[&str] = if key == "*" { &[""] } else { &["", DIGEST_SUFFIX, UNUSED] };
            let lock_id = format!("{}/{key}", literal(&self.subject.bucket));
            suffixes.iter().map(move |suffix| format!("{lock_id}{suffix}"))
        };
        self.keys.iter().flat_map(items).collect()
    }

    fn partition(&self) -> &'static str {
        match self.subject.region.split('-').next() {
            Some("cn") => "aws-cn",
            Some("eusc") => "aws-eusc",
            Some("us") if self.subject.region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }

    /// The ARN of a thing of this region and account, unless it is named by its ARN.
    fn arn(&self, service: &str, kind: &str, name: &str) -> String {
        let account = self.account.as_deref().unwrap_or("*");
        match name {
            arn if arn.starts_with("arn:") => arn.to_owned(),
            _ => format!("arn:{}:{service}:{}:{account}:{kind}{name}", self.partition(), self.subject.region),
        }
    }
}

/// A text that stands for itself in a pattern of IAM, where `*`, `?` and `$` stand for more.
pub(crate) fn literal(text: &str) -> String {
    let escaped = |char| match char {
        '*' | '?' | '$' => format!("${{{char}}}"),
        _ => char.to_string(),
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let subject = Subject {
            bucket: "states".to_owned(),
            key: "network/prod.tfstate".to_owned(),
            table: Some("locks".to_owned()),
            lockfile: true,
            annotate: true,
            region: "eu-west-1".to_owned(),
            ..Subject::default()
        };
        let keys = vec!["network/prod.tfstate".to_owned(), "env:/*/network/prod.tfstate".to_owned()];
        Policy { subject, keys, account: None }
    }

    fn with(change: impl FnOnce(&mut Policy)) -> Policy {
        let mut policy = policy();
        change(&mut policy);
        policy
    }

    /// The actions of one statement, without their service; empty where there is no such statement.
    fn actions(policy: &Policy, audience: Audience, sid: &str) -> String {
        let document = policy.document(audience);
        let found = document["Statement"].as_array().unwrap().iter().find(|statement| statement["Sid"] == sid);
        let actions = found.and_then(|found| found["Action"].as_array()).into_iter().flatten();
        actions.map(|action| action.as_str().unwrap().split_once(':').unwrap().1).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_setting_grants_what_it_needs_and_no_more() {
        use Audience::{Operator, Pipeline};
        let unannotated = with(|policy| policy.subject.annotate = false);
        let with_key = with(|policy| policy.subject.kms_keys = vec!["1".to_owned()]);
        let leased = with(|policy| (policy.subject.lease, policy.subject.annotate) = (true, false));
        for (policy, audience, sid, expected) in [
            (&policy(), Pipeline, "PipelineBucket", "ListBucket"),
            (&policy(), Pipeline, "PipelineState", "GetObject PutObject"),
            (&policy(), Pipeline, "PipelineLockItems", "GetItem PutItem DeleteItem UpdateItem"),
            (&policy(), Pipeline, "PipelineLockTable", ""),
            (&policy(), Pipeline, "PipelineKey", ""),
            (&policy(), Operator, "OperatorState", "GetObject GetObjectVersion"),
            (&policy(), Operator, "OperatorLockfile", "GetObject DeleteObject GetObjectTagging"),
            (&policy(), Operator, "OperatorExamination", ""),
            (&with(|policy| policy.subject.foreign_store = true), Operator, "OperatorExamination", "PutObject"),
            (&unannotated, Pipeline, "PipelineLockItems", "GetItem PutItem DeleteItem"),
            (&unannotated, Pipeline, "PipelineLockfile", "GetObject PutObject DeleteObject"),
            (&leased, Pipeline, "PipelineLockItems", "GetItem PutItem DeleteItem UpdateItem"),
            (&leased, Pipeline, "PipelineLockfile", "GetObject PutObject DeleteObject"),
            (&leased, Pipeline, "PipelineLease", ""),
            (&leased, Operator, "OperatorLockfile", "GetObject DeleteObject GetObjectTagging"),
            (&leased, Operator, "OperatorLease", "PutObject"),
            (&policy(), Operator, "OperatorLease", ""),
            (&with(|policy| policy.subject.table = None), Pipeline, "PipelineLockItems", ""),
            (&with(|policy| policy.subject.lockfile = false), Pipeline, "PipelineLockfile", ""),
            (&with_key, Pipeline, "PipelineKey", "Decrypt GenerateDataKey"),
            (&with_key, Operator, "OperatorKey", "Decrypt"),
        ] {
            assert_eq!(actions(policy, audience, sid), expected, "{sid} {:?}", policy.subject);
        }
    }

    #[test]
    fn things_are_named_by_their_arns() {
        let arn = "arn:aws:dynamodb:eu-west-1:1:table/t";
        assert_eq!(policy().arn("dynamodb", "table/", arn), arn);
        assert_eq!(policy().arn("kms", "key/", "1234"), "arn:aws:kms:eu-west-1:*:key/1234");
        let china =
            with(|policy| (policy.subject.region, policy.account) = ("cn-north-1".to_owned(), Some("1".to_owned())));
        assert_eq!(china.arn("dynamodb", "table/", "t"), "arn:aws-cn:dynamodb:cn-north-1:1:table/t");
        assert_eq!(china.bucket(), "arn:aws-cn:s3:::states");
        // An access point has objects of its own in IAM's eyes, and its items in the table have its ARN in their keys.
        let point = "arn:aws:s3:eu-west-1:1:accesspoint/states";
        let at_point = with(|policy| (policy.subject.bucket, policy.keys) = (point.to_owned(), vec!["k".to_owned()]));
        assert_eq!(at_point.objects(".tflock*"), [format!("{point}/object/k.tflock*")]);
        assert_eq!(at_point.items()[0], format!("{point}/k"));
    }

    /// Guards against a policy that opens more than one state, because a key has a character with a meaning in IAM.
    #[test]
    fn what_means_more_in_iam_is_taken_literally() {
        assert_eq!(literal("a*?/$x"), "a${*}${?}/${$}x");
    }
}
