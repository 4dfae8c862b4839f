//! What an error of the AWS SDK means for a lock.

use std::error::Error;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// Sorts an error of the SDK. `action` is the IAM action that the request needs.
pub(crate) fn understand<E>(action: &'static str, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if let Some(credentials) = cause::<CredentialsError>(&error) {
        return no_credentials(credentials);
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
            sort(action, code, status, format!("{code_shown} (HTTP {status}): {message}{region}"))
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            let detail = format!("HTTP {status}: {}", told(&error));
            if status >= 500 { StoreError::ServiceFailed { detail } } else { StoreError::Nonsense { detail } }
        }
        SdkError::ConstructionFailure(_) => StoreError::Unreachable { detail: told(&error) },
        _ => {
            let detail = told(&error);
            // Only what failed before the request was sent surely left nothing behind.
            let refused = cause::<io::Error>(&error).is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused);
            if refused || NOT_SENT.iter().any(|text| detail.contains(text)) {
                StoreError::Unreachable { detail }
            } else {
                StoreError::TimedOut { detail: format!("{detail}{}", whether_done(action)) }
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
pub(crate) fn no_credentials(error: &CredentialsError) -> StoreError {
    let detail = told(error);
    if matches!(error, CredentialsError::ProviderTimedOut(_)) {
        return StoreError::Unreachable { detail };
    }
    if EXPIRED.iter().any(|code| detail.contains(code)) {
        StoreError::CredentialsExpired { detail }
    } else {
        StoreError::CredentialsMissing { detail }
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
fn sort(action: &'static str, code: &str, status: u16, detail: String) -> StoreError {
    match (code, status) {
        (code, _) if EXPIRED.contains(&code) => StoreError::CredentialsExpired { detail },
        (code, _) if REJECTED.contains(&code) => StoreError::CredentialsRejected { detail },
        (code, _) if THROTTLED.contains(&code) => StoreError::Throttled { detail },
        (code, _) if CONFLICT.contains(&code) => StoreError::Conflict { detail },
        ("ResourceNotFoundException", _) => StoreError::NoSuchTable { detail },
        ("NoSuchBucket", _) => StoreError::NoSuchBucket { detail },
        (_, 401 | 403) => StoreError::Denied { action, detail },
        ("AccessDenied" | "AccessDeniedException", _) => StoreError::Denied { action, detail },
        (_, 409) => StoreError::Conflict { detail },
        (_, 429) => StoreError::Throttled { detail },
        (_, 408 | 500..) => StoreError::ServiceFailed { detail },
        ("", _) => StoreError::Nonsense { detail },
        _ => StoreError::Refused { detail },
    }
}

/// What an error and its causes say. Not by Debug: that shows answers with all that is in them, keys and tokens included.
pub(crate) fn told(error: &(dyn Error + 'static)) -> String {
    let mut told = in_one_line(&error.to_string());
    let mut next = error.source();
    while let Some(error) = next {
        let text = in_one_line(&error.to_string());
        if !told.ends_with(&text) {
            told = format!("{told}: {text}");
        }
        next = error.source();
    }
    if told.contains("invalid peer certificate") {
        told += ". Name the certificate's authority in AWS_CA_BUNDLE or the backend's `custom_ca_bundle`; without them tfguard \
                 trusts those in SSL_CERT_FILE and SSL_CERT_DIR, or else the system's";
    }
    told
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

/// Why a store could not be asked, or what was wrong with its answer. `detail` is what the service or the network said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The credentials are valid but may not do this.
    #[error("{action} was denied: {detail}. Grant {action} on this {} to the role that runs Terraform", on(action))]
    Denied {
        /// The IAM action that is missing, for instance `dynamodb:DeleteItem`.
        action: &'static str,
        /// What the service said.
        detail: String,
    },
    /// There are no credentials, or they could not be had.
    #[error("no AWS credentials could be had: {detail}. Provide those that Terraform used, and try again")]
    CredentialsMissing {
        /// What each source said.
        detail: String,
    },
    /// The credentials are no longer valid.
    #[error("the AWS credentials have expired: {detail}. Try again with fresh ones")]
    CredentialsExpired {
        /// What the service said.
        detail: String,
    },
    /// The service does not accept the credentials or the signature.
    #[error("the AWS credentials were not accepted: {detail}. Check the key, the secret and this machine's clock")]
    CredentialsRejected {
        /// What the service said.
        detail: String,
    },
    /// The service is busy.
    #[error("throttled: {detail}. Try again later")]
    Throttled {
        /// What the service said.
        detail: String,
    },
    /// No answer in time, or the connection broke after the request was sent: it may have been carried out.
    #[error("no answer: {detail}")]
    TimedOut {
        /// What was waited for.
        detail: String,
    },
    /// The service failed within (5xx): it may have carried out the request.
    #[error("the service failed: {detail}. Try again later")]
    ServiceFailed {
        /// What the service said.
        detail: String,
    },
    /// The request did not leave this machine.
    #[error("the endpoint cannot be reached: {detail}. Check network, proxy, CA bundle and endpoint")]
    Unreachable {
        /// What the network said.
        detail: String,
    },
    /// Somebody else changed the object at the same time.
    #[error("another request changed the object at the same time: {detail}. Try again")]
    Conflict {
        /// What the service said.
        detail: String,
    },
    /// There is no such table.
    #[error("there is no such DynamoDB table: {detail}. Check dynamodb_table, region and account")]
    NoSuchTable {
        /// What the service said.
        detail: String,
    },
    /// There is no such bucket.
    #[error("there is no such bucket: {detail}. Check bucket, region and account")]
    NoSuchBucket {
        /// What the service said.
        detail: String,
    },
    /// The service refuses the request for a reason that repeating it does not change.
    #[error("the service refuses the request: {detail}. Check region, table, bucket and account")]
    Refused {
        /// What the service said.
        detail: String,
    },
    /// The store does not keep the condition of a conditional delete, or nobody can tell whether it does.
    #[error(
        "the lockfile stays: {detail}. Allow an unconditional delete after a second look (--without-conditions \
         second-look), or remove the object by hand"
    )]
    NoConditions {
        /// What showed it.
        detail: String,
    },
    /// The claim cannot name a lock of this place.
    #[error("the lock claimed does not belong here: {detail}")]
    Misdirected {
        /// What does not fit.
        detail: String,
    },
    /// The answer makes no sense.
    #[error("the answer makes no sense: {detail}. Is the endpoint really an AWS API?")]
    Nonsense {
        /// What it was.
        detail: String,
    },
}

impl StoreError {
    /// Whether the request may have been carried out nevertheless.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::ServiceFailed { .. } | Self::Nonsense { .. })
    }

    /// Whether nobody answered.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }

    /// Whether the same request may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. }
                | Self::TimedOut { .. }
                | Self::ServiceFailed { .. }
                | Self::Unreachable { .. }
                | Self::Conflict { .. }
                | Self::Nonsense { .. }
        )
    }
}

