//! Each rule of the checker fires on evidence with one defect and on nothing else; and two real culprits are found by the API's
//! own record.

use std::fs;

use serde_json::{Value, json};

use super::bed::{Bed, TABLE, new_credentials};
use super::checker::check;
use super::recorder::processes;
use crate::SOON;
use crate::support::{Guard, skipped, terraform_on_path};

const RUN: &str = "AKIACHAOS0000000R000";
const OWN: &str = "2894f231-cae7-c9fe-70a9-a4da51862ba4";
const FOREIGN: &str = "5f0c1b8e-93a7-2d64-1e0f-8a7b6c5d4e3f";
const PLACE: &str = "chaos:chaos/env:/s/chaos.tfstate";
const OBJECT: &str = "chaos/env:/s/chaos.tfstate.tflock";
const SECOND: u64 = 1_000_000_000;

fn lock(id: &str) -> String {
    json!({ "ID": id, "Operation": "OperationTypeApply", "Info": "", "Who": "ci@runner" }).to_string()
}

fn item(id: &str) -> Value {
    json!({ "Info": lock(id) })
}

fn object(id: &str) -> Value {
    json!({ "etag": format!("\"{id}\""), "body": lock(id) })
}

/// A request that was carried out so many seconds after the start.
fn request(second: u64, agent: &str, more: &Value) -> Value {
    let (arrived, applied) = (second * SECOND, second * SECOND + 1);
    let mut request = json!({
        "kind": "request", "run": RUN, "agent": agent, "method": "POST", "path": "/", "query": "", "operation": "",
        "if_match": null, "if_none_match": null, "body": "", "changes": true, "status": 200, "place": PLACE,
        "before": null, "after": null, "alive": [], "arrived": arrived, "applied": applied,
    });
    merge(&mut request, more);
    request
}

fn merge(into: &mut Value, more: &Value) {
    for (name, value) in more.as_object().expect("it is an object") {
        into[name] = value.clone();
    }
}

const TERRAFORM: &str = "APN/1.0 HashiCorp/1.0 Terraform/1.11.4";
const TFGUARD: &str = "aws-sdk-rust/1.3";

/// A condition on `Info`.
fn condition(id: &str) -> String {
    json!({
        "ConditionExpression": "Info = :Info AND attribute_not_exists(TfguardHolder)",
        "ExpressionAttributeValues": { ":Info": { "S": lock(id) } },
    })
    .to_string()
}

/// What a run leaves as evidence that was asked to stop, whose Terraform died, and whose lock tfguard deleted.
struct Evidence {
    lines: Vec<Value>,
    delete: usize,
    life: usize,
    said: usize,
    stop: usize,
    end: usize,
}

impl Evidence {
    fn in_table() -> Self {
        Self::of(
            json!({ "operation": "PutItem", "after": item(OWN) }),
            json!({ "operation": "DeleteItem", "before": item(OWN), "body": condition(OWN) }),
        )
    }

    fn in_bucket() -> Self {
        let put = json!({ "method": "PUT", "place": OBJECT, "if_none_match": "*", "after": object(OWN) });
        Self::of(
            put,
            json!({ "method": "DELETE", "place": OBJECT, "if_match": format!("\"{OWN}\""), "before": object(OWN) }),
        )
    }

    fn of(take: Value, delete: Value) -> Self {
        let end = |what: &str, second: u64| json!({ "kind": "end", "run": RUN, "what": what, "began": second * SECOND, "at": second * SECOND, "code": 0, "signal": null, "text": "" });
        let lines = vec![
            json!({ "kind": "run", "run": RUN, "attached": false, "limited": false }),
            request(1, TERRAFORM, &take),
            request(9, TFGUARD, &delete),
            json!({ "kind": "process", "run": RUN, "pid": 7, "born": 0, "seen": 5 * SECOND - 1, "gone": 5 * SECOND }),
            json!({ "kind": "said", "run": RUN, "pid": 7, "text": "Interrupt received.\n" }),
            json!({ "kind": "signal", "run": RUN, "at": 3 * SECOND, "signal": "SIGTERM", "pid": 8, "to": "front" }),
            end("run", 10),
            end("last", 11),
        ];
        Self { lines, delete: 2, life: 3, said: 4, stop: 5, end: 6 }
    }

    fn with(mut self, at: usize, more: &Value) -> Self {
        merge(&mut self.lines[at], more);
        self
    }

