//! Runs that nothing happens to.

use super::*;

/// Terraform works as without tfguard, tfguard says nothing, asks AWS nothing and leaves nothing.
#[test]
fn an_ordinary_run_is_left_alone_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = project(Kind::Quick).table().endpoint(proxy.url()).init(&terraform);
        // On a busy machine a run may hold its lock for so long that its holder is recorded.
        let mut is_slow = false;
        let mut run = |args: &[&str]| {
            let began = std::time::Instant::now();
            let exit = project.tfguard(TFGUARD, [""; 0], args).run();
            is_slow |= began.elapsed() > Duration::from_secs(10);
            exit
        };
        let apply = run(&APPLY).expect_code(0);
        assert!(apply.out().contains("Apply complete! Resources: 1 added"), "{version}: {apply}");
        assert_eq!(apply.err(), "", "{version}");
        run(&[&PLAN[..], &["-detailed-exitcode"]].concat()).expect_code(0);
        run(&["plan", "-destroy", "-input=false", "-detailed-exitcode"]).expect_code(2);
        let ours: Vec<_> = proxy
            .seen()
            .into_iter()
            .filter(|seen| seen.header("user-agent").is_some_and(|a| a.contains(OUR_AGENT)))
            .collect();
        // An exit code of 2 is no plain success, and 1.6 to 1.9 do not say that they unlocked, so there tfguard looks. But up to
        // 1.8 `init` does not record its version, so tfguard has the requests logged, and they tell.
        let looks = usize::from(version == "1.9.8");
        assert!(ours.len() == looks || is_slow, "{version}: {ours:#?}");
        let is_delete = |seen: &&Seen| seen.header("x-amz-target").is_some_and(|target| target.ends_with("DeleteItem"));
        assert_eq!(ours.iter().filter(is_delete).count(), 0, "{version}: {ours:#?}");
        assert_eq!(sessions(&project), [""; 0].map(PathBuf::from), "{version}");
        assert_clean(&project);
    }
}

#[test]
fn an_approval_is_read_from_a_pipe() {
    let project = table(Kind::Quick);
    let mut run = project.tfguard(TFGUARD, [""; 0], ["apply", "-no-color"]).stdin(Stdin::Open).start();
    run.write(b"yes\n");
    run.close_stdin();
    let exit = run.wait(SOON).expect_code(0);
    assert!(exit.out().contains("Enter a value"), "{exit}");
    assert_clean(&project);
}

/// Without tfguard Terraform dies of SIGPIPE here and leaves its lock.
#[test]
fn a_reader_that_goes_away_does_not_hurt_terraform() {
    let project = table(Kind::Chatty(20_000));
    let mut run = project.tfguard(TFGUARD, [""; 0], APPLY).hand_stdout().start();
    drop(run.take_stdout());
    run.wait(SOON).expect_code(0);
    assert!(project.state().is_some_and(|state| state["serial"].as_u64() > Some(0)));
    assert_clean(&project);
}

/// The user's own log variables keep their effect, and the lock is learned all the same.
#[test]
fn the_users_log_settings_keep_their_effect_on_every_version() {
    type Setting = (&'static [(&'static str, &'static str)], bool, bool);
    let settings: [Setting; 6] = [
        (&[("TF_LOG", "error")], false, false),
        (&[("TF_LOG", "off"), ("TF_LOG_PATH", "mine.log")], false, false),
        (&[("TF_LOG", "info")], true, false),
        (&[("TF_LOG", "json"), ("TF_LOG_PATH", "mine.log")], false, true),
        (&[("TF_LOG_CORE", "debug"), ("TF_LOG_PATH", "mine.log")], false, true),
        (&[("TF_LOG_PROVIDER", "trace")], false, false),
    ];
    for (number, (version, terraform)) in Tools::get().terraforms().enumerate() {
        // Each version with two of the settings, each setting with three of the versions.
        for (variables, on_stderr, in_file) in [settings[number % 6], settings[(number + 3) % 6]] {
            let project = project(Kind::HangInApply).table().init(&terraform);
            let run = project.tfguard(TFGUARD, ["--grace", "3s"], APPLY).envs(variables.iter().copied()).start();
            project.wait_for_hang(SOON);
            assert!(project.lock().is_some());
            run.signal(nix::sys::signal::SIGTERM);
            let exit = run.wait(SOON).expect_code(137);
            // The delete of a busy machine may be carried out without an answer in time.
            let deleted = ["left by Terraform, deleted by tfguard", "not there any more"];
            assert!(deleted.iter().any(|says| exit.err().contains(says)), "{version} {variables:?}: {exit}");
            assert_eq!(exit.err().contains("[INFO]"), on_stderr, "{version} {variables:?}: {exit}");
            let log = std::fs::read_to_string(project.work().join("mine.log")).unwrap_or_default();
            assert_eq!(!log.is_empty(), in_file, "{version} {variables:?}: {log}");
            assert_clean(&project);
        }
    }
}
