//! The observer of a lease: a dead run's lock is taken over, a living one's never.
//!
//! The stand-in for a holder is the test itself, which writes the lease that a run with `--lease` would write.

mod by_hand;
mod holders;
mod waiting;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;

use crate::support::*;
use crate::{SOON, TFGUARD};

const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];
/// The shortest lease, and how long its observer waits.
const LEASE: Duration = Duration::from_secs(15);
const WAIT: Duration = Duration::from_millis(21_500);
const WAITING: &str = "waiting until the lock is gone";

fn terraform() -> PathBuf {
    Tools::get().any_terraform()
}

/// A lease's record of its next version.
fn lease(lock: &str) -> String {
    static BEATS: AtomicU32 = AtomicU32::new(1);
    let (beat, length) = (BEATS.fetch_add(1, Ordering::Relaxed), LEASE.as_millis());
    format!(r#"{{"schema":1,"lock":"{lock}","version":"{beat:032x}","length_ms":{length}}}"#)
}

/// The record that a run whose supervisor is this process writes beside its lock.
fn record(lock: &str, supervisor: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    let start: u64 = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let namespace = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid").unwrap());
    let record = serde_json::json!({
        "schema": 1, "lock": lock, "tfguard": "0.1.0", "started": "2026-11-20T04:11:21Z", "host": "h",
        "world": {"boot_id": boot.trim(), "pid_namespace": namespace},
        "supervisor": {"pid": supervisor, "start_ticks": start},
    });
    record.to_string()
}

/// A project behind a proxy, whose state a run with a lease has locked. It was applied once.
struct Leased {
    // First, so that its processes end before the proxy.
    project: Project<'static>,
    proxy: FaultProxy,
    table: bool,
    lockfile: bool,
    lock: LockInfo,
}

impl Leased {
    fn new(table: bool, lockfile: bool) -> Self {
        Self::of(table, lockfile, |project| project)
    }

    /// Its project has more to it than others.
    fn of(table: bool, lockfile: bool, more: fn(Project<'static>) -> Project<'static>) -> Self {
        let aws = Aws::shared();
        let proxy = FaultProxy::start(aws.url());
        let mut project = Project::new(aws, Kind::Quick).endpoint(proxy.url());
        if table {
            project = project.table();
        }
        if lockfile {
            project = project.lockfile();
        }
        let project = more(project).init(&terraform());
        project.apply();
        let lock = LockInfo::foreign(&project.lock_id());
        let leased = Self { project, proxy, table, lockfile, lock };
        leased.lock(&leased.lock);
        leased.beat();
        leased
    }

    /// In a table, by a lockfile, by both.
    fn all() -> Vec<Self> {
        [(true, false), (false, true), (true, true)].map(|(table, lockfile)| Self::new(table, lockfile)).into()
    }

    fn lock(&self, lock: &LockInfo) {
        if self.table {
            self.project.aws().plant_lock(self.project.table_name(), lock);
        }
        if self.lockfile {
            self.project.aws().plant_lockfile(lock);
        }
    }

    /// What the holder does now and then.
    fn beat(&self) {
        let (aws, lease) = (self.project.aws(), lease(&self.lock.id));
        if self.lockfile {
            aws.put_object(self.project.bucket(), &self.lease_key(), lease.clone().into_bytes());
        }
        if self.table {
            self.set("TfguardLease", lease);
        }
    }

    /// Writes an attribute of the lock's item.
    fn set(&self, attribute: &str, text: String) {
        let (aws, table) = (self.project.aws(), self.project.table_name());
        let mut item = aws.item(table, &self.project.lock_id()).unwrap();
        item.insert(attribute.to_owned(), AttributeValue::S(text));
        aws.put_item(table, item);
    }

    /// Leaves something that is no state.
    fn spoil_state(&self) {
        self.project.aws().put_object(self.project.bucket(), &self.project.state_key(), b"{".to_vec());
    }

    /// What the holder does at its end.
    fn unlock(&self) {
        let aws = self.project.aws();
        if self.table {
            aws.delete_item(self.project.table_name(), &self.project.lock_id());
        }
        if self.lockfile {
            aws.delete_object(self.project.bucket(), &format!("{}.tflock", self.project.state_key()));
            aws.delete_object(self.project.bucket(), &self.lease_key());
        }
    }

    fn lease_key(&self) -> String {
        format!("{}.tflock.lease", self.project.state_key())
    }

    /// An apply that waits for the lock, with these options besides.
    fn apply(&self, options: &[&str]) -> Run {
        let options = ["--reclaim"].iter().chain(options);
        self.project.tfguard(TFGUARD, options, APPLY)
    }

    /// The same, once it waits.
    fn waiting(&self, options: &[&str]) -> Running {
        let run = self.apply(options).new_group().start();
        run.wait_for_stderr(WAITING, SOON);
        run
    }

    /// The halves of its lock that are there, and the lease of a lockfile.
    fn left(&self) -> Vec<&'static str> {
        let table = self.table && self.project.lock().is_some();
        let lockfile = self.lockfile && self.project.lock_in_bucket().is_some();
        let lease = self.project.aws().object(self.project.bucket(), &self.lease_key()).is_some();
        let halves = [(table, "item"), (lockfile, "lockfile"), (lease, "lease")];
        halves.into_iter().filter_map(|(there, name)| there.then_some(name)).collect()
    }

    /// All that there is of a leased lock.
    fn whole(&self) -> Vec<&'static str> {
        let halves = [(self.table, "item"), (self.lockfile, "lockfile"), (self.lockfile, "lease")];
        halves.into_iter().filter_map(|(there, name)| there.then_some(name)).collect()
    }

    /// The requests of tfguard's that delete: Terraform's have no condition.
    fn deletes(&self) -> usize {
        let of_table = self.proxy.seen_matching(&Match::dynamodb("DeleteItem").body("ConditionExpression"));
        let of_file = self.proxy.seen_matching(&Match::http("DELETE", ".tflock?"));
        of_table.len() + of_file.iter().filter(|request| request.header("if-match").is_some()).count()
    }

    /// No session of the run is left.
    #[track_caller]
    fn assert_nothing_begun(&self) {
        assert_eq!(session_dirs(&self.project.sessions()), [""; 0].map(PathBuf::from));
        assert_eq!(self.project.terraforms(), [0; 0]);
    }
}
