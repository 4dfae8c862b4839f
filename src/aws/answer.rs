//! What an error of the AWS SDK means for a lock.

use std::error::Error;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// Sorts an error of the SDK. `action` is the IAM action that the request needs.
pub(crate) fn classify<E>(action: &'static str, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if let Some(credentials) = cause::<CredentialsError>(&error) {
        return classify_credentials(credentials);
    }
    match &error {
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().unwrap_or_default();
            let status = answer.raw().status().as_u16();
            let message = in_one_line(answer.err().message().unwrap_or("no message"));
            let code_shown = if code.is_empty() { "no error code" } else { code };
            let is_elsewhere = status == 301 || code == "AuthorizationHeaderMalformed";
            let region = answer.raw().headers().get("x-amz-bucket-region").filter(|_| is_elsewhere);
            let region = region.map(|region| format!("; the bucket is in {region}")).unwrap_or_default();
            let by_key = message.contains("kms:Decrypt");
            let action = if by_key { "kms:Decrypt" } else { action };
            by_code(action, code, status, format!("{code_shown} (HTTP {status}): {message}{region}"))
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            let detail = format!("HTTP {status}: {}", with_causes(&error));
            if status >= 500 { StoreError::ServiceFailed(detail) } else { StoreError::Nonsense(detail) }
        }
        SdkError::ConstructionFailure(_) => StoreError::Unreachable(with_causes(&error)),
        _ => {
            let detail = with_causes(&error);
            // Only what failed before the request was sent surely left nothing behind.
            let refused = cause::<io::Error>(&error).is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused);
            if refused || NOT_SENT.iter().any(|text| detail.contains(text)) {
                StoreError::Unreachable(detail)
            } else {
                StoreError::TimedOut(format!("{detail}{}", whether_done(action)))
            }
        }
    }
}

/// A service's words as a part of a sentence.
fn in_one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.trim_end_matches('.').to_owned()
}

/// What has to be said besides of a request that changes something and was not answered.
fn whether_done(action: &str) -> &'static str {
    let reads = ["Get", "List", "Head", "Describe", "Scan", "Query"];
    let name = action.split_once(':').map_or(action, |(_, name)| name);
    if reads.iter().any(|read| name.starts_with(read)) {
        ""
    } else {
        ". Whether the request was carried out is not known"
    }
}

/// What a failure to get credentials means.
pub(crate) fn classify_credentials(error: &CredentialsError) -> StoreError {
    let detail = with_causes(error);
    if matches!(error, CredentialsError::ProviderTimedOut(_)) {
        return StoreError::Unreachable(detail);
    }
    if EXPIRED.iter().any(|code| detail.contains(code)) {
        StoreError::CredentialsExpired(detail)
    } else {
        StoreError::CredentialsMissing(detail)
    }
}

/// What the HTTP client says of a connection that was not made, or that nothing can vouch for, and the SDK of credentials
/// that took too long: types that cannot be named here. Where the texts change, the error becomes an ambiguous one, which
/// is only less precise.
const NOT_SENT: [&str; 3] = ["client error (Connect)", "no request was sent", "identity resolver timed out"];

const EXPIRED: [&str; 4] = ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"];
const REJECTED: [&str; 11] = [
    "AuthFailure",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];
const THROTTLED: [&str; 9] = [
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
];
const CONFLICT: [&str; 4] = [
    "ConditionalRequestConflict",
    "OperationAborted",
    "ReplicatedWriteConflictException",
    "TransactionConflictException",
];

/// Sorts a service's answer by its error code, then by its HTTP status.
fn by_code(action: &'static str, code: &str, status: u16, detail: String) -> StoreError {
    match (code, status) {
        (code, _) if EXPIRED.contains(&code) => StoreError::CredentialsExpired(detail),
        (code, _) if REJECTED.contains(&code) => StoreError::CredentialsRejected(detail),
        (code, _) if THROTTLED.contains(&code) => StoreError::Throttled(detail),
        (code, _) if CONFLICT.contains(&code) => StoreError::Conflict(detail),
        ("ResourceNotFoundException", _) => StoreError::NoSuchTable(detail),
        ("NoSuchBucket", _) => StoreError::NoSuchBucket(detail),
        (_, 401 | 403) => StoreError::Denied { action, detail },
        ("AccessDenied" | "AccessDeniedException", _) => StoreError::Denied { action, detail },
        (_, 409) => StoreError::Conflict(detail),
        (_, 429) => StoreError::Throttled(detail),
        (_, 408 | 500..) => StoreError::ServiceFailed(detail),
        ("", _) => StoreError::Nonsense(detail),
        _ => StoreError::Refused(detail),
    }
}

/// An error and its causes, in one line. Not by Debug: that shows answers with all that is in them, keys and tokens included.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = in_one_line(&error.to_string());
    let mut next = error.source();
    while let Some(error) = next {
        let cause = in_one_line(&error.to_string());
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    if text.contains("invalid peer certificate") {
        text += ". Name the certificate's authority in AWS_CA_BUNDLE or the backend's `custom_ca_bundle`; without them tfguard \
                 trusts those in SSL_CERT_FILE and SSL_CERT_DIR, or else the system's";
    }
    text
}

