//! `--reclaim`: before the command starts, waits until the lock of its state is gone, and deletes it where its holder let its
//! lease run out.
//!
//! It happens in the process that the CI started, before there is a session: whatever ends it leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::aws::{AwsClients, Surroundings};
use crate::exit;
use crate::model::{self, Settings, StopRequest};
use crate::run::expiry::{Expired, Expiry};
use crate::run::nameless::State;
use crate::run::plan::Plan;
use crate::run::requests::Requests;
use crate::run::{inner, states};
use crate::session::SessionDir;
use crate::terraform::{self, Purpose};
use crate::text::printable;

/// Between two looks whether the guard around this one wants a stop: it cannot ask who has no session yet.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Waits, where that is asked for and the command is a Terraform that takes a lock. The exit code, where the command is not
/// to be started.
pub async fn before_start(plan: &mut Plan, requests: &mut Requests) -> Option<u8> {
    let program = plan.command.first().filter(|program| plan.reclaim && model::product(program).is_some())?;
    let name = Path::new(program).file_name().map(|name| printable(&name.to_string_lossy())).unwrap_or_default();
    let began = Instant::now();
    let code = tokio::select! {
        biased;
        request = stop(requests, plan.outer.as_ref(), plan.terms.deadline) => {
            tracing::info!("stop requested: {request}");
            tracing::warn!("{name} was not started, because the stop came while its state's lock was waited for");
            Some(code_of(&request))
        }
        code = wait(plan, &name) => code,
    };
    plan.shorten_deadline(began.elapsed());
    code
}

/// The first request to stop.
async fn stop(requests: &mut Requests, outer: Option<&SessionDir>, deadline: Option<Duration>) -> StopRequest {
    let of_outer = async {
        loop {
            if let Some(request) = outer.and_then(inner::outer_request) {
                return request;
            }
            sleep(ASK_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        Some(request) = requests.recv() => request,
        request = of_outer, if outer.is_some() => request,
        () = sleep(deadline.unwrap_or_default()), if deadline.is_some() => StopRequest::Deadline,
        else => std::future::pending().await,
    }
}

/// As if Terraform had died of it; of an interrupt, where it is not a signal.
fn code_of(request: &StopRequest) -> u8 {
    let signal = match request {
        StopRequest::Deadline | StopRequest::CredentialsEnd { .. } => return exit::DEADLINE,
        StopRequest::Signal { name, .. } => name.parse().unwrap_or(Signal::SIGINT),
        _ => Signal::SIGINT,
    };
    u8::try_from(128 + signal as i32).unwrap_or(exit::TFGUARD_FAILED)
}

async fn wait(plan: &Plan, name: &str) -> Option<u8> {
    let arguments = plan.command.get(1..).unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    let surroundings = Surroundings::of_command(&here, arguments, plan.env.clone());
    let purpose = Purpose::read(&plan.command, &plan.env)?;
    let workspace = purpose.workspace.clone().unwrap_or_else(|| terraform::workspace(&surroundings));
    if !purpose.locks(&workspace) {
        return None;
    }
    let plan_file = terraform::plan_file(arguments, &surroundings);
    let not_looked = |why: String| {
        tracing::warn!("--reclaim does nothing, and {name} starts: {why}");
        None
    };
    let state = match State::at(&surroundings, plan_file.as_deref(), &workspace) {
        Ok(Some(state)) => state,
        Ok(None) => return None,
        Err(error) => return not_looked(error.to_string()),
    };
    let State { backend, key, places, .. } = state;
    let clients = match AwsClients::connect_trusting_no_checkout(&backend).await {
        Ok(clients) => clients,
        Err(error) => return not_looked(error.to_string()),
    };
    match Expiry::of_state(&clients, places.clone()).watch().await {
        Ok(Expired::Reclaimed) => {}
        Ok(Expired::Unleased(why)) => {
            tracing::info!("the lock is left to {name}: {why}");
            return None;
        }
        Ok(Expired::Free | Expired::Renewed | Expired::Another) => return None,
        Err(error) => return not_looked(error.in_a_line()),
    }
    let whole = plan_file.is_some() || terraform::unit_of(&surroundings.dir).is_some();
    let settings = Settings::of(&backend, &key, surroundings.dir, plan_file, whole);
    let state = states::look_after_reclaim(&clients, &backend, &key, places, &settings).await;
    let (line, next) = match (state.finding(), &state.why) {
        (Some(finding), _) => (finding.line, finding.next),
        (None, Some(why)) => {
            (format!("state s3://{}/{key} could not be looked at: {why}", backend.bucket()), Some(state.next.clone()))
        }
        (None, None) => return None,
    };
    tracing::warn!("{line}");
    tracing::warn!("next: {}", next.unwrap_or_default());
    tracing::warn!("{name} was not started: the run whose lock was deleted may have left the state so");
    Some(exit::STATE_NEEDS_A_LOOK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_gives_the_code_of_its_signal_and_the_deadline_its_own() {
        let signal = |name: &str| StopRequest::Signal { name: name.to_owned(), from_pid: None, everybody: false };
        for (request, code) in [
            (signal("SIGTERM"), 143),
            (signal("SIGINT"), 130),
            (signal("SIGHUP"), 129),
            (StopRequest::ParentDied, 130),
            (StopRequest::Outer { left: None }, 130),
            (StopRequest::Deadline, 124),
        ] {
            assert_eq!(code_of(&request), code, "{request}");
        }
    }
}
