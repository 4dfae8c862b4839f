//! A guarded command is what it would be without tfguard (P5), and tfguard's own trouble is not its (P6).

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;

use crate::stage::*;
use crate::support::*;
use nix::sys::signal::Signal::{SIGINT, SIGTERM};

/// Bytes of every kind, no newline at the end.
fn binary() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    bytes.push(0xff);
    bytes
}

fn sh(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

#[test]
fn stdin_is_the_childs() {
    let stage = Stage::new();
    let bytes = binary();
    let exit = stage.tfguard(&[], ["cat"]).stdin(Stdin::Bytes(bytes.clone())).run().expect_code(0);
    assert!(exit.stdout == bytes, "a pipe");

    fs::write(stage.work().join("input"), &bytes).unwrap();
    let exit = stage.script_of("exec \"$@\" < input", &[], ["cat"]).run().expect_code(0);
    assert!(exit.stdout == bytes, "a file");

    let exit = stage.tfguard(&[], ["cat"]).run().expect_code(0);
    assert!(exit.stdout.is_empty(), "/dev/null");

    let answer = sh("read answer; echo \"<$answer>\"");
    let exit = stage.script_of("echo yes | \"$@\"", &[], answer).run().expect_code(0);
    assert_eq!(exit.out(), "<yes>\n");
}

#[test]
fn stdin_can_be_typed_while_the_child_runs() {
    let stage = Stage::new();
    let question = sh("printf 'Enter a value: '; read answer; echo \"<$answer>\"");
    let mut run = stage.tfguard(&[], question).stdin(Stdin::Open).start();
    run.wait_for_stdout("Enter a value: ", SOON);
    run.write(b"yes\n");
    assert_eq!(run.wait(SOON).expect_code(0).out(), "Enter a value: <yes>\n");
}

/// Guards against a front or supervisor that keeps the pipe open behind a child that reads no more.
#[test]
fn who_writes_to_stdin_sees_the_child_close_it() {
    let stage = Stage::new();
    let run = stage.script("(yes; echo ended >&2) | \"$@\"", &[]).start();
    let child = stage.enter();
    child.perform("os.close(0)");
    run.wait_for_stderr("ended", SOON);
    assert!(!child.is_gone());
    child.exit(0);
    run.wait(SOON).expect_code(0);
}

/// Guards the output of a script that opens its stderr by name, which empties the file behind it.
#[test]
fn what_comes_after_the_output_was_emptied_is_not_lost() {
    let stage = Stage::new();
    let script =
        "echo first >&2; read go; echo 2 > /dev/stderr; echo third >&2; read go; echo fourth and longer > /dev/stderr";
    let mut run = stage.tfguard(&[], sh(script)).stdin(Stdin::Open).start();
    for (heard, go) in [("first\n", "go\n"), ("2\nthird\n", "go\n")] {
        run.wait_for_stderr(heard, SOON);
        run.write(go.as_bytes());
    }
    assert_eq!(run.wait(SOON).expect_code(0).err(), "first\n2\nthird\nfourth and longer\n");
}

#[test]
fn both_streams_come_byte_for_byte_and_nothing_else_does() {
    let stage = Stage::new();
    let bytes = binary();
    fs::write(stage.work().join("a"), &bytes).unwrap();
    for (script, code, stdout, stderr) in [
        ("cat a", 0, &bytes[..], &b""[..]),
        ("cat a >&2", 0, b"", &bytes),
        ("cat a; cat a >&2; exit 1", 1, &bytes, &bytes),
        ("exit 2", 2, b"", b""),
        ("printf o; printf e >&2", 0, b"o", b"e"),
    ] {
        let exit = stage.tfguard(&[], sh(script)).run();
        assert_eq!(exit.code, Some(code), "{script}");
        assert!(exit.stdout == stdout && exit.stderr == stderr, "{script}: {}", exit.err());
    }
    stage.assert_clean();
}

#[test]
fn output_comes_while_the_child_runs() {
    let stage = Stage::new();
    let run = stage.guarded(&[]).start();
    let child = stage.enter();
    child.perform("os.write(1, b'half a line')");
    run.wait_for_stdout("half a line", SOON);
    child.perform("os.write(2, b'to stderr')");
    run.wait_for_stderr("to stderr", SOON);
    child.exit(0);
    run.wait(SOON).expect_code(0);
}

#[test]
fn where_both_streams_are_one_their_order_is_kept() {
    let stage = Stage::new();
    let command = sh("n=0; while [ $n -lt 1000 ]; do echo o$n; echo e$n >&2; n=$((n + 1)); done");
    let expected: String = (0..1000).map(|n| format!("o{n}\ne{n}\n")).collect();
    let exit = stage.script_of("exec \"$@\" 2>&1", &[], command).run().expect_code(0);
    assert!(exit.out() == expected, "a pipe: {exit}");

    for redirection in ["> file 2>&1", ">> file 2>> file"] {
        let _ = fs::remove_file(stage.work().join("file"));
        stage.script_of(&format!("exec \"$@\" {redirection}"), &[], command).run().expect_code(0);
        assert!(fs::read_to_string(stage.work().join("file")).unwrap() == expected, "{redirection}");
    }
}

#[test]
fn hundreds_of_megabytes_pass_in_bounded_memory() {
    const PIECES: u64 = 300;
    let piece = |n: u64| n.to_be_bytes().repeat(1 << 17);
    let stage = Stage::new();
    let mut run = stage.guarded(&[]).hand_stdout().start();
    let mut stdout = run.take_stdout();
    let child = stage.enter();
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        for n in 0..PIECES {
            stdout.read_exact(&mut buffer).unwrap();
            assert!(buffer == piece(n), "piece {n}");
        }
        stdout
    });
    child.perform(&format!("for n in range({PIECES}): assert os.write(1, n.to_bytes(8) * (1 << 17)) == 1 << 20"));
    let mut stdout = reader.join().unwrap();
    for pid in [run.pid(), child.parent] {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        assert!(kib < 64 * 1024, "{pid}: {kib} KiB");
    }
    child.exit(0);
    run.wait(SOON).expect_code(0);
    assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
    stage.assert_clean();
}

