//! Each line of the threat model (`docs/security.md`), and the tests that try to break it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::Pid;
use regex_lite::Regex;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tfguard::model::{LockInfo, Recorded};
use tfguard::session::Machine;

use crate::stage::*;
use crate::support::*;

/// Where a claim stands in the page by these words, which tests try to break it.
const CLAIMS: &[(&str, &[&str])] = &[
    ("raises no rights, and listens on no network address", &["it_keeps_its_user_and_listens_on_no_network_address"]),
    // Code that the run executes.
    (
        "have tfguard delete a lock that is older than the run",
        &[
            "a_lock_that_is_older_than_the_run_is_not_its_own",
            "a_forged_record_of_a_lock_on_this_machine_deletes_nothing",
            "a_forged_record_of_somebody_elses_lock_is_refused_and_told_once",
            "a_lock_whose_record_names_another_run_is_not_this_ones",
            "a_claim_that_is_wrong_in_any_field_deletes_nothing",
        ],
    ),
    (
        "lead a release elsewhere by exchanging `.terraform/terraform.tfstate`",
        &["a_directory_that_is_configured_anew_does_not_lead_elsewhere"],
    ),
    (
        "have what it prints through Terraform taken for Terraform's words",
        &[
            "a_foreign_lock_inside_other_text_is_not_seen",
            "a_line_is_a_record_only_by_its_whole_head",
            "the_same_words_from_elsewhere_do_not",
            "a_log_tells_no_lock_that_does_not_stand_in_it",
        ],
    ),
    (
        "fill tfguard's memory, or hold up a stop",
        &[
            "ten_thousand_records_cost_no_descriptor_and_little_memory",
            "hundreds_of_megabytes_pass_in_bounded_memory",
            "a_flood_of_locks_is_bounded_and_told_of",
            "what_has_no_end_takes_no_memory_and_is_never_interpreted",
            "a_long_line_is_read_once_and_not_once_for_each_of_its_words",
            "a_stop_waits_for_no_reader",
        ],
    ),
    (
        "By a forged log record",
        &["a_young_lock_of_a_terraform_whose_guard_is_dead_stays", "a_forged_record_does_not_make_a_lock_ours"],
    ),
    // Another user of the machine.
    (
        "read Terraform's log, output or journal",
        &[
            "another_user_reads_nothing_of_a_session_and_puts_nothing_there",
            "everything_in_it_is_private_and_gone_at_the_end",
        ],
    ),
    (
        "steer what tfguard writes or removes",
        &[
            "another_user_reads_nothing_of_a_session_and_puts_nothing_there",
            "a_place_that_others_could_steer_is_refused",
            "what_somebody_put_where_sessions_go_is_refused",
            "what_belongs_to_somebody_else_is_refused",
            "a_link_in_a_session_is_not_followed",
            "what_somebody_put_into_a_session_stays",
        ],
    ),
    (
        "stop tfguard by a FIFO or an endless file",
        &[
            "files_are_opened_in_one_place",
            "nothing_is_waited_for_that_is_not_a_file",
            "only_regular_files_are_opened_and_never_waited_for",
            "what_is_no_file_of_a_possible_size_holds_nobody_up",
            "only_a_regular_file_is_read_and_nobody_is_held_up",
            "a_token_that_has_no_end_is_refused_and_not_waited_for",
            "a_journal_of_a_gigabyte_is_refused_at_once",
        ],
    ),
    (
        "be killed or interrupted as part of a run",
        &[
            "the_group_counts_and_a_daemon_that_left_it_does_not",
            "after_an_orderly_end_what_the_child_left_running_runs_on",
            "a_number_that_means_many_processes_means_none",
        ],
    ),
    (
        "make a command that runs suffer by filling the disk",
        &["a_disk_that_is_full_or_fills_up_is_not_the_childs_trouble"],
    ),
    // Another job of the same user.
    ("its session to the `tfguard release` of this job", &["it_never_touches_another_jobs_session"]),
    (
        "its lock on the same state",
        &[
            "a_lock_that_took_the_place_of_ours_stays",
            "an_item_that_changes_hands_meanwhile_stays",
            "every_delete_names_the_lock_in_a_condition",
        ],
    ),
    // The author of a lock.
    (
        "steer a terminal or a CI by their text",
        &[
            "what_strangers_wrote_steers_neither_terminal_nor_shell",
            "foreign_texts_steer_no_terminal",
            "foreign_texts_give_no_orders_to_a_ci",
        ],
    ),
    (
        "have tfguard open a file or run a command",
        &["nothing_is_opened_by_the_path_in_a_record", "a_link_is_one_word_or_none"],
    ),
    (
        "have a living holder taken for dead",
        &["only_proof_is_proof", "a_living_holder_is_never_robbed_and_only_a_dead_one_needs_no_question"],
    ),
    (
        "fill tfguard's memory | Answers are read to a limit",
        &[
            "an_answer_without_end_is_given_up_in_little_memory",
            "an_object_without_an_end_is_read_to_a_limit",
            "a_hundred_thousand_locks_are_listed_in_bounded_memory",
        ],
    ),
    // A store.
    (
        "have a lock deleted without a comparison",
        &[
            "a_store_that_ignores_conditions_keeps_its_lockfile",
            "where_conditions_are_refused_or_senseless_the_lock_stays",
        ],
    ),
    (
        "have a lock taken for deleted by an answer that proves nothing",
        &["a_lost_answer_to_the_delete_is_settled", "a_delete_that_is_denied_is_settled_by_reading"],
    ),
    ("have the page of a proxy taken for a lock", &["an_answer_that_makes_no_sense_is_no_deletion"]),
    (
        "speak for a server without its certificate",
        &[
            "an_authority_of_the_users_own_is_trusted_where_terraform_trusts_it",
            "settings_that_cannot_be_followed_are_errors_that_show_no_secret",
        ],
    ),
    (
        "hold tfguard up, or fill its memory | Each answer",
        &["an_answer_without_end_is_given_up_in_little_memory", "it_ends_in_its_time_where_nothing_answers"],
    ),
    // A pull request.
    ("lead `tfguard release` to another endpoint", &["what_was_changed_in_the_checkout_steers_no_cleanup_step"]),
    (
        "plant a session that is taken for the job's",
        &["a_copy_of_a_session_tells_nothing", "what_tfguard_did_not_make_and_mark_is_no_session"],
    ),
    ("have `--report` or `--dotenv` write elsewhere", &["a_report_replaces_nothing_but_a_file"]),
    // What is left behind.
    (
        "If a lock is left: the journal, without secrets",
        &["nothing_secret_is_shown_for_debugging", "a_record_holds_no_password_and_no_endless_text"],
    ),
];

