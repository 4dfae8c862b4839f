//! The containers that a CI makes for its jobs, where their ends are known.

use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

/// A container that a CI made for a job's script, and whose end is known: it is gone before the cleanup step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Container {
    /// GitLab's docker executor. When the script ends its container stops, when it is cancelled the container is removed
    /// by force, and `after_script` runs after that, in the container as started anew or in a new one
    /// (`startAndWatchContainer` and `requestBuildContainer` in gitlab-runner's `executors/docker`).
    GitlabDocker,
    /// One that a later tfguard knows.
    #[serde(other)]
    Other,
}

/// The first PID namespace of a kernel, that of no container (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const OF_THE_HOST: u64 = 0xEFFF_FFFC;
/// What GitLab's runner has a job's container start with (`BashDetectShellScript` in `shells/bash.go`). A container that
/// the script itself started, which outlives it, most often starts with its program.
const SHELLS: [&str; 5] = ["sh", "bash", "dash", "ash", "busybox"];

impl Container {
    /// In which kind of container the cleanup step of a job would run, by the variables of the CI.
    pub fn of_cleanup(env: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let set = |name: &str| env(name).is_some_and(|value| !value.is_empty());
        // As `common/build.go` sets them: the executors with machines of their own are disposable too, those without
        // are shared. In a pod, `after_script` runs beside the script's processes.
        let docker = set("GITLAB_CI")
            && set("CI_DISPOSABLE_ENVIRONMENT")
            && !set("CI_SHARED_ENVIRONMENT")
            && !set("KUBERNETES_SERVICE_HOST")
            && !std::path::Path::new("/var/run/secrets/kubernetes.io").exists();
        docker.then_some(Self::GitlabDocker)
    }

    /// In which one this process runs.
    pub fn detect(env: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let on_host = std::fs::metadata("/proc/self/ns/pid").map_or(true, |namespace| namespace.ino() == OF_THE_HOST);
        let first = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
        Self::of_cleanup(env).filter(|_| !on_host && SHELLS.contains(&first.trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gitlabs_docker_executor_ends_the_container_before_the_cleanup_step() {
        let gitlab = ("GITLAB_CI", "true");
        let disposable = ("CI_DISPOSABLE_ENVIRONMENT", "true");
        let expected = Some(Container::GitlabDocker);
        for (variables, expected) in [
            (&[][..], None),
            (&[gitlab], None),
            (&[disposable], None),
            (&[gitlab, disposable], expected),
            (&[gitlab, disposable, ("KUBERNETES_SERVICE_HOST", "")], expected),
            (&[gitlab, disposable, ("KUBERNETES_SERVICE_HOST", "10.0.0.1")], None),
            (&[gitlab, disposable, ("CI_SHARED_ENVIRONMENT", "true")], None),
            (&[("GITHUB_ACTIONS", "true"), disposable], None),
        ] {
            let env = |name: &str| {
                variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(Container::of_cleanup(env), expected, "{variables:?}");
        }
    }
}
