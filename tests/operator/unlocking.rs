//! `tfguard unlock`.

use crate::operator::bed::{Bed, OWN, SOON, json};
use crate::support::{Action, Answer, Exit, Gate, LockInfo, Match};

const OTHER: &str = "1bb7d84c-f09d-7909-0219-02f6e8d9eeb4";

fn report(bed: &Bed) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(bed.dir.path().join("report.json")).unwrap()).unwrap()
}

/// A lock of whose holder nothing is known.
fn locked() -> Bed {
    let bed = Bed::new();
    bed.in_both(&bed.lock("a/k", OWN));
    bed.item(&bed.path("a/k-md5"), &[("Digest", "d41d8cd98f00b204e9800998ecf8427e")]);
    bed.object("a/k", "{}");
    bed
}

#[track_caller]
fn assert_locked(bed: &Bed) {
    assert_eq!(bed.left().0, [bed.path("a/k"), bed.path("a/k-md5")]);
    assert_eq!(bed.left().1, ["a/k", "a/k.tflock"]);
}

#[track_caller]
fn assert_unlocked(bed: &Bed, exit: &Exit) {
    assert_eq!(bed.left().0, [bed.path("a/k-md5")], "{exit}");
    assert_eq!(bed.left().1, ["a/k"], "{exit}");
    bed.assert_only_conditional_deletes();
}

#[test]
fn what_is_not_known_to_be_dead_needs_a_yes() {
    let bed = locked();
    let exit = bed.about("a/k", &["unlock", OWN]).run().expect_code(120);
    assert!(exit.err().contains("add --yes") && exit.out().contains("runner@build-7f9c4"), "{exit}");
    assert_locked(&bed);
    bed.assert_only_read();
    let exit = bed.about("a/k", &["unlock", OWN, "--dry-run", "--yes"]).run().expect_code(0);
    assert!(exit.out().contains("dry run"), "{exit}");
    assert_locked(&bed);
    bed.assert_only_read();

    let exit = bed.about("a/k", &["unlock", OWN, "--yes", "--report", "report.json"]).run().expect_code(0);
    assert_unlocked(&bed, &exit);
    let next = format!("\nnext: run `tfguard verify --bucket {} --key a/k --region ", bed.bucket);
    assert!(exit.out().contains(&next) && exit.out().contains(" --path-style`, then "), "{exit}");
    let report = report(&bed);
    assert_eq!(report["outcome"], "deleted", "{report:#}");
    assert_eq!((&report["consent"], &report["lock"]["id"]), (&"by-option".into(), &OWN.into()), "{report:#}");
    assert_eq!(report["halves"].as_array().unwrap().len(), 2, "{report:#}");
    assert!(report["by"]["user"].is_string() && report["by"]["host"].is_string(), "{report:#}");
    let again = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(0);
    assert!(again.out().contains("is not locked"), "{again}");
}

#[test]
fn on_a_terminal_it_asks_and_only_yes_is_a_yes() {
    for (typed, unlocks) in [("y\r", false), ("\r", false), ("no\r", false), ("yes\r", true)] {
        let bed = locked();
        let mut run = bed.about("a/k", &["unlock", OWN, "--report", "report.json"]).pty().start();
        run.wait_for_stdout("Only `yes` will be accepted", SOON);
        run.write(typed.as_bytes());
        let exit = run.wait(SOON).expect_code(if unlocks { 0 } else { 120 });
        assert!(exit.out().contains(OWN) && exit.out().contains("may be alive or dead"), "{exit}");
        assert_eq!(report(&bed)["consent"], if unlocks { "given" } else { "refused" });
        if unlocks { assert_unlocked(&bed, &exit) } else { assert_locked(&bed) }
    }
}

/// A CI's terminal has nobody before it, and a question would wait until the job's time is over.
#[test]
fn in_a_ci_nobody_is_asked() {
    let bed = locked();
    let exit = bed.about("a/k", &["unlock", OWN]).env("GITHUB_ACTIONS", "true").pty().run().expect_code(120);
    assert!(exit.out().contains("add --yes"), "{exit}");
    assert_locked(&bed);
}

