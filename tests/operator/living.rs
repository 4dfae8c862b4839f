//! Locks of real Terraforms, alive and dead, as the commands judge them.

use serde_json::{Value, json};

use crate::TFGUARD;
use crate::operator::bed::{Bed, OWN, SOON, json, reach};
use crate::support::{Aws, Exit, Gate, Kind, Match, Project, Run, Running, Tools, session_dirs};

const APPLY: [&str; 4] = ["apply", "-input=false", "-auto-approve", "-no-color"];

/// A guarded apply that holds both halves of its lock, and its command line's front.
fn guarded(options: &[&str]) -> (Project<'static>, Running) {
    let project = Project::new(Aws::shared(), Kind::Sleep).table().lockfile().init(&Tools::get().any_terraform());
    let run = project.tfguard(TFGUARD, options, APPLY).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    project.wait_for_known_lock(SOON);
    (project, run)
}

fn command(project: &Project, words: &[&str]) -> Run {
    project.command(TFGUARD).args(words)
}

fn id(project: &Project) -> String {
    project.lock().expect("it is locked")["ID"].as_str().unwrap().to_owned()
}

#[track_caller]
fn verdict(exit: &Exit) -> Value {
    json(exit)["locks"][0]["verdict"].clone()
}

/// Front, supervisor and Terraform die at once, as with their machine's memory.
fn kill_all(project: &Project, run: Running) {
    let [session] = session_dirs(&project.sessions()).try_into().unwrap();
    let journal: Value = serde_json::from_slice(&std::fs::read(session.join("journal.json")).unwrap()).unwrap();
    run.kill_with_supervisor(&journal);
    assert!(project.guard().kill_all());
}

#[test]
fn the_lock_of_a_living_terraform_stays_whatever_is_said() {
    let (project, run) = guarded(&[]);
    let id = id(&project);
    let exit = command(&project, &["locks", "--format", "json", "--fail"]).run().expect_code(0);
    assert_eq!(verdict(&exit), "alive", "{exit}");
    let exit = command(&project, &["unlock", &id, "--yes", "--report", "unlock.json"]).run().expect_code(120);
    assert!(exit.err().contains("the holder is alive"), "{exit}");
    assert!(project.lock().is_some() && project.lock_in_bucket().is_some(), "{exit}");
    let report: Value = serde_json::from_slice(&std::fs::read(project.work().join("unlock.json")).unwrap()).unwrap();
    assert_eq!((&report["outcome"], &report["lock"]["verdict"]), (&json!("refused"), &json!("alive")), "{report:#}");
    let exit = command(&project, &["inspect"]).run().expect_code(0);
    assert!(exit.out().contains(&id) && exit.out().contains("the holder is alive"), "{exit}");
    run.signal(nix::sys::signal::SIGINT);
    run.wait(SOON);
    assert_eq!(project.lock(), None);
}

#[test]
fn the_lock_of_a_dead_terraform_needs_no_question() {
    let (project, run) = guarded(&[]);
    let id = id(&project);
    kill_all(&project, run);
    assert!(project.lock().is_some() && project.lock_in_bucket().is_some(), "nobody was left to release it");

    let exit = command(&project, &["locks", "--format", "json", "--fail"]).run().expect_code(122);
    assert_eq!(verdict(&exit), "dead", "{exit}");
    assert_eq!(json(&exit)["locks"][0]["stale"], json!(["dead"]), "{exit}");
    let exit = command(&project, &["inspect"]).run().expect_code(122);
    assert!(exit.out().contains("the holder is dead"), "{exit}");
    let exit = command(&project, &["inspect", "--format", "json"]).run().expect_code(122);
    let found = json(&exit);
    assert_eq!((&found["locks"][0]["id"], &found["exit_code"]), (&json!(id), &json!(122)), "{found:#}");

    let exit = command(&project, &["unlock", &id]).run().expect_code(0);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{exit}");
    project.terraform(["plan", "-input=false", "-no-color"]).run().expect_code(0);
}

