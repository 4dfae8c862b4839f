//! Who asks AWS, for how long, and whether this machine's clock is AWS's.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use jiff::{SignedDuration, Timestamp};

use super::finding::Area::Credentials;
use super::finding::Finding;
use crate::backend::AwsClients;
use crate::lock::StoreError;

/// What aws-vault and the AWS CLI's `export-credentials` set beside keys in the environment: when they end (RFC 3339).
const EXPIRATION: &str = "AWS_CREDENTIAL_EXPIRATION";
/// Nothing bounds a program that is to print credentials.
const LONGEST: Duration = Duration::from_secs(20);
/// A run of Terraform, and the release after it, can take longer than that.
const SHORT: Duration = Duration::from_secs(15 * 60);
/// By so much a clock may differ; from five minutes on AWS does not accept signatures.
const SKEW: Duration = Duration::from_secs(30);
const SKEW_REFUSED: Duration = Duration::from_secs(5 * 60);

/// Who was asked for, and what came of it.
#[derive(Debug)]
pub struct Identity {
    /// When the credentials end: none where they do not, or nobody tells.
    pub end: Result<Option<Timestamp>, StoreError>,
    /// The ARN of who they are.
    pub arn: Option<String>,
}

/// Fetches the credentials and asks whose they are, which needs no permission.
pub async fn look(clients: &AwsClients, env: &HashMap<OsString, OsString>) -> Identity {
    let fetched = tokio::time::timeout(LONGEST, clients.credentials_expire()).await;
    let silence = |_| Err(StoreError::CredentialsMissing { detail: format!("they did not come within {LONGEST:?}") });
    let end = match fetched.unwrap_or_else(silence) {
        Ok(Some(end)) => Ok(Timestamp::try_from(end).ok()),
        Ok(None) => Ok(env.get(OsStr::new(EXPIRATION)).and_then(|end| end.to_str()?.parse().ok())),
        Err(error) => return Identity { end: Err(error), arn: None },
    };
    Identity { end, arn: clients.caller().await.identity.map(|identity| identity.arn) }
}

/// Whether the service did not take the credentials, whatever they may do.
pub fn are_refused(error: &StoreError) -> bool {
    matches!(error, StoreError::CredentialsRejected { .. } | StoreError::CredentialsExpired { .. })
}

/// What follows. `left` is what remains of the job's time, where the CI tells.
#[must_use]
pub fn findings(identity: &Identity, source: &str, left: Option<Duration>, now: Timestamp) -> Vec<Finding> {
    const ID: &str = "credentials";
    let end = match &identity.end {
        Ok(end) => end,
        Err(error) => {
            return vec![
                Finding::problem(Credentials, ID, format!("{source}: {error}"))
                    .why("neither Terraform nor the release of its lock can ask AWS"),
            ];
        }
    };
    let who = identity.arn.as_deref().map(|arn| format!(": {arn}")).unwrap_or_default();
    let mut findings = vec![Finding::ok(Credentials, ID, format!("{source}{who}"))];
    let Some(end) = end else { return findings };
    let valid = Duration::try_from(end.duration_since(now)).unwrap_or_default();
    let seen = format!("they end at {end:.0}, in {}", crate::run::describe(Duration::from_secs(valid.as_secs())));
    const EXPIRY: &str = "expiry";
    const FIX: &str = "make them last longer than the job, or give --before-expiry, so that Terraform is stopped in time to save its state and unlock";
    findings.push(match left {
        _ if valid.is_zero() => Finding::problem(Credentials, EXPIRY, format!("they ended at {end:.0}")).why("AWS accepts nothing more").fix("get new ones"),
        Some(left) if valid < left => Finding::warning(Credentials, EXPIRY, seen)
            .why("the job may run longer; with credentials that have ended, neither the state can be saved nor the lock released")
            .fix(FIX),
        None if valid < SHORT => {
            Finding::warning(Credentials, EXPIRY, seen).why("with credentials that have ended, neither the state can be saved nor the lock released").fix(FIX)
        }
        _ => Finding::note(Credentials, EXPIRY, seen),
    });
    findings
}

