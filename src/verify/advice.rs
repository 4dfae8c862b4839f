//! What to do about a state, in the order in which a tired person should do it.

use std::path::Path;

use super::finding::{Finding, Relation};
use super::judge::way_back;
use super::{Expected, Judgement, Seen, StateObject, Version, Versions};
use crate::backend::S3Backend;

/// Which state it is about, for the commands that people are told to run.
#[derive(Debug, Clone)]
pub struct Site {
    /// The bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// Its region.
    pub region: String,
    /// The endpoint of S3, where it is not AWS's for the region.
    pub s3_endpoint: Option<String>,
    /// The lock table.
    pub table: Option<String>,
    /// The endpoint of DynamoDB, where it is not AWS's for the region.
    pub dynamodb_endpoint: Option<String>,
    /// `terraform` or `tofu`.
    pub program: &'static str,
    /// The command that looks at this state, `tfguard verify` with its flags.
    pub verify: String,
}

impl Site {
    /// Of a state. `key`: with the workspace's prefix.
    #[must_use]
    pub fn new(backend: &S3Backend, key: &str, program: &'static str, verify: String) -> Self {
        Self {
            bucket: backend.bucket().to_owned(),
            key: key.to_owned(),
            region: backend.region().to_owned(),
            s3_endpoint: backend.s3_endpoint(),
            table: backend.table().map(str::to_owned),
            dynamodb_endpoint: backend.dynamodb_endpoint(),
            program,
            verify,
        }
    }

    fn aws(&self, service: &str, endpoint: Option<&String>, words: &[&str]) -> String {
        let mut command = vec!["aws", service];
        command.extend_from_slice(words);
        command.extend(["--region", &self.region]);
        command.extend(endpoint.into_iter().flat_map(|endpoint| ["--endpoint-url", endpoint]));
        shell_words::join(command)
    }

    fn s3api(&self, words: &[&str]) -> String {
        self.aws("s3api", self.s3_endpoint.as_ref(), words)
    }

    /// Downloads the present object.
    fn get(&self, file: &str) -> String {
        self.s3api(&["get-object", "--bucket", &self.bucket, "--key", &self.key, file])
    }

    /// Makes an earlier version the present one.
    fn restore(&self, version: &str) -> String {
        let source = format!("{}/{}?versionId={version}", self.bucket, encoded(&self.key));
        self.s3api(&["copy-object", "--bucket", &self.bucket, "--key", &self.key, "--copy-source", &source])
    }

    /// Removes the digest, if it is still this one.
    fn remove_digest(&self, table: &str, digest: &str) -> String {
        let key = serde_json::json!({"LockID": {"S": format!("{}/{}-md5", self.bucket, self.key)}}).to_string();
        let values = serde_json::json!({":digest": {"S": digest}}).to_string();
        self.aws(
            "dynamodb",
            self.dynamodb_endpoint.as_ref(),
            &[
                "delete-item",
                "--table-name",
                table,
                "--key",
                &key,
                "--condition-expression",
                "Digest = :digest",
                "--expression-attribute-values",
                &values,
            ],
        )
    }
}

/// The steps, each a sentence and perhaps a command. None where nothing needs a look.
#[must_use]
pub fn steps(seen: &Seen, judgement: &Judgement, expected: &Expected, site: &Site) -> Vec<String> {
    let mut steps = Vec::new();
    let Site { program, verify, .. } = site;
    let broken = judgement
        .findings
        .iter()
        .find(|finding| !matches!(finding, Finding::DigestDiffers { .. } | Finding::Errored { .. }));
    if let Some(finding) = broken {
        steps.push(format!("let nobody run {program} on this state until it is settled"));
        if seen.object.as_ref().is_some_and(|object| object.size > 0) {
            steps.push(format!("keep a copy of what is there: {}", site.get("before.tfstate")));
        }
        match finding {
            Finding::MissingButDigest { stored } => {
                steps.extend(site.table.as_ref().map(|table| {
                    format!(
                        "if it was removed on purpose, remove its digest too: {}",
                        site.remove_digest(table, stored)
                    )
                }));
                steps.push(format!("if not, {}", bring_back(seen, expected, site)));
            }
            Finding::OtherLineage { .. } | Finding::OlderSerial { .. } => {
                steps.push(format!("unless the change was meant, {}", bring_back(seen, expected, site)));
            }
            _ => steps.push(bring_back(seen, expected, site)),
        }
        steps.push(format!("look again, because the digest may have to follow: {verify}"));
    }
    for finding in &judgement.findings {
        match finding {
            Finding::DigestDiffers { .. } => {
                let object = seen.object.as_ref().map(describe).unwrap_or_default();
                steps.push(format!(
                    "see whether this is the state that you want ({object}): {}",
                    site.get("now.tfstate")
                ));
                let unless = "if so, let its digest be written. (Not where the store may still serve an older object: a \
                              cache or a replica may, AWS's S3 does not. Then wait, and look again.)";
                steps.push(format!("{unless} {verify} --fix-digest"));
            }
            Finding::Errored { path, relation, .. } => steps.push(about_errored(path, *relation, site)),
            _ => {}
        }
    }
    if !steps.is_empty() {
        steps.push(format!(
            "run `{program} plan`: what was being changed when a {program} died may be missing from the state"
        ));
    }
    steps
}

