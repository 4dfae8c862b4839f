//! Which backend a working directory was initialised with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::aws::{BackendError, PlanFlaw, S3Backend, Surroundings};
use crate::model::StartingBackend;
use crate::terraform::arguments::{plan_file, subcommand};
use crate::terraform::directory::{InitRecord, data_dir, without_content, workspace};
use crate::terraform::planfile;
use crate::text::without_user;

/// The format of the file in which Terraform records a backend; all versions of Terraform and OpenTofu write this one.
const VERSION: u64 = 3;

/// The backend of a working directory.
#[derive(Debug)]
pub enum Backend {
    /// None is recorded: the directory is not initialised, or has local state without a backend block.
    None,
    /// Local state. Its lock dies with the process.
    Local,
    /// The S3 backend.
    S3(Box<S3Backend>),
    /// Any other.
    Other {
        /// Its type, for instance `gcs`.
        kind: String,
        /// Those of its settings that tell where the state and its lock are. No secrets.
        place: BTreeMap<String, String>,
    },
}

/// What tells the place of a state on other backends (`internal/backend/remote-state/*/backend.go`).
const PLACE: [&str; 11] = [
    "bucket",
    "container_name",
    "host",
    "key",
    "lock_address",
    "namespace",
    "path",
    "prefix",
    "secret_suffix",
    "storage_account_name",
    "unlock_address",
];

/// Reads the backend of a working directory: `terraform.tfstate` in Terraform's data directory, which `init` writes
/// from the backend block and all `-backend-config` values, merged with the environment.
///
/// `apply <plan file>` does not look at it: see `read_planned_backend`.
///
/// # Errors
/// When there is a file and it cannot be understood. The text shows no content of the file, which can hold keys.
pub fn read_backend(surroundings: &Surroundings) -> Result<Backend, BackendError> {
    let path = data_dir(surroundings).join("terraform.tfstate");
    let Some(record) = InitRecord::read(&path)? else { return Ok(Backend::None) };
    if record.version != VERSION {
        let version = record.version.as_u64().map_or_else(|| "unknown".to_owned(), |version| version.to_string());
        return Err(BackendError::UnknownVersion { path, version });
    }
    let Some(backend) = record.backend else {
        return Ok(match record.state_store {
            Some(_) => Backend::Other { kind: "state_store".to_owned(), place: BTreeMap::new() },
            None => Backend::None,
        });
    };
    let kind = backend.kind.as_deref().unwrap_or_default();
    let torn = |reason: String| BackendError::Torn { path: path.clone(), reason };
    known(kind, backend.config.unwrap_or(Value::Null), surroundings, torn)
}

/// Reads the backend of a plan file, which is all that an `apply` of it uses (`BackendForLocalPlan` in Terraform's
/// `internal/command/meta_backend.go`): what the directory was initialised with does not count there, not even where
/// it has the same state.
///
/// # Errors
/// When the plan does not tell its backend. The text shows no content of the file, which can hold keys.
pub fn read_planned_backend(path: &Path, surroundings: &Surroundings) -> Result<Backend, BackendError> {
    let unusable = |flaw| BackendError::PlanFile { path: path.to_owned(), flaw };
    let planned = planfile::read(path).map_err(unusable)?;
    known(&planned.kind, planned.config, surroundings, |reason| unusable(PlanFlaw::Damaged(reason)))
}

