//! `tfguard release --run-identity`: a cleanup step that has no session of its job.

use super::simulators::{Container, Ended, GitLabDocker, GitLabKubernetes, Job, Started};
use super::*;

const SCRIPT: &str = "tfguard -- terraform apply -input=false -auto-approve -no-color";
const RELEASE: &str = "tfguard release --run-identity";

/// Cancels a GitLab job whose sessions end with its container, once the holder stands beside both halves of its lock.
fn cancelled<'a>(
    (project, proxy): (&'a Project<'a>, &FaultProxy),
    cleanup: &str,
    start: impl FnOnce(Job<'a>) -> Box<dyn Started + 'a>,
) -> Ended {
    let place = project.work().with_file_name("tmp").join("sessions");
    let job = Job::new(project, SCRIPT).cleanup(cleanup).env("TFGUARD_DIR", place);
    let started = start(job);
    project.wait_for_hang(SOON);
    proxy.wait_for(|seen| seen.operation() == Some("UpdateItem") && seen.finished, SOON);
    started.cancel()
}

fn both(proxy: &FaultProxy) -> Project<'static> {
    project(Kind::HangInApply).table().lockfile().endpoint(proxy.url()).init(&terraform())
}

fn locks(project: &Project) -> usize {
    usize::from(project.lock().is_some()) + usize::from(project.lock_in_bucket().is_some())
}

fn containers() -> bool {
    let project = project(Kind::Quick);
    Container::permitted(&Job::new(&project, ""))
}

/// The executor has removed the script's container before `after_script` runs in another one.
#[test]
fn in_gitlabs_docker_executor_the_lock_goes_with_the_container() {
    if !containers() {
        return;
    }
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = both(&proxy);
    let ended = cancelled((&project, &proxy), RELEASE, |job| GitLabDocker { native_stop: true }.start(job));
    assert_eq!(locks(&project), 0, "{}", ended.log());
    assert!(ended.log().contains("its container was GitLab's"), "{}", ended.log());
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    // Never without the condition.
    let deletes = proxy.seen_matching(&Match::dynamodb("DeleteItem"));
    assert!(!deletes.is_empty() && deletes.iter().all(|seen| seen.text().contains("contains(Info, :id)")));
}

/// The same job in another attempt has another number, and is another job.
#[test]
fn another_job_of_gitlabs_leaves_it_alone() {
    if !containers() {
        return;
    }
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = both(&proxy);
    let cleanup = format!("CI_JOB_ID=8 CI_JOB_URL=https://gitlab.example/8 {RELEASE}");
    let ended = cancelled((&project, &proxy), &cleanup, |job| GitLabDocker { native_stop: true }.start(job));
    assert_eq!(locks(&project), 2, "{}", ended.log());
    assert_eq!((ended.cleanup[0].code, ended.cleanup[0].err()), (Some(0), String::new()), "{}", ended.log());
}

/// `after_script` runs beside the living run; by its variables alone it would be as above.
#[test]
fn in_a_pod_the_lock_of_the_living_run_stays() {
    if !containers() {
        return;
    }
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = both(&proxy);
    let cleanup = format!("TFGUARD_DIR=$HOME/none {RELEASE}");
    let ended = cancelled((&project, &proxy), &cleanup, |job| GitLabKubernetes.start(job));
    assert_eq!(ended.log().matches("is this job's and stays: a Terraform").count(), 1, "{}", ended.log());
    assert_eq!(ended.cleanup[0].code, Some(120), "{}", ended.log());
    assert_eq!(locks(&project), 2, "{}", ended.log());
}

/// On one machine the kernel tells whether the run lives; sessions are in another place than the cleanup step knows.
#[test]
fn elsewhere_it_goes_only_by_proof_and_only_that_of_the_very_job() {
    let project = project(Kind::Sleep).table().init(&terraform());
    let own = |run: Run, runner: &str| job(run, "7").env("RUNNER_NAME", runner);
    let run = own(project.tfguard(TFGUARD, ["-v"], APPLY), "one").new_group().start();
    run.wait_for_stderr("recorded beside item", SOON);
    let release = |options: &[&str]| {
        project.command(TFGUARD).args(["release"]).args(options).env("TFGUARD_DIR", project.work().join("none"))
    };
    let exit = own(release(&["--run-identity"]), "one").run().expect_code(120);
    assert!(exit.err().contains("is this job's and stays: ") && project.lock().is_some(), "{exit}");

    let journal = journal(&project);
    run.kill_with_supervisor(&journal);
    assert!(project.guard().kill_all());

    // Another job of the matrix; another workflow run; outside a CI; without being asked.
    for other in [
        own(release(&["--run-identity"]), "two"),
        job(release(&["--run-identity"]), "8").env("RUNNER_NAME", "one"),
        release(&["--run-identity"]),
        own(release(&[]), "one"),
    ] {
        let exit = other.run().expect_code(0);
        assert_eq!((exit.out(), exit.err()), (String::new(), String::new()));
        assert!(project.lock().is_some());
    }
    let kept = own(release(&["--run-identity"]), "one").env("TFGUARD_ON_DEATH", "keep").run().expect_code(0);
    assert!(kept.err().contains("as --on-death says") && project.lock().is_some(), "{kept}");
    let exit = own(release(&[]), "one").env("TFGUARD_RUN_IDENTITY", "1").run().expect_code(0);
    assert!(exit.err().contains("deleted by tfguard"), "{exit}");
    assert_eq!(project.lock(), None);
    let again = own(release(&["--run-identity"]), "one").run().expect_code(0);
    assert_eq!((again.out(), again.err()), (String::new(), String::new()));
}

/// A cleanup step that always runs must not fail a job that did not come to `init`.
#[test]
fn without_a_backend_it_is_silent_and_without_aws_it_is_not() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).table().endpoint(proxy.url()).init(&terraform());
    let release = || job(project.command(TFGUARD).args(["release", "--run-identity"]), "7");
    let empty = tempfile::tempdir().unwrap();
    let exit = release().current_dir(empty.path()).run().expect_code(0);
    assert_eq!((exit.out(), exit.err()), (String::new(), String::new()));
    let exit = release().run().expect_code(0);
    assert_eq!((exit.out(), exit.err()), (String::new(), String::new()));
    proxy.rule(Match::dynamodb("GetItem"), [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))]);
    let exit = release().run().expect_code(120);
    assert!(exit.err().contains("cannot be known: dynamodb:GetItem was denied"), "{exit}");
}
