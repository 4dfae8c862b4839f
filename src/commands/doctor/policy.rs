//! The least-privilege IAM policy for one state, or for all of a bucket.

use serde_json::{Value, json};

use crate::commands::doctor::permissions::{Audience, On, Permission, Subject};
use crate::store::DIGEST_SUFFIX;

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
    #[must_use]
    pub fn document(&self, audience: Audience) -> Value {
        let mut statements: Vec<(On, Value)> = Vec::new();
        for Permission { action, on, .. } in self.subject.needed(audience) {
            match statements.iter_mut().find(|(known, _)| known == on) {
                Some((_, statement)) => {
                    statement["Action"].as_array_mut().into_iter().for_each(|actions| actions.push(json!(action)))
                }
                None => statements.push((*on, self.statement(audience, *on, action))),
            }
        }
        json!({ "Version": "2012-10-17", "Statement": statements.into_iter().map(|(_, statement)| statement).collect::<Vec<_>>() })
    }

    fn statement(&self, audience: Audience, on: On, action: &str) -> Value {
        let table = || vec![self.arn("dynamodb", "table/", self.subject.table.as_deref().unwrap_or_default())];
        let (name, resource) = match on {
            On::Bucket => ("Bucket", vec![self.bucket()]),
            On::State => ("State", self.objects("")),
            // With the star go the names that nobody uses, on which tfguard tries whether a delete is permitted and
            // keeps its condition.
            On::Lockfile => ("Lockfile", self.objects(".tflock*")),
            On::Unused => ("Examination", self.objects(".tflock.tfguard-*")),
            On::Table => ("LockTable", table()),
            On::Items => ("LockItems", table()),
            On::Key => ("Key", self.subject.kms_keys.iter().map(|key| self.arn("kms", "key/", key)).collect()),
        };
        let mut statement = json!({ "Sid": format!("{audience:?}{name}"), "Effect": "Allow", "Action": [action], "Resource": resource });
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
#[must_use]
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
