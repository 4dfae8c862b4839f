//! The `gcs` backend, whose locks are known by their generation: a second Terraform says who has it, and Terraform's
//! own unlock releases it.

use super::*;

const ITEM: [&str; 2] = ["--evidence", "item"];

fn place(server: &GcsServer) -> Place {
    Place::new(&any_terraform(), &server.backend(), SLEEP).init()
}

/// What `force-unlock` sends to remove the lock.
fn deletes(server: &GcsServer) -> Vec<String> {
    server.requests().into_iter().filter(|request| request.method == "DELETE").map(|request| request.target).collect()
}

#[test]
fn the_lock_of_a_killed_terraform_is_released_by_its_generation_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let server = GcsServer::start();
        let place = Place::new(&terraform, &server.backend(), SLEEP).init();
        let run = place.asleep(&ITEM);
        let (generation, own) = server.lock().expect("an apply holds its lock");
        let state = server.state();
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(server.lock(), None, "{version}: {exit}");
        assert_eq!(place.reported()["outcome"], "released", "{version}: {exit}");
        assert_eq!(place.reported()["holder"]["ID"], generation.as_str(), "{version}");
        assert_eq!(place.reported()["holder"]["Created"], own["Created"], "{version}");
        assert!(deletes(&server).last().unwrap().contains(&format!("ifGenerationMatch={generation}")), "{version}");
        assert_eq!(server.state(), state, "{version}: neither look nor unlock writes the state");
        place.guard.assert_no_process_left(SOON);
    }
}

/// Guards the promise that a look which gets the lock changes nothing: state object, its generation, directory.
#[test]
fn a_look_that_gets_the_lock_gives_it_back_and_changes_nothing_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let server = GcsServer::start();
        let place = Place::new(&terraform, &server.backend(), QUICK).init();
        place.terraform(APPLY).run().expect_code(0);
        place.write("main.tf", &format!("{QUICK}{SLEEP}"));
        let run = place.asleep(&ITEM);
        let (generation, _) = server.lock().unwrap();
        place.terraform(["force-unlock", "-force", &generation]).run().expect_code(0);
        assert_eq!(server.lock(), None);
        let (state, files, before) = (server.state(), files(&place), server.requests().len());
        assert!(state.is_some());
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(place.reported()["outcome"], "free", "{version}: {exit}");
        assert_eq!((server.lock(), server.state()), (None, state), "{version}");
        let since = &server.requests()[before..];
        let count = |method: &str| since.iter().filter(|request| request.method == method).count();
        assert_eq!((count("POST"), count("DELETE")), (1, 1), "{version}: only the lock was made and deleted");
        assert_eq!(self::files(&place), files, "{version}");
    }
}

