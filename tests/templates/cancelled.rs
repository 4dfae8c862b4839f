//! The scripts of the templates, cancelled in the middle of an apply: in the order and the environment that the template
//! gives them, with the signals of its CI system.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;

use crate::action::Runner;
use crate::install::{checksum, package, serve};
use crate::read::*;
use crate::simulators::*;
use crate::support::*;
use crate::tools::node;
use crate::{SOON, TFGUARD};

/// A state with a lock of its own and, next to it, somebody else's.
fn project() -> Project<'static> {
    project_of(Kind::Sleep)
}

fn project_of(kind: Kind) -> Project<'static> {
    let project = Project::new(Aws::shared(), kind).table().lockfile().init(&Tools::get().any_terraform());
    project.aws().plant_lock(project.table_name(), &foreign(&project));
    project.aws().plant_lockfile(&foreign(&project));
    project
}

fn foreign(project: &Project) -> LockInfo {
    LockInfo::foreign(&format!("{}/network/other.tfstate", project.bucket()))
}

/// Cancels a job when it applies, and looks at what is left.
#[track_caller]
fn cancel(project: &Project, started: Box<dyn Started + '_>) -> Ended {
    started.log().wait_for_stdout("asleep", SOON);
    assert!(project.lock().is_some() && project.lock_in_bucket().is_some(), "an apply holds its lock");
    let ended = started.cancel();
    assert_nothing_left(project, &ended);
    ended
}

#[track_caller]
fn assert_nothing_left(project: &Project, ended: &Ended) {
    let log = ended.log();
    project.guard().assert_no_process_left(SOON);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "no own lock is left: {log}");
    let theirs = foreign(project);
    assert_eq!(project.aws().lock(project.table_name(), &theirs.path).expect("it stays")["ID"], theirs.id, "{log}");
    assert_eq!(project.aws().lockfile(&theirs.path).expect("it stays")["ID"], theirs.id, "{log}");
    assert!(!log.contains("Two interrupts") && !log.contains("tfguard: error"), "{log}");
}

/// Where Terraform's words are shown once.
#[track_caller]
fn assert_interrupted_by_tfguard(ended: &Ended) {
    let log = ended.log();
    assert_eq!(log.matches("Interrupt received.").count(), 1, "{log}");
    assert!(log.contains("tfguard: stop requested"), "{log}");
    assert!(ended.cleanup.iter().all(|cleanup| cleanup.code == Some(0)), "{log}");
}

/// The one string that has this text in it.
#[track_caller]
fn the_one(scripts: &[String], text: &str) -> String {
    let mut found = scripts.iter().filter(|script| script.contains(text));
    let (Some(script), None) = (found.next(), found.next()) else { panic!("one script with {text:?}: {scripts:?}") };
    script.clone()
}

/// The `run:` scripts of the only job of a workflow, and its variables.
fn github(template: &str) -> (Vec<String>, Variables) {
    let jobs = yaml(template)["jobs"].take();
    let job = jobs.as_object().unwrap().values().next().unwrap();
    let steps = job["steps"].as_array().unwrap();
    (steps.iter().filter_map(|step| step["run"].as_str()).map(str::to_owned).collect(), variables(&job["env"]))
}

fn with_variables<'a>(job: Job<'a>, variables: &Variables) -> Job<'a> {
    variables.iter().fold(job, |job, (name, value)| job.env(name, value))
}

/// The plan that the template applies.
fn plan(started: Box<dyn Started + '_>) {
    let ended = started.finish();
    assert_eq!(ended.script.code, Some(0), "{}", ended.log());
}

/// The action's `main` before the steps, its `post` after them.
#[test]
fn the_github_workflow_with_the_action() {
    let project = project();
    let (scripts, variables) = github("github/terraform.yml");
    plan(GitHub::default().start(Job::new(&project, the_one(&scripts, "terraform plan"))));
    let runner = Runner::new();
    runner.main(&[("path", TFGUARD)]).start().wait(SOON).expect_code(0);
    let job = Job::new(&project, the_one(&scripts, "terraform apply")).cleanup(post(&runner));
    let job = with_variables(with_variables(job, &variables), &runner.told().env);
    let ended = cancel(&project, GitHub::default().start(job));
    assert_interrupted_by_tfguard(&ended);
    assert_eq!(ended.script.code, Some(1), "{}", ended.log());
}

