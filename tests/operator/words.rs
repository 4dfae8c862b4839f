//! How the commands speak: each error once, with its cause and a hint; colours and widths where somebody sees them.

use std::path::Path;

use nix::sys::signal::Signal::SIGTERM;

use crate::TFGUARD;
use crate::operator::bed::{Bed, OWN, SOON, json, reach};
use crate::support::{Aws, Exit, Guard, Run};

const ESCAPE: char = '\u{1b}';
const RED_ERROR: &str = "tfguard: \u{1b}[1m\u{1b}[31merror:\u{1b}[0m ";
const CYAN_HINT: &str = "tfguard: \u{1b}[1m\u{1b}[36mhint:\u{1b}[0m ";

fn tfguard(guard: &Guard, dir: &Path, words: &[&str]) -> Run {
    Run::new(TFGUARD, guard).current_dir(dir).env("HOME", dir).env("AWS_EC2_METADATA_DISABLED", "true").args(words)
}

#[test]
fn without_credentials_there_is_one_line_and_a_hint_and_verbose_has_the_chain() {
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    let state = ["--bucket", "b", "--key", "k", "--table", "t", "--region", "eu-west-1"];
    let run = |command: &[&str], flags: &[&str]| tfguard(&guard, dir.path(), command).args(flags).run();
    for command in [&["inspect"][..], &["unlock", OWN], &["verify"], &["locks"]] {
        let flags =
            if command == ["locks"] { &["--bucket", "b", "--table", "t", "--region", "eu-west-1"][..] } else { &state };
        let exit = run(command, flags).expect_code(125);
        let all = exit.out() + &exit.err();
        assert_eq!(all.matches("no AWS credentials: neither").count(), 1, "{exit}");
        assert_eq!(all.matches("hint").count(), 1, "{exit}");
        assert!(all.contains("export AWS_PROFILE=") && !all.contains("provider"), "{exit}");
        let verbose = run(&[command, &["-v"]].concat(), flags).expect_code(125);
        assert!(verbose.err().contains("no credentials found in chain"), "{verbose}");
    }
    let listed =
        json(&run(&["locks", "--format", "json"], &["--table", "t", "--region", "eu-west-1"]).expect_code(125));
    let error = listed["summary"]["places"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("no AWS credentials: ") && !error.contains('\n'), "{listed:#}");
}

#[test]
fn a_setting_is_named_by_where_it_came_from() {
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    let state = ["verify", "--bucket", "b", "--key", "k", "--region", "eu-west-1"];
    let by_variable = tfguard(&guard, dir.path(), &state).env("AWS_PROFILE", "nobody").run().expect_code(125);
    assert!(by_variable.err().contains("the variable AWS_PROFILE cannot be used: "), "{by_variable}");
    let by_flag = tfguard(&guard, dir.path(), &state).args(["--profile", "nobody"]).run().expect_code(125);
    assert!(by_flag.err().contains("error: --profile cannot be used: "), "{by_flag}");
}

/// The SDK panics at these.
#[test]
fn what_cannot_be_sent_is_an_error_that_names_its_setting() {
    let bed = Bed::new();
    let file = bed.dir.path().join("credentials");
    let keys = "aws_secret_access_key = hush";
    std::fs::write(&file, format!("[bad]\naws_access_key_id = AKIAHUSH\u{1}\n{keys}\n")).unwrap();
    std::fs::write(
        bed.dir.path().join("config"),
        "[default]\ncredential_process = printf '%s' \
        '{\"Version\":1,\"AccessKeyId\":\"AKIAHUSH\\n\",\"SecretAccessKey\":\"hush\"}'\n",
    )
    .unwrap();
    let inspect = |region: &[&str]| {
        let url = bed.proxy.url();
        let state = ["inspect", "--bucket", &bed.bucket, "--key", "k", "--path-style", "--s3-endpoint", url];
        let run = tfguard(&bed.guard, bed.dir.path(), &state).args(["--table", &bed.table, "--dynamodb-endpoint", url]);
        run.args(region).envs([("AWS_ACCESS_KEY_ID", "AKIAHUSH"), ("AWS_SECRET_ACCESS_KEY", "hush")])
    };
    let region = ["--region", Aws::REGION];
    let by_file = |variable: &str, file: &str| {
        inspect(&region).env_remove("AWS_ACCESS_KEY_ID").env(variable, bed.dir.path().join(file))
    };
    for (run, told) in [
        (inspect(&region).env("AWS_ACCESS_KEY_ID", "AKIAHUSH\n"), "the variable AWS_ACCESS_KEY_ID cannot be used"),
        (inspect(&["--region", "us-east-1\n"]), "--region cannot be used"),
        (inspect(&[]).env("AWS_REGION", "us-east-1\r"), "the variable AWS_REGION cannot be used"),
        (by_file("AWS_SHARED_CREDENTIALS_FILE", "credentials").env("AWS_PROFILE", "bad"), "aws_access_key_id"),
        (by_file("AWS_CONFIG_FILE", "config"), "the ID of the key"),
    ] {
        let exit = run.run().expect_code(125);
        let said = exit.out() + &exit.err();
        assert!(said.contains(told) && said.contains("cannot be sent"), "{told}: {exit}");
        assert!(!said.contains("panicked") && !said.to_lowercase().contains("hush"), "{exit}");
    }
}