    fn and(mut self, line: Value) -> Self {
        self.lines.push(line);
        self
    }

    fn without(mut self, at: usize) -> Self {
        self.lines.remove(at);
        self
    }

    /// The rules that it breaks.
    #[track_caller]
    fn breaks(self, rules: &[&str]) {
        breaks(&self.lines, rules);
    }
}

#[track_caller]
fn breaks(lines: &[Value], rules: &[&str]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let violations = check(&text).violations;
    let broken: Vec<_> = violations.iter().map(|(rule, _)| *rule).collect();
    assert_eq!(broken, rules, "{violations:?}");
}

#[test]
fn evidence_without_a_defect_breaks_no_rule() {
    Evidence::in_table().breaks(&[]);
    Evidence::in_bucket().breaks(&[]);
    let record = json!({ "operation": "UpdateItem", "before": item(OWN), "after": item(OWN), "body": condition(OWN) });
    Evidence::in_table().and(request(2, TFGUARD, &record)).breaks(&[]);
    let tags =
        json!({ "method": "PUT", "place": OBJECT, "query": "tagging", "before": object(OWN), "after": object(OWN) });
    Evidence::in_bucket().and(request(2, TFGUARD, &tags)).breaks(&[]);
    // What it makes to see whether a store keeps conditions.
    let (place, body) = (format!("{OBJECT}.tfguard-1"), json!({ "etag": "\"1\"", "body": "tfguard made this" }));
    let make = json!({ "method": "PUT", "place": place, "if_none_match": "*", "after": body });
    let remove = json!({ "method": "DELETE", "place": place, "before": body });
    Evidence::in_bucket().and(request(7, TFGUARD, &make)).and(request(8, TFGUARD, &remove)).breaks(&[]);
}

#[test]
fn a_delete_without_a_condition_on_the_lock_is_found() {
    let broken = &["P1 condition"];
    for body in [
        json!({}),
        json!({ "ConditionExpression": "attribute_exists(Info)" }),
        json!({ "ConditionExpression": "Info = :Info OR attribute_exists(LockID)", "ExpressionAttributeValues": { ":Info": { "S": lock(OWN) } } }),
        json!({ "ConditionExpression": "Info = :Info", "ExpressionAttributeValues": { ":Info": { "S": "{}" } } }),
    ] {
        let evidence = Evidence::in_table();
        let delete = evidence.delete;
        evidence.with(delete, &json!({ "body": body.to_string() })).breaks(broken);
    }
    let evidence = Evidence::in_table();
    let delete = evidence.delete;
    evidence.with(delete, &json!({ "body": condition(FOREIGN), "after": item(OWN), "status": 400 })).breaks(broken);
    for if_match in [json!(null), json!("\"never-seen\"")] {
        let evidence = Evidence::in_bucket();
        let delete = evidence.delete;
        evidence.with(delete, &json!({ "if_match": if_match })).breaks(broken);
    }
    let other = json!({ "method": "DELETE", "place": format!("{OBJECT}.tfguard-1"), "before": object(FOREIGN) });
    Evidence::in_bucket().and(request(8, TFGUARD, &other)).breaks(broken);
}

#[test]
fn a_delete_of_a_foreign_lock_is_found() {
    let theirs = json!({ "run": "AKIACHAOS0000000X000", "operation": "PutItem", "after": item(FOREIGN) });
    let evidence = Evidence::in_table().and(request(6, "chaos", &theirs));
    let delete = evidence.delete;
    evidence.with(delete, &json!({ "before": item(FOREIGN) })).breaks(&["P1 foreign"]);
    let theirs = json!({ "run": "AKIACHAOS0000000X000", "method": "PUT", "place": OBJECT, "after": object(FOREIGN) });
    let evidence = Evidence::in_bucket().and(request(6, "chaos", &theirs));
    let delete = evidence.delete;
    evidence.with(delete, &json!({ "before": object(FOREIGN) })).breaks(&["P1 foreign"]);
}