/// The kind of source that credentials come from, in the order in which Terraform looks. Names no secret.
#[must_use]
pub fn source(set: &[String], env: &HashMap<OsString, OsString>) -> &'static str {
    let is_set = |name: &str| set.iter().any(|set| set == name);
    let variable =
        |name: &str| env.get(OsStr::new(name)).and_then(|value| value.to_str()).filter(|value| !value.is_empty());
    if is_set("access_key") {
        "keys in the backend block"
    } else if is_set("assume_role_with_web_identity") {
        "an identity token, by the backend block"
    } else if is_set("profile") {
        "the backend block's profile"
    } else if let Some(key) = variable("AWS_ACCESS_KEY_ID") {
        // AWS marks the kinds of keys so.
        if key.starts_with("ASIA") { "temporary keys in the environment" } else { "keys in the environment" }
    } else if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
        "an identity token, by the environment"
    } else if variable("AWS_PROFILE").is_some() {
        "the profile in AWS_PROFILE"
    } else if ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        .iter()
        .any(|name| variable(name).is_some())
    {
        "the container's role"
    } else {
        "the default profile or the machine's role"
    }
}

/// Reads the server's clock from an answer.
#[derive(Debug, Clone, Default)]
pub struct ServerClock(Arc<Mutex<Option<SignedDuration>>>);

impl ServerClock {
    /// By how much this machine's clock is ahead; none if no answer told a time.
    #[must_use]
    pub fn ahead(&self) -> Option<SignedDuration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for ServerClock {
    fn name(&self) -> &'static str {
        "ServerClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let told = date.and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        if let Some(told) = told {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Timestamp::now().duration_since(told));
        }
        Ok(())
    }
}

/// What follows from a clock that is ahead by so much.
#[must_use]
pub fn clock(ahead: SignedDuration) -> Finding {
    const ID: &str = "clock";
    let off = Duration::try_from(ahead.abs()).unwrap_or_default();
    if off < SKEW {
        return Finding::ok(Credentials, ID, "this machine's clock agrees with AWS");
    }
    let direction = if ahead.is_negative() { "behind" } else { "ahead of" };
    let seen =
        format!("this machine's clock is {} {direction} AWS", crate::run::describe(Duration::from_secs(off.as_secs())));
    let fix = "let it be set by NTP or chrony";
    if off < SKEW_REFUSED {
        Finding::warning(Credentials, ID, seen)
            .why("the ages of locks and the end of credentials are told wrongly")
            .fix(fix)
    } else {
        Finding::problem(Credentials, ID, seen)
            .why("AWS does not accept signatures that are five minutes off or more")
            .fix(fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Severity::{self, Note, Ok as Fine, Problem, Warning};

    #[test]
    fn credentials_that_end_too_soon_are_told() {
        let now: Timestamp = "2026-01-01T10:00:00Z".parse().unwrap();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let of = |valid: Option<i64>, left: Option<Duration>| -> Vec<Severity> {
            let end = valid.map(|minutes| now + SignedDuration::from_mins(minutes));
            let identity = Identity { end: Ok(end), arn: None };
            findings(&identity, "keys", left, now).iter().map(|found| found.severity).collect()
        };
        assert_eq!(of(None, None), [Fine]);
        assert_eq!(of(Some(60), None), [Fine, Note]);
        assert_eq!(of(Some(10), None), [Fine, Warning]);
        assert_eq!(of(Some(10), Some(minutes(5))), [Fine, Note]);
        assert_eq!(of(Some(60), Some(minutes(90))), [Fine, Warning]);
        assert_eq!(of(Some(-1), None), [Fine, Problem]);
        let none = Identity { end: Err(StoreError::CredentialsMissing { detail: String::new() }), arn: None };
        assert_eq!(findings(&none, "", None, now)[0].severity, Problem);
    }

    #[test]
    fn a_clock_may_be_a_little_off() {
        for (seconds, severity) in
            [(0, Fine), (29, Fine), (-29, Fine), (31, Warning), (-299, Warning), (300, Problem), (-9000, Problem)]
        {
            assert_eq!(clock(SignedDuration::from_secs(seconds)).severity, severity, "{seconds}");
        }
    }

    #[test]
    fn the_source_is_named_in_terraforms_order() {
        let of = |set: &[&str], env: &[(&str, &str)]| {
            let set: Vec<_> = set.iter().map(|name| (*name).to_owned()).collect();
            source(&set, &env.iter().map(|(name, value)| (name.into(), value.into())).collect())
        };
        let key = ("AWS_ACCESS_KEY_ID", "ASIAX");
        assert_eq!(of(&["access_key", "profile"], &[key]), "keys in the backend block");
        assert_eq!(of(&["profile"], &[key]), "the backend block's profile");
        assert_eq!(of(&[], &[key]), "temporary keys in the environment");
        assert_eq!(of(&[], &[("AWS_ACCESS_KEY_ID", "AKIAX")]), "keys in the environment");
        assert_eq!(of(&[], &[("AWS_PROFILE", "x")]), "the profile in AWS_PROFILE");
        assert_eq!(of(&[], &[("AWS_PROFILE", "")]), "the default profile or the machine's role");
    }
}
