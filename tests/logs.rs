//! Logs and output of real Terraforms, whole, torn and forged, through the public API. See `fixtures/logs/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tfguard::model::{Entry, LockClaim, LockKinds, Phase, Stage};
use tfguard::observe::{
    Believed, Ending, Expectations, Fact, InterruptScanner, Interrupts, Left, Observer, Refusal, Splitter,
};

const VERSIONS: [&str; 9] = ["1.6.6", "1.8.4", "1.9.8", "1.10.5", "1.11.4", "1.12.2", "1.13.5", "1.14.9", "1.15.5"];
const FOREIGN: &str = "11111111-2222-3333-4444-555555555555";
const DONE: Ending = Ending { exited_zero: true, by_signal_or_kill: false, unclean: false };
const FAILED: Ending = Ending { exited_zero: false, by_signal_or_kill: false, unclean: false };
const KILLED: Ending = Ending { exited_zero: false, by_signal_or_kill: true, unclean: false };

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/logs")
}

fn load(version: &str, name: &str) -> String {
    let path = fixtures().join(version).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All logs, by `version/name`.
fn all_logs() -> BTreeMap<String, String> {
    let mut logs = BTreeMap::new();
    for version in VERSIONS {
        for entry in fs::read_dir(fixtures().join(version)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".log") {
                logs.insert(format!("{version}/{name}"), load(version, &name));
            }
        }
    }
    assert!(logs.len() > 80, "fixtures are missing: {}", logs.len());
    logs
}

fn tells_success(version: &str) -> bool {
    !matches!(version, "1.6.6" | "1.8.4" | "1.9.8")
}

fn now() -> Timestamp {
    "2026-11-20T07:00:00Z".parse().unwrap()
}

fn observer() -> Observer {
    let believed = Believed { records: true, requests: false, states: Vec::new() };
    Observer::new(
        believed,
        Expectations { started: "2026-11-20T05:30:00Z".parse().unwrap(), nodename: Some("runner".into()) },
    )
}

fn observe(log: impl AsRef<[u8]>) -> (Observer, Vec<Fact>) {
    let mut observer = observer();
    let facts = observer.feed(log.as_ref(), now());
    (observer, facts)
}

fn claims(observer: &Observer) -> Vec<LockClaim> {
    observer.ledger().entries().iter().map(|entry| entry.claim.clone()).collect()
}

fn refusals(facts: &[Fact]) -> Vec<&Refusal> {
    facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Refused(refused) => Some(&refused.reason),
            _ => None,
        })
        .collect()
}

fn phases(facts: &[Fact]) -> Vec<Phase> {
    facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Phase(phase) => Some(*phase),
            _ => None,
        })
        .collect()
}

/// What a real Terraform logs of an ordinary run: the operations it locked for, the locks that are left, and the phases.
fn summary(log: &str, ending: Ending) -> (Vec<String>, Vec<Left<Entry>>, Vec<Phase>) {
    let (observer, facts) = observe(log);
    assert_eq!(refusals(&facts), [] as [&Refusal; 0]);
    let operations = claims(&observer).into_iter().map(|claim| claim.operation).collect();
    (operations, observer.left(ending), phases(&facts))
}

#[test]
fn orderly_runs_of_every_version_leave_nothing() {
    use Phase::{Applying, Planning, Unknown};
    for version in VERSIONS {
        let run = |name: &str| summary(&load(version, name), DONE);
        let plan = (vec!["OperationTypePlan".to_owned()], vec![], vec![Planning, Unknown]);
        assert_eq!(run("plan.log"), plan, "{version}");
        assert_eq!(run("waited.log"), plan, "{version}");
        let apply = (vec!["OperationTypeApply".to_owned()], vec![], vec![Planning, Applying, Unknown]);
        assert_eq!(run("apply.log"), apply, "{version}");
        if tells_success(version) {
            assert_eq!(run("lockfile.log"), apply, "{version}");
            assert_eq!(run("both.log"), apply, "{version}");
        }
        let (operations, left, _) = run("workspace.log");
        assert_eq!(operations, ["init", "OperationTypePlan"], "{version}");
        assert_eq!(left, [], "{version}");
    }
}

