//! OpenTofu: its locks are learned from the requests in its log, since it names none at INFO.
//!
//! No OpenTofu can be had here. A real Terraform under the name `tofu` logs the same requests with the same library; its
//! INFO records, which OpenTofu does not have, are not believed under that name.

use super::*;
use nix::sys::signal::Signal::*;

/// One version per form of these records: an older and a newer otelaws, with and without lockfiles.
const VERSIONS: [&str; 3] = ["1.9.8", "1.11.4", "1.15.5"];

/// A Terraform by the name of `tofu`, for as long as the directory lives.
fn tofu(version: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let tofu = dir.path().join("tofu");
    std::os::unix::fs::symlink(Tools::get().terraform(version)?, &tofu).expect("a link can be made");
    Some((dir, tofu))
}

fn tofus(versions: &[&'static str]) -> Vec<(&'static str, tempfile::TempDir, PathBuf)> {
    versions.iter().filter_map(|version| tofu(version).map(|(dir, tofu)| (*version, dir, tofu))).collect()
}

/// An apply in its sleep.
fn sleeping(project: &Project, options: &[&str]) -> Running {
    let run = project.tfguard(TFGUARD, options, APPLY).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    run
}

fn kill_child(project: &Project) {
    kill(pid_of(&journal(project)["child"]["id"]));
}

/// Waits until the journal knows a lock by this name (`locks` or `traces`) at this stage.
fn wait_for_stage(project: &Project, list: &str, stage: &str) {
    project.wait_for_journal(SOON, |journal| journal["account"][list][0]["stage"] == stage);
}

#[test]
fn an_ordinary_run_asks_aws_nothing() {
    for (version, _dir, tofu) in tofus(&VERSIONS) {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = project(Kind::Quick).table();
        let project = if version == "1.9.8" { project } else { project.lockfile() };
        let project = project.endpoint(proxy.url()).init(&tofu);
        // On a machine that is out of breath the lock may be held long enough for its holder to be written beside it.
        let options = ["--report", "report.json", "--no-annotate"];
        let exit = project.tfguard(TFGUARD, options, APPLY).run().expect_code(0);
        assert_eq!(exit.err(), "", "{version}");
        let report = report(&project);
        assert_eq!(report["locks"][0]["grade"], "request", "{version}: {report}");
        assert_eq!(report["locks"][0]["stage"], "unlocked", "{version}: {report}");
        let asked = proxy.seen().iter().any(|seen| seen.header("user-agent").is_some_and(|a| a.contains(OUR_AGENT)));
        assert!(!asked, "{version}");
        assert_clean(&project);
    }
}

#[test]
fn the_lock_in_the_table_of_a_killed_run_is_deleted() {
    for (version, _dir, tofu) in tofus(&VERSIONS) {
        let project = project(Kind::Sleep).table().init(&tofu);
        let run = sleeping(&project, &["--report", "report.json"]);
        kill_child(&project);
        let exit = run.wait(SOON).expect_code(137);
        let report = report(&project);
        assert_eq!(report["locks"][0]["halves"][0]["outcome"], "deleted", "{version}: {report}");
        assert_eq!(report["locks"][0]["grade"], "request", "{version}: {report}");
        assert!(exit.err().contains("left by OpenTofu, deleted by tfguard (known by the request"), "{version}: {exit}");
        assert_clean(&project);
    }
}

#[test]
fn the_lockfile_of_a_killed_run_is_deleted() {
    for (version, _dir, tofu) in tofus(&VERSIONS[1..]) {
        let project = project(Kind::Sleep).lockfile().init(&tofu);
        let run = sleeping(&project, &["--report", "report.json"]);
        let id = project.lock_in_bucket().expect("it is locked")["ID"].clone();
        kill_child(&project);
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(project.lock_in_bucket(), None, "{version}: {exit}");
        let report = report(&project);
        assert_eq!(report["locks"][0]["id"], id, "{version}: {report}");
        assert_eq!(report["locks"][0]["halves"][0]["outcome"], "deleted", "{version}: {report}");
        assert_eq!(report["traces"], Value::Null, "{version}: it became a lock with an ID: {report}");
        project.guard().assert_no_process_left(SOON);
    }
}

#[test]
fn both_halves_of_the_lock_of_a_killed_run_are_deleted_and_named_once() {
    for (version, _dir, tofu) in tofus(&VERSIONS[1..]) {
        let project = project(Kind::Sleep).table().lockfile().init(&tofu);
        let run = sleeping(&project, &["--report", "report.json"]);
        kill_child(&project);
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(project.lock_in_bucket(), None, "{version}: {exit}");
        let report = report(&project);
        assert_eq!(report["locks"].as_array().map(Vec::len), Some(1), "{version}: {report}");
        assert_eq!(report["locks"][0]["halves"].as_array().map(Vec::len), Some(2), "{version}: {report}");
        assert_clean(&project);
    }
}

/// What was uploaded has another checksum and another ETag than what is there now.
#[test]
fn a_lockfile_that_took_the_place_of_ours_stays() {
    for (version, _dir, tofu) in tofus(&VERSIONS[2..]) {
        let project = project(Kind::Sleep).lockfile().init(&tofu);
        let run = sleeping(&project, &[]);
        wait_for_stage(&project, "traces", "held");
        // All but the ID is as in ours.
        let mut foreign: LockInfo = serde_json::from_value(project.lock_in_bucket().unwrap()).unwrap();
        foreign.id = LockInfo::foreign("").id;
        project.aws().plant_lockfile(&foreign);
        kill_child(&project);
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(project.lock_in_bucket(), Some(serde_json::to_value(&foreign).unwrap()), "{version}: {exit}");
    }
}

#[test]
fn a_foreign_lock_that_refuses_the_run_stays() {
    for (version, _dir, tofu) in tofus(&VERSIONS) {
        let project = project(Kind::Quick).table();
        let project = if version == "1.9.8" { project } else { project.lockfile() };
        let project = project.init(&tofu);
        let foreign = LockInfo::foreign(&project.lock_id());
        project.aws().plant_lock(project.table_name(), &foreign);
        let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
        assert_eq!(project.lock(), Some(serde_json::to_value(&foreign).unwrap()), "{version}: {exit}");
        assert!(!exit.err().contains("deleted by tfguard"), "{version}: {exit}");
    }
}

/// An interrupt ends OpenTofu gracefully, which releases its lock itself.
#[test]
fn an_interrupted_run_releases_its_own_lock() {
    for (version, _dir, tofu) in tofus(&VERSIONS[2..]) {
        let project = project(Kind::Sleep).table().lockfile().init(&tofu);
        let run = sleeping(&project, &[]);
        run.signal(SIGTERM);
        let exit = run.wait(SOON).expect_code(1);
        assert!(exit.err().contains("released by OpenTofu"), "{version}: {exit}");
        assert!(!exit.err().contains("lockfile of"), "{version}: {exit}");
        assert_eq!(project.lock_in_bucket(), None);
        assert_clean(&project);
    }
}

/// An OpenTofu whose log says nothing of its lock: its user keeps both logs for himself.
fn mute(project: &Project, options: &[&str]) -> Run {
    let run = project.tfguard(TFGUARD, options, APPLY).new_group();
    run.env("TF_LOG", "error").env("TF_LOG_PATH", "mine.log").env("TF_TEMP_LOG_PATH", "/dev/null")
}

/// The same in its sleep.
fn silent(project: &Project, options: &[&str]) -> Running {
    let run = mute(project, options).start();
    run.wait_for_stdout("asleep", SOON);
    run
}

#[test]
fn a_lock_that_no_log_names_is_only_reported() {
    for (version, _dir, tofu) in tofus(&VERSIONS[..1]) {
        let project = project(Kind::Sleep).table().init(&tofu);
        let run = silent(&project, &["--report", "report.json"]);
        let lock = project.lock().expect("it is locked");
        kill_child(&project);
        let exit = run.wait(SOON).expect_code(120);
        assert_eq!(project.lock(), Some(lock.clone()), "{version}: {exit}");
        let id = lock["ID"].as_str().unwrap();
        for said in [&format!("tfguard unlock {id}"), "--evidence item", lock["Who"].as_str().unwrap()] {
            assert!(exit.err().contains(said), "{version}: {said}: {exit}");
        }
        let report = report(&project);
        assert_eq!((&report["locks"][0]["grade"], &report["lock_left"]), (&"item".into(), &true.into()), "{report}");
        assert_eq!(report["locks"][0]["id"], id);
        // The cleanup step knows no more.
        for evidence in ["logged", "item"] {
            project.command(TFGUARD).args(["release"]).env("TFGUARD_EVIDENCE", evidence).run().expect_code(120);
            assert_eq!(project.lock(), Some(lock.clone()), "{version}");
        }
    }
}

#[test]
fn a_lock_that_no_log_names_is_deleted_if_that_was_asked_for() {
    for (version, _dir, tofu) in tofus(&VERSIONS) {
        let project = project(Kind::Sleep).table().init(&tofu);
        let run = silent(&project, &["-v", "--evidence", "item", "--report", "report.json"]);
        run.wait_for_stderr("looked at the state's lock", SOON);
        kill_child(&project);
        let exit = run.wait(SOON).expect_code(137);
        let report = report(&project);
        assert_eq!(report["locks"][0]["grade"], "item", "{version}: {report}");
        assert!(exit.err().contains("judged by what it says itself"), "{version}: {exit}");
        assert_clean(&project);
    }
}

/// Guards against silence: a lock may be left, and whoever cannot see says so.
#[test]
fn where_nobody_can_see_whether_a_lock_is_left_that_is_said() {
    let Some((_dir, tofu)) = tofu(VERSIONS[0]) else { return };
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).table().endpoint(proxy.url()).init(&tofu);
    let run = silent(&project, &["--report", "report.json"]);
    let denied = Answer::dynamodb("AccessDeniedException", "not authorized to perform: dynamodb:GetItem");
    proxy.rule(Match::dynamodb("GetItem"), [Action::Answer(denied)]);
    kill_child(&project);
    let exit = run.wait(SOON).expect_code(120);
    assert!(project.lock().is_some(), "{exit}");
    assert!(exit.err().contains("dynamodb:GetItem") && exit.err().contains("force-unlock"), "{exit}");
    assert_eq!(report(&project)["lock_left"], true, "{exit}");
}

