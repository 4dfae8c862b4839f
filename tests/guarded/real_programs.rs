//! What is promised of locks, on the real OpenTofu and the real Terraform up to 1.8: each version that was built, with each kind
//! of lock it has. What is tried is in `matrix`, which tries more of it on all that can be had.

use nix::sys::signal::Signal::SIGTERM;

use super::matrix::cells;
use super::*;

type Case = super::matrix::Case<'static>;

#[test]
fn an_ordinary_run_is_left_alone() {
    Case::each(|case| {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = case.project(Kind::Quick).endpoint(proxy.url()).init(&case.program);
        // On a machine that is out of breath the lock may be held long enough for its holder to be written beside it.
        let exit = project.tfguard(TFGUARD, ["--no-annotate"], APPLY).run().expect_code(0);
        assert!(exit.out().contains("Apply complete! Resources: 1 added"), "{case}: {exit}");
        assert_eq!(exit.err(), "", "{case}");
        assert_eq!(project.state().expect("a state")["terraform_version"], case.version);
        // Those do not log that they have released a lock.
        let looks = case.product == Product::Terraform && (6..10).contains(&case.minor());
        let asked = proxy.seen().iter().any(|seen| seen.header("user-agent").is_some_and(|a| a.contains(OUR_AGENT)));
        assert!(!asked || looks, "{case}");
        case.assert_clean(&project);
    });
}

#[test]
fn the_lock_of_a_killed_program_is_deleted_or_named() {
    Case::each(cells::killed);
}

#[test]
fn a_program_that_is_stopped_releases_its_own_lock() {
    Case::each(cells::stopped);
}

#[test]
fn a_lock_that_was_there_before_stays() {
    Case::each(cells::foreign_before);
}

#[test]
fn a_lock_that_took_the_place_of_the_programs_stays() {
    Case::each(cells::foreign_swapped_in);
}

#[test]
fn the_lock_of_an_opentofu_that_is_called_terraform_is_deleted_or_named() {
    Case::each(|case| {
        if case.product != Product::OpenTofu {
            return;
        }
        cells::called_terraform(case);
        if case.is_logged() {
            return;
        }
        // Where nothing is logged, one of another version cannot be ours.
        let dir = tempfile::tempdir().expect("a directory can be made");
        let terraform = dir.path().join("terraform");
        std::os::unix::fs::symlink(&case.program, &terraform).expect("a link can be made");
        let project = case.project(Kind::Sleep).init(&terraform);
        let run = case.asleep(&project, &[]);
        let own = case.lock(&project).expect("it is locked");
        let lock = LockInfo { version: "1.2.3".to_owned(), ..own };
        case.plant(&project, &lock);
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(137);
        assert!(!exit.err().contains(&format!("tfguard unlock {}", lock.id)), "{case}: {exit}");
        assert_eq!(case.lock(&project), Some(lock), "{case}: {exit}");
    });
}

/// A guard of its own knows the directory, the log and the level that its program needs.
#[test]
fn below_a_script_that_changes_its_directory_each_is_learned_as_by_itself() {
    Case::each(cells::below_a_script);
}

/// The lock is of a state that neither the directory nor the environment names.
#[test]
fn the_lock_of_a_killed_workspace_command_is_deleted_or_named() {
    Case::each(|case| {
        for word in ["new", "delete"] {
            let Blue { run, project, lock, _held } = case.working_on_blue(word, &["--report", "report.json"]);
            kill(pid_of(&journal(&project)["child"]["id"]));
            let exit = run.wait(SOON).expect_code(if case.is_logged() { 137 } else { 120 });
            let report = report(&project);
            assert_eq!(report["locks"][0]["id"], lock.id, "{case}, {word}: {exit} {report}");
            if !case.is_logged() {
                let command =
                    exit.err().split("run: ").nth(1).and_then(|step| step.lines().next()).expect("a step").to_owned();
                assert!(command.starts_with(&format!("tfguard unlock {} ", lock.id)), "{case}, {word}: {exit}");
                project.paste(TFGUARD, &project.work(), &command).expect_code(0);
                // It looks before it repeats what is not so any more.
                let exit = project.command(TFGUARD).args(["release"]).run().expect_code(0);
                assert!(exit.err().contains("not there any more"), "{case}, {word}: {exit}");
            }
            assert_eq!(case.lock_of(&project, &blue(&project)), None, "{case}, {word}: {exit}");
            assert_eq!(sessions(&project), [""; 0].map(PathBuf::from), "{case}, {word}");
        }
    });
}

