//! The command line as people type it: its help, their mistakes, its variables, its completions and man pages.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use clap::CommandFactory as _;
use tfguard::cli::Cli;

use crate::TFGUARD;
use crate::stage::Stage;
use crate::support::Exit;

/// What tfguard says to a command line, in a directory without a state.
fn typed(stage: &Stage, line: &[&str], variables: &[(&str, &str)]) -> Exit {
    let run = stage.run(TFGUARD).args(line).env("AWS_EC2_METADATA_DISABLED", "true");
    run.envs(variables.iter().copied()).run()
}

fn commands() -> Vec<String> {
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

#[test]
fn a_help_on_demand_fits_a_screen_and_another_one_has_it_all() {
    let stage = Stage::new();
    for command in [vec![]].into_iter().chain(commands().iter().map(|name| vec![name.as_str()])) {
        let help = |flag: &'static str| {
            let line: Vec<_> = command.iter().copied().chain([flag]).collect();
            typed(&stage, &line, &[("COLUMNS", "80"), ("TFGUARD_GRACE", "not a duration")]).expect_code(0).out()
        };
        let (short, long) = (help("-h"), help("--help"));
        let widest = short.lines().map(|line| line.chars().count()).max();
        assert!(short.lines().count() <= 40 && widest <= Some(80), "{short}");
        assert!(!short.contains("TFGUARD_") && short.contains("Example"), "{short}");
        assert!(long.lines().count() > short.lines().count() && !long.contains("not a duration"), "{long}");
    }
    let short = typed(&stage, &["-h"], &[("COLUMNS", "80")]).out();
    let nothing = typed(&stage, &[], &[("COLUMNS", "80")]).expect_code(2);
    assert_eq!((nothing.err(), nothing.out()), (short.clone(), String::new()));
    for heading in ["Commands:", "Stopping:", "Locks:", "CI:", "Output:"] {
        assert!(short.lines().any(|line| line == heading), "{heading}: {short}");
    }
    let long = typed(&stage, &["--help"], &[]).out();
    for word in ["[env: TFGUARD_GRACE]", "Examples:", "Exit codes:", "keep-apply", "completions"] {
        assert!(long.contains(word), "{word}: {long}");
    }
}

/// A mistake of a run has none of Terraform's exit codes: 2 is `plan -detailed-exitcode`'s for changes.
#[test]
fn a_mistake_is_told_with_a_line_to_paste() {
    let stage = Stage::new();
    for (line, what, hint, code) in [
        ("'terraform apply -var token=hunter2'", "put `--`", "tfguard -- terraform apply -var ...", 125),
        ("--grace 5m 'terraform apply' -no-color", "put `--`", "tfguard --grace 5m -- terraform apply -no-color", 125),
        ("terraform apply tf.plan", "put `--` before the command", "tfguard -- terraform apply tf.plan", 125),
        (
            "--grace 5m terraform plan -var token=hunter2 -input=false",
            "unexpected argument 'terraform'",
            "tfguard --grace 5m -- terraform plan -var ... -input=false",
            125,
        ),
        ("./deploy.sh hunter2 prod", "unexpected argument './deploy.sh'", "tfguard -- ./deploy.sh ...", 125),
        ("apply -auto-approve", "put `--` before", "tfguard -- terraform apply -auto-approve", 125),
        ("run -- terraform plan", "put `--` before", "tfguard -- terraform plan", 125),
        ("lock --table x", "no command `lock`", "tfguard locks --table x", 2),
        ("status", "no command `status`", "tfguard inspect", 2),
        ("force-unlock -force an-id", "no command `force-unlock`", "tfguard unlock an-id", 2),
        ("force-unlock", "no command `force-unlock`", "tfguard unlock --help", 2),
        ("completion", "no command `completion`", "tfguard completions --help", 2),
        ("help", "no command `help`", "tfguard --help", 2),
        ("help unlock", "no command `help`", "tfguard unlock --help", 2),
        ("version", "no command `version`", "tfguard --version", 2),
        ("completion bash", "no command `completion`", "tfguard completions bash", 2),
        ("--", "no command to run", "tfguard -- terraform apply", 125),
        ("--grace 5m", "no command to run", "tfguard --grace 5m -- terraform apply", 125),
        ("--grce=5m -- terraform apply", "'--grce'", "tfguard --grace=5m -- terraform apply", 125),
        ("-grace=5m -- terraform apply", "'-grace'", "tfguard --grace=5m -- terraform apply", 125),
        ("--on-death kep -- true", "'kep' for '--on-death", "tfguard --on-death keep -- true", 125),
        ("--on-death delete -- true", "release, keep, keep-apply", "tfguard --help", 125),
        ("--grace 5x -- true", "'--grace <DURATION>': write a duration", "tfguard --help", 125),
        ("--grace -- true", "a value is required for '--grace", "tfguard --help", 125),
        ("--table x locks", "'--table'", "tfguard --help", 125),
        ("--report x locks", "an option of a run", "tfguard locks --help", 2),
        ("locks --grace 5m", "'--grace'", "tfguard locks --help", 2),
        ("locks --yes", "'--yes'", "tfguard locks --help", 2),
        ("locks x", "'x'", "tfguard locks --help", 2),
        ("locks --bukcet x", "'--bukcet'", "tfguard locks --bucket x", 2),
        ("locks --verbos", "'--verbos'", "tfguard locks --verbose", 2),
        ("locks --format xml", "table, json, prometheus", "tfguard locks --help", 2),
        ("inspect --bucket b", "--key <KEY>", "tfguard inspect --help", 2),
        ("unlock", "<LOCK_ID>", "tfguard unlock --help", 2),
        ("unlock an-id --broken", "cannot be used with '--broken'", "tfguard unlock --help", 2),
        ("release --wait forever", "'--wait <DURATION>': write a duration", "tfguard release --help", 2),
        ("verify --serial x", "'x' for '--serial <NUMBER>': a serial is a whole number", "tfguard verify --help", 2),
        ("shim", "--dir <DIR>", "tfguard shim --help", 2),
    ] {
        let words = shell_words::split(line).unwrap();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let exit = typed(&stage, &words, &[]).expect_code(code);
        let told = exit.err();
        assert!(told.starts_with("tfguard: error: ") && told.contains(what), "{line}: {exit}");
        assert_eq!(told.lines().last(), Some(&*format!("tfguard: hint: {hint}")), "{line}: {exit}");
        let misleads = ["tip:", "Usage:", "hunter2", "more information"].iter().find(|word| told.contains(**word));
        assert!(exit.out().is_empty() && misleads.is_none(), "{line}: {exit}");
    }
}

