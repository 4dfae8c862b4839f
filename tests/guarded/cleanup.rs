//! `tfguard release`, the cleanup step.

use std::time::Instant;

use super::*;
use nix::sys::signal::Signal::*;

/// A job of GitHub Actions, whose number tells it from others on the same runner.
pub(super) fn job(run: Run, number: &str) -> Run {
    run.envs([
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_SERVER_URL", "https://github.com"),
        ("GITHUB_REPOSITORY", "owner/repository"),
        ("GITHUB_RUN_ID", number),
        ("GITHUB_JOB", "apply"),
    ])
}

fn guarded(project: &Project, options: &[&str]) -> Running {
    let run = job(project.tfguard(TFGUARD, options, APPLY), "1").new_group().start();
    run.wait_for_stdout("Provisioning with 'local-exec'", SOON);
    run
}

pub(super) fn release(project: &Project, number: &str) -> Run {
    job(project.command(TFGUARD).args(["release", "--wait", "1m"]), number)
}

/// The journal once it names the child and its lock: the supervisor may be slower than what it supervises.
#[track_caller]
fn known(project: &Project) -> Value {
    session(project);
    let known = |journal: &Value| journal["child"].is_object() && journal["account"]["locks"][0].is_object();
    project.wait_for_journal(SOON, known)
}

