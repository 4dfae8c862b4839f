//! Every template is what its CI system takes, as its schema and its parser have it.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Product, Tools};
use crate::templates::install::{COMMIT, package, released};
use crate::templates::read::*;
use crate::templates::tools::*;

/// Each YAML file, and the schema that `check-jsonschema` has of it.
const SCHEMAS: &[(&str, &str)] = &[
    (".github/workflows/check.yml", "github-workflows"),
    (".github/workflows/release.yml", "github-workflows"),
    (".gitlab-ci.yml", "gitlab-ci"),
    ("ci-templates/azure/azure-pipelines.yml", "azure-pipelines"),
    ("ci-templates/azure/tfguard-steps.yml", "azure-pipelines"),
    ("ci-templates/buildkite/pipeline.yml", "buildkite"),
    ("ci-templates/github/action.yml", "github-actions"),
    ("ci-templates/github/steps.yml", "github-workflows"),
    ("ci-templates/github/terraform.yml", "github-workflows"),
    ("ci-templates/gitlab/example.gitlab-ci.yml", "gitlab-ci"),
    ("ci-templates/gitlab/tfguard.yml", "gitlab-ci"),
];
const JOB: &str = "ci-templates/kubernetes/job.yaml";

fn check_schema(schema: &str, path: &Path) -> Command {
    // Azure's schema escapes more in its patterns than Unicode mode takes.
    let options = ["--regex-variant", "nonunicode", "--builtin-schema", &format!("vendor.{schema}")];
    let mut command = module("check_jsonschema", options);
    command.arg(path);
    command
}

#[test]
fn every_yaml_file_has_the_shape_its_ci_wants() {
    for (file, schema) in SCHEMAS {
        succeed(&mut check_schema(schema, Path::new(file)));
    }
    let is_yaml = |path: &Path| path.extension().is_some_and(|end| end == "yml" || end == "yaml");
    let known = |path: &Path| SCHEMAS.iter().any(|(file, _)| Path::new(file) == path) || path == Path::new(JOB);
    let unknown: Vec<_> = [files("ci-templates"), files(".github")].concat();
    let unknown: Vec<_> = unknown.into_iter().filter(|path| is_yaml(path) && !known(path)).collect();
    assert!(unknown.is_empty(), "not checked: {unknown:?}");
}

#[test]
fn the_kubernetes_job_is_one() {
    succeed(&mut module("kubernetes_validate", ["--strict", "--no-warn", JOB]));
}

/// The schema says nothing of hidden jobs, so here they are jobs that anybody can see.
#[test]
fn the_hidden_gitlab_jobs_are_jobs() {
    let check = |change: &dyn Fn(String) -> String| {
        let template = change(yaml("gitlab/tfguard.yml").to_string()).replace("\".tfguard", "\"tfguard");
        let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        std::fs::write(&file, template).unwrap();
        run(&mut check_schema("gitlab-ci", file.path()))
    };
    let output = check(&|text| text);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!check(&|text| text.replace("\"dotenv\"", "\"dotenvs\"")).status.success(), "it can fail");
}

/// That the checks above can fail at all.
#[test]
fn what_is_broken_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broken = [
        ("github-workflows", "jobs:\n  a:\n    runs-on: x\n    stepz: []\n"),
        ("github-actions", "name: a\ndescription: b\nruns: {using: node24}\n"),
        ("gitlab-ci", "a:\n  script: [b]\n  artifacts: {reports: {dotenvs: c}}\n"),
        ("buildkite", "steps:\n  - command: a\n    concurrency: one\n"),
        ("azure-pipelines", "steps:\n  - bash: a\n    conditions: always()\n"),
    ];
    for (schema, text) in broken {
        let file = dir.path().join(schema);
        std::fs::write(&file, text).unwrap();
        assert!(!run(&mut check_schema(schema, &file)).status.success(), "{schema}");
    }
    let job = dir.path().join("job.yaml");
    let text = std::fs::read_to_string(JOB).unwrap().replace("backoffLimit", "backofLimit");
    std::fs::write(&job, text).unwrap();
    assert!(!run(module("kubernetes_validate", ["--strict"]).arg(job)).status.success());
}

#[test]
fn workflows_pass_actionlint() {
    let Some((_, actionlint)) = Tools::get().programs(Product::Actionlint).last() else { return };
    // Without a path it looks at no script.
    let shellcheck = shellcheck().unwrap_or_default();
    let lint = |files: &[&str]| run(Command::new(&actionlint).arg("-shellcheck").arg(&shellcheck).args(files));
    let workflows: Vec<_> =
        SCHEMAS.iter().filter(|(_, schema)| *schema == "github-workflows").map(|(file, _)| *file).collect();
    let output = lint(&workflows);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.yml");
    std::fs::write(&broken, text("github/terraform.yml").replace("inputs.apply", "inputs.aply")).unwrap();
    assert!(!lint(&[broken.to_str().unwrap()]).status.success(), "it can fail");
}

#[test]
fn the_systemd_unit_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("terraform.service");
    // It looks whether the programs are there.
    let text = text("systemd/terraform.service");
    std::fs::write(&unit, text.replace("/usr/local/bin/tfguard", crate::TFGUARD)).unwrap();
    let verify = || Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
    // It also says what it thinks of the machine's own units, which this one is started after.
    let complaints = |output: Output| {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        words.lines().filter(|line| line.contains("terraform.service")).map(str::to_owned).collect::<Vec<_>>()
    };
    match verify() {
        Err(error) => return skip(&format!("no systemd-analyze ({error}), so the unit is not checked with it")),
        Ok(output) => assert_eq!(complaints(output), [""; 0]),
    }
    std::fs::write(&unit, text.replace("KillMode=mixed", "KillMode=mixt")).unwrap();
    assert!(!complaints(verify().unwrap()).is_empty(), "it can fail");
}