/// A lock of another backend is one that nobody has looked at.
#[test]
fn a_dangerous_remedy_carries_its_precondition() {
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    std::fs::create_dir(dir.path().join(".terraform")).unwrap();
    let record = r#"{"version":3,"backend":{"type":"gcs","config":{},"hash":1}}"#;
    std::fs::write(dir.path().join(".terraform/terraform.tfstate"), record).unwrap();
    for command in ["inspect", "verify", "locks"] {
        let exit = tfguard(&guard, dir.path(), &[command]).run().expect_code(125);
        let err = exit.err();
        let remedy = err.lines().find(|line| line.contains("force-unlock")).unwrap_or_default();
        assert!(remedy.starts_with("tfguard: hint: ") && remedy.contains("once you are sure that"), "{exit}");
    }
}

#[test]
fn nobody_is_told_to_remove_a_path_that_is_not_tfguards() {
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for place in [Path::new("/etc/passwd"), Path::new("/etc/passwd/x"), &fifo] {
        let exit = tfguard(&guard, dir.path(), &["--", "true"]).env("TFGUARD_DIR", place).run().expect_code(125);
        assert!(exit.err().contains("\ntfguard: hint: Set TFGUARD_DIR"), "{exit}");
        assert!(!exit.err().contains("remove"), "{exit}");
    }
}

#[test]
fn colours_are_for_terminals_and_for_the_logs_of_cis() {
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    let run = |variables: &[(&str, &str)]| tfguard(&guard, dir.path(), &["inspect"]).envs(variables.iter().copied());
    let is_coloured = |exit: &Exit| (exit.out() + &exit.err()).contains(RED_ERROR);
    let terminal = [("TERM", "xterm-256color")];
    let on_terminal = run(&terminal).pty().run().expect_code(125);
    assert!(is_coloured(&on_terminal) && on_terminal.out().contains(CYAN_HINT), "{on_terminal}");
    for (variables, coloured) in [
        (&[("GITHUB_ACTIONS", "true")][..], true),
        (&[("GITLAB_CI", "true")], true),
        (&[("JENKINS_URL", "http://jenkins/")], false),
        (&[("CLICOLOR_FORCE", "1")], true),
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
        (&[("GITHUB_ACTIONS", "true"), ("NO_COLOR", "1")], false),
        (&[("GITHUB_ACTIONS", "true"), ("TFGUARD_LOG_FORMAT", "json")], false),
        (&terminal, false),
    ] {
        let exit = run(variables).run().expect_code(125);
        assert_eq!(exit.err().contains(ESCAPE), coloured, "{variables:?}: {exit}");
        assert_eq!(is_coloured(&exit), coloured, "{variables:?}: {exit}");
    }
    let dumb = run(&[("TERM", "dumb")]).pty().run().expect_code(125);
    assert!(!dumb.out().contains(ESCAPE), "{dumb}");
}