/// Waits until the front has noted that it passed on all there is: what it has not noted is shown again.
#[track_caller]
fn wait_until_passed_on(project: &Project) {
    let session = session(project);
    let deadline = Instant::now() + SOON;
    loop {
        let progress = std::fs::read(session.join("progress")).unwrap_or_default();
        let noted = progress.first_chunk().map_or(0, |noted| u64::from_ne_bytes(*noted));
        if noted == std::fs::metadata(session.join("stdout")).expect("a session has a spool").len() {
            return;
        }
        assert!(Instant::now() < deadline, "{noted} bytes passed on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn with_nothing_to_do_it_is_silent() {
    let project = table(Kind::Quick);
    for _ in 0..2 {
        let exit = release(&project, "1").run().expect_code(0);
        assert_eq!((exit.out(), exit.err()), (String::new(), String::new()));
        job(project.tfguard(TFGUARD, [""; 0], APPLY), "1").run().expect_code(0);
    }
}

/// GitHub: the step is over, its processes killed, and Terraform goes on under its supervisor.
#[test]
fn it_awaits_a_living_supervisor_and_shows_the_rest_of_the_output() {
    let project = table(Kind::Sleep);
    let run = guarded(&project, &[]);
    run.wait_for_stdout("asleep", SOON);
    wait_until_passed_on(&project);
    run.signal(SIGKILL);
    let before = run.wait(SOON).expect_signal(SIGKILL).out();
    let exit = release(&project, "1").run().expect_code(0);
    assert!(exit.out().contains("Gracefully shutting down"), "{exit}");
    assert!(!before.contains("Gracefully") && before.contains("asleep"), "{before}");
    assert!(!exit.out().contains("Creating..."), "what was shown is not shown again: {exit}");
    assert!(exit.err().contains("released by Terraform"), "{exit}");
    assert_clean(&project);
    assert_eq!(sessions(&project), [""; 0].map(PathBuf::from));
    release(&project, "1").run().expect_code(0);
}

/// GitLab tells its `after_script` why it runs, Buildkite its hooks.
#[test]
fn it_says_how_the_job_ended_if_it_had_something_to_do() {
    let project = table(Kind::Sleep);
    let gitlab = |run: Run| run.envs([("GITLAB_CI", "true"), ("CI_JOB_ID", "1")]);
    let release =
        || gitlab(project.command(TFGUARD).args(["release", "--wait", "1m"])).env("CI_JOB_STATUS", "timedout");
    let run = gitlab(project.tfguard(TFGUARD, [""; 0], APPLY)).new_group().start();
    run.wait_for_stdout("asleep", SOON);
    let exit = release().run().expect_code(0);
    run.wait(SOON).expect_code(1);
    assert!(exit.err().contains("tfguard: the CI ended the job at its time limit\n"), "{exit}");
    assert_eq!(release().run().expect_code(0).err(), "");
    assert_clean(&project);
}

/// The cleanup step comes while the run is in full swing (GitLab's Kubernetes executor).
#[test]
fn it_stops_a_run_that_nobody_stopped() {
    let project = table(Kind::Sleep);
    let run = guarded(&project, &[]);
    let exit = release(&project, "1").run().expect_code(0);
    let run = run.wait(SOON).expect_code(1);
    assert_eq!(run.out().matches("Interrupt received.").count(), 1, "{run}");
    assert!(run.err().contains("stop requested: tfguard release"), "{run}");
    assert!(!exit.err().contains("tfguard: error"), "{exit}");
    // Nobody may read what the run itself says (a step of GitHub's in a container).
    assert!(exit.err().contains("released by Terraform"), "{exit}");
    assert_clean(&project);
    assert_eq!(sessions(&project), [""; 0].map(PathBuf::from));
}

/// Without a CI to tell whose a run is: whoever chose a place for a job's sessions means those that are there, and
/// elsewhere nobody's living run is touched.
#[test]
fn outside_a_ci_the_chosen_place_tells_whose_a_run_is() {
    // A CI that sets `CI` and nothing else does not tell its jobs apart.
    for (chosen, ci) in [(true, "false"), (false, "false"), (true, "true"), (false, "true")] {
        let project = table(Kind::Sleep);
        let place = project.sessions();
        let at_place = |run: Run| {
            let run = run.env("CI", ci);
            if chosen { run } else { run.env("TFGUARD_DIR", "").env("XDG_RUNTIME_DIR", &place) }
        };
        if !chosen {
            std::fs::create_dir_all(&place).unwrap();
        }
        let run = at_place(project.tfguard(TFGUARD, [""; 0], APPLY)).new_group().start();
        run.wait_for_stdout("asleep", SOON);
        let release = at_place(project.command(TFGUARD).args(["release", "--wait", "1m"]));
        let exit = release.run().expect_code(0);
        if !chosen {
            assert_eq!((exit.out(), exit.err()), (String::new(), String::new()));
            assert!(project.lock().is_some(), "it goes on");
            run.signal(SIGTERM);
        }
        let run = run.wait(SOON).expect_code(1);
        assert_eq!(run.out().matches("Interrupt received.").count(), 1, "{run}");
        assert_clean(&project);
    }
}

/// Whatever is alive of a run: what would be done is said, and nothing is.
#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let project = table(Kind::Sleep);
    let run = guarded(&project, &[]);
    run.wait_for_stdout("asleep", SOON);
    let dry = |words: &[&str]| {
        let (lock, session) = (project.lock(), sessions(&project));
        let exit = release(&project, "1").arg("--dry-run").run().expect_code(0);
        assert!(exit.out().is_empty() && words.iter().all(|word| exit.err().contains(word)), "{words:?}: {exit}");
        assert_eq!((project.lock(), sessions(&project)), (lock, session), "{exit}");
    };
    let id = project.lock().expect("it is locked")["ID"].as_str().unwrap().to_owned();
    dry(&["would ask the run to stop"]);
    let journal = known(&project);
    let output = run.kill_with_supervisor(&journal);
    assert_eq!(output.out().matches("Interrupt received.").count(), 0, "{output}");
    dry(&["its tfguard is dead: would interrupt", &format!("lock {id} of "), "would delete it conditionally"]);
    kill(pid_of(&journal["child"]["id"]));
    dry(&[&format!("lock {id} of "), "would delete it conditionally"]);
    assert_eq!(release(&project, "2").arg("--dry-run").run().expect_code(0).err(), "");
    release(&project, "1").run().expect_code(0);
    assert_clean(&project);
}

#[test]
fn it_takes_the_place_of_a_dead_supervisor() {
    for interrupted in [false, true] {
        let project = table(if interrupted { Kind::HangInApply } else { Kind::Sleep });
        let run = if interrupted {
            let run = job(project.tfguard(TFGUARD, [""; 0], APPLY), "1").new_group().start();
            project.wait_for_hang(SOON);
            run.signal(SIGTERM);
            run.wait_for_stdout("Interrupt received.", SOON);
            wait_until_passed_on(&project);
            run
        } else {
            guarded(&project, &[])
        };
        let journal = known(&project);
        run.kill_with_supervisor(&journal);
        assert!(project.lock().is_some());
        // Half of the time is the grace of the one that hangs.
        let exit = job(project.command(TFGUARD).args(["release", "--wait", "20s"]), "1").run().expect_code(0);
        let interrupts = exit.out().matches("Interrupt received.").count();
        assert_eq!(interrupts, usize::from(!interrupted), "one in all: {exit}");
        assert!(!exit.err().contains("Two interrupts"), "{exit}");
        assert_clean(&project);
        assert_eq!(sessions(&project), [""; 0].map(PathBuf::from));
    }
}

/// Guards against killing a living Terraform without an interrupt because the script that started it is dead, too.
#[test]
fn it_interrupts_a_terraform_of_which_everybody_above_is_dead() {
    let project = table(Kind::Sleep);
    let script = format!("terraform {}; echo over", APPLY.join(" "));
    let run = job(project.command(TFGUARD).args(["--", "sh", "-c", &script]), "1").new_group().start();
    run.wait_for_stdout("asleep", SOON);
    let id = project.wait_for_known_lock(SOON)["account"]["locks"][0]["id"].as_str().unwrap().to_owned();
    let journal = outer_journal(&project);
    run.kill_with_supervisor(&journal);
    let dry = release(&project, "1").arg("--dry-run").run().expect_code(0);
    assert!(dry.err().contains(&format!("lock {id} of ")), "the lock of a guard below is named, too: {dry}");
    // Terraform's own guard sees the end of what called it.
    kill(pid_of(&journal["child"]["id"]));
    let exit = release(&project, "1").run().expect_code(0);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert!(exit.err().contains("released by Terraform"), "{exit}");
    assert_clean(&project);
}

#[test]
fn it_releases_what_a_run_left_of_which_nothing_lives() {
    let project = table(Kind::Sleep);
    let run = guarded(&project, &[]);
    let journal = known(&project);
    run.kill_with_supervisor(&journal);
    kill(pid_of(&journal["child"]["id"]));
    let exit = release(&project, "1").run().expect_code(0);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}

/// Guards against deleting a lock that the run's own command line says is to stay: the cleanup step has another one.
#[test]
fn a_lock_that_the_run_was_told_to_keep_stays() {
    let project = table(Kind::Sleep);
    let run = guarded(&project, &["--on-death", "keep-apply"]);
    let journal = known(&project);
    run.kill_with_supervisor(&journal);
    kill(pid_of(&journal["child"]["id"]));
    let exit = release(&project, "1").run().expect_code(0);
    assert!(exit.err().contains("left in place, as --on-death says"), "{exit}");
    assert!(project.lock().is_some(), "{exit}");
    project.guard().assert_no_process_left(SOON);
}

/// Two jobs share a machine and a place for sessions.
#[test]
fn it_never_touches_another_jobs_session() {
    let project = table(Kind::Sleep);
    let run = guarded(&project, &[]);
    let exit = release(&project, "2").run().expect_code(0);
    assert_eq!((exit.out(), exit.err()), (String::new(), String::new()));
    project.command(TFGUARD).arg("release").run().expect_code(0);
    assert!(!run.has_ended());
    assert!(project.lock().is_some());
    run.signal(SIGTERM);
    run.wait(SOON).expect_code(1);
    assert_clean(&project);
}

/// Guards against a leg of a matrix that stops another one, whose names are all the same but for the runner. Two of them
/// share a machine and a place for sessions.
#[test]
fn what_lives_on_another_runner_goes_on() {
    type Ci = (&'static [(&'static str, &'static str)], &'static str, [&'static str; 2]);
    let cis: [Ci; 3] = [
        (&[("GITHUB_ACTIONS", "true"), ("GITHUB_JOB", "apply")], "RUNNER_NAME", ["a", "b"]),
        (&[("JENKINS_URL", "http://j/"), ("BUILD_TAG", "j-7"), ("NODE_NAME", "n")], "EXECUTOR_NUMBER", ["0", "1"]),
        (&[("CIRCLECI", "true"), ("CIRCLE_WORKFLOW_JOB_ID", "7")], "CIRCLE_NODE_INDEX", ["0", "1"]),
    ];
    for (variables, name, [one, other]) in cis {
        let project = table(Kind::Sleep);
        let on = |run: Run, runner: &str| run.envs(variables.iter().copied()).env(name, runner);
        let release = |runner: &str| on(project.command(TFGUARD).args(["release", "--wait", "1m"]), runner);
        let passed_over = || {
            for dry_run in [&["--dry-run"][..], &[]] {
                let exit = release(other).args(dry_run).run().expect_code(0);
                assert_eq!((exit.out(), exit.err()), (String::new(), String::new()));
            }
            assert!(project.lock().is_some());
        };
        let run = on(project.tfguard(TFGUARD, [""; 0], APPLY), one).new_group().start();
        run.wait_for_stdout("asleep", SOON);
        passed_over();
        assert!(!run.has_ended());
        let journal = known(&project);
        run.kill_with_supervisor(&journal);
        passed_over();
        if name == "RUNNER_NAME" {
            // With what it started.
            nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid_of(&journal["child"]["id"])), SIGKILL).unwrap();
            project.guard().assert_no_process_left(SOON);
            let exit = release(other).run().expect_code(0);
            assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "what is dead is finished: {exit}");
        } else {
            let exit = release(one).run().expect_code(0);
            assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
        }
        assert_clean(&project);
    }
}

