//! The record beside the locks of real Terraforms.

use super::*;

use nix::sys::signal::Signal::*;

/// A request by which tfguard writes the holder, carried out.
fn is_record(seen: &Seen) -> bool {
    let writes = seen.operation() == Some("UpdateItem") || (seen.method == "PUT" && seen.path.contains("?tagging"));
    writes && seen.finished
}

/// What tfguard itself asked of AWS.
fn ours(proxy: &FaultProxy) -> Vec<Seen> {
    let ours = |seen: &Seen| seen.header("user-agent").is_some_and(|agent| agent.contains(OUR_AGENT));
    proxy.seen().into_iter().filter(ours).collect()
}

/// The record in the table.
fn in_table(project: &Project) -> Value {
    let item = project.aws().item(project.table_name(), &project.lock_id()).expect("the state is locked");
    let text = item.get(ATTRIBUTE).unwrap_or_else(|| panic!("no record: {item:?}")).as_s().expect("it is text");
    serde_json::from_str(text).expect("a record is JSON")
}

/// The record in the lockfile's tags.
fn in_tags(project: &Project) -> Vec<(String, String)> {
    let key = format!("{}.tflock", project.state_key());
    let request = project.aws().s3().get_object_tagging().bucket(project.bucket()).key(key);
    let tags = project.aws().block_on(request.send()).expect("the lockfile is there").tag_set;
    tags.into_iter().map(|tag| (tag.key, tag.value)).collect()
}

/// Terraform's own unlock takes the record with the lock, on every version.
#[test]
fn a_lock_that_is_held_for_long_names_its_holder_and_is_released_by_terraform() {
    std::thread::scope(|scope| {
        for (version, terraform) in Tools::get().terraforms() {
            scope.spawn(move || {
                let proxy = FaultProxy::start(Aws::shared().url());
                let project = project(Kind::Sleep).table();
                let lockfile = !["1.6.6", "1.8.4", "1.9.8"].contains(&version);
                let project = if lockfile { project.lockfile() } else { project };
                let project = project.endpoint(proxy.url()).init(&terraform);
                let run = job(project.tfguard(TFGUARD, ["-v"], APPLY), "7").new_group().start();
                let said = if lockfile { "recorded beside object" } else { "recorded beside item" };
                run.wait_for_stderr(said, SOON);
                run.wait_for_stderr("recorded beside item", SOON);

                let lock = project.lock().expect("an apply holds its lock");
                let (record, journal) = (in_table(&project), journal(&project));
                let link = "https://github.com/owner/repository/actions/runs/7";
                assert_eq!(record["lock"], lock["ID"], "{version}");
                assert_eq!(record["ci"]["url"], link);
                assert_eq!((&record["ci"]["job"], &record["ci"]["attempt"]), (&"apply".into(), &"2".into()));
                assert_eq!((&record["commit"], &record["actor"]), (&"0a1b2c".into(), &"alice".into()));
                assert_eq!(record["host"], nix::unistd::gethostname().unwrap().to_str().unwrap());
                for field in ["world", "supervisor", "child"] {
                    assert_eq!(record[field], journal[field], "{version}");
                }
                if lockfile {
                    let tags = in_tags(&project);
                    for (name, value) in [("tfguard:lock", lock["ID"].as_str().unwrap()), ("tfguard:run", link)] {
                        assert!(tags.contains(&(name.to_owned(), value.to_owned())), "{version}: {tags:?}");
                    }
                }

                run.signal(SIGTERM);
                let exit = run.wait(SOON).expect_code(1);
                assert!(exit.err().contains("released by Terraform"), "{version}: {exit}");
                assert_eq!(project.lock(), None, "{version}");
                assert_eq!(project.aws().item(project.table_name(), &project.lock_id()), None, "no ghost: {version}");
                if lockfile {
                    assert_eq!(project.lock_in_bucket(), None, "{version}");
                }
                project.guard().assert_no_process_left(SOON);
            });
        }
    });
}

/// OpenTofu, which does not log the ID of its lock; a real Terraform by OpenTofu's name logs the same requests.
#[test]
fn a_lock_without_a_logged_id_names_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let tofu = dir.path().join("tofu");
    std::os::unix::fs::symlink(terraform(), &tofu).unwrap();
    std::thread::scope(|scope| {
        for lockfile in [true, false] {
            let tofu = &tofu;
            scope.spawn(move || {
                let project = project(Kind::Sleep);
                let project = if lockfile { project.lockfile().versioned() } else { project.table() };
                let project = project.init(tofu);
                let run = project.tfguard(TFGUARD, ["-v"], APPLY).new_group().start();
                run.wait_for_stderr("recorded beside", SOON);
                if lockfile {
                    let id = project.lock_in_bucket().unwrap()["ID"].as_str().unwrap().to_owned();
                    assert!(in_tags(&project).contains(&("tfguard:lock".to_owned(), id)));
                } else {
                    assert_eq!(in_table(&project)["lock"], project.lock().unwrap()["ID"]);
                }
                run.signal(SIGTERM);
                run.wait(SOON).expect_code(1);
                project.guard().assert_no_process_left(SOON);
                let left = if lockfile { project.lock_in_bucket() } else { project.lock() };
                assert_eq!(left, None);
            });
        }
    });
}

