//! GitLab, Buildkite, Azure Pipelines, Jenkins.

use super::*;

#[test]
fn gitlab_has_a_section_around_what_is_said() {
    let (_proxy, project) = denying();
    let (exit, id) = killed_apply(&project, &[], |run| run.env("GITLAB_CI", "true"));
    let err = exit.expect_code(120).err();
    let start = err.find("\x1b[0Ksection_start:").expect("a section begins");
    assert!(start == 0 || err[..start].ends_with('\n'), "{err:?}");
    let (header, rest) = err[start..].split_once('\n').unwrap();
    assert!(header.contains("[collapsed=false]\r\x1b[0K"), "{header:?}");
    for words in [format!("State lock left behind\x1b[0m: lock {id}"), format!("tfguard unlock {id}")] {
        assert!(header.contains(&words), "{header:?}");
    }
    let (inside, after) = rest.split_once("\x1b[0Ksection_end:").expect("it ends");
    assert!(inside.contains("NOT released") && inside.lines().all(|line| line.starts_with("tfguard: ")), "{inside:?}");
    assert_eq!(after.split_once(':').unwrap().1.split_once('\r').unwrap().1, "\x1b[0K\n");
    let name = |text: &str| text.split(':').nth(2).unwrap().split(['[', '\r']).next().unwrap().to_owned();
    assert_eq!(name(header), name(&format!("x:{after}")));
}

/// The command that was run need not have ended its last line.
#[test]
fn gitlabs_section_begins_a_line() {
    let project = project(Kind::Quick);
    for printed in ["printf half", "printf half >&2", "echo whole"] {
        let script = format!("exec \"$0\" -- sh -c '{printed}; kill -9 $$' 2>&1");
        let run = project.command("sh").args(["-c", &script, TFGUARD]).env("GITLAB_CI", "true");
        let out = run.run().expect_code(137).out();
        let (before, _) = out.split_once("\x1b[0Ksection_start:").expect("a section begins");
        assert!(["half\n", "whole\n"].contains(&before), "{out:?}");
    }
}

/// An agent on PATH that notes what it was told.
fn agent(project: &Project, script: &str) -> std::ffi::OsString {
    let bin = project.work().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let agent = bin.join("buildkite-agent");
    make_program(&agent, &format!("#!/bin/sh\n{script}\n"));
    let path = std::env::var_os("PATH").unwrap();
    std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).unwrap()
}

fn buildkite(run: Run, path: &std::ffi::OsStr) -> Run {
    run.envs([("BUILDKITE", "true"), ("BUILDKITE_JOB_ID", "0198")]).env("PATH", path)
}

#[test]
fn buildkite_has_an_annotation() {
    let (_proxy, project) = denying();
    let calls = project.work().join("calls");
    let path = agent(&project, &format!("{{ echo \"CALL $*\"; cat; echo; }} >> '{}'; echo noise", calls.display()));
    let (exit, id) = killed_apply(&project, &[], |run| buildkite(run, &path));
    let exit = exit.expect_code(120);
    assert!(!(exit.out() + &exit.err()).contains("noise"), "{exit}");
    let calls = read(&calls);
    assert!(calls.starts_with("CALL annotate --style error --context tfguard-0198\n### "), "{calls}");
    assert!(calls.contains(&id.replace('-', "&#45;")), "{calls}");
    assert_eq!(calls.matches("CALL ").count(), 1, "{calls}");
}

#[test]
fn buildkites_agent_is_not_asked_of_an_ordinary_run_and_not_waited_for_for_ever() {
    let project = project(Kind::Quick);
    let called = project.work().join("called");
    let path = agent(&project, &format!("touch '{}'; exec sleep 600", called.display()));
    buildkite(project.tfguard(TFGUARD, [""; 0], APPLY), &path).run().expect_code(0);
    assert!(!called.exists());
    buildkite(dying(&project, "echo"), &path).run().expect_code(137);
    assert!(called.exists());
    project.guard().assert_no_process_left(SOON);
    // One that reads nothing, one that fails, none at all.
    for script in ["exec <&-; exit 0", "exit 7"] {
        let exit = buildkite(dying(&project, "echo"), &agent(&project, script)).run().expect_code(137);
        assert!(!exit.err().contains("buildkite"), "{exit}");
    }
    buildkite(dying(&project, "echo"), &std::env::var_os("PATH").unwrap()).run().expect_code(137);
}

#[test]
fn azure_has_an_issue() {
    let project = project(Kind::HangInApply);
    let (exit, id) = killed_apply(&project, &[], |run| run.env("TF_BUILD", "True"));
    let exit = exit.expect_code(137);
    let err = exit.err();
    let told: Vec<_> = err.lines().filter(|line| line.contains("##vso[")).collect();
    assert_eq!(told.len(), 1, "{exit}");
    let start = format!("##vso[task.logissue type=warning]tfguard: State lock released: lock {id}");
    assert!(told[0].starts_with(&start), "{exit}");
    assert!(!exit.out().contains("##vso["));
    let ordinary = project.command(TFGUARD).args(["--", "true"]).env("TF_BUILD", "True").run().expect_code(0);
    assert_eq!(ordinary.err(), "");
}

/// Elsewhere tfguard speaks as people do.
#[test]
fn others_are_told_nothing_but_text() {
    let project = project(Kind::Quick);
    let cis: [&[(&str, &str)]; 4] = [&[("JENKINS_URL", "http://j/")], &[("CIRCLECI", "true")], &[("CI", "true")], &[]];
    for variables in cis {
        let exit = dying(&project, "echo").envs(variables.iter().copied()).run().expect_code(137);
        assert!(exit.err().contains("died of SIGKILL"), "{exit}");
        assert!(exit.err().lines().all(|line| line.starts_with("tfguard: ")), "{exit}");
    }
}
