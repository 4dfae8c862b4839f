//! The backends that cannot be played here, with a script in Terraform's place that says what Terraform would.

use super::*;

const ITEM: [&str; 2] = ["--evidence", "item"];
const UUID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";
const MD5: &str = "4bb7d84cf09d7909021902f6e8d9eeb4";

/// Knows `version`, `apply`, `untaint` and `force-unlock`. `lock` is the lock, `calls` what it was asked, `unlock` (if it
/// is there) a script that is run in place of an unlock, `look` one in place of a look.
const SCRIPT: &str = r#"#!/bin/sh
echo "$*" >>calls
case $1 in
version) echo '{"terraform_version": "1.11.4"}' ;;
init) echo asleep; exec sleep 600 ;;
apply)
  {
    echo "Lock Info:"
    echo "  ID:        $(cat id)"
    echo "  Path:      states/prod"
    echo "  Operation: OperationTypeApply"
    echo "  Who:       $(cat who)"
    echo "  Version:   1.11.4"
    echo "  Created:   $(date -u '+%Y-%m-%d %H:%M:%S.%N') +0000 UTC"
    echo "  Info:      "
  } >lock
  echo asleep
  exec sleep 600 ;;
untaint)
  if test -e look; then . ./look; fi
  if ! test -e lock; then exit 0; fi
  printf '\nError: Error acquiring the state lock\n\nError message: %s\n%s\n\n\nTerraform acquires a state lock to protect\n' "$(cat reason)" "$(cat lock)" >&2
  exit 1 ;;
force-unlock)
  if test -e unlock; then . ./unlock; fi
  if test "$4" != "$(cat id)"; then echo "Failed to unlock state: lock id \"$4\" does not match existing lock" >&2; exit 1; fi
  rm lock
  echo 'Terraform state has been successfully unlocked!' ;;
esac
"#;

/// A place whose recorded backend is of this type.
fn place(backend: &str, id: &str, reason: &str) -> Place {
    let mut place = Place::new(Path::new("unset"), "", "");
    place.write("who", &own_name());
    place.write("id", id);
    place.write("reason", reason);
    std::fs::create_dir(place.work().join(".terraform")).unwrap();
    // A state of its own: another test's Terraform is not to be taken for one that may hold this lock.
    let config = serde_json::json!({"key": place.work()});
    let record = serde_json::json!({"version": 3, "backend": {"type": backend, "config": config, "hash": 1}});
    place.write(".terraform/terraform.tfstate", &record.to_string());
    place.terraform = place.work().join("terraform");
    make_program(&place.terraform, SCRIPT);
    place
}

fn azurerm() -> Place {
    place("azurerm", UUID, "state blob is already locked")
}

fn killed(place: &Place, options: &[&str]) -> Exit {
    let run = place.asleep(options);
    place.kill_terraform();
    run.wait(SOON)
}

fn has_lock(place: &Place) -> bool {
    place.work().join("lock").exists()
}

