//! Settings that cannot be followed, and what is shown of those that can.

use std::collections::HashMap;

use tfguard::backend::{AwsClients, BackendError};
use tfguard::lock::StoreError;

use crate::backend_resolution::bed::{Case, ENV_KEYS, Prepared, STS_ANSWERS, connect, record, sent};
use crate::support::{Answer, Gate, Match};

#[test]
fn settings_that_cannot_be_followed_are_errors_that_show_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("empty.pem"), "").unwrap();
    std::fs::write(dir.path().join("broken.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    for (name, value) in [
        ("insecure", serde_json::json!(true)),
        ("custom_ca_bundle", "missing.pem".into()),
        ("custom_ca_bundle", "empty.pem".into()),
        ("custom_ca_bundle", "broken.pem".into()),
        ("https_proxy", "socks5://user:hush@proxy".into()),
        ("http_proxy", "http://user:hush@[".into()),
        ("sse_customer_key", "hush".into()),
        ("assume_role", serde_json::json!({"role_arn": "arn", "duration": "long"})),
        ("assume_role", serde_json::json!({"session_name": "x"})),
        ("assume_role_with_web_identity", serde_json::json!({"role_arn": "arn"})),
    ] {
        let mut config = serde_json::json!({"bucket": "b", "key": "k", "region": "us-east-1", "encrypt": true});
        config[name] = value;
        let error = connect(dir.path(), &config).unwrap_err();
        assert!(matches!(error, BackendError::Unusable { setting, .. } if setting == name), "{name}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }
}

#[test]
fn half_a_key_in_the_block_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (present, missing) in [("access_key", "secret_key"), ("secret_key", "access_key"), ("token", "access_key")] {
        let config = serde_json::json!({"bucket": "b", "key": "k", "region": "us-east-1", present: "hush"});
        let error = connect(dir.path(), &config).unwrap_err();
        assert!(matches!(error, BackendError::Unusable { setting, .. } if setting == missing), "{error:?}");
    }
}

#[test]
fn nothing_secret_is_shown_for_debugging() {
    let dir = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "bucket": "b", "key": "k", "region": "us-east-1", "access_key": "AKIABLOCK", "secret_key": "hush",
        "token": "hush", "http_proxy": "http://user:hush@proxy",
        "encrypt": true, "sse_customer_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    });
    let clients = connect(dir.path(), &config).unwrap();
    let shown = format!("{clients:?}");
    assert!(!shown.contains("hush") && !shown.contains("AAECAwQF"), "{shown}");
}

#[test]
fn the_end_of_credentials_is_known_where_their_source_tells() {
    let case = Case {
        block: "assume_role = { role_arn = \"arn:aws:iam::123456789012:role/state\" }",
        env: ENV_KEYS,
        answers: STS_ANSWERS,
        ..Case::default()
    };
    let prepared = Prepared::new(&case);
    prepared.terraform("init");
    let backend = prepared.backend();
    let expire = |backend| {
        let clients = prepared.aws.block_on(AwsClients::connect(backend)).unwrap();
        prepared.aws.block_on(clients.credentials_expire())
    };
    let end: std::time::SystemTime = "2099-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().into();
    assert_eq!(expire(&backend), Ok(Some(end)));

    prepared.proxy.clear_rules();
    let expired = "<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredTokenException</Code><Message>too old</Message></Error></ErrorResponse>";
    prepared.proxy.rule(Match::any().body("Action=AssumeRole"), [Answer::new(400, expired).into()]);
    let error = expire(&backend).unwrap_err();
    assert!(matches!(error, StoreError::CredentialsExpired { .. }), "{error:?}");
}

#[test]
fn credentials_that_do_not_come_are_told_from_a_lock_that_does_not() {
    let block = "assume_role = { role_arn = \"arn:aws:iam::123456789012:role/state\" }";
    let case = Case { block, env: ENV_KEYS, answers: STS_ANSWERS, ..Case::default() };
    let prepared = Prepared::new(&case);
    prepared.terraform("init");
    prepared.proxy.clear_rules();
    prepared.proxy.rule(Match::any().body("Action=AssumeRole"), [Gate::new().hold()]);
    let seen = prepared.proxy.seen().len();
    let answers = prepared.tfguard();
    assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Unreachable { .. }))), "{answers:?}");
    assert!(sent(&prepared.proxy.seen()[seen..]).0.is_empty());
}

#[test]
fn without_any_credentials_the_answer_says_so() {
    let prepared = Prepared::new(&Case { env: ENV_KEYS, ..Case::default() });
    prepared.terraform("init");
    let bare = Prepared { env: HashMap::from([("HOME".into(), prepared.dir.path().into())]), ..prepared };
    for answer in bare.tfguard() {
        assert!(matches!(answer, Err(StoreError::CredentialsMissing { .. })), "{answer:?}");
    }
}

/// The flat form of a role: Terraform before 1.10, and OpenTofu.
#[test]
fn a_flat_role_is_assumed_like_a_block() {
    let prepared = Prepared::new(&Case { env: ENV_KEYS, answers: STS_ANSWERS, ..Case::default() });
    let url = prepared.proxy.url();
    let config = serde_json::json!({
        "bucket": "states", "key": "a/k", "region": "us-east-1", "dynamodb_table": "locks",
        "endpoint": url, "dynamodb_endpoint": url, "sts_endpoint": url, "force_path_style": true,
        "role_arn": "arn:aws:iam::123456789012:role/flat", "session_name": "ci", "external_id": "ext",
        "assume_role_duration_seconds": 1800, "assume_role_policy_arns": ["arn:p"],
        "assume_role_tags": {"team": "a"}, "assume_role_transitive_tag_keys": ["team"],
    });
    record(&prepared.cwd(), &config);
    prepared.tfguard();
    let (locks, sts) = sent(&prepared.proxy.seen());
    assert!(!locks.is_empty() && locks.iter().all(|sent| sent.key == "ASIAASSUMED"), "{locks:?}");
    let [(sender, parameters)] = &sts[..] else { panic!("{sts:?}") };
    assert_eq!(sender.key, "AKIAENV");
    for (name, value) in [
        ("RoleArn", "arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fflat"),
        ("RoleSessionName", "ci"),
        ("ExternalId", "ext"),
        ("DurationSeconds", "1800"),
        ("PolicyArns.member.1.arn", "arn%3Ap"),
        ("Tags.member.1.Key", "team"),
        ("Tags.member.1.Value", "a"),
        ("TransitiveTagKeys.member.1", "team"),
    ] {
        assert_eq!(parameters.get(name).map(String::as_str), Some(value), "{name} in {parameters:?}");
    }
}