#[test]
fn every_exit_code_is_passed_on() {
    let stage = Stage::new();
    let expect = |script: &str, code: i32| {
        let exit = stage.tfguard(&[], sh(script)).run();
        assert_eq!(exit.code, Some(code), "{script}");
        exit
    };
    thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                for code in (part * 64)..(part * 64 + 64) {
                    let exit = expect(&format!("exit {code}"), code);
                    assert!(exit.stdout.is_empty() && exit.stderr.is_empty(), "{exit}");
                }
            });
        }
    });
    stage.assert_clean();
}

#[test]
fn a_death_by_signal_gives_128_and_its_number() {
    let stage = Stage::new();
    // Those that end a process which does not care: all but CHLD, CONT, the four that stop, URG and WINCH.
    for signal in (1..=31).filter(|signal| ![17, 18, 19, 20, 21, 22, 23, 28].contains(signal)) {
        let exit = stage.tfguard(&[], sh(&format!("ulimit -c 0; kill -{signal} $$"))).run();
        assert_eq!(exit.code, Some(128 + signal), "{exit}");
        assert!(exit.err().starts_with("tfguard: sh died of "), "{exit}");
    }
    stage.assert_clean();
}

#[test]
fn what_cannot_be_run_gives_the_codes_of_a_shell() {
    let stage = Stage::new();
    fs::write(stage.work().join("plain"), "text").unwrap();
    make_program(&stage.work().join("broken"), "#!/does/not/exist\n");
    make_program(&stage.work().join("bare"), "exit 5\n");
    for (command, code) in
        [("no-such-command", 127), ("./none", 127), ("./broken", 127), ("./plain", 126), (".", 126), ("./bare", 5)]
    {
        let exit = stage.tfguard(&[], [command]).run().expect_code(code);
        assert_eq!(exit.err().is_empty(), code == 5, "{exit}");
        assert!(code == 5 || exit.err().starts_with(&format!("tfguard: error: {command}: ")), "{exit}");
        assert!(exit.stdout.is_empty());
    }
    stage.assert_clean();
}

