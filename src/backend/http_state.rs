//! The `http` backend's settings, as far as its lock needs them.

use std::fmt;

use serde::Deserialize;

use super::Surroundings;

/// The attributes of a `backend "http"` block, as `init` records them.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct HttpAttributes {
    lock_address: Option<String>,
    lock_method: Option<String>,
    unlock_address: Option<String>,
    unlock_method: Option<String>,
    username: Option<String>,
    password: Option<String>,
    skip_cert_verification: Option<bool>,
    client_ca_certificate_pem: Option<String>,
    client_certificate_pem: Option<String>,
    client_private_key_pem: Option<String>,
}

/// The `http` backend's settings, merged with the environment as Terraform merges them (`Configure` in
/// `internal/backend/remote-state/http/backend.go`): a variable counts where the attribute is not set.
///
/// Holds secrets; Debug shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpBackend {
    /// Where to ask for the lock. None: the state has no lock.
    pub lock_address: Option<String>,
    /// The method to ask by.
    pub lock_method: String,
    /// Where to give the lock back. None: Terraform never gives it back.
    pub unlock_address: Option<String>,
    /// The method to give back by.
    pub unlock_method: String,
    /// The user; empty for none.
    pub username: String,
    /// The password.
    pub password: String,
    /// The server's certificate is not checked.
    pub skip_cert_verification: bool,
    /// The only authorities to trust, where set.
    pub ca: Option<String>,
    /// tfguard's own certificate and its key.
    pub certificate: Option<(String, String)>,
}

impl HttpBackend {
    pub(super) fn new(attributes: HttpAttributes, surroundings: &Surroundings) -> Self {
        let or_variable = |attribute: Option<String>, variable: &str| {
            attribute.or_else(|| surroundings.var(variable).map(str::to_owned))
        };
        let pem =
            |attribute: Option<String>, variable: &str| or_variable(attribute, variable).filter(|pem| !pem.is_empty());
        let certificate = pem(attributes.client_certificate_pem, "TF_HTTP_CLIENT_CERTIFICATE_PEM");
        let key = pem(attributes.client_private_key_pem, "TF_HTTP_CLIENT_PRIVATE_KEY_PEM");
        Self {
            lock_address: or_variable(attributes.lock_address, "TF_HTTP_LOCK_ADDRESS"),
            lock_method: or_variable(attributes.lock_method, "TF_HTTP_LOCK_METHOD")
                .unwrap_or_else(|| "LOCK".to_owned()),
            unlock_address: or_variable(attributes.unlock_address, "TF_HTTP_UNLOCK_ADDRESS"),
            unlock_method: or_variable(attributes.unlock_method, "TF_HTTP_UNLOCK_METHOD")
                .unwrap_or_else(|| "UNLOCK".to_owned()),
            username: or_variable(attributes.username, "TF_HTTP_USERNAME").unwrap_or_default(),
            password: or_variable(attributes.password, "TF_HTTP_PASSWORD").unwrap_or_default(),
            skip_cert_verification: attributes.skip_cert_verification.unwrap_or_default(),
            ca: pem(attributes.client_ca_certificate_pem, "TF_HTTP_CLIENT_CA_CERTIFICATE_PEM"),
            certificate: certificate.zip(key),
        }
    }
}

impl fmt::Debug for HttpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address can hold a password, too.
        f.debug_struct("HttpBackend")
            .field("lock_method", &self.lock_method)
            .field("unlock_method", &self.unlock_method)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(attributes: &str, env: &[(&str, &str)]) -> HttpBackend {
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        HttpBackend::new(serde_json::from_str(attributes).unwrap(), &Surroundings { dir: "/".into(), env })
    }

    #[test]
    fn an_attribute_wins_over_its_variable_and_both_over_the_default() {
        let env = [
            ("TF_HTTP_LOCK_ADDRESS", "http://env/lock"),
            ("TF_HTTP_UNLOCK_ADDRESS", "http://env/unlock"),
            ("TF_HTTP_LOCK_METHOD", "POST"),
            ("TF_HTTP_UNLOCK_METHOD", "DELETE"),
            ("TF_HTTP_USERNAME", "gitlab-ci-token"),
            ("TF_HTTP_PASSWORD", "hush"),
        ];
        let from_env = resolve("{\"address\":\"http://a\",\"lock_address\":null}", &env);
        assert_eq!(from_env.lock_address.as_deref(), Some("http://env/lock"));
        assert_eq!(from_env.unlock_address.as_deref(), Some("http://env/unlock"));
        assert_eq!((from_env.lock_method.as_str(), from_env.unlock_method.as_str()), ("POST", "DELETE"));
        assert_eq!((from_env.username.as_str(), from_env.password.as_str()), ("gitlab-ci-token", "hush"));
        let block = r#"{"lock_address":"http://block/lock","lock_method":"PUT","username":"u","password":""}"#;
        let from_block = resolve(block, &env);
        assert_eq!(from_block.lock_address.as_deref(), Some("http://block/lock"));
        assert_eq!((from_block.lock_method.as_str(), from_block.username.as_str()), ("PUT", "u"));
        // As in Terraform: set to nothing is set.
        assert_eq!(from_block.password, "");
        let neither = resolve("{}", &[("TF_HTTP_LOCK_ADDRESS", "")]);
        assert_eq!((neither.lock_address, neither.lock_method.as_str()), (None, "LOCK"));
        assert_eq!(neither.unlock_method, "UNLOCK");
    }

    #[test]
    fn certificates_come_in_pairs() {
        assert_eq!(resolve(r#"{"client_certificate_pem":"c"}"#, &[]).certificate, None);
        let pair = resolve(r#"{"client_certificate_pem":"c"}"#, &[("TF_HTTP_CLIENT_PRIVATE_KEY_PEM", "k")]);
        assert_eq!(pair.certificate, Some(("c".into(), "k".into())));
        assert_eq!(resolve(r#"{"client_ca_certificate_pem":""}"#, &[]).ca, None);
    }

    #[test]
    fn no_secret_is_shown() {
        let backend =
            resolve(r#"{"password":"hush","lock_address":"http://u:hush@h/","client_ca_certificate_pem":"hush"}"#, &[]);
        assert!(!format!("{backend:?}").contains("hush"));
    }
}
