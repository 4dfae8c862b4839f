//! Objects under a customer's key.

use std::collections::BTreeSet;

use tfguard::aws::AwsClients;

use crate::backend_resolution::bed::{Case, ENV_KEYS, Prepared};
use crate::support::Seen;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER: &str = "HxwdHhsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
const HEADERS: [&str; 3] = [
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
];

/// The key's headers in the requests that read the lockfile, and in those that ask for the state.
fn sent(seen: &[Seen]) -> BTreeSet<(&str, [Option<&str>; 3])> {
    let what = |request: &Seen| {
        let path = request.path.split('?').next().unwrap_or_default();
        match request.method.as_str() {
            "GET" if path.ends_with("/a/k.tflock") => Some("lockfile"),
            "HEAD" if path.ends_with("/a/k") => Some("state"),
            _ => None,
        }
    };
    seen.iter().filter_map(|request| Some((what(request)?, HEADERS.map(|name| request.header(name))))).collect()
}

/// A key for an object that has none is refused by S3, and so would be every look at the lock.
#[test]
fn a_customers_key_is_sent_where_terraform_sends_it() {
    let both = format!("encrypt = true\nsse_customer_key = \"{KEY}\"");
    let unused = format!("encrypt = false\nsse_customer_key = \"{KEY}\"");
    let variable = [ENV_KEYS[0], ENV_KEYS[1], ("AWS_SSE_CUSTOMER_KEY", OTHER)];
    for (block, env, key) in [
        (both.as_str(), &variable[..2], Some(KEY)),
        (&both, &variable, Some(KEY)),
        ("encrypt = true", &variable, Some(OTHER)),
        ("encrypt = true", &variable[..2], None),
        (&unused, &variable[..2], None),
        ("encrypt = false", &variable, None),
        ("", &variable, None),
    ] {
        let prepared = Prepared::new(&Case { block, env, ..Case::default() });
        let said = [prepared.terraform("init"), prepared.terraform("plan")];
        let by_terraform = prepared.proxy.seen();
        let answers = prepared.tfguard();
        let backend = prepared.backend();
        prepared.aws.block_on(async {
            let clients = AwsClients::connect(&backend).await.unwrap();
            clients.state_exists(backend.bucket(), "a/k").await.unwrap()
        });
        let by_tfguard = &prepared.proxy.seen()[by_terraform.len()..];
        assert_eq!(sent(by_tfguard), sent(&by_terraform), "{block}: {answers:?} {said:?}");
        let keys: Vec<_> = sent(by_tfguard).into_iter().map(|(what, headers)| (what, headers[1])).collect();
        assert_eq!(keys, [("lockfile", key), ("state", key)], "{block}: {said:?}");
    }
}
