//! What is promised of locks, on the real OpenTofu and the real Terraform up to 1.8: each version that was built, with each kind
//! of lock it has. What is tried is in `matrix`, which tries more of it on all that can be had.

use super::matrix::cells;
use super::*;

type Case = super::matrix::Case<'static>;

#[test]
fn an_ordinary_run_is_left_alone() {
    Case::each(|case| {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = case.project(Kind::Quick).endpoint(proxy.url()).init(&case.program);
        // On a machine that is out of breath the lock may be held long enough for its holder to be written beside it.
        let exit = project.tfguard(TFGUARD, ["--no-annotate"], APPLY).run().expect_code(0);
        assert!(exit.out().contains("Apply complete! Resources: 1 added"), "{case}: {exit}");
        assert_eq!(exit.err(), "", "{case}");
        assert_eq!(project.state().expect("a state")["terraform_version"], case.version);
        // Those do not log that they have released a lock.
        let looks = case.product == Product::Terraform && (6..10).contains(&case.minor());
        let asked = proxy.seen().iter().any(|seen| seen.header("user-agent").is_some_and(|a| a.contains(OUR_AGENT)));
        assert!(!asked || looks, "{case}");
        case.assert_clean(&project);
    });
}

#[test]
fn the_lock_of_a_killed_program_is_deleted_or_named() {
    Case::each(cells::killed);
}

#[test]
fn a_program_that_is_stopped_releases_its_own_lock() {
    Case::each(cells::stopped);
}

#[test]
fn a_lock_that_was_there_before_stays() {
    Case::each(cells::foreign_before);
}

#[test]
fn a_lock_that_took_the_place_of_the_programs_stays() {
    Case::each(|case| {
        match case.table {
            true => drop(cells::foreign_swapped_in(case)),
            // The one that took the place of an OpenTofu's lockfile stays, but is not named yet.
            false => drop(cells::swapped_in(case)),
        }
    });
}

#[test]
fn the_lock_of_an_opentofu_that_is_called_terraform_is_deleted_or_named() {
    Case::each(|case| {
        if case.product != Product::OpenTofu {
            return;
        }
        cells::called_terraform(case);
        if case.is_logged() {
            return;
        }
        // Where nothing is logged, one of another version cannot be ours.
        let dir = tempfile::tempdir().expect("a directory can be made");
        let terraform = dir.path().join("terraform");
        std::os::unix::fs::symlink(&case.program, &terraform).expect("a link can be made");
        let project = case.project(Kind::Sleep).init(&terraform);
        let run = case.asleep(&project, &[]);
        let own = case.lock(&project).expect("it is locked");
        let lock = LockInfo { version: "1.2.3".to_owned(), ..own };
        case.plant(&project, &lock);
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(137);
        assert!(!exit.err().contains(&format!("tfguard unlock {}", lock.id)), "{case}: {exit}");
        assert_eq!(case.lock(&project), Some(lock), "{case}: {exit}");
    });
}

/// A guard of its own knows the directory, the log and the level that its program needs.
#[test]
fn below_a_script_that_changes_its_directory_each_is_learned_as_by_itself() {
    Case::each(cells::below_a_script);
}