/// The first try was denied; the cleanup step has better credentials.
#[test]
fn it_tries_a_lock_again_that_was_left() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).table().endpoint(proxy.url()).init(&terraform());
    let run = guarded(&project, &[]);
    proxy.rule(Match::dynamodb("DeleteItem"), [Action::Answer(Answer::dynamodb("AccessDeniedException", "no"))]);
    kill(pid_of(&known(&project)["child"]["id"]));
    run.wait(SOON).expect_code(120);
    let release = || release(&project, "1").env("TFGUARD_REPORT", project.work().join("report.json"));
    release().run().expect_code(120);
    assert!(project.lock().is_some());
    assert_eq!(report(&project)["locks"][0]["outcome"]["is"], "left");
    proxy.clear_rules();
    release().env("TFGUARD_ON_DEATH", "keep").run().expect_code(120);
    assert!(project.lock().is_some(), "it stays where it is asked to stay");
    let exit = release().run().expect_code(0);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    let report = report(&project);
    assert_eq!((&report["locks"][0]["outcome"]["is"], &report["lock_left"]), (&"released".into(), &false.into()));
    assert_clean(&project);
    assert_eq!(sessions(&project), [""; 0].map(PathBuf::from));
}

/// However long an answer takes: the step ends in its time, half a minute at least, and says what is left.
#[test]
fn it_ends_in_its_time_where_nothing_answers() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Sleep).table().lockfile().endpoint(proxy.url()).init(&terraform());
    let run = guarded(&project, &[]);
    run.wait_for_stdout("asleep", SOON);
    run.kill_with_supervisor(&known(&project));
    assert!(project.guard().kill_all());
    proxy.rule(Match::any(), [Gate::new().hold()]);
    let began = Instant::now();
    let exit = job(project.command(TFGUARD).args(["release", "--wait", "1s"]), "1").run().expect_code(120);
    // Both halves, each with its own time, would take a minute and a half.
    assert!(began.elapsed() < Duration::from_secs(80), "{:?} {exit}", began.elapsed());
    assert!(exit.err().contains("NOT released") && exit.err().contains("next: "), "{exit}");
    proxy.clear_rules();
    release(&project, "1").run().expect_code(0);
    assert_clean(&project);
}

