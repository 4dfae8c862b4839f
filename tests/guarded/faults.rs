//! Requests that are lost, late, refused or answered with nonsense.

use super::*;
use nix::sys::signal::Signal::*;

fn behind(proxy: &FaultProxy, kind: Kind) -> Project<'static> {
    project(kind).table().endpoint(proxy.url()).init(&terraform())
}

/// Terraform takes its lock, the answer is lost, its retry collides with itself, and it exits 1 with the lock left.
#[test]
fn a_lock_that_terraform_ran_into_itself_is_released() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = behind(&proxy, Kind::Quick);
    proxy.rule(Match::dynamodb("PutItem").nth(1), [Action::Forward, Action::Close]);
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
    assert!(exit.err().contains("Error acquiring the state lock"), "{exit}");
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}

/// The same, and the lock may be looked at but not deleted.
#[test]
fn a_lock_that_terraform_ran_into_itself_and_that_stays_is_reported() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = behind(&proxy, Kind::Quick);
    proxy.rule(Match::dynamodb("PutItem").nth(1), [Action::Forward, Action::Close]);
    proxy.rule(Match::dynamodb("DeleteItem"), [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))]);
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(120);
    let lock = project.lock().expect("nobody could delete it");
    assert!(exit.err().contains("NOT released: dynamodb:DeleteItem was denied"), "{exit}");
    assert!(exit.err().contains(&format!("tfguard unlock {}", lock["ID"].as_str().unwrap())), "{exit}");
}

/// The network goes as Terraform takes its lock: that it did not hear of it does not mean that it is not there.
#[test]
fn a_lock_whose_answer_and_network_were_lost_is_reported() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).table().endpoint(proxy.url()).backend("max_retries = 1").init(&terraform());
    proxy.rule(Match::dynamodb("PutItem").nth(1), [Action::Forward, Action::Close]);
    for operation in ["PutItem", "GetItem", "DeleteItem"] {
        proxy.rule(Match::dynamodb(operation), [Action::Close]);
    }
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(120);
    let lock = project.lock().expect("nobody could delete it");
    assert!(exit.err().contains(&format!("tfguard unlock {}", lock["ID"].as_str().unwrap())), "{exit}");
}

/// The request that takes the lock outlives Terraform.
#[test]
fn a_lock_that_appears_after_terraforms_death_is_released() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = behind(&proxy, Kind::Quick);
    let gate = Gate::new();
    proxy.rule(Match::dynamodb("PutItem").nth(1), [gate.hold()]);
    let run = project.tfguard(TFGUARD, [""; 0], APPLY).start();
    gate.wait_for(1, SOON);
    // tfguard has asked once, to be connected, and looked once and found nothing.
    proxy.rule(Match::dynamodb("GetItem").nth(2), [Action::Forward, gate.open()]);
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}

#[test]
fn every_delete_names_the_lock_in_a_condition() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = behind(&proxy, Kind::Sleep);
    let run = asleep(&project, &[]);
    let id = project.lock().unwrap()["ID"].as_str().unwrap().to_owned();
    kill(pid_of(&journal(&project)["child"]["id"]));
    run.wait(SOON).expect_code(137);
    let ours: Vec<_> = proxy
        .seen()
        .into_iter()
        .filter(|seen| seen.header("user-agent").is_some_and(|a| a.contains(OUR_AGENT)))
        .collect();
    assert!(!ours.is_empty());
    // The look at the state afterwards reads, and only that.
    let reads = |request: &&Seen| request.method == "GET" || request.operation() == Some("GetItem");
    for request in ours.iter().filter(|request| !reads(request)) {
        assert_eq!(request.operation(), Some("DeleteItem"), "{request:#?}");
        let body: Value = serde_json::from_str(&request.text()).unwrap();
        assert!(body["ConditionExpression"].as_str().unwrap().contains("Info"), "{body:#}");
        assert!(body["ExpressionAttributeValues"].to_string().contains(&id), "{body:#}");
    }
    assert_clean(&project);
}