/// Somebody else takes the lock while the question is open.
#[test]
fn a_lock_that_changes_hands_while_it_asks_stays() {
    let bed = locked();
    let mut run = bed.about("a/k", &["unlock", OWN]).pty().start();
    run.wait_for_stdout("Only `yes` will be accepted", SOON);
    bed.in_both(&bed.lock("a/k", OTHER));
    run.write(b"yes\r");
    let exit = run.wait(SOON).expect_code(120);
    assert_eq!(exit.out().matches("another lock has taken its place and was not touched").count(), 2, "{exit}");
    assert_eq!(bed.aws.lock(&bed.table, &bed.path("a/k")).unwrap()["ID"], OTHER);
    assert_eq!(bed.aws.lockfile(&bed.path("a/k")).unwrap()["ID"], OTHER);
}

/// Somebody else takes the lock when the delete is under way already.
#[test]
fn a_lock_that_changes_hands_under_the_delete_stays() {
    // The same ID by another holder, too: no Terraform does that, but an ID is random, not secret.
    for (id, who) in [(OTHER, "alice@laptop"), (OWN, "alice@laptop"), (OTHER, "runner@build-7f9c4")] {
        let bed = locked();
        let gate = Gate::new();
        bed.proxy.rule(Match::http("DELETE", ".tfguard-"), [Action::Forward]);
        bed.proxy.rule(Match::http("DELETE", "/a/k.tflock"), [gate.hold()]);
        bed.proxy.rule(Match::dynamodb("DeleteItem"), [gate.hold()]);
        let run = bed.about("a/k", &["unlock", OWN, "--yes"]).start();
        gate.wait_for(1, SOON);
        let successor = LockInfo { who: who.to_owned(), ..bed.lock("a/k", id) };
        bed.in_both(&successor);
        gate.release();
        let exit = run.wait(SOON);
        assert_eq!(
            bed.aws.lock(&bed.table, &bed.path("a/k")),
            Some(serde_json::to_value(&successor).unwrap()),
            "{exit}"
        );
        assert_eq!(bed.aws.lockfile(&bed.path("a/k")), Some(serde_json::to_value(&successor).unwrap()), "{exit}");
        assert!(exit.err().contains(who), "people are told who has it: {exit}");
        assert_eq!(exit.code, Some(120), "the state is locked by another: {exit}");
        bed.assert_only_conditional_deletes();
    }
}

#[test]
fn an_id_that_is_not_there_deletes_nothing() {
    let bed = locked();
    let digest = "d41d8cd9-8f00-b204-e980-0998ecf8427e";
    for id in [OTHER, digest] {
        let exit = bed.about("a/k", &["unlock", "--yes", id]).run().expect_code(120);
        assert!(exit.err().contains("is not locked by") && exit.out().contains(OWN), "{id}: {exit}");
    }
    // The right ID, but of another state.
    let exit = bed.about("a/other", &["unlock", OWN, "--yes"]).run().expect_code(0);
    assert!(exit.out().contains("a/other is not locked"), "{exit}");
    assert_locked(&bed);
    bed.assert_only_read();
}

/// Guards against calling a state free of a lock that may be in the half which could not be read.
#[test]
fn beside_another_lock_what_could_not_be_read_is_told() {
    let bed = locked();
    bed.aws.plant_lockfile(&bed.lock("a/k", OTHER));
    let denied = Answer::dynamodb("AccessDeniedException", "no");
    bed.proxy.rule(Match::dynamodb("GetItem"), [denied.into()]);
    for (id, said) in [(OWN, "where tfguard could look, so nothing was deleted"), ("--broken", "nothing was deleted")] {
        let exit = bed.about("a/k", &["unlock", "--yes", id]).run().expect_code(120);
        assert!(exit.out().contains(OTHER) && exit.err().contains(said), "{exit}");
        assert!(exit.out().contains("not read: ") && exit.out().contains("dynamodb:GetItem"), "{exit}");
    }
    bed.proxy.clear_rules();
    assert_locked(&bed);
}