#[test]
fn a_change_of_anything_else_is_found() {
    let digest = json!({ "operation": "PutItem", "place": format!("{PLACE}-md5"), "after": { "Digest": "1" } });
    Evidence::in_table().and(request(8, TFGUARD, &digest)).breaks(&["P1 digest"]);
    let batch = json!({ "operation": "BatchWriteItem", "place": ":" });
    Evidence::in_table().and(request(8, TFGUARD, &batch)).breaks(&["P1 kind"]);
    let state = json!({ "method": "PUT", "place": "chaos/env:/s/chaos.tfstate", "after": { "body": "{}" } });
    Evidence::in_table().and(request(8, TFGUARD, &state)).breaks(&["P1 kind"]);
    let mut changed = item(OWN);
    changed["Info"] = json!(lock(OWN).replace("ci@runner", "tfguard"));
    let update = json!({ "operation": "UpdateItem", "before": item(OWN), "after": changed, "body": condition(OWN) });
    Evidence::in_table().and(request(2, TFGUARD, &update)).breaks(&["P1 content"]);
}

#[test]
fn a_delete_under_a_living_terraform_is_found() {
    let evidence = Evidence::in_table();
    let delete = evidence.delete;
    evidence.with(delete, &json!({ "alive": [{ "run": RUN, "pid": 7, "name": "terraform" }] })).breaks(&["P2 alive"]);
    for gone in [json!(20 * SECOND), json!(null)] {
        let evidence = Evidence::in_bucket();
        let life = evidence.life;
        evidence.with(life, &json!({ "gone": gone })).breaks(&["P2 life time"]);
    }
}

#[test]
fn a_state_upload_that_was_not_waited_for_is_found() {
    let state = json!({ "method": "PUT", "place": "chaos/env:/s/chaos.tfstate", "after": { "body": "{}" } });
    for (second, broken) in [(8, [].as_slice()), (10, &["P2 upload"]), (11, &[])] {
        for evidence in [Evidence::in_table(), Evidence::in_bucket()] {
            let life = evidence.life;
            let evidence = evidence.with(life, &json!({ "seen": 8 * SECOND + SECOND / 2, "gone": 9 * SECOND }));
            evidence.and(request(second, TERRAFORM, &state)).breaks(broken);
        }
    }
}

/// The run that takes over.
const NEXT: &str = "AKIACHAOS0000000R001";
const LEASE: &str = "chaos/env:/s/chaos.tfstate.tflock.lease";

fn lease(version: u64) -> String {
    json!({ "schema": 1, "lock": OWN, "version": format!("{version:032x}"), "length_ms": 15_000 }).to_string()
}

fn leased(version: u64) -> Value {
    json!({ "Info": lock(OWN), "TfguardLease": lease(version) })
}

fn lease_object(version: u64) -> Value {
    json!({ "etag": format!("\"{version}\""), "body": lease(version) })
}

/// A condition on `Info` and on a lease, or that there is none.
fn lease_condition(version: Option<u64>) -> String {
    let condition = match version {
        Some(_) => "Info = :info AND TfguardLease = :lease",
        None => "Info = :info AND attribute_not_exists(TfguardLease)",
    };
    let lease = version.map(lease).unwrap_or_default();
    let values = json!({ ":info": { "S": lock(OWN) }, ":lease": { "S": lease } });
    json!({ "ConditionExpression": condition, "ExpressionAttributeValues": values }).to_string()
}

/// What a run leaves as evidence that has a lease and dies, and one that takes over after its wait.
fn taken_over(take: Value, more: &[Value]) -> Vec<Value> {
    let end = |run: &str, what: &str| json!({ "kind": "end", "run": run, "what": what, "began": 40 * SECOND, "at": 40 * SECOND, "code": 0, "signal": null, "text": "" });
    let mut lines = vec![
        json!({ "kind": "run", "run": RUN, "attached": false, "limited": false, "reclaim": false }),
        json!({ "kind": "run", "run": NEXT, "attached": false, "limited": false, "reclaim": true }),
        json!({ "kind": "process", "run": RUN, "pid": 7, "born": 0, "seen": 5 * SECOND - 1, "gone": 5 * SECOND }),
        json!({ "kind": "signal", "run": RUN, "at": 5 * SECOND, "signal": "SIGKILL", "pid": 8, "to": "supervisor" }),
        request(1, TERRAFORM, &take),
    ];
    lines.extend([end(RUN, "run"), end(RUN, "last"), end(NEXT, "run"), end(NEXT, "last")]);
    lines.extend_from_slice(more);
    lines
}

/// Where the requests of both begin in what `taken_over` gives.
const FIRST: usize = 9;

