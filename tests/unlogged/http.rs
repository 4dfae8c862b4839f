//! The `http` backend.

use super::*;
use Flavour::{Careless, GitLab, Strict};

const ITEM: [&str; 2] = ["--evidence", "item"];

fn place(server: &StateServer) -> Place {
    Place::new(&any_terraform(), &server.backend(), SLEEP).init()
}

/// A Terraform that was killed while it applied, and how that was accounted for.
fn killed(place: &Place, options: &[&str]) -> Exit {
    let run = place.asleep(options);
    place.kill_terraform();
    run.wait(SOON)
}

#[test]
fn the_lock_of_a_killed_terraform_is_given_back_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let server = StateServer::start(Strict);
        let place = Place::new(&terraform, &server.backend(), SLEEP).init();
        let exit = killed(&place, &ITEM).expect_code(137);
        assert_eq!(server.lock(), None, "{version}: {exit}");
        assert_eq!(place.reported()["outcome"], "released", "{version}: {exit}");
        assert!(exit.err().contains("released by tfguard"), "{version}: {exit}");
        place.guard.assert_no_process_left(SOON);
    }
}

#[test]
fn it_is_given_back_to_every_kind_of_server() {
    for flavour in [Strict, Careless, GitLab] {
        let server = StateServer::start(flavour);
        let place = place(&server);
        let run = place.guarded(&ITEM, &APPLY).env("GITLAB_USER_LOGIN", GITLAB_USER).start();
        run.wait_for_stdout("asleep", SOON);
        let own = server.lock().expect("an apply holds its lock");
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(server.lock(), None, "{flavour:?}: {exit}");
        assert_eq!(place.reported()["holder"]["ID"], own["ID"], "{flavour:?}");
        let unlocks: Vec<_> = server
            .requests_of_tfguard()
            .into_iter()
            .filter(|request| ["UNLOCK", "DELETE"].contains(&request.method.as_str()))
            .collect();
        assert_eq!(unlocks.len(), 1, "{flavour:?}: {unlocks:?}");
        assert_eq!(unlocks[0].json()["ID"], own["ID"], "{flavour:?}");
    }
}

/// As `terraform` sends it: what the server keeps comes back to it unchanged.
#[test]
fn the_unlock_carries_the_holders_lock_as_the_server_showed_it() {
    let server = StateServer::start(Strict);
    let place = place(&server);
    let run = place.asleep(&ITEM);
    let own = server.lock().unwrap();
    place.kill_terraform();
    run.wait(SOON);
    let unlock = server.requests_of_tfguard().pop().unwrap();
    assert_eq!((unlock.method.as_str(), unlock.json()), ("UNLOCK", own));
    assert_eq!(unlock.header("content-type"), Some("application/json"));
}

#[test]
fn by_default_it_is_left_and_named() {
    let server = StateServer::start(Strict);
    let place = place(&server);
    let exit = killed(&place, &[]).expect_code(120);
    let own = server.lock().expect("it is left");
    let id = own["ID"].as_str().unwrap();
    assert!(exit.err().contains(id) && exit.err().contains("--evidence item"), "{exit}");
    assert!(exit.err().contains(&format!("force-unlock {id}")), "{exit}");
    assert_eq!(place.reported()["holder"], own);
    assert_eq!(place.reported()["outcome"], "left");
    assert!(server.requests_of_tfguard().iter().all(|request| request.method == "LOCK"));
}

#[test]
fn on_death_keeps_it_where_it_is_told_to() {
    let server = StateServer::start(Strict);
    let place = place(&server);
    let exit = killed(&place, &["--evidence", "item", "--on-death", "keep"]).expect_code(137);
    assert!(server.lock().is_some() && exit.err().contains("as --on-death says"), "{exit}");
}

