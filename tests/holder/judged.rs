//! Holders of real runs, judged.

use tfguard::model::LockInfo as Found;
use tfguard::model::Recorded;
use tfguard::session::{Judged, Machine};

use super::*;

fn judge(project: &Project, recorded: &Recorded) -> Judged {
    let lock = project.lock().expect("it is locked");
    let info = Found::parse(lock.to_string().as_bytes()).unwrap();
    let sessions = project.sessions();
    Machine::here(&[("TFGUARD_DIR", sessions)].into_iter().collect()).judge(&info, recorded)
}

/// The record as it stands beside the lock, read as others read it.
fn recorded(project: &Project) -> Recorded {
    let item = project.aws().item(project.table_name(), &project.lock_id()).expect("it is locked");
    tfguard::model::Sighting::of_item(&item).recorded
}

/// Where the session was not found where tfguard looks: what stands in the record leads nobody to it.
fn judge_by_record(project: &Project, recorded: &Recorded) -> Judged {
    let lock = project.lock().expect("it is locked");
    let info = Found::parse(lock.to_string().as_bytes()).unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    Machine::here(&[("TFGUARD_DIR", nowhere.path())].into_iter().collect()).judge(&info, recorded)
}

#[test]
fn a_holder_is_alive_until_everything_of_its_run_is_gone() {
    let project = project(Kind::Sleep).table().init(&terraform());
    let run = job(project.tfguard(TFGUARD, ["-v"], APPLY), "7").new_group().start();
    run.wait_for_stdout("asleep", SOON);
    project.wait_for_known_lock(SOON);
    // The journal alone, while there is no record yet.
    let judged = judge(&project, &Recorded::Nothing);
    assert!(judged.verdict.is_alive(), "{}", judged.verdict);
    // Wherever that is: its Terraform has the log beside it open.
    let elsewhere = judge_by_record(&project, &Recorded::Nothing);
    assert!(elsewhere.holder.is_some() && elsewhere.verdict.is_alive(), "{}", elsewhere.verdict);

    run.wait_for_stderr("recorded beside item", SOON);
    let recorded = recorded(&project);
    for judged in [judge(&project, &recorded), judge_by_record(&project, &recorded)] {
        assert!(judged.verdict.is_alive(), "{}", judged.verdict);
        assert_eq!(judged.holder.unwrap().ci.unwrap().job.as_deref(), Some("apply"));
    }

    // Terraform is alive, its tfguard is not.
    let journal = journal(&project);
    run.kill_with_supervisor(&journal);
    let judged = judge_by_record(&project, &recorded);
    assert!(judged.verdict.is_alive(), "{}", judged.verdict);
    // Nor did it see the end of what it gave up on.
    let mut given_up = journal.clone();
    given_up["account"]["ended"] = "2026-11-20T04:11:21Z".into();
    given_up["account"]["survivors"] = serde_json::json!(["terraform (1)"]);
    let [session] = session_dirs(&project.sessions()).try_into().unwrap();
    std::fs::write(session.join("journal.json"), given_up.to_string()).unwrap();
    for judged in [judge(&project, &Recorded::Nothing), judge_by_record(&project, &recorded)] {
        assert!(judged.verdict.is_alive(), "{}", judged.verdict);
    }
    std::fs::write(session.join("journal.json"), journal.to_string()).unwrap();

    // What Terraform started is of its process group.
    kill(pid_of(&journal["child"]["id"]));
    let judged = judge(&project, &recorded);
    assert!(judged.verdict.word() == "unknown" && judged.verdict.why().contains("sleep ("), "{}", judged.verdict);
    let left = project.guard().processes();
    let [sleep] = &left[..] else { panic!("{left:?}") };
    kill(sleep.split(' ').next().unwrap().parse().unwrap());
    project.guard().assert_no_process_left(SOON);
    for judged in [judge(&project, &recorded), judge(&project, &Recorded::Nothing)] {
        assert!(judged.verdict.is_dead(), "{}", judged.verdict);
    }

    // A record alone is no proof: it may have been of another Terraform that is alive.
    let judged = judge_by_record(&project, &recorded);
    assert_eq!(judged.verdict.word(), "unknown", "{}", judged.verdict);
    // Nor is a session of the same name, as the next container may have one.
    let text = std::fs::read_to_string(session.join("journal.json")).unwrap();
    let id = project.lock().unwrap()["ID"].as_str().unwrap().to_owned();
    std::fs::write(session.join("journal.json"), text.replace(&id, &LockInfo::foreign("").id)).unwrap();
    let judged = judge(&project, &recorded);
    assert_eq!(judged.verdict.word(), "unknown", "{}", judged.verdict);

    // Another machine, or this one before a restart.
    let Recorded::Holder(mut elsewhere) = recorded else { panic!("{recorded:?}") };
    elsewhere.world.boot_id = "another".to_owned();
    let judged = judge_by_record(&project, &Recorded::Holder(elsewhere));
    assert_eq!(judged.verdict.word(), "unknown", "{}", judged.verdict);
    assert!(judged.verdict.why().contains("before a restart"), "{}", judged.verdict);
}

/// A script's Terraform lives on when the script is dead.
#[test]
fn a_grandchild_terraform_keeps_the_holder_alive() {
    let project = project(Kind::Sleep).table().init(&terraform());
    let script = "terraform apply -input=false -auto-approve -no-color & echo $! > pid; wait";
    let run = project.command(TFGUARD).args(["-v", "--", "setsid", "-w", "sh", "-c", script]).new_group().start();
    run.wait_for_stderr("recorded beside item", SOON);
    let (recorded, journal) = (recorded(&project), journal(&project));
    run.kill_with_supervisor(&journal);
    kill(pid_of(&journal["child"]["id"]));
    let judged = judge_by_record(&project, &recorded);
    assert!(judged.verdict.is_alive() && judged.verdict.why().contains("log open"), "{}", judged.verdict);
    let pid = std::fs::read_to_string(project.work().join("pid")).unwrap();
    kill(pid.trim().parse().unwrap());
}

/// As a container sees the run of another, and the other way round.
#[test]
fn a_holder_in_another_pid_namespace_is_judged_by_its_log() {
    let project = project(Kind::Sleep).table().init(&terraform());
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    if project.command("unshare").args(unshare).arg("true").run().code != Some(0) {
        // Not by a macro, whose words the harness keeps to itself where a test passes.
        let words = b"SKIPPED: this machine permits no PID namespaces, so no holder in a container is judged\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), words);
        return;
    }
    let run = project.command("unshare").args(unshare).args([TFGUARD, "-v", "--"]).arg(terraform()).args(APPLY);
    let run = job(run, "7").new_group().start();
    run.wait_for_stderr("recorded beside item", SOON);
    let recorded = recorded(&project);
    let judged = judge_by_record(&project, &recorded);
    assert!(judged.verdict.is_alive() && judged.verdict.why().contains("log open"), "{}", judged.verdict);
    run.signal(nix::sys::signal::SIGKILL);
    run.wait(SOON);
    project.guard().assert_no_process_left(SOON);
    let judged = judge(&project, &recorded);
    assert!(judged.verdict.is_dead() && judged.verdict.why().contains("container"), "{}", judged.verdict);
}