/// The first error of a type among the causes of an error.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Why a store could not be asked, or what was wrong with its answer, with what the service or the network said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The credentials are valid but lack this IAM action, for instance `dynamodb:DeleteItem`.
    #[error("{action} was denied: {detail}. Grant {action} on this {} to the role that runs Terraform", on(action))]
    Denied { action: &'static str, detail: String },
    #[error("no AWS credentials could be had: {0}. Provide those that Terraform used, and try again")]
    CredentialsMissing(String),
    #[error("the AWS credentials have expired: {0}. Try again with fresh ones")]
    CredentialsExpired(String),
    /// The service accepts neither the credentials nor the signature.
    #[error("the AWS credentials were not accepted: {0}. Check the key, the secret and this machine's clock")]
    CredentialsRejected(String),
    #[error("throttled: {0}. Try again later")]
    Throttled(String),
    /// No answer in time, or the connection broke after the request was sent: it may have been carried out.
    #[error("no answer: {0}")]
    TimedOut(String),
    /// The service failed within (5xx): it may have carried out the request.
    #[error("the service failed: {0}. Try again later")]
    ServiceFailed(String),
    /// The request did not leave this machine.
    #[error("the endpoint cannot be reached: {0}. Check network, proxy, CA bundle and endpoint")]
    Unreachable(String),
    /// Somebody else changed the object at the same time.
    #[error("another request changed the object at the same time: {0}. Try again")]
    Conflict(String),
    #[error("there is no such DynamoDB table: {0}. Check dynamodb_table, region and account")]
    NoSuchTable(String),
    #[error("there is no such bucket: {0}. Check bucket, region and account")]
    NoSuchBucket(String),
    /// The service refuses the request for a reason that repeating it does not change.
    #[error("the service refuses the request: {0}. Check region, table, bucket and account")]
    Refused(String),
    /// The store does not keep the condition of a conditional delete, or nobody can tell whether it does.
    #[error(
        "the lockfile stays: {0}. Allow an unconditional delete after a second look (--without-conditions second-look), \
         or remove the object by hand"
    )]
    NoConditions(String),
    /// The claim cannot name a lock of this place.
    #[error("the lock claimed does not belong here: {0}")]
    Misdirected(String),
    #[error("the answer makes no sense: {0}. Is the endpoint really an AWS API?")]
    Nonsense(String),
}

impl StoreError {
    /// Whether nobody answered.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TimedOut(_))
    }

    /// Whether the same request may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        self.is_silence()
            || matches!(self, Self::Throttled(_) | Self::ServiceFailed(_) | Self::Conflict(_) | Self::Nonsense(_))
    }
}

fn on(action: &str) -> &'static str {
    if action.starts_with("kms:") { "KMS key" } else { "place" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str, status: u16) -> StoreError {
        by_code("s3:DeleteObject", code, status, String::new())
    }

    #[test]
    fn answers_are_sorted_by_code_before_status() {
        let detail = String::new;
        for (code, status, expected) in [
            ("ExpiredTokenException", 400, StoreError::CredentialsExpired(detail())),
            ("ExpiredToken", 403, StoreError::CredentialsExpired(detail())),
            ("InvalidAccessKeyId", 403, StoreError::CredentialsRejected(detail())),
            ("AccessDeniedException", 400, StoreError::Denied { action: "s3:DeleteObject", detail: detail() }),
            ("", 403, StoreError::Denied { action: "s3:DeleteObject", detail: detail() }),
            ("ThrottlingException", 400, StoreError::Throttled(detail())),
            ("SlowDown", 503, StoreError::Throttled(detail())),
            ("InternalServerError", 500, StoreError::ServiceFailed(detail())),
            ("ConditionalRequestConflict", 409, StoreError::Conflict(detail())),
            ("ResourceNotFoundException", 400, StoreError::NoSuchTable(detail())),
            ("NoSuchBucket", 404, StoreError::NoSuchBucket(detail())),
            ("ValidationException", 400, StoreError::Refused(detail())),
        ] {
            assert_eq!(kind(code, status), expected, "{code} {status}");
        }
    }

    #[test]
    fn whatever_may_have_been_carried_out_is_asked_again() {
        for status in [408, 500, 502, 503, 504] {
            assert!(kind("", status).is_retryable(), "{status}");
        }
    }

    #[test]
    fn a_services_words_become_part_of_a_sentence() {
        assert_eq!(in_one_line("Access denied.\n  Sign in\tfirst. "), "Access denied. Sign in first");
        assert_eq!((whether_done("s3:GetObject"), whether_done("dynamodb:GetItem")), ("", ""));
        assert!(!whether_done("s3:DeleteObject").is_empty() && !whether_done("dynamodb:PutItem").is_empty());
    }
}
