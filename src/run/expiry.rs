//! Credentials that end before the run does: told at the start, and a reason to stop in time if the user wants it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use crate::aws::{AwsClients, CredentialsEnd, Surroundings};
use crate::model::StopRequest;
use crate::run::supervisor::Job;
use crate::terraform::Backend;
use crate::{model, terraform};

/// What aws-vault and the AWS CLI's `export-credentials` set beside keys in the environment: when they end (RFC 3339).
const EXPIRATION: &str = "AWS_CREDENTIAL_EXPIRATION";
/// Asking a source of credentials (an STS, a metadata service) never takes longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Looks, beside the running command, when its backend's credentials end. Only where somebody wants to know: with a
/// deadline, or with `before`, the time before their end at which the run is to be stopped.
pub fn watch(job: &Job, before: Option<Duration>, to: UnboundedSender<StopRequest>) {
    if before.is_none() && job.terms.deadline.is_none() {
        return;
    }
    let surroundings =
        Surroundings::of_command(&job.directory, job.command.get(1..).unwrap_or_default(), job.env.clone());
    let deadline = job.terms.deadline.and_then(|deadline| Timestamp::now().checked_add(deadline).ok());
    // Each Terraform that it starts by name has a guard of its own, which looks.
    let is_terraform = job.command.first().is_some_and(|program| model::product(program).is_some());
    tokio::spawn(async move {
        let end = match end_of_credentials(&surroundings).await {
            Ok(End::At(end)) => end,
            Ok(End::Never) => return tracing::debug!("the AWS credentials do not end"),
            Err(why) if before.is_some() && is_terraform => {
                return tracing::warn!(
                    "--before-expiry does nothing: when the AWS credentials end is not known ({why}). \
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

/// When credentials end.
enum End {
    At(Timestamp),
    Never,
}

/// When those of the backend end, or why that is not known.
async fn end_of_credentials(surroundings: &Surroundings) -> Result<End, String> {
    let backend = match terraform::read_backend(surroundings).map_err(|error| error.to_string())? {
        Backend::S3(backend) => backend,
        // Without a backend, there is nothing whose credentials could end.
        Backend::None | Backend::Local => return Ok(End::Never),
        Backend::Other { kind, .. } => return Err(format!("the backend is {kind}")),
    };
    let clients = AwsClients::connect(&backend).await.map_err(|error| error.to_string())?;
    let told = tokio::time::timeout(LONGEST, clients.credentials_end()).await;
    match told.map_err(|_| format!("no answer within {LONGEST:?}"))?.map_err(|error| error.to_string())? {
        CredentialsEnd::At(end) => Timestamp::try_from(end).map(End::At).map_err(|error| error.to_string()),
        end => match (surroundings.env.get(std::ffi::OsStr::new(EXPIRATION)), end) {
            (Some(told), _) => {
                let end = told.to_str().and_then(|told| told.parse().ok()).map(End::At);
                end.ok_or_else(|| format!("{EXPIRATION} is not a time"))
            }
            (None, CredentialsEnd::Never) => Ok(End::Never),
            (None, _) => Err("their source does not tell".to_owned()),
        },
    }
}
