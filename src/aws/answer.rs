//! What an error of the AWS SDK means for a lock.

use std::error::Error;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::retries::classifiers::THROTTLING_ERRORS;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ErrorMetadata, ProvideErrorMetadata, SdkError};

use crate::text;

/// The answer to a request, if it comes within this time.
pub(crate) async fn within<T>(
    longest: Duration,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = tokio::time::timeout(longest, request).await;
    answer.unwrap_or_else(|_| Err(StoreError::TimedOut(format!("waited {}", text::describe(longest)))))
}

/// Sorts an error of the SDK. `action` is the IAM action that the request needs.
pub(crate) fn classify<E>(action: &'static str, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if let Some(credentials) = cause::<CredentialsError>(&error) {
        return classify_credentials(credentials);
    }
    let all = with_causes(&error);
    tracing::debug!("{action}: {all}");
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
            let detail = format!("HTTP {status}: {}", in_short(&error));
            if status >= 500 { StoreError::ServiceFailed(detail) } else { StoreError::Nonsense(detail) }
        }
        SdkError::ConstructionFailure(_) => StoreError::Unreachable(in_short(&error)),
        _ => {
            let detail = in_short(&error);
            // Only what failed before the request was sent surely left nothing behind.
            let refused = cause::<io::Error>(&error).is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused);
            if refused || NOT_SENT.iter().any(|text| all.contains(text)) {
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
    let all = with_causes(error);
    tracing::debug!("credentials: {all}");
    let detail = match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            "neither the environment nor a profile, a container or an instance has any".to_owned()
        }
        _ => in_short(error),
    };
    if matches!(error, CredentialsError::ProviderTimedOut(_)) {
        return StoreError::Unreachable(detail);
    }
    if EXPIRED.iter().any(|code| all.contains(code)) {
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
        (code, _) if THROTTLING_ERRORS.contains(&code) => StoreError::Throttled(detail),
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
    let texts = causes(error).map(|cause| in_one_line(&cause.to_string()));
    let joined = texts.reduce(|text, cause| if text.ends_with(&cause) { text } else { format!("{text}: {cause}") });
    joined.unwrap_or_default()
}