/// A step that says `terraform`, which is the link that the action made: the runner's signals end at the shell, and it is
/// the `post` that waits.
#[test]
fn a_github_step_without_tfguard_behind_the_actions_links() {
    let project = project();
    let runner = Runner::new();
    runner.main(&[("path", TFGUARD), ("shim", "true")]).start().wait(SOON).expect_code(0);
    let told = runner.told();
    let path = told.path.iter().rev().map(|dir| format!("{}:", dir.display())).collect::<String>();
    let script = format!("PATH='{path}'$PATH\nterraform apply -input=false -auto-approve -no-color\necho applied");
    let job = with_variables(Job::new(&project, script).cleanup(post(&runner)), &told.env);
    let ended = cancel(&project, GitHub::default().start(job));
    assert_interrupted_by_tfguard(&ended);
    assert!(!ended.script.out().contains("applied"), "{}", ended.log());
}

/// A Terraform that takes longer to end than the runner gives its step: the `post` waits for the supervisor to kill it.
#[test]
fn the_github_action_waits_for_what_outlives_its_step() {
    let project = project_of(Kind::HangInApply);
    let runner = Runner::new();
    runner.main(&[("path", TFGUARD), ("wait", "1m")]).start().wait(SOON).expect_code(0);
    let job = Job::new(&project, the_one(&github("github/steps.yml").0, "terraform apply")).cleanup(post(&runner));
    let started = GitHub::default().start(with_variables(job, &runner.told().env).env("TFGUARD_GRACE", "14s"));
    project.wait_for_hang(SOON);
    let ended = started.cancel();
    assert_nothing_left(&project, &ended);
    assert_interrupted_by_tfguard(&ended);
    assert!(ended.cleanup[0].err().contains("left by Terraform, deleted by tfguard"), "{}", ended.log());
}

/// What the runner starts after the job's steps.
fn post(runner: &Runner) -> String {
    let script = template(&format!("github/{}", string(&yaml("github/action.yml")["runs"]["post"])));
    let state = &runner.told().state;
    let state = state.iter().map(|(name, value)| format!("STATE_{name}='{value}' ")).collect::<String>();
    format!("{state}exec '{}' '{}'", node().display(), script.display())
}

#[test]
fn the_github_workflow_of_plain_steps() {
    let project = project();
    let (scripts, variables) = github("github/steps.yml");
    let job = Job::new(&project, the_one(&scripts, "terraform apply")).cleanup(the_one(&scripts, "tfguard release"));
    let ended = cancel(&project, GitHub::default().start(with_variables(job, &variables)));
    assert_interrupted_by_tfguard(&ended);
    assert_eq!(ended.cleanup[0].err(), "", "{}", ended.log());
}

/// What GitLab's template collects.
const REPORTS: &[&str] = &["tfguard.env", "tfguard-annotations.json", "tfguard-junit.xml"];

/// A job of GitLab's template: its scripts, with what the hidden job that it extends has, and its variables.
fn gitlab<'a>(project: &'a Project, name: &str, release: &Server) -> Job<'a> {
    let jobs = yaml("gitlab/tfguard.yml");
    let base = &jobs[".tfguard"];
    assert_eq!(jobs[name]["extends"], ".tfguard");
    let lines = [strings(&base["before_script"]), strings(&jobs[name]["script"])].concat().join("\n");
    let job = Job::new(project, lines).cleanup(strings(&base["after_script"]).join("\n"));
    let mut variables = variables(&base["variables"]);
    variables.insert("TFGUARD_INSTALL_URL".to_owned(), format!("{}/{}", release.url(), package().name));
    variables.insert("TFGUARD_INSTALL_SHA256".to_owned(), checksum());
    // As the runner expands them.
    let dir = project.work().display().to_string();
    variables.values_mut().for_each(|value| *value = value.replace("$CI_PROJECT_DIR", &dir));
    with_variables(job, &variables)
}

#[test]
fn the_gitlab_template_in_the_shell_executor() {
    let (project, release) = (project(), serve(|_| None));
    plan(GitLabShell.start(gitlab(&project, ".tfguard-plan", &release)));
    let ended = cancel(&project, GitLabShell.start(gitlab(&project, ".tfguard-apply", &release)));
    assert_interrupted_by_tfguard(&ended);
    assert_reported(&project, REPORTS);
}

