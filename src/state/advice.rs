//! What to do about each finding: one sentence and, where there is one, one command.

use std::path::Path;

use serde::Serialize;

use crate::aws::S3Backend;
use crate::model::{FoundLock, Relation, StateFinding};
use crate::state::judge::is_at_odds;
use crate::state::seen::{Held, Seen, StateObject, StoredDigest};
use crate::store::DIGEST_SUFFIX;
use crate::text;
use crate::text::without_user;

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
    /// The command that unlocks it, `tfguard unlock` with its flags, without the ID.
    pub unlock: String,
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
pub fn step(finding: &StateFinding, seen: &Seen, site: &Site) -> Step {
    let program = site.program;
    let none = seen.no_earlier.as_deref().unwrap_or("no earlier version was looked for");
    let found = seen.earlier.as_ref().and_then(|found| Some((describe(found), site.restore(found.version.as_ref()?))));
    let (say, run) = match (finding, found) {
        (StateFinding::DigestDiffers { of, .. }, _) => {
            let doubt = match (of, &seen.no_earlier) {
                (None, Some(none)) => {
                    format!("See where the digest comes from, since it may be of a newer state that was lost: {none}. ")
                }
                _ => String::new(),
            };
            let say = "If the state that is there is the one you want, let its digest be written. If the store may \
                       still serve an older object, as a cache may (AWS's S3 doesn't), wait and look again instead";
            (doubt + say, Some(format!("{} --fix-digest", site.verify)))
        }
        (StateFinding::Errored { path, relation, .. }, _) => return site.errored(path, *relation, seen),
        (StateFinding::MissingButDigest { stored }, None) => {
            let say =
                format!("if it was removed on purpose, remove its digest too; if not, bring back a backup: {none}");
            (say, site.backend.table().map(|table| site.remove_digest(table, stored)))
        }
        (_, None) => (format!("let nobody run {program} until a backup is brought back: {none}"), None),
        (finding, Some((found, restore))) => {
            let unless = match finding {
                StateFinding::Broken { .. } | StateFinding::Empty => "",
                StateFinding::MissingButDigest { .. } => {
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
        text::join(command)
    }

    /// Makes an earlier version the present one. The AWS CLI encodes the source by itself.
    fn restore(&self, version: &str) -> String {
        let (bucket, key) = (self.backend.bucket(), self.key);
        let source = format!("{bucket}/{key}?versionId={version}");
        let words = ["copy-object", "--bucket", bucket, "--key", key, "--copy-source", &source];
        self.aws("s3api", self.backend.s3_endpoint().map(without_user), &words)
    }

    /// Removes the digest, if it is still this one, and never a lock.
    fn remove_digest(&self, table: &str, digest: &str) -> String {
        let lock_id = format!("{}/{}{DIGEST_SUFFIX}", self.backend.bucket(), self.key);
        let key = serde_json::json!({"LockID": {"S": lock_id}}).to_string();
        let values = serde_json::json!({":digest": {"S": digest}}).to_string();
        let condition = "Digest = :digest AND attribute_not_exists(Info)";
        let words = ["delete-item", "--table-name", table, "--key", &key, "--condition-expression", condition];
        let words = [&words[..], &["--expression-attribute-values", &values]].concat();
        self.aws("dynamodb", self.backend.dynamodb_endpoint().map(without_user), &words)
    }

    /// What Terraform could not upload is pushed only in a directory that is set up for this state.
    ///
    /// OpenTofu decrypts a state where a configuration has it, and takes none that is encrypted for `state push`: so an
    /// encrypted file becomes the local state of a directory that has nothing but the encryption.
    fn errored(&self, path: &Path, relation: Relation, seen: &Seen) -> Step {
        let (program, name) = (self.program, path.display());
        let terraform = self.terraform.as_deref().unwrap_or(program);
        let content = seen.errored.as_ref().and_then(|errored| errored.state.content.as_ref().ok());
        let encrypted = content.is_some_and(|content| content.encrypted);
        let quoted = text::quote(path);
        let file = if encrypted { "\"$PWD\"/decrypt/plain" } else { &quoted };
        // What is encrypted cannot be compared, so it would be taken for overtaken once it is pushed.
        let put_away = if encrypted { format!(" && mv {quoted} decrypt/") } else { String::new() };
        let (mut say, mut run) = match (relation, &seen.lock) {
            (Relation::Newer, Some(Held { lock: FoundLock::Held(info), dead: true })) => {
                let id = if info.id.starts_with('-') { text::join(["--", &info.id]) } else { text::quote(&info.id) };
                (
                    format!(
                        "upload {name} under the lock that a dead run left, which keeps others out until then, and unlock"
                    ),
                    format!("{terraform} state push -lock=false {file}{put_away} && {} {id}", self.unlock),
                )
            }
            (Relation::Newer, None) => (
                format!("upload {name} ({program} checks that it fits: never use -force)"),
                format!("{terraform} state push {file}{put_away}"),
            ),
            (Relation::Newer, Some(lock)) => {
                let say =
                    format!("look again when nobody has the lock: {lock} has it. `tfguard inspect` tells whose it is");
                return Step { say, run: Some(self.verify.clone()) };
            }
            (Relation::Overtaken | Relation::Foreign, _) => {
                let elsewhere = if relation == Relation::Foreign { ", unless it is of another workspace" } else { "" };
                let say = format!(
                    "don't push {name} here. Compare the two{elsewhere}: what only the file has exists and is in no state, \
                     so import it or remove it. Then move the file away"
                );
                (say, format!("{terraform} state pull | diff - {file}"))
            }
            (Relation::NotWhole, _) => {
                let say = format!(
                    "don't push {name}. What {program} cannot write into a file it prints: see that run's output"
                );
                return Step { say, run: None };
            }
            (Relation::NothingToCompare, _) => {
                let say = format!("keep {name} until both can be read; then look again");
                return Step { say, run: Some(self.verify.clone()) };
            }
        };
        if encrypted {
            say += ". It is encrypted, so first make a directory `decrypt`, and in it a file with a `terraform` block that \
                    has nothing but your `encryption` block (no file, if TF_ENCRYPTION has it). It will hold the state in \
                    clear: take care of it afterwards";
            let tofu = "TF_WORKSPACE= TF_DATA_DIR= TF_CLI_ARGS_init= tofu -chdir=decrypt";
            run = format!(
                "cp {quoted} decrypt/terraform.tfstate && {tofu} init && (umask 077; {tofu} state pull > decrypt/plain) \
                 && {run}"
            );
        }
        if self.terraform.is_some() {
            return Step { say, run: Some(run) };
        }
        say += ". In a directory that is initialised for this state, and in its workspace, that is ";
        Step { say: format!("{say}`{run}`"), run: None }
    }
}

/// A state in a few words.
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

/// What the lock table says of a state, in a few words. None where no table is named.
pub fn describe_digest(object: Option<&StateObject>, digest: &StoredDigest) -> Option<String> {
    Some(match digest {
        StoredDigest::NotKept => return None,
        StoredDigest::Absent => "none, and Terraform works without one".to_owned(),
        StoredDigest::Malformed => "not an MD5, so Terraform ignores it".to_owned(),
        StoredDigest::Md5(md5) if is_at_odds(object, Some(md5)) => format!("{md5} is not the state's"),
        StoredDigest::Md5(_) => "fits".to_owned(),
    })
}