#[test]
fn what_else_blocks_the_state_is_told() {
    let bed = locked();
    bed.object("a/k.tflock", "");
    let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(0);
    assert!(exit.out().contains("blocks the state: an empty lockfile") && exit.out().contains("--broken"), "{exit}");
    assert_eq!(bed.left().1, ["a/k", "a/k.tflock"], "{exit}");
}

#[test]
fn a_lock_that_says_it_is_another_states_is_refused() {
    let bed = Bed::new();
    let copied = bed.lock("elsewhere", OWN).json();
    bed.item(&bed.path("a/k"), &[("Info", &copied)]);
    bed.object("a/k.tflock", &copied);
    let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(120);
    assert!(exit.err().contains("it is another state's"), "{exit}");
    assert_eq!(bed.left(), (vec![bed.path("a/k")], vec!["a/k.tflock".to_owned()]));
    bed.assert_only_read();
    let exit = bed.about("a/k", &["unlock", "--broken", "--yes"]).run().expect_code(0);
    assert_eq!(bed.left(), (vec![], vec![]), "{exit}");
    bed.assert_only_conditional_deletes();
    // Two of them have nothing in common, so both are shown.
    bed.item(&bed.path("a/k"), &[("Info", &copied)]);
    bed.object("a/k.tflock", &bed.lock("elsewhere", OTHER).json());
    let exit = bed.about("a/k", &["unlock", "--broken"]).run().expect_code(120);
    assert!(exit.out().contains(OWN) && exit.out().contains(OTHER), "{exit}");
}

#[test]
fn a_digest_is_never_deleted() {
    let bed = locked();
    bed.aws.delete_item(&bed.table, &bed.path("a/k"));
    let exit = bed.about("a/k-md5", &["unlock", "--broken", "--yes"]).run();
    assert_eq!(exit.code, Some(120), "{exit}");
    assert_eq!(bed.left().0, [bed.path("a/k-md5")], "{exit}");
    assert!(bed.proxy.seen_matching(&Match::dynamodb("DeleteItem")).is_empty());
}

/// Guards against a lock that nobody can delete, because the key of its state ends as those of digests do; and against
/// the loss of a digest that takes its place meanwhile: that of the state without the ending, written by its apply.
#[test]
fn a_lock_whose_key_ends_as_digests_do_is_deleted_and_a_digest_in_its_place_is_not() {
    let bed = Bed::new();
    bed.in_table(&bed.lock("a/k-md5", OWN));
    bed.about("a/k-md5", &["unlock", OWN, "--yes"]).run().expect_code(0);
    assert_eq!(bed.left().0, [""; 0]);

    bed.in_table(&bed.lock("a/k-md5", OWN));
    let gate = Gate::new();
    bed.proxy.rule(Match::dynamodb("DeleteItem").nth(1), [gate.hold()]);
    let run = bed.about("a/k-md5", &["unlock", OWN, "--yes"]).start();
    gate.wait_for(1, SOON);
    bed.item(&bed.path("a/k-md5"), &[("Digest", "d41d8cd98f00b204e9800998ecf8427e")]);
    gate.release();
    let exit = run.wait(SOON);
    assert_eq!(bed.left().0, [bed.path("a/k-md5")], "{exit}");
    assert!(exit.err().contains("not touched"), "{exit}");
    bed.assert_only_conditional_deletes();
}