#[test]
fn bad_options_give_125_and_run_nothing() {
    let stage = Stage::new();
    let bad: &[&[&str]] = &[
        &["--"],
        &["touch", "ran"],
        &["--nonsense", "--", "touch", "ran"],
        &["--grace", "5 parsecs", "--", "touch", "ran"],
        &["--grace", "--", "touch", "ran"],
        &["--deadline", "-5m", "--", "touch", "ran"],
        &["--on-death", "panic", "--", "touch", "ran"],
        &["--attach", "--detach", "--", "touch", "ran"],
        &["-q", "-v", "--", "touch", "ran"],
    ];
    for arguments in bad {
        let exit = stage.run(TFGUARD).args(*arguments).run().expect_code(125);
        assert!(exit.stdout.is_empty() && exit.err().contains("hint: "), "{arguments:?} {exit}");
    }
    for (name, value) in [("TFGUARD_GRACE", "soon"), ("TFGUARD_DEADLINE", "1"), ("TFGUARD_ON_DEATH", "x")] {
        stage.tfguard(&[], ["touch", "ran"]).env(name, value).run().expect_code(125);
    }
    assert!(!stage.work().join("ran").exists());
    stage.assert_clean();
}

/// Guards against a pipeline-wide `TFGUARD_VERBOSE=1`, or an empty input passed on, that ends every run with 125.
#[test]
fn variables_that_choose_nothing_or_say_no_are_no_choice() {
    let stage = Stage::new();
    for name in
        ["GRACE", "DEADLINE", "ON_DEATH", "REPORT", "LOG_FORMAT", "VERBOSE", "QUIET", "ATTACH", "OUTLIVE_PARENT"]
    {
        let exit = stage.tfguard(&[], ["true"]).env(format!("TFGUARD_{name}"), "").run().expect_code(0);
        assert_eq!(exit.err(), "", "{name}");
    }
    for (value, says) in [("1", true), ("true", true), ("yes", true), ("0", false), ("false", false), ("No", false)] {
        let exit = stage.tfguard(&[], ["true"]).env("TFGUARD_VERBOSE", value).run().expect_code(0);
        assert_eq!(!exit.err().is_empty(), says, "{value}");
    }
    let exit = stage.tfguard(&["-v"], ["true"]).env("TFGUARD_QUIET", "false").run().expect_code(0);
    assert!(!exit.err().is_empty());
}

#[test]
fn what_is_typed_overrules_a_variable_that_says_the_opposite() {
    let stage = Stage::new();
    for (variable, typed, says) in [("VERBOSE", "--quiet", false), ("QUIET", "-v", true), ("ATTACH", "--detach", false)]
    {
        let exit = stage.tfguard(&[typed], ["true"]).env(format!("TFGUARD_{variable}"), "1").run().expect_code(0);
        assert_eq!(!exit.err().is_empty(), says, "{exit}");
    }
    // An option that a command by hand would pass over in silence.
    let exit = stage.run(TFGUARD).args(["--report", "f", "unlock", "an-id"]).run().expect_code(2);
    assert!(exit.err().contains("behind it"), "{exit}");
    let exit = stage.tfguard(&["-v", "-q"], ["true"]).run().expect_code(125);
    assert!(exit.err().contains("cannot be used with"), "{exit}");
}

#[test]
fn help_and_version_are_answers() {
    let stage = Stage::new();
    let exit = stage.run(TFGUARD).arg("--version").run().expect_code(0);
    assert_eq!(exit.out(), crate::VERSION);
    assert!(crate::VERSION.contains(&format!("({}-unknown-linux-", std::env::consts::ARCH)), "{exit}");
    let exit = stage.run(TFGUARD).arg("--help").run().expect_code(0);
    for word in ["--grace", "TFGUARD_REPORT", "Exit codes:", "128 + n", "-- <COMMAND>"] {
        assert!(exit.out().contains(word), "{word}: {exit}");
    }
    assert!(exit.stderr.is_empty() && !exit.out().contains("--supervise"), "{exit}");
}