/// The request outlives OpenTofu.
#[test]
fn a_lock_that_no_log_names_and_that_appears_after_the_death_is_reported() {
    let Some((_dir, tofu)) = tofu(VERSIONS[0]) else { return };
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).table().endpoint(proxy.url()).init(&tofu);
    let gate = Gate::new();
    proxy.rule(Match::dynamodb("PutItem").body("attribute_not_exists").nth(1), [gate.hold()]);
    let run = mute(&project, &[]).start();
    gate.wait_for(1, SOON);
    kill_child(&project);
    // tfguard has looked once and found nothing.
    proxy.wait_for(|seen| seen.header("user-agent").is_some_and(|agent| agent.contains(OUR_AGENT)), SOON);
    gate.release();
    let exit = run.wait(SOON).expect_code(120);
    let id = project.lock().expect("it is left")["ID"].as_str().unwrap().to_owned();
    assert!(exit.err().contains(&format!("tfguard unlock {id}")), "{exit}");
}

#[test]
fn a_lock_that_no_log_names_is_looked_for_until_there_is_an_answer() {
    let Some((_dir, tofu)) = tofu(VERSIONS[0]) else { return };
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).table().endpoint(proxy.url()).init(&tofu);
    let run = silent(&project, &[]);
    let broken = Action::Answer(Answer::dynamodb("InternalServerError", "try again"));
    proxy.rule(Match::dynamodb("GetItem").occurrences(1..=2), [broken]);
    kill_child(&project);
    let exit = run.wait(SOON).expect_code(120);
    let id = project.lock().expect("it is left")["ID"].as_str().unwrap().to_owned();
    assert!(exit.err().contains(&format!("tfguard unlock {id}")), "{exit}");
}