#[test]
fn what_blocks_and_is_no_lock_is_deleted_on_what_was_shown() {
    let bed = Bed::new();
    type Plant = fn(&Bed);
    let plants: [(Plant, &str); 5] = [
        (|bed| bed.item(&bed.path("a/k"), &[("ExpiresAt", "7")]), "without Info"),
        (|bed| bed.item(&bed.path("a/k"), &[("Info", "")]), "isn't a lock in Terraform's format"),
        (|bed| bed.item(&bed.path("a/k"), &[("Info", "<html>")]), "<html>"),
        (|bed| bed.object("a/k.tflock", ""), "an empty lockfile"),
        (|bed| bed.object("a/k.tflock", "<html>"), "<html>"),
    ];
    for (plant, shown) in plants {
        plant(&bed);
        let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(120);
        assert!(exit.out().contains(shown), "{exit}");
        let exit = bed.about("a/k", &["unlock", "--broken"]).run().expect_code(120);
        assert!(exit.err().contains("--yes"), "nothing is known of its holder: {exit}");
        assert_ne!(bed.left(), (vec![], vec![]), "{shown}");
        bed.about("a/k", &["unlock", "--broken", "--yes"]).run().expect_code(0);
        assert_eq!(bed.left(), (vec![], vec![]), "{shown}");
    }
    // Both halves, each shown.
    bed.item(&bed.path("a/k"), &[("Info", "<xml>")]);
    bed.object("a/k.tflock", "<html>");
    let exit = bed.about("a/k", &["unlock", "--broken", "--yes"]).run().expect_code(0);
    assert!(exit.out().contains("<xml>") && exit.out().contains("<html>"), "{exit}");
    assert_eq!(bed.left(), (vec![], vec![]), "{exit}");
    bed.assert_only_conditional_deletes();
    // A lock is not deleted so.
    bed.in_both(&bed.lock("a/k", OWN));
    let exit = bed.about("a/k", &["unlock", "--broken", "--yes"]).run().expect_code(120);
    assert!(exit.err().contains("give its ID"), "{exit}");
    assert_eq!(bed.left(), (vec![bed.path("a/k")], vec!["a/k.tflock".to_owned()]));
}

/// What was shown goes, and somebody takes a lock, before the delete arrives.
#[test]
fn a_lock_in_the_place_of_something_broken_stays() {
    for broken in ["", "<html>"] {
        let bed = Bed::new();
        if broken.is_empty() {
            bed.item(&bed.path("a/k"), &[]);
        } else {
            bed.item(&bed.path("a/k"), &[("Info", broken)]);
        }
        bed.object("a/k.tflock", broken);
        let gate = Gate::new();
        bed.proxy.rule(Match::http("DELETE", ".tfguard-"), [Action::Forward]);
        bed.proxy.rule(Match::http("DELETE", "/a/k.tflock"), [gate.hold()]);
        bed.proxy.rule(Match::dynamodb("DeleteItem"), [gate.hold()]);
        let run = bed.about("a/k", &["unlock", "--broken", "--yes"]).start();
        gate.wait_for(1, SOON);
        bed.in_both(&bed.lock("a/k", OTHER));
        gate.release();
        let exit = run.wait(SOON);
        assert!(bed.aws.lock(&bed.table, &bed.path("a/k")).is_some(), "{exit}");
        assert!(bed.aws.lockfile(&bed.path("a/k")).is_some(), "{exit}");
        assert_eq!(exit.err().matches("not touched").count(), 2, "{exit}");
    }
}

#[test]
fn a_store_that_ignores_conditions_keeps_its_lockfile() {
    for (id, plant) in [(OWN, true), ("--broken", false)] {
        let bed = Bed::new();
        if plant {
            bed.aws.plant_lockfile(&bed.lock("a/k", OWN));
        } else {
            bed.object("a/k.tflock", "");
        }
        bed.proxy.rule(Match::http("DELETE", ""), [Action::Strip("if-match")]);
        let exit = bed.about("a/k", &["unlock", "--yes", id]).run().expect_code(120);
        assert!(exit.err().contains("ignores the condition"), "{exit}");
        assert!(exit.err().contains("--without-conditions second-look"), "what allows it is named: {exit}");
        assert_eq!(bed.left().1, ["a/k.tflock"]);
        let words = ["unlock", "--yes", id, "--without-conditions", "second-look"];
        bed.about("a/k", &words).run().expect_code(0);
        assert!(bed.left().1.is_empty());
    }
}