/// The files that the template collects as artifacts tell of the run. They are removed.
#[track_caller]
fn assert_reported(project: &Project, files: &[&str]) {
    for name in files {
        let file = project.work().join(name);
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!text.contains("LOCK_LEFT=true") && !text.contains("<failure"), "{text}");
        let subject = match *name {
            "tfguard.env" => "TFGUARD_RESULT_LOCK_LEFT=false",
            "tfguard-annotations.json" => "\"tfguard\": [",
            _ => &project.lock_id(),
        };
        assert!(text.contains(subject), "{name}: {text}");
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn the_gitlab_template_in_containers() {
    let (project, release) = (project(), serve(|_| None));
    if !Container::permitted(&Job::new(&project, "")) {
        return;
    }
    plan(GitLabShell.start(gitlab(&project, ".tfguard-plan", &release)));
    let ended = cancel(&project, GitLabKubernetes.start(gitlab(&project, ".tfguard-apply", &release)));
    assert!(ended.log().contains("stop requested"), "{}", ended.log());
    assert_reported(&project, REPORTS);
    plan(GitLabShell.start(gitlab(&project, ".tfguard-plan", &release)));
    let ended = cancel(&project, GitLabDocker::default().start(gitlab(&project, ".tfguard-apply", &release)));
    assert_eq!(ended.cleanup[0].code, Some(0), "{}", ended.log());
    assert_reported(&project, REPORTS);
}

/// What is in the file is the ID token, and nobody else can read it.
#[test]
fn the_gitlab_template_keeps_an_id_token_for_the_cleanup() {
    let project = Project::new(Aws::shared(), Kind::Quick).table().init(&Tools::get().any_terraform());
    let release = serve(|_| None);
    let file = project.work().join(".aws-id-token");
    let job = gitlab(&project, ".tfguard-plan", &release);
    plan(GitLabShell.start(job.env("AWS_ID_TOKEN", "a.b.c").env("AWS_WEB_IDENTITY_TOKEN_FILE", &file)));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a.b.c");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// The `sh` scripts of a Jenkins template.
fn jenkins(template: &str) -> Vec<String> {
    groovy(template).into_iter().map(|(_, script)| script).collect()
}

#[test]
fn the_jenkins_pipeline() {
    let project = project();
    let scripts = jenkins("jenkins/Jenkinsfile");
    let mut variables = groovy_variables("jenkins/Jenkinsfile");
    let dir = project.work().display().to_string();
    variables.values_mut().for_each(|value| *value = value.replace("${WORKSPACE}", &dir));
    plan(Jenkins::Pipeline.start(Job::new(&project, the_one(&scripts, "terraform plan"))));
    let job = Job::new(&project, the_one(&scripts, "terraform apply")).cleanup(the_one(&scripts, "tfguard release"));
    let ended = cancel(&project, Jenkins::Pipeline.start(with_variables(job, &variables)));
    assert_interrupted_by_tfguard(&ended);
    assert_reported(&project, &["tfguard-junit.xml"]);
}

/// As a shared library's step runs it, here in a container.
#[test]
fn the_jenkins_step() {
    let project = project();
    let scripts = jenkins("jenkins/vars/tfguard.groovy");
    let apply = "terraform apply -input=false -auto-approve -no-color";
    let script = the_one(&scripts, "exec tfguard").replace("${options.command}", apply);
    let job = Job::new(&project, script).cleanup(the_one(&scripts, "tfguard release"));
    let ended = cancel(&project, Jenkins::Container.start(job.env("TFGUARD_CLEANUP_STEP", "1")));
    assert_interrupted_by_tfguard(&ended);
}

/// Where a template expects its configuration.
fn configured_in(project: &Project, dir: &str) {
    std::os::unix::fs::symlink(".", project.work().join(dir)).expect("a link can be made");
}

#[test]
fn the_buildkite_step_and_its_hook() {
    let project = project();
    configured_in(&project, "production");
    let script = strings(&yaml("buildkite/pipeline.yml")["steps"][0]["command"]).join("\n");
    let job = Job::new(&project, script).cleanup(format!("'{}'", template("buildkite/hooks/pre-exit").display()));
    let ended = cancel(&project, Buildkite::default().start(job));
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
    let ended = cancel(&project, Systemd::Mixed.start(job));
    assert_interrupted_by_tfguard(&ended);
}
