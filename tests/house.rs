//! The rooms of the source and the arrows between them.

use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

/// From top to bottom. A room imports only from rooms below it.
const ROOMS: [&str; 19] = [
    "main",
    "cli",
    "commands",
    "run",
    "report",
    "state",
    "machine",
    "store",
    "observe",
    "terraform",
    "aws",
    "session",
    "ci",
    "model",
    "log",
    "text",
    "paths",
    "files",
    "exit",
];

fn sources(below: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn every_arrow_points_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floor = |room: &str| {
        ROOMS.iter().position(|known| *known == room).unwrap_or_else(|| panic!("{room} is not in the list of rooms"))
    };
    let comment = Regex::new("(?m)//.*$").unwrap();
    let path = Regex::new(r"\b(?:crate|tfguard)::(\w+|\{[^;]*?\};)").unwrap();
    let name = Regex::new(r"(?:^|,)\s*(\w+)").unwrap();
    let nested = Regex::new(r"\{[^{}]*\}").unwrap();
    let mut up = Vec::new();
    let mut arrows = 0;
    for file in sources(&source) {
        let within = file.strip_prefix(&source).unwrap();
        let room = within.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if room == "lib" {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let text = comment.replace_all(&text, "");
        for found in path.captures_iter(&text) {
            let target = found[1].trim_matches(['{', '}', ';']);
            let flat = nested.replace_all(target, "");
            for target in name.captures_iter(&flat) {
                let target = &target[1];
                if target != room {
                    arrows += 1;
                    if floor(target) <= floor(room) {
                        up.push(format!("{}: {target}", within.display()));
                    }
                }
            }
        }
    }
    assert!(arrows > 100, "only {arrows} imports were found");
    assert!(up.is_empty(), "imports of rooms above: {up:#?}");
}
