//! Single sign-on: what `aws sso login` left in the home directory buys the keys of a role.

use std::collections::BTreeSet;

use serde_json::json;

use crate::backend_resolution::bed::{Case, Prepared, STS_ANSWERS, check_all};
use crate::support::Seen;

/// What the portal gives for a token, and what a token that can be renewed is renewed by.
const ANSWERS: &[(&str, &str, &str)] = &[
    (
        "/federation/credentials",
        "",
        r#"{"roleCredentials":{"accessKeyId":"ASIASSO","secretAccessKey":"s","sessionToken":"t","expiration":4070908800000}}"#,
    ),
    ("", "refresh_token", r#"{"accessToken":"renewed","expiresIn":28800,"tokenType":"Bearer"}"#),
];
const ENV: &[(&str, &str)] =
    &[("AWS_ENDPOINT_URL_SSO", "{url}"), ("AWS_ENDPOINT_URL_SSO_OIDC", "{url}"), ("AWS_PROFILE", "dev")];
const CONFIG: &str = ".aws/config";
const BY_URL: &str = "[profile dev]\nsso_start_url = https://sso.example.test/start\nsso_region = eu-west-1\n\
    sso_account_id = 123456789012\nsso_role_name = deploy\n";
const BY_SESSION: &str = "[profile dev]\nsso_session = team\nsso_account_id = 123456789012\nsso_role_name = deploy\n\
    [sso-session team]\nsso_start_url = https://sso.example.test/start\nsso_region = eu-west-1\n\
    sso_registration_scopes = sso:account:access\n";
/// Named by the SHA-1 of the start URL, and of the session's name.
const OF_URL: &str = ".aws/sso/cache/aea6ff75ac2068bc331b09c2aeb41f3851f2f2a8.json";
const OF_SESSION: &str = ".aws/sso/cache/d25187dc137f35c88bc80ec8c3ffbdb17b5eb873.json";
const TOKEN: &str = r#"{"accessToken":"granted","expiresAt":"2099-01-01T00:00:00Z"}"#;

/// What the portal was asked for, and with which token.
fn asked(seen: &[Seen]) -> BTreeSet<(BTreeSet<&str>, &str)> {
    fn query(seen: &Seen) -> Option<BTreeSet<&str>> {
        Some(seen.path.strip_prefix("/federation/credentials?")?.split('&').collect())
    }
    let token = |seen| Seen::header(seen, "x-amz-sso_bearer_token").unwrap_or_default();
    seen.iter().filter_map(|seen| Some((query(seen)?, token(seen)))).collect()
}

#[test]
fn a_token_of_single_sign_on_gives_the_keys_that_terraform_has() {
    let with_role = format!(
        "{BY_SESSION}[profile top]\nrole_arn = arn:aws:iam::123456789012:role/top\nsource_profile = dev\n\
         role_session_name = ci\n"
    );
    let answers = [ANSWERS, STS_ANSWERS].concat();
    check_all(&[
        Case {
            name: "a start URL",
            env: ENV,
            files: &[(CONFIG, BY_URL), (OF_URL, TOKEN)],
            answers: ANSWERS,
            key: "ASIASSO",
            ..Case::default()
        },
        Case {
            name: "a session",
            env: ENV,
            files: &[(CONFIG, BY_SESSION), (OF_SESSION, TOKEN)],
            answers: ANSWERS,
            key: "ASIASSO",
            ..Case::default()
        },
        Case {
            name: "a profile and a portal in the block",
            block: "profile = \"dev\"\nendpoints = { s3 = \"{url}\", dynamodb = \"{url}\", sso = \"{url}\" }",
            files: &[(CONFIG, BY_SESSION), (OF_SESSION, TOKEN)],
            without: &["endpoints"],
            answers: ANSWERS,
            key: "ASIASSO",
            ..Case::default()
        },
        Case {
            name: "a role on top of it",
            env: &[ENV[0], ENV[1], ("AWS_PROFILE", "top")],
            files: &[(CONFIG, &with_role), (OF_SESSION, TOKEN)],
            answers: &answers,
            key: "ASIAASSUMED",
            ..Case::default()
        },
    ]);
}

/// After hours of work the token has ended, and the one that renews it has not.
#[test]
fn a_token_that_has_ended_is_renewed_as_by_terraform() {
    let ended = json!({
        "accessToken": "granted", "expiresAt": "2026-01-01T00:00:00Z", "refreshToken": "again", "region": "eu-west-1",
        "startUrl": "https://sso.example.test/start", "clientId": "id", "clientSecret": "hush",
        "registrationExpiresAt": "2099-01-01T00:00:00Z",
    });
    let ended = ended.to_string();
    let case = Case {
        env: ENV,
        files: &[(CONFIG, BY_SESSION), (OF_SESSION, &ended)],
        answers: ANSWERS,
        key: "ASIASSO",
        ..Case::default()
    };
    let prepared = Prepared::new(&case);
    assert_eq!(prepared.terraform("init"), None);
    let seen = prepared.proxy.seen();
    // Terraform has renewed it: again, for tfguard.
    std::fs::write(prepared.dir.path().join(OF_SESSION), &ended).unwrap();
    let answers = prepared.tfguard();
    let by_tfguard = &prepared.proxy.seen()[seen.len()..];
    assert_eq!(asked(by_tfguard), asked(&seen), "{answers:?}");
    assert_eq!(asked(by_tfguard), [(["account_id=123456789012", "role_name=deploy"].into(), "renewed")].into());
    let renewals = |seen: &[Seen]| {
        let requests = seen.iter().filter(|seen| seen.text().contains("refresh_token"));
        requests.map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    assert_eq!(renewals(by_tfguard), renewals(&seen)[..1]);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}