#[test]
fn claims_hold_what_the_lock_will_hold() {
    for version in VERSIONS {
        let mut names = vec![("apply", LockKinds::DynamoDb)];
        if tells_success(version) {
            names.extend([("lockfile", LockKinds::Lockfile), ("both", LockKinds::Both)]);
        } else {
            names[0].1 = LockKinds::Unstated;
        }
        for (name, kinds) in names {
            let (observer, _) = observe(load(version, &format!("{name}.log")));
            let [claim] = claims(&observer).try_into().unwrap();
            assert_eq!(claim.kinds, kinds);
            assert_eq!(claim.version, version);
            assert_eq!(claim.who, "ci@runner");
            assert_eq!(claim.bucket, "tfstate");
            assert_eq!(claim.state_key, format!("{version}/{name}.tfstate"));
        }
        let (observer, _) = observe(load(version, "workspace.log"));
        for claim in claims(&observer) {
            assert_eq!(claim.state_key, format!("env:/dev/{version}/workspace.tfstate"));
        }
    }
}

#[test]
fn unorderly_endings_leave_the_lock_to_account_for() {
    for version in VERSIONS {
        let only = |name: &str, ending| {
            let [left] = summary(&load(version, name), ending).1.try_into().unwrap();
            (left.entry.stage, left.may_still_appear, left.unlock_in_flight)
        };
        let (_, facts) = observe(load(version, "killed.log"));
        assert_eq!(phases(&facts).last(), Some(&Phase::Applying));
        if tells_success(version) {
            assert_eq!(only("killed.log", KILLED), (Stage::Held, false, false), "{version}");
            assert_eq!(summary(&load(version, "interrupted.log"), FAILED).1, [], "{version}");
        } else {
            assert_eq!(only("killed.log", KILLED), (Stage::Attempted, true, false), "{version}");
            assert_eq!(only("interrupted.log", FAILED), (Stage::Unlocking, false, false), "{version}");
            assert_eq!(only("interrupted.log", KILLED), (Stage::Unlocking, false, true), "{version}");
        }
        // Its own ID, never that of the holder.
        assert_eq!(only("refused.log", FAILED), (Stage::Attempted, false, false), "{version}");
    }
}

#[test]
fn an_interrupt_shows_in_output_and_log() {
    let scan = |version: &str, name: &str| InterruptScanner::new(false).feed(load(version, name).as_bytes());
    let once = Interrupts { received: true, twice: false };
    for version in VERSIONS {
        assert_eq!(scan(version, "interrupted.stdout"), once, "{version}");
        let (_, facts) = observe(load(version, "interrupted.log"));
        assert_eq!(facts.iter().filter(|fact| **fact == (Fact::CoreStopped { alone: true })).count(), 1, "{version}");
        let (_, facts) = observe(load(version, "apply.log"));
        assert!(!facts.contains(&Fact::CoreStopped { alone: true }));
        // As OpenTofu words it.
        let log = load(version, "interrupted.log").replace(" terraform: Stop", " tofu: Stop");
        assert!(observe(log).1.contains(&Fact::CoreStopped { alone: true }));
        assert_eq!(scan(version, "refused.stderr"), Interrupts::default());
    }
    assert_eq!(scan("1.11.4", "interrupted-json.stdout"), once);
    assert_eq!(scan("1.11.4", "twice.stdout"), once);
    assert_eq!(scan("1.11.4", "twice.stderr"), Interrupts { received: false, twice: true });
    assert_eq!(scan("1.11.4", "twice-json.stdout"), Interrupts { received: true, twice: true });
}

#[test]
fn a_lock_that_two_interrupts_leaked_is_left() {
    for name in ["twice.log", "twice-json.log"] {
        let (_, left, phases) = summary(&load("1.11.4", name), KILLED);
        assert_eq!(left.len(), 1);
        assert_eq!(phases, [Phase::Planning]);
        // The plan inside an apply is not told to stop.
        assert!(!observe(load("1.11.4", name)).1.contains(&Fact::CoreStopped { alone: true }));
    }
}