/// The supervisor has no terminal, and its words are shown by a process that may have one.
#[test]
fn what_the_supervisor_says_has_colours_too() {
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    let command = ["--detach", "--grace=0s", "--", "sh", "-c", "trap '' INT; echo ready; while :; do sleep 1000; done"];
    let run = tfguard(&guard, dir.path(), &command).env("TERM", "xterm").env("TFGUARD_DIR", dir.path()).pty().start();
    run.wait_for_stdout("ready", SOON);
    run.signal(SIGTERM);
    let exit = run.wait(SOON).expect_code(137);
    assert!(exit.out().contains("tfguard: \u{1b}[1m\u{1b}[33mwarning:\u{1b}[0m sh has not ended within"), "{exit}");
}

#[test]
fn lists_fit_the_terminal_and_a_pipe_gets_all_of_them() {
    let bed = Bed::new();
    let key = format!("{}/terraform.tfstate", "network".repeat(9));
    bed.in_both(&bed.lock(&key, OWN));
    let state = bed.path(&key);
    let locks = |variables: &[(&str, &str)]| {
        bed.tfguard(&["locks", "--table", &bed.table, "-q"]).envs(variables.iter().copied())
    };
    let piped = locks(&[("GITHUB_ACTIONS", "true"), ("COLUMNS", "60")]).run().expect_code(0);
    let line = piped.out().lines().nth(1).unwrap().to_owned();
    assert!(line.starts_with(&state) && line.contains(OWN) && line.contains("runner@build-7f9c4"), "{piped}");
    assert!(!piped.out().contains(ESCAPE), "a script may read it: {piped}");
    // The terminal has 80 columns.
    for (variables, width) in [(&[][..], 80), (&[("COLUMNS", "70")], 70)] {
        let shown = locks(variables).pty().run().expect_code(0);
        assert!(shown.out().lines().all(|line| line.chars().count() <= width), "{width}: {shown}");
        assert!(shown.out().contains("…") && !shown.out().contains(&state), "{width}: {shown}");
        assert!(shown.out().lines().any(|line| line.trim() == format!("lock {OWN}")), "{width}: {shown}");
    }
    let wide = locks(&[("COLUMNS", "400")]).pty().run().expect_code(0);
    assert!(wide.out().lines().nth(1).unwrap().trim_end().ends_with(line.as_str()), "{wide}");
    let coloured = locks(&[("TERM", "xterm")]).pty().run().expect_code(0);
    assert!(coloured.out().contains("\u{1b}[33munknown\u{1b}[0m"), "{coloured}");
    let inspect = bed.about(&key, &["inspect"]);
    let shown = inspect.env("TERM", "xterm").pty().run().expect_code(0);
    assert!(shown.out().contains(&format!("\u{1b}[1m{OWN}\u{1b}[0m")), "{shown}");
    for format in ["json", "prometheus"] {
        let forced = locks(&[("CLICOLOR_FORCE", "1")]).args(["--format", format]).run().expect_code(0);
        assert!(!forced.out().contains(ESCAPE), "{forced}");
    }
}

/// Whatever could not be read is not free of locks.
#[test]
fn what_could_not_be_read_is_said_once_however_much_it_hides() {
    let bed = Bed::new();
    bed.in_table(&bed.lock("a", OWN));
    let tables = format!("missing-one,{},missing-two", bed.table);
    let exit = bed.tfguard(&["locks", "--table", &tables]).run().expect_code(125);
    assert!(
        exit.out().ends_with("1 lock, 0 stale; holders: 0 alive, 0 dead, 1 unknown; could not read 2 of 3 places\n")
    );
    let err = exit.err();
    assert_eq!(err.matches("there is no such DynamoDB table").count(), 1, "{exit}");
    assert!(err.contains("could not read DynamoDB table missing-one, DynamoDB table missing-two: "), "{exit}");
    let none = bed.tfguard(&["locks", "--table", "missing-one"]).run().expect_code(125);
    assert_eq!(none.out(), "could not read DynamoDB table missing-one\n");
    let closed = reach("http://127.0.0.1:9");
    let words = ["inspect", "--bucket", "b", "--key", "k", "--table", "t"];
    let run = Run::new(TFGUARD, &bed.guard).current_dir(bed.dir.path()).envs(Aws::ENV).args(words).args(closed);
    let exit = run.run().expect_code(125);
    assert_eq!((exit.out() + &exit.err()).matches("Connection refused").count(), 1, "{exit}");
    assert!(exit.out().contains("NOT READ") && !exit.out().contains("not locked"), "{exit}");
}
