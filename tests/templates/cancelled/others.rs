//! Buildkite, Azure Pipelines, Kubernetes, systemd.

use std::time::Duration;

use serde_json::Value;

use super::cancel::*;
use crate::simulators::*;
use crate::templates::read::*;

#[test]
fn the_buildkite_step_and_its_hook() {
    // Longer than the default, as the hook asks for.
    let Some(agent) = Buildkite::get(60) else { return };
    let project = project();
    std::os::unix::fs::symlink(".", project.work().join("production")).unwrap();
    let script = strings(&yaml("buildkite/pipeline.yml")["steps"][0]["command"]).join("\n");
    let job = Job::new(&project, script).cleanup(format!("'{}'", template("buildkite/hooks/pre-exit").display()));
    let ended = cancel(&project, agent.start(job));
    assert_interrupted_by_tfguard(&ended);
}

#[test]
fn the_azure_steps() {
    let project = project();
    let pipeline = yaml("azure/azure-pipelines.yml");
    let template = yaml("azure/tfguard-steps.yml");
    let uses = pipeline["jobs"][0]["steps"].as_array().unwrap().iter().find(|step| step["template"].is_string());
    let uses = uses.expect("the pipeline uses the template");
    assert_eq!(uses["template"], "tfguard-steps.yml");
    // As Azure expands it: what the pipeline says, else the default.
    let expanded = |text: &Value| {
        let parameters = template["parameters"].as_array().unwrap();
        parameters.iter().fold(string(text), |text, parameter| {
            let name = string(&parameter["name"]);
            let value =
                Some(&uses["parameters"][&name]).filter(|value| !value.is_null()).unwrap_or(&parameter["default"]);
            text.replace(&format!("${{{{ parameters.{name} }}}}"), value.as_str().unwrap_or_default())
        })
    };
    let [run, release] = template["steps"].as_array().unwrap().as_slice() else { panic!("two steps: {template}") };
    assert_eq!((&run["condition"], &release["condition"]), (&Value::Null, &"always()".into()));
    let mut job = Job::new(&project, expanded(&run["bash"])).cleanup(expanded(&release["bash"]));
    for (name, value) in run["env"].as_object().unwrap().iter().filter(|(name, _)| !name.contains("insert")) {
        job = job.env(name, expanded(value));
    }
    job = with_variables(job, &variables(&pipeline["variables"]));
    let ended = cancel(&project, Azure::default().start(job));
    assert_interrupted_by_tfguard(&ended);
}

/// The pod is deleted: SIGTERM to the first process of its container, and no cleanup step.
#[test]
fn the_kubernetes_job() {
    let project = project();
    let job = yaml("kubernetes/job.yaml");
    let pod = &job["spec"]["template"]["spec"];
    let words = strings(&pod["containers"][0]["command"]).join(" ");
    let job = Job::new(&project, format!("exec {words}"));
    if !Container::permitted(&job) {
        return;
    }
    let timeout = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    let ended = cancel(&project, DockerStop { timeout }.start(job.env("KUBERNETES_SERVICE_HOST", "10.0.0.1")));
    assert_interrupted_by_tfguard(&ended);
}

/// What a unit says behind a name, its programs by their names.
fn setting(unit: &str, name: &str) -> String {
    let value = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{name} in {unit}")).replace("/usr/local/bin/", "")
}

#[test]
fn the_systemd_unit() {
    let project = project();
    let unit = text("systemd/terraform.service");
    assert_eq!(setting(&unit, "KillMode"), "mixed");
    let job = Job::new(&project, format!("exec {}", setting(&unit, "ExecStart")));
    let job = job.cleanup(setting(&unit, "ExecStopPost"));
    let (name, dir) = setting(&unit, "Environment").split_once('=').map(|(n, d)| (n.to_owned(), d.to_owned())).unwrap();
    let state = project.sessions().display().to_string();
    let job = job.env(name, dir.replace(&format!("%S/{}", setting(&unit, "StateDirectory")), &state));
    let stop = setting(&unit, "TimeoutStopSec").parse::<jiff::SignedDuration>().unwrap();
    let ended = cancel(&project, Systemd::Mixed.start_with(job, stop.unsigned_abs()));
    assert_interrupted_by_tfguard(&ended);
}
