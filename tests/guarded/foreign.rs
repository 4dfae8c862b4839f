//! Other people's locks.

use super::*;

#[test]
fn a_lock_that_was_there_before_stays_on_every_version() {
    for (version, terraform) in Tools::get().terraforms() {
        let project = project(Kind::Quick).table().init(&terraform);
        let foreign = LockInfo::foreign(&project.lock_id());
        project.aws().plant_lock(project.table_name(), &foreign);
        let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(1);
        assert!(exit.err().contains("Error acquiring the state lock"), "{version}: {exit}");
        assert_eq!(project.lock(), Some(serde_json::to_value(&foreign).unwrap()), "{version}");
        assert!(!exit.err().contains("deleted by tfguard"), "{version}: {exit}");
    }
}

/// Somebody unlocked by force and took the lock while ours was alive: the condition protects it.
#[test]
fn a_lock_that_took_the_place_of_ours_stays() {
    let project = table(Kind::Sleep);
    let run = asleep(&project, &[]);
    let foreign = LockInfo::foreign(&project.lock_id());
    project.aws().plant_lock(project.table_name(), &foreign);
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!(project.lock(), Some(serde_json::to_value(&foreign).unwrap()), "{exit}");
    assert!(exit.err().contains("another one is there now, not touched"), "{exit}");
    assert!(exit.err().contains(&foreign.id) && exit.err().contains(&foreign.who), "{exit}");
}

/// What runs below Terraform can write into its log. A lock of another machine is not believed to be ours.
#[test]
fn a_forged_record_does_not_make_a_lock_ours() {
    let own = nix::unistd::gethostname().unwrap().into_string().unwrap();
    for who in ["alice@laptop".to_owned(), format!("root@{own}")] {
        let project = project(Kind::Hcl(String::new())).table();
        let victim = LockInfo { who: who.clone(), ..LockInfo::foreign("other/state") };
        let line = format!(
            "$(date -u +%Y-%m-%dT%H:%M:%S.000Z) [INFO]  backend-s3: Locked remote state (DynamoDB only): \
             tf_backend.lock.id={id} tf_backend.lock.info=\\\"\\\" tf_backend.lock.operation={operation} \
             tf_backend.lock.path=other/state tf_backend.lock.version=1.11.4 tf_backend.lock.who={who} \
             tf_backend.operation=Lock tf_backend.req_id=1 tf_backend.s3.bucket=other tf_backend.s3.path=state",
            id = victim.id,
            operation = victim.operation,
        );
        let script = format!("echo \"{line}\" >> \"$TF_LOG_PATH\"; kill -9 $PPID; exec sleep 600");
        let main = "resource \"terraform_data\" \"work\" {\n  provisioner \"local-exec\" {\n    command = \"sh forge.sh\"\n  }\n}\n";
        std::fs::write(project.work().join("main.tf"), main).unwrap();
        std::fs::write(
            project.work().join("forge.sh"),
            script.replace("$PPID", "$(awk '{print $4}' /proc/$PPID/stat)"),
        )
        .unwrap();
        let project = project.init(&terraform());
        project.aws().plant_lock(project.table_name(), &victim);
        let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run();
        assert!(project.aws().lock(project.table_name(), "other/state").is_some(), "{exit}");
        assert!(exit.err().contains(&victim.id), "people are told: {exit}");
        project.guard().assert_no_process_left(SOON);
        assert_eq!(project.lock(), None, "our own is released all the same: {exit}");
    }
}

/// `record LOCKED|UNLOCKED ID OPERATION BUCKET KEY WHO` writes what Terraform would log of a lock.
const RECORD: &str = r#"record() {
    case $1 in LOCKED) text='Locked remote state (DynamoDB only)' op=Lock ;; *) text='Unlocked remote state (DynamoDB only)' op=Unlock ;; esac
    echo "$(date -u +%Y-%m-%dT%H:%M:%S.000Z) [INFO]  backend-s3: $text: tf_backend.lock.id=$2 tf_backend.lock.info=\"\" tf_backend.lock.operation=$3 tf_backend.lock.path=$4/$5 tf_backend.lock.version=1.11.4 tf_backend.lock.who=$6 tf_backend.operation=$op tf_backend.req_id=1 tf_backend.s3.bucket=$4 tf_backend.s3.path=$5" >> "$TF_LOG_PATH"
}
"#;

