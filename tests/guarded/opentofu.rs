//! OpenTofu, whose locks are learned from the requests in its log, since it names none at INFO: what is particular to it. What
//! it has in common with Terraform 1.5 is in `real_programs`.

use super::*;

/// The newest that can be had: its log has all that an OpenTofu logs of its locks.
fn tofu() -> Option<PathBuf> {
    Some(Tools::get().programs(Product::OpenTofu).last()?.1)
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

#[test]
fn both_halves_of_the_lock_of_a_killed_run_are_deleted_and_named_once() {
    let Some(tofu) = tofu() else { return };
    let project = project(Kind::Sleep).table().lockfile().init(&tofu);
    let run = sleeping(&project, &["--report", "report.json"]);
    kill_child(&project);
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!(project.lock_in_bucket(), None, "{exit}");
    let report = report(&project);
    assert_eq!(report["locks"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(report["locks"][0]["halves"].as_array().map(Vec::len), Some(2), "{report}");
    assert_clean(&project);
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
    let Some(tofu) = tofu() else { return };
    let project = project(Kind::Sleep).table().init(&tofu);
    let run = silent(&project, &["--report", "report.json", "--dotenv", "tfguard.env"]);
    let lock = project.lock().expect("it is locked");
    kill_child(&project);
    let exit = run.wait(SOON).expect_code(120);
    assert_eq!(project.lock(), Some(lock.clone()), "{exit}");
    let id = lock["ID"].as_str().unwrap();
    for said in [&format!("tfguard unlock {id}"), "--evidence item", lock["Who"].as_str().unwrap()] {
        assert!(exit.err().contains(said), "{said}: {exit}");
    }
    let report = report(&project);
    assert_eq!((&report["locks"][0]["grade"], &report["lock_left"]), (&"item".into(), &true.into()), "{report}");
    assert_eq!(report["locks"][0]["id"], id);
    let told = std::fs::read_to_string(project.work().join("tfguard.env")).unwrap();
    assert!(told.contains("OUTCOME=left\n") && told.contains("LOCK_ID=\n"), "no script is told it: {told}");
    // The cleanup step knows no more.
    for evidence in ["logged", "item"] {
        project.command(TFGUARD).args(["release"]).env("TFGUARD_EVIDENCE", evidence).run().expect_code(120);
        assert_eq!(project.lock(), Some(lock.clone()));
    }
}

/// Guards against silence: a lock may be left, and whoever cannot see says so.
#[test]
fn where_nobody_can_see_whether_a_lock_is_left_that_is_said() {
    let Some(tofu) = tofu() else { return };
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
    let Some(tofu) = tofu() else { return };
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
    let Some(tofu) = tofu() else { return };
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
    let Some(tofu) = tofu() else { return };
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
    let Some(tofu) = tofu() else { return };
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).lockfile().endpoint(proxy.url()).init(&tofu);
    proxy.rule(Match::http("PUT", "prod.tfstate.tflock").nth(1), [Action::Forward, Action::Close]);
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
    assert!(exit.err().contains("Error acquiring the state lock"), "{exit}");
    assert!(exit.err().contains("left by OpenTofu, deleted by tfguard"), "{exit}");
    assert_eq!(project.lock_in_bucket(), None, "{exit}");
}

/// The upload outlives OpenTofu.
#[test]
fn a_lockfile_that_appears_after_opentofus_death_is_released() {
    let Some(tofu) = tofu() else { return };
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
    let Some(tofu) = tofu() else { return };
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).lockfile().endpoint(proxy.url()).init(&tofu);
    let run = sleeping(&project, &["--report", "report.json"]);
    let denied = || Action::Answer(Answer::s3(403, "AccessDenied", "Access Denied"));
    proxy.rule(Match::http("GET", "prod.tfstate.tflock"), [denied()]);
    kill_child(&project);
    let exit = run.wait(SOON).expect_code(120);
    assert!(project.lock_in_bucket().is_some(), "{exit}");
    assert!(exit.err().contains("s3:GetObject") && exit.err().contains("tfguard inspect"), "{exit}");
    let report = report(&project);
    assert_eq!(report["traces"][0]["outcome"]["is"], "left", "{report}");
    assert_eq!(report["lock_left"], true, "{report}");
    // Once it can be read, the cleanup step finishes it.
    proxy.clear_rules();
    let release = project.command(TFGUARD).args(["release"]).run().expect_code(0);
    assert_eq!(project.lock_in_bucket(), None, "{release}");
    assert!(release.err().contains("left by OpenTofu, deleted by tfguard"), "{release}");
}

/// The upload may have worked and its answer be lost: where nobody may look, nobody says that no lock is left.
#[test]
fn a_lockfile_that_nobody_may_read_is_told_of() {
    let Some(tofu) = tofu() else { return };
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).lockfile().endpoint(proxy.url()).init(&tofu);
    project.aws().plant_lockfile(&LockInfo::foreign(&project.lock_id()));
    let denied = Action::Answer(Answer::s3(403, "AccessDenied", "Access Denied"));
    proxy.rule(Match::http("GET", "prod.tfstate.tflock"), [denied]);
    let exit = project.tfguard(TFGUARD, ["--report", "report.json"], APPLY).run().expect_code(120);
    let report = report(&project);
    assert_eq!(report["traces"][0]["outcome"]["is"], "left", "{exit} {report}");
    assert!(project.lock_in_bucket().is_some(), "{exit}");
}

