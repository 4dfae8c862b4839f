//! The session directory is private, checked, and gone after a clean end (P7); a bad place for it is refused before
//! anything is run, and a disk that fills up later is not the child's trouble (P6).

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::bounds::{terraform, under_lock};
use crate::stage::*;
use crate::support::*;
use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use serde_json::Value;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// tfguard refuses to run anything, and says of what and what to do.
#[track_caller]
fn assert_refused(stage: &Stage, run: Run, path: &Path, why: &str) {
    let exit = run.run().expect_code(125);
    assert!(!stage.work().join("ran").exists(), "{exit}");
    let err = exit.err();
    assert!(err.starts_with("tfguard: error: ") && err.contains(path.to_str().unwrap()) && err.contains(why), "{exit}");
    assert!(exit.stdout.is_empty());
}

fn touch(stage: &Stage) -> Run {
    stage.tfguard(&[], ["touch", "ran"])
}

#[test]
fn a_place_that_others_could_steer_is_refused() {
    let stage = Stage::new();
    let at = |name: &str| stage.dir().join(name);
    let place = |path: &Path| touch(&stage).env("TFGUARD_DIR", path);

    fs::create_dir(at("target")).unwrap();
    symlink("target", at("link")).unwrap();
    assert_refused(&stage, place(&at("link")), &at("link"), "symbolic link");
    assert_refused(&stage, place(&at("link/")), &at("link"), "symbolic link");
    fs::write(at("file"), "").unwrap();
    assert_refused(&stage, place(&at("file")), &at("file"), "not a directory");
    for mode in [0o775, 0o757, 0o777] {
        set_mode(&at("target"), mode);
        assert_refused(&stage, place(&at("target")), &at("target"), "written by others");
    }
    assert_eq!(fs::read_dir(at("target")).unwrap().count(), 0);

    // Sticky: everybody may add, and nobody may replace what is ours.
    set_mode(&at("target"), 0o1777);
    place(&at("target")).run().expect_code(0);
    assert!(stage.work().join("ran").exists());
}

#[test]
fn what_somebody_put_where_sessions_go_is_refused() {
    let stage = Stage::new();
    let inside = stage.sessions().join(".tfguard-sessions");
    let target = stage.dir().join("target");
    fs::create_dir(&target).unwrap();
    // Wherever it is looked for: a place of the CI's is not passed over for this.
    let runs = || [touch(&stage), touch(&stage).env_remove("TFGUARD_DIR").env("RUNNER_TEMP", stage.sessions())];

    symlink(&target, &inside).unwrap();
    for run in runs() {
        assert_refused(&stage, run, &inside, "symbolic link");
    }
    fs::remove_file(&inside).unwrap();
    fs::write(&inside, "").unwrap();
    for run in runs() {
        assert_refused(&stage, run, &inside, "not a directory");
    }
    fs::remove_file(&inside).unwrap();
    fs::create_dir(&inside).unwrap();
    set_mode(&inside, 0o770);
    for run in runs() {
        assert_refused(&stage, run, &inside, "written by others");
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 0);
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        skipped("what_belongs_to_somebody_else_is_refused: only root can give a directory away");
        return;
    }
    let stage = Stage::new();
    let inside = stage.sessions().join(".tfguard-sessions");
    fs::create_dir(&inside).unwrap();
    for foreign in [inside, stage.sessions()] {
        chown(&foreign, Some(12345), None).unwrap();
        assert_refused(&stage, touch(&stage), &foreign, "belongs to user 12345");
    }
}

/// The one session, once all is written that is written at the start: front and supervisor may be slower than the child.
#[track_caller]
fn begun(stage: &Stage) -> PathBuf {
    let [session] = stage.session_dirs().try_into().unwrap();
    let deadline = Instant::now() + SOON;
    let journal = || serde_json::from_slice::<Value>(&fs::read(session.join("journal.json")).unwrap()).unwrap();
    while !session.join("progress").exists() || journal()["child"].is_null() {
        assert!(Instant::now() < deadline, "not written");
        thread::yield_now();
    }
    session
}

