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