/// Nobody is left who looks after the lock, no record of its holder was written, and whoever unlocks knows nothing of
/// the place of the job's sessions. Terraform works on.
#[test]
fn a_young_lock_of_a_terraform_whose_guard_is_dead_stays() {
    let (project, run) = guarded(&["--no-annotate"]);
    let id = id(&project);
    let [session] = session_dirs(&project.sessions()).try_into().unwrap();
    let journal: Value = serde_json::from_slice(&std::fs::read(session.join("journal.json")).unwrap()).unwrap();
    run.kill_with_supervisor(&journal);
    let unlock = || {
        let unlock = command(&project, &["unlock", &id, "--yes"]).env("TFGUARD_DIR", project.work());
        let exit = unlock.run().expect_code(120);
        assert!(project.lock().is_some() && project.lock_in_bucket().is_some(), "{exit}");
        exit.err()
    };
    let said = unlock();
    assert!(said.contains("the holder is alive") && said.contains("has the run's log open"), "{said}");
    // It may have taken it when nobody was left to write that down.
    let mut unwritten = journal.clone();
    unwritten["account"]["locks"] = json!([]);
    for journal in [unwritten.to_string(), "torn".to_owned()] {
        std::fs::write(session.join("journal.json"), &journal).unwrap();
        let said = unlock();
        assert!(said.contains("--yes does not count") && said.contains(session.to_str().unwrap()), "{said}");
    }
}

#[test]
fn a_terraform_without_a_guard_is_shown_and_yes_alone_is_not_enough() {
    let project = Project::new(Aws::shared(), Kind::Sleep).table().lockfile().workspace("blue");
    let project = project.init(&Tools::get().any_terraform());
    let run = project.terraform(APPLY).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    let id = id(&project);
    for more in [&["--yes"][..], &["--yes", "--dry-run"], &[]] {
        let exit = command(&project, &["unlock", &id]).args(more).run();
        assert!(exit.out().contains("at work on this machine: terraform (process "), "{exit}");
        assert!(project.lock().is_some() && project.lock_in_bucket().is_some(), "{exit}");
        if more == ["--yes"] {
            assert!(exit.code == Some(120) && exit.err().contains("--yes does not count"), "{exit}");
        }
    }
    // What works on another state is nobody's.
    let other = ["unlock", &id, "--workspace", "green", "--yes"];
    let exit = command(&project, &other).run().expect_code(0);
    assert!(!exit.out().contains("at work"), "{exit}");
    // It goes on in the workspace that was selected when it started.
    let selection = project.work().join(".terraform/environment");
    std::fs::write(&selection, "green").unwrap();
    command(&project, &["unlock", &id, "--workspace", "blue", "--yes"]).run().expect_code(120);
    std::fs::write(&selection, "blue").unwrap();
    assert!(project.guard().kill_all());
    run.wait(SOON);
    command(&project, &["unlock", &id, "--yes"]).run().expect_code(0);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None));
}

/// The question is asked while nothing is known of the lock's holder; the record comes before the answer.
#[test]
fn a_holder_that_is_known_to_live_by_the_time_of_the_answer_keeps_its_lock() {
    for asks in [true, false] {
        let bed = Bed::new();
        let lock = bed.lock("k", OWN);
        bed.in_table(&lock);
        let own = std::process::id();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let start: u64 = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let namespace = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid").unwrap());
        let record = json!({
            "schema": 1, "lock": OWN, "tfguard": "0.1.0", "started": "2026-11-20T04:11:21Z", "host": "h",
            "world": {"boot_id": boot.trim(), "pid_namespace": namespace},
            "supervisor": {"pid": own, "start_ticks": start},
        });
        let recorded = || {
            let record = record.to_string();
            bed.item(&lock.path, &[("Info", &lock.json()), ("TfguardHolder", &record)]);
        };
        let unlock = |more: &[&str]| bed.about("k", &["unlock", OWN]).args(more);
        let exit = if asks {
            let mut unlock = unlock(&[]).pty().start();
            unlock.wait_for_stdout("Only `yes` will be accepted", SOON);
            recorded();
            unlock.write(b"yes\r");
            unlock.wait(SOON)
        } else {
            let look = Gate::new();
            // Its second look.
            bed.proxy.rule(Match::dynamodb("GetItem").body("TfguardHolder").nth(2), [look.hold()]);
            let unlock = unlock(&["--yes"]).start();
            look.wait_for(1, SOON);
            recorded();
            look.release();
            unlock.wait(SOON)
        };
        let exit = exit.expect_code(120);
        assert!(exit.out().contains("may be alive or dead"), "by what was known before the question: {exit}");
        assert!((exit.out() + &exit.err()).contains("the lock stays, because the holder is alive"), "{exit}");
        bed.assert_only_read();
    }
}