/// Every shell script, also those that are in YAML and Groovy.
#[test]
fn every_script_passes_shellcheck() {
    let Some(shellcheck) = shellcheck() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut inline = Vec::new();
    for file in ["github/steps.yml", "github/terraform.yml"] {
        let jobs = yaml(file)["jobs"].take();
        let steps = jobs.as_object().unwrap().values().flat_map(|job| job["steps"].as_array().unwrap());
        inline.extend(steps.filter_map(|step| step["run"].as_str()).map(|script| ("bash", script.to_owned())));
    }
    for job in released("tfguard.gitlab-ci.yml").as_object().unwrap().values() {
        let lists = ["before_script", "script", "after_script"].map(|name| job[name].as_array().cloned());
        inline.extend(lists.into_iter().flatten().flatten().map(|script| ("sh", string(&script))));
    }
    for file in ["jenkins/Jenkinsfile", "jenkins/vars/tfguard.groovy"] {
        // What Groovy puts into a script before the shell sees it.
        let shell = |script: String| script.replace("${options.command}", "true");
        inline.extend(groovy(file).into_iter().map(|(_, script)| ("sh", shell(script))));
    }
    inline
        .extend(strings(&yaml("buildkite/pipeline.yml")["steps"][0]["command"]).into_iter().map(|line| ("bash", line)));
    assert!(inline.len() > 15, "{inline:?}");
    let files = inline.iter().enumerate().map(|(number, (shell, script))| {
        let file = dir.path().join(number.to_string());
        std::fs::write(&file, format!("#!/usr/bin/env {shell}\n{script}\n")).unwrap();
        file
    });
    let own = ["install.sh", "buildkite/hooks/pre-exit"].map(template);
    // SC2164: these shells stop at the first failure, also that of a `cd`.
    let mut check = Command::new(shellcheck);
    succeed(check.arg("--exclude=SC2164").args(own).arg(".ci/build").args(files.collect::<Vec<_>>()));
}

/// Nothing is taken from `latest`, from a branch, or from a tag that moves by design.
#[test]
fn everything_is_pinned_to_a_version() {
    let exact = |version: &str| {
        let mut parts = version.trim_start_matches('v').split('.');
        parts.by_ref().take(3).filter(|part| part.parse::<u32>().is_ok()).count() == 3 && parts.next().is_none()
    };
    let paths = [files("ci-templates"), files(".github"), vec![".gitlab-ci.yml".into()]].concat();
    let mut pins = 0;
    for path in paths {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).unwrap();
        for line in text.lines().map(|line| line.trim_start_matches([' ', '#', '/', '-'])) {
            assert!(!line.contains("@main") && !line.contains(":latest"), "{}: {line}", path.display());
            let pinned = if let Some(action) = line.strip_prefix("uses: ").filter(|name| !name.starts_with("./")) {
                let (name, version) = action.split_once('@').expect("an action has a version");
                // Others' by commit, since they can move their tags; the tag is beside it.
                match version.split_once(" # ") {
                    Some((commit, tag)) if commit.len() == COMMIT.len() => Some(tag),
                    _ => name.starts_with("OWNER/").then_some(version),
                }
            } else if let Some(image) = line.strip_prefix("image: ") {
                image.split_once(':').map(|(_, tag)| tag.split('-').next().unwrap_or_default())
            } else {
                continue;
            };
            assert!(pinned.is_some_and(exact), "{}: {line}", path.display());
            pins += 1;
        }
    }
    assert!(pins > 10, "only {pins} were looked at");
}

/// The templates install the release that they belong to.
#[test]
fn the_templates_have_the_version_of_the_crate() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(text("install.sh").contains(&format!("\nversion={version}\n")));
    let mut named = 0;
    for path in [files("ci-templates"), vec!["docs/install.md".into(), "docs/kubernetes.md".into()]].concat() {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).unwrap();
        for mark in ["tfguard/ci-templates/github@v", "/releases/download/v", "terraform-with-tfguard:1.15.5-"] {
            for (_, found) in
                text.split(mark).skip(1).map(|rest| (mark, rest)).filter(|(_, rest)| !rest.starts_with('$'))
            {
                assert!(found.starts_with(version), "{}: {mark}{found:.10}", path.display());
                named += 1;
            }
        }
    }
    assert!(named >= 5, "only {named} were looked at");
}

/// Permissions, credentials, pins, what a stranger's text could inject.
#[test]
fn workflows_pass_zizmor() {
    let audit = |dir: &Path| {
        let mut zizmor = Command::new(python().with_file_name("zizmor"));
        run(zizmor.args(["--offline", "--no-progress", "--no-config"]).arg(dir))
    };
    let dir = tempfile::tempdir().unwrap();
    let (name, _) = package().ending("-ci-templates.tar.gz");
    let tarball = package().file(name, dir.path());
    succeed(Command::new("tar").arg("-xzf").arg(tarball).arg("-C").arg(dir.path()));
    for workflows in [Path::new(".github"), dir.path()] {
        let output = audit(workflows);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let broken = dir.path().join("broken.yml");
    std::fs::write(&broken, text("github/terraform.yml")).unwrap();
    assert!(!audit(&broken).status.success(), "the action is pinned by its tag alone here, so it can fail");
}

#[test]
fn the_dockerfile_passes_hadolint() {
    let lint = |file: &Path| run(Command::new(python().with_file_name("hadolint")).arg("--no-color").arg(file));
    let output = lint(&template("docker/Dockerfile"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("Dockerfile");
    std::fs::write(&broken, text("docker/Dockerfile").replace("--from=install", "--form=install")).unwrap();
    assert!(!lint(&broken).status.success(), "it can fail");
}