/// Guards somebody else's lock that was asked for while the child planned: of an apply that had its lock by then, the
/// moment at which it began to plan counts, not the one at which it began to apply.
#[test]
fn the_first_word_under_a_lock_bounds_when_that_was_made() {
    for version in VERSIONS {
        let log = load(version, "apply.log");
        let time = |log: &str, words: &str| -> Timestamp {
            let line = log.lines().rfind(|line| line.contains(words)).unwrap();
            line.split(' ').next().unwrap().parse().unwrap()
        };
        assert_eq!(observe(&log).0.under_lock(), Some(time(&log, "apply calling Plan")), "{version}");
        // The next one's is another lock, but a Terraform that only reads has none.
        let next = load(version, "plan.log").replace("2026-11-20", "2026-11-21");
        let begun = next.split_inclusive('\n').next().unwrap();
        assert_eq!(observe(format!("{log}{begun}")).0.under_lock(), observe(&log).0.under_lock());
        assert_eq!(observe(format!("{log}{next}")).0.under_lock(), Some(time(&next, "plan calling Plan")), "{version}");
    }
}

/// The commands that lock otherwise than plan and apply do.
#[test]
fn other_commands() {
    let run = |name: &str| summary(&load("1.11.4", name), DONE);
    let (observer, _) = observe(load("1.11.4", "migrate.log"));
    let [source, destination] = claims(&observer).try_into().unwrap();
    assert_eq!(source.operation, "migration source state");
    assert_eq!(destination.operation, "migration destination state");
    assert_eq!(destination.state_key, "1.11.4/mig dir/terra\"form.tfstate");
    assert_eq!(run("migrate.log").1, []);

    assert_eq!(run("taint.log"), (vec!["taint".into()], vec![], vec![]));
    let refresh = run("refresh.log");
    assert_eq!(refresh.0, ["OperationTypeRefresh"]);
    assert!(refresh.2.contains(&Phase::Applying));

    let (operations, left, phases) = run("lock-false.log");
    assert_eq!((operations.len(), left.len()), (0, 0));
    assert_eq!(phases, [Phase::Planning, Phase::Applying]);
}

#[test]
fn force_unlock_of_somebody_elses_lock_makes_it_nobody_of_ours() {
    let log = load("1.11.4", "force-unlock.log");
    assert!(log.contains(FOREIGN));
    assert_eq!(summary(&log, KILLED), (vec![], vec![], vec![]));
}

#[test]
fn several_terraforms_in_one_log_are_told_apart() {
    let (observer, _) = observe(load("1.11.4", "nested.log"));
    let keys: Vec<_> = claims(&observer).into_iter().map(|claim| claim.state_key).collect();
    assert_eq!(keys, ["1.11.4/nested.tfstate", "1.11.4/inner.tfstate"]);
    assert_eq!(observer.left(DONE), []);

    let (observer, facts) = observe(load("1.11.4", "two-at-once.log"));
    assert_eq!(phases(&facts).last(), Some(&Phase::Applying));
    let left = observer.left(KILLED);
    let held: Vec<_> = left.iter().map(|left| (left.entry.claim.version.as_str(), left.entry.stage)).collect();
    assert!(held.contains(&("1.11.4", Stage::Held)), "{held:?}");
}

#[test]
fn the_trace_tells_what_info_tells_and_nobody_elses_lock() {
    for version in ["1.9.8", "1.11.4", "1.15.5"] {
        let (operations, left, _) = summary(&load(version, "trace.log"), DONE);
        assert_eq!((operations, left), (vec!["OperationTypeApply".into()], vec![]), "{version}");
        // The answer of the read that followed holds the other's lock.
        let log = load(version, "trace-refused.log");
        assert!(log.contains(FOREIGN));
        let (observer, facts) = observe(&log);
        assert_eq!(refusals(&facts), [] as [&Refusal; 0]);
        let [claim] = claims(&observer).try_into().unwrap();
        assert_ne!(claim.id.as_str(), FOREIGN);
    }
    assert_eq!(summary(&load("1.15.5", "trace-lockfile.log"), DONE).1, []);
}

