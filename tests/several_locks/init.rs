//! Locks that `init` takes, and those that nobody asked for.

use super::*;

/// Terraform takes a lock before its lock when the selected workspace has no state yet (T: `StateMgr` of the backend).
#[test]
fn the_hidden_lock_of_a_new_workspace_is_released_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = project(Kind::Quick).table().endpoint(proxy.url()).init(&terraform);
        let gate = Gate::new();
        proxy.rule(Match::http("PUT", "fresh"), [gate.hold()]);
        let plan = ["plan", "-input=false", "-no-color"];
        let run = project.tfguard(TFGUARD, ["--report", "report.json"], plan).env("TF_WORKSPACE", "fresh").start();
        gate.wait_for(1, SOON);
        let lock_id = format!("{}/env:/fresh/network/prod.tfstate", project.bucket());
        let lock = project.aws().lock(project.table_name(), &lock_id).expect("Terraform holds the hidden lock");
        assert_eq!(lock["Operation"], "init", "{version}");
        assert_eq!(kill_terraforms(&project), 1);
        gate.release();
        let exit = run.wait(SOON).expect_code(137);
        let expected = ("init".to_owned(), "released".to_owned(), vec!["deleted".to_owned()]);
        assert_eq!(outcomes(&project), [expected], "{version}: {exit}");
        assert_eq!(project.aws().lock(project.table_name(), &lock_id), None, "{version}: {exit}");
    }
}

const MIGRATE: [&str; 5] = ["init", "-migrate-state", "-force-copy", "-input=false", "-no-color"];

/// What the configuration says now.
struct Destination {
    bucket: String,
    table: String,
}

/// A project with a state, configured anew for another store.
fn moving(terraform: &std::path::Path, proxy: &FaultProxy) -> (Project<'static>, Destination) {
    let project = project(Kind::Quick).table().endpoint(proxy.url()).init(terraform);
    project.apply();
    let aws = project.aws();
    let (bucket, table) = (aws.unique("states"), aws.unique("locks"));
    aws.create_bucket(&bucket, false);
    aws.create_table(&table);
    let block = project.work().join("backend.tf");
    let text = std::fs::read_to_string(&block).unwrap();
    let text = text.replace(project.table_name(), &table).replace(project.bucket(), &bucket);
    std::fs::write(&block, text).unwrap();
    (project, Destination { bucket, table })
}

/// Two locks at once, in two stores, of which Terraform is killed. The first one's settings are those that `init` recorded
/// before; the other one's are recorded nowhere until all is over.
#[track_caller]
fn killed_while_it_migrates(terraform: &std::path::Path, proxy: &FaultProxy) -> (Project<'static>, Destination, Exit) {
    let (project, to) = moving(terraform, proxy);
    let gate = Gate::new();
    // The state on its way to the destination: both are locked.
    proxy.rule(Match::http("PUT", &to.bucket), [gate.hold()]);
    let run = in_a_job(project.tfguard(TFGUARD, ["--report", "report.json"], MIGRATE)).start();
    gate.wait_for(1, SOON);
    let source = project.lock().expect("the source is locked");
    assert_eq!(source["Operation"], "migration source state");
    let destination = project.aws().lock(&to.table, &to.lock_id(&project)).expect("the destination is locked");
    assert_eq!(destination["Operation"], "migration destination state");
    let digest = project.aws().digest(project.table_name(), &project.lock_id());
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(120);
    let expected = [
        ("migration source state".to_owned(), "released".to_owned(), vec!["deleted".to_owned()]),
        ("migration destination state".to_owned(), "left".to_owned(), vec![]),
    ];
    assert_eq!(outcomes(&project), expected, "{exit}");
    assert_eq!(project.lock(), None, "{exit}");
    assert_eq!(project.aws().lock(&to.table, &to.lock_id(&project)), Some(destination), "{exit}");
    assert_eq!(project.aws().digest(project.table_name(), &project.lock_id()), digest);
    project.guard().assert_no_process_left(SOON);
    (project, to, exit)
}

impl Destination {
    fn lock_id(&self, project: &Project) -> String {
        project.lock_id().replace(project.bucket(), &self.bucket)
    }
}