/// Wherever a lock can be left that no log names, also when nobody is left who knows what was run.
#[test]
fn evidence_item_holds_for_workspace_commands_and_in_the_cleanup_step() {
    Case::each(|case| {
        for all in [false, true].into_iter().filter(|_| !case.is_logged()) {
            // Another test's Terraform of which nobody can tell what it locks, such as one that migrates, stands in the way.
            let tried = (0..20).find(|_| {
                let Blue { run, project, _held, .. } = case.working_on_blue("new", &["-v", "--evidence", "item"]);
                run.wait_for_stderr("looked at the state's lock", SOON);
                let journal = project.wait_for_journal(SOON, |journal| journal["intent"]["baseline"] != "unknown");
                let child = pid_of(&journal["child"]["id"]);
                // On a machine that is out of breath the look comes when the lock is taken.
                if journal["intent"]["baseline"] != "absent" {
                    kill(child);
                    run.wait(SOON);
                    return false;
                }
                let exit = if all {
                    run.kill_with_supervisor(&journal);
                    kill(child);
                    project.command(TFGUARD).args(["release"]).env("TFGUARD_EVIDENCE", "item").run()
                } else {
                    kill(child);
                    run.wait(SOON)
                };
                if exit.err().contains("one that is alive on this machine may hold it") {
                    return false;
                }
                assert_eq!(case.lock_of(&project, &blue(&project)), None, "{case}, all {all}: {exit}");
                assert_eq!(exit.code, Some(if all { 0 } else { 137 }), "{case}: {exit}");
                assert!(exit.err().contains("judged by the lock's own text"), "{case}, all {all}: {exit}");
                true
            });
            assert!(tried.is_some(), "{case}: a rival each time");
        }
    });
}

/// A guarded command that waits under the lock of the workspace [`BLUE`].
struct Blue {
    run: Running,
    project: Project<'static>,
    lock: LockInfo,
    _held: (Gate, FaultProxy),
}

/// A workspace by which forty base64 characters stand in a row in the path of its state, which OpenTofu masks in its log.
const BLUE: &str = "bluebluebluebluebluebluebl";

/// `<bucket>/<key>` of its state.
fn blue(project: &Project) -> String {
    format!("{}/env:/{BLUE}/{}", project.bucket(), project.state_key())
}

impl Case {
    fn lock_of(&self, project: &Project, lock_id: &str) -> Option<LockInfo> {
        let aws = project.aws();
        let lock = if self.lockfile { aws.lockfile(lock_id) } else { aws.lock(project.table_name(), lock_id) };
        lock.map(|lock| serde_json::from_value(lock).expect("it is as Terraform writes it"))
    }

    /// A guarded `workspace new` or `delete` that waits.
    fn working_on_blue(&self, word: &str, options: &[&str]) -> Blue {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = self.project(Kind::Quick).endpoint(proxy.url()).init(&self.program);
        if word == "delete" {
            project.terraform(["workspace", "new", BLUE]).run().expect_code(0);
            project.terraform(["workspace", "select", "default"]).run().expect_code(0);
        }
        let gate = Gate::new();
        let rule = match word {
            // Before it deletes anything it unlocks.
            "delete" => Match::http("GET", &format!("{BLUE}/network/prod.tfstate")).nth(1),
            // The first is the lockfile.
            _ => Match::http("PUT", &format!("{BLUE}/network/prod.tfstate")).nth(if self.lockfile { 2 } else { 1 }),
        };
        proxy.rule(rule, [gate.hold()]);
        let run = project.tfguard(TFGUARD, options, ["workspace", word, BLUE]).new_group().start();
        gate.wait_for(1, SOON);
        let lock = self.lock_of(&project, &blue(&project)).unwrap_or_else(|| panic!("{self}: {word} holds its lock"));
        Blue { run, project, lock, _held: (gate, proxy) }
    }
}