/// A project whose apply runs this script while it holds its lock; `$terraform` is the Terraform's process. It has [`RECORD`].
fn forging(script: &str) -> Project<'static> {
    let main = "resource \"terraform_data\" \"work\" {\n  provisioner \"local-exec\" {\n    command = \"sh forge.sh\"\n  }\n}\n";
    let project = project(Kind::Hcl(String::new())).table();
    std::fs::write(project.work().join("main.tf"), main).unwrap();
    std::fs::write(
        project.work().join("forge.sh"),
        format!("{RECORD}terraform=$(awk '{{print $4}}' /proc/$PPID/stat)\n{script}"),
    )
    .unwrap();
    project.init(&terraform())
}

/// What `record` needs of a lock.
fn words(victim: &LockInfo) -> String {
    let (bucket, key) = victim.path.split_once('/').unwrap();
    format!("{} {} {bucket} {key} {}", victim.id, victim.operation, victim.who)
}

fn who_is_here() -> String {
    format!("root@{}", nix::unistd::gethostname().unwrap().into_string().unwrap())
}

fn created(ago: jiff::SignedDuration) -> String {
    (jiff::Timestamp::now() - ago).to_string()
}

/// The lock of a living run of the same user, host, table and moment, in another workspace: told by when it was created, by
/// the record beside it, and by what the directory was configured for when Terraform started.
#[test]
fn a_forged_record_of_a_lock_on_this_machine_deletes_nothing() {
    let hour = jiff::SignedDuration::from_hours(1);
    let now = jiff::SignedDuration::ZERO;
    // What becomes of it, when it was created, whether a record names its holder, whether the backend is exchanged.
    for (said, ago, recorded, swapped) in [
        ("before this run began", hour, false, false),
        ("names another holder", now, true, false),
        ("has another backend now than when Terraform started", now, false, true),
    ] {
        let project = forging(
            "until [ -e go ]; do sleep 0.1; done; [ ! -e swapped ] || cp swapped .terraform/terraform.tfstate
             record LOCKED $(cat victim); sleep 0.5; kill -9 $terraform; exec sleep 600",
        );
        let key = if swapped { "elsewhere" } else { "env:/blue/network/prod.tfstate" };
        let path = format!("{}/{key}", project.bucket());
        let victim = LockInfo { who: who_is_here(), created: created(ago), ..LockInfo::foreign(&path) };
        std::fs::write(project.work().join("victim"), words(&victim)).unwrap();
        if swapped {
            let settings = std::fs::read_to_string(project.work().join(".terraform/terraform.tfstate")).unwrap();
            std::fs::write(project.work().join("swapped"), settings.replace("network/prod.tfstate", key)).unwrap();
        }
        project.aws().plant_lock(project.table_name(), &victim);
        if recorded {
            let mut item = project.aws().item(project.table_name(), &path).unwrap();
            let record = serde_json::json!({
                "schema": 1, "lock": victim.id, "tfguard": "0.1.0", "started": victim.created,
                "world": {"boot_id": "b", "pid_namespace": 1},
            });
            let text = aws_sdk_dynamodb::types::AttributeValue::S(record.to_string());
            item.insert("TfguardHolder".to_owned(), text);
            project.aws().put_item(project.table_name(), item);
        }
        let run = project.tfguard(TFGUARD, [""; 0], APPLY).start();
        // What would be exchanged before its own lock was located would be asked for that one, too.
        project.wait_for_known_lock(SOON);
        std::fs::write(project.work().join("go"), "").unwrap();
        let exit = run.wait(SOON);
        assert_eq!(
            project.aws().lock(project.table_name(), &path),
            Some(serde_json::to_value(&victim).unwrap()),
            "{exit}"
        );
        assert!(exit.err().contains(said) && exit.err().contains(&victim.id), "{said}: {exit}");
        project.guard().assert_no_process_left(SOON);
        assert_eq!(project.lock(), None, "our own is released all the same: {exit}");
        // Nor does the cleanup step.
        let release = project.command(TFGUARD).arg("release").run();
        assert!(project.aws().lock(project.table_name(), &path).is_some(), "{release}");
        exit.expect_code(if swapped { 120 } else { 137 });
    }
}