/// Somebody unlocked by force and took the lock while ours was alive.
#[test]
fn a_foreign_lock_in_its_place_is_not_touched() {
    let own = own_name();
    for flavour in [Strict, Careless, GitLab] {
        for (who, created) in [
            ("alice@laptop", "2026-03-04T05:06:07Z"),
            (own.as_str(), "2026-03-04T05:06:07Z"),
            ("alice@laptop", "now"),
            (&own, "later"),
        ] {
            let server = StateServer::start(flavour);
            let place = place(&server);
            let run = place.guarded(&ITEM, &APPLY).env("GITLAB_USER_LOGIN", GITLAB_USER).start();
            run.wait_for_stdout("asleep", SOON);
            let version = server.lock().unwrap()["Version"].clone();
            let created = match created {
                "now" => jiff::Timestamp::now().to_string(),
                "later" => (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5)).to_string(),
                fixed => fixed.to_owned(),
            };
            let foreign = serde_json::json!({
                "ID": "5f0c1b8e-93a7-2d64-1e0f-8a7b6c5d4e3f", "Operation": "OperationTypeApply", "Info": "", "Who": who,
                "Version": version, "Created": created, "Path": "",
            });
            server.plant_lock(foreign.clone());
            place.kill_terraform();
            let exit = run.wait(SOON).expect_code(137);
            assert_eq!(server.lock(), Some(foreign), "{flavour:?} {who}: {exit}");
            assert!(exit.err().contains("somebody else's, not touched"), "{exit}");
            assert_eq!(place.reported()["outcome"], "foreign");
        }
    }
}

#[test]
fn a_lock_that_is_gone_is_looked_for_and_the_look_leaves_nothing() {
    for flavour in [Strict, Careless, GitLab] {
        let server = StateServer::start(flavour);
        let place = place(&server);
        let run = place.asleep(&ITEM);
        server.remove_lock();
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(server.lock(), None, "{flavour:?}: {exit}");
        assert_eq!(place.reported()["outcome"], "free", "{flavour:?}: {exit}");
    }
}

#[test]
fn lost_requests_and_answers_are_settled_by_looking_again() {
    for (fault, outcome) in [(Fault::LosesUnlock, "released"), (Fault::LosesUnlockAnswer, "gone")] {
        let server = StateServer::start(Careless);
        let place = place(&server);
        let run = place.asleep(&ITEM);
        server.fault(fault);
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(server.lock(), None, "{fault:?}: {exit}");
        assert_eq!(place.reported()["outcome"], outcome, "{fault:?}: {exit}");
    }
}

/// Guards against a look that leaves a lock of its own: it got the lock and did not hear of it.
#[test]
fn a_look_whose_answer_was_lost_leaves_nothing() {
    for flavour in [Strict, Careless, GitLab] {
        let server = StateServer::start(flavour);
        let place = place(&server);
        let run = place.asleep(&ITEM);
        server.remove_lock();
        server.fault(Fault::LosesLockAnswer);
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(server.lock(), None, "{flavour:?}: {exit}");
        assert_eq!(place.reported()["outcome"], "free", "{flavour:?}: {exit}");
    }
}

/// Guards against a lock of tfguard's own that nobody is told of, and against words of Terraform's that is gone.
#[test]
fn a_look_that_cannot_be_given_back_is_named() {
    let case = |fault: Fault, flavour: Flavour| {
        let server = StateServer::start(flavour);
        let place = place(&server);
        let run = place.asleep(&ITEM);
        let terraforms = server.lock().expect("an apply holds its lock");
        if fault == Fault::FailsUnlocks {
            server.remove_lock();
        }
        server.fault(fault);
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(120);
        let look = server.lock().expect("the look is left");
        assert_eq!(look["Operation"], "tfguard-look", "{fault:?} {flavour:?}: {exit}");
        let id = look["ID"].as_str().unwrap();
        assert!(exit.err().contains(&format!("force-unlock {id}")), "{fault:?} {flavour:?}: {exit}");
        assert!(exit.err().contains("it is tfguard's own"), "{fault:?} {flavour:?}: {exit}");
        let terraforms = terraforms["ID"].as_str().unwrap();
        assert!(!exit.err().contains(&format!("force-unlock {terraforms}")), "{fault:?} {flavour:?}: {exit}");
        let report: Value = serde_json::from_slice(&std::fs::read(place.work().join("report.json")).unwrap()).unwrap();
        let outcomes: Vec<_> = report["other_locks"].as_array().unwrap().iter().map(|lock| &lock["outcome"]).collect();
        let gone: &[&str] = if fault == Fault::FailsUnlocks { &["left"] } else { &["gone", "left"] };
        assert_eq!(outcomes, gone, "{fault:?} {flavour:?}: {exit}");
    };
    // At once: each lasts as long as tfguard's patience.
    std::thread::scope(|scope| {
        for fault in [Fault::FailsUnlocks, Fault::LosesUnlockAnswerAndFails] {
            for flavour in [Strict, Careless] {
                scope.spawn(move || case(fault, flavour));
            }
        }
    });
}

