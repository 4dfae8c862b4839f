use super::*;
use crate::commands::doctor::finding::Severity;

fn process(pid: i32, parent: i32, group: i32, words: &[&str]) -> Process {
    let name: String = words[0].rsplit('/').next().unwrap().chars().take(15).collect();
    Process {
        pid,
        parent,
        group,
        name,
        in_job: false,
        arguments: words.iter().map(|word| (*word).to_owned()).collect(),
    }
}

fn chain(processes: Vec<Process>, contained: bool) -> Chain {
    Chain { processes, stdout: Stdout::Other, ignored: Vec::new(), contained }
}

fn job(variables: &[(&str, &str)]) -> Job {
    Job::detect(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

const GITHUB: (&str, &str) = ("GITHUB_ACTIONS", "true");
const GITLAB: (&str, &str) = ("GITLAB_CI", "true");
const SHARED: (&str, &str) = ("CI_SHARED_ENVIRONMENT", "true");
const POD: (&str, &str) = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");

/// Each shape of a step: who is told to stop, and whether that is good enough.
#[test]
fn whom_a_cancel_reaches_is_told_of_every_shape() {
    let worker = || process(10, 1, 10, &["/runner/bin/Runner.Worker", "spawnclient"]);
    let init = || process(1, 0, 1, &["systemd"]);
    let bash = |parent| process(20, parent, 10, &["/usr/bin/bash", "-e", "/w/x.sh"]);
    let own = |parent, group| process(30, parent, group, &["tfguard", "doctor"]);
    let stage = || process(20, 1, 20, &["/bin/bash", "/scripts-1-2/step_script"]);
    const AZURE: &[(&str, &str)] = &[("TF_BUILD", "True")];
    let azure = || process(10, 1, 1, &["/agent/bin/Agent.Worker"]);
    let task = |task: &str, script: &str| {
        process(
            15,
            10,
            1,
            &["/agent/externals/node20/bin/node", &format!("/agent/_work/_tasks/{task}_6c7/3.2.1/{script}")],
        )
    };
    let runner = || process(10, 1, 10, &["gitlab-runner", "run"]);
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Chain, Severity, &'a str);
    let cases: &[Case] = &[
        ("exec", &[GITHUB], chain(vec![own(10, 10), worker(), init()], false), Severity::Ok, "that is tfguard"),
        (
            "no exec",
            &[GITHUB],
            chain(vec![own(20, 10), bash(10), worker(), init()], false),
            Severity::Warning,
            "sent to bash",
        ),
        (
            "a JavaScript action",
            &[GITHUB],
            chain(vec![own(20, 10), process(20, 10, 10, &["node", "index.js"]), worker(), init()], false),
            Severity::Warning,
            "Node",
        ),
        (
            "a container job",
            &[GITHUB],
            chain(vec![own(20, 10), bash(0)], true),
            Severity::Warning,
            "outside this container",
        ),
        (
            "Azure, exec",
            AZURE,
            chain(vec![own(15, 10), task("Bash", "bash.js"), azure()], false),
            Severity::Ok,
            "Bash task",
        ),
        (
            "Azure, another task",
            AZURE,
            chain(vec![own(15, 10), task("AzureCLI", "azureclitask.js"), azure()], false),
            Severity::Warning,
            "that started tfguard",
        ),
        (
            "Azure, no exec",
            AZURE,
            chain(vec![own(20, 10), bash(15), task("Bash", "bash.js"), azure()], false),
            Severity::Warning,
            "not to tfguard",
        ),
        (
            "GitLab, shell",
            &[GITLAB, SHARED],
            chain(vec![own(20, 30), bash(10), runner(), init()], false),
            Severity::Warning,
            "another one",
        ),
        ("GitLab, docker", &[GITLAB], chain(vec![own(20, 1), bash(1)], true), Severity::Ok, "every process"),
        (
            "GitLab, pod",
            &[GITLAB, POD],
            chain(vec![own(20, 20), stage(), process(1, 0, 1, &["sh"])], true),
            Severity::Ok,
            "`script:`",
        ),
        (
            "GitLab, pod, in a script",
            &[GITLAB, POD],
            chain(vec![own(25, 20), process(25, 20, 20, &["/bin/sh", "./deploy.sh"]), stage()], true),
            Severity::Warning,
            "below that",
        ),
        ("Jenkins", &[("JENKINS_URL", "x")], chain(vec![own(20, 20), bash(1)], false), Severity::Ok, "every process"),
        (
            "Buildkite",
            &[("BUILDKITE", "true")],
            chain(
                vec![
                    own(20, 20),
                    process(20, 10, 20, &["sh", "-c", "x"]),
                    process(10, 1, 10, &["buildkite-agent", "bootstrap"]),
                ],
                false,
            ),
            Severity::Ok,
            "process group",
        ),
        (
            "CircleCI",
            &[("CIRCLECI", "true")],
            chain(vec![own(20, 20), bash(1)], false),
            Severity::Warning,
            "documents no signal",
        ),
        ("PID 1", &[], chain(vec![process(1, 0, 1, &["tfguard"])], true), Severity::Ok, "first process"),
        (
            "below a shell as PID 1",
            &[],
            chain(vec![own(1, 1), process(1, 0, 1, &["sh", "-c", "x; y"])], true),
            Severity::Warning,
            "first process",
        ),
        (
            "below tini",
            &[],
            chain(vec![own(1, 1), process(1, 0, 1, &["/sbin/tini", "--"])], true),
            Severity::Ok,
            "init",
        ),
        ("a person", &[], chain(vec![own(20, 30), bash(1), init()], false), Severity::Note, "no CI"),
        ("nothing to be seen", &[GITHUB], chain(vec![], false), Severity::Note, "cannot be seen"),
    ];
    for (name, variables, chain, severity, says) in cases {
        let found = receiver(job(variables), chain);
        assert_eq!(found.severity, *severity, "{name}: {found:?}");
        assert!(found.seen.contains(says), "{name}: {found:?}");
        assert_eq!(found.fix.is_some(), *severity == Severity::Warning, "{name}");
    }
    let in_group =
        chain(vec![process(30, 20, 20, &["tfguard"]), process(20, 10, 20, &["bash", "-l"]), runner(), init()], false);
    assert_eq!(receiver(job(&[GITLAB, SHARED]), &in_group).severity, Severity::Ok);
    let outliving = receiver(job(&[GITHUB, ("TFGUARD_OUTLIVE_PARENT", "1")]), &cases[1].2);
    assert!(outliving.why.unwrap().contains("nothing stops the run"));
}

/// Guards against a list of everything up to the machine's first process where tfguard is the entry itself.
#[test]
fn what_stands_between_is_only_below_the_entry() {
    let worker = || process(10, 1, 10, &["Runner.Worker"]);
    let own = |parent| process(30, parent, 10, &["tfguard"]);
    let between = |chain: Chain| in_the_way(job(&[GITHUB]), &chain).first().map(|found| found.seen.to_string());
    assert_eq!(between(chain(vec![own(10), worker()], false)), None);
    let make = || process(25, 20, 10, &["make", "apply"]);
    let bash = || process(20, 10, 10, &["bash", "-e", "x.sh"]);
    assert_eq!(between(chain(vec![own(20), bash(), worker()], false)), None);
    let told = between(chain(vec![own(25), make(), bash(), worker()], false)).unwrap();
    assert!(told.ends_with("stand: make"), "{told}");
}

/// Guards against a warning about a pipeline because of a process that the CI was just starting.
#[test]
fn a_reader_is_one_that_the_job_started() {
    let chain = chain(
        vec![
            process(30, 20, 20, &["tfguard"]),
            process(20, 10, 10, &["bash", "-e", "x.sh"]),
            process(10, 5, 10, &["Runner.Worker"]),
            process(5, 1, 5, &["Runner.Listener"]),
        ],
        false,
    );
    let is_of_pipeline = |pid, parent| chain.is_of_pipeline(&process(pid, parent, 10, &["cat"]));
    assert!(is_of_pipeline(31, 20), "beside tfguard");
    assert!(is_of_pipeline(31, 30), "what the shell became that started it");
    for (pid, parent) in [(31, 10), (31, 5), (31, 1), (20, 10), (10, 5)] {
        assert!(!is_of_pipeline(pid, parent), "{pid} of {parent}");
    }
}

#[test]
fn pipes_and_ignored_signals_are_told() {
    let own = process(30, 20, 20, &["tfguard"]);
    let tee = process(31, 20, 20, &["tee", "log"]);
    let mut chain = chain(vec![own, process(20, 10, 20, &["bash"])], false);
    let ids = |chain: &Chain, job: Job| {
        let mut found: Vec<_> = findings(job, chain).iter().map(|found| (found.id, found.severity)).collect();
        found.retain(|(id, _)| matches!(*id, "pipe" | "ignored"));
        found
    };
    assert_eq!(ids(&chain, job(&[])), []);
    chain.stdout = Stdout::Pipe { reader: None };
    assert_eq!(ids(&chain, job(&[])), []);
    chain.stdout = Stdout::Pipe { reader: Some(tee) };
    chain.ignored = vec![libc::SIGHUP, libc::SIGINT, libc::SIGPIPE];
    let all = [("pipe", Severity::Warning), ("ignored", Severity::Note)];
    assert_eq!(ids(&chain, job(&[GITHUB])), all);
    let why = |job| dispositions(job, &chain).unwrap().why.unwrap();
    assert!(why(job(&[])).contains("nohup") && !why(job(&[GITHUB])).contains("nohup"));
}

#[test]
fn a_cleanup_step_is_asked_for_where_the_machine_goes_with_the_job() {
    let of = |variables: &[(&str, &str)]| cleanup(job(variables), false).map(|found| found.severity);
    assert_eq!(of(&[GITHUB]), Some(Severity::Warning));
    assert_eq!(of(&[GITHUB, ("TFGUARD_CLEANUP_STEP", "true")]), Some(Severity::Ok));
    assert_eq!(of(&[GITHUB, ("TFGUARD_CLEANUP_STEP", "no")]), Some(Severity::Warning));
    assert_eq!(of(&[GITHUB, ("RUNNER_ENVIRONMENT", "self-hosted")]), Some(Severity::Note));
    assert_eq!(of(&[GITLAB, SHARED]), Some(Severity::Note));
    assert_eq!(of(&[GITLAB, POD]), Some(Severity::Warning));
    assert_eq!(of(&[("CIRCLECI", "true")]), None);
    assert_eq!(of(&[]), None);
}