#[test]
fn an_error_names_the_variable_that_the_value_came_from() {
    let stage = Stage::new();
    let run: &[&str] = &["--", "true"];
    for (line, variables, what, code) in [
        (run, &[("TFGUARD_GRACE", "5x")][..], "invalid value '5x' for 'TFGUARD_GRACE': write a duration", 125),
        (run, &[("TFGUARD_EVIDENCE", "itm")], "for 'TFGUARD_EVIDENCE'", 125),
        (run, &[("TFGUARD_CLEANUP_STEP", "ture")], "invalid value 'ture' for 'TFGUARD_CLEANUP_STEP'", 125),
        (&["doctor", "--offline"], &[("TFGUARD_CLEANUP_STEP", "ture")], "'ture' for 'TFGUARD_CLEANUP_STEP'", 2),
        (&["locks"], &[("TFGUARD_QUIET", "flase")], "invalid value 'flase' for 'TFGUARD_QUIET'", 2),
        (
            run,
            &[("TFGUARD_ATTACH", "1"), ("TFGUARD_DETACH", "1")],
            "variable 'TFGUARD_ATTACH' cannot be used with 'TFGUARD_DETACH'",
            125,
        ),
        (&["release"], &[("TFGUARD_WAIT", "soon")], "for 'TFGUARD_WAIT'", 2),
        (&["locks"], &[("TFGUARD_LOG_FORMAT", "xml")], "for 'TFGUARD_LOG_FORMAT'", 2),
    ] {
        let exit = typed(&stage, line, variables).expect_code(code);
        assert!(exit.err().contains(what) && !exit.err().contains("'--"), "{exit}");
    }
    // What is typed is what is wrong, though a variable stands for the same.
    let exit = typed(&stage, &["--grace", "5x", "--", "true"], &[("TFGUARD_GRACE", "5m")]).expect_code(125);
    assert!(exit.err().contains("for '--grace <DURATION>'"), "{exit}");
    let no_text = OsStr::from_bytes(b"\xff");
    let exit = stage.run(TFGUARD).args(run).env("TFGUARD_GRACE", no_text).run().expect_code(125);
    assert!(exit.err().contains("TFGUARD_GRACE is not UTF-8"), "{exit}");
}