#[test]
fn a_server_that_fails_is_told_of_and_bounded() {
    let faults = [
        (Fault::Silent, "does not answer"),
        (Fault::Status(401), "does not accept the user and password"),
        (Fault::Status(404), "answers 404"),
        (Fault::Status(301), "answers 301"),
        (Fault::Status(500), "answers 500"),
        (Fault::Nonsense, "not by whom"),
    ];
    let case = |fault: Fault, words: &str| {
        let server = StateServer::start(Strict);
        let place = place(&server);
        let run = place.asleep(&ITEM);
        let own = server.lock();
        server.fault(fault);
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(120);
        assert!(exit.err().contains(words), "{fault:?}: {exit}");
        assert_eq!(server.lock(), own, "{fault:?}");
        place.guard.assert_no_process_left(SOON);
    };
    // At once: each lasts as long as tfguard's patience.
    std::thread::scope(|scope| {
        faults.map(|(fault, words)| scope.spawn(move || case(fault, words))).map(|case| case.join().expect("it passes"))
    });
}

#[test]
fn a_run_that_ends_by_itself_makes_no_request() {
    let server = StateServer::start(Strict);
    let place = place(&server);
    place.write("main.tf", QUICK);
    place.guarded(&ITEM, &APPLY).run().expect_code(0);
    place.write("main.tf", SLEEP);
    let run = place.asleep(&ITEM);
    run.signal(nix::sys::signal::SIGTERM);
    run.wait(SOON).expect_code(1);
    assert_eq!(server.lock(), None);
    assert!(server.requests_of_tfguard().is_empty());
}

/// The refused Terraform ends by itself, with its own exit code.
#[test]
fn a_lock_that_was_there_before_stays() {
    let server = StateServer::start(Careless);
    let place = place(&server);
    server.plant_lock(serde_json::to_value(LockInfo::foreign("")).unwrap());
    let before = server.lock();
    place.guarded(&ITEM, &APPLY).run().expect_code(1);
    assert_eq!(server.lock(), before);
    assert!(server.requests_of_tfguard().is_empty());
}

/// Guards against taking the run's own lock for a stranger's: it got it and did not hear so, and its next attempt was
/// refused by what the first had got. Another run's can look the same, so nothing is sent.
#[test]
fn a_lock_that_terraform_ran_into_itself_is_named_and_left_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let server = StateServer::start(Strict);
        let backend = server.backend().replace("retry_max = 0", "retry_max = 1");
        let place = Place::new(&terraform, &backend, QUICK).init();
        server.fault(Fault::LosesLockAnswer);
        let exit = place.guarded(&ITEM, &APPLY).run().expect_code(120);
        assert!(exit.err().contains("Error acquiring the state lock"), "{version}: {exit}");
        let own = server.lock().expect("it is left");
        let id = own["ID"].as_str().unwrap();
        assert!(exit.err().contains(&format!("force-unlock {id}")), "{version}: {exit}");
        assert!(exit.err().contains("all it says fits this run"), "{version}: {exit}");
        assert!(!exit.err().contains("is locked by"), "{version}: {exit}");
        assert_eq!(
            (place.reported()["outcome"].as_str(), &place.reported()["holder"]["ID"]),
            (Some("left"), &own["ID"])
        );
        assert!(server.requests_of_tfguard().is_empty(), "{version}");
    }
}