#[test]
fn what_is_denied_is_named_and_the_rest_is_done() {
    let denied = || Answer::dynamodb("AccessDeniedException", "no");
    let bed = locked();
    bed.proxy.rule(Match::dynamodb("DeleteItem"), [denied().into()]);
    let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(120);
    assert!(exit.err().contains("Grant dynamodb:DeleteItem") && exit.err().contains("NOT deleted"), "{exit}");
    assert_eq!(bed.left().1, ["a/k"], "the other half is gone: {exit}");

    for words in [&["unlock", OWN, "--yes"][..], &["unlock", OWN, "--yes", "--without-conditions", "second-look"]] {
        let bed = locked();
        bed.proxy.rule(Match::http("DELETE", ""), [Answer::s3(403, "AccessDenied", "no").into()]);
        let exit = bed.about("a/k", words).run().expect_code(120);
        assert!(exit.err().contains("Grant s3:DeleteObject") && exit.err().contains("NOT deleted"), "{exit}");
        assert!(!exit.err().contains("unconditional"), "{exit}");
        assert_eq!(bed.left().1, ["a/k", "a/k.tflock"], "{exit}");
    }

    let bed = locked();
    bed.proxy.rule(Match::dynamodb("GetItem"), [denied().into()]);
    let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(120);
    assert!(exit.err().contains("NOT READ") && exit.err().contains("dynamodb:GetItem"), "{exit}");
    assert_eq!(bed.left().0.len(), 2, "{exit}");

    // By flags alone it is not known whether there is a lockfile, so that it may not be read is no matter.
    let bed = locked();
    bed.proxy.rule(Match::http("GET", ".tflock"), [Answer::s3(403, "AccessDenied", "no").into()]);
    let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(0);
    assert_eq!(bed.left().0, [bed.path("a/k-md5")], "{exit}");
    assert!(exit.out().contains("not read") && exit.out().contains("s3:GetObject"), "but it is said: {exit}");

    let bed = locked();
    bed.aws.delete_object(&bed.bucket, "a/k.tflock");
    bed.proxy.rule(Match::dynamodb("GetItem"), [denied().into()]);
    let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(125);
    assert!(exit.err().contains("Grant dynamodb:GetItem"), "not seen is not gone: {exit}");
    assert!(exit.err().contains(&bed.table), "{exit}");
}

/// Guards against a state that is called unlocked although it was not looked where its lock lies.
#[test]
fn where_flags_do_not_lead_to_is_not_called_unlocked() {
    let bed = Bed::new();
    bed.in_table(&bed.lock("a/k", OWN));
    let without_table = |words: &[&str]| bed.tfguard(words).args(["--bucket", &bed.bucket, "--key", "a/k"]).run();
    let exits = [without_table(&["inspect"]), without_table(&["unlock", OWN, "--yes"])];
    for exit in exits.map(|exit| exit.expect_code(0)) {
        assert!(exit.out().contains("not locked") && exit.out().contains("give --table"), "{exit}");
    }
    bed.aws.plant_lockfile(&bed.lock("a/k", OWN));
    let exit = without_table(&["unlock", OWN, "--yes"]).expect_code(0);
    assert!(exit.out().contains("deleted: object") && exit.out().contains("give --table"), "{exit}");
    bed.aws.delete_item(&bed.table, &bed.path("a/k"));
    bed.proxy.rule(Match::http("GET", ".tflock"), [Answer::s3(403, "AccessDenied", "no").into()]);
    let exits = [bed.about("a/k", &["inspect"]).run(), bed.about("a/k", &["unlock", OWN, "--yes"]).run()];
    for exit in exits.map(|exit| exit.expect_code(0)) {
        assert!(exit.out().contains("not locked") && exit.out().contains("s3:GetObject was denied"), "{exit}");
    }
    let exit = bed.about("a/k", &["inspect", "--format", "json"]).run().expect_code(0);
    assert_eq!(json(&exit)["doubts"].as_array().map(Vec::len), Some(1), "{exit}");
}

