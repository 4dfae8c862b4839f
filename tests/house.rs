//! The rooms of the source and the arrows between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::{Captures, Regex};

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

/// The name of a module, or of something in one, from the root of the crate.
type Name = Vec<String>;

/// The modules of the crate and what their code names. Unit tests do not count.
struct House {
    /// Each module, and the names of this crate in its code.
    modules: BTreeMap<Name, Vec<Name>>,
    /// What a module passes on under a name of its own (`pub use`), and where that is from.
    passed_on: BTreeMap<Name, Name>,
}

impl House {
    fn read() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let unit_tests = Regex::new(r"#\[cfg\(test\)\]\s*(pub(\([a-z]+\))? )?mod \w+ \{[\s\S]*").unwrap();
        let comment = Regex::new("(?m)//.*$").unwrap();
        let above = Regex::new(r"\b(super::)+").unwrap();
        let exported = Regex::new(r"\bpub(\([a-z]+\))? use (crate::)?([^;]*);").unwrap();
        let mut house = Self { modules: BTreeMap::new(), passed_on: BTreeMap::new() };
        for file in sources(&source) {
            let within = file.strip_prefix(&source).unwrap().with_extension("");
            let mut module: Name = within.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
            module.pop_if(|name| name == "mod");
            if ["lib", "tests"].iter().any(|left_out| module.last().unwrap() == left_out) {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap().replace("tfguard::", "crate::");
            let text = unit_tests.replace(&text, "");
            let text = comment.replace_all(&text, "");
            let text = above.replace_all(&text, |levels: &Captures| {
                let depth = module.len() - levels[0].matches("super").count();
                module[..depth].iter().fold("crate::".to_owned(), |name, next| name + next + "::")
            });
            for export in exported.captures_iter(&text) {
                let prefix = if export.get(2).is_some() { &[] } else { &module[..] };
                for from in names(&export[3], prefix) {
                    let passed_on = module.iter().chain(from.last()).cloned().collect();
                    house.passed_on.insert(passed_on, from);
                }
            }
            let own = exported.replace_all(&text, "");
            let found = own.match_indices("crate::").flat_map(|(at, word)| names(&own[at + word.len()..], &[]));
            house.modules.insert(module.clone(), found.collect());
        }
        house
    }

    /// The module in which a name is defined, wherever it is passed on; none for a name that is no module's.
    fn home(&self, name: &[String]) -> Option<Name> {
        for length in (1..=name.len()).rev() {
            if self.modules.contains_key(&name[..length]) {
                return Some(name[..length].to_vec());
            }
            if let Some(from) = self.passed_on.get(&name[..length]) {
                return self.home(&[from, &name[length..]].concat());
            }
        }
        None
    }

    /// Which module uses which other one.
    fn arrows(&self) -> impl Iterator<Item = (&Name, Name)> {
        let of = |(from, names): (_, &Vec<Name>)| -> Vec<_> {
            names.iter().filter_map(|name| Some((from, self.home(name)?))).collect()
        };
        self.modules.iter().flat_map(of)
    }
}

/// The names that a text begins with: one, or several in braces. Each behind `prefix`.
fn names(text: &str, prefix: &[String]) -> Vec<Name> {
    let end = text.find(|char: char| !char.is_alphanumeric() && !"_:".contains(char)).unwrap_or(text.len());
    let path = text[..end].split("::").filter(|name| !name.is_empty() && *name != "self").map(str::to_owned);
    let name: Name = prefix.iter().cloned().chain(path).collect();
    let Some(list) = text[end..].strip_prefix('{').filter(|_| end == 0 || text[..end].ends_with("::")) else {
        return vec![name];
    };
    let (mut depth, mut begins, mut found) = (0, 0, Vec::new());
    for (at, char) in list.char_indices() {
        match char {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                let one = list[begins..at].trim();
                found.extend(Some(one).filter(|one| !one.is_empty()).map(|one| names(one, &name)));
                begins = at + 1;
                if char == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found.concat()
}

fn sources(below: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn every_arrow_points_down() {
    let house = House::read();
    let floor = |module: &Name| {
        let room = ROOMS.iter().position(|known| *known == module[0]);
        room.unwrap_or_else(|| panic!("{} is not in the list of rooms", module[0]))
    };
    let between: Vec<_> = house.arrows().filter(|(from, to)| from[0] != to[0]).collect();
    assert!(between.len() > 100, "only {} imports were found", between.len());
    let up: Vec<_> = between.iter().filter(|(from, to)| floor(to) <= floor(from)).collect();
    assert!(up.is_empty(), "imports of rooms above: {up:#?}");
}

/// What lies in one folder forms no circle, each file together with the folder of its name. Above its files a `mod.rs` may
/// know them all and be known to them.
#[test]
fn no_files_side_by_side_form_a_circle() {
    let mut folders: BTreeMap<Name, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let house = House::read();
    for (from, to) in house.arrows() {
        let shared = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
        if shared > 0 && from.len() > shared && to.len() > shared {
            let folder = folders.entry(from[..shared].to_vec()).or_default();
            folder.entry(from[shared].clone()).or_default().insert(to[shared].clone());
        }
    }
    assert!(folders.len() > 12, "only {folders:?}");
    for (folder, mut arrows) in folders {
        // What uses nothing that is left is on no circle.
        loop {
            let left: BTreeSet<_> = arrows.keys().cloned().collect();
            arrows.retain(|_, used| used.intersection(&left).next().is_some());
            if arrows.len() == left.len() {
                break;
            }
        }
        assert!(arrows.is_empty(), "in {} a circle, and what leads to it: {arrows:#?}", folder.join("::"));
    }
}

/// The code of a file without its unit tests, which stand at its end.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned()
}

/// Whatever may be a FIFO, a device, a link or without end is opened by `files`. Elsewhere stand only what the kernel makes,
/// and directories, which are opened as such.
#[test]
fn files_are_opened_in_one_place() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let opens = Regex::new(
        r"\bfs::(read|read_to_string|write|copy|hard_link)\(|\bFile::(open|create|create_new|options)\b|OpenOptions|\bfs::open(at|at2)?\(|DirBuilder|\bfs::remove_dir_all",
    )
    .unwrap();
    // `build.rs` runs when tfguard is built. In the other files directories are opened, by flags that let nothing else be.
    let (open, elsewhere) =
        (["build.rs", "files.rs"], ["session/directory.rs", "session/place.rs", "session/alive.rs"]);
    let (mut wrong, mut found) = (Vec::new(), 0);
    for file in sources(&source) {
        let within = file.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
        if within.ends_with("tests.rs") || open.contains(&within.as_str()) {
            continue;
        }
        let text = code(&file);
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| opens.is_match(line)) {
            found += 1;
            let by_kernel = line.contains("\"/proc/") || line.contains("\"/dev/null\"");
            let is_directory = line.contains("DirBuilder")
                || line.contains("rustix::fs::open")
                    && lines[at.saturating_sub(16)..=at].iter().any(|line| line.contains("OFlags::DIRECTORY"));
            let is_import = line.trim_start().starts_with("use ");
            if !(by_kernel || is_import || is_directory && elsewhere.contains(&within.as_str())) {
                wrong.push(format!("{within}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "not by crate::files: {wrong:#?}");
    assert!(found > 10, "only {found} were found");
}
