//! Credentials that end before the run does: told at the start, and a reason to stop in time if the user wants it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use super::machine::StopRequest;
use super::supervisor::Job;
use crate::backend::{self, AwsClients, Backend, Surroundings};

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
    tokio::spawn(async move {
        let Some(end) = end_of_credentials(&surroundings).await else {
            return tracing::debug!("when the AWS credentials end is not known");
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

async fn end_of_credentials(surroundings: &Surroundings) -> Option<Timestamp> {
    let Ok(Backend::S3(backend)) = backend::read_backend(surroundings) else { return None };
    let clients = AwsClients::connect(&backend).await.ok()?;
    let told = tokio::time::timeout(LONGEST, clients.credentials_expire()).await.ok()?.ok()?;
    match told {
        Some(end) => Timestamp::try_from(end).ok(),
        None => surroundings.env.get(std::ffi::OsStr::new(EXPIRATION))?.to_str()?.parse().ok(),
    }
}
