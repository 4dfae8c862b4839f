//! Scripts that run Terraform in several directories, each with a backend of its own.

use super::*;

/// A script for the projects: runs `each` in every one's directory, the parts joined by `with`.
fn script(projects: &[Project], each: &str, with: &str) -> String {
    let parts = projects.iter().map(|project| format!("(cd '{}' && {each})", project.work().display()));
    parts.collect::<Vec<_>>().join(with)
}

/// The region is known only to the Terraform: it is in its environment, and in no other.
fn region_from_environment(project: Project<'static>) -> Project<'static> {
    let block = project.work().join("backend.tf");
    let text = std::fs::read_to_string(&block).unwrap();
    std::fs::write(&block, text.replace(&format!("region = \"{}\"", Aws::REGION), "")).unwrap();
    let init = project.terraform(["init", "-reconfigure", "-input=false"]).env("AWS_REGION", Aws::REGION);
    init.run().expect_code(0);
    project
}

#[test]
fn three_at_once_each_with_a_backend_of_its_own() {
    let projects = [
        region_from_environment(project(Kind::HangInApply).table().init(&terraform())),
        project(Kind::HangInApply).lockfile().key("b.tfstate").init(&terraform()),
        project(Kind::HangInApply).table().lockfile().workspace("staging").init(&terraform()),
    ];
    let each = format!("AWS_REGION={} exec terraform {APPLY}", Aws::REGION);
    let script = format!("{} & wait; exit 3", script(&projects, &each, " & "));
    let [first, second, third] = &projects;
    let run = first.command(TFGUARD).args(["--grace", "10m", "--report", "report.json", "--", "sh", "-c", &script]);
    let run = run.start();
    projects.iter().for_each(|project| project.wait_for_hang(SOON));
    run.signal(SIGTERM);
    // Each is asked once, and none can stop.
    let asked = || run.stdout().matches("Interrupt received.").count();
    wait_until("three interrupts", || asked() == 3);
    assert_eq!(kill_terraforms(first), 3);
    let exit = run.wait(SOON);
    let mut outcomes = outcomes(first);
    outcomes.sort();
    let released = |halves: &[&str]| {
        ("OperationTypeApply".to_owned(), "released".to_owned(), halves.iter().map(|half| (*half).to_owned()).collect())
    };
    assert_eq!(outcomes, [released(&["deleted"]), released(&["deleted"]), released(&["deleted", "deleted"])], "{exit}");
    assert_eq!(exit.out().matches("Interrupt received.").count(), 3, "{exit}");
    first.guard().assert_no_process_left(SOON);
    assert_eq!((first.lock(), second.lock_in_bucket()), (None, None));
    assert_eq!((third.lock(), third.lock_in_bucket()), (None, None));
}

/// The script goes on after each death, and its exit code counts.
#[test]
fn three_one_after_another_killed_at_any_moment() {
    let projects: [Project; 3] = std::array::from_fn(|_| project(Kind::Quick).table().init(&terraform()));
    let script = format!("{}; exit 3", script(&projects, &format!("terraform {APPLY}"), "; "));
    let (mut hits, mut number) = (0, 0);
    while number < 8 || hits == 0 {
        let run = projects[0].command(TFGUARD).args(["--report", "report.json", "--", "sh", "-c", &script]).start();
        wait_until("a Terraform", || !terraforms(&projects[0]).is_empty() || run.has_ended());
        // Moments spread over the three.
        std::thread::sleep(Duration::from_millis(number % 8 * 130));
        hits += kill_terraforms(&projects[0]);
        let exit = run.wait(SOON);
        let (mut torn, mut left) = (0, 0);
        for project in &projects {
            torn += usize::from(mend_digest(project));
            // A Terraform that was dead before tfguard had a look at it took with it where its lock lives.
            let Some(lock) = project.lock() else { continue };
            let told = format!(
                "lock {} of {} (OperationTypeApply): NOT released: the lock is for {}, which this backend does not store",
                lock["ID"].as_str().unwrap(),
                project.lock_id(),
                project.lock_id()
            );
            assert!(exit.err().contains(&told), "{number}: {exit}");
            project.aws().delete_item(project.table_name(), &project.lock_id());
            left += 1;
        }
        // Between the state and its digest there is a moment, too.
        let code = if left > 0 {
            120
        } else if torn > 0 {
            121
        } else {
            3
        };
        assert_eq!(exit.code, Some(code), "{number}: {exit}");
        let outcomes = outcomes(&projects[0]);
        assert_eq!(outcomes.iter().filter(|(_, outcome, _)| outcome == "left").count(), left, "{number}: {exit}");
        for (_, outcome, _) in outcomes {
            assert!(["unlocked", "released", "gone", "left"].contains(&outcome.as_str()), "{number}: {outcome} {exit}");
        }
        projects[0].guard().assert_no_process_left(SOON);
        number += 1;
        assert!(number < 80, "no Terraform was ever killed");
    }
}

/// Whether the digest of the state was not that of the state. Then it is now.
fn mend_digest(project: &Project) -> bool {
    use aws_sdk_dynamodb::types::AttributeValue;
    use md5::{Digest as _, Md5};
    let Some(object) = project.aws().object(project.bucket(), &project.state_key()) else { return false };
    let md5: String = Md5::digest(&object.body).iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = project.aws().digest(project.table_name(), &project.lock_id());
    let item = [("LockID", format!("{}-md5", project.lock_id())), ("Digest", md5.clone())];
    project
        .aws()
        .put_item(project.table_name(), item.map(|(name, value)| (name.to_owned(), AttributeValue::S(value))).into());
    digest.is_some_and(|digest| digest != md5)
}

/// Its directory and environment are gone with it when its lock is read of, and its request is still on its way.
#[test]
fn a_terraform_of_a_script_that_dies_while_it_asks_for_its_lock() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let projects = [project(Kind::Quick).table().endpoint(proxy.url()).init(&terraform())];
    let script = format!("{}; exit 0", script(&projects, &format!("terraform {APPLY}"), ""));
    let [project] = &projects;
    let (before, gate) = (Gate::new(), Gate::new());
    proxy.rule(Match::http("GET", "list-type=2").nth(1), [before.hold()]);
    proxy.rule(Match::dynamodb("PutItem").nth(1), [gate.hold()]);
    let run = project.command(TFGUARD).args(["--", "sh", "-c", &script]).current_dir("/").start();
    before.wait_for(1, SOON);
    // tfguard has seen it, and reads nothing more before it is dead.
    let journal = project.wait_for_journal(SOON, |journal| journal["account"]["phase"] == "planning");
    let supervisor = Pid::from_raw(pid_of(&journal["supervisor"]));
    kill(supervisor, SIGSTOP).unwrap();
    before.release();
    gate.wait_for(1, SOON);
    assert_eq!(kill_terraforms(project), 1);
    proxy.rule(Match::dynamodb("GetItem").nth(1), [Action::Forward, gate.open()]);
    kill(supervisor, SIGCONT).unwrap();
    let exit = run.wait(SOON).expect_code(0);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_eq!(project.lock(), None, "{exit}");
}