/// Somebody else's, and one of this very user and machine that was there before.
#[test]
fn a_lock_that_does_not_fit_stays_also_if_deleting_was_asked_for() {
    let Some((_dir, tofu)) = tofu(VERSIONS[2]) else { return };
    let project = project(Kind::Sleep).table().init(&tofu);
    let run = silent(&project, &["--evidence", "item"]);
    let own: LockInfo = serde_json::from_value(project.lock().unwrap()).unwrap();
    let before = LockInfo {
        id: LockInfo::foreign("").id,
        created: jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(1)).unwrap().to_string(),
        ..own.clone()
    };
    project.aws().plant_lock(project.table_name(), &before);
    kill_child(&project);
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!(project.lock(), Some(serde_json::to_value(&before).unwrap()), "{exit}");
    assert!(exit.err().contains("not this run's lock") && exit.err().contains(&before.id), "{exit}");
}

/// A lockfile whose upload got no answer is known by its checksum alone.
#[test]
fn a_lockfile_that_opentofu_ran_into_itself_is_released() {
    for (version, _dir, tofu) in tofus(&VERSIONS[1..]) {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = project(Kind::Quick).lockfile().endpoint(proxy.url()).init(&tofu);
        proxy.rule(Match::http("PUT", "prod.tfstate.tflock").nth(1), [Action::Forward, Action::Close]);
        let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
        assert!(exit.err().contains("Error acquiring the state lock"), "{version}: {exit}");
        assert!(exit.err().contains("left by OpenTofu, deleted by tfguard"), "{version}: {exit}");
        assert_eq!(project.lock_in_bucket(), None, "{version}: {exit}");
    }
}

