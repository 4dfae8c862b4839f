//! The variables by which Terraform is made to log, and what a user's own of them mean.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::model::Environment;
use crate::session::SessionDir;
use crate::terraform::flavour::Flavour;

/// Terraform's log variables. If the user set any of them, all stay as they are.
const LOG_VARIABLES: [&str; 4] = ["TF_LOG", "TF_LOG_CORE", "TF_LOG_PROVIDER", LOG_PATH];
const LOG_PATH: &str = "TF_LOG_PATH";
/// A second sink of Terraform (0.15 and later) and OpenTofu for their log, at level TRACE, whatever the variables
/// above say (`internal/logging/logging.go`, `main.go`). The file has to exist.
const SECOND_LOG: &str = "TF_TEMP_LOG_PATH";

/// The environment as the user set it: without the log variables of another guard's session.
pub(crate) fn without_outer_log(mut env: Environment) -> Environment {
    let is_a_sessions = |env: &Environment, name: &str| {
        let session = |log: &Path| SessionDir::open(log.parent()?).ok();
        env.path(name).is_some_and(|log| session(log).is_some_and(|session| session.log() == *log))
    };
    if is_a_sessions(&env, SECOND_LOG) {
        env.remove([SECOND_LOG]);
    }
    // A guard sets it only where the user set none of them.
    if is_a_sessions(&env, LOG_PATH) {
        env.remove(LOG_VARIABLES);
    }
    env
}

/// The variables that make Terraform log to `log`, in the way in which its flavour logs locks; none where the user needs
/// them all.
///
/// What is in such a log: at INFO, command lines, which can have `-var 'password=…'` in them. At DEBUG and TRACE also
/// requests: the SDK v2's with their credentials masked, those of Terraform up to 1.5 as they were sent, with session
/// tokens and whole states. So the file is private to the user and goes with the session.
///
/// `TF_FORK=0`, which keeps Terraform up to 1.0 from starting itself a second time, is not set: it makes 0.12 to 0.14
/// write their log to stderr, whatever the log variables say (`wrappedMain` in their `main.go`). Both processes of such
/// a Terraform have the log open, and the outer one ignores SIGINT (`ignoreSignals`), so the pair has its one interrupt.
pub(crate) fn log_variables(env: &Environment, log: &Path, flavour: Flavour) -> Vec<(&'static str, OsString)> {
    let second_is_free = !env.has(SECOND_LOG);
    let free = log_variables_of_user(env).is_empty();
    let path = || (LOG_PATH, log.into());
    match flavour {
        // Its SDK logs requests only if the environment asks for DEBUG. One before 0.15, whose version is to be seen, knows
        // TF_LOG alone, and loses records below TRACE. For the others the providers are kept out.
        Flavour::OldTerraform if free => {
            vec![("TF_LOG", "trace".into()), ("TF_LOG_PROVIDER", "off".into()), path()]
        }
        // The second sink has DEBUG records whatever the environment says, and does not make OpenTofu believe that it
        // is being debugged, which makes it check and measure more.
        Flavour::OpenTofu if second_is_free => vec![(SECOND_LOG, log.into())],
        Flavour::OpenTofu if free => vec![("TF_LOG_CORE", "debug".into()), path()],
        // It may be any, and this costs it little.
        Flavour::Unknown if free => vec![("TF_LOG_CORE", "debug".into()), path()],
        // The lock's records are at level INFO, which costs Terraform nothing.
        Flavour::Terraform if free => vec![("TF_LOG_CORE", "info".into()), path()],
        _ if second_is_free => vec![(SECOND_LOG, log.into())],
        _ => Vec::new(),
    }
}

/// The log variables that the user set.
pub(crate) fn log_variables_of_user(env: &Environment) -> Vec<&'static str> {
    LOG_VARIABLES.into_iter().filter(|name| env.has(name)).collect()
}

