//! The two requests of the `http` backend's lock, as Terraform sends them
//! (`internal/backend/remote-state/http/client.go`).

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use md5::{Digest as _, Md5};
use reqwest::header::{CONTENT_TYPE, DATE};
use reqwest::{Certificate, Client, Identity, Method, StatusCode, Url, redirect};

use crate::backend::HttpBackend;

/// What is read of an answer: a lock has a few hundred bytes.
const LONGEST_ANSWER: usize = 64 * 1024;
/// How long one request may take.
const LONGEST_REQUEST: Duration = Duration::from_secs(8);

/// The lock of one state on its server.
pub struct LockServer {
    client: Client,
    lock: (Method, Url),
    unlock: (Method, Url),
    user: Option<(String, String)>,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the http backend's setting `{setting}` cannot be used: {reason}")]
pub struct Unusable {
    setting: &'static str,
    reason: String,
}

/// What a server answers when it is asked for the lock.
#[derive(Debug)]
pub enum LockAnswer {
    /// The asker has it now.
    Taken,
    /// Somebody has it.
    Held {
        /// What the server says of them: the holder's lock in JSON, if it keeps to Terraform's protocol.
        body: Vec<u8>,
        /// How far the server's clock is ahead of this machine's, where it tells its time.
        ahead: Option<SignedDuration>,
    },
}

/// A request brought no answer that says anything.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The server does not let this user.
    #[error("the lock server answers {0}: it does not accept the user and password, or the token, that Terraform had")]
    Denied(StatusCode),
    /// The server answered something else.
    #[error("the lock server answers {0}")]
    Strange(StatusCode),
    /// No answer.
    #[error("the lock server does not answer: {0}")]
    Silent(String),
}

impl RequestError {
    /// Whether another attempt can go better. After an unlock that was not accepted, a look can.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Denied(_) => false,
            Self::Strange(status) => status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
            Self::Silent(_) => true,
        }
    }
}

impl LockServer {
    /// The server of a backend; none if its state has no lock that Terraform would give back.
    pub fn new(backend: &HttpBackend) -> Result<Option<Self>, Unusable> {
        let (Some(lock), Some(unlock)) = (&backend.lock_address, &backend.unlock_address) else { return Ok(None) };
        let lock = request("lock_address", lock, "lock_method", &backend.lock_method)?;
        let unlock = request("unlock_address", unlock, "unlock_method", &backend.unlock_method)?;
        let client = client(backend, &[&lock.1, &unlock.1])?;
        let user = (!backend.username.is_empty()).then(|| (backend.username.clone(), backend.password.clone()));
        Ok(Some(Self { client, lock, unlock, user }))
    }

    /// Asks for the lock.
    pub async fn lock(&self, info: &[u8]) -> Result<LockAnswer, RequestError> {
        let mut response = self.send(&self.lock, info).await?;
        match response.status() {
            status if status.is_success() => Ok(LockAnswer::Taken),
            StatusCode::CONFLICT | StatusCode::LOCKED => {
                let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
                let date = date.and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
                let ahead = date.map(|date| date.duration_since(Timestamp::now()));
                let mut body = Vec::new();
                while let Some(chunk) = response.chunk().await.map_err(silent)? {
                    body.extend_from_slice(&chunk);
                    if body.len() > LONGEST_ANSWER {
                        break;
                    }
                }
                Ok(LockAnswer::Held { body, ahead })
            }
            status => Err(refused(status)),
        }
    }

    /// Gives a lock back, with its JSON as the body.
    pub async fn unlock(&self, info: &[u8]) -> Result<(), RequestError> {
        match self.send(&self.unlock, info).await?.status() {
            status if status.is_success() => Ok(()),
            status => Err(refused(status)),
        }
    }

    async fn send(&self, (method, url): &(Method, Url), body: &[u8]) -> Result<reqwest::Response, RequestError> {
        let mut request = self
            .client
            .request(method.clone(), url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("Content-MD5", STANDARD.encode(Md5::digest(body)))
            .body(body.to_owned());
        if let Some((user, password)) = &self.user {
            request = request.basic_auth(user, Some(password));
        }
        request.send().await.map_err(silent)
    }
}

fn refused(status: StatusCode) -> RequestError {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RequestError::Denied(status),
        _ => RequestError::Strange(status),
    }
}

/// Without the address, which can hold a password; with the cause, which reqwest keeps to itself.
fn silent(error: reqwest::Error) -> RequestError {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text = next.to_string();
        cause = next.source();
    }
    RequestError::Silent(text)
}

fn request(
    address_setting: &'static str,
    address: &str,
    method_setting: &'static str,
    method: &str,
) -> Result<(Method, Url), Unusable> {
    let unusable = |setting, reason: &str| Unusable { setting, reason: reason.to_owned() };
    let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let method = Method::from_bytes(method.as_bytes()).ok();
    Ok((
        method.ok_or_else(|| unusable(method_setting, "it is no HTTP method"))?,
        url.ok_or_else(|| unusable(address_setting, "it is no HTTP or HTTPS address"))?,
    ))
}

fn client(backend: &HttpBackend, urls: &[&Url]) -> Result<Client, Unusable> {
    let unusable = |setting| move |error: reqwest::Error| Unusable { setting, reason: error.to_string() };
    // Go repeats a request, body and all, after these two only; after the others it becomes a GET, whose success would
    // look like an unlock.
    let redirects = redirect::Policy::custom(|attempt| {
        if matches!(attempt.status().as_u16(), 307 | 308) && attempt.previous().len() < 10 {
            attempt.follow()
        } else {
            attempt.stop()
        }
    });
    let mut builder = Client::builder()
        .user_agent(concat!("tfguard/", env!("CARGO_PKG_VERSION")))
        .timeout(LONGEST_REQUEST)
        // A lock that was asked for twice, or given back twice, is nobody's business but the caller's.
        .retry(reqwest::retry::never())
        .redirect(redirects);
    // Go sends nothing that is for the machine itself to a proxy.
    if urls.iter().all(|url| is_loopback(url)) {
        builder = builder.no_proxy();
    }
    if let Some(ca) = &backend.ca {
        let ca = Certificate::from_pem_bundle(ca.as_bytes()).map_err(unusable("client_ca_certificate_pem"))?;
        builder = builder.tls_certs_only(ca);
    }
    if let Some((certificate, key)) = &backend.certificate {
        let pem = format!("{certificate}\n{key}");
        builder = builder.identity(Identity::from_pem(pem.as_bytes()).map_err(unusable("client_certificate_pem"))?);
    }
    builder
        .tls_danger_accept_invalid_certs(backend.skip_cert_verification)
        .build()
        .map_err(unusable("client_ca_certificate_pem"))
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost"
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_the_machine_itself_needs_no_proxy() {
        for (url, expected) in [
            ("http://localhost:1/x", true),
            ("http://127.0.0.2/", true),
            ("https://[::1]:8/", true),
            ("http://localhost.example.org/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn unusable_settings_are_named_and_not_shown() {
        for (address, method, setting) in [
            ("ftp://u:hush@h/", "LOCK", "lock_address"),
            ("hush", "LOCK", "lock_address"),
            ("http://h/", "A B", "lock_method"),
        ] {
            let error = request("lock_address", address, "lock_method", method).unwrap_err().to_string();
            assert!(error.contains(setting) && !error.contains("hush"), "{error}");
        }
    }
}
