//! Terraform before 1.0, played by a script, a stand-in: it holds the log open, and begins it as those do. The real 0.12.29 is
//! tried in `matrix`; it begins its log in one way only, and has no resource that could be made to end so.

use super::*;

/// How it ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Exits(u8),
    IsKilled,
    /// Below a script, which ends with what a shell makes of it.
    DiesInAScript,
    /// After a request to stop, with this code.
    Stops(u8),
}

/// What `init` of a Terraform before 1.6 records.
fn initialised(project: &Project, has_table: bool) {
    let config = serde_json::json!({
        "bucket": project.bucket(), "key": project.state_key(), "region": Aws::REGION, "endpoint": project.aws().url(),
        "dynamodb_table": has_table.then(|| project.table_name()), "force_path_style": true, "role_arn": null,
    });
    let record = serde_json::json!({
        "version": 3, "serial": 1, "lineage": "x", "modules": [],
        "backend": {"type": "s3", "config": config, "hash": 1},
    });
    std::fs::write(project.work().join(".terraform/terraform.tfstate"), record.to_string()).expect("it can be written");
}

/// It is said at the start, and what cannot be known at the end.
#[test]
fn its_lock_is_not_learned_and_nobody_is_told_that_there_is_none() {
    const BY_GO: &str = "2026/11/20 06:46:05 [INFO] Terraform version: 0.13.7  ";
    const BY_HCLOG: &str = "2026-11-20T06:46:05.123Z [INFO]  Terraform version: 0.15.5";
    for (line, has_table, end, code) in [
        (BY_GO, true, End::IsKilled, 120),
        (BY_HCLOG, true, End::IsKilled, 120),
        (BY_HCLOG, true, End::DiesInAScript, 120),
        (BY_GO, false, End::IsKilled, 137),
        (BY_GO, true, End::Exits(1), 1),
        (BY_HCLOG, true, End::Stops(0), 0),
        (BY_GO, true, End::Stops(1), 120),
    ] {
        let case = format!("{line} {has_table} {end:?}");
        let project = table(Kind::Quick);
        initialised(&project, has_table);
        let lock = LockInfo::foreign(&project.lock_id());
        project.aws().plant_lock(project.table_name(), &lock);
        let ending = match end {
            End::Exits(code) => format!("exit {code}"),
            End::IsKilled => "echo asleep; exec sleep 600".to_owned(),
            End::DiesInAScript => "kill -9 $$".to_owned(),
            End::Stops(code) => format!("trap 'kill $!; exit {code}' INT; sleep 600 9>&- & echo asleep; wait"),
        };
        let terraform = project.work().join("terraform");
        make_program(&terraform, &format!("#!/bin/sh\nexec 9>>\"$TF_LOG_PATH\"\necho '{line}' >&9\n{ending}\n"));
        let run = project.command(TFGUARD).args(["--report", "report.json", "--"]);
        let run = match end {
            End::DiesInAScript => {
                let path = format!("{}:{}", project.work().display(), std::env::var("PATH").unwrap());
                run.args(["sh", "-c", "terraform apply; exit $?"]).env("PATH", path)
            }
            _ => run.arg(terraform).args(APPLY),
        };
        let run = run.new_group().start();
        if matches!(end, End::IsKilled | End::Stops(_)) {
            run.wait_for_stdout("asleep", SOON);
        }
        match end {
            End::IsKilled => kill(pid_of(&journal(&project)["child"]["id"])),
            End::Stops(_) => run.signal(nix::sys::signal::Signal::SIGTERM),
            End::Exits(_) | End::DiesInAScript => {}
        }
        let exit = run.wait(SOON).expect_code(code);
        assert_eq!(exit.err().matches("this is a Terraform before 1.0").count(), 1, "{case}: {exit}");
        let report = report(&project);
        assert_eq!(report["locks"], serde_json::json!([]), "{case}");
        let unknown = code == 120;
        assert_eq!(report["other_locks"][0]["outcome"] == "unknown", unknown, "{case}: {report}");
        assert_eq!(report["lock_left"], unknown, "{case}: {report}");
        assert_eq!(exit.err().contains("NOT known whether this run left it"), unknown, "{case}: {exit}");
        assert_eq!(project.lock(), Some(serde_json::to_value(&lock).unwrap()), "{case}: {exit}");
        project.guard().assert_no_process_left(SOON);
    }
}