#[test]
fn arguments_are_passed_on_as_they_are() {
    let stage = Stage::new();
    let arguments: Vec<OsString> = [
        &b""[..],
        b" ",
        b"a b",
        b"'\"\\$HOME`*",
        b"new\nline",
        b"\xff\xfe",
        b"--",
        b"-v",
        b"--help",
        b"--supervise",
        b"-var=x={\"a\": [1]}",
    ]
    .map(|bytes| OsStr::from_bytes(bytes).to_owned())
    .into();
    let command = ["printf", "<%s>\\0"].map(OsString::from).into_iter().chain(arguments.clone());
    let exit = stage.tfguard(&[], command.collect::<Vec<_>>()).run().expect_code(0);
    let expected: Vec<u8> = arguments.iter().flat_map(|word| [b"<", word.as_bytes(), b">\0"].concat()).collect();
    assert_eq!(exit.stdout, expected, "{exit}");
}

/// Guards against two shims that took each other for the real program and started one another without end.
#[test]
fn two_installations_do_not_call_each_other() {
    let stage = Stage::new();
    let at = |name: &str| stage.dir().join(name);
    for name in ["copy", "real"] {
        fs::create_dir(at(name)).unwrap();
    }
    // By another process, for the reason that `make_program` has.
    stage.run("cp").arg(TFGUARD).arg(at("copy/tfguard")).run().expect_code(0);
    make_program(&at("real/terraform"), "#!/bin/sh\necho real \"$@\"\n");
    stage.run(TFGUARD).args(["shim", "--dir"]).arg(at("one")).run().expect_code(0);
    stage.run(at("copy/tfguard")).args(["shim", "--dir"]).arg(at("two")).run().expect_code(0);
    let path = std::env::join_paths([at("one"), at("two"), at("one"), at("real"), "/usr/bin".into(), "/bin".into()]);
    for shim in ["one/terraform", "two/terraform"] {
        for argument in ["version", "apply"] {
            let exit = stage.run(at(shim)).arg(argument).env("PATH", path.as_ref().unwrap()).run().expect_code(0);
            assert_eq!((exit.out(), exit.err()), (format!("real {argument}\n"), String::new()));
        }
    }
    stage.assert_clean();
}

/// Guards against a shim that took away the link by which another tool puts its Terraform on PATH.
#[test]
fn a_shim_replaces_only_links_to_tfguard() {
    let stage = Stage::new();
    let links = stage.dir().join("links");
    let at = |name: &str| links.join(name);
    let shim = || stage.run(TFGUARD).args(["shim", "--dir"]).arg(&links).run();
    let targets = || ["terraform", "tofu"].map(|name| fs::read_link(at(name)).ok());
    let own = Some(PathBuf::from(TFGUARD));
    fs::create_dir(&links).unwrap();
    // Old installations, one of which is gone.
    symlink(stage.dir().join("gone/tfguard-0.0.9"), at("terraform")).unwrap();
    symlink(TFGUARD, at("tofu")).unwrap();
    shim().expect_code(0);
    assert_eq!(targets(), [own.clone(), own.clone()]);

    make_program(&stage.dir().join("chosen"), "#!/bin/sh\n");
    for target in [stage.dir().join("chosen"), stage.dir().join("gone/tofu")] {
        fs::remove_file(at("terraform")).unwrap();
        symlink(stage.dir().join("gone/tfguard"), at("terraform")).unwrap();
        fs::remove_file(at("tofu")).unwrap();
        symlink(&target, at("tofu")).unwrap();
        let before = targets();
        let exit = shim().expect_code(125);
        assert_eq!(targets(), before, "{exit}");
        for part in [at("tofu").display(), target.display()] {
            assert!(exit.err().contains(&part.to_string()), "{part} {exit}");
        }
        assert!(exit.err().contains("hint: "), "{exit}");
    }
    fs::remove_file(at("tofu")).unwrap();
    fs::write(at("tofu"), "a program").unwrap();
    let before = targets();
    shim().expect_code(125);
    assert_eq!((targets(), fs::read(at("tofu")).unwrap()), (before, b"a program".to_vec()));
    stage.assert_clean();
}

#[test]
fn the_working_directory_is_kept() {
    let stage = Stage::new();
    let dir = stage.work().join(OsStr::from_bytes(b"d\xff ir"));
    fs::create_dir(&dir).unwrap();
    let run = stage.tfguard(&["--report", "report"], ["/bin/pwd"]).current_dir(&dir);
    let exit = run.run().expect_code(0);
    assert_eq!(exit.stdout, [dir.canonicalize().unwrap().as_os_str().as_bytes(), b"\n"].concat());
    assert!(dir.join("report").is_file());
}