/// The upload outlives OpenTofu.
#[test]
fn a_lockfile_that_appears_after_opentofus_death_is_released() {
    let Some((_dir, tofu)) = tofu(VERSIONS[2]) else { return };
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).lockfile().endpoint(proxy.url()).init(&tofu);
    let gate = Gate::new();
    proxy.rule(Match::http("PUT", "prod.tfstate.tflock").nth(1), [gate.hold()]);
    let run = project.tfguard(TFGUARD, [""; 0], APPLY).start();
    gate.wait_for(1, SOON);
    kill_child(&project);
    // tfguard has looked once and found nothing.
    proxy.wait_for(|seen| seen.header("user-agent").is_some_and(|agent| agent.contains(OUR_AGENT)), SOON);
    gate.release();
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.err().contains("left by OpenTofu, deleted by tfguard"), "{exit}");
    assert_eq!(project.lock_in_bucket(), None, "{exit}");
}

/// An object that cannot be read keeps its lock, and people learn what to do.
#[test]
fn a_lockfile_that_cannot_be_read_is_reported() {
    let Some((_dir, tofu)) = tofu(VERSIONS[2]) else { return };
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).lockfile().endpoint(proxy.url()).init(&tofu);
    let run = sleeping(&project, &["--report", "report.json"]);
    let denied = || Action::Answer(Answer::s3(403, "AccessDenied", "Access Denied"));
    proxy.rule(Match::http("GET", "prod.tfstate.tflock"), [denied()]);
    kill_child(&project);
    let exit = run.wait(SOON).expect_code(120);
    assert!(project.lock_in_bucket().is_some(), "{exit}");
    assert!(exit.err().contains("s3:GetObject") && exit.err().contains("tofu force-unlock"), "{exit}");
    let report = report(&project);
    assert_eq!(report["traces"][0]["outcome"]["is"], "left", "{report}");
    assert_eq!(report["lock_left"], true, "{report}");
    // Once it can be read, the cleanup step finishes it.
    proxy.clear_rules();
    let release = project.command(TFGUARD).args(["release"]).run().expect_code(0);
    assert_eq!(project.lock_in_bucket(), None, "{release}");
    assert!(release.err().contains("left by OpenTofu, deleted by tfguard"), "{release}");
}

/// What OpenTofu may not do, tfguard may not either: that is no lock left.
#[test]
fn a_run_that_is_refused_a_lockfile_it_cannot_read_fails_as_it_would_alone() {
    let Some((_dir, tofu)) = tofu(VERSIONS[2]) else { return };
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).lockfile().endpoint(proxy.url()).init(&tofu);
    project.aws().plant_lockfile(&LockInfo::foreign(&project.lock_id()));
    let denied = Action::Answer(Answer::s3(403, "AccessDenied", "Access Denied"));
    proxy.rule(Match::http("GET", "prod.tfstate.tflock"), [denied]);
    let exit = project.tfguard(TFGUARD, ["--report", "report.json"], APPLY).run().expect_code(1);
    let report = report(&project);
    assert_eq!(report["traces"][0]["outcome"]["is"], "not-taken", "{exit} {report}");
    assert!(project.lock_in_bucket().is_some(), "{exit}");
}