/// What was configured is gone with its directory: the journal knows the place of the lock, and the step's credentials do.
#[test]
fn it_releases_what_a_run_left_whose_directory_is_gone() {
    for whole in [true, false] {
        let project = project(Kind::Sleep).table().lockfile().init(&terraform());
        let run = guarded(&project, &[]);
        run.wait_for_stdout("asleep", SOON);
        run.kill_with_supervisor(&known(&project));
        assert!(project.guard().kill_all());
        let gone = if whole { project.work() } else { project.work().join(".terraform") };
        std::fs::remove_dir_all(gone).unwrap();
        let id = project.lock().expect("it is locked")["ID"].as_str().unwrap().to_owned();
        let elsewhere = tempfile::tempdir().unwrap();
        let release = || release(&project, "1").current_dir(elsewhere.path());
        let exit = release().env_remove("AWS_ACCESS_KEY_ID").run().expect_code(120);
        let (table, region) = (project.table_name(), crate::support::Aws::REGION);
        let state = format!("--bucket {} --key {} --region {region}", project.bucket(), project.state_key());
        let advice = format!("run: tfguard unlock {id} {state} --table {table} --s3-endpoint ");
        assert!(exit.err().contains(&advice), "{advice}: {exit}");
        let exit = release().env("AWS_ACCESS_KEY_ID", "AKIATESTBEDTESTBED00\n").run().expect_code(120);
        assert!(exit.err().contains("the variable AWS_ACCESS_KEY_ID cannot be used"), "{exit}");
        assert!(exit.err().contains(&advice) && !exit.err().contains("panicked"), "{advice}: {exit}");
        let exit = release().run().expect_code(0);
        assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
        assert_clean(&project);
        assert_eq!(project.lock_in_bucket(), None);
    }
}