#[test]
fn a_lost_answer_to_the_delete_is_settled() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = behind(&proxy, Kind::Sleep);
    let run = asleep(&project, &[]);
    proxy.rule(Match::dynamodb("DeleteItem").nth(1), [Action::Forward, Action::Close]);
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert!(!exit.err().contains("NOT released") && !exit.err().contains("taken away"), "{exit}");
    assert_clean(&project);
}

#[test]
fn throttling_and_failures_are_ridden_out() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = behind(&proxy, Kind::Sleep);
    let run = asleep(&project, &[]);
    let throttled = Answer::dynamodb("ProvisionedThroughputExceededException", "slow down");
    proxy.rule(Match::dynamodb("DeleteItem").nth(1), [Action::Answer(throttled)]);
    proxy.rule(Match::dynamodb("DeleteItem").nth(2), [Action::Answer(Answer::new(500, "oops"))]);
    proxy.rule(Match::dynamodb("DeleteItem").nth(3), [Action::Close]);
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}

#[test]
fn a_delete_that_is_denied_leaves_the_lock_and_says_what_to_do() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = behind(&proxy, Kind::Sleep);
    let run = asleep(&project, &["--report", "report.json"]);
    proxy.rule(Match::dynamodb("DeleteItem"), [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))]);
    let lock = project.lock().unwrap();
    let id = lock["ID"].as_str().unwrap();
    run.signal(SIGKILL);
    run.wait(SOON).expect_signal(SIGKILL);
    // Terraform's own unlock is denied too; the supervisor reports although nobody listens.
    project.guard().assert_no_process_left(SOON);
    assert_eq!(project.lock(), Some(lock.clone()));
    assert_eq!(report(&project)["exit_code"], 120);
    project.aws().delete_item(project.table_name(), &project.lock_id());
    for session in sessions(&project) {
        std::fs::remove_dir_all(session).unwrap();
    }

    let run = asleep(&project, &["--report", "report.json"]);
    let lock = project.lock().unwrap();
    let id = {
        let _ = id;
        lock["ID"].as_str().unwrap()
    };
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(120);
    assert!(exit.err().contains("NOT released: dynamodb:DeleteItem was denied"), "{exit}");
    assert!(exit.err().contains(&format!("tfguard unlock {id}")), "{exit}");
    assert_eq!(project.lock(), Some(lock.clone()));
    let mut files: Vec<_> =
        std::fs::read_dir(session(&project)).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    let expected = [".gitignore", "child", "journal.json", "journal.spare", "tfguard-session"];
    assert_eq!(files, expected, "nothing that may hold secrets");
}

/// Guards the bucket: what is made in it to see whether the store keeps conditions is removed, or told of.
#[test]
fn an_examination_of_the_store_that_is_disturbed_leaves_nothing_without_a_word() {
    let of_it = |method| Match::http(method, ".tflock.tfguard-");
    for (disturbed, actions, stays) in [
        (of_it("PUT").nth(1), vec![Action::Forward, Action::Close], false),
        (of_it("DELETE").nth(2), vec![Action::Close], false),
        (of_it("DELETE").nth(3), vec![Action::Close], false),
        (of_it("DELETE").occurrences(3..=usize::MAX), vec![Action::Close], true),
    ] {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = project(Kind::Sleep).lockfile().endpoint(proxy.url()).init(&terraform());
        let run = project.tfguard(TFGUARD, [""; 0], APPLY).start();
        run.wait_for_stdout("asleep", SOON);
        let told = format!("{disturbed:?}");
        proxy.rule(disturbed, actions);
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(137);
        assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{told}: {exit}");
        let mut left = project.aws().keys(project.bucket(), "");
        left.retain(|key| key.contains(".tfguard-"));
        assert_eq!(left.len(), usize::from(stays), "{told}: {left:?} {exit}");
        for key in left {
            let words = format!("s3://{}/{key} may be left", project.bucket());
            assert!(exit.err().contains(&words) && exit.err().contains("it means nothing, delete it"), "{exit}");
        }
        assert_eq!(exit.err().contains("it means nothing"), stays, "{told}: {exit}");
    }
}
