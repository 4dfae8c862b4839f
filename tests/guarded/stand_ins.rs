//! Products that cannot be had here, played by a script: what they log of a lock, and what tfguard makes of it. The
//! lock itself is put into the table by the test.

use super::*;

/// A program that holds the log open as Terraform does, logs what `log` prints, and sleeps.
fn stand_in(project: &Project, name: &str, log: &str) -> PathBuf {
    let path = project.work().join(name);
    let script = format!("#!/bin/sh\nexec 9>>\"$TF_LOG_PATH\"\n{log}\necho asleep\nexec sleep 600\n");
    make_program(&path, &script);
    path
}

/// A lock of this user and machine, taken now.
fn own_lock(project: &Project, version: &str) -> LockInfo {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().expect("this user has a name").name;
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    LockInfo {
        who: format!("{user}@{host}"),
        version: version.to_owned(),
        created: jiff::Timestamp::now().to_string(),
        ..LockInfo::foreign(&project.lock_id())
    }
}

/// What `init` of Terraform 0.13 to 1.5 records.
fn initialised_by_an_old_terraform(project: &Project) {
    let config = serde_json::json!({
        "bucket": project.bucket(), "key": project.state_key(), "region": Aws::REGION,
        "dynamodb_table": project.table_name(), "endpoint": project.aws().url(),
        "dynamodb_endpoint": project.aws().url(), "force_path_style": true, "role_arn": null,
    });
    let record = serde_json::json!({
        "version": 3, "serial": 1, "lineage": "x", "modules": [],
        "backend": {"type": "s3", "config": config, "hash": 1},
    });
    std::fs::write(project.work().join(".terraform/terraform.tfstate"), record.to_string()).expect("it can be written");
}

/// The dump of the SDK v1 as 0.13.7 writes it (`fixtures/logs/0.13.7`), of a lock that the test will take.
fn dump(lock: &LockInfo) -> String {
    let body = serde_json::json!({
        "ConditionExpression": "attribute_not_exists(LockID)",
        "Item": {"Info": {"S": lock.json()}, "LockID": {"S": lock.path}},
        "TableName": "locks",
    });
    format!(
        "now() {{ date '+%Y/%m/%d %H:%M:%S'; }}
cat >&9 <<EOF
$(now) [INFO] Terraform version: 0.13.7  
$(now) [DEBUG] [aws-sdk-go] DEBUG: Request dynamodb/PutItem Details:
---[ REQUEST POST-SIGN ]-----------------------------
POST / HTTP/1.1\r
X-Amz-Target: DynamoDB_20120810.PutItem\r
\r
{}
-----------------------------------------------------
$(now) [DEBUG] [aws-sdk-go] DEBUG: Response dynamodb/PutItem Details:
---[ RESPONSE ]--------------------------------------
HTTP/1.1 200 OK\r
\r

-----------------------------------------------------
EOF
env | grep ^TF_ | sort | sed 's/=.*terraform.log/=LOG/'",
        body.to_string().replace('\\', r"\\").replace('$', r"\$")
    )
}

#[test]
fn the_lock_of_a_killed_old_terraform_is_deleted() {
    for zone in ["UTC", "America/St_Johns", "Asia/Kathmandu"] {
        let project = table(Kind::Quick);
        initialised_by_an_old_terraform(&project);
        let lock = own_lock(&project, "0.13.7");
        let terraform = stand_in(&project, "terraform", &dump(&lock));
        let run = project.command(TFGUARD).args(["--report", "report.json", "--"]).arg(terraform).args(APPLY);
        let run = run.env("TZ", zone).new_group().start();
        run.wait_for_stdout("asleep", SOON);
        project.aws().plant_lock(project.table_name(), &lock);
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(137);
        assert_eq!(exit.out(), "TF_LOG=trace\nTF_LOG_PATH=LOG\nTF_LOG_PROVIDER=off\nasleep\n", "{zone}: {exit}");
        let report = report(&project);
        assert_eq!(report["locks"][0]["grade"], "request", "{zone}: {exit} {report}");
        assert_eq!(report["locks"][0]["halves"][0]["outcome"], "deleted", "{zone}: {report}");
        assert_clean(&project);
    }
}

/// Its name and its directory do not tell that it is an OpenTofu, but its log does.
#[test]
fn a_lock_of_an_opentofu_that_is_called_terraform_is_reported() {
    let Some(terraform) = Tools::get().terraform("1.8.4") else { return };
    let project = project(Kind::Quick).table().init(&terraform);
    let log = "echo \"$(date -u +%Y-%m-%dT%H:%M:%S.000Z) [INFO]  OpenTofu version: 1.8.4\" >&9";
    let terraform = stand_in(&project, "terraform", log);
    for (version, reported) in [("1.8.4", true), ("1.8.5", false)] {
        let run = project.command(TFGUARD).args(["--"]).arg(&terraform).args(APPLY).new_group().start();
        run.wait_for_stdout("asleep", SOON);
        let lock = own_lock(&project, version);
        project.aws().plant_lock(project.table_name(), &lock);
        kill(pid_of(&journal(&project)["child"]["id"]));
        let exit = run.wait(SOON).expect_code(if reported { 120 } else { 137 });
        assert_eq!(project.lock(), Some(serde_json::to_value(&lock).unwrap()), "{exit}");
        assert_eq!(exit.err().contains(&format!("tfguard unlock {}", lock.id)), reported, "{exit}");
        assert_eq!(exit.err().contains("not this run's lock"), !reported, "{exit}");
        for session in sessions(&project) {
            std::fs::remove_dir_all(session).unwrap();
        }
    }
}