/// What lies in the checkout when the cleanup step comes need not be what was there when the run began: it is followed
/// neither to another endpoint nor to a command.
#[test]
fn what_was_changed_in_the_checkout_steers_no_cleanup_step() {
    const OTHER: &str = "says more than keys and roles";
    for (by_record, changed, said) in [
        (true, "", "have changed since the lock was taken (profile, shared_config_files)"),
        (false, "", "says `credential_process`"),
        // Such a line can hold a secret.
        (false, "aws_secret_access_key: hush\n", OTHER),
        (false, "aws_session_token: hush==\n", OTHER),
    ] {
        let profile = "profile = \"mine\"\n    shared_config_files = [\"aws.conf\"]";
        let project = project(Kind::Sleep).table();
        let project = if by_record { project } else { project.backend(profile) };
        let keys =
            "[profile mine]\nregion = us-east-1\naws_access_key_id = AKIATESTBEDTESTBED00\naws_secret_access_key = x\n";
        let config = project.work().join("aws.conf");
        std::fs::create_dir_all(project.work()).unwrap();
        std::fs::write(&config, keys).unwrap();
        let project = project.init(&terraform());
        let run = guarded(&project, &[]);
        run.wait_for_stdout("asleep", SOON);
        run.kill_with_supervisor(&known(&project));
        assert!(project.guard().kill_all());

        let pwned = project.work().join("pwned");
        let command = format!("[profile mine]\n{changed}credential_process = /usr/bin/touch {}\n", pwned.display());
        std::fs::write(&config, command).unwrap();
        let record = project.work().join(".terraform/terraform.tfstate");
        if by_record {
            let mut swapped: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
            swapped["backend"]["config"]["profile"] = "mine".into();
            swapped["backend"]["config"]["shared_config_files"] = serde_json::json!([config]);
            std::fs::write(&record, swapped.to_string()).unwrap();
        }
        let exit = release(&project, "1").run().expect_code(0);
        assert!(!pwned.exists(), "{exit}");
        assert!(exit.err().contains(said) && !exit.err().contains("hush"), "{exit}");
        assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
        assert_clean(&project);
    }
}

