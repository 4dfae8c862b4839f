//! Plays a schedule on real processes, and collects the evidence.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{self, *};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use super::bed::{BUCKET, Bed, CREDENTIALS, KEY, TABLE, new_credentials};
use super::recorder::{Process, now, processes};
use super::schedule::*;
use crate::support::{Action, Answer, Aws, BlackHole, Exit, FaultProxy, Guard, Match, Run, Running};

/// What does not end by then never does.
const HANGS: Duration = Duration::from_secs(300);
/// How long an act waits for its event.
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(50);

/// What the machine does not permit, if anything.
#[derive(Clone, Copy)]
pub struct Permits {
    /// Users other than one's own.
    pub users: bool,
    /// Small file systems.
    pub mounts: bool,
    /// The real AWS provider is there.
    pub provider: bool,
}

pub fn play(bed: &Bed, permits: Permits, schedule: &Schedule) -> String {
    let key = new_credentials();
    let dir = bed.dir().join(&key);
    let guard = Guard::new();
    let proxy = FaultProxy::start(bed.url());
    let hole = BlackHole::start();
    let plans = schedule.runs.iter().enumerate();
    let jobs = plans.map(|(at, plan)| Job::new(bed, &guard, permits, &key, &dir, at, schedule.kind, plan, &hole));
    let jobs: Vec<_> = jobs.collect();
    let world = World { bed, schedule, guard, proxy, dir, jobs, key, evidence: Mutex::default() };
    world.prepare();
    thread::scope(|scope| {
        for at in 0..world.jobs.len() {
            scope.spawn({
                let world = &world;
                move || world.run(at)
            });
        }
        for act in &schedule.acts {
            scope.spawn({
                let world = &world;
                move || world.act(act)
            });
        }
    });
    world.note_living();
    world.note_left("over");
    world.calm();
    world.last_releases();
    world.conclude()
}

/// A job of a CI that has one guarded run.
struct Job {
    plan: RunPlan,
    credentials: String,
    dir: PathBuf,
    user: Option<u32>,
    /// Keeps a mount namespace, with a small file system for the sessions.
    holder: Option<Running>,
    entry: OnceLock<Running>,
    /// Its CI has done all it does.
    over: AtomicBool,
}