#[test]
fn everything_in_it_is_private_and_gone_at_the_end() {
    let stage = Stage::new();
    let secret = "hunter2-hunter2";
    let command = stage.actor().into_iter().chain([format!("-var=password={secret}").into()]);
    let script = "umask 0; exec \"$@\"";
    let run = stage.script_of(script, &["--report", "report"], command.collect::<Vec<_>>());
    let run = run.env("TF_VAR_password", secret).start();
    let child = stage.enter();
    let session = begun(&stage);
    for dir in [session.parent().unwrap(), &session] {
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o700, "{}", dir.display());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&session).unwrap().map(Result::unwrap) {
        let found = entry.metadata().unwrap();
        // The links, where there is a Terraform on PATH.
        if entry.file_name() == "bin" {
            assert!(found.is_dir() && found.mode() & 0o7777 == 0o700, "{entry:?} {:o}", found.mode());
            continue;
        }
        assert!(found.is_file() && found.mode() & 0o7777 == 0o600, "{entry:?} {:o}", found.mode());
        let text = fs::read_to_string(entry.path()).unwrap();
        assert!(!text.contains(secret), "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(
        names,
        [
            ".gitignore",
            "child",
            "journal.json",
            "journal.spare",
            "progress",
            "stderr",
            "stdout",
            "supervisor.stderr",
            "terraform.log",
            "tfguard-session"
        ]
    );
    child.exit(1);
    run.wait(SOON).expect_code(1);
    stage.assert_clean();
    assert!(!stage.report("report").to_string().contains(secret));
}

#[test]
fn nothing_is_left_where_nothing_could_be_run() {
    let stage = Stage::new();
    stage.tfguard(&[], ["no-such-command"]).run().expect_code(127);
    stage.tfguard(&[], ["."]).run().expect_code(126);
    stage.assert_clean();
}

#[test]
fn runs_side_by_side_have_a_session_each() {
    let stage = Stage::new();
    let mut runs = Vec::new();
    for _ in 0..2 {
        let run = stage.guarded(&[]).start();
        let child = stage.enter();
        let log = child.ask("os.environ['TF_TEMP_LOG_PATH']").as_str().unwrap().to_owned();
        child.perform("os.write(1, str(os.getpid()).encode())");
        runs.push((run, child, log));
    }
    assert_eq!(stage.session_dirs().len(), 2);
    assert_ne!(runs[0].2, runs[1].2);
    for (run, child, log) in runs {
        assert!(Path::new(&log).exists());
        child.exit(0);
        assert_eq!(run.wait(SOON).expect_code(0).out(), child.pid.to_string());
        assert!(!Path::new(&log).exists());
    }
    stage.assert_clean();
}

/// Each takes the directory above away if it is the last, and needs it if it is the first.
#[test]
fn many_runs_come_and_go_in_one_place() {
    let stage = Stage::new();
    let run = || stage.tfguard(&[], ["echo", "x"]).run().expect_code(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..15).for_each(|_| assert_eq!((run().out(), run().err()), ("x\n".into(), String::new()))));
        }
    });
    stage.assert_clean();
}

const PLACES: [&str; 6] = [
    "RUNNER_TEMP",
    "CI_PROJECT_DIR",
    "BUILDKITE_BUILD_CHECKOUT_PATH",
    "AGENT_TEMPDIRECTORY",
    "WORKSPACE_TMP",
    "XDG_RUNTIME_DIR",
];

/// Where the session of such a run is.
#[track_caller]
fn session_of(run: Run) -> String {
    run.run().expect_code(0).out()
}

const SAY_LOG: [&str; 3] = ["sh", "-c", "printf %s \"$TF_TEMP_LOG_PATH\""];

#[test]
fn the_ci_tells_the_place() {
    let stage = Stage::new();
    let place = |name: &str| stage.dir().join(name);
    PLACES.iter().for_each(|name| fs::create_dir(place(name)).unwrap());
    let user = nix::unistd::geteuid();
    // The first `count` are named and not there; then comes the first that is.
    for count in 0..=PLACES.len() {
        let mut run = stage.tfguard(&[], SAY_LOG).env("TFGUARD_DIR", "").env("TMPDIR", stage.sessions());
        for (number, name) in PLACES.iter().enumerate() {
            run = run.env(name, if number < count { place("missing") } else { place(name) });
        }
        let expected = match PLACES.get(count) {
            Some(name) => place(name).join(".tfguard-sessions"),
            None => stage.sessions().join(format!("tfguard-{user}")),
        };
        let log = session_of(run);
        assert!(Path::new(&log).starts_with(&expected), "{log} is not in {}", expected.display());
        assert!(!expected.exists());
    }
}