fn bring_back(seen: &Seen, expected: &Expected, site: &Site) -> String {
    if let Some(version) = way_back(seen, expected) {
        let Version { id, .. } = version;
        return format!(
            "bring back version {id}, the newest that is whole ({}): {}",
            describe_version(version),
            site.restore(id)
        );
    }
    match &seen.versions {
        Versions::NotAsked | Versions::NotKept => {
            "bring back a backup. The bucket keeps no versions: look for an errored.tfstate and for what `state pull` or a \
             backup kept"
                .to_owned()
        }
        Versions::Unknown(why) => format!("bring back an earlier version. They could not be looked at: {why}"),
        Versions::Listed(versions) => format!(
            "bring back an earlier version or a backup: of the newest {} versions none is whole and fits",
            versions.len()
        ),
    }
}

fn about_errored(path: &Path, relation: Relation, site: &Site) -> String {
    let (program, path) = (site.program, path.display());
    match relation {
        Relation::Newer => {
            format!(
                "upload what Terraform could not: {program} state push {path} (never with -force, it checks that it fits)"
            )
        }
        Relation::Same => format!("remove {path}"),
        Relation::Forked => format!(
            "compare {path} with what `{program} state pull` gives. `{program} state push {path}` goes through only if both \
             have the same content; do not use -force"
        ),
        Relation::Older => format!(
            "do not push {path}. Compare it with what `{program} state pull` gives: what only the file has exists and \
             belongs to no state, so import it or remove it; then remove the file"
        ),
        Relation::Foreign => {
            format!("do not push {path} here. Find the workspace or project of its lineage, or remove it")
        }
        Relation::NotWhole => {
            format!(
                "do not push {path}. Where Terraform could not write it, it showed the state in the job's output instead"
            )
        }
        Relation::NothingToCompare => {
            format!("keep {path} until the state itself is settled; then look again: {}", site.verify)
        }
    }
}

/// A state in a few words.
#[must_use]
pub fn describe(object: &StateObject) -> String {
    let mut words = Vec::new();
    match &object.content {
        Ok(content) => {
            words.extend(content.serial.map(|serial| format!("serial {serial}")));
            words.extend(content.lineage().map(|lineage| format!("lineage {lineage}")));
            words.extend(
                content.resources.map(|count| format!("{count} {}", if count == 1 { "resource" } else { "resources" })),
            );
            words.extend(content.terraform_version.as_ref().map(|version| format!("by version {version}")));
        }
        Err(flaw) => words.push(flaw.to_string()),
    }
    words.push(format!("{} bytes", object.size));
    words.extend(object.modified.map(|modified| format!("written {modified:.0}")));
    words.extend(object.version.as_ref().map(|version| format!("version {version}")));
    words.join(", ")
}

fn describe_version(version: &Version) -> String {
    let mut words = Vec::new();
    if let Some(Ok(content)) = &version.content {
        words.extend(content.serial.map(|serial| format!("serial {serial}")));
        words.extend(content.lineage().map(|lineage| format!("lineage {lineage}")));
    }
    words.extend(version.modified.map(|modified| format!("written {modified:.0}")));
    words.join(", ")
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