impl Job {
    #[expect(clippy::too_many_arguments, reason = "all of them make a job")]
    fn new(
        bed: &Bed,
        guard: &Guard,
        permits: Permits,
        key: &str,
        dir: &Path,
        at: usize,
        kind: Kind,
        plan: &RunPlan,
        hole: &BlackHole,
    ) -> Self {
        let credentials = format!("{key}R{at:03}");
        let dir = dir.join(format!("run-{at}"));
        for name in ["work/.terraform", "tmp", "sessions"] {
            fs::create_dir_all(dir.join(name)).expect("a directory can be made");
        }
        fs::set_permissions(dir.join("sessions"), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let work = match plan.work {
            Work::Provider if !permits.provider => Work::Sleep(20_000),
            work => work,
        };
        check_out(&bed.checkout(kind), &dir.join("work"), work, hole);
        let user = (plan.own_user && permits.users).then(|| {
            let user = new_user();
            own(&dir, user);
            user
        });
        let holder = match plan.lack {
            Lack::Disk(size) if permits.mounts => Some(hold(bed, guard, &credentials, &dir.join("sessions"), size)),
            _ => None,
        };
        Self { plan: *plan, credentials, dir, user, holder, entry: OnceLock::new(), over: AtomicBool::new(false) }
    }

    fn sessions(&self) -> PathBuf {
        match &self.holder {
            Some(holder) => Path::new("/proc")
                .join(holder.pid().to_string())
                .join("root")
                .join(self.dir.join("sessions").strip_prefix("/").expect("it is absolute")),
            None => self.dir.join("sessions"),
        }
    }

    /// What its CI says of it.
    fn variables(&self) -> Vec<(&'static str, String)> {
        let id = self.credentials.clone();
        let place = self.dir.join("sessions").display().to_string();
        let named = |pairs: &[(&'static str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| (*name, (*value).replace("{id}", &id).replace("{place}", &place)))
                .collect()
        };
        match self.plan.ci {
            Ci::None | Ci::Docker => named(&[("TFGUARD_DIR", "{place}")]),
            Ci::GitHub => named(&[
                ("GITHUB_ACTIONS", "true"),
                ("CI", "true"),
                ("GITHUB_SERVER_URL", "https://github.com"),
                ("GITHUB_REPOSITORY", "owner/repository"),
                ("GITHUB_RUN_ID", "{id}"),
                ("GITHUB_RUN_ATTEMPT", "1"),
                ("GITHUB_JOB", "apply"),
                ("RUNNER_TEMP", "{place}"),
                ("RUNNER_TRACKING_ID", "github_{id}"),
            ]),
            Ci::Azure => named(&[
                ("TF_BUILD", "True"),
                ("SYSTEM_COLLECTIONURI", "https://dev.azure.example/organisation/"),
                ("SYSTEM_TEAMPROJECT", "project"),
                ("BUILD_BUILDID", "{id}"),
                ("SYSTEM_JOBID", "apply"),
                ("AGENT_TEMPDIRECTORY", "{place}"),
                ("VSTS_PROCESS_LOOKUP_ID", "vsts_{id}"),
            ]),
            Ci::GitLab | Ci::GitLabSteps | Ci::Kubernetes => named(&[
                ("CI", "true"),
                ("GITLAB_CI", "true"),
                ("CI_JOB_ID", "{id}"),
                ("CI_JOB_URL", "https://gitlab.example/group/project/-/jobs/{id}"),
                ("CI_JOB_NAME", "apply"),
                ("CI_PROJECT_DIR", "{place}"),
            ]),
            Ci::Jenkins => named(&[
                ("JENKINS_URL", "https://jenkins.example/"),
                ("JOB_NAME", "apply"),
                ("BUILD_NUMBER", "7"),
                ("BUILD_URL", "https://jenkins.example/job/apply/{id}/"),
                ("BUILD_TAG", "jenkins-{id}"),
                ("WORKSPACE_TMP", "{place}"),
                ("JENKINS_SERVER_COOKIE", "durable-{id}"),
                ("JENKINS_NODE_COOKIE", "node-{id}"),
            ]),
            Ci::Buildkite => named(&[
                ("CI", "true"),
                ("BUILDKITE", "true"),
                ("BUILDKITE_JOB_ID", "{id}"),
                ("BUILDKITE_BUILD_URL", "https://buildkite.example/organisation/pipeline/builds/{id}"),
                ("BUILDKITE_RETRY_COUNT", "0"),
                ("BUILDKITE_BUILD_CHECKOUT_PATH", "{place}"),
            ]),
            Ci::Systemd => named(&[("TFGUARD_DIR", "{place}"), ("INVOCATION_ID", "{id}")]),
        }
    }

    /// The variable by which its CI finds what a job left running.
    fn hunted_by(&self) -> Option<&'static str> {
        match self.plan.ci {
            Ci::GitHub => Some("RUNNER_TRACKING_ID"),
            Ci::Azure => Some("VSTS_PROCESS_LOOKUP_ID"),
            Ci::Jenkins => Some("JENKINS_NODE_COOKIE"),
            _ => None,
        }
    }
}

fn check_out(from: &Path, to: &Path, work: Work, hole: &BlackHole) {
    for name in ["backend.tf", ".terraform/terraform.tfstate"] {
        fs::copy(from.join(name), to.join(name)).expect("a file can be copied");
    }
    let does = |command: &str| {
        format!(
            "resource \"terraform_data\" \"work\" {{\n  provisioner \"local-exec\" {{\n    command = {command:?}\n  }}\n}}\n"
        )
    };
    let text = match work {
        // In two parts, because Terraform shows the command before it starts it.
        Work::Quick => does("echo as''leep"),
        Work::Sleep(time) => does(&format!("echo as''leep; exec sleep {}", time as f64 / 1000.0)),
        Work::Hang => format!(
            "data \"terraform_remote_state\" \"silent\" {{\n  backend = \"http\"\n  config = {{\n    address = {:?}\n  }}\n}}\n",
            hole.url()
        ),
        Work::Dies => does("echo as''leep; sh die.sh"),
        // Its process lives for as long as something waits for it.
        Work::Provider => {
            let provider = from.with_file_name("provider");
            for name in [".terraform.lock.hcl", "provider.tf"] {
                fs::copy(provider.join(name), to.join(name)).expect("a file can be copied");
            }
            let providers = to.join(".terraform/providers");
            std::os::unix::fs::symlink(provider.join(".terraform/providers"), providers).expect("a link can be made");
            let after = format!(
                "resource \"aws_s3_object\" \"after\" {{\n  bucket = {BUCKET:?}\n  key = \"made-${{terraform.workspace}}\"\n  \
                 content = \"made\"\n  depends_on = [terraform_data.work]\n}}\n"
            );
            does("echo as''leep; exec sleep 20") + &after
        }
    };
    fs::write(to.join("main.tf"), text).expect("a file can be written");
    fs::write(to.join("die.sh"), "kill -9 \"$(awk '{print $4}' /proc/$PPID/stat)\"\n").expect("a file can be written");
}

/// A user that nobody else is: what limits a user's processes counts those of all its processes.
fn new_user() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    200_000 + std::process::id() % 10_000 * 10_000 + COUNT.fetch_add(1, Ordering::Relaxed) % 10_000
}