/// A renewal, a look, a delete; the look and the delete are the observer's.
fn taken_over_in_table() -> Vec<Value> {
    let beat =
        json!({ "operation": "UpdateItem", "before": item(OWN), "after": leased(1), "body": lease_condition(None) });
    let answer = json!({ "Item": { "Info": { "S": lock(OWN) }, "TfguardLease": { "S": lease(1) } } }).to_string();
    let look = json!({ "run": NEXT, "operation": "GetItem", "changes": false, "answer": answer });
    let delete =
        json!({ "run": NEXT, "operation": "DeleteItem", "before": leased(1), "body": lease_condition(Some(1)) });
    let more = [request(2, TFGUARD, &beat), request(4, TFGUARD, &look), request(26, TFGUARD, &delete)];
    taken_over(json!({ "operation": "PutItem", "after": item(OWN) }), &more)
}

/// A renewal, a look, a write by which no renewal can succeed any more, and two deletes.
fn taken_over_in_bucket() -> Vec<Value> {
    let beat = json!({ "method": "PUT", "place": LEASE, "if_none_match": "*", "after": lease_object(1) });
    let look = json!({ "run": NEXT, "method": "GET", "place": LEASE, "changes": false, "answer": lease(1) });
    let fence = json!({ "run": NEXT, "method": "PUT", "place": LEASE, "if_match": "\"1\"", "before": lease_object(1), "after": lease_object(2) });
    let delete = json!({ "run": NEXT, "method": "DELETE", "place": OBJECT, "if_match": format!("\"{OWN}\""), "before": object(OWN) });
    let clean =
        json!({ "run": NEXT, "method": "DELETE", "place": LEASE, "if_match": "\"2\"", "before": lease_object(2) });
    let more = [(2, beat), (4, look), (26, fence), (27, delete), (28, clean)];
    let more = more.map(|(second, more)| request(second, TFGUARD, &more));
    taken_over(json!({ "method": "PUT", "place": OBJECT, "if_none_match": "*", "after": object(OWN) }), &more)
}

fn with(mut lines: Vec<Value>, at: usize, more: &Value) -> Vec<Value> {
    merge(&mut lines[at], more);
    lines
}

fn and(mut lines: Vec<Value>, line: Value) -> Vec<Value> {
    lines.push(line);
    lines
}

#[test]
fn a_lock_that_is_taken_over_after_its_lease_breaks_no_rule() {
    breaks(&taken_over_in_table(), &[]);
    breaks(&taken_over_in_bucket(), &[]);
    // Whoever was not asked to take over may not, whatever the lease.
    let no = json!({ "reclaim": false });
    breaks(&with(taken_over_in_table(), 1, &no), &["P1 foreign", "P1 condition"]);
    breaks(&with(taken_over_in_bucket(), 1, &no), &["P1 lease", "P1 foreign", "P1 condition"]);
}

#[test]
fn a_delete_of_a_lock_without_a_lease_is_found() {
    let (none, no_object) = (json!({ "before": item(OWN), "body": condition(OWN) }), json!({ "before": null }));
    breaks(&with(taken_over_in_table(), FIRST + 2, &none), &["lease kept", "lease none"]);
    breaks(&with(taken_over_in_bucket(), FIRST + 2, &no_object), &["lease none"]);
    let mut lines = taken_over_in_bucket();
    lines.remove(FIRST + 2);
    breaks(&lines, &["lease kept"]);
}

#[test]
fn a_delete_while_the_lease_is_renewed_is_found() {
    // In its other half.
    let beat = json!({ "method": "PUT", "place": LEASE, "if_none_match": "*", "after": lease_object(3) });
    breaks(&and(taken_over_in_table(), request(20, TFGUARD, &beat)), &["lease renewed"]);
    breaks(&and(taken_over_in_table(), request(3, TFGUARD, &beat)), &[]);
    // And in this one, after the last look.
    let beat =
        json!({ "operation": "UpdateItem", "before": leased(1), "after": leased(3), "body": lease_condition(Some(1)) });
    let lines = and(taken_over_in_table(), request(20, TFGUARD, &beat));
    let delete = json!({ "before": leased(3) });
    breaks(&with(lines, FIRST + 2, &delete), &["lease kept", "lease renewed", "lease watched"]);
}