/// Another machine that shares the place, or this one before a restart: nothing can be known of the run.
#[test]
fn what_another_kernel_left_is_named_and_not_touched() {
    let project = table(Kind::Sleep);
    let run = guarded(&project, &[]);
    run.wait_for_stdout("asleep", SOON);
    let known = known(&project);
    run.kill_with_supervisor(&known);
    kill(pid_of(&known["child"]["id"]));
    let path = sessions(&project)[0].join("journal.json");
    let mut elsewhere = known.clone();
    elsewhere["world"]["boot_id"] = "another".into();
    std::fs::write(&path, elsewhere.to_string()).unwrap();
    let lock = project.lock().expect("it is locked");
    let exit = release(&project, "1").run().expect_code(120);
    assert!(exit.err().contains(&format!("tfguard unlock {}", lock["ID"].as_str().unwrap())), "{exit}");
    assert_eq!(project.lock(), Some(lock), "{exit}");
    std::fs::write(&path, known.to_string()).unwrap();
    release(&project, "1").run().expect_code(0);
    assert_clean(&project);
}

/// Guards against taking processes that were left at the end of a run for gone, because the log that they hold was
/// removed by somebody.
#[test]
fn while_a_process_that_was_left_may_live_the_lock_stays() {
    let project = table(Kind::Sleep);
    let run = guarded(&project, &[]);
    run.wait_for_stdout("asleep", SOON);
    let mut known = known(&project);
    run.kill_with_supervisor(&known);
    let account = &mut known["account"];
    account["ended"] = account["started"].clone();
    account["ending"] = serde_json::json!({"kind": "still-alive"});
    account["survivors"] = serde_json::json!(["terraform (1)"]);
    account["locks"][0]["outcome"] = serde_json::json!({"is": "left", "why": "it may be alive"});
    let session = session(&project);
    std::fs::write(session.join("journal.json"), known.to_string()).unwrap();
    let (log, aside) = (session.join("terraform.log"), session.join("aside"));
    for moved in [false, true] {
        if moved {
            std::fs::rename(&log, &aside).unwrap();
        }
        let exit = release(&project, "1").run().expect_code(120);
        assert!(project.lock().is_some() && exit.err().contains("NOT released"), "moved: {moved}: {exit}");
    }
    std::fs::rename(&aside, &log).unwrap();
    assert!(project.guard().kill_all());
    release(&project, "1").run().expect_code(0);
    assert_clean(&project);
}

/// Guards the lock of a living Terraform, and against its second interrupt, by a copy of the session (a backup, a cache, a
/// `docker cp`): nobody holds the files of a copy.
#[test]
fn a_copy_of_a_session_tells_nothing() {
    let project = table(Kind::Sleep);
    let run = guarded(&project, &[]);
    run.wait_for_stdout("asleep", SOON);
    let known = known(&project);
    let release_of = |sessions: &std::path::Path| release(&project, "1").env("TFGUARD_DIR", sessions).run();
    let copied = project.work().join("copied");
    project.command("cp").arg("-a").args([project.sessions().as_os_str(), copied.as_os_str()]).run().expect_code(0);
    let exit = release_of(&copied).expect_code(120);
    assert!(exit.err().contains("is a copy of a session"), "{exit}");
    // Without the log that it is told by, too.
    let log = copied.join(".tfguard-sessions").join(session(&project).file_name().unwrap()).join("terraform.log");
    std::fs::remove_file(log).unwrap();
    let exit = release_of(&copied).expect_code(120);
    assert!(exit.err().contains("is a copy of a session"), "{exit}");
    assert!(project.lock().is_some() && !run.has_ended() && !run.stdout().contains("Interrupt received"), "{exit}");

    // One that replaced the original, when only Terraform lives.
    run.kill_with_supervisor(&known);
    let (log, aside) = (session(&project).join("terraform.log"), session(&project).join("aside"));
    std::fs::rename(&log, &aside).unwrap();
    std::fs::copy(&aside, &log).unwrap();
    let exit = release(&project, "1").run().expect_code(120);
    assert!(exit.err().contains("is a copy of a session") && project.lock().is_some(), "{exit}");
    std::fs::rename(&aside, &log).unwrap();
    let exit = release(&project, "1").run().expect_code(0);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert_clean(&project);
}