fn in_a_job(run: Run) -> Run {
    run.envs([("GITHUB_ACTIONS", "true"), ("GITHUB_RUN_ID", "1"), ("GITHUB_JOB", "init")])
}

/// The other one is named, with a command that removes it once its settings are put in.
#[test]
fn of_the_locks_of_a_migration_the_sources_is_released_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let (project, to, exit) = killed_while_it_migrates(&terraform, &FaultProxy::start(Aws::shared().url()));
        let err = exit.err();
        let named = format!("--bucket {} --key {} --region REGION --table TABLE", to.bucket, project.state_key());
        let command = err.split("was moved to: ").nth(1).and_then(|rest| rest.lines().next()).expect("a command");
        assert!(command.starts_with("tfguard unlock ") && command.ends_with(&named), "{version}: {exit}");
        let command = command.replace("REGION", Aws::REGION).replace("TABLE", &to.table);
        let url = project.aws().url();
        let command = format!("{command} --s3-endpoint {url} --dynamodb-endpoint {url} --path-style");
        project.paste(TFGUARD, &project.work(), &command).expect_code(0);
        assert_eq!(project.aws().lock(&to.table, &to.lock_id(&project)), None, "{version}: {command}");
    }
}

#[test]
fn the_lock_of_a_migrations_destination_is_released_once_its_backend_is_recorded() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let (project, to, _) = killed_while_it_migrates(&terraform(), &proxy);
    let release = || in_a_job(project.command(TFGUARD).args(["release", "--wait", "1m"])).run();
    release().expect_code(120);
    project.terraform(["init", "-reconfigure", "-input=false", "-no-color"]).run().expect_code(0);
    let exit = release().expect_code(0);
    assert_eq!(project.aws().lock(&to.table, &to.lock_id(&project)), None, "{exit}");
}

/// The same bucket, key and table in another place: the settings of before fit, and are not those of the second lock.
#[test]
fn a_migration_to_a_store_with_the_same_names() {
    let there = Aws::start();
    let (here, proxy) = (FaultProxy::start(Aws::shared().url()), FaultProxy::start(there.url()));
    let project = project(Kind::Quick).table().endpoint(here.url()).init(&terraform());
    project.apply();
    there.create_bucket(project.bucket(), false);
    there.create_table(project.table_name());
    let block = project.work().join("backend.tf");
    let text = std::fs::read_to_string(&block).unwrap();
    std::fs::write(&block, text.replace(here.url(), proxy.url())).unwrap();
    let gate = Gate::new();
    proxy.rule(Match::dynamodb("PutItem").body("migration destination"), [Action::Forward, gate.hold()]);
    let run = project.tfguard(TFGUARD, ["--report", "report.json"], MIGRATE).start();
    gate.wait_for(1, SOON);
    let both = || [project.lock(), there.lock(project.table_name(), &project.lock_id())];
    assert!(both().iter().all(Option::is_some), "a lock in each store");
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(120);
    let outcomes: Vec<_> = outcomes(&project).into_iter().map(|(_, outcome, _)| outcome).collect();
    assert_eq!(outcomes, ["released", "left"], "{exit}");
    let [here, there] = both();
    assert_eq!((here, there.is_some()), (None, true), "{exit}");
}

/// The source's lock is in S3, the destination is a file.
#[test]
fn a_killed_state_mv_to_a_file_releases_the_lock_of_its_source() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let project = project(Kind::Quick).table().endpoint(proxy.url()).init(&terraform());
    project.apply();
    let gate = Gate::new();
    proxy.rule(Match::http("PUT", ".tfstate"), [gate.hold()]);
    let mv = ["state", "mv", "-state-out=moved.tfstate", "terraform_data.work", "terraform_data.moved"];
    let run = project.tfguard(TFGUARD, ["--report", "report.json"], mv).start();
    gate.wait_for(1, SOON);
    assert_eq!(project.lock().expect("it holds its lock")["Operation"], "state-mv");
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!(outcomes(&project)[0].1, "released", "{exit}");
    assert_eq!(project.lock(), None, "{exit}");
}