#[test]
fn a_delete_after_too_short_a_watch_is_found() {
    let (late, broken) = (json!({ "arrived": 6 * SECOND, "applied": 6 * SECOND }), &["lease watched"]);
    breaks(&with(taken_over_in_table(), FIRST + 1, &late), broken);
    breaks(&with(taken_over_in_bucket(), FIRST + 1, &late), broken);
    // What was not there in between was not watched.
    let gone = json!({ "run": NEXT, "operation": "GetItem", "changes": false, "answer": "{}" });
    let lines = and(taken_over_in_table(), request(6, TFGUARD, &gone));
    let again = lines[FIRST + 1].clone();
    breaks(&with(and(lines, again), FIRST + 4, &json!({ "applied": 8 * SECOND })), broken);
}

#[test]
fn a_lock_whose_holder_lives_is_found_to_be_taken_over() {
    let process = |name: &str, is_stopped: bool| json!({ "run": RUN, "pid": 7, "name": name, "stopped": is_stopped });
    let alive = |alive: &[Value]| json!({ "alive": alive });
    let (terraform, guard) = (process("terraform", false), process("tfguard", false));
    let lived = alive(&[terraform.clone(), guard]);
    breaks(&with(taken_over_in_table(), FIRST + 2, &lived), &["lease alive"]);
    breaks(&with(taken_over_in_bucket(), FIRST + 3, &lived), &["lease alive"]);
    // docs/lease.md tells of these: nobody of its tfguards lives, or it stands still, or it goes on this very moment.
    breaks(&with(taken_over_in_table(), FIRST + 2, &alive(std::slice::from_ref(&terraform))), &[]);
    breaks(
        &with(taken_over_in_table(), FIRST + 2, &alive(&[process("terraform", true), process("tfguard", true)])),
        &[],
    );
    breaks(&with(taken_over_in_table(), FIRST + 2, &alive(&[terraform, process("tfguard", true)])), &["lease alive"]);
    for (second, broken) in [(25, [].as_slice()), (20, &["lease alive"])] {
        let goes_on = json!({ "kind": "signal", "run": RUN, "at": second * SECOND, "signal": "SIGCONT", "pid": 8, "to": "supervisor" });
        breaks(&with(and(taken_over_in_table(), goes_on), FIRST + 2, &lived), broken);
    }
}

#[test]
fn a_write_of_a_lease_without_a_condition_or_beside_anothers_lock_is_found() {
    breaks(&with(taken_over_in_table(), FIRST, &json!({ "body": condition(OWN) })), &["P1 lease"]);
    breaks(&with(taken_over_in_bucket(), FIRST, &json!({ "if_none_match": null })), &["P1 lease"]);
    let mut changed = leased(1);
    changed["Info"] = json!(lock(OWN).replace("ci@runner", "tfguard"));
    breaks(&with(taken_over_in_table(), FIRST, &json!({ "after": changed })), &["P1 content"]);
    // It takes a living run's lease away.
    let remove =
        json!({ "run": NEXT, "method": "DELETE", "place": LEASE, "if_match": "\"1\"", "before": lease_object(1) });
    breaks(&and(taken_over_in_bucket(), request(3, TFGUARD, &remove)), &["P1 lease"]);
    let write = json!({ "run": NEXT, "operation": "UpdateItem", "before": leased(1), "after": leased(2), "body": lease_condition(Some(1)) });
    breaks(&and(taken_over_in_table(), request(3, TFGUARD, &write)), &["P1 condition"]);
}

#[test]
fn a_second_interrupt_is_found_and_a_lost_one() {
    for words in ["Interrupt received.\nTwo interrupts received.", "Interrupt received.\nInterrupt received."] {
        let evidence = Evidence::in_table();
        let said = evidence.said;
        evidence.with(said, &json!({ "text": words })).breaks(&["P3 two"]);
        // Somebody else's is the only one that there may be, unless it came second.
        let by_other = |at: u64| json!({ "kind": "signal", "run": RUN, "at": at, "signal": "SIGINT", "pid": 7, "to": "terraform" });
        let evidence = Evidence::in_table().with(said, &json!({ "text": words }));
        evidence.and(by_other(2 * SECOND)).breaks(&["P3 two"]);
        let evidence = Evidence::in_table().with(said, &json!({ "text": words }));
        evidence.and(by_other(4 * SECOND)).breaks(&[]);
    }
    let evidence = Evidence::in_table();
    let said = evidence.said;
    evidence.with(said, &json!({ "text": "asleep" })).breaks(&["P3 lost"]);
    let evidence = Evidence::in_table().with(said, &json!({ "text": "asleep" }));
    let stop = evidence.stop;
    evidence.without(stop).breaks(&[]);
}

