//! Which lock another Terraform on this machine would ask for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use crate::aws::Surroundings;
use crate::model::Environment;
use crate::terraform;
use crate::terraform::{Backend, Purpose};

/// A state's lock, as far as two can be compared without asking anybody.
///
/// A lock that no log tells of is judged by what it says itself ([`crate::model::Grade::Item`]), and that fits every
/// run of the same user, host, version and command. Where the dead one had not said that it has its lock, the lock may
/// be of another that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contested {
    /// On S3.
    S3 { bucket: String, key: String },
    /// On any other backend.
    Other {
        kind: String,
        /// The settings that tell where the state is.
        place: BTreeMap<String, String>,
        workspace: String,
    },
}

impl Contested {
    /// Whether a Terraform that was started so, program first, may ask for this lock, with this `Operation`. What cannot
    /// be read may.
    pub fn may_be_of(&self, dir: &Path, command: &[OsString], env: Environment, operation: &str) -> bool {
        let Some(purpose) = Purpose::read(command, &env) else { return false };
        if !purpose.takes(operation) {
            return false;
        }
        if purpose.moves {
            return true;
        }
        let arguments = command.get(1..).unwrap_or_default();
        let surroundings = Surroundings::of_command(dir, arguments, env);
        let (planned, found) = terraform::read_backend_of(arguments, &surroundings);
        let workspace = purpose.workspace.clone().unwrap_or_else(|| terraform::workspace(&surroundings));
        if !purpose.locks(&workspace) {
            return false;
        }
        // A plan file has the workspace it was made for, which is not read from it here.
        let selected = planned.is_none().then_some(workspace);
        match found {
            Err(_) => true,
            Ok(Backend::None | Backend::Local) => false,
            Ok(Backend::S3(s3)) => {
                let Self::S3 { bucket, key } = self else { return false };
                bucket == s3.bucket()
                    && match selected {
                        Some(workspace) => *key == s3.state_key(&workspace),
                        None => key.ends_with(&s3.state_key("default")),
                    }
            }
            Ok(Backend::Other { kind: theirs, place: their_place }) => {
                let Self::Other { kind, place, workspace } = self else { return false };
                let differs = |(name, value): (&String, &String)| {
                    their_place.get(name).is_some_and(|other| other.trim_matches('/') != value.trim_matches('/'))
                };
                *kind == theirs && selected.is_none_or(|selected| *workspace == selected) && !place.iter().any(differs)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_ask_for_a_lock_is_told_by_backend_and_command() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".terraform")).unwrap();
        let record = |backend: serde_json::Value| {
            let record = serde_json::json!({ "version": 3, "backend": backend }).to_string();
            std::fs::write(dir.path().join(".terraform/terraform.tfstate"), record).unwrap();
        };
        let asks = |contested: &Contested, words: &str, workspace: &str| {
            let command: Vec<OsString> = words.split(' ').map(OsString::from).collect();
            let own = Purpose::read(&command, &Environment::default())
                .and_then(|purpose| purpose.operations.first().copied());
            let env = [("TF_WORKSPACE", workspace)].into_iter().collect();
            contested.may_be_of(dir.path(), &command, env, own.unwrap_or("migration source state"))
        };
        let s3 = |key: &str| Contested::S3 { bucket: "b".into(), key: key.into() };
        record(serde_json::json!({"type": "s3", "config": {"bucket": "b", "key": "k", "region": "eu-west-1"}}));
        assert!(asks(&s3("k"), "terraform apply", "default") && asks(&s3("env:/w/k"), "terraform plan", "w"));
        assert!(!asks(&s3("other"), "terraform apply", "default") && !asks(&s3("k"), "terraform apply", "w"));
        assert!(
            !asks(&s3("k"), "terraform output", "default") && !asks(&s3("k"), "terraform plan -lock=false", "default")
        );
        let other = |kind: &str, prefix: &str| Contested::Other {
            kind: kind.into(),
            place: BTreeMap::from([("bucket".into(), "b".into()), ("prefix".into(), prefix.into())]),
            workspace: "default".into(),
        };
        assert!(!asks(&other("gcs", "p"), "terraform apply", "default"));
        let moves = |operation: &str| {
            let command = ["terraform", "init", "-migrate-state"].map(OsString::from);
            s3("other").may_be_of(dir.path(), &command, Environment::default(), operation)
        };
        assert!(moves("migration source state") && !moves("OperationTypeApply"), "no init holds a lock of an apply");
        // Where it is not known, it may.
        assert!(asks(&s3("other"), "terraform apply plan.out", "default"));
        assert!(asks(&s3("other"), "terraform init -migrate-state", "default"));

        record(serde_json::json!({"type": "gcs", "config": {"bucket": "b", "prefix": "p/"}}));
        assert!(asks(&other("gcs", "p"), "terraform state mv a b", "default"));
        assert!(!asks(&other("gcs", "q"), "terraform apply", "default"));
        assert!(!asks(&other("gcs", "p"), "terraform apply", "w"));
        assert!(!asks(&other("oss", "p"), "terraform apply", "default"));
        std::fs::write(dir.path().join(".terraform/terraform.tfstate"), "{").unwrap();
        assert!(asks(&s3("other"), "terraform apply", "default"));
    }
}