fn own(path: &Path, user: u32) {
    let _ = std::os::unix::fs::lchown(path, Some(user), Some(user));
    if path.is_symlink() {
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        own(&entry.path(), user);
    }
}

fn hold(bed: &Bed, guard: &Guard, credentials: &str, sessions: &Path, size: u64) -> Running {
    let script = "mount -t tmpfs -o size=\"$1\"k,mode=755 tmpfs \"$0\" && echo held && exec sleep 1000";
    // Not with the run's own credentials: its CI does not signal it.
    let holder = bed.command(Path::new("unshare"), guard, &credentials.replace('R', "H"), bed.url());
    let holder = holder.args(["--mount", "sh", "-c", script]).arg(sessions).arg(size.to_string()).start();
    holder.wait_for_stdout("held", HANGS);
    holder
}

struct World<'a> {
    bed: &'a Bed,
    schedule: &'a Schedule,
    guard: Guard,
    proxy: FaultProxy,
    dir: PathBuf,
    jobs: Vec<Job>,
    key: String,
    evidence: Mutex<Vec<Value>>,
}

impl World<'_> {
    fn workspace(&self) -> &str {
        &self.key
    }

    fn state(&self) -> String {
        format!("env:/{}/{KEY}", self.workspace())
    }

    fn note(&self, line: Value) {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn prepare(&self) {
        if self.schedule.workspace {
            let state = json!({
                "version": 4, "terraform_version": "1.11.4", "serial": 1, "lineage": format!("chaos-{}", self.key),
                "outputs": {}, "resources": [],
            });
            self.bed.s3(CREDENTIALS, "PUT", &self.state(), &state.to_string());
        }
        for fault in &self.schedule.faults {
            for (matching, is_table) in self.requests(fault.run, fault.sender, fault.about) {
                let last = fault.first + fault.count - 1;
                self.proxy.rule(matching.occurrences(fault.first..=last), actions(fault.fate, is_table));
            }
        }
    }

    /// What a request of a run's looks like, and whether it is one to a table.
    fn requests(&self, run: usize, sender: Sender, about: About) -> Vec<(Match, bool)> {
        let of_run = |matching: Match| {
            let agent = match sender {
                Sender::Tfguard => "aws-sdk-rust",
                Sender::Terraform => "Terraform",
            };
            matching.header("authorization", &self.jobs[run].credentials).header("user-agent", agent)
        };
        let lockfile = format!("{KEY}.tflock");
        let state = format!("{KEY}?");
        let requests = match about {
            About::TakeLock => {
                vec![
                    (Match::dynamodb("PutItem").body("attribute_not_exists"), true),
                    (Match::http("PUT", &lockfile), false),
                ]
            }
            About::ReadLock => vec![(Match::dynamodb("GetItem"), true), (Match::http("GET", &lockfile), false)],
            About::DeleteLock => vec![(Match::dynamodb("DeleteItem"), true), (Match::http("DELETE", &lockfile), false)],
            About::ReadState => vec![(Match::http("GET", &state), false)],
            About::WriteState => vec![(Match::http("PUT", &state), false)],
            About::WriteLease => {
                vec![(Match::dynamodb("UpdateItem").body("TfguardLease"), true), (Match::http("PUT", ".lease"), false)]
            }
            About::Anything => vec![(Match::any().header("x-amz-target", ""), true), (Match::any(), false)],
        };
        requests.into_iter().map(|(matching, is_table)| (of_run(matching), is_table)).collect()
    }

    /// A program in a run's job.
    fn command(&self, job: &Job, credentials: &str, words: &[&str]) -> Run {
        let mut line: Vec<String> = Vec::new();
        if let Some(holder) = &job.holder {
            line.extend(["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", holder.pid())]);
            line.push(format!("--wd={}", job.dir.join("work").display()));
        }
        if let Some(user) = job.user {
            let ids = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()];
            line.extend(["setpriv".to_owned()].into_iter().chain(ids));
        }
        line.extend(words.iter().map(|word| (*word).to_owned()));
        let run = self.bed.command(Path::new(&line[0]), &self.guard, credentials, self.proxy.url());
        run.args(&line[1..])
            .current_dir(job.dir.join("work"))
            .envs(job.variables())
            .envs([("HOME", &job.dir), ("TMPDIR", &job.dir.join("tmp"))])
            .env("TF_WORKSPACE", self.workspace())
            .new_group()
    }

    /// The job from its start to the end of its cleanup step.
    fn run(&self, at: usize) {
        let job = &self.jobs[at];
        thread::sleep(Duration::from_millis(job.plan.after));
        let began = now();
        let entry = self.start(job);
        let entry = job.entry.get_or_init(|| entry);
        if !entry.ends_within(HANGS) {
            self.note(json!({ "kind": "hang", "run": job.credentials, "what": "run" }));
            self.signal(job, SIGKILL, processes(&job.credentials));
        }
        let at = now();
        entry.ends_within(HANGS);
        self.note(json!({ "kind": "entry", "run": job.credentials, "began": began, "at": at }));
        if let Some(wait) = job.plan.cleanup {
            self.release(job, "release", wait);
        }
        if let Some(variable) = job.hunted_by() {
            let carries = |process: &Process| {
                let environ = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
                environ.split(|byte| *byte == 0).any(|entry| entry.starts_with(format!("{variable}=").as_bytes()))
            };
            let left = processes(&job.credentials).into_iter().filter(carries).collect();
            self.signal(job, if job.plan.ci == Ci::Jenkins { SIGTERM } else { SIGKILL }, left);
        }
        job.over.store(true, Ordering::Relaxed);
    }

    fn start(&self, job: &Job) -> Running {
        let plan = &job.plan;
        let tfguard = self.bed.tfguard().display().to_string();
        let mut words = vec![tfguard, format!("--grace={}s", plan.grace)];
        if plan.entry == Entry::Attached {
            words.push("--attach".to_owned());
        }
        if let Some(lease) = plan.lease {
            let options =
                [(lease.holds, "--lease=15s"), (lease.reclaims, "--reclaim"), (lease.is_elsewhere, "--no-annotate")];
            words.extend(options.iter().filter(|(is_given, _)| *is_given).map(|(_, option)| (*option).to_owned()));
        }
        words.push("--".to_owned());
        let apply =
            format!("terraform apply -input=false -auto-approve -no-color -lock-timeout={}s", plan.lock_timeout);
        if plan.entry == Entry::AroundScript {
            words.extend(["sh".to_owned(), "-c".to_owned(), format!("'{apply}; exit $?'")]);
        } else {
            words.push(apply);
        }
        let limit = match plan.lack {
            Lack::Descriptors(count) => format!("ulimit -n {count}\n"),
            Lack::Processes(count) if job.user.is_some() => format!("ulimit -u {count}\n"),
            _ => String::new(),
        };
        let line = words.join(" ");
        let script = match plan.entry {
            Entry::BelowShell => format!("{limit}{line}; exit $?"),
            _ => format!("{limit}exec {line}"),
        };
        self.command(job, &job.credentials, &["bash", "-c", &script]).start()
    }

    /// `tfguard release` in the run's job; its exit code.
    fn release(&self, job: &Job, what: &str, wait: u64) -> Option<i32> {
        let began = now();
        let (tfguard, wait) = (self.bed.tfguard().display().to_string(), format!("--wait={wait}s"));
        let release = self.command(job, &job.credentials, &[&tfguard, "release", &wait]).start();
        if !release.ends_within(HANGS) {
            self.note(json!({ "kind": "hang", "run": job.credentials, "what": what }));
            release.signal(SIGKILL);
        }
        let exit = release.wait(HANGS);
        self.ended(job, what, began, &exit);
        exit.code
    }

    fn ended(&self, job: &Job, what: &str, began: u64, exit: &Exit) {
        self.note(json!({
            "kind": "end", "run": job.credentials, "what": what, "began": began, "at": now(),
            "code": exit.code, "signal": exit.signal, "text": format!("{}\n{}", exit.out(), exit.err()),
        }));
    }

    /// Waits for an act's event; whether it came before the job was over.
    fn awaits(&self, act: &Act) -> bool {
        let job = &self.jobs[act.run];
        let start = Instant::now();
        while start.elapsed() < PATIENCE && !job.over.load(Ordering::Relaxed) {
            let came = job.entry.get().is_some_and(|entry| match act.after {
                Trigger::Started => true,
                Trigger::Request(sender, about) => self
                    .requests(act.run, sender, about)
                    .iter()
                    .any(|(matching, _)| self.proxy.sees_within(matching, LOOK)),
                Trigger::Asleep => {
                    entry.stdout().contains("asleep") || self.bed.recorder.has_said(&job.credentials, "asleep")
                }
                Trigger::Interrupted => {
                    entry.stdout().contains("Interrupt received")
                        || self.bed.recorder.has_said(&job.credentials, "Interrupt received")
                }
            });
            if came {
                thread::sleep(Duration::from_millis(act.delay));
                return true;
            }
            thread::sleep(LOOK);
        }
        false
    }

    fn act(&self, act: &Act) {
        if !self.awaits(act) {
            return;
        }
        let job = &self.jobs[act.run];
        self.note(json!({ "kind": "deed", "run": job.credentials, "at": now(), "deed": format!("{:?}", act.deed) }));
        match act.deed {
            Deed::Cancel => self.cancel(job),
            Deed::Kill(victim) => {
                let victims = self.victims(job, victim);
                // None of them gets to act on another's death.
                if victim == Victim::Tfguard {
                    self.signal(job, SIGSTOP, victims.clone());
                }
                self.signal(job, SIGKILL, victims);
            }
            Deed::Suspend(victim, time) => {
                let victims = self.victims(job, victim);
                self.signal(job, SIGSTOP, victims.clone());
                thread::sleep(Duration::from_millis(time));
                self.signal(job, SIGCONT, victims);
            }
            Deed::Interrupt => self.signal(job, SIGINT, self.victims(job, Victim::Terraform)),
            Deed::TakeOver => self.take_over(act.run),
            Deed::PlainTerraform => self.plain_terraform(act.run),
            Deed::Release => _ = self.release(job, "release", 3),
            Deed::EndCredentials => {
                for (matching, is_table) in [(Match::any().header("x-amz-target", ""), true), (Match::any(), false)] {
                    self.proxy
                        .rule(matching.header("authorization", &job.credentials), actions(Fate::Expired, is_table));
                }
            }
            Deed::CutOff(time) => cut_off(&self.proxy, &job.credentials, Duration::from_millis(time)),
            Deed::FillDisk => {
                let room = std::iter::repeat_n(0, 1 << 22).collect::<Vec<u8>>();
                let _ = job.holder.as_ref().map(|_| fs::write(job.sessions().join("fill"), room));
            }
            Deed::ReadOnly => permit(&job.sessions(), 0o500),
            Deed::LimitDescriptors(count) => {
                for process in self.victims(job, Victim::Tfguard) {
                    limit_descriptors(process.pid, count);
                }
            }
        }
    }

    fn cancel(&self, job: &Job) {
        let Some(entry) = job.entry.get() else { return };
        let pid = entry.pid().as_raw();
        for (signal, whom, time) in job.plan.ci.ladder() {
            if entry.has_ended() && !matches!(whom, Whom::Everybody) {
                return;
            }
            let all = processes(&job.credentials);
            let below = |of: i32| all.iter().filter(move |process| process.parent == of).cloned();
            let targets = match whom {
                Whom::Entry => all.iter().filter(|process| process.pid == pid).cloned().collect(),
                Whom::EntrysGroup => all.iter().filter(|process| process.group == pid).cloned().collect(),
                Whom::EntrysChildren => match below(pid).collect::<Vec<_>>() {
                    // tfguard takes the place of a shell that has nothing more to do.
                    children if children.is_empty() || job.plan.entry != Entry::BelowShell => {
                        all.iter().filter(|process| process.pid == pid).cloned().collect()
                    }
                    children => children,
                },
                Whom::EntrysTree => {
                    let mut tree: Vec<_> = all.iter().filter(|process| process.pid == pid).cloned().collect();
                    let mut at = 0;
                    while let Some(process) = tree.get(at) {
                        let children: Vec<_> = below(process.pid).collect();
                        tree.extend(children);
                        at += 1;
                    }
                    tree.reverse();
                    tree
                }
                Whom::Everybody => all,
            };
            self.signal(job, *signal, targets);
            entry.ends_within(Duration::from_millis(*time));
        }
    }

    fn victims(&self, job: &Job, victim: Victim) -> Vec<Process> {
        let all = processes(&job.credentials);
        let of_role =
            |roles: &[&str]| all.iter().filter(|process| roles.contains(&role(job, process))).cloned().collect();
        match victim {
            Victim::Front => of_role(&["front"]),
            Victim::Supervisor => of_role(&["supervisor"]),
            Victim::Tfguard => of_role(&["front", "supervisor"]),
            Victim::Terraform => of_role(&["terraform"]),
            Victim::Provider => of_role(&["provider"]),
            Victim::TerraformsGroup => {
                let groups: Vec<_> =
                    all.iter().filter(|process| role(job, process) == "terraform").map(|it| it.group).collect();
                all.iter().filter(|process| groups.contains(&process.group)).cloned().collect()
            }
            Victim::All => all,
        }
    }

    fn signal(&self, job: &Job, signal: Signal, targets: Vec<Process>) {
        for process in targets {
            // Before, so that nothing that comes of it is earlier.
            self.note(json!({
                "kind": "signal", "run": job.credentials, "at": now(), "signal": signal.as_str(), "pid": process.pid,
                "to": match role(job, &process) { "release" | "provider" => "other", role => role },
            }));
            let _ = nix::sys::signal::kill(Pid::from_raw(process.pid), signal);
        }
    }

    /// A person unlocks by force, and somebody else has the lock at once.
    fn take_over(&self, run: usize) {
        let credentials = format!("{}X{run:03}", self.key);
        let id = format!("{:08x}-0000-4000-8000-{:012x}", run, now() & 0xffff_ffff_ffff);
        let path = format!("{BUCKET}/{}", self.state());
        let lock = json!({
            "ID": id, "Operation": "OperationTypeApply", "Info": "", "Who": "somebody@else", "Version": "1.11.4",
            "Created": "2026-03-04T05:06:07.890123456Z", "Path": path,
        });
        if self.schedule.kind != Kind::Lockfile {
            let lock_id = json!({ "S": path });
            let key = json!({ "LockID": lock_id });
            self.bed.dynamodb(&credentials, "DeleteItem", &json!({ "TableName": TABLE, "Key": key }));
            let item = json!({ "LockID": lock_id, "Info": { "S": lock.to_string() } });
            self.bed.dynamodb(&credentials, "PutItem", &json!({ "TableName": TABLE, "Item": item }));
        }
        if self.schedule.kind != Kind::Table {
            let object = format!("{}.tflock", self.state());
            self.bed.s3(&credentials, "DELETE", &object, "");
            self.bed.s3(&credentials, "PUT", &object, &lock.to_string());
        }
    }

    fn plain_terraform(&self, run: usize) {
        let job = &self.jobs[run];
        let work = self.dir.join(format!("plain-{run}"));
        fs::create_dir_all(work.join(".terraform")).expect("a directory can be made");
        let hole = BlackHole::start();
        check_out(&self.bed.checkout(self.schedule.kind), &work, Work::Sleep(300), &hole);
        let credentials = format!("{}P{run:03}", self.key);
        let plain = self.bed.command(&self.bed.terraform, &self.guard, &credentials, self.proxy.url());
        let plain = plain.args(["apply", "-input=false", "-auto-approve", "-no-color", "-lock-timeout=2s"]);
        let plain = plain.current_dir(&work).env("HOME", &job.dir).env("TF_WORKSPACE", self.workspace()).start();
        plain.ends_within(HANGS);
    }

    /// What lives of the guarded runs and matters.
    fn living(&self) -> Vec<Process> {
        let matters = |process: &Process| process.program == "tfguard" || process.program.starts_with("terraform");
        processes(&format!("{}R", self.key)).into_iter().filter(matters).collect()
    }

    fn note_living(&self) {
        for process in self.living() {
            self.note(json!({ "kind": "living", "run": process.run, "pid": process.pid }));
        }
    }

    fn note_left(&self, when: &str) {
        let lock = format!("{BUCKET}/{}", self.state());
        let key = json!({ "LockID": { "S": lock } });
        let item = self.bed.dynamodb(CREDENTIALS, "GetItem", &json!({ "TableName": TABLE, "Key": key }));
        let content = json!({ "Info": item["Item"]["Info"]["S"] });
        self.note(json!({ "kind": "left", "when": when, "place": format!("{TABLE}:{lock}"), "content": content }));
        let object = format!("{}.tflock", self.state());
        if let (200, body) = self.bed.s3(CREDENTIALS, "GET", &object, "") {
            let (place, content) = (format!("{BUCKET}/{object}"), json!({ "body": body }));
            self.note(json!({ "kind": "left", "when": when, "place": place, "content": content }));
        }
    }

    /// Takes back all that stands in tfguard's way.
    fn calm(&self) {
        self.proxy.clear_rules();
        for job in &self.jobs {
            permit(&job.sessions(), 0o700);
            let _ = fs::set_permissions(job.sessions(), fs::Permissions::from_mode(0o755));
            let _ = fs::remove_file(job.sessions().join("fill"));
            for process in processes(&job.credentials) {
                limit_descriptors(process.pid, 1024);
                let _ = nix::sys::signal::kill(Pid::from_raw(process.pid), SIGCONT);
            }
        }
    }

    fn last_releases(&self) {
        thread::scope(|scope| {
            for job in &self.jobs {
                scope.spawn(move || {
                    // On a busy machine the time of one may be over before it is done.
                    (0..2).any(|_| self.release(job, "last", 120) == Some(0));
                });
            }
        });
    }

    /// Collects what there is, and leaves nothing behind.
    fn conclude(self) -> String {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) && !self.living().is_empty() {
            thread::sleep(LOOK);
        }
        for process in self.living() {
            self.note(json!({ "kind": "alive", "run": process.run, "pid": process.pid, "name": process.line }));
        }
        self.note_left("end");
        let (lock, object) = (format!("{BUCKET}/{}", self.state()), format!("{}.tflock", self.state()));
        self.guard.kill_all();
        // What the last look at the processes has seen.
        thread::sleep(2 * LOOK);
        let Self { bed, guard, dir, jobs, key, evidence, .. } = self;
        let mut lines = evidence.into_inner().unwrap_or_else(PoisonError::into_inner);
        for Job { plan, credentials, entry, .. } in jobs {
            let limited = plan.lack != Lack::Nothing || plan.work == Work::Dies;
            let attached = plan.entry == Entry::Attached;
            let reclaim = plan.lease.is_some_and(|lease| lease.reclaims);
            lines.push(json!({
                "kind": "run", "run": credentials, "attached": attached, "limited": limited, "reclaim": reclaim,
            }));
            let times =
                lines.iter().find(|line| line["kind"] == "entry" && line["run"] == credentials.as_str()).cloned();
            if let (Some(entry), Some(times)) = (entry.into_inner(), times) {
                let exit = entry.wait(HANGS);
                lines.push(json!({
                    "kind": "end", "run": credentials, "what": "run", "began": times["began"], "at": times["at"],
                    "code": exit.code, "signal": exit.signal, "text": format!("{}\n{}", exit.out(), exit.err()),
                }));
            }
        }
        lines.extend(bed.recorder.take(&key));
        lines.extend(bed.take_records(&key));
        drop(guard);
        for object in [format!("env:/{key}/{KEY}"), object] {
            bed.s3(CREDENTIALS, "DELETE", &object, "");
        }
        for lock in [format!("{lock}-md5"), lock] {
            let key = json!({ "LockID": { "S": lock } });
            bed.dynamodb(CREDENTIALS, "DeleteItem", &json!({ "TableName": TABLE, "Key": key }));
        }
        let _ = fs::remove_dir_all(dir);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// What a process of a run is.