#[test]
fn an_ending_that_is_not_accounted_for_is_found() {
    let left = |when: &str| json!({ "kind": "left", "when": when, "place": PLACE, "content": item(OWN) });
    let evidence = || {
        let evidence = Evidence::in_table();
        let delete = evidence.delete;
        evidence.with(delete, &json!({ "after": item(OWN), "status": 500 }))
    };
    let end = evidence().end;
    evidence().and(left("end")).breaks(&["P4 left"]);
    evidence().and(left("over")).breaks(&["P4 unsaid"]);
    evidence().and(left("over")).with(end, &json!({ "code": 120 })).breaks(&["P4 unsaid"]);
    evidence().and(left("over")).with(end, &json!({ "text": OWN })).breaks(&["P4 unsaid"]);
    evidence().and(left("over")).with(end, &json!({ "code": 120, "text": OWN })).breaks(&[]);
    // Who was killed says nothing, and what lives has not said it yet.
    evidence().and(left("over")).with(end, &json!({ "code": null, "signal": 9 })).breaks(&[]);
    let killed =
        json!({ "kind": "signal", "run": RUN, "at": 4 * SECOND, "signal": "SIGKILL", "pid": 8, "to": "front" });
    evidence().and(left("over")).and(killed).with(end, &json!({ "code": 137 })).breaks(&[]);
    evidence().and(left("over")).and(json!({ "kind": "living", "run": RUN, "pid": 9 })).breaks(&[]);
    // Somebody else's needs nobody's word.
    let theirs = json!({ "kind": "left", "when": "end", "place": PLACE, "content": item(FOREIGN) });
    Evidence::in_table().and(theirs).breaks(&[]);
    Evidence::in_table().without(end).breaks(&["P4 end"]);
    Evidence::in_table().and(json!({ "kind": "hang", "run": RUN, "what": "last" })).breaks(&["P4 end"]);
    Evidence::in_table()
        .and(json!({ "kind": "alive", "run": RUN, "pid": 7, "name": "terraform" }))
        .breaks(&["P4 alive"]);
    Evidence::in_table().with(end, &json!({ "text": "thread 'main' panicked at src/" })).breaks(&["P4 panic"]);
}

/// What deletes without a condition, and what deletes while a Terraform lives, leave it in the API's own record.
#[test]
fn real_culprits_are_found() {
    let Some((_, terraform)) = terraform_on_path() else {
        return skipped("no terraform of version 1.10 or later on PATH, so there is no chaos");
    };
    let bed = Bed::new(terraform);
    let schedule = new_credentials();
    let run = format!("{schedule}R000");
    let key = json!({ "LockID": { "S": "chaos/env:/s/chaos.tfstate" } });
    let take = || {
        let item = json!({ "LockID": key["LockID"], "Info": { "S": lock(OWN) } });
        bed.dynamodb(&run, "PutItem", &json!({ "TableName": TABLE, "Item": item }));
    };
    let broken = || {
        let lines = bed.take_records(&schedule);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        check(&text).violations.iter().map(|(rule, _)| *rule).collect::<Vec<_>>()
    };
    take();
    bed.as_tfguard(&run, "DeleteItem", &json!({ "TableName": TABLE, "Key": key }));
    assert_eq!(broken(), ["P1 condition"]);

    let guard = Guard::new();
    let program = bed.dir().join("terraform");
    fs::copy("/bin/sleep", &program).expect("a program can be copied");
    let living = bed.command(&program, &guard, &run, bed.url()).arg("600").start();
    while !processes(&run).iter().any(|process| process.program == "terraform") {
        assert!(!living.ends_within(std::time::Duration::from_millis(10)), "it sleeps");
    }
    take();
    let mut delete: Value = serde_json::from_str(&condition(OWN)).expect("it is JSON");
    merge(&mut delete, &json!({ "TableName": TABLE, "Key": key }));
    bed.as_tfguard(&run, "DeleteItem", &delete);
    assert_eq!(broken(), ["P2 alive"]);

    guard.kill_all();
    living.wait(SOON);
    take();
    bed.as_tfguard(&run, "DeleteItem", &delete);
    assert_eq!(broken(), Vec::<&str>::new());
}
