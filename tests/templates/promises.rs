//! What the comments of the templates say, where no run would show it.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;

use crate::templates::read::*;

fn duration(value: &Value) -> Duration {
    let text = string(value);
    let duration: SignedDuration = text.parse().unwrap_or_else(|_| panic!("a duration, not {text}"));
    duration.try_into().expect("it is positive")
}

const MINUTE: Duration = Duration::from_secs(60);
/// What a Terraform may have after its deadline: more than `--grace auto` is on GitHub and Azure where a cleanup waits 4
/// minutes, and what `--grace` says for Kubernetes and systemd.
const GRACE: Duration = Duration::from_secs(5 * 60);

/// The posts of actions run in reverse order, and that of the credentials empties them.
#[test]
fn in_github_workflows_the_credentials_outlive_the_release() {
    for file in ["github/terraform.yml", "github/steps.yml"] {
        let workflow = yaml(file);
        let job = workflow["jobs"].as_object().unwrap().values().next().unwrap();
        let steps = job["steps"].as_array().unwrap();
        let position = |what: &str| {
            let has =
                |step: &Value| ["uses", "run"].iter().any(|key| step[key].as_str().is_some_and(|s| s.contains(what)));
            steps.iter().position(has).unwrap_or_else(|| panic!("{file}: {what}"))
        };
        let credentials = position("aws-actions/configure-aws-credentials@");
        let release = ["tfguard/ci-templates/github@", "tfguard release"];
        let release = if file == "github/steps.yml" { release[1] } else { release[0] };
        assert!(credentials < position(release), "{file}");
        // A role lasts an hour unless asked otherwise.
        assert!(job["timeout-minutes"].as_u64().unwrap() <= 55, "{file}");
        assert_eq!(workflow["permissions"]["id-token"], "write", "{file}");
    }
}

/// A step that is to be run after a cancel is not signalled at a cancel.
#[test]
fn in_github_workflows_only_the_release_is_run_always() {
    for file in ["github/terraform.yml", "github/steps.yml"] {
        let workflow = yaml(file);
        assert_eq!(workflow["concurrency"]["cancel-in-progress"], false, "{file}");
        let job = workflow["jobs"].as_object().unwrap().values().next().unwrap();
        for step in job["steps"].as_array().unwrap() {
            let condition = step["if"].as_str().unwrap_or_default();
            let always = ["always()", "cancelled()", "failure()"].iter().any(|function| condition.contains(function));
            assert_eq!(always, step["run"] == "tfguard release", "{file}: {step}");
            if let Some(terraform) = step["run"].as_str().filter(|run| run.contains(" -- terraform")) {
                assert!(
                    terraform.starts_with("exec tfguard ") && !terraform.contains(['|', '\n', ';']),
                    "{file}: {terraform}"
                );
            }
        }
    }
    assert_eq!(yaml("github/action.yml")["runs"]["post-if"], "always()");
}

/// Of all runs of a job, one after the other.
fn deadlines<'a>(scripts: impl Iterator<Item = &'a str>) -> Duration {
    let guarded = scripts.filter(|script| script.contains("tfguard") && script.contains(" -- "));
    let deadline = |script: &str| script.split_once("--deadline ").unwrap().1.split(' ').next().unwrap().into();
    guarded.map(|script| duration(&deadline(script))).sum()
}

#[test]
fn time_limits_fit_into_one_another() {
    let limit = |job: &Value| MINUTE * job["timeout-minutes"].as_u64().unwrap().try_into().unwrap();
    let workflow = yaml("github/terraform.yml")["jobs"]["terraform"].take();
    let scripts = workflow["steps"].as_array().unwrap().iter().filter_map(|step| step["run"].as_str());
    assert!(deadlines(scripts) + GRACE < limit(&workflow));
    let workflow = yaml("github/steps.yml")["jobs"]["apply"].take();
    assert!(duration(&workflow["env"]["TFGUARD_DEADLINE"]) + GRACE < limit(&workflow));

    let pipeline = groovy("jenkins/Jenkinsfile");
    let wait = duration(&groovy_variables("jenkins/Jenkinsfile")["TFGUARD_WAIT"].as_str().into());
    assert!(deadlines(pipeline.iter().map(|(_, script)| script.as_str())) + wait < 60 * MINUTE);
    assert!(text("jenkins/Jenkinsfile").contains("timeout(time: 1, unit: 'HOURS')"));

    let job = yaml("gitlab/tfguard.yml")[".tfguard"].take();
    let variables = &job["variables"];
    let [script, after] =
        ["RUNNER_SCRIPT_TIMEOUT", "RUNNER_AFTER_SCRIPT_TIMEOUT"].map(|name| duration(&variables[name]));
    // Of the script's limit, less the grace.
    assert_eq!(variables["TFGUARD_DEADLINE"], "auto");
    assert!(script + after < duration(&job["timeout"]));
    assert!(duration(&variables["TFGUARD_WAIT"]) < after);

    let azure = yaml("azure/azure-pipelines.yml");
    let job = &azure["jobs"][0];
    let minutes = |name: &str| MINUTE * string(&job[name]).parse().unwrap();
    assert!(duration(&azure["variables"]["TFGUARD_DEADLINE"]) + GRACE < minutes("timeoutInMinutes"));
    assert!(duration(&yaml("azure/tfguard-steps.yml")["parameters"][2]["default"]) < minutes("cancelTimeoutInMinutes"));

    let pod = yaml("kubernetes/job.yaml")["spec"]["template"]["spec"].take();
    let command = strings(&pod["containers"][0]["command"]);
    assert_eq!(command[..4], ["tfguard", "--grace", "5m", "--"], "tfguard itself is the first process");
    assert!(GRACE + MINUTE <= Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap()));

    let unit = text("systemd/terraform.service");
    assert!(unit.contains("tfguard --grace 5m -- ") && unit.contains("tfguard release --wait 6m\n"));
    assert!(unit.contains("\nTimeoutStopSec=7min\n"));
}

/// Nothing begins a second run while one may still be ending, or again by itself.
#[test]
fn one_run_at_a_time() {
    let gitlab = yaml("gitlab/tfguard.yml")[".tfguard"].take();
    assert_eq!((&gitlab["interruptible"], &gitlab["resource_group"]), (&Value::Bool(false), &"$TF_ROOT".into()));
    let job = yaml("kubernetes/job.yaml")["spec"].take();
    assert_eq!((&job["backoffLimit"], &job["podReplacementPolicy"]), (&0.into(), &"Failed".into()));
    assert_eq!(job["template"]["spec"]["restartPolicy"], "Never");
    assert_eq!(yaml("buildkite/pipeline.yml")["steps"][0]["concurrency"], 1);
    assert!(text("jenkins/Jenkinsfile").contains("disableConcurrentBuilds()"));
}

/// On another agent there is no session to find.
#[test]
fn in_jenkins_the_release_is_on_the_agent_of_the_run() {
    let release = |(_, script): &&(Vec<String>, String)| script.starts_with("tfguard release");
    let pipeline = groovy("jenkins/Jenkinsfile");
    assert_eq!(pipeline.iter().find(release).expect("there is one").0, ["pipeline", "post", "always"]);
    // One agent for all: `agent` is not said again in a stage.
    assert_eq!(text("jenkins/Jenkinsfile").matches("agent {").count(), 1);
    let step = groovy("jenkins/vars/tfguard.groovy");
    assert_eq!(step.iter().find(release).expect("there is one").0.last().expect("a block"), "finally");
}
