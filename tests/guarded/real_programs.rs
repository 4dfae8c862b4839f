//! What is promised of locks, on the real OpenTofu and the real Terraform 1.5: each version with each kind of lock it has.
//! `TFGUARD_TEST_TOOLS=all` takes all versions (see `support/programs.rs`).

use super::*;
use nix::sys::signal::Signal::*;

/// A version with a kind of lock.
struct Case {
    product: Product,
    version: &'static str,
    program: PathBuf,
    lockfile: bool,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { product, version, lockfile, .. } = self;
        write!(f, "{product} {version}, {}", if *lockfile { "lockfile" } else { "table" })
    }
}

impl Case {
    /// Runs a test on each that can be had here, side by side: they mostly wait.
    fn each(test: impl Fn(&Self) + Sync) {
        let tools = Tools::get();
        let products = [Product::Terraform, Product::OpenTofu];
        let versions = products
            .into_iter()
            .flat_map(|product| tools.programs(product).map(move |(version, program)| (product, version, program)));
        let kinds = versions.flat_map(|(product, version, program)| {
            [false, true].map(|lockfile| Self { product, version, program: program.clone(), lockfile })
        });
        let cases: Vec<_> = kinds.filter(|case| !case.lockfile || case.has_lockfiles()).collect();
        std::thread::scope(|scope| cases.iter().for_each(|case| drop(scope.spawn(|| test(case)))));
    }

    fn has_lockfiles(&self) -> bool {
        self.product == Product::OpenTofu && self.minor() >= 10
    }

    fn minor(&self) -> u32 {
        self.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("a version has a second number")
    }

    /// Whether its log shows which lock it takes. OpenTofu up to 1.10 logs nothing of a lock in a table.
    fn is_logged(&self) -> bool {
        self.product == Product::Terraform || self.lockfile || self.minor() >= 11
    }

    fn project(&self, kind: Kind) -> Project<'static> {
        let project = project(kind);
        let project = if self.lockfile { project.lockfile() } else { project.table() };
        if self.product == Product::Terraform { project.old_names() } else { project }
    }

    fn lock(&self, project: &Project) -> Option<LockInfo> {
        let lock = if self.lockfile { project.lock_in_bucket() } else { project.lock() };
        lock.map(|lock| serde_json::from_value(lock).expect("it is as Terraform writes it"))
    }

    /// Locks the project's state, whatever lock it has.
    fn plant(&self, project: &Project, lock: &LockInfo) {
        if self.lockfile {
            project.aws().plant_lockfile(lock);
        } else {
            project.aws().plant_lock(project.table_name(), lock);
        }
    }

    /// A guarded apply in its sleep.
    fn asleep(&self, project: &Project, options: &[&str]) -> Running {
        let run = project.tfguard(TFGUARD, options, APPLY).new_group().start();
        run.wait_for_stdout("asleep", SOON);
        assert!(self.lock(project).is_some(), "{self}: an apply holds its lock");
        run
    }

    #[track_caller]
    fn assert_clean(&self, project: &Project) {
        project.guard().assert_no_process_left(SOON);
        assert_eq!(self.lock(project), None, "{self}");
        assert_eq!(sessions(project), [""; 0].map(PathBuf::from), "{self}");
        if !self.lockfile {
            assert_whole(project);
        }
    }
}

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
        let asked = proxy.seen().iter().any(|seen| seen.header("user-agent").is_some_and(|a| a.contains(OUR_AGENT)));
        assert!(!asked, "{case}");
        case.assert_clean(&project);
    });
}

#[test]
fn the_lock_of_a_killed_program_is_deleted_or_named() {
    Case::each(|case| {
        let project = case.project(Kind::Sleep).init(&case.program);
        let run = case.asleep(&project, &["--report", "report.json"]);
        let lock = case.lock(&project).expect("it is locked");
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(if case.is_logged() { 137 } else { 120 });
        let report = report(&project);
        assert_eq!(report["locks"][0]["id"], lock.id, "{case}: {exit} {report}");
        if case.is_logged() {
            let said = format!("left by {}, deleted by tfguard (known by the request", case.product);
            assert!(exit.err().contains(&said), "{case}: {exit}");
            assert_eq!(report["locks"][0]["halves"][0]["outcome"], "deleted", "{case}: {report}");
            case.assert_clean(&project);
        } else {
            let said = format!("tfguard unlock {}", lock.id);
            assert!(exit.err().contains(&said), "{case}: {exit}");
            assert_eq!(report["lock_left"], true, "{case}: {report}");
            assert_eq!(case.lock(&project), Some(lock), "{case}");
        }
    });
}

#[test]
fn a_program_that_is_stopped_releases_its_own_lock() {
    Case::each(|case| {
        let project = case.project(Kind::Sleep).init(&case.program);
        let run = case.asleep(&project, &[]);
        run.signal(SIGTERM);
        let exit = run.wait(SOON).expect_code(1);
        assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{case}: {exit}");
        if case.is_logged() && !case.lockfile {
            assert!(exit.err().contains(&format!("released by {}", case.product)), "{case}: {exit}");
        }
        case.assert_clean(&project);
    });
}

