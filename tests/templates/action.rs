//! GitHub's action: `main.js` and `post.js` in the Node of its runner, with the variables and files that it gives them
//! (actions/runner, `src/Runner.Worker/Handlers`).

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

use crate::VERSION;
use crate::support::{Exit, Guard, Reply, Run, make_program};
use crate::templates::install::{can_download, content, package, serve};
use crate::templates::read::{Variables, template, yaml};
use crate::templates::tools::{node, skip};
use crate::templates::{SOON, TFGUARD};

/// A job on a runner, as far as one action knows of it.
pub struct Runner {
    pub guard: Guard,
    dir: tempfile::TempDir,
}

/// What the action told the runner.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    pub env: Variables,
    pub state: Variables,
    pub output: Variables,
    /// The first is to be found last.
    pub path: Vec<PathBuf>,
}

const FILES: [&str; 4] = ["GITHUB_ENV", "GITHUB_STATE", "GITHUB_OUTPUT", "GITHUB_PATH"];

impl Runner {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        std::fs::create_dir(dir.path().join("temp")).unwrap();
        for file in FILES {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        Self { guard: Guard::new(), dir }
    }

    pub fn temp(&self) -> PathBuf {
        self.dir.path().join("temp")
    }

    /// A script of the action, which has the inputs of a workflow, and the defaults of `action.yml` for the others.
    fn script(&self, name: &str, inputs: &[(&str, &str)]) -> Run {
        let script = template(&format!("github/{}", yaml("github/action.yml")["runs"][name].as_str().unwrap()));
        let mut values: Variables = Variables::new();
        for (input, definition) in yaml("github/action.yml")["inputs"].as_object().unwrap() {
            values.insert(input.clone(), definition["default"].as_str().unwrap_or_default().to_owned());
        }
        for (input, value) in inputs {
            assert!(values.insert((*input).to_owned(), (*value).to_owned()).is_some(), "{input} is an input");
        }
        let values = values.into_iter().map(|(input, value)| (format!("INPUT_{}", input.to_uppercase()), value));
        Run::new(node(), &self.guard)
            .arg(script)
            .envs(values)
            .envs(FILES.map(|file| (file, self.dir.path().join(file))))
            .envs([("GITHUB_ACTIONS", "true"), ("CI", "true"), ("GITHUB_SERVER_URL", "https://github.invalid")])
            .env("RUNNER_TEMP", self.temp())
    }

    pub fn main(&self, inputs: &[(&str, &str)]) -> Run {
        self.script("main", inputs)
    }

    /// After a `main` that told this.
    pub fn post(&self, told: &Told) -> Run {
        self.script("post", &[]).envs(told.state.iter().map(|(name, value)| (format!("STATE_{name}"), value)))
    }