#[test]
fn a_chosen_place_wins_is_made_and_may_be_relative() {
    let stage = Stage::new();
    let run = stage.tfguard(&[], SAY_LOG).env("TFGUARD_DIR", "made/for it").env("RUNNER_TEMP", stage.sessions());
    let log = session_of(run);
    let made = stage.work().canonicalize().unwrap().join("made/for it");
    assert!(Path::new(&log).starts_with(made.join(".tfguard-sessions")), "{log}");
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o700);
}

/// What `unshare` is to run so that the place for sessions is a small, or read-only, file system of its own.
fn mounted(stage: &Stage, options: &str, before: &str, run: Run) -> Run {
    run.args(["-rm", "sh", "-c"]).arg(format!(
        "mount -t tmpfs -o {options},mode=755 tmpfs '{}' && {before} && exec \"$@\"",
        stage.sessions().display()
    ))
}

fn may_mount(test: &str) -> bool {
    let may = Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success());
    if !may {
        skipped(&format!("{test}: no user and mount namespaces here (unshare -rm)"));
    }
    may
}

#[test]
fn a_read_only_place_is_refused_or_passed_over() {
    if !may_mount("a_read_only_place_is_refused_or_passed_over") {
        return;
    }
    let stage = Stage::new();
    let readonly = || mounted(&stage, "ro", "true", stage.run("unshare")).args(["sh", TFGUARD, "--"]);
    assert_refused(&stage, readonly().args(["touch", "ran"]), &stage.sessions(), "Read-only file system");
    let run = readonly().args(SAY_LOG).env_remove("TFGUARD_DIR").env("RUNNER_TEMP", stage.sessions());
    let log = session_of(run.env("CI_PROJECT_DIR", stage.work()));
    assert!(Path::new(&log).starts_with(stage.work().join(".tfguard-sessions")), "{log}");
}

/// tfguard on a place of so many pages, of which the first are taken.
fn on_pages(stage: &Stage, pages: u32) -> Run {
    let before = match pages {
        0 => "echo > \"$TFGUARD_DIR/filler\"",
        _ => "true",
    };
    mounted(stage, &format!("size={}k", 4 * pages.max(1)), before, stage.run("unshare")).args(["sh", TFGUARD])
}

/// However little room there is: either nothing is run, or it is run and supervised as always.
#[test]
fn a_disk_that_is_full_or_fills_up_is_not_the_childs_trouble() {
    if !may_mount("a_disk_that_is_full_or_fills_up_is_not_the_childs_trouble") {
        return;
    }
    let stage = Stage::new();
    let mut codes = Vec::new();
    // Up to what the journal, its spare and the log are reserved.
    for pages in (0..44).step_by(3) {
        let run = on_pages(&stage, pages).args(["--", "sh", "-c", "touch ran; echo out; exit 7"]);
        let exit = run.run();
        codes.push(exit.code.unwrap());
        let ran = fs::remove_file(stage.work().join("ran")).is_ok();
        match exit.code {
            Some(7) => assert!(ran, "{pages} pages: {exit}"),
            Some(125) => assert!(!ran && exit.err().contains("No space left on device"), "{pages} pages: {exit}"),
            _ => panic!("{pages} pages: {exit}"),
        }
        if !ran {
            continue;
        }
        let run = on_pages(&stage, pages).args(["-v", "--"]).args(stage.actor()).start();
        let child = stage.enter();
        run.signal(SIGTERM);
        child.wait_for_signal(SIGINT);
        run.signal(SIGTERM);
        child.exit(9);
        run.wait(SOON).expect_code(9);
        assert_eq!(child.signals(), ["SIGINT"], "{pages} pages");
        let run = on_pages(&stage, pages).args(["--grace", "0s", "--"]).args(stage.actor()).start();
        let child = stage.enter();
        run.signal(SIGTERM);
        run.wait(SOON).expect_code(128 + 9);
        child.wait_for_end();
        stage.guard.assert_no_process_left(SOON);
    }
    assert_eq!((codes.first(), codes.last()), (Some(&125), Some(&7)), "{codes:?}");
}

