//! `--reclaim`: before the command starts, waits until the lock of its state is gone, and deletes it where its holder let its
//! lease run out.
//!
//! It happens in the process that the CI started, before there is a session: whatever ends it leaves nothing behind.

use std::path::Path;
use std::pin::{Pin, pin};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::aws::{AwsClients, Surroundings};
use crate::exit;
use crate::model::{self, Settings, StopRequest};
use crate::run::inner;
use crate::run::lease::expiry::{Expired, Expiry};
use crate::run::locks::states;
use crate::run::locks::unlogged::State;
use crate::run::plan::Plan;
use crate::run::requests::Requests;
use crate::session::SessionDir;
use crate::terraform::{self, Purpose};
use crate::text::printable;

/// Between two looks whether the guard around this one wants a stop: it cannot ask who has no session yet.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Waits, where that is asked for and the command is a Terraform that takes a lock. The exit code, where the command is not
/// to be started.
pub async fn before_start(plan: &mut Plan, requests: &mut Requests) -> Option<u8> {
    let program =
        plan.command.first().filter(|program| plan.options.locks.reclaim && model::product(program).is_some())?;
    let name = Path::new(program).file_name().map(|name| printable(&name.to_string_lossy())).unwrap_or_default();
    let began = Instant::now();
    let waited = {
        let stop = pin!(stop(requests, plan.outer.as_ref(), plan.deadline.as_ref().map(|term| term.duration)));
        wait(plan, &name, stop).await
    };
    let code = waited.unwrap_or_else(|request| {
        tracing::info!("stop requested: {request}");
        tracing::warn!("{name} was not started: the stop came before that");
        Some(code_of(&request))
    });
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

/// What `work` gives, unless a stop comes first.
async fn or_stop<T>(
    mut stop: Pin<&mut impl Future<Output = StopRequest>>,
    work: impl Future<Output = T>,
) -> Result<T, StopRequest> {
    tokio::select! {
        biased;
        request = &mut stop => Err(request),
        done = work => Ok(done),
    }
}

/// Waits until nothing is in the command's way that it has to wait for: as [`before_start`].
///
/// # Errors
/// With the request that ended the wait.
async fn wait(
    plan: &Plan,
    name: &str,
    mut stop: Pin<&mut impl Future<Output = StopRequest>>,
) -> Result<Option<u8>, StopRequest> {
    let arguments = plan.command.get(1..).unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    let surroundings = Surroundings::of_command(&here, arguments, plan.env.clone());
    // The lock under which a workspace's state is made is no reason to wait: who only reads makes none where there is one.
    let purpose = Purpose::read(&plan.command, &plan.env);
    let Some(purpose) = purpose.filter(|purpose| !purpose.operations.is_empty() || purpose.moves) else {
        return Ok(None);
    };
    let workspace = purpose.workspace.unwrap_or_else(|| terraform::workspace(&surroundings));
    let plan_file = terraform::plan_file(arguments, &surroundings);
    let not_looked = |why: String| {
        tracing::warn!("--reclaim does nothing, and {name} starts: {why}");
        Ok(None)
    };
    let state = match State::at(&surroundings, plan_file.as_deref(), &workspace) {
        Ok(Some(state)) => state,
        Ok(None) => return Ok(None),
        Err(error) => return not_looked(error.to_string()),
    };
    let State { backend, key, places, .. } = state;
    let clients = match or_stop(stop.as_mut(), AwsClients::connect_trusting_no_checkout(&backend)).await? {
        Ok(clients) => clients,
        Err(error) => return not_looked(error.to_string()),
    };
    let mut expiry = Expiry::of_state(&clients, places.clone());
    let watched = or_stop(stop.as_mut(), expiry.watch()).await;
    let deleted = expiry.deleted();
    match &watched {
        Ok(Ok(Expired::Stays(why))) => tracing::info!("the lock is left to {name}: {why}"),
        Ok(Err(error)) if deleted.is_some() => {
            tracing::warn!("what may be left of the lock is left to {name}: {}", error.in_a_line());
        }
        Ok(Err(error)) => return not_looked(error.in_a_line()),
        _ => {}
    }
    // Of a lock that went by itself it is not known whether its holder released it, or another observer deleted it.
    if deleted.is_none() && !matches!(watched, Ok(Ok(Expired::Gone))) {
        return watched.map(|_| None);
    }
    let settings = Settings::of(&backend, &key, surroundings.dir, plan_file);
    let mut stopped = watched.err();
    let until = async {
        if stopped.is_none() {
            stopped = Some(stop.await);
        }
        "a stop came first".to_owned()
    };
    let state = states::look_after_reclaim(&clients, &key, places, &settings, deleted.is_some(), until).await;
    let (line, next) = match (state.finding(), state.why, deleted) {
        (Some(finding), ..) => (finding.line, finding.next.unwrap_or_default()),
        (None, Some(why), Some(is_sure)) => {
            let was = if is_sure { "was" } else { "may have been" };
            let state_is = format!("state s3://{}/{key}", backend.bucket());
            (format!("{state_is}: its lock {was} deleted, and it could not be looked at: {why}"), state.next)
        }
        // Most likely its holder released it.
        (None, ..) => return stopped.map_or(Ok(None), Err),
    };
    tracing::warn!("{line}");
    tracing::warn!("next: {next}");
    if let Some(request) = stopped {
        return Err(request);
    }
    tracing::warn!("{name} was not started: the run whose lock is gone may have left the state so");
    Ok(Some(exit::STATE_NEEDS_A_LOOK))
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
