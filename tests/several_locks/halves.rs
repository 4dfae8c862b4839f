//! A lock with a file and an item, of which only one half is there, or only one is ours.

use super::*;

fn dual(proxy: &FaultProxy, kind: Kind) -> Project<'static> {
    project(kind).table().lockfile().endpoint(proxy.url()).init(&terraform())
}

fn guarded(project: &Project) -> Running {
    project.tfguard(TFGUARD, ["--report", "report.json"], APPLY.split(' ')).start()
}

/// What became of the file and of the item.
#[track_caller]
fn assert_halves(project: &Project, exit: &Exit, file: &str, item: &str) {
    let report = report(project);
    let halves = report["locks"][0]["halves"].as_array().expect("a lock has halves").clone();
    let of = |kind: &str| {
        let half = halves.iter().find(|half| half["place"]["kind"] == kind);
        half.map(|half| half["outcome"].as_str().unwrap_or_default().to_owned()).expect("each half is named")
    };
    assert_eq!((of("lockfile").as_str(), of("dynamodb").as_str()), (file, item), "{exit} {report:#}");
}

/// Killed when the file was written and the request for the item was about to leave: it never arrives.
#[test]
fn killed_between_file_and_table() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = dual(&proxy, Kind::Quick);
    let gate = Gate::new();
    proxy.rule(Match::dynamodb("PutItem").nth(1), [gate.hold(), Action::Close]);
    let run = guarded(&project);
    gate.wait_for(1, SOON);
    assert!(project.lock_in_bucket().is_some() && project.lock().is_none(), "one half");
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(137);
    gate.release();
    assert_halves(&project, &exit, "deleted", "already-gone");
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{exit}");
}

/// The same, and the request arrives after Terraform's death, when the file half was already looked after.
#[test]
fn killed_between_file_and_table_and_the_item_appears_later() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = dual(&proxy, Kind::Quick);
    let gate = Gate::new();
    proxy.rule(Match::dynamodb("PutItem").nth(1), [gate.hold()]);
    let run = guarded(&project);
    gate.wait_for(1, SOON);
    proxy.rule(Match::dynamodb("GetItem").nth(1), [Action::Forward, gate.open()]);
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(137);
    assert_halves(&project, &exit, "deleted", "deleted");
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{exit}");
}

/// Killed when the file was deleted and the request that deletes the item was about to leave.
#[test]
fn killed_between_the_two_unlocks() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = dual(&proxy, Kind::Quick);
    let gate = Gate::new();
    proxy.rule(Match::dynamodb("DeleteItem").nth(1), [gate.hold()]);
    let run = guarded(&project);
    gate.wait_for(1, SOON);
    assert!(project.lock_in_bucket().is_none() && project.lock().is_some(), "one half");
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(137);
    gate.release();
    assert_halves(&project, &exit, "already-gone", "deleted");
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{exit}");
}

/// Guards against half a reason: who mends the one that is told is refused the other.
#[test]
fn where_both_halves_are_left_each_reason_is_told() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = dual(&proxy, Kind::HangInApply);
    let run = guarded(&project);
    project.wait_for_hang(SOON);
    proxy.rule(Match::dynamodb("DeleteItem"), [Answer::dynamodb("AccessDeniedException", "no item").into()]);
    proxy.rule(Match::http("DELETE", ".tflock"), [Answer::s3(403, "AccessDenied", "no file").into()]);
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(120);
    assert!(exit.err().contains("no file") && exit.err().contains("no item"), "{exit}");
    assert_halves(&project, &exit, "left", "left");
    assert!(project.lock().is_some() && project.lock_in_bucket().is_some(), "{exit}");
}

#[test]
fn a_foreign_half_stays() {
    for item_is_foreign in [true, false] {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = dual(&proxy, Kind::HangInApply);
        let run = guarded(&project);
        project.wait_for_hang(SOON);
        let foreign = LockInfo::foreign(&project.lock_id());
        if item_is_foreign {
            project.aws().plant_lock(project.table_name(), &foreign);
        } else {
            project.aws().plant_lockfile(&foreign);
        }
        assert_eq!(kill_terraforms(&project), 1);
        let exit = run.wait(SOON).expect_code(137);
        let foreign_lock = Some(serde_json::to_value(&foreign).unwrap());
        if item_is_foreign {
            assert_halves(&project, &exit, "deleted", "not-ours");
            assert_eq!((project.lock(), project.lock_in_bucket()), (foreign_lock, None), "{exit}");
        } else {
            assert_halves(&project, &exit, "not-ours", "deleted");
            assert_eq!((project.lock(), project.lock_in_bucket()), (None, foreign_lock), "{exit}");
        }
        assert!(exit.err().contains(&foreign.id) && exit.err().contains("not touched"), "{exit}");
    }
}

/// The file is written, then nothing is permitted any more: Terraform says that it was refused, and nobody may look.
#[test]
fn a_half_that_was_taken_before_the_other_was_refused_is_told_of() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = dual(&proxy, Kind::Quick);
    let denied = || [Action::Answer(Answer::s3(403, "AccessDenied", "no"))];
    proxy.rule(Match::http("GET", ".tflock"), denied());
    proxy.rule(Match::http("DELETE", ".tflock"), denied());
    for operation in ["PutItem", "GetItem", "DeleteItem"] {
        let denied = Action::Answer(Answer::dynamodb("AccessDeniedException", "no"));
        proxy.rule(Match::dynamodb(operation), [denied]);
    }
    let exit = guarded(&project).wait(SOON).expect_code(120);
    assert!(project.lock_in_bucket().is_some(), "{exit}");
    assert_halves(&project, &exit, "left", "left");
    assert!(exit.err().contains("NOT released") && exit.err().contains("tfguard unlock"), "{exit}");
    proxy.clear_rules();
    let exit = project.command(TFGUARD).arg("release").run().expect_code(0);
    assert!(exit.err().contains("deleted by tfguard"), "{exit}");
    assert_eq!(project.lock_in_bucket(), None, "{exit}");
}