/// On a terminal the supervisor works in tfguard's own process.
#[test]
fn a_run_on_a_terminal_names_itself_too() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).table().endpoint(proxy.url()).init(&terraform());
    let mut run = project.tfguard(TFGUARD, [""; 0], APPLY).env("TERM", "xterm").pty().start();
    proxy.wait_for(is_record, SOON);
    assert_eq!(in_table(&project)["supervisor"]["pid"], run.pid().as_raw());
    assert_eq!(in_table(&project)["ci"], Value::Null);
    run.write(b"\x03");
    run.wait(SOON).expect_code(1);
    assert_eq!(project.lock(), None);
}

#[test]
fn nothing_is_written_if_nobody_wants_it() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let script = "echo as''leep; exec sleep 14";
    let main = format!(
        "resource \"terraform_data\" \"work\" {{\n  provisioner \"local-exec\" {{\n    command = {script:?}\n  }}\n}}\n"
    );
    let project = project(Kind::Hcl(main)).table().endpoint(proxy.url()).init(&terraform());
    let exit = project.tfguard(TFGUARD, ["--no-annotate"], APPLY).start().wait(SOON).expect_code(0);
    assert_eq!(ours(&proxy).len(), 0, "{exit}");
    assert_eq!(exit.err(), "");
}

/// It costs a line where it was asked for more, and nothing else.
#[test]
fn a_role_that_may_not_write_it_runs_as_before() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).table().lockfile().endpoint(proxy.url()).init(&terraform());
    let denied = Answer::dynamodb("AccessDeniedException", "no");
    proxy.rule(Match::dynamodb("UpdateItem"), [Action::Answer(denied)]);
    proxy.rule(Match::http("PUT", "?tagging"), [Action::Answer(Answer::s3(403, "AccessDenied", "no"))]);
    let run = project.tfguard(TFGUARD, ["-v"], APPLY).new_group().start();
    for action in ["dynamodb:UpdateItem was denied", "s3:PutObjectTagging was denied"] {
        run.wait_for_stderr(action, SOON);
    }
    assert_eq!(proxy.seen_matching(&Match::dynamodb("UpdateItem")).len(), 1, "asked once");
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(1);
    assert_eq!(exit.err().matches("was denied").count(), 2, "{exit}");
    assert!(!exit.err().contains("warning"), "{exit}");
    assert_eq!(project.lock(), None);
}

/// The request is on its way when Terraform unlocks, or dies and tfguard deletes; it lands when all is over.
#[test]
fn a_record_that_lands_late_makes_no_lock_and_spoils_none() {
    for (killed, taken) in [(false, false), (true, false), (true, true)] {
        let (proxy, gate) = (FaultProxy::start(Aws::shared().url()), Gate::new());
        let project = project(Kind::Sleep).table().lockfile().endpoint(proxy.url()).init(&terraform());
        proxy.rule(Match::dynamodb("UpdateItem"), [gate.hold()]);
        let tags = Gate::new();
        proxy.rule(Match::http("PUT", "?tagging"), [tags.hold()]);
        let run = project.tfguard(TFGUARD, [""; 0], APPLY).new_group().start();
        tags.wait_for(1, SOON);
        if !killed {
            // The table's turn comes after the lockfile's.
            tags.release();
            gate.wait_for(1, SOON);
            run.signal(SIGTERM);
            run.wait(SOON).expect_code(1);
        } else {
            kill(pid_of(&journal(&project)["child"]["id"]));
            let exit = run.wait(SOON).expect_code(137);
            assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
        }
        assert_eq!((project.lock(), project.lock_in_bucket()), (None, None));
        let next = LockInfo::foreign(&project.lock_id());
        if taken {
            project.aws().plant_lock(project.table_name(), &next);
            project.aws().plant_lockfile(&next);
        }
        gate.release();
        tags.release();
        let late = |seen: &Seen| is_record(seen) && (killed || seen.operation().is_some());
        proxy.wait_for(late, SOON);
        let next = taken.then(|| serde_json::to_value(&next).unwrap());
        assert_eq!((project.lock(), project.lock_in_bucket()), (next.clone(), next));
        assert_eq!(project.aws().locks(project.table_name()).len(), usize::from(taken), "no ghost");
    }
}
