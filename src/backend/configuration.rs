//! The backend that a directory's configuration asks for: what `init -migrate-state` moves a state to. It holds a lock
//! there while `terraform.tfstate` in Terraform's data directory still has the settings of before.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use hcl::eval::{Context, Evaluate as _};
use serde_json::{Map, Value};

use super::args::backend_config;
use super::discover::known;
use super::{Backend, BackendError, Surroundings};

/// What Terraform reads, and OpenTofu beside it.
const SUFFIXES: [&str; 4] = [".tf", ".tf.json", ".tofu", ".tofu.json"];
const LARGEST: u64 = 16 * 1024 * 1024;
/// The attributes whose text on the command line is a boolean.
const BOOLEANS: [&str; 8] = [
    "encrypt",
    "force_path_style",
    "insecure",
    "skip_metadata_api_check",
    "use_dualstack_endpoint",
    "use_fips_endpoint",
    "use_lockfile",
    "use_path_style",
];
/// The attributes whose text on the command line is an expression (`configValueFromCLI` in Terraform's
/// `internal/command/meta_config.go`).
const EXPRESSIONS: [&str; 9] = [
    "assume_role",
    "assume_role_duration_seconds",
    "assume_role_policy_arns",
    "assume_role_tags",
    "assume_role_transitive_tag_keys",
    "assume_role_with_web_identity",
    "endpoints",
    "shared_config_files",
    "shared_credentials_files",
];

/// Reads the backend that an `init` with these arguments (without the program) moves to: the one backend block of the
/// directory, and over it `-backend-config`, in order (`backendConfigOverrideBody` in Terraform's
/// `internal/command/init.go`).
///
/// What cannot be told without Terraform is an error, never a guess: blocks in several files, of which one overrides
/// another, and OpenTofu's variables.
///
/// # Errors
/// See above. The text shows no content of the files, which can hold keys.
pub fn read_configured_backend(args: &[OsString], surroundings: &Surroundings) -> Result<Backend, BackendError> {
    let mut found = None;
    for path in files(&surroundings.dir)
        .map_err(|source| BackendError::Unreadable { path: surroundings.dir.clone(), source })?
    {
        let blocks = blocks(&path)?;
        if blocks.len() + usize::from(found.is_some()) > 1 {
            return Err(unknown(&path, "there is more than one backend block"));
        }
        found = blocks.into_iter().next().map(|(kind, config)| (path, kind, config)).or(found);
    }
    let Some((path, kind, mut config)) = found else { return Ok(Backend::None) };
    for item in backend_config(args, surroundings) {
        match item.split_once('=') {
            Some((name, value)) => _ = config.insert(name.to_owned(), typed(&path, name, value)?),
            None => config.extend(attributes_of_file(&surroundings.dir.join(item))?),
        }
    }
    known(&kind, Value::Object(config), surroundings, |reason| unknown(&path, &reason))
}

/// The files of a configuration. Those that editors leave are none (`IsIgnoredFile` in Terraform's
/// `internal/configs/parser_config_dir.go`).
fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let ignored = name.starts_with('.') || name.ends_with('~') || (name.starts_with('#') && name.ends_with('#'));
        if !ignored && SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort_unstable();
    Ok(files)
}

type Block = (String, Map<String, Value>);

/// The backend blocks of a file, by type.
fn blocks(path: &Path) -> Result<Vec<Block>, BackendError> {
    let text = read(path)?;
    if is_json(path) {
        let json: Value = serde_json::from_str(&text).map_err(|_| unknown(path, "it is no JSON"))?;
        // Wherever there can be several blocks, there can be a list of them.
        let each = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        let terraform = json.get("terraform").map(each).unwrap_or_default();
        let backends = terraform.iter().filter_map(|block| block.get("backend")).flat_map(each);
        let by_type = backends.filter_map(|backend| backend.as_object().cloned()).flatten();
        return by_type
            .flat_map(|(kind, blocks)| each(&blocks).into_iter().map(move |block| (kind.clone(), block)))
            .map(|(kind, block)| match block {
                Value::Object(config) => Ok((kind, config)),
                _ => Err(unknown(path, "its backend is no block")),
            })
            .collect();
    }
    let body = parse(path, &text)?;
    let terraform = body.blocks().filter(|block| block.identifier() == "terraform");
    let backends = terraform.flat_map(|block| block.body().blocks()).filter(|block| block.identifier() == "backend");
    backends
        .map(|block| {
            let kind = block.labels().first().map(|label| label.as_str().to_owned()).unwrap_or_default();
            Ok((kind, attributes(path, block.body())?))
        })
        .collect()
}

/// A file given to `-backend-config`.
fn attributes_of_file(path: &Path) -> Result<Map<String, Value>, BackendError> {
    let text = read(path)?;
    if is_json(path) {
        return serde_json::from_str(&text).map_err(|_| unknown(path, "it is no object of JSON"));
    }
    attributes(path, &parse(path, &text)?)
}

fn attributes(path: &Path, body: &hcl::Body) -> Result<Map<String, Value>, BackendError> {
    if body.blocks().next().is_some() {
        return Err(unknown(path, "there is a block where only attributes can be understood"));
    }
    body.attributes().map(|attribute| Ok((attribute.key().to_owned(), value(path, attribute.expr())?))).collect()
}

/// The value of an expression without variables and functions, as Terraform has it in a backend block.
fn value(path: &Path, expression: &hcl::Expression) -> Result<Value, BackendError> {
    let value = expression.evaluate(&Context::new()).ok().and_then(|value| serde_json::to_value(value).ok());
    value.ok_or_else(|| unknown(path, "a setting is no plain value"))
}

