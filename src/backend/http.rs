//! The HTTP client: CA bundle and proxies, as Terraform's own has them.

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::s3::set;
use super::{BackendError, S3Backend};

/// Go never sends requests for the machine itself to a proxy.
const NEVER_PROXIED: &str = "localhost,127.0.0.0/8,::1";

/// Makes the client. `ca_bundle` is that of the selected profile.
pub(super) fn http_client(backend: &S3Backend, ca_bundle: Option<&str>) -> Result<SharedHttpClient, BackendError> {
    let attributes = &backend.attributes;
    if attributes.insecure == Some(true) {
        return Err(BackendError::Unusable {
            setting: "insecure",
            reason: "tfguard does not talk to a server whose certificate it cannot check. Name the certificate's \
                     authority in `custom_ca_bundle` or AWS_CA_BUNDLE"
                .to_owned(),
        });
    }
    let tls = tls(backend, ca_bundle)?;
    let variable = |names: [&str; 2]| names.into_iter().find_map(|name| backend.surroundings.var(name));
    let http = set(&attributes.http_proxy).or_else(|| variable(["HTTP_PROXY", "http_proxy"]));
    // Without a proxy of their own, HTTPS requests take the attribute `http_proxy` too, but not the variable. (OpenTofu
    // sends them directly, but does not say so in its records.)
    let https = set(&attributes.https_proxy)
        .or_else(|| variable(["HTTPS_PROXY", "https_proxy"]))
        .or_else(|| set(&attributes.http_proxy));
    let exempt = set(&attributes.no_proxy).or_else(|| variable(["NO_PROXY", "no_proxy"])).unwrap_or_default();
    Ok(SharedHttpClient::new(ByScheme {
        http: client(proxy("http_proxy", http, exempt)?, tls.clone()),
        https: client(proxy("https_proxy", https, exempt)?, tls),
    }))
}

fn client(proxy: ProxyConfig, tls: TlsContext) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(tls.clone()).build()
    })
}

fn proxy(setting: &'static str, url: Option<&str>, exempt: &str) -> Result<ProxyConfig, BackendError> {
    let Some(url) = url else {
        return Ok(ProxyConfig::disabled());
    };
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    // The URL can hold a password, so the error does not show it.
    let proxy = ProxyConfig::all(url).map_err(|_| BackendError::Unusable {
        setting,
        reason: "it, or the environment's, is no URL of an http or https proxy".to_owned(),
    })?;
    Ok(proxy.no_proxy(if exempt.is_empty() { NEVER_PROXIED.to_owned() } else { format!("{exempt},{NEVER_PROXIED}") }))
}

/// The trusted authorities: the system's, or only those of the bundle, as the AWS SDK for Go has it.
fn tls(backend: &S3Backend, ca_bundle: Option<&str>) -> Result<TlsContext, BackendError> {
    let named = set(&backend.attributes.custom_ca_bundle).or_else(|| backend.surroundings.var("AWS_CA_BUNDLE"));
    // In a profile nothing is expanded.
    let in_profile = || Some(backend.surroundings.dir.join(ca_bundle.filter(|path| !path.is_empty())?));
    let store = match named.map(|path| backend.path(path)).or_else(in_profile) {
        None => TrustStore::default(),
        Some(path) => {
            let unusable = |reason: String| BackendError::Unusable {
                setting: "custom_ca_bundle",
                reason: format!("{}: {reason}", path.display()),
            };
            let bundle = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
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
    TlsContext::builder()
        .with_trust_store(store)
        .build()
        .map_err(|error| BackendError::Unusable { setting: "custom_ca_bundle", reason: error.to_string() })
}

/// Sends plain and encrypted requests through clients of their own, because their proxies can differ.
#[derive(Debug)]
struct ByScheme<T> {
    http: T,
    https: T,
}

impl HttpClient for ByScheme<SharedHttpClient> {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(ByScheme {
            http: self.http.http_connector(settings, components),
            https: self.https.http_connector(settings, components),
        })
    }
}

impl HttpConnector for ByScheme<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = if request.uri().starts_with("https:") { &self.https } else { &self.http };
        connector.call(request)
    }
}