fn role(job: &Job, process: &Process) -> &'static str {
    match process.program.as_str() {
        "terraform" => "terraform",
        "tfguard" if process.line.contains(" release ") => "release",
        "tfguard" if job.plan.entry == Entry::Attached || process.line.contains(" --supervise ") => "supervisor",
        "tfguard" => "front",
        name if name.starts_with("terraform-provider") => "provider",
        _ => "other",
    }
}

/// Drops, for so long, all that is sent with these credentials.
fn cut_off(proxy: &FaultProxy, credentials: &str, time: Duration) {
    let rule = proxy.rule(Match::any().header("authorization", credentials), actions(Fate::Dropped, false));
    thread::sleep(time);
    proxy.remove_rule(rule);
}

fn actions(fate: Fate, is_table: bool) -> Vec<Action> {
    let time = Duration::from_millis;
    let answer = |table: &str, (status, code): (u16, &str)| {
        let answer = if is_table { Answer::dynamodb(table, "chaos") } else { Answer::s3(status, code, "chaos") };
        vec![Action::Answer(answer)]
    };
    match fate {
        Fate::Dropped => vec![Action::Close],
        Fate::AnswerLost => vec![Action::Forward, Action::Close],
        Fate::Late(late) => vec![Action::Delay(time(late)), Action::Forward],
        Fate::TimedOut(late) => vec![Action::Delay(time(late)), Action::Close],
        Fate::Twice => vec![Action::Forward, Action::Forward],
        Fate::TwiceLate(late) => vec![Action::Forward, Action::Delay(time(late)), Action::Forward],
        Fate::ServerError => vec![Action::Answer(Answer::new(500, "chaos"))],
        Fate::Throttled => answer("ProvisionedThroughputExceededException", (503, "SlowDown")),
        Fate::Denied => answer("AccessDeniedException", (403, "AccessDenied")),
        Fate::Expired => answer("ExpiredTokenException", (400, "ExpiredToken")),
    }
}

/// Sets the mode of every directory below one, and its own.
fn permit(dir: &Path, mode: u32) {
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    below
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .for_each(|entry| permit(&entry.path(), mode));
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(mode));
}

fn limit_descriptors(pid: i32, count: u64) {
    let limits = |limits: Rlimit| Rlimit { current: Some(count), ..limits };
    let pid = rustix::process::Pid::from_raw(pid);
    let old = rustix::process::getrlimit(Resource::Nofile);
    let _ = prlimit(pid, Resource::Nofile, limits(old));
}

/// Guards against a schedule whose other faults are over with the cut.
#[test]
fn the_other_faults_of_a_run_that_was_cut_off_stay() {
    let aws = Aws::shared();
    let (proxy, table) = (FaultProxy::start(aws.url()), aws.unique("cut-off"));
    aws.create_table(&table);
    let dynamodb = Aws::dynamodb_at(proxy.url());
    let scans = || aws.block_on(dynamodb.scan().table_name(&table).send()).is_ok();
    proxy.rule(Match::dynamodb("Scan").nth(2), actions(Fate::Denied, true));
    assert!(scans());
    cut_off(&proxy, Aws::ENV[0].1, Duration::ZERO);
    assert!(!scans(), "the second one is denied");
    assert!(scans());
}