/// A value of the command line.
fn typed(path: &Path, name: &str, text: &str) -> Result<Value, BackendError> {
    if EXPRESSIONS.contains(&name) {
        let expression = text.parse().map_err(|_| unknown(path, "a value of -backend-config is no expression"))?;
        return value(path, &expression);
    }
    Ok(match (BOOLEANS.contains(&name), text) {
        (true, "true" | "1") => Value::Bool(true),
        (true, "false" | "0") => Value::Bool(false),
        _ => Value::String(text.to_owned()),
    })
}

fn parse(path: &Path, text: &str) -> Result<hcl::Body, BackendError> {
    // The parser's own words quote the line.
    hcl::parse(text).map_err(|error| match error {
        hcl::Error::Parse(error) => unknown(path, &format!("line {} cannot be understood", error.location().line())),
        _ => unknown(path, "it cannot be understood"),
    })
}

fn read(path: &Path) -> Result<String, BackendError> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text));
    read.map_err(|source| BackendError::Unreadable { path: path.to_owned(), source })?;
    Ok(text)
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn unknown(path: &Path, reason: &str) -> BackendError {
    BackendError::Configuration { path: path.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// The settings that a directory with these files and an `init` with these arguments have.
    fn read(files: &[(&str, &str)], args: &[&str]) -> Result<Option<crate::backend::S3Backend>, BackendError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let env = HashMap::from([("AWS_REGION".into(), "r".into())]);
        match read_configured_backend(&args, &Surroundings { dir: dir.path().to_owned(), env })? {
            Backend::S3(backend) => Ok(Some(*backend)),
            Backend::None => Ok(None),
            other => panic!("{other:?}"),
        }
    }

    const BLOCK: &str = r#"
        # A comment with "quotes"
        variable "x" { default = file("y") }
        terraform {
          required_version = ">= 1.6"
          backend "s3" {
            bucket = "b"
            key = "a/${"k"}"
            dynamodb_table = "t" // old
            endpoints = { s3 = "http://s3" }
          }
        }"#;

    #[test]
    fn the_block_is_found_in_every_syntax() {
        let json = r#"{"terraform":[{"backend":{"s3":{"bucket":"b","key":"a/k","dynamodb_table":"t"}}}]}"#;
        let plain = r#"{"terraform":{"backend":{"s3":[{"bucket":"b","key":"a/k","dynamodb_table":"t"}]}}}"#;
        for file in [("main.tf", BLOCK), ("main.tf.json", json), ("x.tofu.json", plain), ("main.tofu", BLOCK)] {
            let files = [file, ("other.tf", "locals { x = var.y }"), (".main.tf", "{"), ("main.tf~", "{")];
            let backend = read(&files, &["init"]).unwrap().unwrap();
            assert!(backend.stores_state("b", "a/k"), "{file:?}");
            assert_eq!(backend.table(), Some("t"), "{file:?}");
        }
        assert!(read(&[("main.tf", "resource \"a\" \"b\" {}")], &["init"]).unwrap().is_none());
        assert!(read(&[], &["init"]).unwrap().is_none());
    }

    #[test]
    fn the_command_line_comes_over_the_block_in_its_order() {
        let files = [
            ("main.tf", BLOCK),
            ("prod.tfbackend", "dynamodb_table = \"prod\"\nuse_lockfile = true\n"),
            ("prod.json", r#"{"dynamodb_table":"json"}"#),
        ];
        let table = |args: &[&str]| {
            let backend = read(&files, &[&["init"], args].concat()).unwrap().unwrap();
            backend.table().map(str::to_owned)
        };
        assert_eq!(table(&["-backend-config=prod.tfbackend"]).as_deref(), Some("prod"));
        assert_eq!(table(&["-backend-config", "prod.json", "-input=false"]).as_deref(), Some("json"));
        let value = "-backend-config=dynamodb_table=x=y";
        assert_eq!(table(&["-backend-config=prod.json", value]).as_deref(), Some("x=y"));
        assert_eq!(table(&[value, "--backend-config=prod.json"]).as_deref(), Some("json"));
        assert_eq!(table(&["-backend-config=use_lockfile=true", "-backend-config="]).as_deref(), Some("t"));
        let endpoints = r#"-backend-config=endpoints={ s3 = "http://other" }"#;
        assert_eq!(table(&[endpoints]).as_deref(), Some("t"));
    }

    #[test]
    fn what_cannot_be_told_is_an_error_that_shows_nothing_of_it() {
        let with = |line: &str| BLOCK.replace("bucket =", &format!("{line}\nbucket ="));
        type Files<'a> = &'a [(&'a str, &'a str)];
        let cases: &[(Files, &[&str])] = &[
            (&[("a.tf", BLOCK), ("a_override.tf", BLOCK)], &[]),
            (&[("a.tf", &with("secret_key = var.hush"))], &[]),
            (&[("a.tf", &with("secret_key = hush(\"x\")"))], &[]),
            (&[("a.tf", &with("hush {}"))], &[]),
            (&[("a.tf", &with("secret_key = \"hush"))], &[]),
            (&[("a.tf", &with(&format!("secret_key = {}1{}", "(".repeat(100_000), ")".repeat(100_000))))], &[]),
            (&[("a.tf", BLOCK), ("b.tf.json", "{\"hush\"")], &[]),
            (&[("a.tf.json", r#"{"terraform":{"backend":{"s3":"hush"}}}"#)], &[]),
            (&[("a.tf", BLOCK)], &["-backend-config=gone.tfbackend"]),
            (&[("a.tf", BLOCK)], &["-backend-config=endpoints={hush"]),
            (&[("a.tf", BLOCK)], &["-backend-config=use_lockfile=hush"]),
            (&[("a.tf", BLOCK)], &["-backend-config=bucket="]),
        ];
        for (files, args) in cases {
            let error = read(files, &[&["init"], *args].concat()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }
}