/// It waits for somebody else's lock, and is killed while it does.
#[test]
fn one_that_was_still_waiting_owns_nothing() {
    let server = StateServer::start(Careless);
    let place = place(&server);
    let version = place.terraform(["version", "-json"]).run().expect_code(0);
    let version: Value = serde_json::from_str(&version.out()).unwrap();
    server.plant_lock(serde_json::to_value(LockInfo::foreign("")).unwrap());
    let run = place.guarded(&ITEM, &["apply", "-auto-approve", "-lock-timeout=10m", "-no-color"]).start();
    server.wait_for_lock(SOON);
    // As like to its own as can be: same machine, same user, same version, made while it runs.
    let mut twin = serde_json::to_value(LockInfo { who: own_name(), ..LockInfo::foreign("") }).unwrap();
    twin["Version"] = version["terraform_version"].clone();
    twin["Created"] = jiff::Timestamp::now().to_string().into();
    server.plant_lock(twin);
    let before = server.lock();
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(120);
    assert_eq!(server.lock(), before, "{exit}");
    assert!(exit.err().contains("-lock-timeout"), "{exit}");
}

/// Guards the lock of a living Terraform of the same user: its request was answered, while that of the one that died was
/// not.
#[test]
fn a_lock_that_another_living_terraform_may_hold_stays() {
    for flavour in [Strict, Careless] {
        let server = StateServer::start(flavour);
        let (place, other) = (place(&server), place(&server));
        server.fault(Fault::Silent);
        let run = place.guarded(&ITEM, &APPLY).start();
        server.wait_for_lock(SOON);
        server.fault(Fault::None);
        let living = other.asleep(&[]);
        let before = server.lock();
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(120);
        assert_eq!(server.lock(), before, "{flavour:?}: {exit}");
        assert!(exit.err().contains("alive on this machine"), "{flavour:?}: {exit}");
        living.signal(nix::sys::signal::SIGTERM);
        living.wait(SOON).expect_code(1);
        assert_eq!(server.lock(), None);
    }
}

/// Guards the lock of a Terraform of the same user that came when those of the script had ended.
#[test]
fn a_lock_that_was_taken_after_the_scripts_terraforms_had_ended_stays() {
    let server = StateServer::start(Careless);
    let (place, other) = (place(&server), place(&server));
    place.write("main.tf", "resource \"terraform_data\" \"quick\" {}\n");
    let apply = format!("{} apply -auto-approve -no-color", place.terraform.display());
    place.write("run.sh", &format!("set -e\n{apply}\n{apply}\necho tested\nexec sleep 600\n"));
    let options = ["--evidence", "item", "--report", "report.json", "--", "bash", "run.sh"];
    let run = place.command(TFGUARD).args(options).start();
    run.wait_for_stdout("tested", SOON);
    let living = other.asleep(&[]);
    let before = server.lock();
    run.signal(nix::sys::signal::SIGTERM);
    let exit = run.wait(SOON).expect_code(130);
    assert_eq!(server.lock(), before, "{exit}");
    living.signal(nix::sys::signal::SIGTERM);
    living.wait(SOON).expect_code(1);
}