#[test]
fn requests_are_read_with_their_bodies() {
    let mut splitter = Splitter::default();
    let mut records = splitter.feed(load("1.11.4", "trace.log").as_bytes());
    records.extend(splitter.finish());
    assert!(records.iter().all(|record| !record.torn));
    let put = records
        .iter()
        .find(|record| record.field("http.request.header.x_amz_target") == Some("DynamoDB_20120810.PutItem"))
        .expect("the fixture has the request");
    let body: serde_json::Value = serde_json::from_str(put.field("http.request.body").unwrap()).unwrap();
    let info = body["Item"]["Info"]["S"].as_str().unwrap();
    assert!(info.contains(put.field("tf_backend.lock.id").unwrap()), "{info}");
}

/// Whatever is cut off a log, and wherever it is chopped, what is known of the rest does not change.
#[test]
fn a_log_says_at_every_byte_what_it_says_as_a_whole() {
    for (name, log) in all_logs() {
        let (whole, facts) = observe(&log);
        let (mut bytewise, mut so_far) = (observer(), Vec::new());
        for (at, byte) in log.bytes().enumerate() {
            so_far.extend(bytewise.feed(&[byte], now()));
            assert!(facts.starts_with(&so_far), "{name} byte {at}");
        }
        assert_eq!(so_far, facts, "{name}");
        assert_eq!(bytewise.ledger().entries(), whole.ledger().entries(), "{name}");
    }
}

/// A record that was cut short, as on a full disk, joins the next one to its line. Guards against taking the ID of
/// one and the path of the other.
#[test]
fn records_that_run_into_each_other_make_no_new_lock() {
    let logs =
        [("1.9.8", "killed.log"), ("1.11.4", "migrate.log"), ("1.11.4", "two-at-once.log"), ("1.15.5", "both.log")];
    for (version, name) in logs {
        let log = load(version, name);
        let known = claims(&observe(&log).0);
        let mut last = 0;
        for line in log.split_inclusive('\n') {
            let (begin, end) = (last, last + line.len());
            last = end;
            for cut in begin..end {
                let joined = [&log[..cut], &log[end..]].concat();
                for claim in claims(&observe(joined).0) {
                    assert!(known.contains(&claim), "{version}/{name} cut at {cut}: {claim:?}");
                }
            }
        }
    }
}

fn forged() -> String {
    let log = load("1.11.4", "killed.log");
    log.lines()
        .find(|line| line.contains(": Locked"))
        .map(|line| {
            let (_, tail) = line.split_once("lock.id=").unwrap();
            line.replace(&tail[..FOREIGN.len()], FOREIGN)
        })
        .expect("the fixture has a lock")
}

#[test]
fn a_foreign_lock_inside_other_text_is_not_seen() {
    let line = forged();
    let quoted = line.replace('"', "\\\"");
    for log in [
        format!("  | {line}\n"),
        format!("  {line}\n"),
        format!("\t{line}\n"),
        format!("2026-11-20T06:00:00.000Z [DEBUG] provider.aws: said: {line}\n"),
        format!("2026-11-20T06:00:00.000Z [INFO]  CLI args: []string{{\"{quoted}\"}}\n"),
        format!(
            "2026-11-20T06:00:00.000Z [DEBUG] backend-s3: HTTP Response Received:\n  http.response.body=\n  | {line}\n  | {line}\n  \n"
        ),
        format!(
            "2026-11-20T06:00:00.000Z [INFO]  backend-s3: Downloading remote state: x=\"{quoted}\" tf_backend.operation=Get\n"
        ),
        format!("2026-11-20T06:00:00.000Z [INFO]  backend-s3: Downloading {line}\n"),
        line.clone(),
    ] {
        let (observer, _) = observe(&log);
        assert_eq!(claims(&observer), [], "{log}");
    }
    // The line by itself is a record: whoever can write to the log can forge one.
    assert_eq!(claims(&observe(format!("{line}\n")).0).len(), 1);
}