/// A lock that no log names is in the journal too, as one that may be the run's or somebody else's. That the run is dead
/// says nothing of such a lock: here it is that of another OpenTofu of the same user on the same machine, which lives.
#[test]
fn a_lock_that_a_dead_run_may_have_had_is_not_dead() {
    let dir = tempfile::tempdir().unwrap();
    let tofu = dir.path().join("tofu");
    std::os::unix::fs::symlink(Tools::get().any_terraform(), &tofu).unwrap();
    let project = Project::new(Aws::shared(), Kind::Sleep).table().init(&tofu);
    // Its user keeps both logs for himself.
    let run = project.tfguard(TFGUARD, [""; 0], APPLY).new_group();
    let run = run.env("TF_LOG", "error").env("TF_LOG_PATH", "mine.log").env("TF_TEMP_LOG_PATH", "/dev/null").start();
    run.wait_for_stdout("asleep", SOON);
    project.aws().delete_item(project.table_name(), &project.lock_id());
    let other = project.terraform(APPLY).new_group().start();
    other.wait_for_stdout("asleep", SOON);
    let (id, lock) = (id(&project), project.lock());
    let journal = project.wait_for_journal(SOON, |journal| journal["child"].is_object());
    crate::support::kill(crate::support::pid_of(&journal["child"]["id"]));
    let exit = run.wait(SOON).expect_code(120);
    assert!(exit.err().contains(&id), "{exit}");

    let exit = command(&project, &["locks", "--format", "json", "--fail"]).run().expect_code(0);
    assert_eq!(verdict(&exit), "unknown", "{exit}");
    for more in [&[][..], &["--yes"]] {
        let exit = command(&project, &["unlock", &id]).args(more).run().expect_code(120);
        assert!(exit.err().contains("--yes does not count"), "{exit}");
        assert_eq!(project.lock(), lock, "{exit}");
    }
}

/// What Terraform shows where it is refused the lock is what a person pastes, wherever they are.
#[test]
fn what_a_refused_terraform_shows_is_enough() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().lockfile().workspace("blue");
    let project = project.init(&Tools::get().any_terraform());
    let lock = crate::support::LockInfo::foreign(&project.lock_id());
    project.aws().plant_lock(project.table_name(), &lock);
    project.aws().plant_lockfile(&lock);
    let refused = project.terraform(["plan", "-input=false", "-no-color"]).run().expect_code(1);
    let field = |name: &str| {
        let err = refused.err();
        let line = err.lines().find_map(|line| line.trim_start_matches(['│', ' ']).strip_prefix(name));
        line.unwrap_or_else(|| panic!("{refused}")).trim().to_owned()
    };
    let (id, path) = (field("ID:"), field("Path:"));
    let (bucket, key) = path.split_once('/').unwrap();
    std::fs::remove_dir_all(project.work().join(".terraform")).unwrap();
    let words = ["unlock", &id, "--yes", "--bucket", bucket, "--key", key, "--table", project.table_name()];
    let exit = command(&project, &words).args(reach(project.aws().url())).run().expect_code(0);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "{exit}");
}

#[test]
fn a_state_is_shown_with_its_digest_and_as_whom_it_was_seen() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().init(&Tools::get().any_terraform());
    let exit = command(&project, &["inspect"]).run().expect_code(0);
    assert!(exit.out().contains("none yet") && exit.out().contains("not locked"), "{exit}");
    project.apply();
    let state = project.state().unwrap();
    let exit = command(&project, &["inspect"]).run().expect_code(0);
    let lineage = state["lineage"].as_str().unwrap();
    for shown in [lineage, "serial 1", "digest      fits", "not locked", "workspace   default", "account 123456789012"]
    {
        assert!(exit.out().contains(shown), "{shown}: {exit}");
    }
    assert!(!exit.out().contains(Aws::ENV[1].1) && !exit.out().contains(Aws::ENV[0].1), "no keys: {exit}");
    let found = json(&command(&project, &["inspect", "--format", "json"]).run().expect_code(0));
    assert_eq!(found["object"]["content"]["lineage"], lineage, "{found:#}");
    assert_eq!((&found["digest_fits"], &found["locks"]), (&json!(true), &json!([])), "{found:#}");
    assert_eq!(found["credentials"]["account"], "123456789012", "{found:#}");

    project.aws().put_object(project.bucket(), &project.state_key(), b"{".to_vec());
    let exit = command(&project, &["inspect"]).run().expect_code(0);
    assert!(exit.out().contains("does NOT fit: run `tfguard verify`"), "{exit}");
    let missing = command(&project, &["inspect", "--table", "no-such-table"]).run().expect_code(125);
    assert!(missing.out().contains("no such DynamoDB table") && missing.out().contains("bytes"), "{missing}");
}