/// The files of the directory, with their content.
fn files(place: &Place) -> Vec<(PathBuf, Vec<u8>)> {
    let mut dirs = vec![place.work()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if !path.ends_with("report.json") {
                files.push((path.clone(), std::fs::read(path).expect("a file can be read")));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn by_default_it_is_left_and_named_with_its_generation() {
    let server = GcsServer::start();
    let place = place(&server);
    let run = place.asleep(&[]);
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(120);
    let (generation, own) = server.lock().expect("it is left");
    assert!(exit.err().contains(&format!("force-unlock {generation}")), "{exit}");
    assert!(exit.err().contains(own["Who"].as_str().unwrap()) && exit.err().contains("--evidence item"), "{exit}");
}

#[test]
fn a_foreign_lock_in_its_place_is_not_touched() {
    let server = GcsServer::start();
    let place = place(&server);
    let run = place.asleep(&ITEM);
    server.plant_lock(&serde_json::to_value(LockInfo::foreign("")).unwrap());
    let (foreign, before) = (server.lock(), deletes(&server).len());
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!((server.lock(), deletes(&server).len()), (foreign, before), "{exit}");
    assert!(exit.err().contains("somebody else's, not touched"), "{exit}");
}

#[test]
fn on_death_keeps_it_where_it_is_told_to() {
    let server = GcsServer::start();
    let place = place(&server);
    let run = place.asleep(&["--evidence", "item", "--on-death", "keep"]);
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(137);
    assert!(server.lock().is_some() && exit.err().contains("as --on-death says"), "{exit}");
}

/// Guards the lock of a Terraform of the same user that came when those of the script had ended.
#[test]
fn a_lock_that_was_taken_after_the_scripts_terraforms_had_ended_stays() {
    let server = GcsServer::start();
    let (place, other) = (place(&server), place(&server));
    place.write("main.tf", "resource \"terraform_data\" \"quick\" {}\n");
    let apply = "terraform apply -auto-approve -no-color";
    let path = format!("{}:{}", place.terraform.parent().unwrap().display(), std::env::var("PATH").unwrap());
    place.write("run.sh", &format!("set -e\n{apply}\n{apply}\necho tested\nexec sleep 600\n"));
    let options = ["--evidence", "item", "--report", "report.json", "--", "bash", "run.sh"];
    let run = place.command(TFGUARD).args(options).env("PATH", path).start();
    run.wait_for_stdout("tested", SOON);
    let living = other.asleep(&[]);
    let before = server.lock();
    run.signal(nix::sys::signal::SIGTERM);
    let exit = run.wait(SOON).expect_code(130);
    assert_eq!(server.lock(), before, "{exit}");
    living.signal(nix::sys::signal::SIGTERM);
    living.wait(SOON).expect_code(1);
}

/// Both of tfguard's processes were killed; the cleanup step finds Terraform alive and how it was started.
#[test]
fn the_cleanup_step_looks_after_it_too() {
    let server = GcsServer::start();
    let hole = BlackHole::start();
    let place = Place::new(&any_terraform(), &server.backend(), &hang_in_apply(&hole)).init();
    let run = place.guarded(&ITEM, &APPLY).new_group().start();
    hole.wait_for_connection(SOON);
    let (generation, _) = server.lock().expect("an apply holds its lock");
    run.kill_with_supervisor(&place.journal());
    let release = place.command(TFGUARD).args(["release", "--wait", "8s"]);
    let exit = release.env("TFGUARD_EVIDENCE", "item").env("TFGUARD_REPORT", "report.json").run();
    assert_eq!(server.lock(), None, "{exit}");
    assert_eq!(place.reported()["holder"]["ID"], generation.as_str(), "{exit}");
    place.guard.assert_no_process_left(SOON);
}

/// Between its start and its end, whatever it was doing: its own lock is never left.
#[test]
fn killed_at_any_moment_it_leaves_no_lock() {
    let server = GcsServer::start();
    let place = Place::new(&any_terraform(), &server.backend(), QUICK).init();
    let judged = |moment: u64| {
        let run =
            place.guarded(&ITEM, &["apply", "-auto-approve", "-replace=terraform_data.quick", "-no-color"]).start();
        // Spread over start, lock, plan, apply, unlock.
        std::thread::sleep(Duration::from_millis(150 + 60 * moment));
        if let Some(child) = place.child() {
            // It may be dead by now.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::SIGKILL);
        }
        let exit = run.wait(SOON);
        place.guard.assert_no_process_left(SOON);
        let Some((generation, _)) = server.lock().filter(|_| exit.err().contains(RIVAL)) else { return Some(exit) };
        assert!(exit.code == Some(120) && exit.err().contains(&generation), "{exit}");
        place.terraform(["force-unlock", "-force", &generation]).run().expect_code(0);
        None
    };
    for moment in 0..12 {
        let exit = (0..20).find_map(|_| judged(moment)).expect("a rival each time");
        assert_eq!(server.lock(), None, "{exit}");
        assert!([Some(0), Some(137)].contains(&exit.code), "{exit}");
    }
}

/// Front and supervisor: whoever is left looks after the lock.
#[test]
fn the_lock_is_looked_after_when_the_supervisor_was_killed_first() {
    let server = GcsServer::start();
    let place = place(&server);
    let run = place.asleep(&ITEM);
    place.kill_supervisor();
    run.wait_for_stderr("takes its place", SOON);
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(125);
    assert_eq!((server.lock(), place.reported()["outcome"].as_str()), (None, Some("released")), "{exit}");
}

/// The script, not the CI, has the credentials, and `init` runs first.
#[test]
fn a_terraform_below_a_script_is_looked_after_with_the_scripts_settings() {
    use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
    for killed in ["script", "terraform", "all"] {
        let server = GcsServer::start();
        let hole = BlackHole::start();
        let place = Place::new(&any_terraform(), "", "");
        std::fs::create_dir(place.work().join("infra")).unwrap();
        place.write("infra/backend.tf", &server.backend().replace("access_token = \"x\"", ""));
        place.write("infra/main.tf", &hang_in_apply(&hole));
        let init = "terraform -chdir=infra init -no-color";
        let apply = "terraform -chdir=infra apply -auto-approve -no-color";
        let path = format!("{}:{}", place.terraform.parent().unwrap().display(), std::env::var("PATH").unwrap());
        place.write("run.sh", &format!("set -e\nexport GOOGLE_OAUTH_ACCESS_TOKEN=x\n{init}\n{apply}\n"));
        let options = ["-v", "--evidence", "item", "--grace", "2s", "--report", "report.json", "--", "bash", "run.sh"];
        let run = place.command(TFGUARD).args(options).env("PATH", path).start();
        hole.wait_for_connection(SOON);
        let (generation, _) = server.lock().expect("an apply holds its lock");
        match killed {
            "script" => place.kill_terraform(),
            "terraform" => place.signal_below(" apply ", SIGKILL),
            _ => run.signal(SIGTERM),
        }
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(server.lock(), None, "{killed}: {exit}");
        assert_eq!(place.reported()["holder"]["ID"], generation.as_str(), "{killed}: {exit}");
        place.guard.assert_no_process_left(SOON);
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