fn sources(below: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

#[test]
fn each_line_of_the_threat_model_has_a_test_that_tries_to_break_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let files = [sources(&root.join("src")), sources(&root.join("tests"))].concat();
    let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    // Also those of proptest, whose functions have arguments.
    let test = Regex::new(r"#\[(?:tokio::)?test\]\n(?:\s*(?:#\[|//).*\n)*\s*(?:async )?fn (\w+)").unwrap();
    let tests: BTreeSet<_> = test.captures_iter(&text).map(|found| found[1].to_owned()).collect();
    for (claim, proofs) in CLAIMS {
        assert!(page.contains(claim), "the page does not say: {claim}");
        assert!(!proofs.is_empty());
        for proof in *proofs {
            assert!(tests.contains(*proof), "{claim}: there is no test {proof}");
        }
    }
    let mut rows = 0;
    let mut lines = page.lines();
    while lines.any(|line| line.starts_with("| ") && line.ends_with(" | Because |")) {
        for row in lines.by_ref().skip(1).take_while(|line| line.starts_with("| ")) {
            rows += 1;
            let claims = CLAIMS.iter().filter(|(claim, _)| row[2..].starts_with(claim));
            assert_eq!(claims.count(), 1, "one entry here is for: {row}");
        }
    }
    assert!(rows >= 22, "only {rows} lines were found");
}

/// The inodes of a process's sockets.
fn sockets(pid: Pid) -> BTreeSet<String> {
    let links =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let names =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()));
    names.collect()
}

