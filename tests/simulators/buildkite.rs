//! Buildkite's own agent (`support/programs.rs`), against a stand-in of its API: the command leads a session on a
//! pseudo-terminal; its group gets SIGTERM, later SIGKILL; the hooks after it have what it leaves of the signal's grace period.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Ended, Job, Started};
use crate::SOON;
use crate::support::{Product, Reply, Running, Server, Tools, Watched, make_program};

/// What a hook says when it has ended, and its exit code.
const HOOK_ENDED: &str = "the hook ended with ";

/// An agent. The job's script is the command, the cleanups are the `pre-exit` hook.
pub struct Buildkite {
    program: PathBuf,
    grace: u64,
}

/// What the API knows of the job.
#[derive(Default)]
struct Known {
    accepted: bool,
    cancelled: bool,
    /// What the agent said at its end.
    finished: Option<Value>,
}

impl Buildkite {
    /// One with this `cancel-grace-period`, in seconds; the signal's is a second less. None where no agent can be had.
    pub fn get(grace: u64) -> Option<Self> {
        let (_, program) = Tools::get().programs(Product::BuildkiteAgent).last()?;
        Some(Self { program, grace })
    }

    pub fn start<'a>(self, job: Job<'a>) -> Box<dyn Started + 'a> {
        let known = Arc::new(Watched::<Known>::default());
        let api = {
            let (known, id) = (Arc::clone(&known), job.id().to_owned());
            let work = job.project().work();
            let command = format!("cd '{}'\n{}", work.display(), job.script());
            Server::start(move |request| {
                let path = request.target.split('?').next().unwrap_or_default();
                let answer = match (request.method.as_str(), path.rsplit('/').next().unwrap_or_default()) {
                    ("POST", "register") => json!({
                        "id": "agent", "name": "agent", "access_token": "none", "meta_data": [],
                        "ping_interval": 1, "job_status_interval": 1, "heartbeat_interval": 60,
                    }),
                    ("GET", "ping") if known.get().accepted => json!({}),
                    ("GET", "ping") => json!({ "job": described(&id, &command) }),
                    ("PUT", "accept") => {
                        known.change(|known| known.accepted = true);
                        described(&id, &command)
                    }
                    ("PUT", "finish") => {
                        known.change(|known| known.finished = Some(request.json()));
                        json!({})
                    }
                    ("GET", last) if last == id => {
                        json!({ "state": if known.get().cancelled { "canceled" } else { "running" } })
                    }
                    _ => json!({}),
                };
                Reply::json(200, &answer)
            })
        };
        let hook: String = job
            .cleanups()
            .iter()
            .enumerate()
            .map(|(number, script)| {
                let script = job.file(&format!("hook-{number}"), script);
                format!("bash -e '{}' && code=0 || code=$?; echo '{HOOK_ENDED}'$code\n", script.display())
            })
            .collect();
        let hook = format!("#!/usr/bin/env bash\ncd '{}'\n{hook}", job.project().work().display());
        make_program(&job.dir("hooks").join("pre-exit"), &hook);
        // What a checkout would make.
        job.dir("build/agent/organisation/pipeline");
        let dir = |name: &str| format!("--{name}-path={}", job.dir(name).display());
        let agent = job
            .run(&self.program)
            .args(["start", "--token=none", "--disconnect-after-job", "--write-job-logs-to-stdout", "--no-color"])
            .args([format!("--endpoint={}", api.url()), format!("--cancel-grace-period={}", self.grace)])
            .args([dir("build"), dir("hooks"), dir("plugins"), dir("sockets")])
            .start();
        Box::new(InJob { api, known, agent })
    }
}

/// A job as the API has it.
fn described(id: &str, command: &str) -> Value {
    let url = format!("https://buildkite.example/organisation/pipeline/builds/{id}");
    json!({
        "id": id, "state": "assigned", "chunks_max_size_bytes": 102_400, "log_max_size_bytes": 100_000_000,
        "env": {
            "CI": "true", "BUILDKITE": "true", "BUILDKITE_COMMAND": command, "BUILDKITE_JOB_ID": id, "BUILDKITE_BUILD_URL": url, "BUILDKITE_RETRY_COUNT": "0",
            "BUILDKITE_REPO": "none", "BUILDKITE_COMMIT": "HEAD", "BUILDKITE_BRANCH": "main", "BUILDKITE_AGENT_NAME": "agent",
            "BUILDKITE_ORGANIZATION_SLUG": "organisation", "BUILDKITE_PIPELINE_SLUG": "pipeline",
            "BUILDKITE_PIPELINE_PROVIDER": "git", "BUILDKITE_AGENT_NO_JOB_API": "true",
            // Without a repository.
            "BUILDKITE_BOOTSTRAP_PHASES": "command",
        },
    })
}

struct InJob {
    /// It answers for as long as the agent lives.
    api: Server,
    known: Arc<Watched<Known>>,
    agent: Running,
}

impl Started for InJob {
    fn log(&self) -> &Running {
        &self.agent
    }

    fn cancel(self: Box<Self>) -> Ended {
        self.known.change(|known| known.cancelled = true);
        self.finish()
    }

    fn finish(self: Box<Self>) -> Ended {
        let Self { api: _api, known, agent } = *self;
        let mut script = agent.wait(SOON);
        let finished = known.get().finished.clone().unwrap_or_default();
        script.code = finished["exit_status"].as_str().and_then(|code| code.parse().ok());
        let out = script.out();
        let ends = out.lines().filter_map(|line| line.split_once(HOOK_ENDED)?.1.trim().parse().ok());
        let hook =
            |code| crate::support::Exit { code: Some(code), signal: None, stdout: Vec::new(), stderr: Vec::new() };
        Ended { cleanup: ends.map(hook).collect(), script }
    }
}
