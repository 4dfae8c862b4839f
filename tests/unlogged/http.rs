//! The `http` backend, whose unlock does not say which lock it means: tfguard says who has the lock, and leaves it.

use super::*;
use Flavour::{Careless, GitLab};

const ITEM: [&str; 2] = ["--evidence", "item"];

fn place(server: &StateServer) -> Place {
    Place::new(&any_terraform(), &server.backend(), SLEEP).init()
}

/// Terraform before 1.15 shows of the lock only the ID, and GitLab shows the asker's words.
#[test]
fn the_lock_of_a_killed_terraform_is_told_and_left_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
        for (flavour, words) in [(Careless, "all it says fits this run"), (GitLab, "as GitLab does")] {
            let server = StateServer::start(flavour);
            let place = Place::new(&terraform, &server.backend(), SLEEP).init();
            let run = place.asleep(&ITEM);
            let own = server.lock().expect("an apply holds its lock");
            place.kill_terraform();
            let exit = run.wait(SOON).expect_code(120);
            assert_eq!(server.lock().as_ref(), Some(&own), "{version} {flavour:?}: {exit}");
            assert_eq!(server.unlocks(), 0, "{version} {flavour:?}: {exit}");
            let id = own["ID"].as_str().unwrap();
            let command = format!("terraform -chdir={} force-unlock {id}", place.work().display());
            let next = format!(
                "once you are sure that this is the lock of this run and that nothing of it is alive, run: {command} (it \
                 opens whatever lock is there then)"
            );
            assert!(exit.err().contains(&next), "{version} {flavour:?}: {exit}");
            let words = if minor < 15 { "show only the ID" } else { words };
            assert!(exit.err().contains(words), "{version} {flavour:?}: {exit}");
            let reported = place.reported();
            assert_eq!((&reported["outcome"], &reported["holder"]["ID"]), (&"left".into(), &own["ID"]), "{version}");
            assert_eq!(reported["command"], command, "{version} {flavour:?}");
            place.guard.assert_no_process_left(SOON);
        }
    }
}

/// What may be another run's lock is shown to people only.
#[test]
fn scripts_are_not_told_the_id_of_a_lock_that_may_be_somebody_elses() {
    for flavour in [Careless, GitLab] {
        let server = StateServer::start(flavour);
        let place = place(&server);
        place.write("outputs", "");
        let run = place.guarded(&["--dotenv", "tfguard.env"], &APPLY);
        let run = run.env("GITHUB_ACTIONS", "true").env("GITHUB_OUTPUT", place.work().join("outputs")).start();
        run.wait_for_stdout("asleep", SOON);
        let own = server.lock().expect("an apply holds its lock");
        let id = own["ID"].as_str().unwrap();
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(120);
        assert!(exit.err().contains(&format!("force-unlock {id}")), "{exit}");
        for name in ["tfguard.env", "outputs"] {
            let told = std::fs::read_to_string(place.work().join(name)).unwrap();
            assert!(told.contains("left") && !told.contains(id), "{flavour:?} {name}: {told}");
        }
    }
}

#[test]
fn the_settings_of_the_environment_count_too() {
    let server = StateServer::start(Careless);
    let place = Place::new(&any_terraform(), "terraform {\n  backend \"http\" {}\n}\n", SLEEP);
    place.terraform(["init", "-input=false"]).envs(server.settings()).run().expect_code(0);
    let run = place.guarded(&ITEM, &APPLY).envs(server.settings()).start();
    run.wait_for_stdout("asleep", SOON);
    let own = server.lock().expect("an apply holds its lock");
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(120);
    assert_eq!(place.reported()["holder"]["ID"], own["ID"], "{exit}");
}

#[test]
fn a_look_that_gets_the_lock_gives_it_back() {
    for flavour in [Careless, GitLab] {
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

/// Guards against a lock of tfguard's own that is told as a stranger's: the look got it and did not hear so.
#[test]
fn a_look_that_ran_into_itself_is_named() {
    let server = StateServer::start(Careless);
    let backend = server.backend().replace("retry_max = 0", "retry_max = 1");
    let place = Place::new(&any_terraform(), &backend, SLEEP).init();
    let run = place.asleep(&ITEM);
    server.remove_lock();
    server.lose_the_next_locks_answer();
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(120);
    let look = server.lock().expect("the look is left");
    assert_eq!(look["Operation"], "untaint", "{exit}");
    assert!(exit.err().contains("tfguard's own look"), "{exit}");
    assert!(exit.err().contains(&format!("force-unlock {}", look["ID"].as_str().unwrap())), "{exit}");
}

/// What has no address to give a lock back by would keep that of a look.
#[test]
fn where_no_lock_can_be_given_back_there_is_no_look() {
    let server = StateServer::start(Careless);
    let backend = server.backend().replace("unlock_address", "# unlock_address");
    let place = Place::new(&any_terraform(), &backend, SLEEP).init();
    let run = place.asleep(&ITEM);
    server.remove_lock();
    place.kill_terraform();
    run.wait(SOON).expect_code(137);
    assert_eq!(server.lock(), None);
}

/// Guards against taking the run's own lock for a stranger's: it got it and did not hear so, and its next attempt was
/// refused by what the first had got. Another run's can look the same, so nothing is sent.
#[test]
fn a_lock_that_terraform_ran_into_itself_is_named_and_left_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let server = StateServer::start(Careless);
        let backend = server.backend().replace("retry_max = 0", "retry_max = 1");
        let place = Place::new(&terraform, &backend, QUICK).init();
        let tried = (0..20).find_map(|_| {
            server.remove_lock();
            server.lose_the_next_locks_answer();
            let exit = place.guarded(&ITEM, &APPLY).run();
            (!exit.err().contains(RIVAL)).then_some(exit)
        });
        let exit = tried.expect("a rival each time").expect_code(120);
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
    }
}

/// An apply of a plan locks where the plan says, wherever its directory points meanwhile.
#[test]
fn the_lock_of_an_applied_plan_is_not_looked_for_on_another_server() {
    let (planned, other) = (StateServer::start(Careless), StateServer::start(Careless));
    for moved in [false, true] {
        let place = place(&planned);
        place.terraform(["plan", "-out=tfplan"]).run().expect_code(0);
        if moved {
            place.write("backend.tf", &other.backend());
            place.terraform(["init", "-reconfigure"]).run().expect_code(0);
        }
        let run = place.guarded(&ITEM, &["apply", "-no-color", "tfplan"]).start();
        run.wait_for_stdout("asleep", SOON);
        let own = planned.lock().expect("an apply holds its lock");
        assert_eq!(other.lock(), None);
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(120);
        let told = if moved { "another backend than its directory" } else { own["ID"].as_str().unwrap() };
        assert!(exit.err().contains(told), "{exit}");
        assert_eq!(planned.lock(), Some(own), "{exit}");
        planned.remove_lock();
    }
}