fn environment(run: Run) -> BTreeSet<Vec<u8>> {
    run.run().expect_code(0).stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

#[test]
fn the_environment_differs_by_what_is_documented() {
    let stage = Stage::new();
    let mark = |run: Run| {
        run.env("EMPTY", "")
            .env("TWO", "a\nb=c")
            .env("BYTES", OsString::from_vec(b"\xff\xfe".to_vec()))
            .env(OsString::from_vec(b"N\xff".to_vec()), "1")
            .env("TF_VAR_secret", "s")
            .env("TFGUARD_GRACE", "1m")
    };
    let difference = |name: &str, value: &str| {
        let bare = environment(mark(stage.run("env").arg("-0")).env(name, value));
        let guarded = environment(mark(stage.tfguard(&[], ["env", "-0"])).env(name, value));
        assert!(bare.iter().any(|entry| entry == b"BYTES=\xff\xfe"));
        let gone: Vec<_> = bare.difference(&guarded).cloned().collect();
        let added: Vec<_> = guarded.difference(&bare).map(|entry| String::from_utf8(entry.clone()).unwrap()).collect();
        (gone, added)
    };
    // Whether there is a Terraform on PATH, and so a link, is this machine's.
    let is_path = |entry: &[u8]| entry.starts_with(b"PATH=");
    let sessions = format!("{}/.tfguard-sessions/", stage.sessions().display());
    for user in [("NOTHING", ""), ("TF_LOG", "debug")] {
        let (mut gone, mut added) = difference(user.0, user.1);
        gone.retain(|entry| !is_path(entry));
        added.retain(|entry| !is_path(entry.as_bytes()));
        assert!(gone.is_empty(), "{gone:?}");
        let [messages, session, log] = added.try_into().unwrap();
        assert_eq!(messages, "TFGUARD_CI_MESSAGES=off");
        assert!(session.starts_with(&format!("TFGUARD_SESSION={sessions}")), "{session}");
        assert!(log.starts_with(&format!("TF_TEMP_LOG_PATH={sessions}")), "{log}");
    }

    let (gone, _) = difference("RUNNER_TRACKING_ID", "github_1");
    assert!(gone.contains(&b"RUNNER_TRACKING_ID=github_1".to_vec()));
}

/// And none of tfguard's own is added.
#[test]
fn inherited_descriptors_are_kept() {
    let stage = Stage::new();
    fs::write(stage.work().join("in"), "from three\n").unwrap();
    let script = "exec 3< in 9> out; exec \"$@\"";
    let exit = stage.script_of(script, &[], sh("cat <&3; echo to nine >&9")).run().expect_code(0);
    assert_eq!(exit.out(), "from three\n");
    assert_eq!(fs::read_to_string(stage.work().join("out")).unwrap(), "to nine\n");

    let list = ["ls", "/proc/self/fd"];
    let guarded = stage.script_of(script, &[], list).run().expect_code(0);
    let bare = stage.run("sh").args(["-c", script, "sh"]).args(list).run().expect_code(0);
    assert_eq!(guarded.out(), bare.out());
}

#[test]
fn the_umask_is_kept() {
    let stage = Stage::new();
    for umask in ["0027", "0000", "0077"] {
        let script = format!("umask {umask}; exec \"$@\"");
        let exit = stage.script_of(&script, &[], sh("umask")).run().expect_code(0);
        assert_eq!(exit.out().trim(), umask);
    }
}

/// Without tfguard it would die of SIGPIPE, and Terraform would leave its lock (P6 over P5).
#[test]
fn a_reader_that_goes_away_is_not_the_childs_trouble() {
    for reads_first in [true, false] {
        let stage = Stage::new();
        let mut run = stage.guarded(&[]).hand_stdout().start();
        let mut stdout = run.take_stdout();
        let child = stage.enter();
        if reads_first {
            child.perform("os.write(1, b'one\\n')");
            stdout.read_exact(&mut [0; 4]).unwrap();
        }
        drop(stdout);
        child.perform("for n in range(100): os.write(1, b'x' * 10000)");
        child.perform("os.write(2, b'still there')");
        run.wait_for_stderr("still there", SOON);
        child.exit(3);
        run.wait(SOON).expect_code(3);
        stage.assert_clean();
    }
}

#[test]
fn through_head() {
    let stage = Stage::new();
    let script = "{ \"$@\"; echo \"ended with $?\" >&2; } | head -n 1";
    let exit = stage.script_of(script, &[], sh("seq 100000; echo all > all; exit 7")).run().expect_code(0);
    assert_eq!((exit.out().as_str(), exit.err().as_str()), ("1\n", "ended with 7\n"));
    assert!(stage.work().join("all").exists());
}

#[test]
fn a_log_on_a_full_disk_is_not_the_childs_trouble() {
    let stage = Stage::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let exit = stage.tfguard(&[], sh("seq 100000; echo e >&2; exit 7")).stdout(full).run().expect_code(7);
    let err = exit.err();
    let ours: Vec<_> = err.lines().filter(|line| *line != "e").collect();
    assert!(err.lines().any(|line| line == "e") && ours.len() == 1, "{exit}");
    assert!(ours[0].contains("cannot be passed on any more: No space left"), "{exit}");
    stage.assert_clean();
}

#[test]
fn a_reader_that_stalls_stalls_nobody_and_misses_nothing() {
    for nonblocking in [false, true] {
        let stage = Stage::new();
        let (mut stdout, writer) = std::io::pipe().unwrap();
        if nonblocking {
            // As Node has its pipes.
            rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        }
        let run = stage.guarded(&[]).stdout(writer).start();
        let child = stage.enter();
        child.perform("os.write(1, bytes(range(256)) * 10000); os.write(2, b'not stalled')");
        run.wait_for_stderr("not stalled", SOON);
        let supervisor = Other::new(child.parent);
        child.exit(3);
        supervisor.wait_for_end();
        assert!(!run.has_ended());
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).unwrap();
        assert!(all == (0..=255).collect::<Vec<u8>>().repeat(10000), "nonblocking: {nonblocking}");
        run.wait(SOON).expect_code(3);
        stage.assert_clean();
    }
}

