//! The least-privilege IAM policy for one backend.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::permissions::{Audience, Features, On, needed};
use crate::lock::DIGEST_SUFFIX;

/// What a policy is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The bucket.
    pub bucket: String,
    /// The keys of the state: one, or also those of all other workspaces. A `*` stands for the workspace's name.
    pub state_keys: Vec<KeyPattern>,
    /// The lock table's name or ARN, where the state is locked in one.
    pub table: Option<String>,
    /// Whether the state is locked by a lockfile.
    pub lockfile: bool,
    /// Whether holders are recorded.
    pub annotate: bool,
    /// The ID, ARN or alias of the KMS key of the backend block.
    pub kms_key: Option<String>,
    /// The same of the key that encrypts the table.
    pub table_kms_key: Option<String>,
    /// The names of the backend's attributes that are set, where a directory tells them.
    pub set: Vec<String>,
    /// S3 is not AWS's own.
    pub foreign_store: bool,
    /// The region of bucket and table.
    pub region: String,
    /// The account of table and key; any where it is not given.
    pub account: Option<String>,
}

/// The key of a state, or of a state in any workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPattern {
    before: String,
    /// What follows the workspace's name.
    after: Option<String>,
}

impl KeyPattern {
    /// One key.
    #[must_use]
    pub fn one(key: &str) -> Self {
        Self { before: key.to_owned(), after: None }
    }

    /// Every key.
    #[must_use]
    pub fn any() -> Self {
        Self { before: String::new(), after: Some(String::new()) }
    }

    /// The keys that `of` gives for any workspace's name.
    pub fn any_workspace(of: impl Fn(&str) -> String) -> Self {
        // A name that no key has, so that its place is found.
        const NAME: &str = "\u{1}";
        let key = of(NAME);
        match key.split_once(NAME) {
            Some((before, after)) => Self { before: before.to_owned(), after: Some(after.to_owned()) },
            None => Self::one(&key),
        }
    }

    /// As IAM writes it, where `*`, `?` and `$` stand for more than themselves.
    fn pattern(&self) -> String {
        match &self.after {
            Some(after) => format!("{}*{}", literal(&self.before), literal(after)),
            None => literal(&self.before),
        }
    }
}

/// A policy document.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: String,
    effect: &'static str,
    action: Vec<&'static str>,
    resource: Vec<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    condition: Map<String, Value>,
}

impl Subject {
    /// What it asks for.
    #[must_use]
    pub fn features(&self) -> Features {
        let is_set = |name: &str| self.set.iter().any(|set| set == name);
        Features {
            table: self.table.is_some(),
            lockfile: self.lockfile,
            annotate: self.annotate,
            kms: self.kms_key.is_some(),
            table_kms: self.table_kms_key.is_some(),
            acl: is_set("acl"),
            state_tags: is_set("state_tags"),
            lock_tags: is_set("lock_tags"),
            foreign_store: self.foreign_store,
        }
    }

    /// The policy for one role: a statement for each kind of thing, none with more actions than are needed.
    #[must_use]
    pub fn policy(&self, audience: Audience) -> Policy {
        let mut statements: Vec<(On, Statement)> = Vec::new();
        for permission in needed(self.features(), audience.needs()) {
            // The statement about the lockfile is about the names that nobody uses, too.
            let is_granted = |(on, statement): &(On, Statement)| {
                *on == On::Lockfile && statement.action.contains(&permission.action)
            };
            if permission.on == On::Unused && statements.iter().any(is_granted) {
                continue;
            }
            match statements.iter_mut().find(|(on, _)| *on == permission.on) {
                Some((_, statement)) => statement.action.push(permission.action),
                None => statements.push((permission.on, self.statement(audience, permission.on, permission.action))),
            }
        }
        Policy { version: "2012-10-17", statement: statements.into_iter().map(|(_, statement)| statement).collect() }
    }