fn on(action: &str) -> &'static str {
    if action.starts_with("kms:") { "KMS key" } else { "place" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str, status: u16) -> StoreError {
        sort("s3:DeleteObject", code, status, String::new())
    }

    #[test]
    fn answers_are_sorted_by_code_before_status() {
        let detail = String::new;
        for (code, status, expected) in [
            ("ExpiredTokenException", 400, StoreError::CredentialsExpired { detail: detail() }),
            ("ExpiredToken", 403, StoreError::CredentialsExpired { detail: detail() }),
            ("InvalidAccessKeyId", 403, StoreError::CredentialsRejected { detail: detail() }),
            ("AccessDeniedException", 400, StoreError::Denied { action: "s3:DeleteObject", detail: detail() }),
            ("", 403, StoreError::Denied { action: "s3:DeleteObject", detail: detail() }),
            ("ThrottlingException", 400, StoreError::Throttled { detail: detail() }),
            ("SlowDown", 503, StoreError::Throttled { detail: detail() }),
            ("InternalServerError", 500, StoreError::ServiceFailed { detail: detail() }),
            ("ConditionalRequestConflict", 409, StoreError::Conflict { detail: detail() }),
            ("ResourceNotFoundException", 400, StoreError::NoSuchTable { detail: detail() }),
            ("NoSuchBucket", 404, StoreError::NoSuchBucket { detail: detail() }),
            ("ValidationException", 400, StoreError::Refused { detail: detail() }),
        ] {
            assert_eq!(kind(code, status), expected, "{code} {status}");
        }
    }

    #[test]
    fn a_services_words_become_part_of_a_sentence() {
        assert_eq!(in_one_line("Access denied.\n  Sign in\tfirst. "), "Access denied. Sign in first");
        assert_eq!((whether_done("s3:GetObject"), whether_done("dynamodb:GetItem")), ("", ""));
        assert!(!whether_done("s3:DeleteObject").is_empty() && !whether_done("dynamodb:PutItem").is_empty());
    }

    #[test]
    fn whatever_may_have_been_carried_out_is_ambiguous() {
        for status in [408, 500, 502, 503, 504] {
            assert!(kind("", status).is_ambiguous(), "{status}");
        }
        for status in [400, 401, 403, 409, 429] {
            assert!(status == 400 || !kind("", status).is_ambiguous(), "{status}");
        }
    }
}