/// As Terraform reaches the server, so does tfguard: authority, own certificate, user and password, from both the block
/// and the environment.
#[test]
fn certificates_and_password_are_those_of_terraform() {
    let (server, certificates) = StateServer::start_guarded();
    let block = server.backend().replace(
        "retry_max = 0",
        "retry_max = 0\n    username = \"user\"\n    client_ca_certificate_pem = file(\"ca.pem\")\n",
    );
    // A backend block knows no functions, so the authority is written out.
    let block = block.replace("file(\"ca.pem\")", &format!("<<EOT\n{}EOT", certificates.authority));
    let place = Place::new(&any_terraform(), &block, SLEEP);
    let env = [
        ("TF_HTTP_PASSWORD", "secret"),
        ("TF_HTTP_CLIENT_CERTIFICATE_PEM", certificates.client.as_str()),
        ("TF_HTTP_CLIENT_PRIVATE_KEY_PEM", certificates.key.as_str()),
    ];
    place.terraform(["init", "-input=false"]).envs(env).run().expect_code(0);
    let run = place.guarded(&ITEM, &APPLY).envs(env).start();
    run.wait_for_stdout("asleep", SOON);
    assert!(server.lock().is_some());
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!((server.lock(), place.reported()["outcome"].as_str()), (None, Some("released")), "{exit}");
    assert!(!exit.err().contains("secret"), "{exit}");
}

/// An apply of a plan locks where the plan says, wherever its directory points meanwhile.
#[test]
fn the_lock_of_an_applied_plan_is_on_the_plans_server() {
    let (planned, other) = (StateServer::start(Strict), StateServer::start(Careless));
    let place = place(&planned);
    place.terraform(["plan", "-out=tfplan"]).run().expect_code(0);
    place.write("backend.tf", &other.backend());
    place.terraform(["init", "-reconfigure"]).run().expect_code(0);
    let run = place.guarded(&ITEM, &["apply", "-no-color", "tfplan"]).start();
    run.wait_for_stdout("asleep", SOON);
    assert!(planned.lock().is_some() && other.lock().is_none());
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!((planned.lock(), place.reported()["outcome"].as_str()), (None, Some("released")), "{exit}");
    assert!(other.requests_of_tfguard().is_empty());
}

/// Both of tfguard's processes were killed; the cleanup step finds Terraform alive and how it was started.
#[test]
fn the_cleanup_step_looks_after_it_too() {
    let server = StateServer::start(Strict);
    let hole = BlackHole::start();
    let place = Place::new(&any_terraform(), &server.backend(), &hang_in_apply(&hole)).init();
    let run = place.guarded(&ITEM, &APPLY).new_group().start();
    hole.wait_for_connection(SOON);
    let own = server.lock().expect("an apply holds its lock");
    run.kill_with_supervisor(&place.journal());
    let release = place.command(TFGUARD).args(["release", "--wait", "8s"]);
    let exit = release.env("TFGUARD_EVIDENCE", "item").env("TFGUARD_REPORT", "report.json").run();
    assert_eq!(server.lock(), None, "{exit}");
    assert_eq!(place.reported()["holder"]["ID"], own["ID"], "{exit}");
    place.guard.assert_no_process_left(SOON);
}

/// Between its start and its end, whatever it was doing: its own lock is never left.
#[test]
fn killed_at_any_moment_it_leaves_no_lock() {
    let server = StateServer::start(Strict);
    let place = Place::new(&any_terraform(), &server.backend(), QUICK).init();
    for moment in 0..12 {
        let run =
            place.guarded(&ITEM, &["apply", "-auto-approve", "-replace=terraform_data.quick", "-no-color"]).start();
        // Spread over start, lock, plan, apply, unlock.
        std::thread::sleep(Duration::from_millis(150 + 60 * moment));
        if let Some(child) = place.child() {
            // It may be dead by now.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::SIGKILL);
        }
        let exit = run.wait(SOON);
        assert_eq!(server.lock(), None, "{exit}");
        assert!([Some(0), Some(137)].contains(&exit.code), "{exit}");
        place.guard.assert_no_process_left(SOON);
    }
}

/// Front and supervisor: whoever is left looks after the lock.
#[test]
fn the_lock_is_looked_after_when_the_supervisor_was_killed_first() {
    let server = StateServer::start(Strict);
    let place = place(&server);
    let run = place.asleep(&ITEM);
    place.kill_supervisor();
    run.wait_for_stderr("takes its place", SOON);
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(125);
    assert_eq!((server.lock(), place.reported()["outcome"].as_str()), (None, Some("released")), "{exit}");
}

