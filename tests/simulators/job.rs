//! What a pipeline says of a job, and what became of it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Exit, Project, Run, Running};

/// A job as a pipeline has it: a script, and what is to run after it, also when it is cancelled. It runs in the project's
/// directory; on `PATH` are `tfguard` and `terraform`.
pub struct Job<'a> {
    project: &'a Project<'a>,
    script: String,
    cleanup: Vec<String>,
    env: Vec<(OsString, OsString)>,
    place: PathBuf,
    id: String,
}

impl<'a> Job<'a> {
    /// A job with a script, which may have several lines.
    pub fn new(project: &'a Project<'a>, script: impl Into<String>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let id = format!("{}{now}{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let place = project.work().with_file_name(format!("ci-{id}"));
        for dir in [place.clone(), place.join("bin")] {
            fs::create_dir(dir).expect("a directory can be made");
        }
        let tfguard = Path::new(env!("CARGO_BIN_EXE_tfguard"));
        std::os::unix::fs::symlink(tfguard, place.join("bin/tfguard")).expect("a link can be made");
        Self { project, script: script.into(), cleanup: Vec::new(), env: Vec::new(), place, id }
    }

    /// One more script for after the job's own: `after_script`, `post { always { … } }`, a step with `if: always()`.
    pub fn cleanup(mut self, script: impl Into<String>) -> Self {
        self.cleanup.push(script.into());
        self
    }

    /// A variable of the whole job.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub(super) fn project(&self) -> &'a Project<'a> {
        self.project
    }

    pub(super) fn script(&self) -> &str {
        &self.script
    }

    pub(super) fn cleanups(&self) -> &[String] {
        &self.cleanup
    }

    /// A number no other job has, neither now nor in another test run on this machine.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The CI's own directory for this job.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// A directory there, made if need be.
    pub(super) fn dir(&self, name: &str) -> PathBuf {
        let dir = self.place.join(name);
        fs::create_dir_all(&dir).expect("a directory can be made");
        dir
    }

    /// A file there.
    pub(super) fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.place.join(name);
        fs::write(&file, text).expect("a file can be written");
        file
    }

    /// The job's `PATH`.
    pub(super) fn path(&self) -> OsString {
        let mut project = self.project.command("");
        let path = project.command().get_envs().find_map(|(name, value)| (name == "PATH").then_some(value?.to_owned()));
        let bin = [self.place.join("bin")].into_iter();
        std::env::join_paths(bin.chain(std::env::split_paths(&path.unwrap_or_default()))).expect("PATH was one before")
    }

    /// The variables that the pipeline gives the job.
    pub(super) fn variables(&self) -> &[(OsString, OsString)] {
        &self.env
    }

    /// A program in the job's directory and environment. Where sessions live is for the CI's variables to tell.
    pub(super) fn run(&self, program: impl AsRef<OsStr>) -> Run {
        let run = self.project.command(program).env_remove("TFGUARD_DIR").env("PATH", self.path());
        run.envs(self.env.iter().map(|(name, value)| (name, value)))
    }
}

/// A job that runs.
pub trait Started {
    /// The process whose stdout is the job's log.
    fn log(&self) -> &Running;

    /// Somebody cancels the job: plays the CI's part to the job's very end, cleanup included.
    fn cancel(self: Box<Self>) -> Ended;

    /// Nobody does.
    fn finish(self: Box<Self>) -> Ended;
}

/// What a CI shows of a job that is over.
pub struct Ended {
    /// The script. If the CI gave up on it, what it had written until then.
    pub script: Exit,
    /// What ran after it.
    pub cleanup: Vec<Exit>,
}

impl Ended {
    /// All that is in the job's log.
    pub fn log(&self) -> String {
        let parts = [&self.script].into_iter().chain(&self.cleanup);
        parts.map(|exit| format!("{exit}\n")).collect()
    }
}
