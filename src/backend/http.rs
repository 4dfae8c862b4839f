//! The HTTP client: CA bundle and proxies, as Terraform's own has them.

use std::sync::Arc;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::exempt::Exempt;
use super::s3::set;
use super::{BackendError, S3Backend, roots};

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
    let (tls, trusts_any) = tls(backend, ca_bundle)?;
    let variable = |names: [&str; 2]| names.into_iter().find_map(|name| backend.surroundings.var(name));
    // An attribute that is set but empty takes the place of the variable: no proxy.
    let http = attributes.http_proxy.as_deref().or_else(|| variable(["HTTP_PROXY", "http_proxy"]));
    // Without a proxy of their own, HTTPS requests take the attribute `http_proxy` too, but not the variable. (OpenTofu
    // sends them directly, but does not say so in its records.)
    let https = attributes.https_proxy.as_deref();
    let https = https.or_else(|| variable(["HTTPS_PROXY", "https_proxy"])).or_else(|| set(&attributes.http_proxy));
    let exempt = set(&attributes.no_proxy).or_else(|| variable(["NO_PROXY", "no_proxy"])).unwrap_or_default();
    Ok(SharedHttpClient::new(ByTarget {
        http: client(proxy("http_proxy", http)?, tls.clone()),
        https: client(proxy("https_proxy", https)?, tls.clone()),
        direct: client(ProxyConfig::disabled(), tls),
        exempt: Arc::new(Exempt::new(exempt)),
        trusts_any,
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

fn proxy(setting: &'static str, url: Option<&str>) -> Result<ProxyConfig, BackendError> {
    let Some(url) = url.filter(|url| !url.is_empty()) else {
        return Ok(ProxyConfig::disabled());
    };
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    // The URL can hold a password, so the error does not show it.
    ProxyConfig::all(url).map_err(|_| BackendError::Unusable {
        setting,
        reason: "it, or the environment's, is no URL of an http or https proxy".to_owned(),
    })
}

/// The trusted authorities: the system's, or only those of the bundle, as the AWS SDK for Go has it. And whether there
/// are any.
fn tls(backend: &S3Backend, ca_bundle: Option<&str>) -> Result<(TlsContext, bool), BackendError> {
    let named = set(&backend.attributes.custom_ca_bundle).or_else(|| backend.surroundings.var("AWS_CA_BUNDLE"));
    // In a profile nothing is expanded.
    let in_profile = || Some(backend.surroundings.dir.join(ca_bundle.filter(|path| !path.is_empty())?));
    let bundle = match named.map(|path| backend.path(path)).or_else(in_profile) {
        None => roots::system(&backend.surroundings).into_bytes(),
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
            bundle
        }
    };
    let trusts_any = !bundle.is_empty();
    let tls = TlsContext::builder().with_trust_store(TrustStore::empty().with_pem_certificate(bundle)).build();
    let tls = tls.map_err(|error| BackendError::Unusable { setting: "custom_ca_bundle", reason: error.to_string() })?;
    Ok((tls, trusts_any))
}

/// Without any authority no encrypted connection can be trusted.
#[derive(Debug, thiserror::Error)]
#[error(
    "no root certificates were found, and without them no server can be trusted. Install the system's (the package \
     ca-certificates), or name a file of them in SSL_CERT_FILE, AWS_CA_BUNDLE or the backend's `custom_ca_bundle`"
)]
struct NoRoots;

/// Sends plain and encrypted requests through clients of their own, because their proxies can differ, and those to exempt
/// hosts directly. (The SDK's client knows exemptions, but not all of Go's.)
#[derive(Debug)]
struct ByTarget<T> {
    http: T,
    https: T,
    direct: T,
    exempt: Arc<Exempt>,
    trusts_any: bool,
}

impl HttpClient for ByTarget<SharedHttpClient> {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(ByTarget {
            http: self.http.http_connector(settings, components),
            https: self.https.http_connector(settings, components),
            direct: self.direct.http_connector(settings, components),
            exempt: self.exempt.clone(),
            trusts_any: self.trusts_any,
        })
    }
}

impl HttpConnector for ByTarget<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let encrypted = request.uri().starts_with("https:");
        if encrypted && !self.trusts_any {
            return HttpConnectorFuture::ready(Err(ConnectorError::user(NoRoots.into())));
        }
        let is_exempt = request.uri().parse::<::http::Uri>().is_ok_and(|uri| {
            let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
            self.exempt.contains(uri.host().unwrap_or_default(), port)
        });
        match (is_exempt, encrypted) {
            (true, _) => self.direct.call(request),
            (false, true) => self.https.call(request),
            (false, false) => self.http.call(request),
        }
    }
}