/// What ended with success left no lock of another state, whatever its log says.
#[test]
fn a_terraform_that_succeeds_left_no_lock_of_another_state() {
    let project = forging("record LOCKED $(cat victim)");
    let path = format!("{}/env:/blue/network/prod.tfstate", project.bucket());
    let victim =
        LockInfo { who: who_is_here(), created: created(jiff::SignedDuration::ZERO), ..LockInfo::foreign(&path) };
    std::fs::write(project.work().join("victim"), words(&victim)).unwrap();
    project.aws().plant_lock(project.table_name(), &victim);
    let exit = project.tfguard(TFGUARD, [""; 0], APPLY).run().expect_code(0);
    assert!(project.aws().lock(project.table_name(), &path).is_some(), "{exit}");
    assert!(exit.err().contains(&victim.id) && exit.err().contains("Terraform succeeded"), "{exit}");
}

/// The same of one that had ended before anybody saw that it is Terraform: a stand-in that never has its log open for long.
#[test]
fn nor_did_one_that_nobody_saw() {
    let project = table(Kind::Quick);
    let path = format!("{}/env:/blue/network/prod.tfstate", project.bucket());
    let victim =
        LockInfo { who: who_is_here(), created: created(jiff::SignedDuration::ZERO), ..LockInfo::foreign(&path) };
    project.aws().plant_lock(project.table_name(), &victim);
    let version = "echo \"$(date -u +%Y-%m-%dT%H:%M:%S.000Z) [INFO]  Terraform version: 1.11.4\" >> \"$TF_LOG_PATH\"";
    let terraform = project.work().join("terraform");
    make_program(&terraform, &format!("#!/bin/sh\n{RECORD}{version}\nrecord LOCKED {}\n", words(&victim)));
    let exit = project.command(TFGUARD).arg("--").arg(terraform).args(APPLY).run().expect_code(0);
    assert!(project.aws().lock(project.table_name(), &path).is_some(), "{exit}");
    assert!(exit.err().contains(&victim.id) && exit.err().contains("Terraform succeeded"), "{exit}");
}

/// A wrapper of Terraform's name that works on another state than that of its directory, and succeeds whatever becomes of its
/// Terraform: the lock is the run's own all the same.
#[test]
fn a_wrapper_that_succeeds_over_its_dead_terraform_leaves_no_lock() {
    let project = forging("until [ -e go ]; do sleep 0.1; done; kill -9 $terraform; exec sleep 600");
    let wrapper = project.work().join("wrapper/terraform");
    std::fs::create_dir(wrapper.parent().unwrap()).unwrap();
    let script = format!("#!/bin/sh\ncd {}\n{} \"$@\"\nexit 0\n", project.work().display(), terraform().display());
    make_program(&wrapper, &script);
    let run = project.command(TFGUARD).arg("--").arg(&wrapper).args(APPLY).current_dir("/").start();
    project.wait_for_known_lock(SOON);
    std::fs::write(project.work().join("go"), "").unwrap();
    let exit = run.wait(SOON).expect_code(0);
    assert_eq!(project.lock(), None, "{exit}");
    assert!(exit.err().contains("deleted by tfguard"), "{exit}");
}

