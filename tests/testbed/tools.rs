//! Tools are made once.

use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crate::support::{Guard, Product, Run, Tools};

#[test]
fn a_tool_is_made_once_also_after_an_attempt_that_was_killed() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    // What a killed attempt leaves.
    let left = dir.path().join("tool-1.partial");
    fs::create_dir_all(left.join("half")).expect("a directory can be made");
    let (made, start) = (AtomicU32::new(0), Barrier::new(4));
    let make = || {
        // As four processes: each locks a file it opened itself.
        let tools = Tools::at(dir.path().to_owned());
        start.wait();
        let path = tools.make("tool", "1".to_owned(), |aside, last| {
            made.fetch_add(1, Ordering::Relaxed);
            assert!(!aside.join("half").exists());
            assert!(!last.exists());
            // What the killed one had started may go on for a while, where it began.
            fs::create_dir_all(left.join("late")).expect("a directory can be made");
            fs::write(aside.join("whole"), "").map_err(|error| error.to_string())
        });
        let path = path.expect("it can be made");
        assert!(path.join("whole").exists() && !path.join("late").exists());
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(make))));
    assert_eq!(made.into_inner(), 1);
    let failed = Tools::at(dir.path().to_owned()).make("other", "1".to_owned(), |_, _| Err("no network".to_owned()));
    assert_eq!(failed, Err("no network".to_owned()));
    assert!(!dir.path().join("other-1").exists());
}

/// Guards against one that only runs where it was built, or that tells the version of a development build.
#[test]
fn every_program_that_is_built_tells_its_version() {
    for product in [Product::OpenTofu, Product::Terraform, Product::Terragrunt, Product::Act, Product::Versitygw] {
        for (version, program) in Tools::get().programs(product) {
            let run = Run::new(&program, &Guard::new()).arg("--version");
            let said = run.envs([("HOME", "/nonexistent"), ("CHECKPOINT_DISABLE", "1")]).run().expect_code(0).out();
            // Not always in the first line: OpenTofu warns of a configuration file that it cannot read.
            let tells = |line: &str| line.strip_suffix(version).is_some_and(|before| before.ends_with([' ', 'v']));
            assert!(said.lines().any(tells), "{product} {version}: {said}");
        }
    }
}