fn calls(place: &Place) -> Vec<String> {
    let calls = std::fs::read_to_string(place.work().join("calls")).unwrap_or_default();
    calls.lines().map(|call| call.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn every_backends_lock_is_released_with_its_own_id() {
    for (backend, id, reason) in [
        ("azurerm", UUID, "state blob is already locked"),
        ("kubernetes", UUID, "the state is already locked by another terraform client"),
        ("oss", UUID, "invoking PutRow got an error: &tablestore.OtsError{Code:\"OTSConditionCheckFail\"}"),
        ("cos", MD5, "lock file prod/terraform.tfstate.tflock exists"),
        ("oci", UUID, "Error returned by ObjectStorage Service. Http Status Code: 412. Error Code: IfNoneMatchFailed."),
    ] {
        let place = place(backend, id, reason);
        let exit = killed(&place, &ITEM).expect_code(137);
        assert!(!has_lock(&place), "{backend}: {exit}");
        assert_eq!(place.reported()["outcome"], "released", "{backend}: {exit}");
        assert_eq!(calls(&place), ["apply", "version", "untaint", "force-unlock"], "{backend}");
    }
}

#[test]
fn an_id_that_is_not_of_the_backends_kind_is_never_part_of_a_command() {
    for id in ["-help", "$(reboot)", MD5] {
        let place = place("azurerm", id, "state blob is already locked");
        let exit = killed(&place, &ITEM).expect_code(120);
        assert_eq!(calls(&place), ["apply", "version", "untaint"], "{id}: {exit}");
        assert!(!exit.err().contains(&format!("force-unlock {id}")), "{exit}");
    }
}

#[test]
fn an_unlock_that_fails_is_tried_again_after_another_look() {
    let place = azurerm();
    place.write("unlock", "rm unlock; echo 'Failed to unlock state: no network' >&2; exit 1\n");
    let exit = killed(&place, &ITEM).expect_code(137);
    assert_eq!(place.reported()["outcome"], "released", "{exit}");
    assert_eq!(calls(&place), ["apply", "version", "untaint", "force-unlock", "untaint", "force-unlock"]);
}

#[test]
fn an_unlock_whose_success_was_not_heard_of_is_seen_by_the_next_look() {
    let place = azurerm();
    place.write("unlock", "rm lock; kill -9 $$\n");
    let exit = killed(&place, &ITEM).expect_code(137);
    assert_eq!(place.reported()["outcome"], "gone", "{exit}");
}

#[test]
fn an_unlock_that_never_works_leaves_a_message_with_the_command() {
    let place = azurerm();
    place.write(".terraform/environment", "blue");
    place.write("unlock", "echo 'Failed to unlock state: AuthorizationFailure' >&2; exit 1\n");
    let exit = killed(&place, &ITEM).expect_code(120);
    assert!(exit.err().contains("AuthorizationFailure"), "{exit}");
    let command = format!("run: TF_WORKSPACE=blue terraform -chdir={} force-unlock {UUID}", place.work().display());
    assert!(exit.err().contains(&command), "{exit}");
    assert!(has_lock(&place));
}

/// Between look and unlock it changes hands: the unlock has the ID, and the next look sees whose it is.
#[test]
fn a_lock_that_changes_hands_meanwhile_stays() {
    let place = azurerm();
    let other = UUID.replace('4', "5");
    place.write("unlock", &format!("echo {other} >id; sed -i s/{UUID}/{other}/ lock\n"));
    let exit = killed(&place, &ITEM).expect_code(137);
    assert!(has_lock(&place), "{exit}");
    assert_eq!(place.reported()["outcome"], "gone", "{exit}");
    assert_eq!(calls(&place).iter().filter(|call| *call == "force-unlock").count(), 1);
}

#[test]
fn a_look_that_says_nothing_useful_is_told_of() {
    for (look, words) in [
        ("echo 'Error: Backend initialization required' >&2; exit 1", "Backend initialization required"),
        ("kill -9 $$", "did not say why"),
        (
            "printf 'Error: Error releasing the state lock\\n\\nError message: no network\\n' >&2; exit 0",
            "giving it back failed",
        ),
    ] {
        let place = azurerm();
        place.write("look", look);
        let exit = killed(&place, &ITEM).expect_code(120);
        assert!(exit.err().contains(words), "{exit}");
        assert!(has_lock(&place));
    }
}

#[test]
fn a_look_that_hangs_is_ended_with_all_it_started() {
    let place = azurerm();
    place.write("look", "sleep 600 & wait\n");
    let exit = killed(&place, &ITEM).expect_code(120);
    assert!(exit.err().contains("did not answer within"), "{exit}");
    place.guard.assert_no_process_left(SOON);
}

#[test]
fn locks_that_die_with_their_holder_need_no_look() {
    for backend in ["local", "consul", "pg"] {
        let place = place(backend, UUID, "");
        killed(&place, &ITEM).expect_code(137);
        assert_eq!(calls(&place), ["apply"], "{backend}");
    }
}

#[test]
fn a_workspace_of_a_server_that_runs_terraform_is_left_alone_with_a_word() {
    for backend in ["remote", "cloud", "of-tomorrow"] {
        let place = place(backend, UUID, "");
        let exit = killed(&place, &ITEM).expect_code(120);
        assert_eq!(calls(&place), ["apply"], "{backend}");
        assert!(exit.err().contains(&format!("backend {backend}: NOT known")), "{exit}");
    }
}

/// It holds the locks of both backends, and where it moves the state to, only itself knows.
#[test]
fn a_move_of_the_state_that_died_leaves_a_word() {
    for (flag, told) in [("-migrate-state", true), ("-reconfigure", false)] {
        let place = azurerm();
        let run = place.guarded(&ITEM, &["init", flag]).start();
        run.wait_for_stdout("asleep", SOON);
        place.kill_terraform();
        let exit = run.wait(SOON).expect_code(if told { 120 } else { 137 });
        assert_eq!(exit.err().contains("on the backend `azurerm` and on the one that it was moved to"), told, "{exit}");
        assert_eq!(calls(&place), ["init"]);
    }
}

#[test]
fn without_a_lock_there_is_no_look() {
    let place = azurerm();
    let run = place.guarded(&ITEM, &["apply", "-lock=false"]).start();
    run.wait_for_stdout("asleep", SOON);
    place.kill_terraform();
    run.wait(SOON).expect_code(137);
    assert_eq!(calls(&place), ["apply"]);
}

/// Terraform gives up after a second interrupt, whoever sent it, with exit code 1 and the lock in place.
#[test]
fn a_terraform_that_was_interrupted_twice_is_looked_after_too() {
    let place = azurerm();
    let script = SCRIPT.replace(
        "exec sleep 600 ;;",
        "echo 'Two interrupts received. Exiting immediately. Note that data loss may have occurred.' >&2; exit 1 ;;",
    );
    make_program(&place.terraform, &script);
    let exit = place.guarded(&ITEM, &APPLY).run().expect_code(1);
    assert_eq!(place.reported()["outcome"], "released", "{exit}");
    assert!(!has_lock(&place));
}

#[test]
fn an_orderly_failure_is_terraforms_own_business() {
    let place = azurerm();
    make_program(&place.terraform, &SCRIPT.replace("exec sleep 600 ;;", "rm lock; exit 1 ;;"));
    place.guarded(&ITEM, &APPLY).run().expect_code(1);
    assert_eq!(calls(&place), ["apply"]);
}

/// One that waited may have been refused by whoever was quicker.
#[test]
fn a_refusal_by_a_lock_that_fits_is_no_strangers_and_own_only_of_one_that_did_not_wait() {
    let refused = "log=${TF_TEMP_LOG_PATH:-$TF_LOG_PATH}\n  \
                   echo \"$(date -u +%FT%T.000Z) [INFO]  Terraform version: 1.11.4\" >>\"$log\"\n  \
                   printf 'Error: Error acquiring the state lock\\n\\nError message: held\\n%s\\n' \"$(cat lock)\" >&2\n  \
                   exit 1 ;;\nuntaint";
    for (waits, code) in [("-input=false", 120), ("-lock-timeout=9s", 1)] {
        let place = azurerm();
        make_program(&place.terraform, &SCRIPT.replace("exec sleep 600 ;;\nuntaint", refused));
        let exit = place.guarded(&ITEM, &["apply", waits]).run().expect_code(code);
        assert!(exit.err().contains("all it says fits this run"), "{waits}: {exit}");
        assert!(exit.err().contains(&format!(" force-unlock {UUID}")), "{waits}: {exit}");
        assert_eq!((calls(&place), has_lock(&place)), (vec!["apply".to_owned()], true), "{waits}: {exit}");
    }
}

/// A Terraform that never opens the log is not seen below a script.
#[test]
fn a_script_that_died_leaves_a_word() {
    let place = azurerm();
    let run =
        place.command(TFGUARD).args(["--evidence", "item", "--", "sh", "-c", "./terraform apply; exit 0"]).start();
    run.wait_for_stdout("asleep", SOON);
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(120);
    assert!(exit.err().contains("only if it runs Terraform itself"), "{exit}");
    assert_eq!(calls(&place), ["apply"]);
}

/// The lock is that of another workspace, which a look would make.
#[test]
fn a_workspace_command_that_died_leaves_a_word() {
    let place = azurerm();
    make_program(&place.terraform, &SCRIPT.replace("init) echo", "init|workspace) echo"));
    let run = place.guarded(&ITEM, &["workspace", "delete", "blue"]).start();
    run.wait_for_stdout("asleep", SOON);
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(120);
    assert!(exit.err().contains("another workspace's") && exit.err().contains("TF_WORKSPACE=blue terraform"), "{exit}");
    assert_eq!(calls(&place), ["workspace"]);
}

/// Whoever cannot look says so: what was run is in no process's memory any more.
#[test]
fn after_everything_was_killed_the_cleanup_step_says_that_nobody_knows() {
    for (words, code) in [(&APPLY[..], 120), (&["apply", "-lock=false"], 0)] {
        let place = azurerm();
        let run = place.guarded(&ITEM, words).new_group().start();
        run.wait_for_stdout("asleep", SOON);
        let (journal, child) = (place.journal(), place.child().unwrap());
        run.kill_with_supervisor(&journal);
        kill(child);
        let exit = place.command(TFGUARD).args(["release"]).env("TFGUARD_EVIDENCE", "item").run().expect_code(code);
        assert_eq!(exit.err().contains("tfguard does not know any more what was run"), code == 120, "{exit}");
        assert_eq!(calls(&place), ["apply"]);
    }
}

/// It waits for somebody else's lock, and is killed while it does.
#[test]
fn one_that_was_still_waiting_owns_nothing() {
    let place = azurerm();
    let run = place.guarded(&ITEM, &["apply", "-lock-timeout=10m"]).start();
    run.wait_for_stdout("asleep", SOON);
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(120);
    assert!(has_lock(&place) && exit.err().contains("-lock-timeout"), "{exit}");
}

/// Guards the lock of a living Terraform of the same user, which took it while the one that died had none.
#[test]
fn a_lock_that_another_living_terraform_may_hold_stays() {
    let place = azurerm();
    let run = place.asleep(&ITEM);
    std::fs::create_dir(place.work().join("bin")).unwrap();
    let terraform = place.work().join("bin/terraform");
    // A `sleep` in its place would be no Terraform.
    make_program(&terraform, &SCRIPT.replace("exec sleep 600 ;;\nuntaint", "read go ;;\nuntaint"));
    let mut living = place.command(&terraform).args(APPLY).stdin(Stdin::Open).start();
    living.wait_for_stdout("asleep", SOON);
    place.kill_terraform();
    let exit = run.wait(SOON).expect_code(120);
    assert!(has_lock(&place) && exit.err().contains("alive on this machine"), "{exit}");
    living.write(b"go\n");
    living.wait(SOON).expect_code(0);
}

/// Guards against silence: it was dead before tfguard could see on which backend it worked.
#[test]
fn a_terraform_below_a_script_that_was_gone_at_once_leaves_a_word() {
    for (code, told) in [(137, true), (1, false), (0, false)] {
        let place = Place::new(Path::new("unset"), "", "");
        let expected = if told { 120 } else { code };
        let script = format!("echo ready; read go; exit {code}");
        let mut run = place.command(TFGUARD).args(["--", "sh", "-c", &script]).stdin(Stdin::Open).start();
        run.wait_for_stdout("ready", SOON);
        // What the log of such a one has in it. This process is older than the run, so it is not taken for a Terraform.
        let log = place.session().expect("there is a session").join("terraform.log");
        let now = jiff::Timestamp::now().strftime("%FT%T.000Z");
        let records =
            format!("{now} [INFO]  Terraform version: 1.11.4\n{now} [INFO]  backend/local: apply calling Apply\n");
        let mut log = std::fs::File::options().append(true).open(log).unwrap();
        std::io::Write::write_all(&mut log, records.as_bytes()).unwrap();
        drop(log);
        run.write(b"go\n");
        let exit = run.wait(SOON).expect_code(expected);
        assert_eq!(exit.err().contains("worked under a lock and was gone before tfguard saw where"), told, "{exit}");
    }
}
