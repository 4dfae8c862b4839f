//! Locks that show only in the requests of a log: OpenTofu's, and those of Terraform 1.0 to 1.5. The logs are real ones. OpenTofu up
//! to 1.9 logs none of its requests for locks, and 1.10 those for lockfiles alone.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use proptest::prelude::*;
use tfguard::model::{Grade, LockClaim, LockKinds, Phase, Product, Stage, TraceEntry};
use tfguard::observe::{Believed, Ending, Expectations, Fact, Left, Observer, Refusal, Splitter};

const FOREIGN: &str = "11111111-2222-3333-4444-555555555555";
const OURS: &str = "22222222-3333-4444-5555-666666666666";
const DONE: Ending = Ending { exited_zero: true, by_signal_or_kill: false, unclean: false };
const KILLED: Ending = Ending { exited_zero: false, by_signal_or_kill: true, unclean: false };

fn load(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/logs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn observer(records: bool, states: &[(&str, &str)]) -> Observer {
    let believed = Believed {
        records,
        requests: true,
        states: states.iter().map(|(bucket, key)| ((*bucket).to_owned(), (*key).to_owned())).collect(),
    };
    let expectations =
        Expectations { started: "2026-11-19T00:00:00Z".parse().unwrap(), nodename: Some("runner".to_owned()) };
    Observer::new(believed, expectations)
}

fn now() -> Timestamp {
    "2026-11-30T00:00:00Z".parse().unwrap()
}

fn observe_with(log: &str, states: &[(&str, &str)]) -> (Observer, Vec<Fact>) {
    let mut observer = observer(false, states);
    let mut facts = observer.feed(log.as_bytes(), now());
    facts.extend(observer.finish(now()));
    (observer, facts)
}

fn observe(log: &str) -> (Observer, Vec<Fact>) {
    observe_with(log, &[])
}

fn refusals(facts: &[Fact]) -> Vec<Refusal> {
    let refused = |fact: &Fact| match fact {
        Fact::Refused(refused) => Some(refused.reason.clone()),
        _ => None,
    };
    facts.iter().filter_map(refused).collect()
}

fn claims(observer: &Observer) -> Vec<LockClaim> {
    observer.ledger().entries().iter().map(|entry| entry.claim.clone()).collect()
}

fn stages(observer: &Observer) -> Vec<Stage> {
    observer.ledger().entries().iter().map(|entry| entry.stage).collect()
}

fn traces(observer: &Observer) -> Vec<TraceEntry> {
    observer.traces_left(KILLED).into_iter().map(|left| left.entry).collect()
}

/// A log of an orderly run with a lock in a table.
struct Orderly {
    product: Product,
    version: &'static str,
    operation: &'static str,
    key: String,
    log: String,
}

fn orderly() -> Vec<Orderly> {
    let writers = [(Product::OpenTofu, "1.12.6", "opentofu-1.12.6"), (Product::Terraform, "1.5.7", "1.5.7")];
    let runs = [("plan", "OperationTypePlan"), ("apply", "OperationTypeApply"), ("waited", "OperationTypePlan")];
    let logs = writers.into_iter().flat_map(|(product, version, folder)| {
        runs.map(|(name, operation)| {
            let key = format!("{version}/{name}.tfstate");
            Orderly { product, version, operation, key, log: load(&format!("{folder}/{name}.log")) }
        })
    });
    logs.collect()
}

#[test]
fn an_orderly_run_shows_its_lock_from_the_request_to_the_release() {
    for Orderly { product, version, operation, key, log } in orderly() {
        let (observer, facts) = observe(&log);
        assert_eq!(refusals(&facts), [], "{version}");
        assert_eq!(observer.product(), Some((product, version)));
        let [entry] = observer.ledger().entries() else { panic!("{version}: {:?}", observer.ledger()) };
        assert_eq!(entry.grade, Grade::Request);
        let claim = &entry.claim;
        assert_eq!((claim.operation.as_str(), claim.who.as_str()), (operation, "ci@runner"), "{version}");
        assert_eq!((claim.version.as_str(), claim.kinds), (version, LockKinds::DynamoDb));
        assert_eq!((claim.bucket.as_str(), &claim.state_key), ("tfstate", &key));
        assert_eq!(observer.left(DONE), [], "{version}");
        let stages: Vec<_> = facts
            .iter()
            .filter_map(|fact| match fact {
                Fact::Lock(entry) => Some(entry.stage),
                _ => None,
            })
            .collect();
        assert!(facts.contains(&Fact::Phase(Phase::Planning)), "{version}");
        let life = [Stage::Attempted, Stage::Held, Stage::Unlocking, Stage::Unlocked];
        assert_eq!(stages, life, "{version}");
    }
}

/// What a log says of its own lock, cut off at any byte: never more than is true, and nothing is taken back.
#[test]
fn a_log_cut_off_anywhere_leaves_the_lock_to_account_for() {
    for Orderly { version, log, .. } in orderly() {
        let (whole, _) = observe(&log);
        let id = &claims(&whole)[0].id;
        let sent = log.find("attribute_not_exists").unwrap();
        let deleted = log.rfind("DeleteItem").unwrap();
        for end in (0..log.len()).step_by(11).filter(|end| log.is_char_boundary(*end)) {
            let (observer, facts) = observe(&log[..end]);
            assert_eq!(refusals(&facts), [], "{version} {end}");
            assert!(claims(&observer).iter().all(|claim| claim.id == *id), "{version} {end}");
            if end < sent {
                assert_eq!(claims(&observer), [], "{version} {end}");
            } else if end < deleted {
                assert_eq!(observer.left(KILLED).len(), claims(&observer).len(), "{version} {end}");
            }
        }
    }
}

#[test]
fn a_killed_run_leaves_a_lock_that_is_held() {
    for version in ["opentofu-1.12.6", "1.5.7"] {
        let (observer, _) = observe(&load(&format!("{version}/killed.log")));
        assert_eq!(stages(&observer), [Stage::Held], "{version}");
    }
}

/// The dumps of 0.15 are those of later ones; 0.14 and before have another format.
#[test]
fn a_terraform_before_1_0_is_known_by_its_version_and_its_locks_are_not_learned() {
    let log = load("1.5.7/killed.log");
    let by_go = |line: &str| match line.split_once("Z [") {
        Some((_, text)) => format!("2026/11/20 06:46:13 [{}\n", text.replacen("]  ", "] ", 1)),
        None => format!("{line}\n"),
    };
    for (version, log) in [
        ("0.15.5", log.replace("1.5.7", "0.15.5")),
        ("0.13.7", log.replace("1.5.7", "0.13.7").lines().map(by_go).collect()),
    ] {
        let (observer, facts) = observe(&log);
        assert_eq!(observer.product(), Some((Product::Terraform, version)));
        assert_eq!(facts[0], Fact::Unlearned);
        assert_eq!((claims(&observer), refusals(&facts)), (vec![], vec![]), "{version}");
    }
}

/// The answer to `GetItem` has the other holder's lock in its body.
#[test]
fn a_refused_run_knows_its_own_lock_and_no_other() {
    for version in ["opentofu-1.12.6", "1.5.7"] {
        let log = load(&format!("{version}/refused.log"));
        assert!(log.contains(FOREIGN));
        let (observer, facts) = observe(&log);
        assert_eq!(refusals(&facts), []);
        assert_eq!(stages(&observer), [Stage::Attempted], "refused, or its answer was lost before: look");
        assert!(claims(&observer).iter().all(|claim| claim.id.as_str() != FOREIGN));
    }
}

const CREATED: &str = "2026-11-20T06:01:10.653315032Z";

/// A log with one request for a lock.
fn request(path: &str) -> String {
    let info = format!(
        r#"{{\"ID\":\"{OURS}\",\"Operation\":\"OperationTypeApply\",\"Info\":\"\",\"Who\":\"ci@runner\",\"Version\":\"1.11.4\",\"Created\":\"{CREATED}\",\"Path\":\"{path}\"}}"#
    );
    let body = format!(
        r#"{{"ConditionExpression":"attribute_not_exists(LockID)","Item":{{"LockID":{{"S":"{path}"}},"Info":{{"S":"{info}"}}}},"TableName":"locks"}}"#
    );
    record("PutItem", &body)
}

fn record(operation: &str, body: &str) -> String {
    format!(
        "2026-11-20T06:01:10.653Z [DEBUG] backend-s3: HTTP Request Sent: aws.dynamodb.table_names=[\"locks\"] \
         aws.region=eu-central-1 rpc.method=DynamoDB/{operation} http.method=POST\n  http.request.body=\n  | {body}\n   \
         http.request.header.x_amz_target=DynamoDB_20120810.{operation}\n"
    )
}

fn answer(operation: &str, status: u16) -> String {
    format!(
        "2026-11-20T06:01:10.660Z [DEBUG] backend-s3: HTTP Response Received: aws.dynamodb.table_names=[\"locks\"] \
         aws.region=eu-central-1 rpc.method=DynamoDB/{operation} http.status_code={status}\n  http.response.body=\n  | \
         {{}}\n"
    )
}

fn delete(path: &str, id: Option<&str>) -> String {
    let condition = id.map(|id| {
        format!(
            r#""ConditionExpression":"Info = :info","ExpressionAttributeValues":{{":info":{{"S":"{{\"ID\":\"{id}\"}}"}}}},"#
        )
    });
    let condition = condition.unwrap_or_default();
    record("DeleteItem", &format!(r#"{{{condition}"Key":{{"LockID":{{"S":"{path}"}}}},"TableName":"locks"}}"#))
}

#[test]
fn other_writes_are_no_locks() {
    let whole = request("tfstate/app.tfstate");
    assert_eq!(stages(&observe(&whole).0), [Stage::Attempted]);
    for (from, to) in [
        ("attribute_not_exists(LockID)", "attribute_exists(LockID)"),
        (r#""ConditionExpression":"attribute_not_exists(LockID)","#, ""),
        (r#""Info":{"S""#, r#""Digest":{"S""#),
        ("20120810.PutItem", "20120810.GetItem"),
        ("20120810.PutItem", "20120810.UpdateItem"),
        ("[DEBUG] backend-s3: ", "[DEBUG] provider.terraform-provider-aws: "),
        ("[DEBUG] backend-s3: ", "[DEBUG] backend-s3.aws-base: "),
        ("HTTP Request Sent", "HTTP Response Received"),
        ("http.request.body", "http.response.body"),
        (r#""locks"}"#, r#""locks""#),
    ] {
        let (observer, facts) = observe(&whole.replace(from, to));
        assert_eq!(claims(&observer), [], "{to}");
        assert_eq!(refusals(&facts), [], "{to}");
    }
}

/// Guards against a lock that is taken for a digest, because the key of its state ends as those of digests do.
#[test]
fn a_state_whose_key_ends_as_digests_do_is_locked_and_unlocked_too() {
    let path = "tfstate/app.tfstate-md5";
    let log = request(path) + &answer("PutItem", 200);
    let (observer, facts) = observe(&log);
    assert_eq!((stages(&observer), refusals(&facts)), (vec![Stage::Held], vec![]));
    assert_eq!(claims(&observer)[0].lock_id(), path);
    let (observer, _) = observe(&(log.clone() + &delete(path, None) + &answer("DeleteItem", 200)));
    assert_eq!(stages(&observer), [Stage::Unlocked]);
    // A digest beside it is deleted at the same time: whose answer it is, is not known.
    let both = delete("tfstate/other-md5", None) + &delete(path, None) + &answer("DeleteItem", 200);
    let (observer, _) = observe(&(log + &both));
    assert_eq!(stages(&observer), [Stage::Unlocking]);
}

/// `ReadTruncatedBody` adds a line to a body of a kilobyte and more, which has a single line.
#[test]
fn a_long_path_is_read_whole() {
    let path = format!("tfstate/{}app.tfstate", "a-long-directory/".repeat(50));
    let log = request(&path).replace("\n   http.request.header", "\n  | [truncated...]\n   http.request.header");
    let (observer, facts) = observe(&log);
    assert_eq!(refusals(&facts), []);
    assert_eq!(claims(&observer)[0].lock_id(), path);
}

#[test]
fn strange_locks_are_refused_and_told_of() {
    let whole = request("tfstate/app.tfstate");
    for (from, to, reason) in [
        (r#"\"Path\":\"tfstate/app"#, r#"\"Path\":\"tfstate/other"#, Refusal::PathMismatch),
        ("ci@runner", "ci@elsewhere", Refusal::OtherHost("ci@elsewhere".to_owned())),
        (r#"\"ID\""#, r#"\"Nr\""#, Refusal::NoLock),
        (CREATED, "yesterday", Refusal::Created("yesterday".to_owned())),
        (CREATED, "2026-11-02T00:00:00Z", Refusal::TooEarly("2026-11-02T00:00:00Z".parse().unwrap())),
        (
            "2026-11-20T06:01:10.653Z",
            "2026-11-01T06:01:10.653Z",
            Refusal::TooEarly("2026-11-01T06:01:10.653Z".parse().unwrap()),
        ),
        (
            "2026-11-20T06:01:10.653Z",
            "2026-12-01T06:01:10.653Z",
            Refusal::TooLate("2026-12-01T06:01:10.653Z".parse().unwrap()),
        ),
    ] {
        let (observer, facts) = observe(&whole.replace(from, to));
        assert_eq!(claims(&observer), [], "{to}");
        assert_eq!(refusals(&facts), [reason], "{to}");
    }
    let (observer, facts) = observe(&whole.replace(OURS, "no-id"));
    assert!(matches!(refusals(&facts).as_slice(), [Refusal::Id(_)]) && claims(&observer).is_empty());
}

/// aws-sdk-go-base takes forty characters in a row for a secret.
#[test]
fn a_masked_path_is_the_one_that_is_expected_or_none() {
    let run = "environments/production/network/core/eu1";
    assert_eq!(run.len(), 40);
    let (key, masked) = (format!("a-{run}.tfstate"), format!("a-envi{}/eu1.tfstate", "*".repeat(32)));
    let log = request(&format!("tfstate/{masked}")) + &answer("PutItem", 200);
    let other = key.replace("network", "storage");

    let (observer, facts) = observe_with(&log, &[("tfstate", "x"), ("tfstate", &key)]);
    assert_eq!(refusals(&facts), []);
    assert_eq!(claims(&observer)[0].state_key, key);
    assert_eq!(stages(&observer), [Stage::Held]);
    let log = format!("{log}{}{}", delete(&format!("tfstate/{masked}"), None), answer("DeleteItem", 200));
    assert_eq!(stages(&observe_with(&log, &[("tfstate", &key)]).0), [Stage::Unlocked]);

    for states in [&[][..], &[("tfstate", "x")], &[("other", key.as_str())], &[("tfstate", &key), ("tfstate", &other)]]
    {
        let (observer, facts) = observe_with(&log, states);
        assert_eq!((claims(&observer), refusals(&facts)), (vec![], vec![Refusal::MaskedPath]), "{states:?}");
    }
}

/// The SDK repeats a request that got no answer, and is refused because the first one had worked.
#[test]
fn a_refusal_after_a_lost_answer_proves_nothing() {
    let path = "tfstate/app.tfstate";
    let log = request(path) + &request(path) + &answer("PutItem", 400);
    let (observer, _) = observe(&log);
    assert_eq!(stages(&observer), [Stage::Attempted]);
    let (observer, _) = observe(&(log + &request(path) + &answer("PutItem", 200)));
    assert_eq!(stages(&observer), [Stage::Held]);
}

/// Two OpenTofus in one log: an answer that may be either's is nobody's.
#[test]
fn an_answer_that_may_be_anothers_is_not_believed() {
    let (one, other) = ("tfstate/one.tfstate", "tfstate/other.tfstate");
    let second = request(other).replace(OURS, "33333333-4444-5555-6666-777777777777");
    let (observer, _) = observe(&(request(one) + &second + &answer("PutItem", 200)));
    assert_eq!(stages(&observer), [Stage::Attempted, Stage::Attempted]);
    // Of a digest that is written, too.
    let digest =
        record("PutItem", r#"{"Item":{"LockID":{"S":"tfstate/x-md5"},"Digest":{"S":"0"}},"TableName":"locks"}"#);
    let (observer, _) = observe(&(request(one) + &digest + &answer("PutItem", 200) + &answer("PutItem", 200)));
    assert_eq!(stages(&observer), [Stage::Attempted]);
    let (observer, _) = observe(&(request(one) + &answer("PutItem", 200) + &digest + &answer("PutItem", 200)));
    assert_eq!(stages(&observer), [Stage::Held]);
}

#[test]
fn only_the_release_of_this_very_lock_releases_it() {
    let path = "tfstate/app.tfstate";
    let held = request(path) + &answer("PutItem", 200);
    for (delete, status, stage) in [
        (delete(path, None), 200, Stage::Unlocked),
        (delete(path, Some(OURS)), 200, Stage::Unlocked),
        (delete(path, Some(OURS)), 400, Stage::Unlocking),
        (delete(path, None), 500, Stage::Unlocking),
        (delete(path, Some(FOREIGN)), 200, Stage::Held),
        (delete("tfstate/app.tfstate-md5", None), 200, Stage::Held),
        (delete("tfstate/other.tfstate", None), 200, Stage::Held),
    ] {
        let (observer, _) = observe(&(held.clone() + &delete + &answer("DeleteItem", status)));
        assert_eq!(stages(&observer), [stage], "{delete}");
    }
}

#[test]
fn a_lockfile_is_known_by_checksum_and_etag() {
    for (version, sha256, etag) in
        [("1.12.6", "VepKALfIa07GwW51cuidFri2gtFA84mDlLI+yrYbqW8=", "3d072faa7493251437c1c9357ad3a925")]
    {
        let log = load(&format!("opentofu-{version}/lockfile.log"));
        let (observer, facts) = observe(&log);
        assert_eq!((claims(&observer), refusals(&facts)), (vec![], vec![]));
        let life: Vec<_> = facts
            .iter()
            .filter_map(|fact| match fact {
                Fact::Trace(entry) => Some((entry.stage, entry.trace.etag.is_some())),
                _ => None,
            })
            .collect();
        let stages =
            [(Stage::Attempted, false), (Stage::Held, true), (Stage::Unlocking, true), (Stage::Unlocked, true)];
        assert_eq!(life, stages);
        assert_eq!(observer.traces_left(DONE), []);

        for killed in
            [&log[..log.find("http.method=DELETE").unwrap()], &load(&format!("opentofu-{version}/lockfile-killed.log"))]
        {
            let (observer, _) = observe(killed);
            let left = observer.traces_left(KILLED);
            assert!(matches!(left[..], [Left { may_still_appear: false, unlock_in_flight: false, .. }]), "{left:?}");
        }
        let killed = &log[..log.find("http.method=DELETE").unwrap()];
        let trace = &traces(&observe(killed).0)[0].trace;
        assert_eq!((trace.bucket.as_str(), &trace.state_key), ("tfstate", &format!("{version}/lockfile.tfstate")));
        assert_eq!((trace.sha256.as_deref(), trace.etag.as_deref()), (Some(sha256), Some(&*format!("\"{etag}\""))));

        // The hash under the signature serves where there is no checksum (`skip_s3_checksum`).
        let unchecked = killed.replace("x_amz_checksum_sha256=\"", "x=\"");
        assert_eq!(traces(&observe(&unchecked).0)[0].trace.sha256, trace.sha256);
        let unsigned = unchecked.replace("x_amz_content_sha256=", "x_amz_content_sha256=UNSIGNED-PAYLOAD");
        assert_eq!(traces(&observe(&unsigned).0)[0].trace.sha256, None);
    }
}

#[test]
fn uploads_of_other_objects_are_no_lockfiles() {
    let log = load("opentofu-1.12.6/lockfile.log");
    for (from, to) in [
        (".tfstate.tflock", ".tfstate"),
        ("http.request.header.if_none_match=\"*\"", "a=b"),
        ("http.method=PUT", "http.method=POST"),
    ] {
        assert_eq!(traces(&observe(&log.replace(from, to)).0), [], "{to}");
    }
    let early = log.replace("2026-11-28T", "2026-11-02T");
    let (observer, facts) = observe(&early);
    assert_eq!(traces(&observer), []);
    assert!(!refusals(&facts).is_empty());
}

#[test]
fn a_log_with_both_kinds_of_records_shows_each_lock_once() {
    for version in ["1.9.8", "1.11.4", "1.15.5"] {
        let mut observer = observer(true, &[]);
        let mut facts = observer.feed(load(&format!("{version}/trace.log")).as_bytes(), now());
        facts.extend(observer.finish(now()));
        assert_eq!(refusals(&facts), [], "{version}");
        let [entry] = observer.ledger().entries() else { panic!("{version}") };
        assert_eq!((entry.grade, entry.stage), (Grade::Record, Stage::Unlocked), "{version}");
    }
}

#[test]
fn the_dump_of_a_request_is_not_shown() {
    let records = Splitter::default().feed(load("1.5.7/apply.log").as_bytes());
    assert!(records.iter().any(|record| record.message == "Request dynamodb/PutItem Details"));
    assert!(!format!("{records:?}").contains("Authorization"));
}

proptest! {
    /// Whatever is damaged, no lock appears that was not there. (The damage has no digits, which could be another ID's.)
    #[test]
    fn damage_makes_no_new_lock(
        which in 0usize..6,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..200, "[ !-/G-Zg-z\n]{0,8}"), 1..6),
    ) {
        let Orderly { log, .. } = orderly().swap_remove(which);
        let id = claims(&observe(&log).0)[0].id.clone();
        let mut damaged = log.into_bytes();
        for (at, length, text) in cuts {
            let at = at.index(damaged.len());
            let end = (at + length).min(damaged.len());
            damaged.splice(at..end, text.into_bytes());
        }
        let (observer, _) = observe(&String::from_utf8_lossy(&damaged));
        for claim in claims(&observer) {
            prop_assert_eq!(&claim.id, &id);
        }
    }
}
