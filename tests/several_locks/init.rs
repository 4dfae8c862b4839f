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

/// What the configuration says now, and what is left to `-backend-config`.
struct Destination {
    bucket: String,
    table: String,
    args: Vec<String>,
}

/// A project with a state, configured anew for another store, and where its requests can be held.
fn moving(terraform: &std::path::Path, proxy: &FaultProxy, partial: bool) -> (Project<'static>, Destination) {
    let project = project(Kind::Quick).table().endpoint(proxy.url()).init(terraform);
    project.apply();
    let aws = project.aws();
    let (bucket, table) = (aws.unique("states"), aws.unique("locks"));
    aws.create_bucket(&bucket, false);
    aws.create_table(&table);
    let block = project.work().join("backend.tf");
    let text = std::fs::read_to_string(&block).unwrap();
    let mut text = text.replace(project.table_name(), &table).replace(project.bucket(), &bucket);
    let mut args = Vec::new();
    if partial {
        text = text.replace(&format!("dynamodb_table = {table:?}"), "");
        let file = format!("bucket = {bucket:?} # of the team\nuse_path_style = true\n");
        std::fs::write(project.work().join("team.tfbackend"), file).unwrap();
        text = text.replace(&format!("bucket = {bucket:?}"), "").replace("use_path_style = true", "");
        args = vec!["-backend-config=team.tfbackend".to_owned(), format!("-backend-config=dynamodb_table={table}")];
    }
    std::fs::write(&block, text).unwrap();
    (project, Destination { bucket, table, args })
}

/// Two locks at once, in two stores. The old one's settings are those that `init` recorded before; the new one's are
/// recorded nowhere until all is over, only the configuration has them.
#[track_caller]
fn killed_while_it_migrates(terraform: &std::path::Path, partial: bool) {
    let proxy = FaultProxy::start(Aws::shared().url());
    let (project, to) = moving(terraform, &proxy, partial);
    let gate = Gate::new();
    // The state on its way to the destination: both are locked.
    proxy.rule(Match::http("PUT", &to.bucket), [gate.hold()]);
    let args = ["init", "-migrate-state", "-force-copy", "-input=false", "-no-color"].map(str::to_owned);
    let run = project.tfguard(TFGUARD, ["--report", "report.json"], [&args[..], &to.args].concat()).start();
    gate.wait_for(1, SOON);
    let to_id = project.lock_id().replace(project.bucket(), &to.bucket);
    let source = project.lock().expect("the source is locked");
    assert_eq!(source["Operation"], "migration source state");
    let destination = project.aws().lock(&to.table, &to_id).expect("the destination is locked");
    assert_eq!(destination["Operation"], "migration destination state");
    let digest = project.aws().digest(project.table_name(), &project.lock_id());
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(137);
    let released = |operation: &str| (operation.to_owned(), "released".to_owned(), vec!["deleted".to_owned()]);
    assert_eq!(
        outcomes(&project),
        [released("migration source state"), released("migration destination state")],
        "{exit}"
    );
    assert_eq!(project.lock(), None, "{exit}");
    assert_eq!(project.aws().lock(&to.table, &to_id), None, "{exit}");
    assert_eq!(project.aws().digest(project.table_name(), &project.lock_id()), digest);
    project.guard().assert_no_process_left(SOON);
}

#[test]
fn both_locks_of_a_migration_are_released_on_every_version() {
    for (_, terraform) in Tools::get().terraforms() {
        killed_while_it_migrates(&terraform, false);
    }
}

#[test]
fn a_migration_to_settings_of_the_command_line() {
    killed_while_it_migrates(&terraform(), true);
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
    let init = ["init", "-migrate-state", "-force-copy", "-input=false", "-no-color"];
    let run = project.tfguard(TFGUARD, [""; 0], init).start();
    gate.wait_for(1, SOON);
    let both = || [project.lock(), there.lock(project.table_name(), &project.lock_id())];
    assert!(both().iter().all(Option::is_some), "a lock in each store");
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!(exit.err().matches("left by Terraform, deleted by tfguard").count(), 2, "{exit}");
    assert_eq!(both(), [None, None], "{exit}");
}

/// The settings of the destination cannot be known: its lock stays, the other one goes, and people are told.
#[test]
fn a_destination_that_is_not_known_leaves_its_lock() {
    let proxy = FaultProxy::start(Aws::shared().url());
    let (project, to) = moving(&terraform(), &proxy, false);
    let gate = Gate::new();
    proxy.rule(Match::dynamodb("PutItem").body(&to.table), [Action::Forward, gate.hold()]);
    // It has read its configuration when it asks for the source's lock.
    let before = Gate::new();
    proxy.rule(Match::dynamodb("PutItem").body("migration source"), [before.hold()]);
    let init = ["init", "-migrate-state", "-force-copy", "-input=false", "-no-color"];
    let run = project.tfguard(TFGUARD, ["--report", "report.json"], init).start();
    before.wait_for(1, SOON);
    std::fs::write(project.work().join("backend.tf"), "terraform {\n  backend \"s3\" {\n").unwrap();
    before.release();
    gate.wait_for(1, SOON);
    assert_eq!(kill_terraforms(&project), 1);
    let exit = run.wait(SOON).expect_code(120);
    let outcomes = outcomes(&project);
    assert_eq!((outcomes[0].1.as_str(), outcomes[1].1.as_str()), ("released", "left"), "{exit}");
    assert!(exit.err().contains("backend.tf"), "{exit}");
    assert_eq!(project.lock(), None, "{exit}");
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