    fn statement(&self, audience: Audience, on: On, action: &'static str) -> Statement {
        let (name, resource, condition) = match on {
            On::Bucket => ("Bucket", vec![self.bucket_arn()], Value::Null),
            On::State => ("State", self.objects(""), Value::Null),
            // With the star go the names that nobody uses, on which tfguard tries whether a delete is permitted and
            // keeps its condition.
            On::Lockfile => ("Lockfile", self.objects(".tflock*"), Value::Null),
            On::Unused => ("Examination", self.objects(".tflock.tfguard-*"), Value::Null),
            On::Table => ("LockTable", self.table_arn().into_iter().collect(), Value::Null),
            On::Items => {
                let items: Vec<_> = self.state_keys.iter().flat_map(|key| self.items(key)).collect();
                let keys = json!({ "ForAllValues:StringLike": { "dynamodb:LeadingKeys": items } });
                ("LockItems", self.table_arn().into_iter().collect(), keys)
            }
            On::Key => self.key_statement("StateKey", self.kms_key.as_deref()),
            On::TableKey => self.key_statement("TableKey", self.table_kms_key.as_deref()),
        };
        let who = match audience {
            Audience::Pipeline => "Pipeline",
            Audience::Operator => "Operator",
        };
        let condition = match condition {
            Value::Object(condition) => condition,
            _ => Map::new(),
        };
        Statement { sid: format!("{who}{name}"), effect: "Allow", action: vec![action], resource, condition }
    }

    fn partition(&self) -> &'static str {
        match &self.region {
            region if region.starts_with("cn-") => "aws-cn",
            region if region.starts_with("us-gov-") => "aws-us-gov",
            region if region.starts_with("us-iso-") => "aws-iso",
            region if region.starts_with("us-isob-") => "aws-iso-b",
            region if region.starts_with("eu-isoe-") => "aws-iso-e",
            region if region.starts_with("us-isof-") => "aws-iso-f",
            region if region.starts_with("eusc-") => "aws-eusc",
            _ => "aws",
        }
    }

    /// Whether the bucket is named by an access point's ARN.
    fn is_access_point(&self) -> bool {
        self.bucket.starts_with("arn:")
    }

    fn bucket_arn(&self) -> String {
        if self.is_access_point() {
            return self.bucket.clone();
        }
        format!("arn:{}:s3:::{}", self.partition(), self.bucket)
    }

    fn objects(&self, suffix: &str) -> Vec<String> {
        let bucket = self.bucket_arn();
        let objects = if self.is_access_point() { "/object" } else { "" };
        self.state_keys.iter().map(|key| format!("{bucket}{objects}/{}{suffix}", key.pattern())).collect()
    }

    /// The items of a state: lock, digest, and the key that is never used, on which the doctor tries what is permitted.
    fn items(&self, key: &KeyPattern) -> Vec<String> {
        let lock_id = format!("{}/{}", literal(&self.bucket), key.pattern());
        if *key == KeyPattern::any() {
            return vec![lock_id];
        }
        ["", DIGEST_SUFFIX, UNUSED_ITEM].map(|suffix| format!("{lock_id}{suffix}")).into()
    }

    fn arn(&self, service: &str, resource: &str) -> String {
        let account = self.account.as_deref().unwrap_or("*");
        format!("arn:{}:{service}:{}:{account}:{resource}", self.partition(), self.region)
    }

    fn table_arn(&self) -> Option<String> {
        let table = self.table.as_ref()?;
        Some(if table.starts_with("arn:") { table.clone() } else { self.arn("dynamodb", &format!("table/{table}")) })
    }

    fn key_statement(&self, name: &'static str, key: Option<&str>) -> (&'static str, Vec<String>, Value) {
        let (resource, condition) = self.kms_key_arn(key.unwrap_or_default());
        (name, vec![resource], condition)
    }

    fn kms_key_arn(&self, key: &str) -> (String, Value) {
        // An alias in a resource is the alias, not its key.
        let by_alias = |keys: String, alias: &str| {
            (keys, json!({ "ForAnyValue:StringEquals": { "kms:ResourceAliases": [format!("alias/{alias}")] } }))
        };
        match (key.split_once(":alias/"), key.strip_prefix("alias/")) {
            (Some((account, alias)), _) => by_alias(format!("{account}:key/*"), alias),
            (None, Some(alias)) => by_alias(self.arn("kms", "key/*"), alias),
            _ if key.starts_with("arn:") => (key.to_owned(), Value::Null),
            _ => (self.arn("kms", &format!("key/{key}")), Value::Null),
        }
    }
}

/// What is put behind a lock's key for an item that no lock uses.
pub const UNUSED_ITEM: &str = ".tfguard-doctor";