/// Guards against "changes present" that is taken for a crash, because the log tells of the unlock otherwise.
#[test]
fn a_plan_with_changes_is_no_crash() {
    for (version, tofu) in Tools::get().programs(Product::OpenTofu) {
        let both = project(Kind::Quick).table().lockfile();
        let project = if tofu == self::tofu().unwrap() { both } else { project(Kind::Quick).table() }.init(&tofu);
        let plan = PLAN.iter().chain(&["-detailed-exitcode"]);
        let exit = project.tfguard(TFGUARD, ["-v"], plan).run().expect_code(2);
        assert!(!exit.err().contains("crashed"), "{version}: {exit}");
        assert_clean(&project);
    }
}

/// The plan does not tell where its lock is, but the directory does, and the request in the log that it is there.
#[test]
fn the_lock_of_an_encrypted_plan_is_deleted_or_named() {
    // Encryption came with 1.7.
    for (version, tofu) in Tools::get().programs(Product::OpenTofu).filter(|(version, _)| !version.starts_with("1.6."))
    {
        let older = version.starts_with("1.8.") || version.starts_with("1.10.");
        for lockfile in [false, true].into_iter().filter(|lockfile| !(lockfile & older)) {
            let project = project(Kind::Sleep);
            project.encrypt("plan");
            let project = if lockfile { project.lockfile() } else { project.table() }.init(&tofu);
            project.terraform(["plan", "-out=tfplan", "-input=false"]).run().expect_code(0);
            let apply = ["apply", "-input=false", "-no-color", "tfplan"];
            let run = project.tfguard(TFGUARD, [""; 0], apply).new_group().start();
            run.wait_for_stdout("asleep", SOON);
            let held = || if lockfile { project.lock_in_bucket() } else { project.lock() };
            let id = held().expect("it is locked")["ID"].as_str().unwrap().to_owned();
            kill_child(&project);
            let exit = run.wait(SOON).expect_code(if older { 120 } else { 137 });
            if older {
                let command =
                    exit.err().split("run: ").nth(1).and_then(|step| step.lines().next()).expect("a step").to_owned();
                assert!(command.contains(&id), "{version}: {exit}");
                project.paste(TFGUARD, &project.work(), &command).expect_code(0);
            } else {
                assert!(exit.err().contains("left by OpenTofu, deleted by tfguard"), "{version}: {exit}");
            }
            assert_eq!(held(), None, "{version}: {exit}");
        }
    }
}
