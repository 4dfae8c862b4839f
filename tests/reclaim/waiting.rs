//! `--reclaim` of a run.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::*;

/// What was there stays for the whole lease, and then the apply works, with what is left of its deadline.
#[test]
fn a_dead_runs_lock_is_reclaimed_after_the_whole_lease() {
    let beds = Leased::all();
    let runs: Vec<_> = beds
        .iter()
        .map(|bed| (Instant::now(), bed.apply(&["--deadline", "5m", "--report", "report.json"]).start()))
        .collect();
    for (bed, (began, run)) in beds.iter().zip(runs) {
        run.wait_for_stderr("deleted at", SOON);
        assert!(began.elapsed() >= WAIT, "deleted after {:?}", began.elapsed());
        let exit = run.wait(SOON).expect_code(0);
        assert!(
            exit.err().contains("is locked by runner@build-7f9c4") && exit.err().contains("a lease of 15s"),
            "{exit}"
        );
        assert!(exit.err().contains("nobody renewed its lease for 21s 500ms"), "{exit}");
        assert_eq!(
            exit.err().matches("deleted at").count(),
            usize::from(bed.table) + usize::from(bed.lockfile),
            "{exit}"
        );
        assert!(exit.out().contains("Apply complete!"), "{exit}");
        assert_eq!(bed.left(), [""; 0], "{exit}");
        let report = std::fs::read(bed.project.work().join("report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        let deadline = report["deadline"]["seconds"].as_f64().unwrap_or_else(|| panic!("{report:#}"));
        assert!(deadline <= (Duration::from_secs(300) - WAIT).as_secs_f64(), "{deadline}");
    }
}

/// The lock is there for longer than any observer waits for a dead one's, and its holder renews it.
#[test]
fn a_living_runs_lock_is_waited_for_until_it_is_gone() {
    let beds = Leased::all();
    // Of another run in this directory: it says nothing of one that ended by itself.
    for bed in &beds {
        let mut state = bed.project.state().unwrap();
        state["serial"] = 0.into();
        std::fs::write(bed.project.work().join("errored.tfstate"), state.to_string()).unwrap();
    }
    let runs: Vec<_> = beds.iter().map(|bed| bed.waiting(&[])).collect();
    let began = Instant::now();
    while began.elapsed() < WAIT * 3 / 2 {
        std::thread::sleep(Duration::from_secs(3));
        for (bed, run) in beds.iter().zip(&runs) {
            assert!(!run.has_ended(), "{}", run.stderr());
            bed.beat();
            assert_eq!((bed.left(), bed.deletes()), (bed.whole(), 0));
        }
    }
    beds.iter().for_each(Leased::unlock);
    for (bed, run) in beds.iter().zip(runs) {
        let exit = run.wait(SOON).expect_code(0);
        assert!(exit.err().contains("is gone") && exit.out().contains("Apply complete!"), "{exit}");
        assert_eq!(bed.deletes(), 0, "{exit}");
    }
}

#[test]
fn a_lock_without_a_lease_is_left_to_terraform() {
    for bed in Leased::all() {
        bed.unlock();
        bed.lock(&bed.lock);
        // Of another lock, and one that nobody understands.
        for (number, lease) in [None, Some(bed.lock.id.replace('5', "6")), Some("{".to_owned())].into_iter().enumerate()
        {
            if let Some(lease) = lease.filter(|_| bed.lockfile) {
                bed.project.aws().put_object(bed.project.bucket(), &bed.lease_key(), lease.into_bytes());
            }
            let exit = bed.apply(&[]).run().expect_code(1);
            assert!(exit.err().contains("the lock is left to terraform: "), "{number}: {exit}");
            assert!(exit.err().contains("Error acquiring the state lock"), "{number}: {exit}");
        }
        assert_eq!(bed.deletes(), 0);
        assert!(bed.left().contains(&bed.whole()[0]));
    }
}

/// One half has no lease: its holder may be alive and just about to write it.
#[test]
fn a_lock_of_which_one_half_has_no_lease_is_left_to_terraform() {
    let bed = Leased::new(true, true);
    bed.project.aws().plant_lock(bed.project.table_name(), &bed.lock);
    let exit = bed.apply(&[]).run().expect_code(1);
    assert!(exit.err().contains("has no lease"), "{exit}");
    assert_eq!((bed.left(), bed.deletes()), (bed.whole(), 0));
}

/// Somebody unlocked by hand and works without tfguard.
#[test]
fn a_lock_of_plain_terraform_that_comes_meanwhile_stays() {
    let beds = Leased::all();
    for (bed, run) in beds.iter().zip(beds.iter().map(|bed| bed.waiting(&[])).collect::<Vec<_>>()) {
        bed.unlock();
        let other = LockInfo { id: bed.lock.id.replace('5', "6"), who: "alice@laptop".to_owned(), ..bed.lock.clone() };
        bed.lock(&other);
        let exit = run.wait(SOON);
        // Where it was looked at in between, Terraform says so.
        assert!(exit.code == Some(1) && exit.err().contains("alice@laptop"), "{exit}");
        assert_eq!(bed.deletes(), 0, "{exit}");
        assert!(!bed.left().is_empty(), "{exit}");
    }
}

#[test]
fn of_two_observers_one_reclaims_and_the_other_sees_it() {
    let beds = Leased::all();
    let start = |bed: &Leased| [(); 2].map(|()| bed.apply(&["--lock-timeout", "90s"]).start());
    let runs: Vec<_> = beds.iter().map(start).collect();
    for (bed, runs) in beds.iter().zip(runs) {
        let exits = runs.map(|run| run.wait(SOON));
        let told: usize = exits.iter().map(|exit| exit.err().matches("deleted at").count()).sum();
        assert_eq!(told, usize::from(bed.table) + usize::from(bed.lockfile), "{}\n{}", exits[0], exits[1]);
        // Terraform does not wait for a lockfile that goes while it asks who has it.
        let refused = |exit: &Exit| exit.code == Some(1) && exit.err().contains("Error acquiring the state lock");
        let worked = exits.iter().filter(|exit| exit.code == Some(0)).count();
        assert!(worked == 2 || (worked == 1 && exits.iter().any(refused)), "{}\n{}", exits[0], exits[1]);
        assert_eq!(bed.left(), [""; 0]);
    }
}

/// The store may have just recovered, and the holder not written yet.
#[test]
fn a_look_that_fails_begins_the_wait_anew() {
    let beds = Leased::all();
    let runs: Vec<_> = beds.iter().map(|bed| bed.waiting(&[])).collect();
    for bed in &beds {
        // Those of the SDK's that are tried again, too.
        bed.proxy.rule(Match::dynamodb("GetItem"), [Answer::dynamodb("InternalServerError", "no").into()]);
        bed.proxy.rule(Match::http("GET", ".tflock?"), [Answer::s3(503, "SlowDown", "no").into()]);
    }
    let failed: Vec<_> = runs
        .iter()
        .zip(&beds)
        .map(|(run, bed)| {
            run.wait_for_stderr("so the wait begins anew", SOON);
            let failed = Instant::now();
            bed.proxy.clear_rules();
            failed
        })
        .collect();
    for ((bed, run), failed) in beds.iter().zip(runs).zip(failed) {
        run.wait_for_stderr("deleted at", SOON);
        assert!(failed.elapsed() >= WAIT, "deleted {:?} after a failure", failed.elapsed());
        run.wait(SOON).expect_code(0);
        assert_eq!(bed.left(), [""; 0]);
    }
}

/// Whoever deleted the lock.
#[test]
fn a_doubtful_state_stops_all_who_waited_before_they_start() {
    for bed in [Leased::new(true, false), Leased::new(false, true)] {
        bed.spoil_state();
        let exits = [bed.waiting(&[]), bed.waiting(&[])].map(|run| run.wait(SOON).expect_code(121));
        for exit in &exits {
            assert!(exit.err().contains("needs a look") && exit.err().contains("tfguard verify"), "{exit}");
            assert!(exit.err().contains("terraform was not started") && exit.out().is_empty(), "{exit}");
        }
        let deleted: usize = exits.iter().map(|exit| exit.err().matches("deleted at").count()).sum();
        assert_eq!((bed.left(), deleted), (vec![], 1), "{}\n{}", exits[0], exits[1]);
        bed.assert_nothing_begun();
    }
}

/// Once a lock is deleted, people are told to look at the state where tfguard did not.
#[test]
fn a_stop_during_the_look_at_the_state_says_that_nobody_looked() {
    let bed = Leased::new(true, false);
    let look = Gate::new();
    bed.proxy.rule(Match::http("GET", "prod.tfstate?"), [look.hold()]);
    let run = bed.apply(&[]).new_group().start();
    look.wait_for(1, SOON);
    run.signal(Signal::SIGTERM);
    let exit = run.wait(SOON).expect_code(143);
    look.release();
    assert!(exit.err().contains("its lock was deleted, and it could not be looked at: a stop came first"), "{exit}");
    assert!(exit.err().contains("tfguard verify") && exit.err().contains("terraform was not started"), "{exit}");
    bed.assert_nothing_begun();
}

#[test]
fn the_state_is_looked_at_where_only_one_half_could_be_deleted() {
    let beds = [Leased::new(true, false), Leased::new(true, true)];
    let runs = beds.each_ref().map(|bed| {
        bed.spoil_state();
        let denied = Answer::dynamodb("AccessDeniedException", "no");
        bed.proxy.rule(Match::dynamodb("DeleteItem").body("TfguardLease"), [denied.into()]);
        bed.apply(&[]).start()
    });
    let [none, half] = runs.map(|run| run.wait(SOON));
    let none = none.expect_code(1);
    assert!(none.err().contains("--reclaim does nothing") && !none.err().contains("needs a look"), "{none}");
    let (exit, bed) = (half.expect_code(121), &beds[1]);
    assert!(exit.err().contains("deleted at") && exit.err().contains("needs a look"), "{exit}");
    assert!(exit.err().contains("what may be left of the lock is left to terraform: "), "{exit}");
    assert!(!exit.err().contains("--reclaim does nothing"), "{exit}");
    assert_eq!(bed.left(), ["item"], "{exit}");
}

/// In a lockfile's store, and without a wait for nothing.
#[test]
fn where_deletes_keep_no_conditions_the_lock_is_left_to_terraform_at_once() {
    for bed in [Leased::new(false, true), Leased::new(true, true)] {
        bed.proxy.rule(Match::http("DELETE", ".tfguard-"), [Answer::s3(501, "NotImplemented", "no").into()]);
        let lease = || bed.project.aws().object(bed.project.bucket(), &bed.lease_key()).map(|lease| lease.body);
        let before = lease();
        let exit = bed.apply(&[]).run().expect_code(1);
        assert!(exit.err().contains("the lock is left to terraform: no lock can be reclaimed from "), "{exit}");
        assert!(!exit.err().contains("second-look") && !exit.err().contains("has run out"), "{exit}");
        assert_eq!((bed.left(), bed.deletes(), lease()), (bed.whole(), 0, before), "{exit}");
    }
}

/// Which record of the holder is seen, and where, does not matter.
#[test]
fn a_lock_stays_in_both_halves_if_the_record_beside_one_tells_that_its_holder_is_alive() {
    let bed = Leased::new(true, true);
    let holder = bed.project.command("sleep").arg("600").start();
    bed.set("TfguardHolder", record(&bed.lock.id, holder.pid().as_raw()));
    let lease = || bed.project.aws().object(bed.project.bucket(), &bed.lease_key()).map(|lease| lease.body);
    let before = lease();
    let run = bed.waiting(&[]);
    run.wait_for_stderr("the lease has run out, and the lock stays all the same: the holder is alive", SOON);
    run.signal(Signal::SIGTERM);
    let exit = run.wait(SOON).expect_code(143);
    assert_eq!((bed.left(), bed.deletes(), lease()), (bed.whole(), 0, before), "{exit}");
}

/// It would wait for itself.
#[test]
fn the_lock_of_a_run_that_tfguard_is_a_part_of_is_left_to_terraform() {
    let bed = Leased::new(true, false);
    let test = std::process::id();
    let mut record: Value = serde_json::from_str(&record(&bed.lock.id, test.cast_signed())).unwrap();
    record["child"] = json!({"id": record["supervisor"], "session": test});
    bed.set("TfguardHolder", record.to_string());
    let exit = bed.apply(&[]).run().expect_code(1);
    assert!(exit.err().contains("is held by the run that this is a part of"), "{exit}");
    assert_eq!((bed.left(), bed.deletes()), (bed.whole(), 0), "{exit}");
}

/// Two locks, one in each half, and one line about each.
#[test]
fn two_locks_of_one_state_are_told_of_once_each() {
    let bed = Leased::new(true, true);
    let other = LockInfo { id: bed.lock.id.replace('5', "6"), ..bed.lock.clone() };
    bed.project.aws().plant_lockfile(&other);
    bed.project.aws().put_object(bed.project.bucket(), &bed.lease_key(), lease(&other.id).into_bytes());
    let exit = bed.apply(&[]).run().expect_code(0);
    assert_eq!(exit.err().matches("is locked by").count(), 2, "{exit}");
    assert_eq!((bed.left(), exit.err().matches("deleted at").count()), (vec![], 2), "{exit}");
}

/// The stand-in for a holder writes its first beat once it was seen that there is none.
#[test]
fn a_first_beat_that_comes_a_moment_after_its_lock_is_seen() {
    loop {
        let bed = Leased::new(true, false);
        bed.lock(&bed.lock);
        let run = bed.apply(&[]).new_group().start();
        let look = Match::dynamodb("GetItem").body("TfguardLease");
        let began = Instant::now();
        bed.proxy.wait_for(|seen| look.fits(seen) && !seen.done.is_empty(), SOON);
        bed.beat();
        if began.elapsed() < Duration::from_secs(1) {
            run.wait_for_stderr(WAITING, SOON);
            break;
        }
    }
}

#[test]
fn a_stop_ends_the_wait_and_leaves_nothing_behind() {
    let bed = Leased::new(true, true);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let run = bed.waiting(&[]);
        let began = Instant::now();
        run.signal(signal);
        let exit = run.wait(SOON).expect_code(code);
        assert!(began.elapsed() < WAIT, "{exit}");
        assert!(exit.err().contains("terraform was not started") && exit.out().is_empty(), "{exit}");
        bed.assert_nothing_begun();
    }
    let exit = bed.apply(&["--deadline", "2s"]).run().expect_code(124);
    assert!(exit.err().contains("terraform was not started"), "{exit}");
    let run = bed.waiting(&[]);
    run.signal(Signal::SIGKILL);
    run.wait(SOON).expect_signal(Signal::SIGKILL);
    bed.assert_nothing_begun();
    assert_eq!((bed.left(), bed.deletes()), (bed.whole(), 0));
}

#[test]
fn on_a_terminal_it_waits_as_well() {
    let bed = Leased::new(true, false);
    let mut run = bed.apply(&["--attach"]).pty().start();
    run.wait_for_stdout(WAITING, SOON);
    run.write(b"\x03");
    let exit = run.wait(SOON).expect_code(130);
    assert!(exit.out().contains("terraform was not started"), "{exit}");
    bed.assert_nothing_begun();
}

/// Each Terraform that a script calls waits for itself, and ends with the script's guard.
#[test]
fn below_a_script_each_terraform_waits_for_its_own_state() {
    let bed = Leased::new(true, false);
    let script = "terraform output -no-color >/dev/null && terraform apply -input=false -auto-approve -no-color";
    let run = |options: &[&str]| {
        let options = ["--reclaim"].iter().chain(options).copied();
        bed.project.command(TFGUARD).args(options).args(["--", "sh", "-c", script]).new_group().start()
    };
    let stopped = run(&[]);
    stopped.wait_for_stderr(WAITING, SOON);
    stopped.signal(Signal::SIGTERM);
    let exit = stopped.wait(SOON);
    assert!(exit.err().contains("terraform was not started") && exit.code != Some(0), "{exit}");
    assert_eq!((bed.left(), bed.deletes()), (bed.whole(), 0), "{exit}");
    let exit = run(&[]).wait(SOON).expect_code(0);
    assert!(exit.err().contains("deleted at") && exit.out().contains("Apply complete!"), "{exit}");
}

/// What takes no lock waits for none; nor does a run that did not ask for it.
#[test]
fn nobody_waits_who_takes_no_lock_or_did_not_ask() {
    for bed in [Leased::new(true, true), Leased::of(true, true, |project| project.workspace("blue"))] {
        for reads in [&["output", "-no-color"][..], &["init", "-input=false"], &["plan", "-input=false", "-lock=false"]]
        {
            let exit = bed.project.tfguard(TFGUARD, ["--reclaim"], reads).run().expect_code(0);
            assert!(!exit.err().contains("lease"), "{exit}");
        }
        let exit = bed.project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
        assert!(!exit.err().contains(WAITING), "{exit}");
        assert_eq!((bed.left(), bed.deletes()), (bed.whole(), 0));
    }
}

/// Where nobody may look, Terraform finds out by itself.
#[test]
fn a_lock_that_cannot_be_looked_at_is_left_to_terraform() {
    let bed = Leased::new(true, false);
    bed.unlock();
    bed.proxy.rule(
        Match::dynamodb("GetItem").body("TfguardLease"),
        [Answer::dynamodb("AccessDeniedException", "no").into()],
    );
    let exit = bed.apply(&[]).run().expect_code(0);
    assert!(exit.err().contains("--reclaim does nothing") && exit.out().contains("Apply complete!"), "{exit}");
}
