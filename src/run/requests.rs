//! Where requests to stop come from: signals, the end of a process that waits for tfguard, the end of the credentials.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::select_all;
use jiff::Timestamp;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook_tokio::SignalsInfo;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::aws::{AwsClients, CredentialsEnd, Surroundings};
use crate::model::StopRequest;
use crate::run::inner;
use crate::run::job::Job;
use crate::run::plan::Plan;
use crate::session::SessionDir;
use crate::terraform;
use crate::terraform::Backend;

/// Requests on their way to who supervises.
pub type Requests = UnboundedReceiver<StopRequest>;

/// The signal by which `tfguard release` asks whoever supervises to stop.
pub const RELEASE: nix::sys::signal::Signal = nix::sys::signal::SIGUSR1;

/// The variable in which aws-vault and the AWS CLI's `export-credentials` say when the keys beside it end (RFC 3339).
const EXPIRATION: &str = "AWS_CREDENTIAL_EXPIRATION";
/// Asking a source of credentials (an STS, a metadata service) never takes longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Turns the signals that CI systems and terminals send into requests, from now on. `everybody`: see [`StopRequest`].
/// `outer`: the session of the guard around this one.
pub fn from_signals(
    to: UnboundedSender<StopRequest>,
    heed_hangup: bool,
    everybody: bool,
    outer: Option<SessionDir>,
) -> std::io::Result<()> {
    let mut signals = vec![SIGINT, SIGTERM, SIGQUIT, SIGUSR1, SIGUSR2];
    if heed_hangup {
        signals.push(SIGHUP);
    }
    let mut signals = SignalsInfo::<WithOrigin>::new(signals)?;
    tokio::spawn(async move {
        while let Some(origin) = signals.next().await {
            let name = signal_hook::low_level::signal_name(origin.signal).unwrap_or("a signal").to_owned();
            let from_pid = origin.process.map(|process| process.pid).filter(|pid| *pid > 0);
            let request = match origin.signal {
                SIGUSR1 => StopRequest::Release,
                SIGUSR2 => {
                    let request = outer.as_ref().and_then(inner::outer_request);
                    request.unwrap_or(StopRequest::Outer { left: None })
                }
                _ => StopRequest::Signal { name, from_pid, everybody },
            };
            if to.send(request).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Requests a stop when one of those that wait for tfguard ([`crate::ci::Chain::waiting`]) ends.
pub fn from_waiting(to: UnboundedSender<StopRequest>, plan: &Plan) {
    let waiting = plan.waiting.clone();
    if plan.is_late {
        let _ = to.send(StopRequest::ParentDied);
    }
    if waiting.is_empty() {
        return;
    }
    tokio::spawn(async move {
        select_all(waiting.into_iter().map(|process| Box::pin(process.gone()))).await;
        let _ = to.send(StopRequest::ParentDied);
    });
}

/// Begins to take requests from what there is only once the command runs: its credentials, and the guard around this one.
pub fn once_started(plan: &Plan, job: &Job, to: &UnboundedSender<StopRequest>) {
    from_credentials(job, plan.options.stopping.before_expiry, to.clone());
    // Now that this guard can be found: who was asked before could not ask it.
    if let Some(request) = plan.outer.as_ref().and_then(inner::outer_request) {
        let _ = to.send(request);
    }
}

/// Looks, beside the running command, when its backend's credentials end. Only where somebody wants to know: with a
/// deadline, or with `before`, the time before their end at which the run is to be stopped.
fn from_credentials(job: &Job, before: Option<Duration>, to: UnboundedSender<StopRequest>) {
    if before.is_none() && job.terms.deadline.is_none() {
        return;
    }
    let surroundings = job.surroundings();
    let deadline = job.terms.deadline.and_then(|deadline| Timestamp::now().checked_add(deadline).ok());
    // Each Terraform that it starts by name has a guard of its own, which looks.
    let is_terraform = job.product().is_some();
    tokio::spawn(async move {
        let end = match end_of_credentials(&surroundings).await {
            Ok(Some(end)) => end,
            Ok(None) => return tracing::debug!("the AWS credentials do not end"),
            Err(why) if before.is_some() && is_terraform => {
                return tracing::warn!(
                    "--before-expiry does nothing: when the AWS credentials end is not known ({why})\n\
                     hint: export {EXPIRATION}=<time, as in 2026-11-28T16:05:00Z>"
                );
            }
            Err(why) => return tracing::debug!("when the AWS credentials end is not known: {why}"),
        };
        tracing::debug!("the AWS credentials end at {end:.0}");
        if deadline.is_some_and(|deadline| end < deadline) {
            tracing::warn!("the AWS credentials end at {end:.0}, before the deadline: make them last longer");
        }
        if let Some(before) = before {
            let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
            tokio::time::sleep(left.saturating_sub(before)).await;
            let _ = to.send(StopRequest::CredentialsEnd { end });
        }
    });
}

/// When the credentials of the backend end, if they do, or why that is not known.
async fn end_of_credentials(surroundings: &Surroundings) -> Result<Option<Timestamp>, String> {
    let backend = match terraform::read_backend(surroundings).map_err(|error| error.to_string())? {
        Backend::S3(backend) => backend,
        // Without a backend, there is nothing whose credentials could end.
        Backend::None | Backend::Local => return Ok(None),
        Backend::Other { kind, .. } => return Err(format!("the backend is {kind}")),
    };
    let clients = AwsClients::connect(&backend).await.map_err(|error| error.to_string())?;
    let answer = tokio::time::timeout(LONGEST, clients.credentials_end()).await;
    match answer.map_err(|_| format!("no answer within {LONGEST:?}"))?.map_err(|error| error.to_string())? {
        CredentialsEnd::At(end) => Timestamp::try_from(end).map(Some).map_err(|error| error.to_string()),
        end => match (surroundings.env.get(EXPIRATION), end) {
            (Some(time), _) => {
                let end = time.to_str().and_then(|time| time.parse().ok()).map(Some);
                end.ok_or_else(|| format!("{EXPIRATION} is not a time"))
            }
            (None, CredentialsEnd::Never) => Ok(None),
            (None, _) => Err("their source does not tell".to_owned()),
        },
    }
}