#[test]
fn a_lock_that_was_there_before_stays() {
    Case::each(|case| {
        let project = case.project(Kind::Quick).init(&case.program);
        let foreign = LockInfo::foreign(&project.lock_id());
        case.plant(&project, &foreign);
        let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
        assert!(exit.err().contains("Error acquiring the state lock"), "{case}: {exit}");
        assert!(!exit.err().contains("deleted by tfguard"), "{case}: {exit}");
        assert_eq!(case.lock(&project), Some(foreign), "{case}: {exit}");
    });
}

/// Somebody unlocked by force and took the lock while ours was alive, on this very machine: all but the ID is as in ours.
#[test]
fn a_lock_that_took_the_place_of_the_programs_stays() {
    Case::each(|case| {
        let project = case.project(Kind::Sleep).init(&case.program);
        let run = case.asleep(&project, &[]);
        let own = case.lock(&project).expect("it is locked");
        let foreign = LockInfo { id: LockInfo::foreign("").id, ..own };
        case.plant(&project, &foreign);
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON);
        assert_eq!(case.lock(&project).as_ref(), Some(&foreign), "{case}: {exit}");
        assert!(!exit.err().contains("deleted by tfguard"), "{case}: {exit}");
        if !case.lockfile {
            assert!(exit.err().contains(&foreign.id), "{case}: {exit}");
        }
        // Where nothing is logged, it may well be the run's own.
        exit.expect_code(if case.is_logged() { 137 } else { 120 });
    });
}

#[test]
fn a_lock_that_no_log_names_is_deleted_if_that_was_asked_for() {
    Case::each(|case| {
        if case.is_logged() {
            return;
        }
        let project = case.project(Kind::Sleep).init(&case.program);
        let run = case.asleep(&project, &["-v", "--evidence", "item", "--report", "report.json"]);
        run.wait_for_stderr("looked at the state's lock", SOON);
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(report(&project)["locks"][0]["grade"], "item", "{case}: {exit}");
        assert!(exit.err().contains("judged by what it says itself"), "{case}: {exit}");
        case.assert_clean(&project);
    });
}

/// Its name and its directory do not tell that it is an OpenTofu, but its log does.
#[test]
fn the_lock_of_an_opentofu_that_is_called_terraform_is_deleted_or_named() {
    Case::each(|case| {
        if case.product != Product::OpenTofu {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory can be made");
        let terraform = dir.path().join("terraform");
        std::os::unix::fs::symlink(&case.program, &terraform).expect("a link can be made");
        // Where nothing is logged, one of another version cannot be ours.
        let fits: &[bool] = if case.is_logged() { &[true] } else { &[true, false] };
        for fits in fits.iter().copied() {
            let project = case.project(Kind::Sleep).init(&terraform);
            let run = case.asleep(&project, &[]);
            let mut lock = case.lock(&project).expect("it is locked");
            if !fits {
                lock.version = "1.2.3".to_owned();
                case.plant(&project, &lock);
            }
            kill(pid_of(&journal(&project)["child"]["id"]));
            let exit = run.wait(SOON);
            let named = exit.err().contains(&format!("tfguard unlock {}", lock.id));
            assert_eq!(case.lock(&project), (!case.is_logged()).then_some(lock), "{case}: {exit}");
            assert_eq!(named, fits && !case.is_logged(), "{case}: {exit}");
            exit.expect_code(if named { 120 } else { 137 });
        }
    });
}

/// A guard of its own knows the directory, the log and the level that its program needs.
#[test]
fn below_a_script_that_changes_its_directory_each_is_learned_as_by_itself() {
    Case::each(|case| {
        let project = case.project(Kind::Sleep).init(&case.program);
        let (directory, name) = (case.program.parent().unwrap(), case.program.file_name().unwrap().display());
        let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
        let script = format!("cd '{}' && {name} {}; exit 3", project.work().display(), APPLY.join(" "));
        let run = project.command(TFGUARD).args(["--", "bash", "-c", &script]).current_dir("/").env("PATH", path);
        let run = run.new_group().start();
        run.wait_for_stdout("asleep", SOON);
        assert!(case.lock(&project).is_some(), "{case}");
        let inner = journal(&project);
        assert_eq!(inner["account"]["directory"], project.work().display().to_string(), "{case}");
        kill(pid_of(&inner["child"]["id"]));
        let exit = run.wait(SOON).expect_code(if case.is_logged() { 3 } else { 120 });
        if case.is_logged() {
            assert!(exit.err().contains(&format!("left by {}, deleted by tfguard", case.product)), "{case}: {exit}");
            case.assert_clean(&project);
        } else {
            assert!(exit.err().contains("NOT released") && case.lock(&project).is_some(), "{case}: {exit}");
        }
    });
}
