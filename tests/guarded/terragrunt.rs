//! The real Terragrunt, below tfguard and above it. It holds the log open all its life, passes a signal on to its Terraforms
//! after 15 seconds, and kills them after 30.

use super::*;
use nix::sys::signal::Signal::*;

const APPLY: [&str; 6] = ["--non-interactive", "--no-color", "apply", "-input=false", "-auto-approve", "-no-color"];

fn terragrunts() -> impl Iterator<Item = (&'static str, PathBuf)> {
    Tools::get().programs(Product::Terragrunt)
}

/// A project that Terragrunt can apply.
fn unit(kind: Kind) -> Project<'static> {
    let project = table(kind);
    std::fs::write(project.work().join("terragrunt.hcl"), "").expect("a file can be written");
    project
}

/// tfguard guards Terragrunt.
fn above(project: &Project, terragrunt: &Path) -> Run {
    let run = project.command(TFGUARD).args(["--grace", "5s", "--"]).arg(terragrunt).args(APPLY);
    run.env("TG_TF_PATH", terraform()).new_group()
}

/// Terragrunt calls a Terraform that tfguard guards.
fn below(project: &Project, terragrunt: &Path) -> Run {
    let links = project.work().join("links");
    project.command(TFGUARD).args(["shim", "--dir"]).arg(&links).run().expect_code(0);
    let run = project.command(terragrunt).args(APPLY).env("TG_TF_PATH", links.join("terraform"));
    run.env("TFGUARD_TERRAFORM", terraform()).new_group()
}

#[test]
fn an_ordinary_run_below_or_above_terragrunt_is_left_alone() {
    for (version, terragrunt) in terragrunts() {
        for start in [above, below] {
            let project = unit(Kind::Quick);
            let exit = start(&project, &terragrunt).run().expect_code(0);
            assert!(exit.out().contains("Apply complete! Resources: 1 added"), "{version}: {exit}");
            assert!(!exit.err().contains("tfguard: "), "{version}: {exit}");
            assert_eq!(sessions(&project), [""; 0].map(PathBuf::from), "{version}");
            assert_clean(&project);
        }
    }
}

/// Whether the CI signals Terragrunt alone or all that it started.
#[test]
fn terragrunt_below_or_above_is_one_interrupt() {
    for (version, terragrunt) in terragrunts() {
        std::thread::scope(|scope| {
            for (start, all) in
                [(above as fn(&Project, &Path) -> Run, true), (above, false), (below, true), (below, false)]
            {
                let terragrunt = &terragrunt;
                scope.spawn(move || {
                    let project = unit(Kind::Sleep);
                    let run = start(&project, terragrunt).start();
                    run.wait_for_stdout("asleep", SOON);
                    if all {
                        run.signal_group(SIGTERM)
                    } else {
                        run.signal(SIGTERM)
                    }
                    let exit = run.wait(SOON).expect_code(1);
                    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{version}: {exit}");
                    assert!(!exit.err().contains("Two interrupts"), "{version}: {exit}");
                    assert!(exit.err().contains("released by Terraform"), "{version}: {exit}");
                    assert_clean(&project);
                });
            }
        });
    }
}

#[test]
fn a_terraform_that_cannot_stop_below_a_guarded_terragrunt_is_interrupted_once_and_killed() {
    for (version, terragrunt) in terragrunts() {
        let project = unit(Kind::HangInApply);
        let run = above(&project, &terragrunt).start();
        project.wait_for_hang(SOON);
        run.signal(SIGTERM);
        // Its exit code is Terragrunt's own, or that of its death: both end in the same moment.
        let exit = run.wait(SOON);
        assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{version}: {exit}");
        assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{version}: {exit}");
        assert_clean(&project);
    }
}

/// Terragrunt kills the process that it started, which is the front.
#[test]
fn a_guarded_terraform_has_its_grace_when_terragrunt_has_gone() {
    for (version, terragrunt) in terragrunts() {
        let project = unit(Kind::HangInApply);
        let run = below(&project, &terragrunt).env("TFGUARD_GRACE", "25s").start();
        project.wait_for_hang(SOON);
        run.signal(SIGTERM);
        let exit = run.wait(SOON);
        assert!(exit.out().contains("Interrupt received."), "{version}: {exit}");
        assert!(project.lock().is_some(), "{version}: Terraform is alive and has its lock: {exit}");
        let release = project.command(TFGUARD).arg("release").run().expect_code(0);
        assert!(release.err().contains("left by Terraform, deleted by tfguard"), "{version}: {release}");
        assert!(!release.out().contains("Interrupt received."), "{version}: a second time: {release}");
        assert_clean(&project);
    }
}