/// It was told no: another run of this very user and machine was quicker, and lives.
#[test]
fn a_living_strangers_lock_is_not_taken_for_that_of_a_run_that_was_refused_it() {
    Case::each(|case| {
        for both in [false, true] {
            if both && !case.lockfile {
                continue;
            }
            let proxy = FaultProxy::start(Aws::shared().url());
            let project = case.project(Kind::Quick).endpoint(proxy.url());
            let project = if both { project.table() } else { project }.init(&case.program);
            let gate = Gate::new();
            let attempt = match case.lockfile {
                true => Match::http("PUT", "prod.tfstate.tflock").nth(1),
                false => Match::dynamodb("PutItem").body("attribute_not_exists").nth(1),
            };
            proxy.rule(attempt, [gate.hold()]);
            let run = project.tfguard(TFGUARD, ["--report", "report.json"], APPLY).new_group().start();
            gate.wait_for(1, SOON);
            let stranger = LockInfo {
                operation: "OperationTypeApply".to_owned(),
                who: own_name(),
                version: case.version.to_owned(),
                created: jiff::Timestamp::now().to_string(),
                ..LockInfo::foreign(&project.lock_id())
            };
            case.plant(&project, &stranger);
            if both {
                project.aws().plant_lock(project.table_name(), &stranger);
            }
            run.signal(SIGTERM);
            project.wait_for_journal(SOON, |journal| journal["account"]["interrupt"].is_object());
            gate.release();
            let exit = run.wait(SOON).expect_code(1);
            assert!(exit.err().contains("Error acquiring the state lock"), "{case}: {exit}");
            for no in ["NOT released", "--evidence item"] {
                assert!(!exit.err().contains(no), "{case}: {exit}");
            }
            assert_eq!(report(&project)["lock_left"], false, "{case}: {exit}");
            assert_eq!(case.lock(&project), Some(stranger), "{case}: {exit}");
            assert_eq!(sessions(&project), [""; 0].map(PathBuf::from), "{case}: {exit}");
        }
    });
}

/// The holder that every Terraform writes here.
fn own_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    format!("{user}@{}", nix::unistd::gethostname().unwrap().to_str().unwrap())
}

/// From a file to S3: nothing is recorded of the new place before all is over.
#[test]
fn a_killed_migration_from_a_file_leaves_no_lock_unsaid() {
    Case::each(|case| {
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = case.project(Kind::Quick).endpoint(proxy.url()).init(&case.program);
        let (block, aside) = (project.work().join("backend.tf"), project.work().join("backend.aside"));
        std::fs::rename(&block, &aside).unwrap();
        std::fs::remove_dir_all(project.work().join(".terraform")).unwrap();
        project.terraform(["init", "-input=false"]).run().expect_code(0);
        project.apply();
        std::fs::rename(&aside, &block).unwrap();
        let gate = Gate::new();
        proxy.rule(Match::http("PUT", "prod.tfstate").nth(if case.lockfile { 2 } else { 1 }), [gate.hold()]);
        let init = ["init", "-migrate-state", "-force-copy", "-input=false", "-no-color"];
        let run = project.tfguard(TFGUARD, ["--report", "report.json"], init).new_group().start();
        gate.wait_for(1, SOON);
        let lock = case.lock(&project).expect("the new place is locked");
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(120);
        assert_eq!(report(&project)["lock_left"], true, "{case}: {exit}");
        let told = match (case.is_logged(), case.lockfile) {
            (true, false) => lock.id,
            (true, true) => format!("lockfile of {}: NOT released", project.lock_id()),
            (false, _) => "may have left a lock of it on the one that it was moved to".to_owned(),
        };
        assert!(exit.err().contains(&told), "{case}: {told}: {exit}");
    });
}

