//! Settings that cannot be followed, and what is shown of those that can.

use std::collections::HashMap;

use tfguard::aws::{AwsClients, BackendError, CredentialsEnd, StoreError};

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
        ("access_key", "hush\n".into()),
        ("region", "us-east-1\n".into()),
        ("sts_region", "us-east-1\n".into()),
        ("assume_role", serde_json::json!({"role_arn": "arn", "duration": "long"})),
        ("assume_role", serde_json::json!({"session_name": "x"})),
        ("assume_role", serde_json::json!({"role_arn": "arn", "duration": "20h"})),
        ("assume_role.source_identity", serde_json::json!({"role_arn": "arn", "source_identity": "hush"})),
        ("assume_role.transitive_tag_keys", serde_json::json!([{"role_arn": "arn", "transitive_tag_keys": ["hush"]}])),
        ("assume_role_transitive_tag_keys", serde_json::json!(["hush"])),
        ("assume_role_with_web_identity", serde_json::json!({"role_arn": "arn"})),
    ] {
        let mut config = serde_json::json!({"bucket": "b", "key": "k", "region": "us-east-1", "encrypt": true});
        config[name.split('.').next().unwrap()] = value;
        if name == "access_key" {
            config["secret_key"] = "hush".into();
        }
        if name == "assume_role_transitive_tag_keys" {
            config["role_arn"] = "arn".into();
        }
        let error = connect(dir.path(), &config, &[]).unwrap_err();
        assert!(matches!(error, BackendError::Unusable { setting, .. } if setting == name), "{name}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }
}

/// Each of these Terraform reads, and the SDK for Rust reads something else or nothing: without a word, but for the first.
#[test]
fn a_shared_file_that_would_be_read_otherwise_than_by_terraform_is_an_error_that_names_it() {
    const CONFIG: &str = "AWS_CONFIG_FILE";
    const CREDENTIALS: &str = "AWS_SHARED_CREDENTIALS_FILE";
    let keys = "aws_access_key_id = hush\naws_secret_access_key = hush\n";
    let (blank, letter) = (format!("[my prof]\n{keys}"), format!("[\u{fc}ber]\n{keys}"));
    for (setting, text, profile, told) in [
        (CREDENTIALS, "junk\n[default]\n".as_bytes(), "", "line 1"),
        (CREDENTIALS, b"  [default]\n", "", "line 1"),
        (CONFIG, b"[default]\nregion = x\n  endpoint_url = http://hush\n", "", "line 3"),
        (CONFIG, b"[default]\n\nendpoint_url = http://hush\n  # hush\n", "", "line 4"),
        (CONFIG, b"[default]\nservices = 'x' # y\n", "", "line 2"),
        (CONFIG, b"[default]\nservices = x\n[services x]\ns3 =\n  endpoint_url = \"http://hush\"\n", "", "line 5"),
        (CONFIG, b"[default]\nendpoint_url: http://hush?a=b\n", "", "line 2"),
        (CONFIG, b"[default]\nservices = x y\n[services x y] # hush\n", "", "line 3"),
        (CONFIG, b"# caf\xe9\n[default]\nendpoint_url = http://hush\n", "", "UTF-8"),
        ("AWS_PROFILE", blank.as_bytes(), "my prof", "my prof"),
        ("AWS_PROFILE", letter.as_bytes(), "\u{fc}ber", "\u{fc}ber"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let variable = if setting == CONFIG { CONFIG } else { CREDENTIALS };
        let path = dir.path().join("file");
        let env = [ENV_KEYS, &[(variable, path.to_str().unwrap()), ("AWS_PROFILE", profile)]].concat();
        let config = serde_json::json!({"bucket": "b", "key": "k", "region": "us-east-1"});
        let connect = || connect(dir.path(), &config, &env);
        let missing = connect().unwrap_err().to_string();
        assert!(missing.contains(variable) && missing.contains("/file: No such file"), "{missing}");

        std::fs::write(&path, text).unwrap();
        let error = connect().unwrap_err();
        assert!(matches!(error, BackendError::Unusable { setting: named, .. } if named == setting), "{error}");
        let error = error.to_string();
        assert!(error.contains(told) && !error.contains("hush") && !error.contains('\n'), "{error}");

        let good = "# a\n[default]\nregion = x # y\nservices = x\n\n[services x]\ns3 =\n  endpoint_url = http://h\n\
            [profile my prof]\nregion = x\n";
        std::fs::write(&path, good).unwrap();
        assert!(connect().is_ok() || !profile.is_empty(), "{setting}");
    }
}

/// Where the SDK for Rust does not find what a profile names, it goes on to the credentials of the container.
#[test]
fn a_profile_whose_source_is_not_found_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    for (source, block, told) in [
        ("source_profile = gone", "", "\"gone\""),
        // Terraform knows such a name.
        ("source_profile = my prof", "", "\"my prof\""),
        ("source_profile = second", "deploy", "\"gone\""),
        ("credential_source = Environment", "deploy", "credential_source = Environment"),
    ] {
        let text = format!(
            "[profile deploy]\nrole_arn = arn\n{source}\n[profile second]\nrole_arn = arn\nsource_profile = gone\n\
             [profile my prof]\naws_access_key_id = AKIA\naws_secret_access_key = hush\n"
        );
        std::fs::write(&path, text).unwrap();
        let variables = [("AWS_CONFIG_FILE", path.to_str().unwrap()), ("AWS_PROFILE", "deploy")];
        let env = if block.is_empty() { variables.to_vec() } else { [ENV_KEYS, &variables].concat() };
        let config = serde_json::json!({"bucket": "b", "key": "k", "region": "us-east-1", "profile": block});
        let error = connect(dir.path(), &config, &env).unwrap_err();
        let expected = if block.is_empty() { "AWS_PROFILE" } else { "profile" };
        assert!(matches!(error, BackendError::Unusable { setting, .. } if setting == expected), "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[test]
fn half_a_key_in_the_block_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (present, missing) in [("access_key", "secret_key"), ("secret_key", "access_key"), ("token", "access_key")] {
        let config = serde_json::json!({"bucket": "b", "key": "k", "region": "us-east-1", present: "hush"});
        let error = connect(dir.path(), &config, &[]).unwrap_err();
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
    let clients = connect(dir.path(), &config, &[]).unwrap();
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
        prepared.aws.block_on(clients.credentials_end())
    };
    let end: std::time::SystemTime = "2099-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().into();
    assert_eq!(expire(&backend), Ok(CredentialsEnd::At(end)));

    prepared.proxy.clear_rules();
    let expired = "<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredTokenException</Code><Message>too old</Message></Error></ErrorResponse>";
    prepared.proxy.rule(Match::any().body("Action=AssumeRole"), [Answer::new(400, expired).into()]);
    let anew = prepared.backend();
    let error = expire(&anew).unwrap_err();
    assert!(matches!(error, StoreError::CredentialsExpired(_)), "{error:?}");
    assert_eq!(expire(&backend), Ok(CredentialsEnd::At(end)), "the last ones are valid");
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
    assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Unreachable(_)))), "{answers:?}");
    assert!(sent(&prepared.proxy.seen()[seen..]).0.is_empty());
}

#[test]
fn without_any_credentials_the_answer_says_so() {
    let prepared = Prepared::new(&Case { env: ENV_KEYS, ..Case::default() });
    prepared.terraform("init");
    let bare = Prepared { env: HashMap::from([("HOME".into(), prepared.dir.path().into())]), ..prepared };
    for answer in bare.tfguard() {
        assert!(matches!(answer, Err(StoreError::CredentialsMissing(_))), "{answer:?}");
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
        "assume_role_tags": {"team": "a"}, "assume_role_transitive_tag_keys": [],
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
    ] {
        assert_eq!(parameters.get(name).map(String::as_str), Some(value), "{name} in {parameters:?}");
    }
}
