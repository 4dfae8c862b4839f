//! The key by which S3 encrypts a customer's objects.

use std::fmt;

use base64::prelude::BASE64_STANDARD;
use base64::prelude::Engine as _;
use md5::Digest as _;
use md5::Md5;

/// The key of server-side encryption with a customer's key (SSE-C).
#[derive(Clone, PartialEq, Eq)]
pub struct SseCustomerKey {
    base64: String,
    md5: String,
}

impl SseCustomerKey {
    /// The key as the backend block has it: 32 bytes in base64. `None` if it is not.
    pub fn new(base64: &str) -> Option<Self> {
        let key = BASE64_STANDARD.decode(base64).ok().filter(|key| key.len() == 32)?;
        Some(Self { base64: base64.to_owned(), md5: BASE64_STANDARD.encode(Md5::digest(key)) })
    }

    /// As the headers of a request have it. Secret.
    pub(crate) fn base64(&self) -> &str {
        &self.base64
    }

    /// The MD5 of the key, in base64, for the header beside it.
    pub(crate) fn md5(&self) -> &str {
        &self.md5
    }
}

impl fmt::Debug for SseCustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SseCustomerKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_key_is_32_bytes_in_base64_and_never_shown() {
        let text = BASE64_STANDARD.encode([7; 32]);
        let key = SseCustomerKey::new(&text).unwrap();
        assert_eq!(key.md5, "y4HAEFCYWuvAXWFTtA1Qpg==");
        assert!(!format!("{key:?}").contains(&text[..8]));
        for wrong in ["", "abc", &BASE64_STANDARD.encode([7; 31]), &text[1..]] {
            assert_eq!(SseCustomerKey::new(wrong), None);
        }
    }
}