/// Whether an environment asks for a log of level DEBUG or lower (`globalLogLevel` in `internal/logging/logging.go`; what
/// is no level means TRACE).
pub(crate) fn asks_for_debug(env: &Environment) -> bool {
    let level = env.get("TF_LOG").or_else(|| env.get("TF_LOG_CORE")).map(OsStr::to_ascii_uppercase);
    level.is_some_and(|level| !["INFO", "WARN", "ERROR", "OFF"].iter().any(|above| level == *above))
}

#[cfg(test)]
mod tests {
    use super::*;

    use Flavour::{OldTerraform, OpenTofu, Terraform, Unknown};

    fn change(flavour: Flavour, env: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let env = env.iter().copied().collect();
        let set = log_variables(&env, Path::new("/s/terraform.log"), flavour);
        set.into_iter().map(|(name, value)| (name, value.into_string().unwrap())).collect()
    }

    fn set(variables: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    const LOG: &str = "/s/terraform.log";

    #[test]
    fn each_flavour_has_the_channel_that_shows_its_locks() {
        for env in [&[][..], &[("TF_LOG", "")], &[("TF_TEMP_LOG_PATH", "")]] {
            let info = set(&[("TF_LOG_CORE", "info"), ("TF_LOG_PATH", LOG)]);
            assert_eq!(change(Terraform, env), info, "{env:?}");
            let debug = set(&[("TF_LOG_CORE", "debug"), ("TF_LOG_PATH", LOG)]);
            assert_eq!(change(Unknown, env), debug, "{env:?}");
            assert_eq!(change(OpenTofu, env), set(&[("TF_TEMP_LOG_PATH", LOG)]), "{env:?}");
            let trace = set(&[("TF_LOG", "trace"), ("TF_LOG_PROVIDER", "off"), ("TF_LOG_PATH", LOG)]);
            assert_eq!(change(OldTerraform, env), trace, "{env:?}");
        }
    }

    #[test]
    fn a_second_sink_of_the_users_stays() {
        let env = [("TF_TEMP_LOG_PATH", "/mine")];
        for (flavour, level) in [(Terraform, "info"), (Unknown, "debug"), (OpenTofu, "debug")] {
            assert_eq!(change(flavour, &env), set(&[("TF_LOG_CORE", level), ("TF_LOG_PATH", LOG)]));
        }
    }

    #[test]
    fn a_log_variable_of_the_users_stays_and_the_second_sink_serves() {
        for name in LOG_VARIABLES {
            for flavour in [Terraform, OldTerraform, OpenTofu, Unknown] {
                assert_eq!(change(flavour, &[(name, "x")]), set(&[("TF_TEMP_LOG_PATH", LOG)]), "{name}");
            }
        }
    }

    #[test]
    fn an_environment_asks_for_debug_as_terraform_understands_it() {
        for (env, asks) in [
            (&[][..], false),
            (&[("TF_LOG", "info"), ("TF_LOG_CORE", "trace")], false),
            (&[("TF_LOG", ""), ("TF_LOG_CORE", "Debug")], true),
            (&[("TF_LOG", "json")], true),
            (&[("TF_LOG", "what"), ("TF_LOG_PATH", "x")], true),
            (&[("TF_LOG_PROVIDER", "debug"), ("TF_LOG_PATH", "x")], false),
        ] {
            let env = env.iter().copied().collect();
            assert_eq!(asks_for_debug(&env), asks, "{env:?}");
        }
    }

    #[test]
    fn with_both_sinks_taken_there_is_no_log_for_us() {
        for flavour in [Terraform, OldTerraform, OpenTofu, Unknown] {
            assert!(change(flavour, &[("TF_LOG", "debug"), ("TF_TEMP_LOG_PATH", "/mine")]).is_empty());
        }
    }

    /// On 0.13 it once put hundreds of log lines on stderr.
    #[test]
    fn the_second_process_of_an_old_terraform_is_not_suppressed() {
        for flavour in [Terraform, OldTerraform, OpenTofu, Unknown] {
            assert!(change(flavour, &[]).iter().all(|(name, _)| *name != "TF_FORK"));
        }
    }
}
