//! `tfguard release --run-identity`: a cleanup step that has no session of its job.

use super::*;
use crate::simulators::{Container, Ended, GitLabDocker, GitLabKubernetes, Job, Started};

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
    assert!(ended.log().contains("is this job's and stays: a Terraform"), "{}", ended.log());
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
    let files = ["report.json", "output"].map(|name| project.work().join(name));
    std::fs::write(&files[1], "").unwrap();
    let release = |options: &[&str]| {
        let run =
            project.command(TFGUARD).args(["release"]).args(options).env("TFGUARD_DIR", project.work().join("none"));
        run.env("TFGUARD_REPORT", &files[0]).env("GITHUB_OUTPUT", &files[1])
    };
    // The report, and what the CI was told, since the last time.
    let written = || {
        let output = std::fs::read_to_string(&files[1]).unwrap();
        std::fs::write(&files[1], "").unwrap();
        let report = std::fs::read(&files[0]).map(|text| serde_json::from_slice::<Value>(&text).expect("it is JSON"));
        let _ = std::fs::remove_file(&files[0]);
        (report.unwrap_or_default(), output)
    };
    let exit = own(release(&["--run-identity"]), "one").run().expect_code(120);
    assert!(exit.err().contains("is this job's and stays: ") && project.lock().is_some(), "{exit}");
    let id = project.lock().unwrap()["ID"].as_str().unwrap().to_owned();
    assert!(exit.err().contains(&format!("tfguard unlock {id}")), "the next step: {exit}");
    let (report, output) = written();
    let of =
        |report: &Value| (report["exit_code"].clone(), report["lock_left"].clone(), report["ending"]["kind"].clone());
    assert_eq!(of(&report), (120.into(), true.into(), Value::Null), "{report:#}");
    assert_eq!(
        (&report["locks"][0]["id"], &report["locks"][0]["outcome"]["is"]),
        (&id.as_str().into(), &"left".into())
    );
    assert!(output.contains("\nleft\n") && output.contains("\ntrue\n"), "{output}");

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
        assert_eq!(written(), (Value::Null, String::new()), "there was nothing to do");
    }
    let kept = own(release(&["--run-identity"]), "one").env("TFGUARD_ON_DEATH", "keep").run().expect_code(0);
    assert!(kept.err().contains("as --on-death says") && project.lock().is_some(), "{kept}");
    let exit = own(release(&[]), "one").env("TFGUARD_RUN_IDENTITY", "1").run().expect_code(0);
    assert!(exit.err().contains("deleted by tfguard"), "{exit}");
    assert_eq!(project.lock(), None);
    let (report, output) = written();
    assert_eq!(of(&report), (125.into(), false.into(), "unknown".into()), "{report:#}");
    assert_eq!(report["ci"]["url"], "https://github.com/owner/repository/actions/runs/7", "{report:#}");
    assert_eq!((&report["schema"], &report["program"]), (&1.into(), &"terraform".into()), "{report:#}");
    assert_eq!(report["session"], journal["account"]["session"], "{report:#}");
    let lock = &report["locks"][0];
    assert_eq!((&lock["id"], &lock["outcome"]["is"]), (&id.as_str().into(), &"released".into()), "{report:#}");
    assert_eq!(lock["halves"][0]["outcome"], "deleted", "{report:#}");
    assert!(report["ended"].is_string() && report["states"][0]["verdict"].is_string(), "{report:#}");
    assert!(output.contains("\nreleased\n") && output.contains(&format!("\n{id}\n")), "{output}");
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