#[test]
fn output_that_is_cut_off_by_a_limit_is_told_of_once() {
    let stage = Stage::new();
    let limited = |bytes: u32| {
        let write = format!("head -c {bytes} /dev/zero; head -c 100 /dev/zero >&2; exit 7");
        // In blocks of 512 bytes, as POSIX has it.
        let run =
            stage.run("dash").args(["-c", "ulimit -f 2048; exec \"$@\"", "dash", TFGUARD, "--", "dash", "-c", &write]);
        let exit = run.run().expect_code(7);
        (exit.stdout.len(), exit.err().matches("the command's output is incomplete from here: it has reached").count())
    };
    assert_eq!(limited(1_000_000), (1_000_000, 0));
    assert_eq!(limited(3_000_000), (2048 * 512, 1));
}

/// Guards a lock that nobody would know of: what the journal and the log need was taken before the disk was full.
#[test]
fn a_disk_that_fills_up_during_the_run_keeps_journal_and_log() {
    if !may_mount("a_disk_that_fills_up_during_the_run_keeps_journal_and_log") {
        return;
    }
    let stage = Stage::new();
    let run = on_pages(&stage, 60).args(["--report", "report", "--"]).args(stage.actor()).start();
    let child = stage.enter();
    // Begun in full, so that nothing of it is still to be written.
    let root = Path::new("/proc").join(child.pid.to_string()).join("root");
    let log = child.ask("os.environ['TF_TEMP_LOG_PATH']");
    let journal = root.join(Path::new(log.as_str().unwrap()).with_file_name("journal.json").strip_prefix("/").unwrap());
    let journal = || serde_json::from_slice::<Value>(&fs::read(&journal).unwrap()).unwrap();
    let deadline = Instant::now() + SOON;
    while journal()["child"].is_null() {
        assert!(Instant::now() < deadline, "not written");
        thread::yield_now();
    }
    child.perform(
        "import errno\n\
         written, full = 0, False\n\
         while not full:\n\
         \ttry: written += os.write(1, b'x' * 1000)\n\
         \texcept OSError as error: full = error.errno == errno.ENOSPC",
    );
    let written = child.ask("written").as_u64().unwrap();
    child.perform(
        "log = os.open(os.environ['TF_TEMP_LOG_PATH'], os.O_WRONLY | os.O_APPEND)
version = b'2026-01-01T00:00:00.000Z [INFO]  Terraform version: 1.11.4\\n'
logged = os.write(log, version + b'x' * (15999 - len(version)) + b'\\n')",
    );
    assert_eq!(child.ask("logged"), 16_000);
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    // Written down before the signal was sent, and again.
    assert_eq!(journal()["account"]["requests"].as_array().unwrap().len(), 1);
    assert!(!journal()["interrupted"].as_array().unwrap().is_empty());
    run.signal(SIGTERM);
    while journal()["account"]["requests"].as_array().unwrap().len() != 2 {
        assert!(Instant::now() < deadline, "not written");
        thread::yield_now();
    }
    child.exit(7);
    let exit = run.wait(SOON).expect_code(7);
    assert_eq!(exit.stdout.len() as u64, written);
    assert!(!exit.err().contains("cannot write the journal"), "{exit}");
    assert_eq!(exit.err().matches("output is incomplete from here: no space is left").count(), 1, "{exit}");
    assert_eq!(child.signals(), ["SIGINT"]);
    let report = stage.report("report");
    assert_eq!(report["ending"]["code"], 7);
    assert_eq!(report["troubles"].as_array().unwrap().len(), 0, "{report}");
    stage.guard.assert_no_process_left(SOON);
}

/// Why nothing is tried of the directories above a place: in a container of a job everybody who is there may write to them.
fn is_contained() -> bool {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let contained = namespace != Path::new("pid:[4026531836]");
    if contained {
        skipped("a PID namespace of its own: directories above a place are not checked there");
    }
    contained
}