#[test]
fn it_keeps_its_user_and_listens_on_no_network_address() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    for pid in [run.pid(), child.parent] {
        let own = sockets(pid);
        assert!(!own.is_empty(), "front and supervisor have a socket between them");
        for protocol in ["tcp", "tcp6", "udp", "udp6", "raw"] {
            let Ok(table) = fs::read_to_string(format!("/proc/{pid}/net/{protocol}")) else { continue };
            let on_network = |line: &&str| line.split_whitespace().nth(9).is_some_and(|inode| own.contains(inode));
            assert_eq!(table.lines().skip(1).find(on_network), None, "{protocol}");
        }
        let ids = |pid: &str| -> Vec<String> {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let is_right =
                |line: &&str| ["Uid:", "Gid:", "CapEff:", "CapPrm:"].iter().any(|name| line.starts_with(name));
            status.lines().filter(is_right).map(str::to_owned).collect()
        };
        assert_eq!(ids(&pid.to_string()), ids("self"));
    }
    child.exit(0);
    run.wait(SOON).expect_code(0);
}

#[test]
fn another_user_reads_nothing_of_a_session_and_puts_nothing_there() {
    let as_other = |program: &str, path: &Path| {
        let mut other = Command::new("setpriv");
        other.args(["--reuid=12345", "--regid=12345", "--clear-groups", program]).arg(path);
        other.output().is_ok_and(|output| output.status.success())
    };
    if !nix::unistd::geteuid().is_root() || !as_other("ls", Path::new("/")) {
        return skipped("another_user_reads_nothing_of_a_session_and_puts_nothing_there: it takes root and setpriv");
    }
    let stage = Stage::new();
    // Only tfguard's own directories keep anybody out.
    fs::set_permissions(stage.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    child.perform("os.write(1, b'a secret')");
    let [session] = stage.session_dirs().try_into().unwrap();
    assert!(as_other("ls", &stage.sessions()), "the place itself can be looked at");
    let files: Vec<_> = fs::read_dir(&session).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in &files {
        assert!(!as_other("cat", file) && !as_other("stat", file), "{}", file.display());
    }
    for place in [&session, session.parent().unwrap()] {
        assert!(!as_other("ls", place) && !as_other("touch", &place.join("theirs")), "{}", place.display());
    }
    child.exit(0);
    run.wait(SOON).expect_code(0);
    stage.assert_clean();
}

/// A record can name any directory of this machine as its session.
#[test]
fn nothing_is_opened_by_the_path_in_a_record() {
    const ID: &str = "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4";
    let dir = tempfile::tempdir().unwrap();
    let session = dir.path().join(".tfguard-sessions/20261128T124134-1234-0");
    fs::create_dir_all(&session).unwrap();
    for path in [&session, session.parent().unwrap()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(session.join("tfguard-session"), "").unwrap();
    fs::write(session.join("terraform.log"), "").unwrap();
    nix::unistd::mkfifo(&session.join("journal.json"), Mode::S_IRWXU).unwrap();
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    for path in [&session, session.parent().unwrap()] {
        inotify::add_watch(&watch, path, WatchFlags::OPEN | WatchFlags::ACCESS).unwrap();
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let namespace = std::os::unix::fs::MetadataExt::ino(&fs::metadata("/proc/self/ns/pid").unwrap());
    let record = serde_json::json!({
        "schema": 1, "lock": ID, "tfguard": "0.1.0", "started": "2026-11-20T04:11:21Z", "host": "h",
        "world": {"boot_id": boot.trim(), "pid_namespace": namespace},
        "supervisor": {"pid": 1_999_999_999, "start_ticks": 1}, "session": session,
    });
    let recorded = Recorded::read(&record.to_string(), ID);
    assert!(recorded.holder().is_some(), "{recorded:?}");
    let info = LockInfo::parse(format!(r#"{{"ID":"{ID}","Who":"root@h"}}"#).as_bytes()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let env = [("TFGUARD_DIR", elsewhere.path())].into_iter().collect();
    let judged = Machine::here(&env).judge(&info, &recorded);
    // Its processes are gone, as it says itself; that alone is no proof.
    assert!(!format!("{:?}", judged.verdict).starts_with("Dead"), "{judged:?}");
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let opened = inotify::Reader::new(&watch, &mut buffer).next().map(|event| format!("{event:?}"));
    assert_eq!(opened, Err(rustix::io::Errno::AGAIN), "it was opened");
    fs::read_dir(&session).unwrap().count();
    assert!(inotify::Reader::new(&watch, &mut buffer).next().is_ok(), "it can fail");
}
