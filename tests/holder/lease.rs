//! The lease of real Terraforms' locks: beats beside them, and what happens where there are none.

use super::*;

use std::collections::HashSet;
use std::ops::Not as _;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal::{self, *};
use nix::unistd::Pid;

/// A beat every 3.3 s, a stop after 15 s without one, the kill 10 s later: enough for a busy machine.
const LEASE: [&str; 2] = ["--lease", "30s"];
/// The shortest: a beat every 1.7 s. On a busy machine it does not last.
const SHORT: [&str; 2] = ["--lease", "15s"];
/// Longer than from the last beat to the kill.
const KILL: Duration = Duration::from_millis(25_100);

/// A beat, carried out. The first of a lockfile is followed by one whose condition nothing fulfils.
fn is_beat(seen: &Seen) -> bool {
    if seen.header("if-match").is_some_and(|etag| etag.contains("matches-nothing")) {
        return false;
    }
    let in_table = seen.operation() == Some("UpdateItem") && seen.text().contains("SET TfguardLease");
    (in_table || (seen.method == "PUT" && seen.path.contains(".tflock.lease"))) && seen.finished
}

/// What each beat wrote, in order.
fn versions(proxy: &FaultProxy, in_table: bool) -> Vec<String> {
    let beats = proxy.seen().into_iter().filter(|seen| is_beat(seen) && (seen.operation().is_some() == in_table));
    let version = |beat: Seen| {
        let text = beat.text().replace('\\', "");
        // The new one of an item is not where the old one is.
        let new = text.split(r#"":new":{"S":"#).nth(1).unwrap_or(&text);
        new.split(r#""version":""#).nth(1).expect("a beat has a version")[..32].to_owned()
    };
    beats.map(version).collect()
}

/// Waits for so many different versions more.
fn wait_for_beats(proxy: &FaultProxy, in_table: bool, more: usize) {
    let mut known: HashSet<_> = versions(proxy, in_table).into_iter().collect();
    for _ in 0..more {
        let is_new = |seen: &Seen| {
            let place = seen.operation().is_some() == in_table;
            is_beat(seen)
                && place
                && !known.iter().any(|version| seen.text().split("new").last().unwrap().contains(version))
        };
        proxy.wait_for(is_new, SOON);
        known.extend(versions(proxy, in_table));
    }
}

/// Waits until there were more such requests than so many: it is tried again.
#[track_caller]
fn wait_for_more(proxy: &FaultProxy, requests: &Match, known: usize) {
    let begun = Instant::now();
    while proxy.seen_matching(requests).len() <= known {
        assert!(begun.elapsed() < SOON, "it is not tried again");
        thread::sleep(Duration::from_millis(50));
    }
}

/// All that is stored of the lock, but for what tfguard writes beside it.
fn lock_itself(project: &Project, lockfile: bool) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut item = project.aws().item(project.table_name(), &project.lock_id()).expect("the state is locked");
    item.retain(|name, _| !name.starts_with("Tfguard"));
    let key = format!("{}.tflock", project.state_key());
    (item, lockfile.then(|| project.aws().object(project.bucket(), &key).expect("the state is locked")))
}

fn assert_nothing_left(project: &Project, exit: &Exit) {
    let left = project.aws().keys(project.bucket(), "");
    assert!(left.iter().any(|key| key.contains(".tflock")).not(), "{left:?}: {exit}");
    assert_eq!(project.aws().locks(project.table_name()), [], "{exit}");
    project.guard().assert_no_process_left(SOON);
}

/// A project behind a proxy, with both kinds of locks or a table.
fn leased(kind: Kind, lockfile: bool) -> (FaultProxy, Project<'static>) {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(kind).table();
    let project = if lockfile { project.lockfile() } else { project };
    let project = project.endpoint(proxy.url()).init(&terraform());
    (proxy, project)
}

/// A run that holds its lock, with a lease on each half.
fn held(project: &Project, proxy: &FaultProxy, lockfile: bool, options: &[&str]) -> Running {
    let run = project.tfguard(TFGUARD, options, APPLY).new_group().start();
    wait_for_beats(proxy, true, 1);
    if lockfile {
        wait_for_beats(proxy, false, 1);
    }
    run
}

#[test]
fn a_lease_is_renewed_beside_each_half_and_nothing_of_the_lock_changes() {
    let (proxy, project) = leased(Kind::Sleep, true);
    let (table, file) = (Gate::new(), Gate::new());
    proxy.rule(Match::dynamodb("UpdateItem").nth(1), [table.hold()]);
    proxy.rule(Match::http("PUT", ".tflock.lease").nth(1), [file.hold()]);
    let run = project.tfguard(TFGUARD, LEASE, APPLY).new_group().start();
    table.wait_for(1, SOON);
    file.wait_for(1, SOON);
    let before = lock_itself(&project, true);
    table.release();
    file.release();
    wait_for_beats(&proxy, true, 3);
    wait_for_beats(&proxy, false, 3);
    run.wait_for_stdout("asleep", SOON);
    assert_eq!(lock_itself(&project, true), before);
    let item = project.aws().item(project.table_name(), &project.lock_id()).unwrap();
    let lease: Value = serde_json::from_str(item["TfguardLease"].as_s().unwrap()).unwrap();
    assert_eq!((&lease["lock"], &lease["length_ms"]), (&project.lock().unwrap()["ID"], &30_000.into()));
    assert!(item.contains_key(ATTRIBUTE), "the holder is recorded at once");
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(1);
    assert!(exit.err().contains("has a lease of 30s"), "{exit}");
    assert!(exit.err().contains("released by Terraform"), "{exit}");
    assert_nothing_left(&project, &exit);
    for in_table in [true, false] {
        let all = versions(&proxy, in_table);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "a version for each beat");
    }
}

