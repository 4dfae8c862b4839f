//! Files that the user asks for, in any CI or none.

use super::*;

const VARIABLES: [(&str, &str); 3] =
    [("TFGUARD_DOTENV", "tfguard.env"), ("TFGUARD_JUNIT", "tfguard.xml"), ("TFGUARD_ANNOTATIONS", "tfguard.json")];

fn variable(project: &Project, name: &str) -> String {
    let text = read(&project.work().join("tfguard.env"));
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("TFGUARD_RESULT_{name}=")));
    line.unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
}

/// The failures of the test report, and how many tests it has.
fn failures(project: &Project) -> (Vec<String>, usize) {
    let text = read(&project.work().join("tfguard.xml"));
    let document = roxmltree::Document::parse(&text).expect("a test report is XML");
    let named = |name: &'static str| document.descendants().filter(move |node| node.has_tag_name(name));
    (named("failure").map(|node| node.text().unwrap().to_owned()).collect(), named("testcase").count())
}

fn links(project: &Project) -> Vec<Value> {
    let mut text: Value = serde_json::from_str(&read(&project.work().join("tfguard.json"))).unwrap();
    serde_json::from_value(text["tfguard"].take()).unwrap()
}

#[test]
fn they_tell_of_a_lock_that_is_left_and_then_released() {
    let (proxy, project) = denying();
    // As GitLab's runner makes them: later jobs and the job's page read what is there at the end.
    let job = |run: Run| {
        run.envs(VARIABLES).envs([("GITLAB_CI", "true"), ("CI_JOB_ID", "1"), ("CI_JOB_URL", "https://gitlab/-/jobs/1")])
    };
    let (exit, id) = killed_apply(&project, &[], job);
    exit.expect_code(120);
    assert_eq!(variable(&project, "OUTCOME"), "left");
    assert_eq!(variable(&project, "LOCK_LEFT"), "true");
    assert_eq!(variable(&project, "LOCK_ID"), id);
    assert_eq!(variable(&project, "LOCK_IDS"), id);
    let (failed, tests) = failures(&project);
    assert_eq!((failed.len(), tests), (1, 1), "{failed:?}");
    assert!(failed[0].contains(&id) && failed[0].contains("tfguard unlock"), "{failed:?}");
    let [link] = &links(&project)[..] else { panic!("one link: {:?}", links(&project)) };
    assert_eq!(link["external_link"]["url"], "https://gitlab/-/jobs/1");
    assert!(link["external_link"]["label"].as_str().unwrap().contains(&id), "{link}");

    proxy.clear_rules();
    job(project.command(TFGUARD).arg("release")).run().expect_code(0);
    assert_eq!(variable(&project, "OUTCOME"), "released");
    assert_eq!(failures(&project), (vec![], 1));
    assert_eq!(links(&project).len(), 1);

    job(project.command(TFGUARD).arg("release")).run().expect_code(0);
    assert_eq!(variable(&project, "OUTCOME"), "released", "a cleanup step without work writes nothing");
}

/// The state is blocked by what is left of a lock whose other half could be deleted.
#[test]
fn a_lock_of_which_half_is_left_is_left() {
    let (proxy, project) = denying_to(Project::lockfile);
    let (exit, id) = killed_apply(&project, &[], |run| run.envs(VARIABLES));
    let exit = exit.expect_code(120);
    assert_eq!((project.lock_in_bucket(), project.lock().is_some()), (None, true));
    assert_eq!([variable(&project, "OUTCOME"), variable(&project, "LOCK_ID")], ["left".to_owned(), id]);
    assert!(exit.err().contains(&format!("DynamoDB table {}", project.table_name())), "{exit}");
    proxy.clear_rules();
    project.command(TFGUARD).arg("release").envs(VARIABLES).run().expect_code(0);
    assert_eq!(project.lock(), None);
    assert_eq!(variable(&project, "OUTCOME"), "released");
}

#[test]
fn an_ordinary_run_writes_them_too() {
    let project = project(Kind::Quick);
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).envs(VARIABLES).run().expect_code(0);
    assert_eq!(exit.err(), "");
    assert_eq!(variable(&project, "OUTCOME"), "unlocked");
    assert_eq!(variable(&project, "LOCK_LEFT"), "false");
    assert_eq!(failures(&project), (vec![], 1));
    assert_eq!(links(&project), [Value::Null; 0]);
    // What takes no lock has nothing to say of locks, and leaves what is there.
    project.tfguard(TFGUARD, [""; 0], ["output"]).envs(VARIABLES).run().expect_code(0);
    assert_eq!(variable(&project, "OUTCOME"), "unlocked");
}

/// Several runs of one job end in one cleanup step: the worst counts.
#[test]
fn a_cleanup_step_writes_of_all_runs_at_once() {
    let project = project(Kind::Quick);
    let job = |run: Run| run.envs(VARIABLES).envs([("CI", "true")]);
    for _ in 0..2 {
        let run = job(project.command(TFGUARD).args(["--", "sh", "-c", "echo ready; exec sleep 600"])).start();
        run.wait_for_stdout("ready", SOON);
        run.signal(SIGKILL);
        run.wait(SOON).expect_signal(SIGKILL);
    }
    job(project.command(TFGUARD).arg("release")).run().expect_code(0);
    assert_eq!(variable(&project, "OUTCOME"), "none");
    assert_eq!(failures(&project), (vec![], 2), "a test for each run");
}

#[test]
fn one_that_cannot_be_written_is_a_warning() {
    let project = project(Kind::Quick);
    for (option, name) in [("--dotenv", "gone/a"), ("--junit", "."), ("--annotations", "/dev/null")] {
        let run = project.command(TFGUARD).args([option, name, "--", "sh", "-c", "exit 3"]);
        let exit = run.run().expect_code(3);
        assert!(exit.err().contains("warning: cannot write") && exit.err().contains(option), "{exit}");
    }
}
