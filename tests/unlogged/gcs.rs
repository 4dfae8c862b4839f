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