/// Each Terraform of a script has a guard of its own, which keeps its lease, and is told of it by a variable.
#[test]
fn the_lock_of_a_scripts_terraform_has_a_lease() {
    let (proxy, project) = leased(Kind::Sleep, false);
    let script = format!("terraform {}", APPLY.join(" "));
    let run = project.command(TFGUARD).args(LEASE).args(["--", "sh", "-c", &script]).new_group().start();
    wait_for_beats(&proxy, true, 2);
    run.wait_for_stdout("asleep", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(1);
    assert_nothing_left(&project, &exit);
}

#[test]
fn a_quick_run_leaves_no_lease() {
    let (_proxy, project) = leased(Kind::Quick, true);
    let exit = project.tfguard(TFGUARD, ["--lease", "3m"], APPLY).run().expect_code(0);
    assert_nothing_left(&project, &exit);
}

/// Whatever the program, its log tells of the unlock before the request is sent: a lock that is gone then is not lost.
#[test]
fn an_unlock_that_is_answered_late_is_no_loss() {
    let programs = [Product::Terraform, Product::OpenTofu].map(|product| Tools::get().programs(product));
    let programs = programs.into_iter().flatten().map(|(version, program)| (version.to_owned(), program));
    let terraforms = Tools::get().terraforms().map(|(version, program)| (version.to_owned(), program));
    for (version, program) in programs.chain(terraforms).filter(|(version, _)| !version.starts_with("0.")) {
        let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
        for lockfile in [false, true].into_iter().filter(|lockfile| !lockfile || minor >= 10) {
            let proxy = FaultProxy::start(Aws::shared().url());
            let work = "while [ ! -e go ]; do sleep 0.1; done";
            let work = format!("provisioner \"local-exec\" {{\n    command = {work:?}\n  }}");
            let work = format!("resource \"terraform_data\" \"work\" {{\n  {work}\n}}\n");
            let project = project(Kind::Hcl(work));
            let project = if lockfile { project.lockfile() } else { project.table() };
            let project = if minor < 6 { project.old_names() } else { project };
            let project = project.endpoint(proxy.url()).init(&program);
            let [unlock, beat, look] = [(); 3].map(|()| Gate::new());
            let [unlocks, beats, looks] = match lockfile {
                true => [("DELETE", ".tflock?"), ("HEAD", ".tflock"), ("GET", ".tflock?")]
                    .map(|(method, path)| Match::http(method, path)),
                false => {
                    let ours = |operation| Match::dynamodb(operation).body("TfguardLease");
                    [Match::dynamodb("DeleteItem"), ours("UpdateItem"), ours("GetItem")]
                }
            };
            proxy.rule(unlocks.nth(1), [Action::Forward, unlock.hold()]);
            let run = project.tfguard(TFGUARD, LEASE, APPLY).new_group().start();
            // OpenTofu up to 1.10 logs nothing of a lock in a table, which therefore has no lease.
            let has_lease = lockfile || minor > 10 || !program.ends_with("tofu");
            if has_lease {
                proxy.wait_for(is_beat, SOON);
            }
            std::fs::write(project.work().join("go"), "").unwrap();
            unlock.wait_for(1, SOON);
            // A beat of a lock that is gone, and the look at what is there; unless both were over by now.
            proxy.rule(beats, [beat.hold()]);
            proxy.rule(looks, [look.hold()]);
            if has_lease && beat.is_reached_within(Duration::from_secs(10)) {
                beat.release();
                look.is_reached_within(Duration::from_secs(10));
            }
            beat.release();
            look.release();
            unlock.release();
            let exit = run.wait(SOON).expect_code(0);
            let case = format!("{} {lockfile}: {exit}", program.display());
            assert!(!exit.err().contains("taken away") && !exit.err().contains("stop requested"), "{case}");
            assert_eq!(proxy.seen().iter().any(is_beat), has_lease, "{case}");
            assert_eq!(exit.err().contains("so its lock has no lease"), !has_lease, "{case}");
            println!(
                "{} {version}, {}: lease: {has_lease}",
                program.display(),
                if lockfile { "lockfile" } else { "table" }
            );
        }
    }
}

#[test]
fn a_run_that_is_cut_off_is_interrupted_and_then_killed() {
    thread::scope(|scope| {
        for (lockfile, hangs) in [(false, false), (false, true), (true, false), (true, true)] {
            scope.spawn(move || {
                let (proxy, project) = leased(if hangs { Kind::HangInApply } else { Kind::Sleep }, lockfile);
                let run = held(&project, &proxy, lockfile, &LEASE);
                if hangs {
                    project.wait_for_hang(SOON);
                } else {
                    run.wait_for_stdout("asleep", SOON);
                }
                let half = if lockfile { Match::http("PUT", ".tflock.lease") } else { Match::dynamodb("UpdateItem") };
                proxy.rule(half, [Action::Close]);
                run.wait_for_stderr("stop requested: the lease of its lock was not renewed in time", SOON);
                let exit = run.wait(SOON);
                assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
                // On a busy machine the other one may not have ended by then, either.
                let killed = exit.err().contains("killing terraform, before anybody may take that lock");
                assert!(killed || !hangs, "{exit}");
                assert_eq!(exit.code, Some(124), "{exit}");
                assert_nothing_left(&project, &exit);
            });
        }
    });
}

/// The lock is somebody else's by then: a person unlocked it by force, and another run took it.
#[test]
fn a_run_whose_lock_is_taken_away_is_stopped_and_touches_the_other_lock_no_more() {
    for lockfile in [false, true] {
        let (proxy, project) = leased(Kind::Sleep, lockfile);
        let run = held(&project, &proxy, lockfile, &["--lease", "30s", "--report", "report.json"]);
        run.wait_for_stdout("asleep", SOON);
        let other = LockInfo::foreign(&project.lock_id());
        project.aws().plant_lock(project.table_name(), &other);
        if lockfile {
            project.aws().plant_lockfile(&other);
        }
        let item = project.aws().item(project.table_name(), &project.lock_id());
        run.wait_for_stderr("stop requested: its lock was taken away", SOON);
        let before = proxy.seen().len();
        let exit = run.wait(SOON).expect_code(121);
        assert!(exit.err().contains("taken away while Terraform was at work, so two may have written"), "{exit}");
        assert!(exit.err().contains("tfguard verify"), "{exit}");
        assert_eq!(project.aws().item(project.table_name(), &project.lock_id()), item, "{exit}");
        let other = serde_json::to_value(&other).unwrap();
        assert_eq!(lockfile.then(|| project.lock_in_bucket().unwrap()), lockfile.then_some(other), "{exit}");
        let touched = proxy.seen().into_iter().skip(before).filter(|seen| {
            let ours = seen.header("user-agent").is_some_and(|agent| agent.contains(OUR_AGENT));
            let writes = matches!(seen.operation(), Some("UpdateItem" | "DeleteItem"));
            ours && (writes || (seen.path.contains(".tflock") && seen.method != "GET" && seen.method != "HEAD"))
        });
        // A half that was still thought to be held when the other was lost is looked at, and beaten in vain.
        let touched: Vec<_> = touched.filter(|seen| !is_beat(seen)).collect();
        assert!(touched.is_empty(), "{touched:?} {exit}");
        let report: Value =
            serde_json::from_slice(&std::fs::read(project.work().join("report.json")).unwrap()).unwrap();
        assert_eq!(report["locks"][0]["outcome"]["is"], "taken-away", "{exit}");
        project.guard().assert_no_process_left(SOON);
    }
}

fn signal_all(project: &Project, signal: Signal) {
    for line in project.guard().processes() {
        let pid = line.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a line begins with a pid");
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }
}

/// A laptop that was closed, a frozen container: whoever waited for the lock has it when they wake.
#[test]
fn a_run_that_was_frozen_for_too_long_is_killed_when_it_wakes() {
    thread::scope(|scope| {
        for lockfile in [false, true] {
            scope.spawn(move || {
                let (proxy, project) = leased(Kind::Sleep, lockfile);
                let run = held(&project, &proxy, lockfile, &LEASE);
                run.wait_for_stdout("asleep", SOON);
                signal_all(&project, SIGSTOP);
                // What passes is the time itself.
                thread::sleep(KILL);
                let other = LockInfo::foreign(&project.lock_id());
                project.aws().plant_lock(project.table_name(), &other);
                if lockfile {
                    project.aws().plant_lockfile(&other);
                }
                signal_all(&project, SIGCONT);
                let exit = run.wait(SOON).expect_code(124);
                assert!(!exit.out().contains("Interrupt received."), "killed at once: {exit}");
                assert!(exit.err().contains("killing terraform, before anybody may take that lock"), "{exit}");
                let other = serde_json::to_value(&other).unwrap();
                assert_eq!(project.lock(), Some(other.clone()), "{exit}");
                assert_eq!(lockfile.then(|| project.lock_in_bucket().unwrap()), lockfile.then_some(other), "{exit}");
                project.guard().assert_no_process_left(SOON);
            });
        }
    });
}

#[test]
fn whoever_takes_a_killed_supervisors_place_goes_on_with_the_lease() {
    let (proxy, project) = leased(Kind::Sleep, true);
    let run = held(&project, &proxy, true, &LEASE);
    run.wait_for_stdout("asleep", SOON);
    kill(pid_of(&journal(&project)["supervisor"]));
    run.wait_for_stderr("this process takes its place", SOON);
    wait_for_beats(&proxy, true, 2);
    wait_for_beats(&proxy, false, 2);
    // The cleanup step, in the place of both. Its Terraform does not stop by itself.
    let journal = journal(&project);
    run.kill_with_supervisor(&journal);
    let gate = Gate::new();
    proxy.rule(Match::dynamodb("DeleteItem").nth(1), [gate.hold()]);
    let release = project.command(TFGUARD).args(["release", "--wait", "1m"]).start();
    // Terraform's unlock waits for a beat of the cleanup step.
    gate.wait_for(1, SOON);
    wait_for_beats(&proxy, true, 1);
    gate.release();
    let exit = release.wait(SOON).expect_code(0);
    assert_nothing_left(&project, &exit);
}

/// Suspends the supervisor of an apply that is under way, and nobody else; its process ID.
fn suspend_supervisor(project: &Project, run: &Running) -> i32 {
    run.wait_for_stdout("asleep", SOON);
    let supervisor = pid_of(&journal(project)["supervisor"]);
    nix::sys::signal::kill(Pid::from_raw(supervisor), SIGSTOP).unwrap();
    supervisor
}

/// Guards the lock of a Terraform that goes on while its supervisor stands still: an observer elsewhere would take it.
#[test]
fn a_supervisor_that_is_suspended_alone_is_replaced_and_the_lease_goes_on() {
    let (proxy, project) = leased(Kind::Sleep, false);
    let run = held(&project, &proxy, false, &LEASE);
    let supervisor = suspend_supervisor(&project, &run);
    run.wait_for_stderr("this process takes its place", SOON);
    wait_for_beats(&proxy, true, 2);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(125);
    assert!(exit.err().contains(&format!("supervisor (process {supervisor}) is suspended")), "{exit}");
    assert_nothing_left(&project, &exit);
}

/// Guards against a front that waits for who stands still.
#[test]
fn so_is_one_that_many_requests_are_waiting_for() {
    let (proxy, project) = leased(Kind::Sleep, false);
    let run = held(&project, &proxy, false, &LEASE);
    suspend_supervisor(&project, &run);
    let deadline = Instant::now() + SOON;
    while !run.stderr().contains("this process takes its place") {
        assert!(Instant::now() < deadline, "{}", run.stderr());
        [SIGTERM, SIGINT].into_iter().for_each(|signal| run.signal(signal));
    }
    let exit = run.wait(SOON).expect_code(125);
    assert_nothing_left(&project, &exit);
}

/// A supervisor that is dead renews nothing: its successor kills at the old deadline, which is over.
#[test]
fn a_successor_that_comes_too_late_kills() {
    let (proxy, project) = leased(Kind::Sleep, false);
    let run = held(&project, &proxy, false, &LEASE);
    run.wait_for_stdout("asleep", SOON);
    let journal = journal(&project);
    run.kill_with_supervisor(&journal);
    thread::sleep(KILL);
    let exit = project.command(TFGUARD).args(["release", "--wait", "1m"]).start().wait(SOON);
    assert!(exit.err().contains("killing terraform, before anybody may take that lock"), "{exit}");
    assert!(!exit.out().contains("Interrupt received."), "{exit}");
    assert_nothing_left(&project, &exit);
}

#[test]
fn a_role_that_may_not_write_a_lease_runs_without_one_and_is_told() {
    for lockfile in [false, true] {
        let (proxy, project) = leased(Kind::Sleep, lockfile);
        proxy.rule(Match::dynamodb("UpdateItem"), [Answer::dynamodb("AccessDeniedException", "no").into()]);
        proxy.rule(Match::http("PUT", ".tflock.lease"), [Answer::s3(403, "AccessDenied", "no").into()]);
        let run = project.tfguard(TFGUARD, LEASE, APPLY).new_group().start();
        run.wait_for_stderr("has no lease", SOON);
        run.wait_for_stdout("asleep", SOON);
        let denied = proxy.seen_matching(&Match::dynamodb("UpdateItem")).len();
        // Longer than to the kill; what passes is the time itself.
        thread::sleep(KILL + Duration::from_secs(1));
        wait_for_more(&proxy, &Match::dynamodb("UpdateItem"), denied);
        assert!(!run.stderr().contains("stop requested"), "{}", run.stderr());
        run.signal(SIGTERM);
        let exit = run.wait(SOON).expect_code(1);
        assert_eq!(exit.err().matches("UpdateItem was denied").count(), 1, "said once: {exit}");
        assert!(exit.err().contains("released by Terraform"), "{exit}");
        assert_nothing_left(&project, &exit);
    }
}

/// With DEBUG the log tells of a lockfile twice: by Terraform's record, and by its upload. Two leases of one lock evict each
/// other.
#[test]
fn a_lock_that_the_log_tells_of_twice_has_one_lease_on_each_half() {
    thread::scope(|scope| {
        for by_path in [false, true] {
            scope.spawn(move || {
                let (proxy, project) = leased(Kind::Sleep, true);
                let script = format!("{} {}; exit $?", terraform().display(), APPLY.join(" "));
                let run = match by_path {
                    true => project.command(TFGUARD).args(LEASE).args(["--", "sh", "-c", &script]),
                    false => project.tfguard(TFGUARD, LEASE, APPLY).envs([("TF_LOG", "debug"), ("TF_LOG_PATH", "log")]),
                };
                let run = run.new_group().start();
                wait_for_beats(&proxy, true, 3);
                wait_for_beats(&proxy, false, 3);
                run.wait_for_stdout("asleep", SOON);
                run.signal(SIGTERM);
                let exit = run.wait(SOON);
                assert!(!exit.err().contains("taken away"), "{exit}");
                assert_eq!(exit.err().matches("has a lease of 30s").count(), 2, "{exit}");
                assert!(exit.err().contains("released by Terraform"), "{exit}");
                assert_nothing_left(&project, &exit);
            });
        }
    });
}

/// Before a record names the lock, it is known that the store keeps conditions: an observer would believe that record.
#[test]
fn a_store_whose_conditions_cannot_be_tried_has_no_lease_and_stops_nobody() {
    let beat = || Match::http("PUT", ".tflock.lease");
    let trial = || beat().header("if-match", "matches-nothing");
    let denied = Answer::s3(403, "AccessDenied", "no");
    let unknown =
        Answer::s3(501, "NotImplemented", "A header you provided implies functionality that is not implemented");
    thread::scope(|scope| {
        for (requests, action) in [
            (trial(), denied.into()),
            (trial(), Action::Close),
            (trial(), unknown.clone().into()),
            (beat().header("if-none-match", ""), unknown.into()),
        ] {
            scope.spawn(move || {
                let (proxy, project) = leased(Kind::Sleep, true);
                proxy.rule(requests.clone(), [action]);
                let run = project.tfguard(TFGUARD, LEASE, APPLY).new_group().start();
                run.wait_for_stderr("has no lease", SOON);
                run.wait_for_stdout("asleep", SOON);
                let tried = proxy.seen_matching(&requests).len();
                // Longer than to the kill; what passes is the time itself.
                thread::sleep(KILL + Duration::from_secs(1));
                wait_for_more(&proxy, &requests, tried);
                assert!(!run.stderr().contains("stop requested"), "{}", run.stderr());
                let keys = project.aws().keys(project.bucket(), "");
                assert!(keys.iter().any(|key| key.ends_with(".lease")).not(), "{keys:?}: {}", run.stderr());
                proxy.clear_rules();
                wait_for_beats(&proxy, false, 2);
                run.signal(SIGTERM);
                let exit = run.wait(SOON).expect_code(1);
                assert!(exit.err().contains("released by Terraform"), "{exit}");
                assert_nothing_left(&project, &exit);
            });
        }
    });
}

/// Somebody else's lock in the place of a run's own.
fn take_away(project: &Project) {
    let other = LockInfo::foreign(&project.lock_id());
    project.aws().plant_lock(project.table_name(), &other);
}

#[test]
fn whoever_takes_over_a_lost_lock_renews_it_no_more_and_kills_in_time() {
    let (proxy, project) = leased(Kind::HangInApply, false);
    let run = held(&project, &proxy, false, &LEASE);
    project.wait_for_hang(SOON);
    take_away(&project);
    run.wait_for_stderr("stop requested: its lock was taken away", SOON);
    let sent = proxy.seen_matching(&Match::dynamodb("UpdateItem")).len();
    kill(pid_of(&journal(&project)["supervisor"]));
    run.wait_for_stderr("this process takes its place", SOON);
    let exit = run.wait(SOON).expect_code(121);
    assert!(exit.err().contains("killing terraform, before anybody may take that lock"), "{exit}");
    assert_eq!(proxy.seen_matching(&Match::dynamodb("UpdateItem")).len(), sent, "{exit}");
    // Before, whoever writes the holder beside the lock may have said so, too.
    let err = exit.err();
    let (_, after) = err.split_once("this process takes its place").unwrap();
    assert!(!after.contains("taken away while Terraform is at work"), "{exit}");
    project.guard().assert_no_process_left(SOON);
}

/// The time of a lease is shorter than the usual grace.
#[test]
fn a_reminder_after_a_lost_lock_tells_of_the_time_until_the_kill() {
    let (proxy, project) = leased(Kind::HangInApply, false);
    let run = held(&project, &proxy, false, &["--lease", "90s"]);
    project.wait_for_hang(SOON);
    take_away(&project);
    run.wait_for_stderr("finishing: ", SOON);
    run.wait_for_stderr("s left until its lease ends", SOON);
    assert!(!run.stderr().contains(" of 5m left"), "{}", run.stderr());
    assert!(project.guard().kill_all());
}

/// The child is dead, and the Terraform below it is not: its lease goes on, and so does its kill deadline.
#[test]
fn the_terraform_of_a_dead_wrapper_is_killed_when_its_lock_is_lost() {
    let (proxy, project) = leased(Kind::HangInApply, false);
    let wrapper = project.work().join("wrapper/terraform");
    std::fs::create_dir(wrapper.parent().unwrap()).unwrap();
    make_program(&wrapper, &format!("#!/bin/sh\n{} \"$@\" &\nwait\n", terraform().display()));
    let run = project.command(TFGUARD).args(LEASE).arg("--").arg(&wrapper).args(APPLY).new_group().start();
    wait_for_beats(&proxy, true, 1);
    project.wait_for_hang(SOON);
    kill(pid_of(&journal(&project)["child"]["id"]));
    run.wait_for_stderr("stop requested", SOON);
    wait_for_beats(&proxy, true, 1);
    take_away(&project);
    run.wait_for_stderr("taken away while Terraform is at work", SOON);
    let exit = run.wait(SOON);
    assert!(exit.err().contains("killing terraform, before anybody may take that lock"), "{exit}");
    project.guard().assert_no_process_left(SOON);
}

/// A lock that is kept for a person has no lease, or the next run would take it. Where that fails, it is said.
#[test]
fn a_lock_that_a_cleanup_step_keeps_loses_its_lease() {
    for denied in [false, true] {
        let (proxy, project) = leased(Kind::Sleep, true);
        let run = held(&project, &proxy, true, &LEASE);
        run.wait_for_stdout("asleep", SOON);
        let journal = journal(&project);
        run.kill_with_supervisor(&journal);
        assert!(project.guard().kill_all());
        if denied {
            let removal = Match::dynamodb("UpdateItem").body("REMOVE TfguardLease");
            proxy.rule(removal, [Answer::dynamodb("AccessDeniedException", "no").into()]);
        }
        let exit = project.command(TFGUARD).arg("release").env("TFGUARD_ON_DEATH", "keep").run();
        let item = project.aws().item(project.table_name(), &project.lock_id()).expect("the lock stays");
        assert_eq!(item.contains_key("TfguardLease"), denied, "{item:?}: {exit}");
        assert_eq!(exit.err().contains("a run with --reclaim elsewhere may delete the lock"), denied, "{exit}");
        assert!(project.lock_in_bucket().is_some(), "{exit}");
        let keys = project.aws().keys(project.bucket(), "");
        assert!(keys.iter().any(|key| key.ends_with(".lease")).not(), "{keys:?}: {exit}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused_with_a_reason() {
    let project = project(Kind::Quick).table().init(&terraform());
    for (options, says) in [
        (&["--lease", "14s"][..], "too short"),
        (&["--lease", "25h"], "too long"),
        (&["--lease", "3m", "--attach"], "hint: add --detach"),
        (&["--lease", "3m", "--on-death", "keep-apply"], "hint: leave one of them out"),
        (&["--lease", "3"], "write a duration"),
    ] {
        let exit = project.tfguard(TFGUARD, options, APPLY).run().expect_code(125);
        assert!(exit.err().contains(says), "{options:?}: {exit}");
    }
    assert_eq!(project.state(), None, "nothing was started");
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).env("TFGUARD_LEASE", "30s").run().expect_code(0);
    assert!(exit.err().contains("--lease 30s is short"), "{exit}");
    project
        .command(TFGUARD)
        .args(["release"])
        .envs([("TFGUARD_LEASE", "3m"), ("TFGUARD_ATTACH", "1")])
        .run()
        .expect_code(0);
}

/// Guards against a descriptor, or a connection, that each beat leaves open. With `TFGUARD_TEST_STEPS=all`: over some hundred.
#[test]
fn beats_cost_no_descriptor() {
    let (proxy, project) = leased(Kind::Sleep, true);
    let run = held(&project, &proxy, true, &SHORT);
    wait_for_beats(&proxy, true, 2);
    let supervisor = pid_of(&journal(&project)["supervisor"]);
    let descriptors = || std::fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
    let all = std::env::var_os("TFGUARD_TEST_STEPS").is_some_and(|steps| steps == "all");
    // One of a beat that is under way, of each half.
    let (beats, most) = (if all { 300 } else { 6 }, descriptors() + 2);
    for beat in 0..beats {
        wait_for_beats(&proxy, true, 1);
        let now = descriptors();
        assert!(now <= most, "{now} descriptors after {beat} beats, {most} at most");
    }
    println!("{} descriptors after {beats} beats, {most} at most", descriptors());
    run.signal(SIGTERM);
    // On a busy machine a lease of 15 s can end while Terraform stops, and then it is killed.
    let exit = run.wait(SOON);
    assert!(matches!(exit.code, Some(1 | 124 | 137)), "{exit}");
}