/// Guards against forgetting that nobody could tell whether Terraform lives: the second step found no log, and nobody who had
/// it open.
#[test]
fn without_the_log_the_lock_stays_however_often_one_looks() {
    let project = table(Kind::Sleep);
    let script = format!("setsid {} {} & wait", terraform().display(), APPLY.join(" "));
    let run = job(project.command(TFGUARD).args(["--", "bash", "-c", &script]), "1").new_group().start();
    run.wait_for_stdout("asleep", SOON);
    let known = known(&project);
    run.kill_with_supervisor(&known);
    kill(pid_of(&known["child"]["id"]));
    std::fs::remove_file(session(&project).join("terraform.log")).unwrap();
    for _ in 0..2 {
        let exit = release(&project, "1").run().expect_code(120);
        assert!(project.lock().is_some() && exit.err().contains("NOT released"), "{exit}");
    }
}

#[test]
fn a_journal_of_another_version_is_told_of_and_left_alone() {
    let project = table(Kind::Quick);
    let session = project.sessions().join(".tfguard-sessions").join("20260101T000000-1-0");
    std::fs::create_dir_all(&session).unwrap();
    for path in [session.parent().unwrap(), &session] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    std::fs::write(session.join("tfguard-session"), "").unwrap();
    for (text, words) in
        [("{\"schema\": 7}", "has format 7, this tfguard knows format 1"), ("{\"sche", "cannot be understood")]
    {
        std::fs::write(session.join("journal.json"), text).unwrap();
        let exit = release(&project, "1").run().expect_code(125);
        assert!(exit.err().contains(words), "{exit}");
        assert_eq!(std::fs::read_to_string(session.join("journal.json")).unwrap(), text);
    }
}

/// Guards against a cleanup step that ends well although it refused to look at what may be its job's session.
#[test]
fn where_it_may_not_look_or_sees_too_little_it_fails() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let project = table(Kind::Sleep);
    let run = guarded(&project, &[]);
    run.wait_for_stdout("asleep", SOON);
    let journal = known(&project);
    run.kill_with_supervisor(&journal);
    let session = session(&project);
    let root = session.parent().unwrap();
    let fails = |path: &std::path::Path, why: &str| {
        for number in ["1", "2"] {
            let exit = release(&project, number).run().expect_code(125);
            assert!(exit.err().contains(path.to_str().unwrap()) && exit.err().contains(why), "{exit}");
            assert!(exit.out().is_empty() && project.lock().is_some(), "{exit}");
        }
    };
    let set_mode =
        |path: &std::path::Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for path in [&session, root] {
        set_mode(path, 0o777);
        fails(path, "can be written by others");
        set_mode(path, 0o700);
    }
    let aside = project.work().join("aside");
    std::fs::rename(&session, &aside).unwrap();
    symlink(&aside, &session).unwrap();
    fails(&session, "is a symbolic link");
    std::fs::remove_file(&session).unwrap();
    std::fs::rename(&aside, &session).unwrap();
    let journal = session.join("journal.json");
    std::fs::rename(&journal, &aside).unwrap();
    fails(&journal, "is missing");
    std::fs::rename(&aside, &journal).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(root, Some(12345), None).unwrap();
        fails(root, "belongs to user 12345");
        std::os::unix::fs::chown(root, Some(0), None).unwrap();
    } else {
        skipped("only root can give a directory away, so none of somebody else's is tried");
    }
    // What can hold no session of this user's, whoever put it there.
    symlink("nowhere", project.work().join(format!("tfguard-{}", nix::unistd::geteuid()))).unwrap();
    let exit = release(&project, "1").env("TMPDIR", project.work()).run().expect_code(0);
    assert!(exit.err().contains("is a symbolic link"), "{exit}");
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert_clean(&project);
}