#[test]
fn streams_that_are_closed_at_the_start() {
    let stage = Stage::new();
    for (closed, stdout, stderr) in
        [("<&-", "o\n", "e\n"), (">&-", "", "e\n"), ("2>&-", "o\n", ""), (">&- 2>&-", "", ""), ("<&- >&- 2>&-", "", "")]
    {
        let script = format!("exec \"$@\" {closed}");
        let exit = stage.script_of(&script, &[], sh("echo o; echo e >&2; exit 6")).run().expect_code(6);
        assert_eq!((exit.out().as_str(), exit.err().as_str()), (stdout, stderr), "{closed}");
        stage.assert_clean();
    }
}

#[test]
fn what_a_killed_child_wrote_is_not_lost() {
    let stage = Stage::new();
    let run = stage.guarded(&["-q"]).start();
    let child = stage.enter();
    child.order_last("os.write(1, b'x' * 5_000_000); os.write(2, b'last words'); os.kill(os.getpid(), 9)");
    let exit = run.wait(SOON).expect_code(128 + 9);
    assert_eq!(exit.stdout.len(), 5_000_000);
    assert_eq!(exit.err(), "last words");
}

#[test]
fn its_own_words_have_a_prefix_or_are_json() {
    let stage = Stage::new();
    let stopped = |options: &[&str]| {
        let run = stage.guarded(options).start();
        let child = stage.enter();
        run.signal(SIGTERM);
        child.wait_for_signal(SIGINT);
        child.exit(1);
        let exit = run.wait(SOON).expect_code(1);
        assert!(exit.stdout.is_empty());
        exit.err()
    };
    assert_eq!(stopped(&["-q"]), "");
    let normal = stopped(&[]);
    let verbose = stopped(&["-v"]);
    assert!(normal.lines().chain(verbose.lines()).all(|line| line.starts_with("tfguard: ")), "{normal}{verbose}");
    assert!(normal.contains("stop requested: SIGTERM"), "{normal}");
    for (options, says) in [(&["-v"][..], true), (&[], false)] {
        let exit = stage.tfguard(options, sh("exit 1")).run().expect_code(1);
        assert_eq!(exit.err().contains("tfguard: sh ended with exit code 1"), says, "{exit}");
    }

    let json = stopped(&["-v", "--log-format", "json"]);
    let not_found = stage.tfguard(&["--log-format", "json"], ["no-such\ncommand"]).run().expect_code(127).err();
    assert!(!not_found.is_empty());
    for line in json.lines().chain(not_found.lines()) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["message"].is_string() && line["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn the_report_is_written_however_the_run_ends() {
    let stage = Stage::new();
    for (script, code, kind) in [("exit 0", 0, "exited"), ("exit 9", 9, "exited"), ("kill -15 $$", 143, "died")] {
        stage.tfguard(&["--report", "report"], sh(script)).run().expect_code(code);
        let report = stage.report("report");
        assert_eq!(report["schema"], 1);
        assert_eq!(report["exit_code"], code);
        assert_eq!(report["lock_left"], false);
        assert_eq!(report["ending"]["kind"], kind);
        assert_eq!(report["program"], "sh");
        assert!(report["ended"].is_string());
        assert!(!report.to_string().contains(script), "arguments may be secret");
        fs::remove_file(stage.work().join("report")).unwrap();
    }
    stage.tfguard(&[], sh("cd /; exit 1")).env("TFGUARD_REPORT", "by variable").run().expect_code(1);
    assert_eq!(stage.report("by variable")["exit_code"], 1);
    assert_eq!(fs::read_dir(stage.work()).unwrap().count(), 1, "no file aside is left");
}

/// Guards what a repository's link points to, and a device, from the report and its like; also the names that a file aside
/// could have, and whoever waits for a FIFO.
#[test]
fn a_report_replaces_nothing_but_a_file() {
    let stage = Stage::new();
    let at = |name: &str| stage.work().join(name);
    let outside = stage.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    let precious = outside.join("precious");
    fs::write(&precious, "mine").unwrap();
    for link in ["link", "good.new", "good.tmp"] {
        symlink(&precious, at(link)).unwrap();
    }
    symlink(outside.join("dangling"), at("dangling")).unwrap();
    symlink(&outside, at("directory")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let absolute = at("directory/report");
    for option in ["--report", "--dotenv"] {
        for target in
            ["link", "dangling", "directory/report", absolute.to_str().unwrap(), "fifo", ".", "missing/report"]
        {
            let exit = stage.tfguard(&[option, target], sh("exit 4")).run().expect_code(4);
            assert!(exit.err().contains("tfguard: warning: cannot write "), "{option} {target} {exit}");
            assert_eq!(exit.err().contains("is a symbolic link"), ["link", "dangling"].contains(&target), "{exit}");
        }
        stage.tfguard(&[option, "good"], sh("exit 4")).run().expect_code(4);
        assert!(!fs::read(at("good")).unwrap().is_empty());
        fs::remove_file(at("good")).unwrap();
    }
    let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!((names, fs::read_to_string(&precious).unwrap()), (vec!["precious".into()], "mine".to_owned()));
    for link in ["link", "good.new", "good.tmp", "dangling", "directory"] {
        assert!(at(link).is_symlink(), "{link}");
    }
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&fs::metadata(at("fifo")).unwrap().file_type()));
    // The working directory can be anywhere in the checkout.
    fs::create_dir(at(".git")).unwrap();
    fs::create_dir(at("infra")).unwrap();
    for target in [absolute.to_str().unwrap(), "../directory/report"] {
        let run = stage.tfguard(&["--report", target], sh("exit 4")).current_dir(at("infra"));
        let exit = run.run().expect_code(4);
        assert!(exit.err().contains("tfguard: warning: cannot write "), "{target} {exit}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{exit}");
    }
    // A link that is no part of the checkout is the user's own way of calling a directory.
    let elsewhere = stage.dir().join("elsewhere");
    symlink(stage.work(), &elsewhere).unwrap();
    stage.tfguard(&["--report", elsewhere.join("good").to_str().unwrap()], ["true"]).run().expect_code(0);
    assert_eq!(stage.report("good")["exit_code"], 0);
}