/// As `gitlab-terraform` does it: the script, not the CI, has the settings, and `init` runs first.
#[test]
fn a_terraform_below_a_script_is_looked_after_with_the_scripts_settings() {
    use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
    for (flavour, killed) in [(Strict, "script"), (GitLab, "script"), (Strict, "terraform"), (Strict, "all")] {
        let server = StateServer::start(flavour);
        let hole = BlackHole::start();
        let place = Place::new(&any_terraform(), "", "");
        std::fs::create_dir(place.work().join("infra")).unwrap();
        place.write("infra/backend.tf", "terraform {\n  backend \"http\" {}\n}\n");
        place.write("infra/main.tf", &hang_in_apply(&hole));
        let settings: String =
            server.settings().iter().map(|(name, value)| format!("export {name}={value}\n")).collect();
        let terraform = place.terraform.display();
        let init = format!("{terraform} -chdir=infra init -no-color");
        let apply = format!("{terraform} -chdir=infra apply -auto-approve -no-color");
        place.write("run.sh", &format!("set -e\n{settings}{init}\n{apply}\n"));
        let options = ["-v", "--evidence", "item", "--grace", "2s", "--report", "report.json", "--", "bash", "run.sh"];
        let run = place.command(TFGUARD).args(options).env("GITLAB_USER_LOGIN", GITLAB_USER).start();
        hole.wait_for_connection(SOON);
        let own = server.lock().expect("an apply holds its lock");
        // A Terraform below a script is accounted for if it was seen while it lived.
        run.wait_for_stderr("below the command is terraform apply", SOON);
        match killed {
            "script" => place.kill_terraform(),
            "terraform" => place.signal_below(" apply ", SIGKILL),
            _ => run.signal(SIGTERM),
        }
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(server.lock(), None, "{flavour:?} {killed}: {exit}");
        assert_eq!(place.reported()["holder"]["ID"], own["ID"], "{flavour:?} {killed}: {exit}");
        place.guard.assert_no_process_left(SOON);
    }
}

/// Guards against silence: it was dead before tfguard could see on which backend it worked.
#[test]
fn a_terraform_below_a_script_that_was_gone_at_once_leaves_a_word() {
    let place = Place::new(Path::new("unset"), "", "");
    for (code, told) in [(137, true), (1, false), (0, false)] {
        let script = format!("echo ready; read go; exit {code}");
        let mut run = place.command(TFGUARD).args(["--", "sh", "-c", &script]).stdin(Stdin::Open).start();
        run.wait_for_stdout("ready", SOON);
        // What the log of such a one has in it. This process is older than the run, so it is not taken for a Terraform.
        let log = place.session().expect("there is a session").join("terraform.log");
        let now = jiff::Timestamp::now().strftime("%FT%T.000Z");
        let records =
            format!("{now} [INFO]  Terraform version: 1.11.4\n{now} [INFO]  backend/local: apply calling Apply\n");
        let mut log = std::fs::File::options().append(true).open(log).unwrap();
        std::io::Write::write_all(&mut log, records.as_bytes()).unwrap();
        drop(log);
        run.write(b"go\n");
        let exit = run.wait(SOON).expect_code(code);
        assert_eq!(exit.err().contains("see whether `terraform plan` is refused the lock there"), told, "{exit}");
    }
}

/// Makes one resource, then hangs until it is killed, and leaves no process behind.
fn hang_in_apply(hole: &BlackHole) -> String {
    let hang = format!(
        "data \"terraform_remote_state\" \"silent\" {{\n  backend = \"http\"\n  config = {{ address = \"{}\" }}\n  \
         depends_on = [terraform_data.quick]\n}}\n",
        hole.url()
    );
    format!("{QUICK}{hang}")
}