/// The backend of a plan file, or else of its directory. That of an encrypted plan is most likely its directory's, which
/// comes with the error that says so.
///
/// # Errors
/// Those of [`read_planned_backend`] and [`read_backend`].
pub fn read_likely_backend(
    plan: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<(Backend, Option<BackendError>), BackendError> {
    match plan.map(|plan| read_planned_backend(plan, surroundings)) {
        None => Ok((read_backend(surroundings)?, None)),
        Some(Err(error @ BackendError::PlanFile { flaw: PlanFlaw::Encrypted, .. })) => match read_backend(surroundings)
        {
            Ok(backend) => Ok((backend, Some(error))),
            Err(_) => Err(error),
        },
        Some(planned) => Ok((planned?, None)),
    }
}

/// The backend that a command works with, started with `arguments` (without the program), and the plan file that has it, if
/// it applies one.
///
/// # Errors
/// Those of [`read_planned_backend`] and [`read_backend`].
pub fn read_backend_of(
    arguments: &[OsString],
    surroundings: &Surroundings,
) -> (Option<PathBuf>, Result<Backend, BackendError>) {
    let planned = plan_file(arguments, surroundings);
    let found = match &planned {
        Some(plan) => read_planned_backend(plan, surroundings),
        None => read_backend(surroundings),
    };
    (planned, found)
}

/// What a Terraform has for its directory as it starts; also a command that starts some, as far as that is known.
pub fn starting_backend(command: &[OsString], surroundings: &Surroundings) -> StartingBackend {
    let args = command.get(1..).unwrap_or_default();
    let is_replaced = subcommand(command).as_deref() == Some("init");
    // If it is not that of an encrypted plan, the lock is not found.
    let Ok((Backend::S3(backend), _)) = read_likely_backend(plan_file(args, surroundings).as_deref(), surroundings)
    else {
        return StartingBackend { is_replaced, ..StartingBackend::default() };
    };
    let state = format!("{}/{}", backend.bucket(), backend.state_key(&workspace(surroundings)));
    StartingBackend { digest: Some(backend.digest()), state: Some(state), is_replaced }
}

/// A backend by its type and settings.
fn known(
    kind: &str,
    config: Value,
    surroundings: &Surroundings,
    torn: impl Fn(String) -> BackendError,
) -> Result<Backend, BackendError> {
    match kind {
        "" => Ok(Backend::None),
        "local" => Ok(Backend::Local),
        "s3" => {
            let digests = digests(&config);
            let attributes = serde_json::from_value(config).map_err(|error| torn(without_content(&error)))?;
            let mut backend = S3Backend::new(attributes, surroundings.clone())?;
            backend.digests = digests;
            Ok(Backend::S3(Box::new(backend)))
        }
        kind => {
            // `http` takes from the environment what its block does not set; `init` does not record it.
            let variable = |name: &str| match kind {
                "http" => surroundings.env.text(&format!("TF_HTTP_{}", name.to_ascii_uppercase())),
                _ => None,
            };
            let setting = |name: &&str| {
                let value = config.get(name).and_then(Value::as_str).or_else(|| variable(name))?;
                Some(((*name).to_owned(), without_user(value.to_owned())))
            };
            Ok(Backend::Other { kind: kind.to_owned(), place: PLACE.iter().filter_map(setting).collect() })
        }
    }
}

/// Settings that are secrets.
const SECRETS: [&str; 3] = ["secret_key", "sse_customer_key", "token"];

/// A digest of each setting that is set, and no secret.
fn digests(config: &Value) -> BTreeMap<String, String> {
    let settings = config.as_object().into_iter().flatten();
    // A digest of what somebody chose can be guessed.
    let settings = settings.filter(|(name, value)| !value.is_null() && !SECRETS.contains(&name.as_str()));
    let digest = |(name, value): (&String, &Value)| {
        let digest = Sha256::digest(format!("{name}={value}"));
        (name.clone(), digest[..8].iter().map(|byte| format!("{byte:02x}")).collect())
    };
    settings.map(digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Environment;
    fn read(content: &str) -> Result<Backend, BackendError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".terraform")).unwrap();
        std::fs::write(dir.path().join(".terraform/terraform.tfstate"), content).unwrap();
        read_backend(&Surroundings { dir: dir.path().to_owned(), env: Environment::default() })
    }

    const S3: &str = r#"{"bucket":"b","key":"k","region":"eu-west-1","secret_key":"hush"}"#;

    #[test]
    fn every_format_of_every_version_is_read() {
        for record in [
            format!(r#"{{"version":3,"backend":{{"type":"s3","config":{S3},"hash":1}}}}"#),
            format!(r#"{{"version":3,"terraform_version":"1.13.5","backend":{{"type":"s3","config":{S3},"hash":1}}}}"#),
            // Until 1.8 the record was a whole, empty, state.
            format!(
                r#"{{"version":3,"serial":2,"lineage":"x","backend":{{"type":"s3","config":{S3},"hash":1}},"modules":[{{"path":["root"],"outputs":{{}},"resources":{{}},"depends_on":[]}}]}}"#
            ),
        ] {
            let Backend::S3(backend) = read(&record).unwrap() else { panic!("{record}") };
            assert!(backend.stores_state("b", "k"));
            assert!(!format!("{backend:?}").contains("hush"));
        }
    }

    #[test]
    fn other_backends_are_told_apart() {
        assert!(matches!(read(r#"{"version":3}"#).unwrap(), Backend::None));
        assert!(matches!(read(r#"{"version":3,"backend":null}"#).unwrap(), Backend::None));
        let local = r#"{"version":3,"backend":{"type":"local","config":{"path":null},"hash":1}}"#;
        assert!(matches!(read(local).unwrap(), Backend::Local));
        let gcs = r#"{"version":3,"backend":{"type":"gcs","config":{"bucket":"b"},"hash":1}}"#;
        assert!(matches!(read(gcs).unwrap(), Backend::Other { kind, .. } if kind == "gcs"));
        let http = r#"{"version":3,"backend":{"type":"http","config":{"lock_address":"https://u:hush@h/l"},"hash":1}}"#;
        let Backend::Other { kind, place } = read(http).unwrap() else { panic!() };
        assert_eq!((kind.as_str(), place["lock_address"].as_str(), place.len()), ("http", "https://h/l", 1));
        let store = r#"{"version":3,"state_store":{"type":"x"}}"#;
        assert!(matches!(read(store).unwrap(), Backend::Other { kind, .. } if kind == "state_store"));
    }

    #[test]
    fn a_torn_or_unknown_record_is_an_error_that_shows_nothing_of_it() {
        let whole = format!(r#"{{"version":3,"backend":{{"type":"s3","config":{S3},"hash":1}}}}"#);
        for end in 0..whole.len() {
            let error = read(&whole[..end]).unwrap_err();
            assert!(matches!(error, BackendError::Torn { .. }), "{end}: {error}");
            assert!(!error.to_string().contains("hush"));
        }
        let wrong_type = whole.replace(r#""bucket":"b""#, r#""use_lockfile":"hush""#);
        let error = read(&wrong_type).unwrap_err();
        assert!(matches!(error, BackendError::Torn { .. }) && !error.to_string().contains("hush"), "{error}");
        let error = read(&whole.replace(r#""version":3"#, r#""version":4"#)).unwrap_err();
        assert!(matches!(error, BackendError::UnknownVersion { version, .. } if version == "4"));
    }

    /// Guards against a supervisor that waits for ever, in the midst of a stop, for who writes to a pipe.
    #[test]
    fn what_is_no_file_of_a_possible_size_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join(".terraform");
        std::fs::create_dir(&data).unwrap();
        let surroundings = Surroundings { dir: dir.path().to_owned(), env: Environment::default() };
        let makes: [fn(&Path); 4] = [
            |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
            |path| std::fs::create_dir(path).unwrap(),
            |path| std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        ];
        for make in makes {
            for name in ["terraform.tfstate", "environment"] {
                let path = data.join(name);
                make(&path);
                match name {
                    "environment" => assert_eq!(crate::terraform::directory::workspace(&surroundings), "default"),
                    _ => {
                        let error = read_backend(&surroundings).unwrap_err();
                        assert!(matches!(error, BackendError::Unreadable { .. }), "{error}");
                        assert!(InitRecord::of(&surroundings).is_none());
                    }
                }
                std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path)).unwrap();
            }
        }
    }

    #[test]
    fn a_directory_without_a_record_has_no_backend() {
        let dir = tempfile::tempdir().unwrap();
        let at = |dir: PathBuf, env: &[(&str, &str)]| {
            read_backend(&Surroundings { dir, env: env.iter().copied().collect() }).unwrap()
        };
        assert!(matches!(at(dir.path().to_owned(), &[]), Backend::None));
        assert!(matches!(at(dir.path().join("missing"), &[]), Backend::None));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(at(dir.path().to_owned(), &[("TF_DATA_DIR", "file")]), Backend::None));
    }

    #[test]
    fn chdir_is_relative_to_where_the_command_starts() {
        let of = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            Surroundings::of_command(Path::new("/srv"), &args, Environment::default()).dir
        };
        assert_eq!(of(&["apply"]), Path::new("/srv"));
        assert_eq!(of(&["-chdir=a/b", "apply"]), Path::new("/srv/a/b"));
        assert_eq!(of(&["-chdir=/else", "apply"]), Path::new("/else"));
    }
}