/// Guards against somebody who puts a directory of his own in the place of one above the sessions.
#[test]
fn a_place_below_what_others_could_replace_is_not_used() {
    if is_contained() {
        return;
    }
    let stage = Stage::new();
    let above = stage.dir().join("above");
    let place = above.join("between/place");
    fs::create_dir_all(&place).unwrap();
    set_mode(&place, 0o755);
    set_mode(&above.join("between"), 0o755);
    let own = nix::unistd::geteuid().as_raw();
    let mut wrong = vec![("written by others", 0o777, own), ("written by others", 0o757, own)];
    if own == 0 {
        wrong.push(("belongs to user 12345", 0o755, 12345));
    }
    let elsewhere = stage.sessions();
    for (why, mode, owner) in wrong {
        set_mode(&above, mode);
        chown(&above, Some(owner), None).unwrap();
        assert_refused(&stage, touch(&stage).env("TFGUARD_DIR", &place), &above, why);
        // A CI's place is passed over, and it is said.
        let run = stage.tfguard(&[], SAY_LOG).env_remove("TFGUARD_DIR").env("RUNNER_TEMP", &place);
        let exit = run.env("CI_PROJECT_DIR", &elsewhere).run().expect_code(0);
        assert!(Path::new(&exit.out()).starts_with(&elsewhere) && exit.err().contains(why), "{exit}");
        // So it is by a cleanup step, unless there may be a session.
        let release = |stage: &Stage| stage.run(TFGUARD).arg("release").env("TFGUARD_DIR", &place).run();
        release(&stage).expect_code(0);
        fs::create_dir(place.join(".tfguard-sessions")).unwrap();
        let exit = release(&stage).expect_code(125);
        assert!(exit.err().contains(why) && exit.err().contains(above.to_str().unwrap()), "{exit}");
        fs::remove_dir(place.join(".tfguard-sessions")).unwrap();
    }
    // Nobody can rename what is somebody else's in there.
    chown(&above, Some(own), None).unwrap();
    set_mode(&above, 0o1777);
    touch(&stage).env("TFGUARD_DIR", &place).run().expect_code(0);
}

/// Guards the checkouts of runners with the umask 002, and the directories of their user's private group.
#[test]
fn what_only_the_users_own_group_can_write_to_serves_a_ci() {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let group = nix::unistd::Group::from_gid(nix::unistd::getegid()).ok().flatten();
    if is_contained() || user.is_none() || user.map(|user| user.name) != group.map(|group| group.name) {
        skipped("what_only_the_users_own_group_can_write_to_serves_a_ci: this user has no private group");
        return;
    }
    let stage = Stage::new();
    let place = stage.dir().join("above/place");
    fs::create_dir_all(&place).unwrap();
    for dir in [place.parent().unwrap(), &place] {
        set_mode(dir, 0o775);
    }
    let run = || stage.tfguard(&[], SAY_LOG).env_remove("TFGUARD_DIR").env("CI_PROJECT_DIR", &place);
    assert!(Path::new(&session_of(run())).starts_with(&place));
    if nix::unistd::geteuid().is_root() {
        // A group that others may be in.
        chown(&place, None, Some(12345)).unwrap();
        let exit = run().env("XDG_RUNTIME_DIR", stage.sessions()).run().expect_code(0);
        assert!(Path::new(&exit.out()).starts_with(stage.sessions()), "{exit}");
        assert!(exit.err().contains("written by others"), "{exit}");
    }
}

/// Guards the sources of a checkout that has directories of tfguard's names, at a run and at a cleanup step.
#[test]
fn a_checkout_keeps_what_is_in_it() {
    let stage = Stage::new();
    let place = stage.dir().join("checkout");
    let files = [
        "tfguard/main.tf",
        "tfguard/old/module.tf",
        "tfguard/20260101T000000-1-0/journal.json",
        ".tfguard-sessions/notes",
        ".tfguard-sessions/src/main.tf",
        ".tfguard-sessions/20260101T000000-1-0/main.tf",
        ".tfguard-sessions/20260101T000000-1-1/terraform.log",
        ".tfguard-sessions/20260101T000000-1-2/tfguard-session",
    ];
    for file in files {
        let path = place.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    // Private, too, but for the one that is marked, as by a checkout; and as old as can be.
    let script = "find . -type d -exec chmod 700 {} + ; chmod 755 .tfguard-sessions/*-2; find . -exec touch -d @0 {} +";
    let made = Command::new("sh").args(["-c", script]).current_dir(&place).status().unwrap();
    assert!(made.success());
    let is_there = || {
        let entries = Command::new("find").args([".", "-type", "f"]).current_dir(&place).output().unwrap();
        let mut found: Vec<_> =
            String::from_utf8(entries.stdout).unwrap().lines().map(|line| line[2..].to_owned()).collect();
        found.sort();
        let mut expected = files.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected);
        files.iter().for_each(|file| assert_eq!(fs::read_to_string(place.join(file)).unwrap(), *file));
    };
    for variable in ["TFGUARD_DIR", "CI_PROJECT_DIR", "BUILDKITE_BUILD_CHECKOUT_PATH"] {
        let of_job = |run: Run| run.env_remove("TFGUARD_DIR").env(variable, &place);
        let log = session_of(of_job(stage.tfguard(&[], SAY_LOG)));
        assert!(Path::new(&log).starts_with(place.join(".tfguard-sessions")), "{log}");
        is_there();
        let exit = of_job(stage.run(TFGUARD).args(["release", "--wait", "1m"])).run().expect_code(0);
        for number in [0, 1] {
            assert!(exit.err().contains(&format!("20260101T000000-1-{number} is not a session's directory")), "{exit}");
        }
        is_there();
    }
}