/// What Terraform says to it then has no reader: without a guard it would die of SIGPIPE. The outer guard shows it.
#[test]
fn a_terraform_whose_guarded_terragrunt_is_killed_ends_gracefully() {
    for (version, terragrunt) in terragrunts() {
        let project = unit(Kind::Sleep);
        let run = above(&project, &terragrunt).start();
        run.wait_for_stdout("asleep", SOON);
        kill(pid_of(&outer_journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(137);
        assert!(exit.err().contains("released by Terraform"), "{version}: {exit}");
        assert!(
            exit.err().contains("Interrupt received.") && exit.err().contains("went on to say"),
            "{version}: {exit}"
        );
        assert!(!exit.err().contains("ran unguarded"), "{version}: {exit}");
        assert_clean(&project);
    }
}

#[test]
fn a_guarded_terraform_ends_gracefully_when_terragrunt_is_killed() {
    for (version, terragrunt) in terragrunts() {
        let project = unit(Kind::Sleep);
        let run = below(&project, &terragrunt).start();
        run.wait_for_stdout("asleep", SOON);
        run.signal(SIGKILL);
        run.wait(SOON).expect_signal(SIGKILL);
        let release = project.command(TFGUARD).arg("release").run().expect_code(0);
        assert_eq!(release.out().matches("Interrupt received.").count(), 1, "{version}: {release}");
        assert!(release.err().contains("released by Terraform"), "{version}: {release}");
        assert_clean(&project);
    }
}

/// A directory with programs of these names, first on PATH.
fn on_path(project: &Project, programs: &[(&str, &Path)]) -> String {
    let bin = project.work().parent().unwrap().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for (name, program) in programs {
        std::os::unix::fs::symlink(program, bin.join(name)).unwrap();
    }
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

/// With both programs on PATH Terragrunt runs the one that it would run without tfguard: its default, or what its
/// configuration names. (Its variable would win over that, so tfguard sets none.)
#[test]
fn terragrunt_runs_what_it_would_run_without_tfguard() {
    let Some((_, tofu)) = Tools::get().programs(Product::OpenTofu).last() else { return };
    for (version, terragrunt) in terragrunts() {
        for configuration in ["", "terraform_binary = \"terraform\"\n", "terraform_binary = \"tofu\"\n"] {
            let written_by = |guarded: bool| {
                let project = project(Kind::Quick).table().init(&terraform());
                std::fs::write(project.work().join("terragrunt.hcl"), configuration).unwrap();
                let path = on_path(&project, &[("terraform", &terraform()), ("tofu", &tofu)]);
                let run = match guarded {
                    true => project.command(TFGUARD).args(["--report", "report.json", "--"]).arg(&terragrunt),
                    false => project.command(&terragrunt),
                };
                run.args(APPLY).env("PATH", path).run().expect_code(0);
                if guarded {
                    let report = report(&project);
                    assert_eq!(
                        report["locks"][0]["outcome"]["is"], "unlocked",
                        "{version} {configuration}: {report:#}"
                    );
                }
                assert_clean(&project);
                project.state().expect("a state")["terraform_version"].clone()
            };
            assert_eq!(written_by(true), written_by(false), "{version} {configuration:?}");
        }
    }
}

/// A queue of units: all that run are asked at once, and no further one starts.
#[test]
fn a_cancelled_queue_leaves_no_lock() {
    for (version, terragrunt) in terragrunts() {
        for all in [true, false] {
            let project = table(Kind::Sleep);
            let read = |name: &str| std::fs::read_to_string(project.work().join(name)).unwrap();
            let (configuration, backend) = (read("main.tf"), read("backend.tf"));
            let key = project.state_key();
            let keys = ["one", "two", "three"].map(|unit| {
                let directory = project.work().join("live").join(unit);
                std::fs::create_dir_all(&directory).unwrap();
                let depends = if unit == "three" { "dependencies { paths = [\"../one\", \"../two\"] }\n" } else { "" };
                std::fs::write(directory.join("terragrunt.hcl"), depends).unwrap();
                std::fs::write(directory.join("main.tf"), &configuration).unwrap();
                let own = format!("{unit}/{key}");
                std::fs::write(directory.join("backend.tf"), backend.replace(&key, &own)).unwrap();
                format!("{}/{own}", project.bucket())
            });
            let path = on_path(&project, &[("terraform", &terraform())]);
            let run =
                project.command(TFGUARD).args(["--grace", "1m", "--report", "../report.json", "--"]).arg(&terragrunt);
            let run =
                run.args(["run", "--all", "--non-interactive", "--no-color", "--tf-path", "terraform", "--", "apply"]);
            let run = run.args(["-input=false", "-auto-approve", "-no-color"]).env("PATH", path);
            let run = run.current_dir(project.work().join("live")).new_group().start();
            let began = std::time::Instant::now();
            while run.stdout().matches("(local-exec): asleep").count() < 2 {
                assert!(began.elapsed() < SOON && !run.has_ended(), "{version}: {}", run.stdout());
                std::thread::sleep(Duration::from_millis(20));
            }
            let is_locked = |key: &String| project.aws().lock(project.table_name(), key).is_some();
            assert_eq!(keys.iter().filter(|key| is_locked(key)).count(), 2, "{version}");
            if all {
                run.signal_group(SIGTERM)
            } else {
                run.signal(SIGTERM)
            }
            let exit = run.wait(SOON);
            assert_eq!(exit.out().matches("Interrupt received.").count(), 2, "{version}: {exit}");
            assert!(
                !exit.out().contains("Two interrupts") && !exit.err().contains("Two interrupts"),
                "{version}: {exit}"
            );
            assert_eq!(exit.err().matches("released by Terraform").count(), 2, "{version}: {exit}");
            assert_eq!(keys.iter().filter(|key| is_locked(key)).count(), 0, "{version}: {exit}");
            project.guard().assert_no_process_left(SOON);
        }
    }
}

/// Everything is dead, and the directory that Terraform ran in is gone: what is printed then needs neither.
#[test]
fn a_lock_whose_cache_is_gone_is_named_with_its_whole_place() {
    for (version, terragrunt) in terragrunts() {
        let project = unit(Kind::HangInApply);
        let run = above(&project, &terragrunt).start();
        project.wait_for_hang(SOON);
        let outer = outer_journal(&project);
        // Beside that of `init`.
        let inner = || {
            let below = std::fs::read_dir(session(&project).join("inner")).unwrap().flatten();
            let journals = below.filter_map(|entry| std::fs::read(entry.path().join("journal.json")).ok());
            let mut journals = journals.filter_map(|text| serde_json::from_slice::<Value>(&text).ok());
            journals.find(|journal| journal["account"]["locks"][0]["places"][0].is_object())
        };
        let began = std::time::Instant::now();
        let inner = loop {
            match inner() {
                Some(inner) => break inner,
                None => assert!(began.elapsed() < SOON, "{version}: no lock is known"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        kill_guards(&[&outer, &inner]);
        for journal in [&outer, &inner] {
            kill(pid_of(&journal["child"]["id"]));
        }
        drop(run);
        std::fs::remove_dir_all(project.work().join(".terragrunt-cache")).unwrap();
        std::fs::remove_dir_all(project.work().join(".terraform")).unwrap();
        let release = || project.command(TFGUARD).arg("release");
        let exit = release().env_remove("AWS_ACCESS_KEY_ID").run().expect_code(120);
        assert!(project.lock().is_some(), "{version}: {exit}");
        let id = inner["account"]["locks"][0]["id"].as_str().unwrap();
        let command = format!("run: tfguard unlock {id} --bucket {} --key ", project.bucket());
        assert!(exit.err().contains(&command), "{version}: {exit}");
        assert!(exit.err().contains(&format!("--table {}", project.table_name())), "{version}: {exit}");
        // The journal says where it is, too.
        let exit = release().run().expect_code(0);
        assert!(project.lock().is_none(), "{version}: {exit}");
        project.guard().assert_no_process_left(SOON);
    }
}