/// The cause behind all others.
fn in_short(error: &(dyn Error + 'static)) -> String {
    let deepest = causes(error).last().unwrap_or(error);
    match deepest.downcast_ref::<ErrorMetadata>() {
        Some(answer) => {
            let [code, message] = [answer.code(), answer.message()].map(Option::unwrap_or_default);
            in_one_line(&format!("{code}: {message}"))
        }
        None => in_one_line(&deepest.to_string()),
    }
}

/// What rustls says of a certificate that no authority vouches for.
const CERTIFICATE: &str = "invalid peer certificate";

/// An error and its causes.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

/// The first error of a type among an error and its causes.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// Why a store could not be asked, or what was wrong with its answer, with what the service or the network said. The text is
/// what failed and its cause; [`StoreError::hint`] says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The credentials are valid but lack this IAM action, for instance `dynamodb:DeleteItem`.
    #[error("{action} was denied: {detail}")]
    Denied { action: &'static str, detail: String },
    #[error("no AWS credentials: {0}")]
    CredentialsMissing(String),
    #[error("the AWS credentials have expired: {0}")]
    CredentialsExpired(String),
    /// The service does not know the credentials, or the signature does not match.
    #[error("the AWS credentials were not accepted: {0}")]
    CredentialsRejected(String),
    #[error("throttled: {0}")]
    Throttled(String),
    /// No answer in time, or the connection broke after the request was sent: it may have been carried out.
    #[error("no answer: {0}")]
    TimedOut(String),
    /// The service failed within (5xx): it may have carried out the request.
    #[error("the service failed: {0}")]
    ServiceFailed(String),
    /// The request did not leave this machine.
    #[error("the endpoint cannot be reached: {0}")]
    Unreachable(String),
    /// Somebody else changed the object at the same time.
    #[error("another request changed the object at the same time: {0}")]
    Conflict(String),
    #[error("there is no such DynamoDB table: {0}")]
    NoSuchTable(String),
    #[error("there is no such bucket: {0}")]
    NoSuchBucket(String),
    /// The service refuses the request for a reason that repeating it does not change.
    #[error("the service refuses the request: {0}")]
    Refused(String),
    /// The store does not keep the condition of a conditional delete, or nobody can tell whether it does.
    #[error("the lockfile stays: {0}")]
    NoConditions(String),
    /// The store does not keep the condition of a conditional write of an object.
    #[error("this store does not keep the condition of a conditional write, without which there is no lease")]
    UnconditionalWrites,
    /// The claim cannot name a lock of this place.
    #[error("the lock claimed does not belong here: {0}")]
    Misdirected(String),
    #[error("the answer makes no sense: {0}")]
    Nonsense(String),
}

impl StoreError {
    /// What to do about it, as a sentence without its full stop.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Denied { action, .. } => {
                let on = if action.starts_with("kms:") { "KMS key" } else { "place" };
                return Some(format!("Grant {action} on this {on} to the role that runs Terraform"));
            }
            Self::CredentialsMissing(detail) if detail.contains("SSO") => "Log in by `aws sso login`, and try again",
            Self::CredentialsMissing(_) => {
                "Provide those that Terraform used, for instance by `export AWS_PROFILE=<profile>`"
            }
            Self::CredentialsExpired(_) => "Fetch fresh ones, for instance by `aws sso login`, and try again",
            Self::CredentialsRejected(_) => {
                "Check the key, the secret and this machine's clock: `aws sts get-caller-identity`"
            }
            Self::Throttled(_) | Self::ServiceFailed(_) => "Try again later",
            Self::Unreachable(detail) if detail.contains(CERTIFICATE) => {
                "Name the certificate's authority in AWS_CA_BUNDLE or the backend's `custom_ca_bundle`; without them \
                 tfguard trusts those in SSL_CERT_FILE and SSL_CERT_DIR, or else the system's"
            }
            Self::Unreachable(_) => "Check network, proxy, CA bundle and endpoint",
            Self::Conflict(_) => "Try again",
            Self::NoSuchTable(_) => "Check dynamodb_table, region and account",
            Self::NoSuchBucket(_) => "Check bucket, region and account",
            Self::Refused(_) => "Check region, table, bucket and account",
            Self::NoConditions(_) => {
                "If nobody else can lock this state meanwhile, allow a delete after a second look: add \
                 `--without-conditions second-look`"
            }
            Self::Nonsense(_) => "Check that the endpoint is an AWS API",
            Self::TimedOut(_) | Self::Misdirected(_) | Self::UnconditionalWrites => return None,
        };
        Some(hint.to_owned())
    }

    /// What failed, the cause and the hint, as sentences in a line.
    pub fn in_a_line(&self) -> String {
        text::in_a_line(&self.on_lines())
    }

    /// The same with the hint on a line of its own.
    pub fn on_lines(&self) -> String {
        self.hint().map_or_else(|| self.to_string(), |hint| format!("{self}\nhint: {hint}"))
    }

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
    fn of_a_chain_of_causes_the_last_one_is_told() {
        let refused = ErrorMetadata::builder().code("AccessDenied").message("not yours.").build();
        let error = classify_credentials(&CredentialsError::provider_error(refused));
        assert_eq!(error.to_string(), "no AWS credentials: AccessDenied: not yours");
        assert_eq!(error.on_lines().lines().nth(1), error.hint().map(|hint| format!("hint: {hint}")).as_deref());
        assert!(error.in_a_line().starts_with("no AWS credentials: AccessDenied: not yours. Provide "), "{error}");
        let lost = classify_credentials(&CredentialsError::not_loaded("Attempted: Environment, Profile"));
        assert!(!lost.to_string().contains("Attempted"), "{lost}");
    }

    #[test]
    fn a_services_words_become_part_of_a_sentence() {
        assert_eq!(in_one_line("Access denied.\n  Sign in\tfirst. "), "Access denied. Sign in first");
        assert_eq!((whether_done("s3:GetObject"), whether_done("dynamodb:GetItem")), ("", ""));
        assert!(!whether_done("s3:DeleteObject").is_empty() && !whether_done("dynamodb:PutItem").is_empty());
    }
}