/// Terraform 1.5 shows its lock only in the dumps of its requests, and those only if its environment asks for DEBUG.
#[test]
fn where_the_users_log_settings_hide_the_lock_that_is_said_at_the_start() {
    Case::each(|case| {
        for (variable, value, shows) in
            [("TF_LOG", "debug", true), ("TF_LOG", "info", false), ("TF_LOG_CORE", "warn", false)]
        {
            if case.product != Product::Terraform {
                return;
            }
            let project = case.project(Kind::Sleep).init(&case.program);
            let run = project.tfguard(TFGUARD, [""; 0], APPLY).env(variable, value).env("TF_LOG_PATH", "mine.log");
            let run = run.new_group().start();
            run.wait_for_stdout("asleep", SOON);
            if !shows {
                run.wait_for_stderr("Set TF_LOG=debug", SOON);
            }
            let lock = case.lock(&project).expect("it is locked");
            kill(pid_of(&journal(&project)["child"]["id"]));
            let exit = run.wait(SOON).expect_code(if shows { 137 } else { 120 });
            assert_eq!(exit.err().contains("cannot learn the lock"), !shows, "{case}, {variable}: {exit}");
            assert_eq!(
                exit.err().contains(&format!("tfguard unlock {}", lock.id)),
                !shows,
                "{case}, {variable}: {exit}"
            );
            assert_eq!(case.lock(&project).is_some(), !shows, "{case}, {variable}: {exit}");
        }
    });
}

/// Both places are locked: each is released or named, or it is said that nobody knows.
#[test]
fn a_killed_migration_between_buckets_leaves_no_lock_unsaid() {
    Case::each(|case| {
        if case.lockfile {
            return;
        }
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = case.project(Kind::Quick).endpoint(proxy.url()).init(&case.program);
        project.apply();
        let (aws, block) = (project.aws(), project.work().join("backend.tf"));
        let (bucket, table) = (aws.unique("states"), aws.unique("locks"));
        aws.create_bucket(&bucket, false);
        aws.create_table(&table);
        let text = std::fs::read_to_string(&block).unwrap();
        std::fs::write(&block, text.replace(project.table_name(), &table).replace(project.bucket(), &bucket)).unwrap();
        let gate = Gate::new();
        proxy.rule(Match::http("PUT", &bucket), [gate.hold()]);
        let init = ["init", "-migrate-state", "-force-copy", "-input=false", "-no-color"];
        let run = project.tfguard(TFGUARD, ["--report", "report.json"], init).new_group().start();
        gate.wait_for(1, SOON);
        let source = case.lock(&project).expect("the source is locked");
        let destination = aws.lock(&table, &project.lock_id().replace(project.bucket(), &bucket));
        let destination = destination.expect("the destination is locked")["ID"].as_str().unwrap().to_owned();
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(120);
        assert_eq!(report(&project)["lock_left"], true, "{case}: {exit}");
        if case.is_logged() {
            assert_eq!(case.lock(&project), None, "{case}: {exit}");
            assert!(exit.err().contains(&destination), "{case}: {exit}");
        } else {
            assert!(exit.err().contains(&format!("tfguard unlock {}", source.id)), "{case}: {exit}");
            assert!(exit.err().contains("lock of it on the one that it was moved to"), "{case}: {exit}");
        }
    });
}

/// It deletes the lockfile first, and the log of OpenTofu 1.10 tells of nothing else.
#[test]
fn the_item_of_a_program_killed_between_its_two_unlocks_is_deleted_or_named() {
    Case::each(|case| {
        if !(case.table && case.lockfile) {
            return;
        }
        let proxy = FaultProxy::start(Aws::shared().url());
        let project = case.project(Kind::Quick).endpoint(proxy.url()).init(&case.program);
        let gate = Gate::new();
        proxy.rule(Match::dynamodb("DeleteItem").nth(1), [gate.hold()]);
        let run = project.tfguard(TFGUARD, [""; 0], APPLY).new_group().start();
        gate.wait_for(1, SOON);
        let id = project.lock().expect("its item is there")["ID"].as_str().unwrap().to_owned();
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON);
        assert!(exit.err().contains(&id), "{case}: {exit}");
        let left = project.lock().is_some();
        exit.expect_code(if left { 120 } else { 137 });
        gate.release();
    });
}