/// Guards what a link points to that somebody puts into a session in mid-run, where the session's own files are or a file
/// aside could be.
#[test]
fn a_link_in_a_session_is_not_followed() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    let session = begun(&stage);
    let precious = stage.dir().join("precious");
    fs::write(&precious, "mine").unwrap();
    for name in ["journal.json.new", "journal.new", "release.lock"] {
        symlink(&precious, session.join(name)).unwrap();
    }
    for name in ["journal.json", "progress", "child"] {
        fs::remove_file(session.join(name)).unwrap();
        symlink(&precious, session.join(name)).unwrap();
    }
    run.signal(SIGTERM);
    child.wait_for_signal(SIGINT);
    child.perform("os.write(1, b'some output')");
    child.exit(1);
    let exit = run.wait(SOON).expect_code(1);
    assert!(exit.out() == "some output", "{exit}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
    // Known names are unlinked; those that tfguard gives to nothing stay, and are named.
    assert!(exit.err().contains("stays, because tfguard did not make what is in it"), "{exit}");
    let mut names: Vec<_> = fs::read_dir(&session).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".gitignore", "journal.json.new", "journal.new", "tfguard-session"]);
    stage.guard.assert_no_process_left(SOON);
}

/// Guards against silence over a lock, where a script cleans the checkout that the sessions are in (`git clean -ffdx`).
#[test]
fn a_session_that_is_removed_meanwhile_is_told_of() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    begun(&stage);
    fs::remove_dir_all(stage.sessions()).unwrap();
    crate::support::kill(child.pid.as_raw());
    let exit = run.wait(SOON).expect_code(120);
    assert!(exit.err().contains("the session's directory was removed"), "{exit}");
    stage.guard.assert_no_process_left(SOON);
}

/// Guards against "its locks are accounted for" where the disk was full and Terraform's word of its lock was lost.
#[test]
fn a_log_that_lacks_its_end_is_no_word_that_there_is_no_lock() {
    let version = "2026-11-20T04:11:21.822Z [INFO]  Terraform version: 1.11.4\\n";
    for (logged, code) in [("", 120), ("2026-11-20T04:11:21.822Z [INFO]  Terra", 120), (version, 137)] {
        let stage = Stage::new();
        let terraform = stage.dir().join("terraform");
        // tfguard sees at some moment who has the log open.
        let script = format!("#!/bin/sh\nexec 3>>\"$TF_LOG_PATH\"\nprintf '{logged}' >&3\nsleep 1\nkill -9 $$\n");
        crate::support::make_program(&terraform, &script);
        let exit =
            stage.tfguard(&[], [&terraform]).args(["apply"]).env("PATH", "/usr/bin:/bin").run().expect_code(code);
        let told = exit.err().contains("Terraform's log");
        assert_eq!(told, code == 120, "{logged:?}: {exit}");
        stage.guard.assert_no_process_left(SOON);
    }
}

/// Guards against silence over a second lock, whose record was lost, where the log tells of one.
#[test]
fn nor_is_it_where_the_log_tells_of_another_lock() {
    let stage = Stage::new();
    let run = stage.tfguard(&["--on-death", "keep"], [terraform(&stage)]).args(["apply"]).start();
    let child = under_lock(&stage);
    child.perform("log.write(b'2026-11-20T04:11:21.822Z [INFO]  backend-s3: Attem')");
    crate::support::kill(child.pid.as_raw());
    let exit = run.wait(SOON).expect_code(120);
    assert!(exit.err().contains("the end of Terraform's log is torn"), "{exit}");
    stage.guard.assert_no_process_left(SOON);
}