/// A container, as far as it matters here: a PID namespace, in which a shell is PID 1, or what it becomes. In the script
/// `"$@"` is tfguard.
fn contained(project: &Project, script: &str) -> Option<Running> {
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    if project.command("unshare").args(unshare).arg("true").run().code != Some(0) {
        skipped("this machine permits no PID namespaces, so nothing is tried of containers");
        return None;
    }
    let run = project.command("unshare").args(unshare).args(["sh", "-c", script, "sh", TFGUARD, "--"]);
    let run = run.arg(terraform()).args(APPLY);
    let run = job(run, "1").new_group().start();
    run.wait_for_stdout("asleep", SOON);
    Some(run)
}

/// GitLab's docker executor: the job's container is gone, the next one has only the project directory.
#[test]
fn it_releases_what_a_container_left_that_is_gone() {
    let project = table(Kind::Sleep);
    let Some(run) = contained(&project, "exec \"$@\"") else { return };
    let exit = release(&project, "1").run().expect_code(120);
    assert!(exit.err().contains("supervised from another container"), "{exit}");
    assert!(project.lock().is_some(), "never under a living Terraform");
    run.signal(SIGKILL);
    run.wait(SOON).expect_signal(SIGKILL);
    project.guard().assert_no_process_left(SOON);
    assert!(project.lock().is_some());
    let exit = release(&project, "1").run().expect_code(0);
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}

/// Guards against leaving a lock because what was killed with its container took a moment to die.
#[test]
fn it_waits_a_moment_for_what_dies_with_its_container() {
    let project = table(Kind::Sleep);
    let Some(run) = contained(&project, "exec \"$@\"") else { return };
    let log = session(&project).join("terraform.log");
    // A Terraform is alive to the kernel until it has closed its log.
    let dying = project.command("sh").args(["-c", "exec 3>>\"$1\"; echo open; sleep 1", "sh"]).arg(&log).start();
    dying.wait_for_stdout("open", SOON);
    run.signal(SIGKILL);
    run.wait(SOON).expect_signal(SIGKILL);
    let exit = release(&project, "1").run().expect_code(0);
    assert!(dying.has_ended() && exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    project.guard().assert_no_process_left(SOON);
    assert_clean(&project);
}

/// In a container that lives both of tfguard's processes were killed. Nobody outside can see Terraform but the kernel.
#[test]
fn it_leaves_the_lock_of_a_terraform_that_lives_in_another_container() {
    let project = table(Kind::Sleep);
    let Some(run) = contained(&project, "\"$@\"; sleep 600") else { return };
    let known = known(&project);
    let ours = project.guard().processes().into_iter().filter_map(|line| {
        let (pid, command) = line.split_once(' ')?;
        (command.starts_with("tfguard --supervise") || command.starts_with(TFGUARD)).then(|| pid.parse().unwrap())
    });
    let ours: Vec<i32> = ours.collect();
    assert_eq!(ours.len(), 2, "front and supervisor: {:?}", project.guard().processes());
    for pid in &ours {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), SIGSTOP).unwrap();
    }
    ours.into_iter().for_each(kill);
    let exit = release(&project, "1").run().expect_code(120);
    assert!(exit.err().contains("from another container"), "{exit}");
    assert_eq!(project.lock().expect("it stays")["ID"], known["account"]["locks"][0]["id"], "{exit}");
    run.signal(SIGKILL);
    run.wait(SOON).expect_signal(SIGKILL);
    project.guard().assert_no_process_left(SOON);
    release(&project, "1").run().expect_code(0);
    assert_clean(&project);
}

/// `docker stop`: SIGTERM to PID 1, which is tfguard.
#[test]
fn as_pid_1_it_stops_gracefully() {
    let project = table(Kind::Sleep);
    let Some(run) = contained(&project, "exec \"$@\"") else { return };
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.pid())).unwrap();
    let init = nix::unistd::Pid::from_raw(children.trim().parse().unwrap());
    nix::sys::signal::kill(init, SIGTERM).unwrap();
    let exit = run.wait(SOON).expect_code(1);
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    assert_clean(&project);
}