/// A relative `-chdir` below a script: the kernel's working directory is already the one behind it.
#[test]
fn a_relative_chdir_below_a_script_is_not_applied_twice() {
    let project = project(Kind::HangInApply).table().init(&terraform());
    let parent = project.work().parent().unwrap().to_owned();
    let script = format!("cd '{}' && terraform -chdir=work {APPLY}; exit 3", parent.display());
    let run = project.command(TFGUARD).args(["--grace", "1s", "--", "sh", "-c", &script]).current_dir("/").start();
    project.wait_for_hang(SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_eq!(project.lock(), None, "{exit}");
}

/// Killed as it asked for its lock, which lands when nobody may look: not even the cleanup step takes that for a lock that
/// was not taken.
#[test]
fn a_lock_that_cannot_be_looked_at_is_not_forgotten() {
    for below_a_script in [false, true] {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = project(Kind::Quick).table().endpoint(proxy.url()).init(&terraform());
        let gate = Gate::new();
        proxy.rule(Match::dynamodb("PutItem").nth(1), [gate.hold()]);
        let run = match below_a_script {
            false => project.tfguard(TFGUARD, [""; 0], APPLY.split(' ')),
            true => project.command(TFGUARD).args(["--", "sh", "-c", &format!("terraform {APPLY}; exit 1")]),
        };
        let run = run.start();
        gate.wait_for(1, SOON);
        let denied = || [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))];
        proxy.rule(Match::dynamodb("DeleteItem"), denied());
        proxy.rule(Match::dynamodb("GetItem"), denied());
        assert_eq!(kill_terraforms(&project), 1);
        let exit = run.wait(SOON).expect_code(120);
        assert!(exit.err().contains("NOT released"), "{below_a_script}: {exit}");

        let release = || project.command(TFGUARD).arg("release").run();
        let exit = release().expect_code(120);
        assert!(exit.err().contains("NOT released"), "{below_a_script}: {exit}");
        gate.release();
        proxy.wait_for(|seen| seen.operation() == Some("PutItem") && seen.finished, SOON);
        assert!(project.lock().is_some(), "the request has landed");
        proxy.clear_rules();
        let exit = release().expect_code(0);
        assert!(exit.err().contains("deleted by tfguard"), "{below_a_script}: {exit}");
        assert_eq!(project.lock(), None, "{below_a_script}: {exit}");
    }
}
