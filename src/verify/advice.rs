//! What to do about each finding: one sentence and, where there is one, one command.

use std::path::Path;

use serde::Serialize;

use super::{Finding, Relation, Seen, StateObject};
use crate::backend::S3Backend;
use crate::lock::DIGEST_SUFFIX;
use crate::shell;

/// Which state it is about, for the commands that people are told to run.
#[derive(Debug, Clone)]
pub struct Site<'a> {
    /// Its backend.
    pub backend: &'a S3Backend,
    /// The object's key, with the workspace's prefix.
    pub key: &'a str,
    /// `terraform` or `tofu`.
    pub program: &'static str,
    /// The beginning of a command line by which it is run on this state. None if no directory is known that is set up for
    /// it.
    pub terraform: Option<String>,
    /// The command that looks at this state, `tfguard verify` with its flags.
    pub verify: String,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What, and under which condition.
    pub say: String,
    /// The command that does it.
    pub run: Option<String>,
}

/// What to do about one finding.
#[must_use]
pub fn step(finding: &Finding, seen: &Seen, site: &Site) -> Step {
    let program = site.program;
    let none = seen.no_earlier.as_deref().unwrap_or("no earlier version was looked for");
    let found = seen.earlier.as_ref().and_then(|found| Some((describe(found), site.restore(found.version.as_ref()?))));
    let (say, run) = match (finding, found) {
        (Finding::DigestDiffers { of, .. }, _) => {
            let doubt = match (of, &seen.no_earlier) {
                (None, Some(none)) => {
                    format!("See where the digest comes from, since it may be of a newer state that was lost: {none}. ")
                }
                _ => String::new(),
            };
            let say = "If the state that is there is the one you want, let its digest be written. Not where the store may \
                       still serve an older object, as a cache may (AWS's S3 doesn't): then wait, and look again";
            (doubt + say, Some(format!("{} --fix-digest", site.verify)))
        }
        (Finding::Errored { path, relation, .. }, _) => return site.errored(path, *relation),
        (Finding::MissingButDigest { stored }, None) => {
            let say =
                format!("if it was removed on purpose, remove its digest too; if not, bring back a backup: {none}");
            (say, site.backend.table().map(|table| site.remove_digest(table, stored)))
        }
        (_, None) => (format!("let nobody run {program} until a backup is brought back: {none}"), None),
        (finding, Some((found, restore))) => {
            let unless = match finding {
                Finding::Broken { .. } | Finding::Empty => "",
                Finding::MissingButDigest { .. } => {
                    "unless it was removed on purpose (then remove its `-md5` item, too), "
                }
                _ => "unless it was done on purpose, ",
            };
            let say = format!(
                "{unless}let nobody run {program} and bring back the newest version that is whole and fits ({found}), then \
                 look again: the digest may have to follow"
            );
            (say, Some(restore))
        }
    };
    Step { say, run }
}

impl Site<'_> {
    fn aws(&self, service: &str, endpoint: Option<String>, words: &[&str]) -> String {
        let mut command = vec!["aws", service];
        command.extend_from_slice(words);
        command.extend(["--region", self.backend.region()]);
        command.extend(endpoint.iter().flat_map(|endpoint| ["--endpoint-url", endpoint]));
        shell::join(command)
    }

    /// Makes an earlier version the present one.
    fn restore(&self, version: &str) -> String {
        let (bucket, key) = (self.backend.bucket(), self.key);
        let source = format!("{bucket}/{}?versionId={version}", encoded(key));
        let words = ["copy-object", "--bucket", bucket, "--key", key, "--copy-source", &source];
        self.aws("s3api", self.backend.s3_endpoint(), &words)
    }

    /// Removes the digest, if it is still this one, and never a lock.
    fn remove_digest(&self, table: &str, digest: &str) -> String {
        let lock_id = format!("{}/{}{DIGEST_SUFFIX}", self.backend.bucket(), self.key);
        let key = serde_json::json!({"LockID": {"S": lock_id}}).to_string();
        let values = serde_json::json!({":digest": {"S": digest}}).to_string();
        let condition = "Digest = :digest AND attribute_not_exists(Info)";
        let words = ["delete-item", "--table-name", table, "--key", &key, "--condition-expression", condition];
        let words = [&words[..], &["--expression-attribute-values", &values]].concat();
        self.aws("dynamodb", self.backend.dynamodb_endpoint(), &words)
    }

    fn errored(&self, path: &Path, relation: Relation) -> Step {
        let (program, file) = (self.program, path.display());
        let quoted = shell::quote(path);
        let (say, run) = match relation {
            Relation::Newer => {
                let say = format!("upload {file} ({program} checks that it fits: never use -force)");
                return self.step(say, &format!("state push {quoted}"));
            }
            Relation::Overtaken => {
                let say = format!(
                    "don't push {file}. Compare the two: what only the file has exists and is in no state, so import it or \
                     remove it. Then move the file away"
                );
                return self.step(say, &format!("state pull | diff - {quoted}"));
            }
            Relation::Foreign => {
                (format!("don't push {file} here, but in the workspace or project of its lineage"), None)
            }
            Relation::NotWhole => (
                format!("don't push {file}. What {program} cannot write into a file it prints: see that run's output"),
                None,
            ),
            Relation::NothingToCompare => {
                (format!("keep {file} until both can be read; then look again"), Some(self.verify.clone()))
            }
        };
        Step { say, run }
    }

    /// Something to do with Terraform. Never in a directory that is set up for another state.
    fn step(&self, say: String, arguments: &str) -> Step {
        match &self.terraform {
            Some(terraform) => Step { say, run: Some(format!("{terraform} {arguments}")) },
            None => Step {
                say: format!(
                    "{say}. In a directory that is initialised for this state, and in its workspace, that is `{} {arguments}`",
                    self.program
                ),
                run: None,
            },
        }
    }
}

/// A key as the header `x-amz-copy-source` wants it: percent-encoded, slashes as they are.
fn encoded(key: &str) -> String {
    key.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A state in a few words.
#[must_use]
pub fn describe(object: &StateObject) -> String {
    let mut words = Vec::new();
    match &object.content {
        Ok(content) => {
            words.push(format!("serial {}, lineage {}", content.serial, content.lineage));
            words.extend(
                content.resources.map(|count| format!("{count} {}", if count == 1 { "resource" } else { "resources" })),
            );
            words.extend(content.terraform_version.as_ref().map(|version| format!("by version {version}")));
            words.extend(content.encrypted.then(|| "encrypted by OpenTofu".to_owned()));
        }
        Err(flaw) => words.push(flaw.to_string()),
    }
    words.push(format!("{} bytes", object.size));
    words.extend(object.modified.map(|modified| format!("written {modified:.0}")));
    words.extend(object.version.as_ref().map(|version| format!("version {version}")));
    words.join(", ")
}
