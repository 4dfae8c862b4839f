//! The authorities that a Terraform trusts where no setting names others: those of the system, as Go finds them.

use std::collections::HashSet;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::Surroundings;

/// Of these the first that can be read (`certFiles` in Go's `crypto/x509/root_linux.go`) ...
const FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// ... and with it all that is in these.
const DIRECTORIES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// The certificates in PEM format, one behind the other; empty where there are none. `SSL_CERT_FILE` and `SSL_CERT_DIR`
/// are those of Terraform's environment. Each replaces its own list only (`loadSystemRoots` in Go's
/// `crypto/x509/root_unix.go`), so that a file that is gone leaves the directories.
///
/// The AWS SDK's own way knows only tfguard's environment, and does not look further where a file is gone.
pub(super) fn system(surroundings: &Surroundings) -> String {
    let lists = |variable: &str, defaults: &[&str]| -> Vec<PathBuf> {
        match surroundings.var(variable) {
            Some(paths) if variable == "SSL_CERT_DIR" => {
                paths.split(':').map(|dir| surroundings.dir.join(dir)).collect()
            }
            Some(path) => vec![surroundings.dir.join(path)],
            None => defaults.iter().map(PathBuf::from).collect(),
        }
    };
    let file = lists("SSL_CERT_FILE", &FILES).into_iter().find_map(|path| std::fs::read(path).ok());
    let entries =
        lists("SSL_CERT_DIR", &DIRECTORIES).into_iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    let in_directories = entries.flatten().filter_map(|entry| std::fs::read(entry.path()).ok());
    let mut known = HashSet::new();
    let mut pem = String::new();
    for bytes in file.into_iter().chain(in_directories) {
        for certificate in CertificateDer::pem_slice_iter(&bytes).flatten() {
            // The TLS client panics at one that it cannot use.
            if RootCertStore::empty().add(certificate.clone()).is_ok() && known.insert(certificate.to_vec()) {
                let text = STANDARD.encode(&certificate);
                pem += &format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
            }
        }
    }
    pem
}
