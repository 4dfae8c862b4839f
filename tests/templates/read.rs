//! What is in a template.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::templates::tools::{python, succeed};

const TEMPLATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ci-templates");

/// A file in `ci-templates`.
pub fn template(name: &str) -> PathBuf {
    let path = Path::new(TEMPLATES).join(name);
    assert!(path.is_file(), "there is a template {name}");
    path
}

pub fn text(name: &str) -> String {
    std::fs::read_to_string(template(name)).expect("a template can be read")
}

/// A YAML template, by its real structure.
pub fn yaml(name: &str) -> Value {
    parse("yaml", &template(name))
}

/// The variables that a declarative pipeline sets.
pub fn groovy_variables(name: &str) -> Variables {
    variables(&parse("groovy", &template(name))["variables"])
}

/// The script of each `sh` step in a Groovy template, with the blocks around it, outermost first.
pub fn groovy(name: &str) -> Vec<(Vec<String>, String)> {
    let calls = parse("groovy", &template(name))["sh"].take();
    let calls =
        calls.as_array().expect("a list").iter().map(|call| (strings(&call["blocks"]), string(&call["script"])));
    calls.collect()
}

pub fn parse(kind: &str, path: &Path) -> Value {
    let parser = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/templates/parse.py");
    let output = succeed(Command::new(python()).args(["-I", parser, kind]).arg(path));
    serde_json::from_str(&output).expect("it prints JSON")
}

#[track_caller]
pub fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a string, not {value}")).to_owned()
}

#[track_caller]
pub fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap_or_else(|| panic!("a list, not {value}")).iter().map(string).collect()
}

/// Names and values.
pub type Variables = BTreeMap<String, String>;

/// The variables that a template has, if it has some.
#[track_caller]
pub fn variables(value: &Value) -> Variables {
    if value.is_null() {
        return Variables::new();
    }
    let map = value.as_object().unwrap_or_else(|| panic!("variables, not {value}"));
    map.iter().map(|(name, value)| (name.clone(), string(value))).collect()
}

/// All files below a directory of the project, by their paths from there.
pub fn files(dir: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut dirs = vec![root.join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory can be read").flatten() {
            match entry.path() {
                path if path.is_dir() => dirs.push(path),
                path => found.push(path.strip_prefix(root).expect("it is below").to_owned()),
            }
        }
    }
    found.sort();
    found
}
