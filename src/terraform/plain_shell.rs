//! What a command has to be told that a person types in a plain shell, which has no variables of the run.

use crate::aws::{Attributes, GivenSettings, S3Backend, Surroundings, set};
use crate::terraform::backend::{Backend, read_backend};
use crate::terraform::directory::{data_dir, workspace};
use crate::text::quote;

/// Where Terraform keeps its own data, if that is not in its directory.
const DATA_DIR: &str = "TF_DATA_DIR";
const WORKSPACE: &str = "TF_WORKSPACE";
const DEFAULT: &str = "default";

impl Surroundings {
    fn without(&self, variables: &[&str]) -> Self {
        let mut plain = self.clone();
        plain.env.remove(variables.iter().copied());
        plain
    }

    /// The assignment that goes before a command where Terraform's own data is not in its directory.
    #[must_use]
    pub fn data_dir_assignment(&self) -> Option<String> {
        self.env.has(DATA_DIR).then(|| format!("{DATA_DIR}={}", quote(data_dir(self))))
    }

    /// Whether Terraform, or tfguard, has to be told the workspace: in a plain shell or in the one that tfguard has.
    #[must_use]
    pub fn must_name(&self, named: &str) -> bool {
        // Another one than the selected one may be selected by the time somebody runs it.
        named != DEFAULT || [self.clone(), self.without(&[WORKSPACE])].iter().any(|shell| workspace(shell) != DEFAULT)
    }

    /// The beginning of a command line by which Terraform has the settings that it has here, in a workspace. `chdir`: also
    /// where it is typed in another directory.
    #[must_use]
    pub fn terraform(&self, program: &str, workspace: &str, chdir: bool) -> String {
        let mut words: Vec<_> = self.data_dir_assignment().into_iter().collect();
        if self.must_name(workspace) {
            words.push(format!("{WORKSPACE}={}", quote(workspace)));
        }
        words.push(quote(program));
        if chdir {
            words.push(format!("-chdir={}", quote(&self.dir)));
        }
        words.join(" ")
    }
}

impl S3Backend {
    /// The flags by which a command of tfguard finds a state wherever it is typed. Empty where the block itself has
    /// credentials, or a role: a profile can be named by a flag, these cannot.
    #[must_use]
    pub fn flags_anywhere(&self, state_key: &str) -> Vec<String> {
        let Attributes { access_key, profile, assume_role_with_web_identity, .. } = &self.attributes;
        let has_role = !(assume_role_with_web_identity.is_empty() && self.attributes.roles().is_empty());
        if set(access_key).is_some() || has_role {
            return Vec::new();
        }
        let mut given = GivenSettings::of(self, state_key);
        given.access.profile = set(profile).map(str::to_owned);
        given.flags()
    }

    /// The flags by which a command of tfguard finds a state, typed in this backend's directory: none, the workspace, or,
    /// where the directory does not tell by itself (`planned`: a plan file had the settings), the whole place.
    #[must_use]
    pub fn flags_of(&self, state_key: &str, planned: bool) -> Vec<String> {
        let shell = self.surroundings.without(&[DATA_DIR, WORKSPACE]);
        let is_same = |found: &S3Backend| {
            found.file_place(state_key) == self.file_place(state_key)
                && found.table_place(state_key) == self.table_place(state_key)
        };
        let found = match read_backend(&shell) {
            Ok(Backend::S3(found)) if !planned && is_same(&found) => {
                found.workspace_of(state_key).map(|workspace| match shell.must_name(workspace) {
                    true => vec!["--workspace".to_owned(), workspace.to_owned()],
                    false => Vec::new(),
                })
            }
            _ => None,
        };
        found.unwrap_or_else(|| GivenSettings::of(self, state_key).flags())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const RECORD: &str = r#"{"version":3,"backend":{"type":"s3","hash":1,"config":
        {"bucket":"b","key":"k","region":"r","dynamodb_table":"t","use_path_style":true}}}"#;

    fn surroundings(dir: &Path, env: &[(&str, &str)]) -> Surroundings {
        Surroundings { dir: dir.to_owned(), env: env.iter().copied().collect() }
    }

    fn init(data: &Path, record: &str) {
        std::fs::create_dir_all(data).unwrap();
        std::fs::write(data.join("terraform.tfstate"), record).unwrap();
    }

    fn flags(dir: &Path, env: &[(&str, &str)], key: &str, planned: bool) -> String {
        let Ok(Backend::S3(backend)) = read_backend(&surroundings(dir, env)) else { panic!("no backend") };
        backend.flags_of(key, planned).join(" ")
    }

    #[test]
    fn a_state_is_named_as_far_as_the_directory_does_not_tell_it() {
        let whole = "--bucket b --key k --region r --table t --path-style";
        let dir = tempfile::tempdir().unwrap();
        let (dir, data) = (dir.path(), dir.path().join("elsewhere"));
        let elsewhere = [("TF_DATA_DIR", "elsewhere")];
        init(&data, RECORD);
        assert_eq!(flags(dir, &elsewhere, "k", false), whole, "the directory itself is not initialised");
        init(&dir.join(".terraform"), &RECORD.replace("\"t\"", "\"other\""));
        assert_eq!(flags(dir, &elsewhere, "k", false), whole, "it has another backend");
        init(&dir.join(".terraform"), RECORD);
        assert_eq!(flags(dir, &elsewhere, "k", false), "");
        assert_eq!(flags(dir, &[], "k", true), whole, "the plan file is another place");
        assert_eq!(flags(dir, &[("TF_WORKSPACE", "blue")], "env:/blue/k", false), "--workspace blue");
        std::fs::write(dir.join(".terraform/environment"), "blue").unwrap();
        assert_eq!(flags(dir, &[("TF_WORKSPACE", "default")], "k", false), "--workspace default");
        assert_eq!(flags(dir, &[], "env:/blue/k", false), "--workspace blue");
    }

    #[test]
    fn terraform_is_told_the_same() {
        let (plain, odd) = (Path::new("/infra"), Path::new("/it's $x"));
        let of = |dir, env: &[(&str, &str)], named, chdir| surroundings(dir, env).terraform("tofu", named, chdir);
        assert_eq!(of(plain, &[], "default", false), "tofu");
        assert_eq!(of(plain, &[], "default", true), "tofu -chdir=/infra");
        assert_eq!(of(plain, &[("TF_WORKSPACE", "x")], "default", false), "TF_WORKSPACE=default tofu");
        assert_eq!(of(plain, &[], "blue", true), "TF_WORKSPACE=blue tofu -chdir=/infra");
        assert_eq!(of(odd, &[], "default", true), r"tofu -chdir='/it'\''s $x'");
        let data = [("TF_DATA_DIR", "d d")];
        assert_eq!(of(plain, &data, "blue", false), "TF_DATA_DIR='/infra/d d' TF_WORKSPACE=blue tofu");
    }
}
