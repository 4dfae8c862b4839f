//! The HTTP client: CA bundle and proxies of Terraform's settings, by what the AWS SDK's own client knows of them.

use std::net::ToSocketAddrs as _;
use std::sync::Arc;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use aws_smithy_runtime_api::client::http::{
    HttpClient as _, HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::sync::oneshot;

use crate::aws::attributes::set;
use crate::aws::paths::{Surroundings, read};
use crate::aws::s3::{BackendError, S3Backend};

/// This machine, for which Terraform never asks a proxy.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// How many bytes an answer has at most: an object's, of which no reader takes more than 256 MiB, and any other.
const LARGEST_OBJECT: usize = 288 * 1024 * 1024;
const LARGEST_ANSWER: usize = 32 * 1024 * 1024;

/// Makes the client. `ca_bundle` is that of the selected profile.
pub(crate) fn http_client(backend: &S3Backend, ca_bundle: Option<&str>) -> Result<SharedHttpClient, BackendError> {
    let attributes = &backend.attributes;
    if attributes.insecure == Some(true) {
        return Err(BackendError::unusable(
            "insecure",
            "tfguard does not talk to a server whose certificate it cannot check. Name the certificate's authority in \
             `custom_ca_bundle` or AWS_CA_BUNDLE",
        ));
    }
    let tls = tls(backend, ca_bundle)?;
    let variable = |names: [&str; 2]| names.into_iter().find_map(|name| backend.surroundings.env.text(name));
    // An attribute that is set but empty takes the place of the variable: no proxy.
    let http = attributes.http_proxy.as_deref().or_else(|| variable(["HTTP_PROXY", "http_proxy"]));
    // Without a proxy of their own, HTTPS requests take the attribute `http_proxy` too, but not the variable. (OpenTofu
    // sends them directly, but does not say so in its records.)
    let https = attributes.https_proxy.as_deref();
    let https = https.or_else(|| variable(["HTTPS_PROXY", "https_proxy"])).or_else(|| set(&attributes.http_proxy));
    let exempt = set(&attributes.no_proxy).or_else(|| variable(["NO_PROXY", "no_proxy"])).unwrap_or_default();
    let client = |setting, url| {
        let proxy = proxy(setting, url, exempt)?;
        let misread = entries(exempt).filter(|_| !proxy.is_disabled()).filter_map(Misread::of).collect::<Arc<[_]>>();
        Ok((client(proxy, tls.clone()), misread))
    };
    let (http, https) = (client("http_proxy", http)?, client("https_proxy", https)?);
    Ok(http_client_fn(move |settings, components| {
        let connector = |(client, misread): &(SharedHttpClient, Arc<[Misread]>)| Connecting {
            connector: client.http_connector(settings, components),
            misread: misread.clone(),
        };
        SharedHttpConnector::new(ByScheme { http: connector(&http), https: connector(&https) })
    }))
}

/// The SDK's client, by one proxy or none.
fn client(proxy: ProxyConfig, tls: TlsContext) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(tls.clone())
            .build_with_resolver(Resolver)
    })
}

fn proxy(setting: &'static str, url: Option<&str>, exempt: &str) -> Result<ProxyConfig, BackendError> {
    // The SDK's client takes a lone `*` for all names, but for no addresses.
    let Some(url) = url.filter(|url| !url.is_empty() && !entries(exempt).any(|entry| entry == "*")) else {
        return Ok(ProxyConfig::disabled());
    };
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    // The URL can hold a password, so the error does not show it.
    let reason = "it, or the environment's, is not the URL of an http or https proxy";
    let proxy = ProxyConfig::all(url).map_err(|_| BackendError::unusable(setting, reason));
    Ok(proxy?.no_proxy(format!("{LOOPBACK},{exempt}")))
}

fn entries(exempt: &str) -> impl Iterator<Item = &str> {
    exempt.split(',').map(str::trim)
}

/// The trusted authorities: the system's, or only those of the bundle.
fn tls(backend: &S3Backend, ca_bundle: Option<&str>) -> Result<TlsContext, BackendError> {
    let named = set(&backend.attributes.custom_ca_bundle).or_else(|| backend.surroundings.env.text("AWS_CA_BUNDLE"));
    // In a profile nothing is expanded.
    let in_profile = || Some(backend.surroundings.dir.join(ca_bundle.filter(|path| !path.is_empty())?));
    let trusted = match named.map(|path| backend.path(path)).or_else(in_profile) {
        None => {
            roots_are_terraforms(&backend.surroundings)?;
            TrustStore::default()
        }
        Some(path) => {
            let unusable =
                |why: String| BackendError::unusable("custom_ca_bundle", format!("{}: {why}", path.display()));
            let bundle = read(&path).map_err(|error| unusable(error.to_string()))?;
            // The SDK's client panics at what it cannot parse.
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&bundle) {
                let certificate = certificate.map_err(|error| unusable(format!("not in PEM format: {error}")))?;
                roots.add(certificate).map_err(|error| unusable(format!("a certificate is broken: {error}")))?;
            }
            if roots.is_empty() {
                return Err(unusable("it holds no certificate".to_owned()));
            }
            TrustStore::empty().with_pem_certificate(bundle)
        }
    };
    let tls = TlsContext::builder().with_trust_store(trusted).build();
    tls.map_err(|error| BackendError::unusable("custom_ca_bundle", error.to_string()))
}

