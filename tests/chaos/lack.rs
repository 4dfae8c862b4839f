//! A machine that has next to nothing left: tfguard says what it could not have, does not panic, and comes to its end.

use std::path::Path;

use super::bed::Bed;
use super::checker::check;
use super::play::play;
use super::schedule::*;
use crate::support::{Guard, Run, skipped, terraform_on_path};
use crate::{SOON, TFGUARD};

/// Runs tfguard around a command with a limit of its shell; what it said, unless the shell itself could not go on.
fn limited(user: Option<u32>, limit: &str) -> Option<String> {
    let (guard, dir) = (Guard::new(), tempfile::tempdir().expect("a directory can be made"));
    if user.is_some() {
        std::os::unix::fs::chown(dir.path(), user, user).expect("root may give it away");
    }
    let script =
        format!("ulimit {limit} || exit 99\n\"$0\" -- sh -c ': > \"$RAN\"; exit 7'; echo \"ended with $?\" >&2");
    let run =
        match user {
            Some(user) => Run::new("setpriv", &guard)
                .args([format!("--reuid={user}"), format!("--regid={user}")])
                .args(["--clear-groups", "bash", "-c"]),
            None => Run::new("bash", &guard).arg("-c"),
        };
    let sessions = dir.path().join("sessions");
    let ran = dir.path().join("ran");
    let run = run.args([&script, TFGUARD]).env("TFGUARD_DIR", sessions).env("RAN", &ran).current_dir(Path::new("/"));
    let exit = run.start().wait(SOON);
    guard.assert_no_process_left(SOON);
    assert!(!ran.exists() || exit.err().contains("ended with 7"), "it ran, and tfguard denies it: {exit}");
    (exit.code != Some(99)).then(|| exit.err())
}

#[test]
fn with_few_descriptors_it_says_so() {
    let mut ran = 0;
    for count in (4..24).chain([63, 64]) {
        let said = limited(None, &format!("-n {count}")).expect("less is always permitted");
        assert!(!said.contains("panicked"), "{count}: {said}");
        let runs = said.contains("ended with 7");
        assert!(runs || said.contains("error:") || said.contains("open files"), "{count}: {said}");
        ran += u32::from(runs);
    }
    assert!(ran > 0, "with 64 descriptors it runs");
}

#[test]
fn with_few_processes_and_threads_it_says_so() {
    if !super::permits().users {
        return;
    }
    let mut ran = 0;
    for count in 1..12 {
        // A user of its own has nothing else that counts.
        let Some(said) = limited(Some(300_000 + count), &format!("-u {count}")) else {
            return skipped("this shell sets no limit of processes");
        };
        assert!(!said.contains("panicked"), "{count}: {said}");
        ran += u32::from(said.contains("ended with 7"));
    }
    assert!(ran > 0, "with 11 processes it runs");
}

/// A schedule of one run, to which this happens.
#[track_caller]
fn plays(entry: Entry, work: Work, acts: &[(Trigger, u64, Deed)], says: &str) {
    let Some((_, terraform)) = terraform_on_path() else {
        return skipped("no terraform of version 1.10 or later on PATH, so there is no chaos");
    };
    let (lack, own_user) = (Lack::Nothing, acts.iter().any(|(.., deed)| *deed == Deed::ReadOnly));
    let permits = super::permits();
    if own_user && !permits.users {
        return;
    }
    let (ci, grace, lock_timeout, after, cleanup) = (Ci::GitLab, 2, 0, 0, None);
    let run = RunPlan { ci, entry, work, lack, own_user, grace, lock_timeout, after, cleanup, lease: None };
    let acts = acts.iter().map(|(after, delay, deed)| Act { run: 0, after: *after, delay: *delay, deed: *deed });
    let (seed, kind, workspace, faults) = (0, Kind::Table, true, Vec::new());
    let schedule = Schedule { seed, kind, workspace, runs: vec![run], faults, acts: acts.collect() };
    let evidence = play(&Bed::new(terraform), permits, &schedule);
    let verdict = check(&evidence);
    assert!(verdict.violations.is_empty(), "{:?}\n{evidence}", verdict.violations);
    assert!(evidence.contains(says), "{evidence}");
}

/// Its Terraform is dead, and its journal never says so.
#[test]
fn a_guard_below_another_that_cannot_write_its_journal_is_not_waited_for() {
    let read_only = (Trigger::Request(Sender::Terraform, About::TakeLock), 0, Deed::ReadOnly);
    plays(Entry::AroundScript, Work::Sleep(500), &[read_only], "cannot write the journal");
}

/// Nobody can look who is alive.
#[test]
fn a_terraform_is_interrupted_also_without_descriptors() {
    let acts = [
        (Trigger::Asleep, 0, Deed::LimitDescriptors(3)),
        (Trigger::Asleep, 500, Deed::Cancel),
        (Trigger::Interrupted, 0, Deed::LimitDescriptors(1024)),
    ];
    plays(Entry::Exec, Work::Sleep(20_000), &acts, "Interrupt received.");
}