/// A text that stands for itself in a pattern of IAM.
fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '*' | '?' | '$' => escaped.extend(["${", char.encode_utf8(&mut [0; 4]), "}"]),
            _ => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            bucket: "states".to_owned(),
            state_keys: vec![
                KeyPattern::one("network/prod.tfstate"),
                KeyPattern::any_workspace(|workspace| format!("env:/{workspace}/network/prod.tfstate")),
            ],
            table: Some("locks".to_owned()),
            lockfile: true,
            annotate: true,
            kms_key: None,
            table_kms_key: None,
            set: Vec::new(),
            foreign_store: false,
            region: "eu-west-1".to_owned(),
            account: None,
        }
    }

    fn actions(policy: &Policy, sid: &str) -> Vec<&'static str> {
        policy.statement.iter().find(|found| found.sid == sid).map(|found| found.action.clone()).unwrap_or_default()
    }

    #[test]
    fn a_pipeline_may_do_what_terraform_and_the_release_need_and_no_more() {
        let policy = subject().policy(Audience::Pipeline);
        let sids: Vec<_> = policy.statement.iter().map(|statement| statement.sid.as_str()).collect();
        assert_eq!(sids, ["PipelineBucket", "PipelineState", "PipelineLockfile", "PipelineLockItems"]);
        assert_eq!(actions(&policy, "PipelineBucket"), ["s3:ListBucket"]);
        assert_eq!(actions(&policy, "PipelineState"), ["s3:GetObject", "s3:PutObject"]);
        let items = ["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:DeleteItem", "dynamodb:UpdateItem"];
        assert_eq!(actions(&policy, "PipelineLockItems"), items);
        assert_eq!(
            policy.statement[1].resource,
            ["arn:aws:s3:::states/network/prod.tfstate", "arn:aws:s3:::states/env:/*/network/prod.tfstate"]
        );
        assert_eq!(policy.statement[3].resource, ["arn:aws:dynamodb:eu-west-1:*:table/locks"]);
        let without = Subject { annotate: false, ..subject() }.policy(Audience::Pipeline);
        assert_eq!(actions(&without, "PipelineLockItems"), items[..3]);
        assert!(!actions(&without, "PipelineLockfile").iter().any(|action| action.ends_with("Tagging")));
    }

    #[test]
    fn an_operator_may_not_write_states_nor_take_locks() {
        let policy = subject().policy(Audience::Operator);
        assert!(!actions(&policy, "OperatorState").contains(&"s3:PutObject"));
        assert!(!actions(&policy, "OperatorLockfile").contains(&"s3:PutObject"));
        assert!(actions(&policy, "OperatorLockTable").contains(&"dynamodb:Scan"));
    }

    /// Where deletes are examined before they are trusted.
    #[test]
    fn in_a_store_that_is_not_awss_an_operator_may_write_names_that_nobody_uses() {
        let policy = Subject { foreign_store: true, ..subject() }.policy(Audience::Operator);
        let examination = policy.statement.iter().find(|found| found.sid == "OperatorExamination").unwrap();
        assert_eq!(examination.action, ["s3:PutObject"]);
        assert_eq!(examination.resource[0], "arn:aws:s3:::states/network/prod.tfstate.tflock.tfguard-*");
        // A pipeline may write them anyhow, as it may write lockfiles.
        let pipeline = Subject { foreign_store: true, ..subject() }.policy(Audience::Pipeline);
        assert_eq!(pipeline, subject().policy(Audience::Pipeline));
    }

    #[test]
    fn what_is_not_used_is_not_granted() {
        let file_only = Subject { table: None, ..subject() };
        let table_only = Subject { lockfile: false, ..subject() };
        for audience in [Audience::Pipeline, Audience::Operator] {
            let text = |subject: &Subject| serde_json::to_string(&subject.policy(audience)).unwrap();
            assert!(!text(&file_only).contains("dynamodb"));
            assert!(!text(&table_only).contains("tflock"));
            assert!(!text(&table_only).contains("kms"));
        }
    }

    /// Guards against a policy that opens more than one state, because a key has a character with a meaning in IAM.
    #[test]
    fn what_means_more_in_iam_is_taken_literally() {
        let keys = vec![KeyPattern::one("a*?/$x"), KeyPattern::any_workspace(|workspace| format!("e*/{workspace}/k"))];
        let subject = Subject { state_keys: keys, ..subject() };
        let arn = "arn:aws:s3:::states";
        assert_eq!(subject.objects(""), [format!("{arn}/a${{*}}${{?}}/${{$}}x"), format!("{arn}/e${{*}}/*/k")]);
    }

    #[test]
    fn keys_tables_and_partitions_are_named_as_they_are() {
        let of = |key: &str| subject().kms_key_arn(key).0;
        assert_eq!(of("1234"), "arn:aws:kms:eu-west-1:*:key/1234");
        assert_eq!(of("arn:aws:kms:eu-west-1:1:key/1"), "arn:aws:kms:eu-west-1:1:key/1");
        assert_eq!(of("alias/x"), "arn:aws:kms:eu-west-1:*:key/*");
        assert_eq!(of("arn:aws:kms:eu-west-2:1:alias/x/y"), "arn:aws:kms:eu-west-2:1:key/*");
        let alias = json!({ "ForAnyValue:StringEquals": { "kms:ResourceAliases": ["alias/x/y"] } });
        assert_eq!(subject().kms_key_arn("arn:aws:kms:eu-west-2:1:alias/x/y").1, alias);
        let given = Subject { region: "cn-north-1".to_owned(), account: Some("1".to_owned()), ..subject() };
        assert_eq!(given.table_arn().unwrap(), "arn:aws-cn:dynamodb:cn-north-1:1:table/locks");
        let arn = "arn:aws:dynamodb:eu-west-1:1:table/t";
        assert_eq!(Subject { table: Some(arn.to_owned()), ..subject() }.table_arn().as_deref(), Some(arn));
        for (region, partition) in [
            ("us-gov-west-1", "aws-us-gov"),
            ("us-iso-east-1", "aws-iso"),
            ("us-isob-east-1", "aws-iso-b"),
            ("eusc-de-east-1", "aws-eusc"),
            ("us-east-1", "aws"),
        ] {
            assert_eq!(Subject { region: region.to_owned(), ..subject() }.partition(), partition);
        }
    }

    /// An access point has objects of its own in IAM's eyes, and its items in the table have its ARN in their keys.
    #[test]
    fn a_bucket_that_is_named_by_an_access_point_is_granted_by_it() {
        let point = "arn:aws:s3:eu-west-1:1:accesspoint/states";
        let subject = Subject { bucket: point.to_owned(), state_keys: vec![KeyPattern::one("k")], ..subject() };
        assert_eq!(subject.bucket_arn(), point);
        assert_eq!(subject.objects(".tflock*"), [format!("{point}/object/k.tflock*")]);
        assert_eq!(subject.items(&subject.state_keys[0])[0], format!("{point}/k"));
    }

    /// What S3 asks for besides where an object is written with an ACL or with tags (S3 API, `PutObject`).
    #[test]
    fn acls_and_tags_of_the_backend_block_are_granted_to_pipelines_alone() {
        let set = |names: &[&str]| Subject { set: names.iter().map(|name| (*name).to_owned()).collect(), ..subject() };
        let of = |names: &[&str], annotate, sid| {
            let mut all = actions(&Subject { annotate, ..set(names) }.policy(Audience::Pipeline), sid);
            all.retain(|action| action.ends_with("Acl") || action.ends_with(":PutObjectTagging"));
            all
        };
        let none: Vec<&str> = Vec::new();
        assert_eq!(of(&["bucket"], false, "PipelineState"), none);
        assert_eq!(of(&["bucket"], false, "PipelineLockfile"), none);
        for sid in ["PipelineState", "PipelineLockfile"] {
            assert_eq!(of(&["acl"], false, sid), ["s3:PutObjectAcl"]);
        }
        assert_eq!(of(&["state_tags"], true, "PipelineState"), ["s3:PutObjectTagging"]);
        assert_eq!(of(&["lock_tags"], true, "PipelineState"), none);
        for (names, annotate) in [(&[][..], true), (&["lock_tags"], true), (&["lock_tags"], false)] {
            assert_eq!(of(names, annotate, "PipelineLockfile"), ["s3:PutObjectTagging"], "{names:?} {annotate}");
        }
        let people =
            serde_json::to_string(&set(&["acl", "state_tags", "lock_tags"]).policy(Audience::Operator)).unwrap();
        assert!(!people.contains("PutObjectAcl") && !people.contains("PutObjectTagging"));
    }

    #[test]
    fn the_key_of_the_table_is_granted_to_all_who_ask_the_table() {
        let key = Some("arn:aws:kms:eu-west-1:1:key/2".to_owned());
        let with = Subject { table_kms_key: key.clone(), ..subject() };
        for (audience, sid) in [(Audience::Pipeline, "PipelineTableKey"), (Audience::Operator, "OperatorTableKey")] {
            let policy = with.policy(audience);
            assert_eq!(actions(&policy, sid), ["kms:Decrypt"]);
            assert_eq!(policy.statement.last().unwrap().resource, [key.clone().unwrap()]);
        }
        let fileless = Subject { table: None, ..with }.policy(Audience::Pipeline);
        assert!(actions(&fileless, "PipelineTableKey").is_empty());
    }
}