/// A raw newline in a message is all it takes to forge a record. One that names another machine's or an earlier run's
/// lock as it is in the store is refused; one that does not name it so is refused by the store.
#[test]
fn a_forged_record_of_somebody_elses_lock_is_refused_and_told_once() {
    let line = forged();
    let later = now() + SignedDuration::from_hours(1);
    let time = &line[..line.find(' ').unwrap()];
    for (forgery, expected) in [
        (line.replace("ci@runner", "someone@elsewhere"), Refusal::OtherHost("someone@elsewhere".into())),
        (
            line.replace(time, "2026-11-19T04:03:02.001Z"),
            Refusal::TooEarly("2026-11-19T04:03:02.001Z".parse().unwrap()),
        ),
        (line.replace(time, &later.to_string()), Refusal::TooLate(later)),
        (line.replace("operation=Lock", "operation=Unlock"), Refusal::WrongOperation),
        (line.replace("[INFO] ", "[ERROR]"), Refusal::WrongLevel),
    ] {
        let log = format!("2026-11-20T06:00:00.000Z [DEBUG] provider.evil: hello\n{forgery}\n{forgery}\n");
        let (observer, facts) = observe(&log);
        assert_eq!(claims(&observer), []);
        assert_eq!(refusals(&facts), [&expected]);
        let Fact::Refused(refused) = &facts[0] else { panic!() };
        assert_eq!(refused.id.as_deref(), Some(FOREIGN));
        assert!(refused.to_string().contains(FOREIGN));
    }
}

#[test]
fn a_flood_of_refused_records_is_bounded() {
    let log: String = (0..5000).map(|n| forged().replace("ci@runner", &format!("ci@host{n}")) + "\n").collect();
    assert!(observe(log).1.len() <= 32);
}

/// Neither the memory nor the time of a look at each of them.
#[test]
fn a_flood_of_locks_is_bounded_and_told_of() {
    let line = forged();
    let mut observer = observer();
    let mut refused = Vec::new();
    for n in 0..1_050 {
        let record = line.replace(FOREIGN, &format!("{n:08x}{}", &FOREIGN[8..])) + "\n";
        let facts = observer.feed(record.as_bytes(), now());
        refused.extend(refusals(&facts).into_iter().cloned());
    }
    assert_eq!((observer.ledger().entries().len(), refused), (1000, vec![Refusal::TooMany(1000)]));
    // What is known goes on.
    let known =
        line.replace(FOREIGN, &format!("{:08x}{}", 999, &FOREIGN[8..])).replace("operation=Lock", "operation=Unlock");
    observer.feed((known.replace("Locked", "Unlocked") + "\n").as_bytes(), now());
    assert_eq!(observer.ledger().entries()[999].stage, Stage::Unlocked);
}

proptest! {
    /// However the log is chopped.
    #[test]
    fn chunks_make_no_difference(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let log = load("1.11.4", "trace.log");
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(log.len())).collect();
        cuts.extend([0, log.len()]);
        cuts.sort_unstable();
        let (mut observer, mut facts) = (observer(), Vec::new());
        for pair in cuts.windows(2) {
            facts.extend(observer.feed(&log.as_bytes()[pair[0]..pair[1]], now()));
        }
        prop_assert_eq!(facts, observe(&log).1);
    }

    /// Broken bytes never panic, and never make a lock of a path that is not in the log.
    #[test]
    fn damage_is_survived(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..60),
    ) {
        let mut log = load("1.10.5", "workspace.log").into_bytes();
        for (at, byte) in &damage {
            let at = at.index(log.len());
            log[at] = *byte;
        }
        let (observer, _) = observe(&log);
        for claim in claims(&observer) {
            let path = claim.lock_id();
            prop_assert!(log.windows(path.len()).any(|window| window == path.as_bytes()));
            prop_assert!(claim.who.ends_with("@runner"));
        }
    }
}

/// By these records what Terraform prints of its resources is believed.
#[test]
fn every_version_logs_of_which_resource_it_begins_a_change() {
    for version in VERSIONS.into_iter().chain(["1.5.7", "opentofu-1.12.6"]) {
        let records = Splitter::default().feed(load(version, "apply.log").as_bytes());
        let begun = records.iter().filter(|record| record.logger == "Starting apply for ");
        assert_eq!(begun.map(|record| record.message.as_str()).collect::<Vec<_>>(), ["terraform_data.a"], "{version}");
    }
}
