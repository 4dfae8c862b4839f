//! `unlock --expired`, and what the commands tell of a lease.

use serde_json::Value;

use super::*;

impl Leased {
    fn tfguard(&self, words: &[&str]) -> Run {
        self.project.command(TFGUARD).args(words)
    }

    fn unlock_expired(&self) -> Run {
        self.tfguard(&["unlock", &self.lock.id, "--expired", "--report", "report.json"])
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.project.work().join("report.json")).unwrap()).unwrap()
    }
}

#[test]
fn an_expired_lock_is_deleted_without_a_question() {
    let beds = Leased::all();
    let runs: Vec<_> = beds.iter().map(|bed| (Instant::now(), bed.unlock_expired().start())).collect();
    for (bed, (began, run)) in beds.iter().zip(runs) {
        let exit = run.wait(SOON).expect_code(0);
        assert!(began.elapsed() >= WAIT, "{exit}");
        assert!(exit.out().contains("deleted: ") && exit.out().contains("\nnext: run `tfguard verify`"), "{exit}");
        assert!(exit.err().contains("nobody renewed its lease for 21s 500ms"), "{exit}");
        assert_eq!(bed.left(), [""; 0], "{exit}");
        let report = bed.report();
        assert_eq!((&report["outcome"], &report["consent"]), (&"deleted".into(), &"by-lease".into()), "{report:#}");
        assert_eq!(report["lock"]["lease"]["length_ms"], 15_000, "{report:#}");
        assert!(report["halves"].as_array().unwrap().iter().all(|half| half["outcome"] == "deleted"), "{report:#}");
    }
}

#[test]
fn a_lock_that_is_renewed_or_has_no_lease_stays() {
    for bed in Leased::all() {
        let run = bed.unlock_expired().start();
        run.wait_for_stderr(WAITING, SOON);
        bed.beat();
        let exit = run.wait(SOON).expect_code(120);
        assert!(exit.err().contains("its lease was renewed"), "{exit}");
        assert_eq!((bed.left(), bed.deletes()), (bed.whole(), 0), "{exit}");
        assert_eq!(bed.report()["outcome"], "refused");

        bed.unlock();
        bed.lock(&bed.lock);
        for more in [&[][..], &["--dry-run"]] {
            let exit = bed.unlock_expired().args(more).run().expect_code(120);
            assert!(exit.err().contains("the lock stays: lock ") && exit.err().contains("has no lease"), "{exit}");
            assert_eq!(bed.deletes(), 0, "{exit}");
        }
    }
}

/// Nor is a way around that offered, which has no effect here.
#[test]
fn a_lock_in_a_store_whose_deletes_keep_no_conditions_stays_at_once() {
    let bed = Leased::new(false, true);
    bed.proxy.rule(Match::http("DELETE", ".tfguard-"), [Answer::s3(501, "NotImplemented", "no").into()]);
    let exit = bed.unlock_expired().run().expect_code(120);
    assert!(exit.err().contains("the lock stays: no lock can be reclaimed from "), "{exit}");
    assert!(!exit.err().contains("second-look") && !exit.err().contains(WAITING), "{exit}");
    assert_eq!((bed.left(), bed.deletes()), (bed.whole(), 0), "{exit}");
    let exit = bed.unlock_expired().args(["--without-conditions", "second-look"]).run().expect_code(2);
    assert!(exit.err().contains("cannot be used with"), "{exit}");
}

#[test]
fn another_lock_that_comes_meanwhile_stays() {
    for bed in Leased::all() {
        let run = bed.unlock_expired().start();
        run.wait_for_stderr(WAITING, SOON);
        bed.lock(&LockInfo { id: bed.lock.id.replace('5', "6"), ..bed.lock.clone() });
        let exit = run.wait(SOON).expect_code(120);
        assert!(exit.err().contains("another lock has taken its place"), "{exit}");
        assert_eq!(bed.deletes(), 0, "{exit}");
    }
}

/// A person's own decision leaves nothing of a lease behind.
#[test]
fn a_lock_that_a_person_deletes_takes_its_lease_along() {
    for bed in Leased::all() {
        let exit = bed.tfguard(&["unlock", &bed.lock.id, "--yes"]).run().expect_code(0);
        assert_eq!(bed.left(), [""; 0], "{exit}");
    }
}

/// What one look shows: that there is a lease, how long it is, and its version.
#[test]
fn the_commands_tell_of_a_lease() {
    for bed in Leased::all() {
        let hint = format!("it has a lease of 15s: `tfguard unlock {} --expired`", bed.lock.id);
        let inspected = bed.tfguard(&["inspect"]).run().expect_code(0);
        assert!(inspected.out().contains(&hint), "{inspected}");
        let listed = bed.tfguard(&["locks"]).run().expect_code(0);
        assert!(listed.out().contains(&hint), "{listed}");
        let shown = bed.tfguard(&["unlock", &bed.lock.id, "--expired", "--dry-run"]).run().expect_code(0);
        assert!(shown.out().contains(&hint) && shown.out().contains("wait out its lease"), "{shown}");
        for words in [["inspect", "--format", "json"], ["locks", "--format", "json"]] {
            let told = bed.tfguard(&words).run().expect_code(0);
            let told: Value = serde_json::from_slice(&told.stdout).unwrap();
            let lease = &told["locks"][0]["lease"];
            assert_eq!(
                (&lease["length_ms"], &lease["lock"]),
                (&15_000.into(), &bed.lock.id.as_str().into()),
                "{told:#}"
            );
            bed.beat();
            let again: Value = serde_json::from_slice(&bed.tfguard(&words).run().stdout).unwrap();
            assert_ne!(again["locks"][0]["lease"]["version"], lease["version"], "{again:#}");
        }
        // What is known of one half counts more than what is not of the other.
        if bed.table && bed.lockfile {
            bed.project.aws().put_object(bed.project.bucket(), &bed.lease_key(), b"{".to_vec());
            let inspected = bed.tfguard(&["inspect"]).run().expect_code(0);
            assert!(inspected.out().contains(&hint), "{inspected}");
        }
        assert_eq!((bed.left(), bed.deletes()), (bed.whole(), 0));
    }
}