    pub fn told(&self) -> Told {
        let [env, state, output, path] =
            FILES.map(|file| std::fs::read_to_string(self.dir.path().join(file)).expect("the file is there"));
        let pairs = |text: String| {
            let pairs = text.lines().map(|line| line.split_once('=').expect("name=value"));
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let path = path.lines().map(PathBuf::from).collect();
        Told { env: pairs(env), state: pairs(state), output: pairs(output), path }
    }

    /// It said why, and left nothing behind that a later step could take for an installation.
    #[track_caller]
    fn assert_not_installed(&self, exit: Exit, why: &str) {
        let exit = exit.expect_code(1);
        assert!(exit.out().contains("::error title=tfguard::tfguard is not installed: "), "{exit}");
        assert!(exit.out().contains(why), "{why}: {exit}");
        assert_eq!(self.told(), Told::default());
        assert_eq!(std::fs::read_dir(self.temp()).unwrap().count(), 0);
        // The runner runs the post all the same.
        assert_eq!(self.post(&Told::default()).run().expect_code(0).out(), "");
    }
}

/// The SHA-256 of something.
pub fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn it_installs_a_release_whose_checksum_is_right() {
    if !can_download() {
        return;
    }
    let name = &package().name;
    let sha256 = sum(package().tarball());
    for named in ["", &sha256, &sha256.to_uppercase()] {
        let server = serve(|_| None);
        let runner = Runner::new();
        let inputs = [("download-url", format!("{}/", server.url())), ("sha256", named.to_owned())];
        let inputs = inputs.each_ref().map(|(name, value)| (*name, value.as_str()));
        let exit = runner.main(&inputs).start().wait(SOON).expect_code(0);
        assert_eq!(exit.out(), VERSION, "{exit}");
        let told = runner.told();
        assert_eq!(told.env["TFGUARD_CLEANUP_STEP"], "1");
        assert_eq!(told.path.len(), 1);
        let binary = told.path[0].join("tfguard");
        assert_eq!(
            (&told.state["binary"], &told.output["path"]),
            (&binary.display().to_string(), &told.state["binary"])
        );
        assert!(Command::new(&binary).arg("--version").output().unwrap().status.success());
        let asked: Vec<_> = server.requests().into_iter().map(|request| request.target).collect();
        let sums = "/SHA256SUMS".to_owned();
        let expected = [format!("/{name}")].into_iter().chain(named.is_empty().then_some(sums));
        assert_eq!(asked, expected.collect::<Vec<_>>());
        // Nothing ran, so nothing is left to do.
        let exit = runner.post(&told).start().wait(SOON).expect_code(0);
        assert_eq!((exit.out(), exit.err()), (String::new(), String::new()));
    }
}

#[test]
fn it_does_not_install_what_it_was_not_asked_for() {
    if !can_download() {
        return;
    }
    let zeros = "0".repeat(64);
    let sums = |sum: &str| content(format!("{sum}  {}\n", package().name).as_bytes());
    let wrong = serve(move |file| (file == "SHA256SUMS").then(|| sums(&"0".repeat(64))));
    let html = serve(|_| Some(content(b"<html>Sign in</html>")));
    let garbage = serve(move |file| {
        let body: &[u8] = b"no tarball";
        Some(if file == "SHA256SUMS" { sums(&sum(body)) } else { content(body) })
    });
    let empty = serve(|_| Some(Reply::status(404)));
    let right = serve(|_| None);
    let url = |server: &crate::support::Server| server.url();
    for (inputs, why) in [
        (vec![("download-url", url(&wrong))], "SHA-256"),
        (vec![("download-url", url(&right)), ("sha256", zeros)], "SHA-256"),
        (vec![("download-url", url(&html))], "SHA-256"),
        (vec![("download-url", url(&garbage))], "tar"),
        (vec![("download-url", url(&empty))], "404"),
        (vec![("download-url", "http://127.0.0.1:1".to_owned())], "cannot download"),
        (vec![("path", "/nonexistent/tfguard".to_owned())], "there is no /nonexistent/tfguard"),
        (vec![("path", "/dev/null".to_owned())], "EACCES"),
        // From the workspace, so of no repository.
        (vec![], "set `path` or `download-url`"),
    ] {
        let runner = Runner::new();
        let inputs: Vec<_> = inputs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        runner.assert_not_installed(runner.main(&inputs).start().wait(SOON), why);
    }
}

/// What a server cannot answer for a moment is asked for again, by curl.
#[test]
fn it_tries_again_what_may_pass() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("no curl, so it is not tried whether a download is tried again");
    }
    let asked = AtomicU32::new(0);
    let server = serve(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Some(Reply::status(503)),
        _ => None,
    });
    let runner = Runner::new();
    runner.main(&[("download-url", &server.url())]).start().wait(SOON).expect_code(0);
    // Three times the tarball, once its checksum.
    assert_eq!(server.requests().len(), 4);
}

/// A lock that is left must not pass unnoticed; and what the runner sends to Node is for `tfguard release`.
#[test]
fn its_post_is_what_tfguard_release_makes_of_it() {
    let runner = Runner::new();
    let stand_in = runner.temp().join("tfguard");
    let post = |script: &str| {
        make_program(&stand_in, &format!("#!/bin/sh\n{script}\n"));
        let state = [("binary".to_owned(), stand_in.display().to_string())].into();
        runner.post(&Told { state, ..Told::default() }).start()
    };
    let exit = post("echo \"$@\"; exit 120").wait(SOON).expect_code(120);
    assert_eq!(exit.out(), "release\n");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let post = post("trap 'exit 7' INT TERM; echo ready; while :; do sleep 0.1; done");
        post.wait_for_stdout("ready", SOON);
        post.signal(signal);
        post.wait(SOON).expect_code(7);
    }
    std::fs::remove_file(&stand_in).unwrap();
    let state = [("binary".to_owned(), stand_in.display().to_string())].into();
    let exit = runner.post(&Told { state, ..Told::default() }).start().wait(SOON).expect_code(1);
    assert!(exit.out().contains("::error title=tfguard::cannot run"), "{exit}");
}

/// By default it is the release of the version and the repository that the action itself is of.
#[test]
fn it_asks_the_repository_that_it_comes_from() {
    if !can_download() {
        return;
    }
    let server = serve(|_| None);
    let runner = Runner::new();
    let run = runner.main(&[]).env("GITHUB_SERVER_URL", server.url()).env("GITHUB_ACTION_REPOSITORY", "owner/tfguard");
    run.start().wait(SOON).expect_code(0);
    let place = format!("/owner/tfguard/releases/download/v{}/", env!("CARGO_PKG_VERSION"));
    assert!(server.requests().iter().all(|request| request.target.starts_with(&place)), "{:?}", server.requests());
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn it_takes_a_binary_that_is_there_and_makes_links() {
    let runner = Runner::new();
    runner.main(&[("path", TFGUARD), ("shim", "true"), ("wait", "7m")]).start().wait(SOON).expect_code(0);
    let told = runner.told();
    assert_eq!(told.env["TFGUARD_WAIT"], "7m");
    let [tfguard, links] = &told.path[..] else { panic!("two directories: {told:?}") };
    let real = |path: PathBuf| std::fs::canonicalize(path).expect("it is there");
    let own = real(TFGUARD.into());
    assert_eq!(
        [tfguard.join("tfguard"), links.join("terraform"), links.join("tofu")].map(real),
        [own.clone(), own.clone(), own]
    );
}