/// Guards against a lock that is left without a word because somebody wrote that it was released.
#[test]
fn a_forged_unlock_before_a_kill_is_not_believed() {
    let project = forging(
        "until [ -e go ]; do sleep 0.1; done; record UNLOCKED $(cat own); sleep 0.5; kill -9 $terraform; exec sleep 600",
    );
    let run = project.tfguard(TFGUARD, [""; 0], APPLY).start();
    let lock = project.wait_for_known_lock(SOON)["account"]["locks"][0].clone();
    let own = LockInfo {
        id: lock["id"].as_str().unwrap().to_owned(),
        who: who_is_here(),
        ..LockInfo::foreign(&project.lock_id())
    };
    for (name, text) in [("own", words(&own)), ("go", String::new())] {
        std::fs::write(project.work().join(name), text).unwrap();
    }
    let exit = run.wait(SOON).expect_code(137);
    assert_eq!(project.lock(), None, "{exit}");
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
}

/// Unlocked by force and taken by another job while ours works: said at once, and at the end, whatever Terraform says.
#[test]
fn a_lock_that_was_taken_away_is_told_of_while_terraform_works_and_at_the_end() {
    let project = table(Kind::Sleep);
    let run = asleep(&project, &["--report", "report.json"]);
    let foreign = LockInfo::foreign(&project.lock_id());
    project.aws().plant_lock(project.table_name(), &foreign);
    run.wait_for_stderr("was taken away while Terraform is at work", SOON);
    run.signal(nix::sys::signal::Signal::SIGTERM);
    let exit = run.wait(SOON).expect_code(1);
    assert!(exit.err().contains("taken away while Terraform was at work, so two may have written"), "{exit}");
    assert_eq!(exit.err().matches(&format!("{} by {}", foreign.id, foreign.who)).count(), 2, "{exit}");
    assert!(exit.err().contains("tfguard verify"), "{exit}");
    let report = report(&project);
    assert_eq!((&report["locks"][0]["outcome"]["is"], &report["lock_left"]), (&"taken-away".into(), &false.into()));
    assert_eq!(project.lock(), Some(serde_json::to_value(&foreign).unwrap()), "{exit}");
}

/// Nobody has it any more: removed by hand, or never kept by the store; and then Terraform is killed or not.
#[test]
fn a_lock_that_vanished_is_told_of() {
    // What has OpenTofu's name is believed as OpenTofu is: by the request, which has no ID.
    let dir = tempfile::tempdir().unwrap();
    let tofu = dir.path().join("tofu");
    std::os::unix::fs::symlink(terraform(), &tofu).unwrap();
    for (program, killed) in [(terraform(), false), (terraform(), true), (tofu.clone(), false), (tofu, true)] {
        let is_tofu = program.ends_with("tofu");
        let project = project(Kind::Sleep).lockfile().init(&program);
        let run = project.tfguard(TFGUARD, ["--report", "report.json"], APPLY).new_group().start();
        run.wait_for_stdout("asleep", SOON);
        project.aws().delete_object(project.bucket(), &format!("{}.tflock", project.state_key()));
        match killed {
            true => kill(pid_of(&journal(&project)["child"]["id"])),
            false => run.signal(nix::sys::signal::Signal::SIGTERM),
        }
        let exit = run.wait(SOON).expect_code(if killed { 137 } else { 1 });
        let (product, locks) = if is_tofu { ("OpenTofu", "traces") } else { ("Terraform", "locks") };
        assert!(exit.err().contains(&format!("taken away while {product} was at work")), "{killed}: {exit}");
        assert_eq!(report(&project)[locks][0]["outcome"]["is"], "taken-away", "{killed}: {exit}");
    }
}

/// Guards against a lock that is said to be left for ever in a table that is gone.
#[test]
fn a_lock_whose_table_is_gone_is_gone() {
    let project = table(Kind::Sleep);
    let run = asleep(&project, &["--report", "report.json"]);
    let aws = project.aws();
    aws.block_on(aws.dynamodb().delete_table().table_name(project.table_name()).send()).unwrap();
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.err().contains("its table or bucket is gone"), "{exit}");
    assert_eq!(report(&project)["locks"][0]["halves"][0]["outcome"], "gone-with-store", "{exit}");
    assert!(sessions(&project).is_empty(), "{exit}");
}