/// The SDK looks for the system's authorities by tfguard's environment, so Terraform's must name the same.
fn roots_are_terraforms(surroundings: &Surroundings) -> Result<(), BackendError> {
    let other =
        |name: &&str| surroundings.env.text(name).is_some_and(|path| std::env::var_os(name) != Some(path.into()));
    match ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().find(other) {
        None => Ok(()),
        Some(setting) => Err(BackendError::unusable(
            setting,
            "Terraform's is not tfguard's own, the only one that is followed. Set it for tfguard, too, or name the \
             authorities in `custom_ca_bundle` or AWS_CA_BUNDLE",
        )),
    }
}

/// An entry of `NO_PROXY` by which Terraform may ask a host directly, and the SDK's client would ask the proxy.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "no request was sent: the entry {0:?} of NO_PROXY, or of the backend's `no_proxy`, is not understood. Write the name or \
     the address alone, without a port, brackets or `*`"
)]
struct Misread(String);

impl Misread {
    fn of(entry: &str) -> Option<Self> {
        let is_odd = entry.contains(['*', '[']) || entry.matches(':').count() == 1;
        is_odd.then(|| Self(entry.to_owned()))
    }

    /// Whether a host may be meant: for any port, and by the end of a name alone.
    fn may_mean(&self, host: &str) -> bool {
        let name = match self.0.rsplit_once(':') {
            Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
            _ => &self.0,
        };
        let name = name.trim_matches(['*', '[', ']']).to_lowercase();
        !name.is_empty() && host.to_lowercase().trim_matches(['[', ']']).ends_with(&name)
    }
}

/// Looks names up as the system does, each in a thread. The SDK's own resolver panics where the system has no thread for it.
#[derive(Debug, Clone)]
struct Resolver;

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        let name = name.to_owned();
        DnsFuture::new(async move {
            let (found, answer) = oneshot::channel();
            let look_up = move || drop(found.send((name.as_str(), 0).to_socket_addrs()));
            std::thread::Builder::new().name("names".to_owned()).spawn(look_up).map_err(ResolveDnsError::new)?;
            let addresses = answer.await.map_err(ResolveDnsError::new)?.map_err(ResolveDnsError::new)?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

/// What sends requests by one proxy or none, and the entries of `NO_PROXY` that it reads otherwise than Terraform.
#[derive(Debug)]
struct Connecting {
    connector: SharedHttpConnector,
    misread: Arc<[Misread]>,
}

/// Sends plain and encrypted requests by proxies of their own: the SDK's client takes one for both, or none for one of them.
#[derive(Debug)]
struct ByScheme {
    http: Connecting,
    https: Connecting,
}

impl HttpConnector for ByScheme {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let by = if request.uri().starts_with("https:") { &self.https } else { &self.http };
        let uri = request.uri().parse::<::http::Uri>().unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        match by.misread.iter().find(|entry| entry.may_mean(host)) {
            Some(entry) => HttpConnectorFuture::ready(Err(ConnectorError::user(entry.clone().into()))),
            None => {
                let is_object = uri.query().is_some_and(|query| query.split('&').any(|part| part == "x-id=GetObject"));
                let most = if is_object { LARGEST_OBJECT } else { LARGEST_ANSWER };
                let answer = by.connector.call(request);
                HttpConnectorFuture::new(async move {
                    let bounded = |body| SdkBody::from_body_1_x(Limited::new(body, most));
                    Ok(answer.await?.map(bounded))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_no_proxy_that_the_sdk_does_not_know_are_told_where_they_may_matter() {
        for entry in ["", "*", "a.example", ".a.example", "10.0.0.1", "10.0.0.0/8", "2001:db8::1", "2001:db8::/32"] {
            assert!(entry == "*" || Misread::of(entry).is_none(), "{entry}");
        }
        for (entry, meant, not) in [
            ("s3.example:8080", "s3.example", "other.example"),
            ("S3.example:8080", "a.s3.Example", "s3.example.test"),
            ("10.0.0.1:80", "10.0.0.1", "10.0.0.2"),
            ("*.example", "a.example", "example"),
            ("[2001:db8::1]:443", "[2001:db8::1]", "[2001:db8::2]"),
            ("[2001:db8::1]", "[2001:db8::1]", "a.example"),
        ] {
            let misread = Misread::of(entry).unwrap();
            assert!(misread.may_mean(meant) && !misread.may_mean(not), "{entry}");
        }
        assert!(!Misread::of(":1").unwrap().may_mean("a.example"));
    }
}
