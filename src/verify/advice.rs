//! What to do about a state, in the order in which a tired person should do it.

use std::ffi::OsStr;
use std::path::Path;

use serde::Serialize;

use super::finding::{Finding, Relation};
use super::judge::way_back;
use super::{Expected, Judgement, Seen, StateObject, Version, Versions};
use crate::backend::S3Backend;
use crate::lock::DIGEST_SUFFIX;
use crate::shell;

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
    /// The beginning of a command line by which it is run on this state. None if no directory is known that is set up for
    /// it.
    pub terraform: Option<String>,
    /// The command that looks at this state, `tfguard verify` with its flags.
    pub verify: String,
}

impl Site {
    /// Of a state. `key`: with the workspace's prefix.
    #[must_use]
    pub fn new(
        backend: &S3Backend,
        key: &str,
        program: &'static str,
        terraform: Option<String>,
        verify: String,
    ) -> Self {
        Self {
            bucket: backend.bucket().to_owned(),
            key: key.to_owned(),
            region: backend.region().to_owned(),
            s3_endpoint: backend.s3_endpoint(),
            table: backend.table().map(str::to_owned),
            dynamodb_endpoint: backend.dynamodb_endpoint(),
            program,
            terraform,
            verify,
        }
    }

    fn aws(&self, service: &str, endpoint: Option<&String>, words: &[&str]) -> String {
        let mut command = vec!["aws", service];
        command.extend_from_slice(words);
        command.extend(["--region", &self.region]);
        command.extend(endpoint.into_iter().flat_map(|endpoint| ["--endpoint-url", endpoint]));
        shell::join(command)
    }

    /// Something to do with Terraform. Never in a directory that is set up for another state.
    fn step(&self, say: impl Into<String>, arguments: &[&OsStr]) -> Step {
        let arguments = shell::join(arguments);
        match &self.terraform {
            Some(terraform) => Step::run(say, format!("{terraform} {arguments}")),
            None => Step::new(format!(
                "{}. In a directory that is initialised for this state, and in its workspace, that is `{} {arguments}`",
                say.into(),
                self.program
            )),
        }
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
        let key =
            serde_json::json!({"LockID": {"S": format!("{}/{}{DIGEST_SUFFIX}", self.bucket, self.key)}}).to_string();
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

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What, and under which condition.
    pub say: String,
    /// The command that does it.
    pub run: Option<String>,
}

impl Step {
    fn new(say: impl Into<String>) -> Self {
        Self { say: say.into(), run: None }
    }

    fn run(say: impl Into<String>, command: impl Into<String>) -> Self {
        Self { say: say.into(), run: Some(command.into()) }
    }
}

/// What to do. None where nothing needs a look.
#[must_use]
pub fn steps(seen: &Seen, judgement: &Judgement, expected: &Expected, site: &Site) -> Vec<Step> {
    let mut steps = Vec::new();
    let Site { program, verify, .. } = site;
    if let Some(finding) = judgement.findings.iter().find(|finding| finding.is_about_content()) {
        steps.push(Step::new(format!("let nobody run {program} on this state until it is settled")));
        if seen.object.as_ref().is_some_and(|object| object.size > 0) {
            steps.push(Step::run("keep a copy of what is there", site.get("before.tfstate")));
        }
        let condition = match finding {
            Finding::MissingButDigest { stored } => {
                steps.extend(site.table.as_ref().map(|table| {
                    let remove = site.remove_digest(table, stored);
                    Step::run("if the state was removed on purpose, remove its digest too", remove)
                }));
                "if not, "
            }
            Finding::OtherLineage { .. } | Finding::OlderSerial { .. } => "unless the change was meant, ",
            _ => "",
        };
        steps.push(bring_back(condition, seen, expected, site));
        steps.push(Step::run("look again: the digest may have to follow", verify));
    }
    for finding in &judgement.findings {
        match finding {
            Finding::DigestDiffers { of, .. } => {
                if of.is_none() && matches!(seen.versions, Versions::Listed(_)) {
                    steps.push(Step::new(
                        "find out where the digest comes from: no earlier version that was looked at has it, so it may be \
                         that of a newer state, which was lost or went elsewhere",
                    ));
                }
                steps.push(Step::run(
                    "see whether the state that is there is the one you want",
                    site.get("now.tfstate"),
                ));
                steps.push(Step::run(
                    "if it is, let its digest be written. Not where the store may still serve an older object (a cache or \
                     a replica may, AWS's S3 does not): then wait, and look again",
                    format!("{verify} --fix-digest"),
                ));
            }
            Finding::Errored { path, relation, .. } => steps.push(about_errored(path, *relation, site)),
            _ => {}
        }
    }
    if !steps.is_empty() {
        let say =
            format!("see what {program} would do: what was being changed when one died may be missing from the state");
        steps.push(site.step(say, &["plan".as_ref()]));
    }
    steps
}

fn bring_back(condition: &str, seen: &Seen, expected: &Expected, site: &Site) -> Step {
    if let Some(version) = way_back(seen, expected) {
        let Version { id, .. } = version;
        let described = describe_version(version);
        let say = format!("{condition}bring back version {id}, the newest that is whole and fits ({described})");
        return Step::run(say, site.restore(id));
    }
    let why = match &seen.versions {
        Versions::NotAsked | Versions::NotKept => {
            "The bucket keeps no versions: look for an errored.tfstate, and for what a backup or `state pull` kept"
                .to_owned()
        }
        Versions::Unknown(why) => format!("They could not be looked at: {why}"),
        Versions::Listed(versions) => {
            format!("Of the newest ({}) none that was read is whole and fits", versions.len())
        }
    };
    Step::new(format!("{condition}bring back an earlier version or a backup. {why}"))
}

fn about_errored(path: &Path, relation: Relation, site: &Site) -> Step {
    let program = site.program;
    let file = path.display().to_string();
    let push = ["state".as_ref(), "push".as_ref(), path.as_os_str()];
    let pull = ["state".as_ref(), "pull".as_ref()];
    match relation {
        Relation::Newer => site.step(
            format!(
                "upload what {program} could not. It checks that it fits: never use -force, and then remove the file"
            ),
            &push,
        ),
        Relation::Overtaken => site.step(
            format!(
                "do not push {file}, although it would not be refused. Compare it with what is there: what only the file \
                 has exists and is in no state, so import it or remove it; then remove the file"
            ),
            &pull,
        ),
        Relation::Same => Step::new(format!("remove {file}")),
        Relation::Forked => site.step(
            format!(
                "compare {file} with what `{} state pull` gives, then try to upload it, which goes through only if both \
                 have the same content: never use -force",
                site.terraform.as_deref().unwrap_or(program)
            ),
            &push,
        ),
        Relation::Older => site.step(
            format!(
                "do not push {file}: it would be refused. Compare it with what is there: what only the file has exists and \
                 is in no state, so import it or remove it; then remove the file"
            ),
            &pull,
        ),
        Relation::Foreign => Step::new(format!(
            "do not push {file} here. Find the workspace or the project of its lineage, or remove it"
        )),
        Relation::NotWhole => Step::new(format!(
            "do not push {file}. What {program} cannot write into a file it shows: look into the output of that run"
        )),
        Relation::NothingToCompare => {
            Step::run(format!("keep {file} until the state itself can be read; then look again"), &site.verify)
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