#[test]
fn a_service_that_fails_is_asked_again_and_one_that_is_silent_given_up() {
    let bed = locked();
    bed.proxy.rule(Match::dynamodb("DeleteItem").nth(1), [Action::Forward, Action::Close]);
    bed.proxy.rule(Match::http("GET", ".tflock").nth(1), [Answer::s3(503, "SlowDown", "again").into()]);
    let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(0);
    assert_unlocked(&bed, &exit);
    let bed = locked();
    bed.proxy.rule(Match::any(), [Action::Close]);
    let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(125);
    assert!(exit.err().contains("no answer"), "{exit}");
    bed.proxy.clear_rules();
    assert_locked(&bed);
}

#[test]
fn flags_are_enough_where_the_directory_is_broken() {
    let bed = locked();
    std::fs::create_dir(bed.dir.path().join(".terraform")).unwrap();
    std::fs::write(bed.dir.path().join(".terraform/terraform.tfstate"), "{").unwrap();
    let exit = bed.tfguard(&["unlock", OWN, "--yes"]).run().expect_code(125);
    assert!(exit.err().contains("--bucket, --key and --region"), "{exit}");
    let exit = bed.about("a/k", &["unlock", OWN, "--yes"]).run().expect_code(0);
    assert_unlocked(&bed, &exit);
    for wrong in [&["unlock"][..], &["unlock", OWN, "--broken"], &["unlock", OWN, "--key", "k"]] {
        bed.tfguard(wrong).run().expect_code(2);
    }
}

#[test]
fn no_variable_confirms_a_delete_or_names_another_state() {
    let bed = locked();
    let variables =
        [("TFGUARD_YES", "true"), ("TFGUARD_BUCKET", "other"), ("TFGUARD_KEY", "k"), ("TFGUARD_REPORT", "r")];
    let unlock = |more: &[&str]| bed.about("a/k", &["unlock", OWN]).args(more).envs(variables).run();
    let exit = unlock(&[]).expect_code(120);
    assert!(exit.err().contains("add --yes") && exit.err().contains("TFGUARD_YES is not read"), "{exit}");
    assert_locked(&bed);
    assert!(!bed.dir.path().join("r").exists(), "that is the report of a run");
    assert_unlocked(&bed, &unlock(&["--yes", "--report", "report.json"]).expect_code(0));
    assert_eq!(report(&bed)["outcome"], "deleted");
}

#[test]
fn an_id_of_another_form_is_refused_before_anybody_is_asked_and_its_lock_is_deleted_as_broken() {
    let bed = Bed::new();
    bed.in_both(&bed.lock("a/k", "my lock 7"));
    for id in ["abc", "my lock 7", &OWN[1..], &OWN.to_uppercase()] {
        let run = crate::support::Run::new(crate::TFGUARD, &bed.guard).current_dir(bed.dir.path());
        let exit = run.args(["unlock", id, "--bucket", "b", "--key", "k"]).run().expect_code(125);
        assert!(exit.err().starts_with(&format!("tfguard: error: {id:?} is not a lock ID: ")), "{exit}");
        assert!(exit.err().contains("\ntfguard: hint: ") && exit.stdout.is_empty(), "{exit}");
    }
    let exit = bed.about("a/k", &["unlock", "--broken", "--yes"]).run().expect_code(0);
    assert_eq!(bed.left(), (vec![], vec![]), "{exit}");
    bed.assert_only_conditional_deletes();
    let listed = bed.tfguard(&["locks", "--table", &bed.table, "--format", "json"]).run().expect_code(0);
    assert_eq!(json(&listed)["summary"]["locks"], 0);
}