/// A job sets variables once, for all its steps: whatever is set for one of them, every other is understood. Where an
/// option has no variable, one is set all the same.
#[test]
fn what_is_set_for_one_command_does_not_disturb_another() {
    let stage = Stage::new();
    let cli = Cli::command();
    let commands = || std::iter::once(&cli).chain(cli.get_subcommands());
    let name = |flag: &str| format!("TFGUARD_{}", flag.to_uppercase().replace('-', "_"));
    let mut variables = Vec::new();
    let mut read = BTreeSet::new();
    for argument in commands().flat_map(clap::Command::get_arguments) {
        let Some(flag) = argument.get_long() else { continue };
        read.extend(argument.get_env().map(|name| name.to_str().unwrap().to_owned()));
        let value = match flag {
            "grace" | "deadline" | "before-expiry" | "lock-timeout" | "wait" => "90s".to_owned(),
            // The report is a file, and JSON is for programs.
            "log-format" => "text".to_owned(),
            // It does not go together with what `--on-death` gets here.
            "lease" => String::new(),
            "verbose" | "attach" => "false".to_owned(),
            _ => match argument.get_possible_values().last() {
                Some(value) => value.get_name().to_owned(),
                None => "x".to_owned(),
            },
        };
        variables.push((name(flag), value));
    }
    variables.retain(|(name, _)| !["TFGUARD_DIR", "TFGUARD_HELP", "TFGUARD_VERSION"].contains(&name.as_str()));
    assert!(variables.len() > 40 && read.len() > 15, "{variables:?} {read:?}");
    let links = stage.dir().join("links").to_str().unwrap().to_owned();
    for line in [
        &["locks"][..],
        &["inspect"],
        &["unlock", "an-id"],
        &["verify"],
        &["doctor", "--offline"],
        &["release", "--wait", "1s"],
        &["shim", "--dir", &links],
        &["completions", "bash"],
        &["--", "true"],
    ] {
        let variables = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let exit = typed(&stage, line, &variables.collect::<Vec<_>>());
        let none = typed(&stage, line, &[("TFGUARD_QUIET", "1")]);
        assert_eq!(exit.code, none.code, "{line:?}: {exit}");
        let errors = |exit: &Exit| {
            let told = exit.err();
            told.lines().filter(|line| line.starts_with("tfguard: error")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(errors(&exit), errors(&none), "{line:?}");
    }
    // What is wrong for a run is no reason not to look at a lock at night.
    let broken = [("TFGUARD_GRACE", "5x"), ("TFGUARD_ATTACH", "1"), ("TFGUARD_DETACH", "1")];
    let exit = typed(&stage, &["inspect"], &broken).expect_code(125);
    assert!(exit.err().contains("is not initialised"), "{exit}");
}

#[test]
fn a_misspelt_variable_is_told_of_once_and_changes_nothing_else() {
    let stage = Stage::new();
    let run = |variables: &[(&str, &str)]| {
        let script = "echo out; echo err >&2; exit 3";
        typed(&stage, &["--", "sh", "-c", script], variables).expect_code(3)
    };
    let misspelt = run(&[("TFGUARD_CLEANUPSTEP", "1")]);
    assert_eq!((misspelt.out(), misspelt.err().matches("err").count()), ("out\n".to_owned(), 1));
    assert_eq!(misspelt.err().matches("TFGUARD_CLEANUPSTEP").count(), 1, "{misspelt}");
    assert!(misspelt.err().contains("hint: rename it to TFGUARD_CLEANUP_STEP"), "{misspelt}");
    assert!(!run(&[("TFGUARD_VERSION", "1"), ("TFGUARD_INSTALL_DIR", "x")]).err().contains("warning"));
    stage.assert_clean();
}

#[test]
fn completions_are_what_each_shell_can_read() {
    let stage = Stage::new();
    for (shell, parse) in
        [("bash", &["bash", "-n"][..]), ("zsh", &["zsh", "-n"]), ("fish", &["fish", "-n"]), ("powershell", &[])]
    {
        let script = typed(&stage, &["completions", shell], &[]).expect_code(0).out();
        for word in ["before-expiry", "unlock", "fix-digest", "completions"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        assert!(!script.contains("supervise"), "{shell}");
        let path = stage.dir().join(shell);
        std::fs::write(&path, script).unwrap();
        let Some((program, options)) = parse.split_first() else { continue };
        match Command::new(program).args(options).arg(&path).output() {
            Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}"),
            Err(error) => eprintln!("SKIPPED: {program} is not here to read its completions: {error}"),
        }
    }
    // What bash offers behind a few letters.
    let ask = ". ./bash; COMP_WORDS=(tfguard unlock --dr) COMP_CWORD=2; _tfguard tfguard --dr unlock; echo $COMPREPLY";
    let exit = stage.run("bash").args(["-c", &format!("cd {}; {ask}", stage.dir().display())]).run().expect_code(0);
    assert_eq!(exit.out(), "--dry-run\n", "{exit}");
}

#[test]
fn each_command_has_a_man_page() {
    let dir = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(Cli::command(), dir.path()).unwrap();
    for name in commands().iter().map(|name| format!("tfguard-{name}.1")).chain(["tfguard.1".to_owned()]) {
        let page = dir.path().join(&name);
        assert!(std::fs::read_to_string(&page).unwrap().contains(".SH SYNOPSIS"), "{name}");
        match Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page).output() {
            Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{name}: {output:?}"),
            Err(error) => eprintln!("SKIPPED: groff is not here to read {name}: {error}"),
        }
    }
}
